"""UCT with rollouts and progressive widening: a node's children grow in number with its visits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .._tree import Status
from ._base import Evaluate, Expand, Rollout, Round, Scores, Search, Strategy


@dataclass(slots=True)
class Turn:
    """One iteration, from selection to backup."""

    path: list[int]  # the nodes it visits, from the root


class UCTSearch(Search):
    """Descends by UCB1 to a node that may have another child, estimates that child, backs it up."""

    resumes = revisits = True

    def _setup(self) -> None:
        self.how = self.config.select
        self._iterations = self._busy = 0
        self._pending: Counter[int] = Counter()  # turns under way through each node
        # Candidates asked of each node.  Those that gave nothing new count too: a node whose policy
        # only repeats itself is widened no more often than any other.
        self._tried: Counter[int] = Counter(self.tree.arena.parent[1:].tolist())

    def _choose(self) -> Round | None:
        config = self.config
        if self._busy >= config.parallel or self._iterations >= config.iterations:
            return None
        if self.tree.arena.status[0] == Status.FAILED:
            return None
        self._iterations += 1
        self._busy += 1
        return self._descent(Turn([]), 0)

    def _descent(self, turn: Turn, node: int) -> Round:
        """Return the round that widens the first node, from ``node`` on, that may have another child."""
        self._visit(turn, node)
        while not self._may_widen(node) and (child := self._best_child(node)) is not None:
            node = child
            self._visit(turn, node)
        self._tried[node] += 1
        return Round(Expand, [node], tag=turn)

    def _visit(self, turn: Turn, node: int) -> None:
        turn.path.append(node)
        self._pending[node] += 1

    def _visits(self, node: int) -> int:
        """Return the visits of a node, those under way included."""
        return int(self.tree.arena.visits[node]) + self._pending[node]

    def _may_widen(self, node: int) -> bool:
        allowed: float = self.config.widening_k * self._visits(node) ** self.config.widening_alpha
        return self._tried[node] < allowed

    def _best_child(self, node: int) -> int | None:
        """Return the child of the largest upper confidence bound, None where none can have children.

        All below an EXHAUSTED node is finished, yet it may be widened.
        """
        arena = self.tree.arena
        children = np.array(self.tree.children(node), np.intp)
        status = arena.status[children]
        children = children[(status != Status.TERMINAL) & (status != Status.FAILED)]
        if not len(children):
            return None
        n = arena.visits[children] + np.array([self._pending[c] for c in children.tolist()])
        seen = np.maximum(n, 1)
        bounds = arena.value_sum[children] / seen + self.config.c * np.sqrt(math.log(self._visits(node)) / seen)
        return int(children[np.argmax(np.where(n > 0, bounds, math.inf))])

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        if round.kind is Rollout:
            tails = {f.node: f.tail for f in round.ended}
            return Round(Evaluate, ends, tails=[tails[e] for e in ends])
        if not ends:
            return self._go_on(round)
        self._visit(round.tag, ends[0])
        if self.config.rollout and self.tree.arena.status[ends[0]] == Status.OPEN:
            return Round(Rollout, ends, place="aside")
        return Round(Evaluate, ends)

    def _go_on(self, round: Round) -> Round | None:
        """Go on below a node that has given nothing new."""
        turn: Turn = round.tag
        child = self._best_child(turn.path[-1])
        return None if child is None else self._descent(turn, child)

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        self._busy -= 1
        self._pending.subtract(round.tag.path)
        if not nodes and round.kind is Expand:  # a step that ends here and was there already
            nodes = self.children_reached(round)[0]
            scores = self.scores_of(nodes)
        known = ~np.isnan(scores)
        if known.any():
            self.tree.arena.backup(np.array(nodes)[known], self.scoring.value(scores[known]))

    def _abandon(self) -> None:
        self._pending.clear()


@dataclass(frozen=True, kw_only=True)
class UCT(Strategy):
    """Returns the answer of a UCT search with rollouts and progressive widening.

    ::

        repeat `iterations` times, from node = root:
            while children(node) >= k * visits(node) ** alpha:           # this visit included
                node = the child with the largest  Q + c * sqrt(log(visits(node)) / visits(child))
            child = one candidate after node
            backup(child, score of one trajectory completed from it)     # `rollout`

    Only children that can have children are descended to; a node without any gets another child in
    any case.  A candidate that the node has already counts as a child in the rule, and the iteration
    goes on below it.

    Args:
        iterations: children to add.
        c: how much to explore.
        widening_k: k: children after the first visit.
        widening_alpha: alpha, from 0 (k children a node, at most) to 1 (the root gets all, from k = 1).
        rollout: estimate a child by the score of one trajectory completed from it, rather than by the
            score of the steps so far.  These trajectories count for the answer too.
        select: how the finished trajectories answer: "weighted" or "max".
        parallel: iterations under way at a time; each counts as a visit of value 0 meanwhile.  The
            tree depends on it.

    Notes:
        Each iteration costs one policy call for one candidate, one more for each repeat it meets and
        one for the rollout, and at most one reward call.

    Reference:
        L. Kocsis, C. Szepesvári, "Bandit based Monte-Carlo planning", ECML 2006 (UCT); R. Coulom,
        "Computing Elo ratings of move patterns in the game of Go", Computer Games Workshop 2007, and
        G. Chaslot et al., "Progressive strategies for Monte-Carlo tree search", New Mathematics and
        Natural Computation 4, 2008 (widening); A. Couëtoux et al., "Continuous upper confidence
        trees", LION 5, 2011 (k * visits ** alpha).

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> policy = HashPolicy(branching=1000, depth=3)
        >>> result = solve(Question("Which?"), policy, HashReward(), UCT(iterations=9))
        >>> len(result.tree.children(0))
        3
    """

    name = "uct"
    search = UCTSearch

    iterations: int = 32
    c: float = 1.25
    widening_k: float = 1.0
    widening_alpha: float = 0.5
    rollout: bool = True
    select: Literal["weighted", "max"] = "weighted"
    parallel: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("c")
        self._check_number("widening_k", 0, above=True)
        self._check_number("widening_alpha", 0, 1)
        self._check_choice("select", ("weighted", "max"))
