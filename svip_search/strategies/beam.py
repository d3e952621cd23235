"""Beam search over steps, guided by the reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._tree import Status
from ._base import Expand, Round, Scores, Search, Strategy


class BeamSearch(Search):
    """Grows the whole frontier, keeps the best of all children."""

    resumes = revisits = batched = True

    def _setup(self) -> None:
        self.how = self.config.select
        self._width: int = self.config.width
        self._candidates: tuple[NDArray[np.int32], Scores] | None = None  # to be kept or not
        opened = np.flatnonzero(self.tree.arena.status == Status.OPEN).astype(np.int32)
        self._frontier: list[int] = self._best(opened, self.scores_of(opened)) if len(opened) else []

    def _best(self, nodes: NDArray[np.int32], scores: Scores) -> list[int]:
        """Return the nodes to keep, best first."""
        kept: list[int] = self.tree.arena.top_k(nodes, scores, self._width).tolist()
        return kept

    def _choose(self) -> Round | None:
        frontier, self._frontier = self._frontier, []
        return Round(Expand, frontier, self.config.expand) if frontier else None

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        if not nodes:
            self._frontier = self._go_back(self._width)
        elif self._width >= 1:
            self._candidates = np.asarray(nodes, np.int32), scores
            if not self._deferring:
                self._keep(self._best(*self._candidates))

    @classmethod
    def _act_together(cls, turns: Sequence[tuple[Any, bool]]) -> None:
        """Keep the best candidates of many searches, found in one call."""
        searches = [search for search, _ in turns if search._candidates is not None]
        if not searches:
            return
        nodes, scores = zip(*(search._candidates for search in searches), strict=True)
        kept, counts = _core.top_k_many(
            [search.tree.arena for search in searches],
            np.concatenate(nodes),
            [len(one) for one in nodes],
            np.concatenate(scores),
            [search._width for search in searches],
        )
        stops = np.cumsum(counts)
        for search, start, stop in zip(searches, stops - counts, stops, strict=True):
            search._keep(kept[start:stop].tolist())

    def _keep(self, kept: list[int]) -> None:
        """Make the nodes that are kept the new frontier, without those that have finished."""
        self._candidates = None
        status = self.tree.arena.status
        self._frontier = [node for node in kept if status[node] != Status.TERMINAL]
        self._width -= len(kept) - len(self._frontier)
        if not self._frontier:
            self._frontier = self._go_back(self._width)


@dataclass(frozen=True, kw_only=True)
class Beam(Strategy):
    """Returns the best finished trajectory of a beam search over steps.

    ::

        frontier = {root}
        while frontier:
            children = expand(frontier)                     # `expand` candidates each
            kept = the `width` best children by score       # ties: the earlier one
            width -= number of finished ones among kept     # they leave the beam and are remembered
            frontier = the others among kept

    Args:
        width: nodes kept after each step.
        expand: candidates a node.
        select: how the finished trajectories answer: "max" or "weighted".

    Notes:
        At most width * expand reward calls a step.  Every finished child counts in the end, kept
        or not.

    Reference:
        C. Snell et al., "Scaling LLM test-time compute optimally", arXiv 2408.03314, section 5.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), Beam(width=2, expand=2))
        >>> result.trajectory.score == max(t.score for t in result.trajectories)
        True
    """

    name = "beam"
    search = BeamSearch

    width: int = 4
    expand: int = 4
    select: Literal["max", "weighted"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("select", ("max", "weighted"))
