"""Monte-Carlo tree search over steps, with the reward model or a rollout at the leaf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._tree import Status
from .._types import Candidate
from ._base import Evaluate, Expand, Rollout, Round, Scores, Search, Strategy


@dataclass(slots=True)
class Turn:
    """Some leaves on their way from selection to backup."""

    leaves: int
    held: list[int]  # nodes that carry virtual visits, so that what is selected meanwhile lies elsewhere
    closed: list[int] = field(default_factory=list)  # children with which a trajectory ended


class MCTSSearch(Search):
    """Selects leaves, expands them, evaluates the children, backs their values up."""

    resumes = True

    def _setup(self) -> None:
        self.how = self.config.select
        self._turns: list[Turn] = []
        self._iterations = self._busy = 0

    def _choose(self) -> Round | None:
        config = self.config
        count = min(config.wave, config.iterations - self._iterations)
        if not 0 < count <= config.parallel - self._busy:
            return None
        leaves = self.tree.arena.select(config.c, config.rule, count).tolist()
        return self._expansion(leaves) if leaves else None

    def _expansion(self, leaves: list[int]) -> Round:
        """Return the round that expands some selected leaves."""
        self._iterations += len(leaves)
        self._busy += len(leaves)
        turn = Turn(len(leaves), list(leaves))
        self._turns.append(turn)
        return Round(Expand, leaves, self.config.expand, tag=turn)

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        turn: Turn = round.tag
        if round.kind is Expand:
            status = self.tree.arena.status
            opened = [e for e in ends if status[e] == Status.OPEN]
            if self.config.parallel > self.config.wave:
                self._hold_children(turn, opened)
            if not self.config.rollout:
                return super()._grown(round, ends)
            turn.closed = [e for e in ends if status[e] == Status.TERMINAL]
            if opened:
                return Round(Rollout, opened, place="aside")
            ends = []
        tails = {f.node: f.tail for f in round.ended}
        ends = turn.closed + ends
        return Round(Evaluate, ends, tails=[tails[e] for e in ends])

    def _hold_children(self, turn: Turn, opened: list[int]) -> None:
        """Move the virtual visits from the leaves to their children, until these have values."""
        self.tree.arena.release(turn.held)
        self.tree.arena.hold(opened)
        turn.held = opened

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        self.tree.arena.release(self._leave(round.tag))
        self.tree.arena.backup(nodes, self.scoring.value(scores))

    def _leave(self, turn: Turn) -> list[int]:
        """End a turn; return the nodes that still carry its virtual visits."""
        self._turns.remove(turn)
        self._busy -= turn.leaves
        return turn.held

    def _abandon(self) -> None:
        for turn in self._turns:
            self.tree.arena.release(turn.held)
        self._turns = []

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
        parallel: leaves under way at a time; virtual visits spread them.  The tree depends on it.
        wave: leaves selected, expanded and backed up together, at most ``parallel``: fewer and larger
            steps, which cost less and wait longer.

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
    wave: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("c")
        self._check_choice("rule", ("puct", "uct"))
        self._check_choice("prior", ("uniform", "policy"))
        self._check_choice("select", ("weighted", "max"))
        if self.wave > self.parallel:
            raise ValueError(f"`wave` must not exceed `parallel`, {self.parallel}; got {self.wave}.")
