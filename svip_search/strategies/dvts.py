"""Diverse verifier tree search: greedy searches below the first steps that differ, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._tree import Status
from ._base import Expand, Round, Scores, Search, Strategy


class DVTSSearch(Search):
    """Plants a sub-beam at every first step and follows each on its own; ``round.tag`` is that first step."""

    def _setup(self) -> None:
        self.how = self.config.select
        self._queue: list[Round] = []
        self._part(0)

    def _choose(self) -> Round | None:
        return self._queue.pop(0) if self._queue else None

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        if round.tag is None:
            self._plant(nodes)
        elif nodes:
            self._descend(nodes[int(scores.argmax())], round.tag)
        else:
            for node in self._go_back(1, below=round.tag):
                self._queue.append(Round(Expand, [node], self.config.expand, tag=round.tag))

    def _may_choose(self, node: int) -> bool:
        return any(node in round.nodes for round in self._queue)

    def _part(self, node: int) -> None:
        """Draw the first steps of the sub-beams, below a node that all of them share."""
        self._shared, self._first_steps = node, 0
        if self.tree.arena.status[node] == Status.OPEN:
            self._queue.append(Round(Expand, [node], self.config.trees))

    def _plant(self, nodes: list[int]) -> None:
        """Start a sub-beam at each first step that is new, and draw again as many as were alike."""
        before, first_steps = self._first_steps, self.tree.children(self._shared)
        self._first_steps = len(first_steps)
        exhausted = self._first_steps == before  # where nothing new came, nothing new is left
        if self._first_steps == 1 < self.config.trees:
            if exhausted:
                self._part(first_steps[0])
                return
        else:
            for node in first_steps if before == 1 else nodes:
                self._descend(node, node)
        missing = self.config.trees - self._first_steps
        if missing and not exhausted:
            self._queue.append(Round(Expand, [self._shared], missing))

    def _descend(self, node: int, sub_beam: int) -> None:
        if self.tree.arena.status[node] == Status.OPEN:
            self._queue.append(Round(Expand, [node], self.config.expand, tag=sub_beam))


@dataclass(frozen=True, kw_only=True)
class DVTS(Strategy):
    """Returns the answer of a diverse verifier tree search: one greedy search below each first step.

    ::

        for each of `trees` different children of the root (or of the first node that has several), independently:
            node = child
            until node is terminal:
                node = the best of expand(node) by score    # `expand` candidates; ties: the earlier one

    Args:
        trees: first steps, each the root of a sub-beam of width 1.
        expand: candidates a step of each sub-beam.
        select: how the finished trajectories answer: "max" or "weighted".

    Notes:
        A step costs each sub-beam 1 policy call and at most `expand` reward calls; no sub-beam waits
        for another.  First steps that are alike are drawn again, until a draw brings nothing new.  Where
        all of a draw are alike, as when chains begin with what the picture shows, the sub-beams share
        that step and part at the next.
        Every finished child counts in the end, followed or not.

    Reference:
        E. Beeching, L. Tunstall, S. Rush, "Scaling test-time compute with open models", Hugging Face,
        2024, section "Diverse Verifier Tree Search (DVTS)".  There a sub-beam chooses its first step
        as well among several; here all first steps drawn are followed.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> strategy = DVTS(trees=3, expand=2)
        >>> result = solve(Question("Which?"), HashPolicy(depth=3, distinct=True), HashReward(), strategy)
        >>> len(result.tree.children(0)), len(result.trajectories)
        (3, 6)
    """

    name = "dvts"
    search = DVTSSearch

    trees: int = 4
    expand: int = 4
    select: Literal["max", "weighted"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("select", ("max", "weighted"))
