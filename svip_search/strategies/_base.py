"""What all strategies share: the ask/tell protocol, the tree's bookkeeping, and the result.

A strategy is frozen configuration, a search its state on one question.  Every search repeats one
cycle, and a strategy says no more than the first and the last line of it::

    nodes = _choose()                 which nodes to grow, and how: Expand or Rollout
    children = grow(nodes)            ask the policy; check, merge, mark terminal states, add
    scores = evaluate(children)       ask the reward model; check, store, aggregate
    _scored(children, scores)         what the strategy makes of it

The nodes of one such line form a *round*.  A round may be asked in pieces and told in any order; it
is applied as a whole, in the order of its nodes.  So the tree depends on the seed and the
configuration alone, never on how requests were batched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._budget import Usage
from .._tree import Status, Tree
from .._types import Candidate, Prefix, ProposeRequest, Question, Result, Step, Trajectory
from .._vote import Select, extract_answer, match_option, normalise, select_answer
from ._door import Continuation, check_continuations, check_rewards

Scores = NDArray[np.float64]
_LEAF = (Status.OPEN, Status.TERMINAL)


@dataclass(frozen=True, slots=True)
class Expand:
    """Ask the policy for one further step after each node, ``n`` candidates each.

    Outcome: for each node a list of tuples of one `Candidate`.
    """

    id: int
    nodes: tuple[int, ...]
    n: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """Ask the policy to complete each node to the end, ``n`` times each.

    Outcome: for each node a list of tuples of `Candidate`, the steps after the node.
    """

    id: int
    nodes: tuple[int, ...]
    n: int


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Ask the reward model for the rewards of each node's path.

    Outcome: for each node rewards [T, 3], or one number.  Where ``tails`` is not empty, each path
    continues with steps that are not in the tree; `Search.paths` includes them.
    """

    id: int
    nodes: tuple[int, ...]
    tails: tuple[Prefix, ...] = ()


Request = Expand | Rollout | Evaluate


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """The configuration that all strategies share.

    Args:
        temperature: of the policy's sampling; 0 is greedy.
        max_depth: steps after which a trajectory ends, finished or not.
        scoring: how the rewards of a path become its score; None takes what the reward model
            recommends (its ``scoring``), or else the mean over steps and dimensions.
    """

    name: ClassVar[str]
    needs_reward: ClassVar[bool] = True
    search: ClassVar[type[Search]]

    temperature: float = 1.0
    max_depth: int = 32
    scoring: Scoring | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"`temperature` must be a number >= 0; got {self.temperature!r}.")
        if self.scoring is not None and not isinstance(self.scoring, Scoring):
            raise TypeError(f"`scoring` must be a Scoring or None; got {type(self.scoring).__name__}.")
        for f in fields(self):
            if f.type in ("int", "int | None"):
                self._check_count(f.name, optional=f.type == "int | None")

    def _check_count(self, name: str, optional: bool) -> None:
        count = getattr(self, name)
        if count is None and optional:
            return
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"`{name}` must be an integer; got {count!r}.")
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1; got {count}.")

    def start(self, question: Question, seed: int = 0) -> Search:
        """Return a new search on ``question``; the same seed gives the same tree."""
        return self.search(self.scored_by(None), question, seed)

    def scored_by(self, reward: Any) -> Strategy:
        """Return this strategy with its scoring settled: its own, the reward model's, or the default."""
        if self.scoring is not None:
            return self
        return replace(self, scoring=getattr(reward, "scoring", None) or Scoring())


class _Round:
    """One line of the cycle for many nodes: what is asked, what was handed out, what came back."""

    def __init__(self, kind: type[Request], nodes: Sequence[int], n: int = 1, *, aside: bool = False) -> None:
        self.kind = kind
        self.nodes = list(nodes)
        self.n = n
        self.aside = aside  # keep rollouts out of the tree: they only estimate a value
        self.tails: list[tuple[Candidate, ...]] = []
        self.offsets: list[int] = []
        self.temperature: float | None = None
        self.taken = 0  # nodes handed out
        self.told = 0  # nodes whose outcome is known
        self.outcomes: list[Any] = [None] * len(self.nodes)


@dataclass(slots=True)
class _Finished:
    """A trajectory that has ended: at a node, or beyond it along a rollout kept aside."""

    node: int
    answer: str | None
    tail: tuple[Candidate, ...] = ()
    score: float = math.nan
    rewards: NDArray[Any] | None = None


