"""Monte-Carlo tree search over steps, with the reward model or a rollout at the leaf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._tree import Status
from .._types import Candidate
from ._base import Expand, Rollout, Scores, Search, Strategy, _Round


class MCTSSearch(Search):
    """Selects leaves, expands them, evaluates the children, backs their values up."""

    def _setup(self) -> None:
        self.how = self.config.select
        self._leaves: list[int] = []
        self._iterations = 0
        self._ends: list[int] = []

    def _choose(self) -> _Round | None:
        count = min(self.config.parallel, self.config.iterations - self._iterations)
        if count < 1:
            return None
        self._leaves = self.tree.arena.select(self.config.c, self.config.rule, count).tolist()
        self._iterations += len(self._leaves)
        return _Round(Expand, self._leaves, self.config.expand) if self._leaves else None

    def _grown(self, round: _Round, ends: list[int]) -> _Round | None:
        if not self.config.rollout:
            return super()._grown(round, ends)
        status = self.tree.arena.status
        if round.kind is Expand:
            self._ends = [e for e in ends if status[e] == Status.TERMINAL]
            opened = [e for e in ends if status[e] == Status.OPEN]
            if opened:
                return _Round(Rollout, opened, aside=True)
        else:
            self._ends += ends
        tails = {f.node: f.tail for f in self._finished[self._cycle :]}
        evaluation = super()._grown(round, self._ends)
        if evaluation is not None:
            evaluation.tails = [tails[e] for e in self._ends]
        return evaluation

    def _scored(self, nodes: list[int], scores: Scores) -> None:
        self._abandon()
        self.tree.arena.backup(nodes, self.config.scoring.value(scores))

    def _abandon(self) -> None:
        self.tree.arena.release(self._leaves)
        self._leaves = []

    def _priors(self, candidates: list[Candidate]) -> NDArray[np.float32]:
        """Return softmax(log_prob / tokens): the policy's preference, whatever the steps' lengths."""
        if self.config.prior == "uniform":
            return super()._priors(candidates)
        mean = np.array([c.log_prob / max(c.tokens, 1) for c in candidates])
        weights = np.exp(mean - mean.max())
        priors: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
        return priors


@dataclass(frozen=True, kw_only=True)
class MCTS(Strategy):
    """Returns the answer of a Monte-Carlo tree search.

    ::

        repeat `iterations` times:
            leaf = descend from the root by the largest  Q(child) + c * U(child)
            children = expand(leaf)                      # `expand` candidates
            backup(child, value(child)) for each child   # the score of the path to it

        PUCT   U = prior * sqrt(visits(parent)) / (1 + visits(child))
        UCT    U = sqrt(log(visits(parent)) / visits(child)), unvisited children first

    Args:
        iterations: leaves to select.
        expand: candidates a leaf.
        c: how much to explore.
        rule: "puct" or "uct".
        rollout: estimate a child's value by the score of one trajectory completed from it, rather
            than by the score of the steps so far.  These trajectories count for the answer too.
        prior: "uniform", or "policy" for softmax(log_prob / tokens) among siblings.
        select: how the finished trajectories answer: "weighted" or "max".
        parallel: leaves selected together; virtual visits spread them.  The tree depends on it.

    Notes:
        `iterations` policy calls and at most iterations * expand reward calls; ends early where
        nothing is left to expand.

    Reference:
        L. Kocsis, C. Szepesvári, ECML 2006 (UCT); C. D. Rosin, Annals of Mathematics and
        Artificial Intelligence 61, 2011 (PUCT).

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), MCTS(iterations=8))
        >>> result.usage.policy_calls
        8
    """

    name = "mcts"
    search = MCTSSearch

    iterations: int = 32
    expand: int = 4
    c: float = 1.25
    rule: Literal["puct", "uct"] = "puct"
    rollout: bool = False
    prior: Literal["uniform", "policy"] = "uniform"
    select: Literal["weighted", "max"] = "weighted"
    parallel: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.c < math.inf:
            raise ValueError(f"`c` must be a number >= 0; got {self.c!r}.")
        choices = {"rule": ("puct", "uct"), "prior": ("uniform", "policy"), "select": ("weighted", "max")}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r}.")
