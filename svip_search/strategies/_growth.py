"""How a search's tree grows: what models return is checked, merged, marked where it ends, and scored.

Terminal states, depth limits, duplicate steps, zero candidates and faulty models are handled here,
once for all strategies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._tree import Status, Tree
from .._types import Candidate, Question
from .._vote import extract_answer, match_option
from ._door import Continuation, check_rewards
from ._requests import Expand, Finished, Round

Scores = NDArray[np.float64]
_LEAF = (Status.OPEN, Status.TERMINAL)


class Growth:
    """A question's tree with the bookkeeping that is the same for every strategy.

    Args:
        config: the strategy; ``max_depth`` and ``scoring`` are read.
        question: what is to be answered.
        seed: of all draws.
    """

    def __init__(self, config: Any, question: Question, seed: int) -> None:
        self.config = config
        self.question = question
        self.seed = seed
        self.tree = Tree()
        self.degraded: list[str] = []
        self._finished: list[Finished] = []
        self._score: Scores = np.full(64, np.nan)
        self._keys = {0: blake2b(str(seed).encode(), digest_size=16).digest()}
        self._asked: dict[int, int] = {}  # candidates asked of each node so far

    def grow(self, r: Round) -> list[int]:
        """Add what the policy returned, in the order of the nodes; return the new ends of paths."""
        if r.place == "text":
            for i, (_, _, complaints) in enumerate(r.outcomes):
                self._complain(r.nodes[i], complaints)
            return []
        if r.place == "aside":
            return self._set_aside(r)
        targets = self._anchors(r) if r.tails else r.nodes
        return self._add_steps(r, targets) if r.kind is Expand else self._add_trajectories(r, targets)

    def _usable(self, r: Round, targets: list[int]) -> Iterator[tuple[int, list[Continuation]]]:
        """Yield the position of each node with its continuations; nodes without any become failed."""
        failed = []
        for i, (continuations, _, complaints) in enumerate(r.outcomes):
            self._complain(targets[i], complaints)
            if continuations:
                yield i, continuations
            else:
                failed.append(targets[i])
        self._fail(failed)

    def _complain(self, node: int, complaints: list[str]) -> None:
        self.degraded += [f"node {node}: {complaint}" for complaint in complaints]

    def _fail(self, nodes: list[int]) -> None:
        """Mark nodes as failed, except those that have children already."""
        if not nodes:
            return
        status = self.tree.arena.status
        self.tree.arena.set_status([n for n in nodes if status[n] in _LEAF], Status.FAILED)

    def _anchors(self, r: Round) -> list[int]:
        """Add the tails of a round to the tree; return the node behind each."""
        targets = []
        for node, tail in zip(r.nodes, r.tails, strict=True):
            for candidate in tail:
                found = self._children_by_text(node)
                node = found[candidate.text] if candidate.text in found else self._add(node, [candidate])
            targets.append(node)
        return targets

    def _add_steps(self, r: Round, targets: list[int]) -> list[int]:
        arena = self.tree.arena
        added: list[int] = []
        ended: list[int] = []
        nodes = np.array(targets, np.int32)
        deepest = set(nodes[arena.depth[nodes] + 1 >= self.config.max_depth].tolist())
        grown = set(nodes[arena.first_child[nodes] >= 0].tolist())
        for i, continuations in self._usable(r, targets):
            node = targets[i]
            candidates = [steps[0] for steps in continuations]
            texts = [c.text for c in candidates]
            if node in grown or len(set(texts)) < len(texts):
                candidates = self._merged(node, candidates)
                texts = [c.text for c in candidates]
            if not candidates:
                continue
            grown.add(node)
            first = self._add(node, candidates, texts)
            added.extend(range(first, first + len(texts)))
            if node in deepest or _may_end(candidates, texts):
                for child, candidate in enumerate(candidates, first):
                    answer, ends = self._answer(candidate)
                    if ends or node in deepest:
                        ended.append(child)
                        self._finish(r, Finished(child, answer))
        arena.set_status(ended, Status.TERMINAL)
        return added

    def children_reached(self, r: Round) -> list[list[int]]:
        """Return for each node of an applied `Expand` the child of each usable candidate, in order, repeats included.

        A candidate whose text the node had already counts as that child.
        """
        reached = []
        targets = self._anchors(r) if r.tails else r.nodes
        for node, (continuations, _, _) in zip(targets, r.outcomes, strict=True):
            children = self._children_by_text(node)
            reached.append([children[steps[0].text] for steps in continuations])
        return reached

    def _finish(self, r: Round, finished: Finished) -> None:
        self._finished.append(finished)
        r.ended.append(finished)

    def _merged(self, node: int, candidates: list[Candidate]) -> list[Candidate]:
        """Return the candidates without those whose text the node has already, or an earlier one has."""
        known = self._children_by_text(node)
        kept: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.text not in known:
                kept.setdefault(candidate.text, candidate)
        return list(kept.values())

    def _add(self, node: int, candidates: list[Candidate], texts: list[str] | None = None) -> int:
        """Append children and return the index of the first: `Tree.add` for many nodes in a row."""
        arena, priors = self.tree.arena, self._priors(candidates)
        try:
            first = arena.add_children(node, priors)
        except ValueError:
            if arena.status[node] != Status.FAILED:
                raise
            # Several rounds were under way at this leaf: an earlier one failed, this one did not.
            arena.set_status([node], Status.OPEN)
            first = arena.add_children(node, priors)
        self.tree.text += [c.text for c in candidates] if texts is None else texts
        self.tree.log_prob += [c.log_prob for c in candidates]
        self.tree.tokens += [c.tokens for c in candidates]
        self.tree.finish_reason += [c.finish_reason for c in candidates]
        return first

    def _priors(self, candidates: list[Candidate]) -> NDArray[np.float32]:
        """Return what the policy prefers among siblings, with sum 1."""
        return _uniform(len(candidates))

    def _answer(self, candidate: Candidate) -> tuple[str | None, bool]:
        """Return the answer that a step states, and whether the trajectory ends with it."""
        answer = extract_answer(candidate.text, self.question.options)
        if answer is None and candidate.finish_reason != "step" and self.question.options:
            answer = match_option(candidate.text, self.question.options)  # the bare option
        return answer, answer is not None or candidate.finish_reason != "step"

    def _children_by_text(self, node: int) -> dict[str, int]:
        return {self.tree.text[child]: child for child in self.tree.children(node)}

    def _ending(self, steps: Continuation, depth: int) -> tuple[tuple[Candidate, ...], str | None, bool]:
        """Return the steps up to the first terminal one, the answer stated there, and whether one is terminal."""
        steps = steps[: self.config.max_depth - depth]
        for i, candidate in enumerate(steps):
            answer, ends = self._answer(candidate)
            if ends:
                return tuple(steps[: i + 1]), answer, True
        return tuple(steps), None, depth + len(steps) >= self.config.max_depth

    def _add_trajectories(self, r: Round, targets: list[int]) -> list[int]:
        """Add whole trajectories as chains that share their common beginning; return their unscored ends."""
        ends: dict[int, None] = {}
        children: dict[int, dict[str, int]] = {}
        arena = self.tree.arena
        for i, continuations in self._usable(r, targets):
            node = targets[i]
            for continuation in continuations:
                steps, answer, _ = self._ending(continuation, int(arena.depth[node]))
                end = node
                for candidate in steps:
                    if arena.status[end] in (Status.TERMINAL, Status.FAILED):
                        break  # another trajectory ended with the same steps
                    if end not in children:
                        children[end] = self._children_by_text(end)
                    if candidate.text not in children[end]:
                        children[end][candidate.text] = self._add(end, [candidate], [candidate.text])
                    end = children[end][candidate.text]
                if arena.status[end] == Status.OPEN:
                    arena.set_status([end], Status.TERMINAL)
                self._finish(r, Finished(end, answer))
                ends[end] = None
        unscored = np.isnan(self.scores_of(list(ends)))
        return [e for e, new in zip(ends, unscored, strict=True) if new and arena.status[e] != Status.FAILED]

    def _set_aside(self, r: Round) -> list[int]:
        """Keep one continuation a node beside the tree, behind its tail; return the nodes that have one."""
        ends = []
        depth = self.tree.arena.depth
        for i, continuations in self._usable(r, r.nodes):
            before = r.tails[i] if r.tails else ()
            steps, answer, ends_here = self._ending(continuations[0], int(depth[r.nodes[i]]) + len(before))
            r.behind[i] = before + steps
            if ends_here or r.kind is not Expand:
                self._finish(r, Finished(r.nodes[i], answer, r.behind[i]))
            ends.append(r.nodes[i])
        return ends

    def evaluated(self, r: Round) -> tuple[list[int], Scores]:
        """Store the rewards; return the nodes whose rewards could be used, with their scores."""
        arena = self.tree.arena
        tails = r.tails or [()] * len(r.nodes)
        depths = arena.depth[r.nodes].tolist()
        lengths = [depth + len(tail) for depth, tail in zip(depths, tails, strict=True)]
        usable, rows, counts, complaints = check_rewards(r.outcomes, lengths)
        for i, complaint in complaints:
            self.degraded.append(f"node {r.nodes[i]}: {complaint}")
        if r.model == "outcome":
            return self._outcome_scores(r, usable, rows, counts)
        self._fail([r.nodes[i] for i, _ in complaints])
        if not usable:
            return [], np.empty(0)
        nodes = [r.nodes[i] for i in usable]
        stops = np.cumsum(counts)
        scores = self.scoring.score_many(rows, np.array(counts))
        self._keep_scores(nodes, scores)
        own = stops - counts + np.minimum(counts, [depths[i] for i in usable]) - 1
        arena.set_reward(nodes, rows[own])
        if r.tails:
            self._keep_tails(r, nodes, scores, np.split(rows, stops[:-1]))
        elif r.whole:
            self._keep_inner_rewards(nodes, rows, stops)
        return nodes, scores

    def _outcome_scores(
        self, r: Round, usable: list[int], rows: NDArray[Any], counts: list[int]
    ) -> tuple[list[int], Scores]:
        """Score with what an outcome model says of whole paths: the value of its last row."""
        if not usable:
            return [], np.empty(0)
        last = Scoring(aggregate="last", weights=self.scoring.weights, veto=self.scoring.veto)
        return [r.nodes[i] for i in usable], last.score_many(rows, np.array(counts))

    @property
    def scoring(self) -> Scoring:
        """How rewards become scores."""
        scoring: Scoring = self.config.scoring
        return scoring

    def _keep_scores(self, nodes: list[int], scores: Scores) -> None:
        if len(self._score) < len(self.tree):
            larger = np.full(2 * len(self.tree), np.nan)
            larger[: len(self._score)] = self._score
            self._score = larger
        self._score[nodes] = scores

    def _keep_inner_rewards(self, nodes: list[int], rows: NDArray[Any], stops: NDArray[Any]) -> None:
        """Give the nodes above the rewards that came with a whole trajectory."""
        arena = self.tree.arena
        parents = arena.parent[nodes]
        missing = np.isnan(arena.reward[parents, 0]) & (parents > 0)
        for i in np.flatnonzero(missing).tolist():
            path = arena.path(nodes[i])[1:]
            start = stops[i - 1] if i else 0
            if stops[i] - start == len(path):  # one number for the whole says nothing about the steps
                arena.set_reward(path, rows[start : stops[i]])

    def _keep_tails(self, r: Round, nodes: list[int], scores: Scores, arrays: list[Any]) -> None:
        """Give the trajectories of rollouts kept aside their scores and rewards."""
        found = dict(zip(nodes, zip(scores.tolist(), arrays, strict=True), strict=True))
        for f in r.ended:
            if f.tail and f.node in found:
                f.score, rewards = found[f.node]
                f.rewards = rewards if len(rewards) > len(f.tail) else None

    def scores_of(self, nodes: Any) -> Scores:
        """Return the scores of nodes, NaN where there is none."""
        nodes = np.asarray(nodes, dtype=np.intp)
        scores = np.full(len(nodes), np.nan)
        inside = nodes < len(self._score)
        scores[inside] = self._score[nodes[inside]]
        return scores

    def _draw(self, node: int, offset: int) -> int:
        """Return the seed of a draw: a hash of the search's seed, the path's text and the draw's number."""
        chain = []
        while node not in self._keys:
            chain.append(node)
            node = int(self.tree.arena.parent[node])
        for below in reversed(chain):
            text = self.tree.text[below].encode("utf-8", "surrogatepass")
            self._keys[below] = blake2b(text, key=self._keys[node], digest_size=16).digest()
            node = below
        drawn = blake2b(offset.to_bytes(8, "little"), key=self._keys[node], digest_size=8)
        return int.from_bytes(drawn.digest(), "little")

    def take_over(self, tree: Tree) -> None:
        """Begin with a copy of a tree that another search has grown: its rewards, values and trajectories.

        Draws are new ones, so that the policy is not asked for what it has said.
        """
        columns = tree.to_dict()
        columns["virtual_visits"] = [0] * len(tree)  # of requests that nobody will answer
        self.tree = Tree.from_dict(columns)
        self._keys = {0: blake2b(f"{self.seed}/{len(tree)}".encode(), digest_size=16).digest()}
        self._score_again()
        for node in np.flatnonzero(self.tree.arena.status == Status.TERMINAL).tolist():
            last = Candidate(self.tree.text[node], finish_reason=self.tree.finish_reason[node])  # type: ignore[arg-type]
            self._finished.append(Finished(node, self._answer(last)[0]))

    def _score_again(self) -> None:
        """Score every node whose whole path has rewards; one number for a path is in its last node alone."""
        arena = self.tree.arena
        known = ~np.isnan(arena.reward[:, 0])
        nodes = np.flatnonzero(known).tolist()
        paths = [arena.path(node)[1:] for node in nodes]
        paths = [p if known[p].all() else p[-1:] for p in paths]
        if paths:
            lengths = np.array(list(map(len, paths)))
            self._keep_scores(nodes, self.scoring.score_many(arena.reward[np.concatenate(paths)], lengths))


def _may_end(candidates: list[Candidate], texts: list[str]) -> bool:
    """Whether one of the steps may be a last one: a cheap test for the many that are not."""
    if [c.finish_reason for c in candidates].count("step") < len(candidates):
        return True
    text = "\n".join(texts).lower()
    return "answer" in text or "boxed" in text


@cache
def _uniform(count: int) -> NDArray[np.float32]:
    return np.full(count, 1 / count, np.float32)
