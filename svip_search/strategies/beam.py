"""Beam search over steps, guided by the reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._tree import Status
from ._base import Expand, Round, Scores, Search, Strategy


class BeamSearch(Search):
    """Grows the whole frontier, keeps the best of all children."""

    resumes = True

    def _setup(self) -> None:
        self.how = self.config.select
        self._width: int = self.config.width
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
        if not nodes or self._width < 1:
            return
        kept = self._best(np.asarray(nodes, np.int32), scores)
        status = self.tree.arena.status
        self._frontier = [node for node in kept if status[node] != Status.TERMINAL]
        self._width -= len(kept) - len(self._frontier)


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
