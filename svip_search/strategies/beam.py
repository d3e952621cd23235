"""Beam search over steps, guided by the reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .._tree import Status
from ._base import Expand, Scores, Search, Strategy, _Round


class BeamSearch(Search):
    """Grows the whole frontier, keeps the best of all children."""

    def _setup(self) -> None:
        self.how = self.config.select
        self._frontier = [0]
        self._width: int = self.config.width

    def _choose(self) -> _Round | None:
        frontier, self._frontier = self._frontier, []
        return _Round(Expand, frontier, self.config.expand) if frontier else None

    def _scored(self, nodes: list[int], scores: Scores) -> None:
        if not nodes or self._width < 1:
            return
        arena = self.tree.arena
        kept = arena.top_k(np.asarray(nodes, np.int32), scores, self._width)
        ended = arena.status[kept] == Status.TERMINAL
        self._width -= int(ended.sum())
        self._frontier = kept[~ended].tolist()


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
        allowed = get_args(Literal["max", "weighted"])
        if self.select not in allowed:
            raise ValueError(f"`select` must be one of {', '.join(allowed)}; got {self.select!r}.")
