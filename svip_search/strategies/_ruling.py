"""Rules for plans at work in one search: which node holds a state, which nodes are closed, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .._rules import PlanRules, Standing
from .._tree import Status, Tree
from .._types import Candidate, Prefix, Question, Trajectory
from ._growth import Scores
from ._requests import Finished, Round

if TYPE_CHECKING:
    from ._base import Search

_UNKNOWN = Standing()


class Ruling:
    """What `PlanRules` make of the nodes of one search.

    Args:
        rules: what to close.
        question: what is to be answered.

    Attributes:
        closed: why, for each node that was closed.
        dismissed: trajectories that ended, and do not count so long as there are others.
    """

    def __init__(self, rules: PlanRules, question: Question) -> None:
        self.rules = rules
        self.question = question
        self.closed: dict[int, str] = {}
        self.dismissed: list[Finished] = []
        self._standing: dict[int, Standing] = {}
        self._holder: dict[Hashable, int] = {}
        self._complaint = ""
        self._known = False  # whether any state was
        self._gave_up = False

    def take_over(self, search: Search) -> None:
        """Rule over the nodes of a tree that another search has grown."""
        tree = search.tree
        inner = np.flatnonzero(tree.arena.first_child[1:] >= 0) + 1
        leaves = (np.flatnonzero(tree.arena.first_child[1:] < 0) + 1).tolist()
        for node in inner.tolist():
            self._hold(self._stand(tree, node).key, node)
        self._close_forbidden(search, leaves, search._finished)
        self.distinct(search, leaves, search.scores_of(leaves))

    def admit(self, search: Search, r: Round, ends: list[int]) -> list[int]:
        """Close what the rules forbid among the new ends of paths; return the others."""
        if r.place == "text" or self._gave_up:
            return ends
        if r.place == "aside":  # their value says something of the node, their answer does not count
            texts = search.tree.texts
            self._dismiss(search, [f for f in r.ended if f.tail and self._forbids_tail(texts(f.node), f.tail)])
            return ends
        self._close_forbidden(search, dict.fromkeys((*ends, *(f.node for f in r.ended))), r.ended)
        return [end for end in ends if end not in self.closed]

    def _close_forbidden(self, search: Search, nodes: Iterable[int], ended: list[Finished]) -> None:
        for node in nodes:
            if node not in self.closed and (why := self._forbids(search, node)):
                self._close(search, node, why)
        self._dismiss(search, [f for f in ended if f.node in self.closed])
        ended[:] = [f for f in ended if f.node not in self.closed]

    def _dismiss(self, search: Search, ended: list[Finished]) -> None:
        """Count the answers of some trajectories no longer."""
        gone = set(map(id, ended))
        self.dismissed += ended
        search._finished[:] = [f for f in search._finished if id(f) not in gone]

    def _forbids(self, search: Search, node: int) -> str:
        """Return why a new node is closed; "" where it is not."""
        standing = self._stand(search.tree, node)
        rules, key = self.rules, standing.key
        if standing.back and rules.backtracking == "drop":
            return "a step back"
        if rules.loops and (standing.loop or self._passed(search.tree, node, key)):
            return "a loop"
        if rules.adaptive_depth and standing.fault:
            return standing.fault
        holder = self._holder.get(key) if rules.transpositions and key is not None else None
        taken = holder is not None and self._settled(search, holder) and search.tree.arena.status[node] == Status.OPEN
        return "a state that was reached before" if taken else ""

    def _forbids_tail(self, steps: Prefix, tail: Sequence[Candidate]) -> bool:
        standing = self._read((*steps, *(c.text for c in tail)))
        return bool((self.rules.loops and standing.loop) or (self.rules.adaptive_depth and standing.fault))

    def _passed(self, tree: Tree, node: int, key: Hashable | None) -> bool:
        """Return whether an earlier node of the path has this key."""
        earlier = tree.path(node)[1:-1]
        return key is not None and any(self._standing.get(n, _UNKNOWN).key == key for n in earlier)

    def distinct(self, search: Search, nodes: list[int], scores: Scores) -> tuple[list[int], Scores]:
        """Close all but the best of the scored nodes that share a state, and those whose state is taken."""
        if not self.rules.transpositions or self._gave_up:
            return nodes, scores
        status = search.tree.arena.status
        together: dict[int, float] = {}
        for node, score in zip(nodes, scores.tolist(), strict=True):
            key = self._stand(search.tree, node).key
            if key is None or status[node] != Status.OPEN:
                continue
            holder = self._holder.get(key, node)
            if holder in together and not score <= together[holder] and not self._settled(search, holder):
                self._close(search, holder, "a state that was reached before")
            elif holder != node and (holder in together or self._may_go_on(search, holder)):
                self._close(search, node, "a state that was reached before")
                continue
            self._hold(key, node)
            together[node] = score
        kept = [i for i, node in enumerate(nodes) if node not in self.closed]
        return (nodes, scores) if len(kept) == len(nodes) else ([nodes[i] for i in kept], scores[kept])

    def _hold(self, key: Hashable | None, node: int) -> None:
        if key is not None:
            self._holder[key] = node

    def _settled(self, search: Search, node: int) -> bool:
        """Return whether a node was expanded, or is about to be."""
        arena = search.tree.arena
        return bool(arena.first_child[node] >= 0 or (search._asked.get(node) and arena.status[node] == Status.OPEN))

    def _may_go_on(self, search: Search, node: int) -> bool:
        """Return whether a node was expanded, or may still be."""
        return self._settled(search, node) or (
            search.tree.arena.status[node] == Status.OPEN and search._may_choose(node)
        )

    def allows(self, search: Search, node: int) -> bool:
        """Return whether a node may be expanded: no other one of its state was, or is about to be."""
        holder = self._holder.get(self._stand(search.tree, node).key, node) if self.rules.transpositions else node
        return holder == node or self._gave_up or not self._settled(search, holder)

    def _close(self, search: Search, node: int, why: str) -> None:
        self.closed[node] = why
        search._fail([node])
        if not np.isnan(search.scores_of([node])[0]):
            search._score[node] = np.nan  # it is no longer among those to choose from

    def reopen(self, search: Search) -> None:
        """Give up: nothing is left but what was closed."""
        ended = {f.node for f in self.dismissed}
        arena = search.tree.arena
        for node in self.closed:
            if arena.status[node] == Status.FAILED:
                arena.set_status([node], Status.TERMINAL if node in ended else Status.OPEN)
        self._gave_up = True

    # What steps say.

    def _stand(self, tree: Tree, node: int) -> Standing:
        if node not in self._standing:
            self._standing[node] = self._read(tree.texts(node))
        return self._standing[node]

    def _read(self, steps: Prefix) -> Standing:
        try:
            found = self.rules.state_of(self.question, steps)
            standing = found if isinstance(found, Standing) else Standing(found)
            hash(standing.key)
        except Exception as error:  # user code: whatever it raises, the search goes on
            self._complaint = self._complaint or f"rules: `state_of` failed: {type(error).__name__}: {error}"[:200]
            return _UNKNOWN
        self._known |= standing.key is not None
        return standing

    def remarks(self, trajectory: Trajectory | None, counted: bool) -> list[str]:
        """Return what makes the answer doubtful; ``counted`` says whether any trajectory counts."""
        found = [self._complaint] if self._complaint else []
        if self._standing and not self._known:
            found.append("rules: no state is known of this question; nothing was merged or closed for its state")
        if self._gave_up or (self.dismissed and not counted):
            reasons = Counter([*self.closed.values()] or ["a loop, or no right answer to come"])
            listed = ", ".join(f"{why} ({n})" for why, n in reasons.most_common(4))
            found.append(f"rules: every path was closed: {listed}; the answer is that of a path which the rules forbid")
        if trajectory is not None:
            standing = self._read(tuple(step.text for step in trajectory.steps))
            doubts = (standing.doubt, standing.fault, "a loop" if standing.loop and self.rules.loops else "")
            found += [f"rules: the answer rests on {what}" for what in doubts if what]
        return found