class Search:
    """The state of a strategy on one question: a value that can be pickled at any moment.

    ::

        while not search.done:
            for request in search.ask(limit=8):      # never blocks
                search.tell(request.id, outcome)     # any order; an exception is an outcome too
        result = search.result()                     # best so far, at any moment

    Args:
        config: the strategy.
        question: what is to be answered.
        seed: the same seed gives the same tree from the same models.
    """

    how: Select = "max"

    def __init__(self, config: Any, question: Question, seed: int = 0) -> None:
        self.config = config
        self.question = question
        self.seed = seed
        self.tree = Tree()
        self.degraded: list[str] = []
        self.stopped_by: str | None = None
        self._usage = Usage()
        self._finished: list[_Finished] = []
        self._score: Scores = np.full(64, np.nan)
        self._keys = {0: blake2b(str(seed).encode(), digest_size=16).digest()}
        self._asked: dict[int, int] = {}
        self._flight: dict[int, tuple[Request, int]] = {}
        self._next_id = 0
        self._round: _Round | None = None
        self._completed = False
        self._setup()
        self._next_cycle()

    # What a strategy says.

    def _setup(self) -> None:
        """Prepare the strategy's own state."""

    def _choose(self) -> _Round | None:
        """Return the next nodes to grow; None ends the search."""
        raise NotImplementedError

    def _grown(self, round: _Round, ends: list[int]) -> _Round | None:
        """Return what to ask about the nodes at which growth ended; the default evaluates them."""
        return _Round(Evaluate, ends) if self.config.needs_reward and ends else None

    def _scored(self, nodes: list[int], scores: Scores) -> None:
        """Take in the nodes that were evaluated without complaint, with their scores."""

    def _abandon(self) -> None:
        """Clean up what `_choose` began, where the search is stopped in the middle of a cycle."""

    # Ask and tell.

    @property
    def done(self) -> bool:
        """Whether there is nothing left to ask or to be told."""
        return self._round is None

    @property
    def usage(self) -> Usage:
        """What this search has asked for and got so far, without seconds and the models' own counts."""
        self._usage.nodes = len(self.tree) - 1
        return self._usage

    @property
    def wants(self) -> type[Request] | None:
        """The kind of the next request, None where there is none just now."""
        r = self._round
        return r.kind if r is not None and r.taken < len(r.nodes) else None

    @property
    def width(self) -> int:
        """The number of candidates the next request asks of each node."""
        return self._round.n if self._round is not None else 0

    @property
    def reserved(self) -> int:
        """Nodes that requests of the current round may still add to the tree."""
        r = self._round
        return r.taken * r.n if r is not None and r.kind is not Evaluate and not r.aside else 0

    def ask(self, limit: int = 64, n: int | None = None) -> list[Request]:
        """Return the requests that can be made now, [] where outcomes must come first.

        Args:
            limit: how many nodes may be in flight, those of earlier requests included.
            n: at most this many candidates a node, where less than the strategy wants is affordable.
        """
        r = self._round
        if r is None:
            return []
        stop = min(len(r.nodes), r.told + limit)
        if stop <= r.taken:
            return []
        start, r.taken = r.taken, stop
        nodes = tuple(r.nodes[start:stop])
        request: Request
        if r.kind is Evaluate:
            tails = tuple(tuple(c.text for c in tail) for tail in r.tails[start:stop])
            request = Evaluate(self._next_id, nodes, tails)
            self._usage.reward_calls += len(nodes)
        else:
            kind = Expand if r.kind is Expand else Rollout
            request = kind(self._next_id, nodes, r.n if n is None else max(1, min(n, r.n)))
            self._usage.policy_calls += len(nodes)
        self._flight[self._next_id] = (request, start)
        self._next_id += 1
        return [request]

    def tell(self, id: int, outcome: Any) -> None:
        """Take in the outcome of a request; the outcome of one already told is ignored.

        Args:
            id: of the request.
            outcome: one entry for each node, see the requests.  An exception, as a whole or as an
                entry, marks the nodes as failed.

        Raises:
            KeyError: no such request was ever asked.
        """
        if id not in self._flight:
            if isinstance(id, int) and 0 <= id < self._next_id:
                return
            raise KeyError(f"`id` must be the id of a request of this search; got {id!r}.")
        request, start = self._flight.pop(id)
        r, m = self._round, len(request.nodes)
        assert r is not None
        if not isinstance(outcome, (list, tuple)) or len(outcome) != m:
            if not isinstance(outcome, BaseException):
                outcome = TypeError(f"expected a list of {m} outcomes, one for each node")
            outcome = [outcome] * m
        if isinstance(request, Evaluate):
            r.outcomes[start : start + m] = outcome
        else:
            for i, one in enumerate(outcome, start):
                r.outcomes[i] = checked = check_continuations(one, request.n)
                self._usage.policy_tokens += checked[1]
        r.told += m
        if r.told == len(r.nodes):
            self._apply(r)

    def requests_for(self, request: Request) -> list[ProposeRequest]:
        """Return what to ask the policy for an `Expand` or `Rollout` in flight, one entry a node."""
        _, start = self._flight[request.id]
        r = self._round
        assert r is not None
        assert not isinstance(request, Evaluate)
        temperature = self.config.temperature if r.temperature is None else r.temperature
        whole = isinstance(request, Rollout)
        offsets = r.offsets[start : start + len(request.nodes)]
        return [
            ProposeRequest(self.question, path, request.n, self._draw(node, offset), temperature, whole)
            for node, path, offset in zip(request.nodes, self.paths(request), offsets, strict=True)
        ]

    def paths(self, request: Request) -> list[Prefix]:
        """Return the steps that lead to each node of ``request``, with its tail where it has one."""
        text, known = self.tree.text, dict[int, Prefix]()
        paths = []
        for node, parent in zip(request.nodes, self.tree.arena.parent[list(request.nodes)].tolist(), strict=True):
            if parent not in known:  # siblings share it
                known[parent] = self.tree.texts(parent) if parent >= 0 else ()
            paths.append((*known[parent], text[node]) if parent >= 0 else ())
        if isinstance(request, Evaluate) and request.tails:
            return [path + tail for path, tail in zip(paths, request.tails, strict=True)]
        return paths

    def stop(self, reason: str) -> None:
        """End the search: apply what was told, ask no more.  `result` then says ``stopped_by=reason``."""
        if self.done:
            return
        self.stopped_by = reason
        r, self._round = self._round, None
        self._flight.clear()
        assert r is not None
        told = [i for i, outcome in enumerate(r.outcomes[: r.taken]) if outcome is not None]
        r.nodes = [r.nodes[i] for i in told]
        r.outcomes = [r.outcomes[i] for i in told]
        r.tails = [r.tails[i] for i in told] if r.tails else []
        if told and r.kind is Evaluate:
            self._evaluated(r)
        elif told:
            self._grow(r)
        self._abandon()

    def abort(self) -> None:
        """End the search at once; what was told for the current round is lost."""
        self._round = None
        self._flight.clear()

    def complete(self) -> bool:
        """Begin one greedy rollout from the best open node, after `stop`; False where there is none.

        For a search that ends, or was cut, before any trajectory was finished: the next `ask`
        returns the request, and its outcome ends the search.
        """
        opened = np.flatnonzero(self.tree.arena.status == Status.OPEN)
        if not self.done or not len(opened):
            return False
        scores = self._scores_of(opened)
        if np.isnan(scores).all():
            best = opened[np.argmax(self.tree.arena.depth[opened])]
        else:
            best = opened[np.nanargmax(scores)]
        r = _Round(Rollout, [int(best)])
        r.temperature = 0.0
        self._begin(r)
        return True

    # The cycle.

    def _next_cycle(self) -> None:
        self._cycle = len(self._finished)  # trajectories from here on end in this cycle
        self._begin(self._choose())
        if self._round is None and not self._finished and not self._completed:
            self._completed = True  # nothing reached an answer: one rollout does, once
            self.complete()

    def _begin(self, r: _Round | None) -> None:
        self._round = r
        if r is not None and r.kind is not Evaluate:
            r.offsets = [self._asked.get(node, 0) for node in r.nodes]
            self._asked.update((node, offset + r.n) for node, offset in zip(r.nodes, r.offsets, strict=True))

    def _apply(self, r: _Round) -> None:
        # Cleared first: should an interrupt strike in between, nothing is applied twice.
        self._round = None
        nodes: list[int] = []
        scores: Scores = np.empty(0)
        if r.kind is Evaluate:
            nodes, scores = self._evaluated(r)
        else:
            ends = self._grow(r)
            if self.stopped_by is not None:
                return
            follow = self._grown(r, ends)
            if follow is not None:
                return self._begin(follow)
        if not self._completed:  # the completion answers, it does not steer
            self._scored(nodes, scores)
        self._next_cycle()

    def _grow(self, r: _Round) -> list[int]:
        """Add what the policy returned, in the order of the nodes; return the new ends of paths."""
        self._grown_whole = r.kind is Rollout
        if r.kind is Expand:
            return self._add_steps(r)
        return self._set_aside(r) if r.aside else self._add_trajectories(r)

    def _usable(self, r: _Round) -> Iterator[tuple[int, list[Continuation]]]:
        """Yield each node with its continuations; nodes without any become failed."""
        failed = []
        for node, (continuations, _, complaints) in zip(r.nodes, r.outcomes, strict=True):
            for complaint in complaints:
                self.degraded.append(f"node {node}: {complaint}")
            if continuations:
                yield node, continuations
            else:
                failed.append(node)
        self._fail(failed)

    def _fail(self, nodes: list[int]) -> None:
        """Mark nodes as failed, except those that have children already."""
        if not nodes:
            return
        status = self.tree.arena.status
        self.tree.arena.set_status([n for n in nodes if status[n] in _LEAF], Status.FAILED)

    def _add_steps(self, r: _Round) -> list[int]:
        arena = self.tree.arena
        added: list[int] = []
        ended: list[int] = []
        nodes = np.array(r.nodes, np.int32)
        deepest = set(nodes[arena.depth[nodes] + 1 >= self.config.max_depth].tolist())
        grown = set(nodes[arena.first_child[nodes] >= 0].tolist())
        for node, continuations in self._usable(r):
            candidates = [steps[0] for steps in continuations]
            texts = [c.text for c in candidates]
            if node in grown or len(set(texts)) < len(texts):
                candidates = self._merged(node, candidates)
                texts = [c.text for c in candidates]
            if not candidates:
                continue
            first = self._add(node, candidates, texts)
            added.extend(range(first, first + len(texts)))
            if node in deepest or _may_end(candidates, texts):
                for child, candidate in enumerate(candidates, first):
                    answer, ends = self._answer(candidate)
                    if ends or node in deepest:
                        ended.append(child)
                        self._finished.append(_Finished(child, answer))
        arena.set_status(ended, Status.TERMINAL)
        return added

    def _merged(self, node: int, candidates: list[Candidate]) -> list[Candidate]:
        """Return the candidates without those whose text the node has already, or an earlier one has."""
        known = self._children_by_text(node)
        kept: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.text not in known:
                kept.setdefault(candidate.text, candidate)
        return list(kept.values())

    def _add(self, node: int, candidates: list[Candidate], texts: list[str]) -> int:
        """Append children and return the index of the first: `Tree.add` for many nodes in a row."""
        first = self.tree.arena.add_children(node, self._priors(candidates))
        self.tree.text += texts
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

    def _ending(self, steps: Continuation, depth: int) -> tuple[tuple[Candidate, ...], str | None]:
        """Return the steps up to the first terminal one, and the answer stated there."""
        steps = steps[: self.config.max_depth - depth]
        for i, candidate in enumerate(steps):
            answer, ends = self._answer(candidate)
            if ends:
                return tuple(steps[: i + 1]), answer
        return tuple(steps), None

    def _add_trajectories(self, r: _Round) -> list[int]:
        """Add whole trajectories as chains that share their common beginning; return their unscored ends."""
        ends: dict[int, None] = {}
        children: dict[int, dict[str, int]] = {}
        arena = self.tree.arena
        for node, continuations in self._usable(r):
            for continuation in continuations:
                steps, answer = self._ending(continuation, int(arena.depth[node]))
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
                self._finished.append(_Finished(end, answer))
                ends[end] = None
        unscored = np.isnan(self._scores_of(np.array(list(ends), dtype=np.intp)))
        return [e for e, new in zip(ends, unscored, strict=True) if new and arena.status[e] != Status.FAILED]

    def _set_aside(self, r: _Round) -> list[int]:
        """Keep one rollout a node beside the tree; return the nodes that have one."""
        ends = []
        depth = self.tree.arena.depth
        for node, continuations in self._usable(r):
            tail, answer = self._ending(continuations[0], int(depth[node]))
            self._finished.append(_Finished(node, answer, tail))
            ends.append(node)
        return ends

    def _evaluated(self, r: _Round) -> tuple[list[int], Scores]:
        """Store the rewards; return the nodes whose rewards could be used, with their scores."""
        arena = self.tree.arena
        tails = r.tails or [()] * len(r.nodes)
        depths = arena.depth[r.nodes].tolist()
        lengths = [depth + len(tail) for depth, tail in zip(depths, tails, strict=True)]
        usable, rows, counts, complaints = check_rewards(r.outcomes, lengths)
        for i, complaint in complaints:
            self.degraded.append(f"node {r.nodes[i]}: {complaint}")
        self._fail([r.nodes[i] for i, _ in complaints])
        if not usable:
            return [], np.empty(0)
        nodes = [r.nodes[i] for i in usable]
        stops = np.cumsum(counts)
        scores = self.config.scoring.score_many(rows, np.array(counts))
        self._keep_scores(nodes, scores)
        own = stops - counts + np.minimum(counts, [depths[i] for i in usable]) - 1
        arena.set_reward(nodes, rows[own])
        if r.tails:
            self._keep_tails(nodes, scores, np.split(rows, stops[:-1]))
        elif self._grown_whole:
            self._keep_inner_rewards(nodes, rows, stops)
        return nodes, scores

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

    def _keep_tails(self, nodes: list[int], scores: Scores, arrays: list[Any]) -> None:
        """Give the trajectories of rollouts kept aside their scores and rewards."""
        found = dict(zip(nodes, zip(scores.tolist(), arrays, strict=True), strict=True))
        for f in self._finished[self._cycle :]:
            if f.tail and f.node in found:
                f.score, rewards = found[f.node]
                f.rewards = rewards if len(rewards) > len(f.tail) else None

    def _scores_of(self, nodes: NDArray[Any]) -> Scores:
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

    # The result.

    @property
    def finished(self) -> int:
        """How many trajectories have ended."""
        return len(self._finished)

    def result(self) -> Result:
        """Return the best so far; valid at any moment.

        Trajectories come in the order they ended.  Of those with the selected answer, the
        best-scored one is shown, the earliest among equals.
        """
        trajectories = tuple(self._trajectory(f) for f in self._finished)
        weights = self.config.scoring.value([t.score for t in trajectories]).tolist()
        answer, votes = select_answer(trajectories, self.how, weights)
        reason = self.stopped_by or ("finished" if self.done else "interrupted")
        return Result(
            question=self.question,
            answer=answer,
            trajectory=_best(trajectories, answer),
            trajectories=trajectories,
            votes=votes,
            tree=self.tree,
            usage=self.usage + Usage(),
            stopped_by=reason,
            degraded=tuple(self.degraded),
            seed=self.seed,
            strategy=self.config.name,
        )

    def _trajectory(self, f: _Finished) -> Trajectory:
        tree = self.tree
        steps = []
        for node in tree.path(f.node)[1:]:
            reward = tree.arena.reward[node].tolist()
            known = None if math.isnan(reward[0]) else tuple(reward)
            steps.append(Step(tree.text[node], known, tree.log_prob[node], node))
        rewards: list[Any] = [None] * len(f.tail)
        if f.tail and f.rewards is not None:
            rewards = [tuple(row) for row in f.rewards[-len(f.tail) :].tolist()]
        steps += [Step(c.text, row, c.log_prob) for c, row in zip(f.tail, rewards, strict=True)]
        score = f.score if f.tail else float(self._scores_of(np.array([f.node]))[0])
        return Trajectory(tuple(steps), f.answer, score, f.node)


def _may_end(candidates: list[Candidate], texts: list[str]) -> bool:
    """Whether one of the steps may be a last one: a cheap test for the many that are not."""
    if [c.finish_reason for c in candidates].count("step") < len(candidates):
        return True
    text = "\n".join(texts).lower()
    return "answer" in text or "boxed" in text


@cache
def _uniform(count: int) -> NDArray[np.float32]:
    return np.full(count, 1 / count, np.float32)


def _best(trajectories: Sequence[Trajectory], answer: str | None) -> Trajectory | None:
    """Return the best-scored trajectory with this answer; without an answer, the best of all."""
    wanted = None if answer is None else normalise(answer)
    stated = [t for t in trajectories if t.answer is not None and normalise(t.answer) == wanted]
    stated = stated or list(trajectories)
    return max(stated, key=lambda t: -math.inf if math.isnan(t.score) else t.score, default=None)
