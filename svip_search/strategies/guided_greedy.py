"""Guided greedy: one path, the best of some candidates at every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._aggregate import step_value
from .._tree import Status
from ._base import Evaluate, Expand, Round, Scores, Search, Strategy

#: Draws in a row with nothing new after which a step is not drawn again.
MOST_REPEATS = 8


class GuidedGreedySearch(Search):
    """Draws the next step until one is good enough or the draws are used up."""

    def _setup(self) -> None:
        self._arrive(0)

    def _arrive(self, node: int) -> None:
        """Go on from ``node``, which is the end where it is terminal."""
        self._node = node
        self._drawn: list[int] = []
        self._draws = self._repeats = 0
        self._again = self.tree.arena.status[node] not in (Status.TERMINAL, Status.FAILED)

    def _choose(self) -> Round | None:
        if not self._again:
            return None
        self._again = False
        self._draws += 1
        return Round(Expand, [self._node], self.config.expand)

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        self._drawn += nodes
        self._repeats = 0 if round.kind is Evaluate else self._repeats + 1
        best, value = self._best()
        if value < np.float32(self.config.threshold) and self._may_draw_again():
            self._again = True
        elif self._drawn:
            self._arrive(best)
        else:
            for earlier in self._go_back(1):
                self._arrive(earlier)

    def _may_draw_again(self) -> bool:
        # A policy that gave nothing at all would give nothing again.
        failed = self.tree.arena.status[self._node] == Status.FAILED
        return self._draws <= self.config.retries and self._repeats < MOST_REPEATS and not failed

    def _best(self) -> tuple[int, np.float32]:
        """Return the candidate whose own step has the largest value, and that value."""
        if not self._drawn:
            return -1, np.float32(-1)
        rewards = self.tree.arena.reward[self._drawn]
        values = step_value(rewards, self.scoring.weights, self.scoring.veto)
        i = int(values.argmax())
        return self._drawn[i], np.float32(values[i])  # as precise as rewards are


@dataclass(frozen=True, kw_only=True)
class GuidedGreedy(Strategy):
    """Returns the answer of a path that takes the best of some candidates at every step.

    ::

        node = root
        until node is terminal:
            drawn = {}
            at most 1 + `retries` times, until the largest value among drawn >= `threshold`:
                drawn += evaluate(expand(node))     # `expand` candidates
            node = argmax of value over drawn       # below the threshold: the least bad; ties: the earlier

    where value is the reward of the newest step alone, folded over the dimensions (`step_value`).

    Args:
        expand: candidates a draw.
        threshold: value in [0, 1] with which a step is good enough; 0 never draws again.
        retries: further draws of a step none of whose candidates is good enough; 0 draws once.

    Notes:
        At most 1 + retries policy calls a step, and `expand` reward calls each.  Eight draws in a row
        that only repeat what was drawn before are the last of their step.  Candidates that ended
        without being taken count for the answer too: it is that of the best-scored trajectory.

    Reference:
        Q. Ma et al., "Let's reward step by step: step-level reward model as the navigators for
        reasoning", arXiv 2310.10080 (greedy search by the reward of each step; it goes back where
        this takes the least bad); B. Li et al., "Cascade reward sampling for efficient decoding-time
        alignment", arXiv 2406.16306 (segments drawn again until their reward suffices).

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> strategy = GuidedGreedy(expand=3, threshold=0, retries=0)
        >>> result = solve(Question("Which?"), HashPolicy(depth=4), HashReward(), strategy)
        >>> result.usage.policy_calls
        4
    """

    name = "guided-greedy"
    search = GuidedGreedySearch

    expand: int = 4
    threshold: float = 0.5
    retries: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("threshold", 0, 1)

    def _check_count(self, name: str, optional: bool) -> None:
        if name != "retries":
            super()._check_count(name, optional)
        elif isinstance(self.retries, bool) or not isinstance(self.retries, int):
            raise TypeError(f"`retries` must be an integer; got {self.retries!r}.")
        elif self.retries < 0:
            raise ValueError(f"`retries` must be at least 0; got {self.retries}.")
