"""Monte-Carlo tree search over steps, with the reward model or a rollout at the leaf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._tree import Status
from .._types import Candidate
from ._base import Evaluate, Expand, Rollout, Round, Scores, Search, Strategy

_OPEN = int(Status.OPEN)  # comparing with the member itself costs ten times as much


@dataclass(slots=True)
class Turn:
    """Some leaves on their way from selection to backup."""

    leaves: int
    held: list[int]  # nodes that carry virtual visits, so that what is selected meanwhile lies elsewhere
    closed: list[int] = field(default_factory=list)  # children with which a trajectory ended


@dataclass(frozen=True, slots=True)
class Backup:
    """What the arena does at the end of a turn: take virtual visits back, carry values up."""

    released: list[int]
    nodes: list[int]
    values: Scores


_NOTHING = Backup([], [], np.empty(0))


class MCTSSearch(Search):
    """Selects leaves, expands them, evaluates the children, backs their values up."""

    resumes = revisits = batched = True

    def _setup(self) -> None:
        self.how = self.config.select
        self._turns: list[Turn] = []
        self._iterations = self._busy = 0
        self._deferred: Backup | None = None
        self._selected: list[int] | None = None

    def _choose(self) -> Round | None:
        leaves, self._selected = self._selected, None
        if leaves is None:
            count = self._wanted()
            leaves = self.tree.arena.select(self.config.c, self.config.rule, count).tolist() if count else []
        return self._expansion(leaves) if leaves else None

    def _wanted(self) -> int:
        """Return how many leaves may be selected now."""
        config = self.config
        count = min(config.wave, config.iterations - self._iterations)
        return count if 0 < count <= config.parallel - self._busy else 0

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
            hold = self.config.parallel > self.config.wave
            if not hold and not self.config.rollout:
                return super()._grown(round, ends)
            status = self.tree.arena.status[ends].tolist()
            opened = [e for e, s in zip(ends, status, strict=True) if s == _OPEN]
            if hold:
                self._hold_children(turn, opened)
            if not self.config.rollout:
                return super()._grown(round, ends)
            turn.closed = [e for e, s in zip(ends, status, strict=True) if s != _OPEN]
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
        backup = Backup(self._leave(round.tag), nodes, self.scoring.value(scores))
        if self._deferring:
            self._deferred = backup
            return
        self.tree.arena.release(backup.released)
        self.tree.arena.backup(backup.nodes, backup.values)

    @classmethod
    def _act_together(cls, turns: Sequence[tuple[Any, bool]]) -> None:
        """Release, back up and select for the trees of many searches: one call for each rule."""
        for rule in ("puct", "uct"):
            members = [turn for turn in turns if turn[0].config.rule == rule]
            if members:
                cls._turn_together(members, rule)

    @staticmethod
    def _turn_together(turns: Sequence[tuple[Any, bool]], rule: Literal["puct", "uct"]) -> None:
        searches = [search for search, _ in turns]
        backups = [search._deferred or _NOTHING for search in searches]
        wanted = [search._wanted() if goes_on and search._closing is None else 0 for search, goes_on in turns]
        leaves, counts = _core.advance_many(
            [search.tree.arena for search in searches],
            [node for backup in backups for node in backup.released],
            [len(backup.released) for backup in backups],
            [node for backup in backups for node in backup.nodes],
            [len(backup.nodes) for backup in backups],
            np.concatenate([backup.values for backup in backups]),
            [float(search.config.c) for search in searches],
            rule,
            wanted,
        )
        stops = np.cumsum(counts)
        for search, count, start, stop in zip(searches, wanted, stops - counts, stops, strict=True):
            search._deferred = None
            if count:
                search._selected = leaves[start:stop].tolist()

    def _leave(self, turn: Turn) -> list[int]:
        """End a turn; return the nodes that still carry its virtual visits."""
        self._turns.remove(turn)
        self._busy -= turn.leaves
        return turn.held

    def _abandon(self) -> None:
        for turn in self._turns:
            self.tree.arena.release(turn.held)
        self.tree.arena.release(self._selected or [])
        self._turns, self._selected = [], None

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
