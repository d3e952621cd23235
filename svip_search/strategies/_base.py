"""What the searches of all strategies share: the ask/tell protocol, the cycle and the result.

A strategy is frozen configuration, a search its state on one question.  Every search repeats one
cycle, and a strategy says no more than the first and the last line of it::

    nodes = _choose()                 which nodes to grow, and how: a round of Expand or Rollout
    children = grow(nodes)            ask the policy; check, merge, mark terminal states, add
    scores = evaluate(children)       ask the reward model; check, store, aggregate
    _scored(round, children, scores)  what the strategy makes of it

Each of these lines about some nodes is a *round*, and several cycles may be under way at once:
`_choose` is asked again until it returns None.  Outcomes come in any order and at any time; rounds
are *applied* in the order in which they were begun, and only an application begins new ones.  So the
tree depends on the seed and the configuration alone, never on timing or on how requests were batched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .._budget import POLICY_LIMITS, REWARD_LIMITS, Budget, Usage
from .._tree import Status, Tree
from .._types import Prefix, ProposeRequest, Question, Result, Step, Trajectory
from .._vote import Select, normalise, select_answer
from ._door import check_continuations
from ._growth import Growth, Scores
from ._requests import Evaluate, Expand, Finished, Model, Request, Rollout, Round
from ._ruling import Ruling
from ._strategy import Strategy

#: Rounds a search may have under way; a strategy that wants more is asked again later.
MOST_ROUNDS = 1024
#: Rounds in a row that neither add a node nor finish or score anything before a search is ended.
MOST_BARREN = 64
#: Rounds after which a search is ended whatever it does: a strategy that would ask for ever.
MOST_IN_ALL = 1_000_000


class Search(Growth):
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
        budget: see `Strategy.start`.
        tree: see `Strategy.start`.

    Notes:
        A budget is checked when a round is begun, against all that was begun before it, and the round is
        cut to what is left.  Where that is nothing, no more rounds begin, those under way are finished,
        and the search ends.  So what a search does under a budget does not depend on timing either, save
        for tokens of the reward model, which are known when the model reports them.
    """

    how: Select = "max"
    #: Whether `Strategy.start` takes a tree.
    resumes: ClassVar[bool] = False
    #: Whether an open node that was scored may be chosen at any later time.
    revisits: ClassVar[bool] = False
    #: Whether `_scored` leaves the arena's part to `_act_together` while ``_deferring``.
    batched: ClassVar[bool] = False

    def __init__(
        self, config: Any, question: Question, seed: int = 0, budget: Budget | None = None, tree: Tree | None = None
    ) -> None:
        super().__init__(config, question, seed)
        self.budget = budget
        self._closing: str | None = None  # the limit because of which nothing new is begun
        self.stopped_by: str | None = None
        self._usage = Usage()
        self._flight: dict[int, tuple[Request, Round, int]] = {}
        self._next_id = 0
        self._rounds: list[Round] = []  # begun and not yet applied, in this order
        self._out = 0  # nodes asked and not told
        self._begun = self._barren = self._unchanged = 0
        self._leading: str | None = None
        self._returns = 0
        self._completed = self._deferring = False
        self._ruling = None if config.rules is None else Ruling(config.rules, question)
        if tree is not None:
            self.take_over(tree)
            if self._ruling is not None:
                self._ruling.take_over(self)
        self._inherited = len(self.tree) - 1
        self._setup()
        self._fill()

    # What a strategy says.

    def _setup(self) -> None:
        """Prepare the strategy's own state."""

    def _choose(self) -> Round | None:
        """Return what else can be begun now; None where outcomes must come first, or at the end."""
        raise NotImplementedError

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        """Return what to ask about the nodes at which growth ended; the default evaluates them."""
        return Round(Evaluate, ends) if self.config.needs_reward and ends else None

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        """Take in the nodes that were evaluated without complaint, with their scores."""

    def _go_back(self, count: int, below: int = 0) -> list[int]:
        """Return the best nodes to go back to, where the rules have closed those that a strategy would go on with.

        The largest value / (1 + draws) first, ties to the latest: a node may be drawn from again.  None without rules,
        and none after ``max_depth`` times, so that a search ends.
        """
        if self._ruling is None or count < 1 or self._returns >= self.config.max_depth:
            return []
        nodes = np.arange(1, len(self.tree))
        status, values = self.tree.arena.status[1:], self.scoring.value(self.scores_of(nodes))
        nodes = nodes[(status != Status.TERMINAL) & (status != Status.FAILED) & ~np.isnan(values)]
        draws = np.array([self._asked.get(node, 0) for node in nodes.tolist()]) / self.config.expand
        order = np.lexsort((-nodes, -values[nodes - 1] / (1 + draws)))
        free = [node for node in nodes[order].tolist() if self._ruling.allows(self, node)]
        ranked = [node for node in free if not below or below in self.tree.path(node)]
        self._returns += bool(ranked)
        return ranked[:count]

    def _may_choose(self, node: int) -> bool:
        """Return whether an open node that was scored, and not expanded since, may still be chosen."""
        return self.revisits

    def _abandon(self) -> None:
        """Clean up what `_choose` began, where the search is stopped in the middle of a cycle."""

    # Ask and tell.

    @property
    def done(self) -> bool:
        """Whether there is nothing left to ask or to be told."""
        return not self._rounds

    @property
    def usage(self) -> Usage:
        """What this search has asked for and got so far, without seconds; tokens where they are applied."""
        self._usage.nodes = len(self.tree) - 1 - self._inherited
        return self._usage

    def charge(self, spent: Usage) -> None:
        """Add what a model itself reports of this search's requests."""
        self._usage += spent

    def wants(self, model: Model | None = None) -> type[Request] | None:
        """Return the kind of the next request (for that model), None where there is none just now."""
        r = self._next(model)
        return None if r is None else r.kind

    def width(self, model: Model | None = None) -> int:
        """Return the number of candidates the next request asks of each node, 0 where there is none."""
        r = self._next(model)
        return 0 if r is None else r.counts[r.taken]

    def wants_outcome(self) -> bool:
        """Whether the next request for the reward model is for the second one of a pair."""
        r = self._next("reward")
        return r is not None and r.model == "outcome"

    def expects(self, id: int) -> bool:
        """Whether the outcome of a request still counts."""
        return id in self._flight

    def _next(self, model: Model | None) -> Round | None:
        for r in self._rounds:
            if r.taken < len(r.nodes) and (model is None or r.asks == model):
                return r
        return None

    def ask(self, limit: int = 64, model: Model | None = None) -> list[Request]:
        """Return the requests that can be made now, [] where outcomes must come first.

        Args:
            limit: how many nodes may be in flight, those of earlier requests included.
            model: only requests for the "policy" or for the "reward" model.
        """
        requests: list[Request] = []
        while self._out < limit and (r := self._next(model)) is not None:
            requests.append(self._cut(r, limit - self._out))
        return requests

    def _cut(self, r: Round, most: int) -> Request:
        """Return the next request of a round."""
        start, stop, n = r.next(most)
        nodes = tuple(r.nodes[start:stop])
        tails = tuple(tuple(c.text for c in tail) for tail in r.tails[start:stop])
        request: Request
        if r.kind is Evaluate:
            request = Evaluate(self._next_id, nodes, tails, r.model)
            self._usage.reward_calls += len(nodes)
        else:
            kind = Expand if r.kind is Expand else Rollout
            request = kind(self._next_id, nodes, n, tails)
            self._usage.policy_calls += len(nodes)
        self._flight[self._next_id] = (request, r, start)
        self._next_id += 1
        self._out += len(nodes)
        return request

    def take(self, model: Model, nodes: int) -> Request:
        """Return one request for a model with at most so many nodes; it must want one (`wants`)."""
        r = self._next(model)
        assert r is not None
        return self._cut(r, nodes)

    def tell(self, id: int, outcome: Any) -> None:
        """Take in the outcome of a request; the outcome of one already told is ignored.

        Args:
            id: of the request.
            outcome: one entry for each node, see the requests.  An exception, as a whole or as an
                entry, marks the nodes as failed.

        Raises:
            KeyError: no such request was ever asked.
        """
        self.hear(id, outcome)
        self.advance()

    def hear(self, id: int, outcome: Any) -> None:
        """Take in an outcome as `tell` does, without acting on it before `advance`."""
        if id not in self._flight:
            if isinstance(id, int) and 0 <= id < self._next_id:
                return
            raise KeyError(f"`id` must be the id of a request of this search; got {id!r}.")
        request, r, start = self._flight.pop(id)
        m = len(request.nodes)
        if not isinstance(outcome, (list, tuple)) or len(outcome) != m:
            if not isinstance(outcome, BaseException):
                outcome = TypeError(f"expected a list of {m} outcomes, one for each node")
            outcome = [outcome] * m
        if isinstance(request, Evaluate):
            r.outcomes[start : start + m] = outcome
        else:
            r.outcomes[start : start + m] = [check_continuations(one, request.n) for one in outcome]
        r.told += m
        self._out -= m

    def advance(self) -> None:
        """Apply every round whose turn it is and whose outcomes are known."""
        while (r := self._ready()) is not None:
            self._apply(r)

    @classmethod
    def advance_together(cls, searches: Sequence[Any]) -> None:
        """Let several searches of this kind `advance`, turn by turn where the arena can serve them in one call."""
        if not cls.batched:
            for search in searches:
                search.advance()
            return
        while ready := [(search, r) for search in searches if (r := search._ready()) is not None]:
            if len(ready) == 1:
                ready[0][0].advance()
                continue
            turns = [(search, search._take_in_deferred(r)) for search, r in ready]
            cls._act_together(turns)
            for search, goes_on in turns:
                if goes_on:
                    search._fill()

    def _take_in_deferred(self, r: Round) -> bool:
        """Apply a round but for what the arena has to do in the end; return whether the search goes on."""
        self._deferring = True
        try:
            return self.take_in(r)
        finally:
            self._deferring = False

    @classmethod
    def _act_together(cls, turns: Sequence[tuple[Any, bool]]) -> None:
        """Do for many searches, each of which goes on or not, what their `_scored` has deferred."""
        raise NotImplementedError

    def _ready(self) -> Round | None:
        for r in self._rounds:
            if r.told == len(r.nodes):
                return r
            if not self.config.relaxed:
                return None
        return None

    def requests_for(self, request: Request) -> list[ProposeRequest]:
        """Return what to ask the policy for an `Expand` or `Rollout` in flight, one entry a node."""
        assert not isinstance(request, Evaluate)
        _, r, start = self._flight[request.id]
        temperature = self.config.temperature if r.temperature is None else r.temperature
        whole = isinstance(request, Rollout)
        stop = start + len(request.nodes)
        prompts = r.prompts[start:stop] or [self.question] * len(request.nodes)
        offsets = r.offsets[start:stop]
        return [
            ProposeRequest(prompt, path, request.n, self._draw(node, offset), temperature, whole)
            for prompt, node, path, offset in zip(prompts, request.nodes, self.paths(request), offsets, strict=True)
        ]

    def paths(self, request: Request) -> list[Prefix]:
        """Return the steps that lead to each node of ``request``, with its tail where it has one."""
        text, known = self.tree.text, dict[int, Prefix]()
        paths = []
        for node, parent in zip(request.nodes, self.tree.arena.parent[list(request.nodes)].tolist(), strict=True):
            if parent not in known:  # siblings share it
                known[parent] = self.tree.texts(parent) if parent >= 0 else ()
            paths.append((*known[parent], text[node]) if parent >= 0 else ())
        if request.tails:
            return [path + tail for path, tail in zip(paths, request.tails, strict=True)]
        return paths

    def stop(self, reason: str) -> None:
        """End the search: apply what was told, ask no more.  `result` then says ``stopped_by=reason``."""
        if self.done:
            return
        rounds = self._end(reason)
        for r in rounds:
            if r.keep_told():
                if r.kind is Evaluate:
                    self.evaluated(r)
                else:
                    self._grow(r)
        self._abandon()

    def _grow(self, r: Round) -> list[int]:
        self._usage.policy_tokens += sum(tokens for _, tokens, _ in r.outcomes)
        ends = self.grow(r)
        return ends if self._ruling is None else self._ruling.admit(self, r, ends)

    def _end(self, reason: str) -> list[Round]:
        """Forget all rounds and return them."""
        self.stopped_by = reason
        rounds, self._rounds, self._out = self._rounds, [], 0
        self._flight.clear()
        return rounds

    def abort(self) -> None:
        """End the search at once; what was told for rounds under way is lost."""
        self._drop(self.stopped_by or "interrupted")

    def _drop(self, reason: str) -> None:
        """End the search and forget what was told for rounds under way, save what it cost."""
        for r in self._end(reason):
            if r.asks == "policy":
                self._usage.policy_tokens += sum(o[1] for o in r.outcomes if o is not None)
        self._abandon()

    def complete(self) -> bool:
        """Begin one greedy rollout from the best open node, after `stop`; False where there is none.

        For a search that ends, or was cut, before any trajectory was finished: the next `ask`
        returns the request, and its outcome ends the search.
        """
        opened = np.flatnonzero(self.tree.arena.status == Status.OPEN)
        if not self.done or not len(opened):
            return self.done and self._complete_whatever()
        scores = self.scores_of(opened)
        if np.isnan(scores).all():
            best = opened[np.argmax(self.tree.arena.depth[opened])]
        else:
            best = opened[np.nanargmax(scores)]
        self._begin(Round(Rollout, [int(best)], temperature=0.0))
        return True

    def _complete_whatever(self) -> bool:
        """Begin one greedy rollout from the question itself, where the rules have closed every path to an answer."""
        if self._ruling is None or not self._ruling.closed or any(f.answer is not None for f in self._dismissed):
            return False
        self._completed = True
        self._ruling.reopen(self)
        self._begin(Round(Rollout, [0], temperature=0.0))
        return True

    # The cycle.

    def _fill(self) -> None:
        """Begin whatever the strategy wants to begin now."""
        while self._closing is None and len(self._rounds) < MOST_ROUNDS:
            r = self._choose()
            if r is None or not r.nodes:
                break
            self._begin(r)
        if self._rounds:
            return
        if self._closing is not None:
            self.stopped_by = self._closing
            self._abandon()
        self._answer_once()

    def _begin(self, r: Round) -> None:
        """Put a round under way, as much of it as the budget allows."""
        if self.budget is not None and self.stopped_by is None and not (self._completed and self.budget.completion):
            reason = self._trim(r, self.budget)
            if reason is not None:
                self._closing = self._closing or reason
                return
        self._rounds.append(r)
        self._begun += 1
        if r.kind is Evaluate:
            return
        for node, count in zip(r.nodes, r.counts, strict=True):
            r.offsets.append(self._asked.get(node, 0))
            self._asked[node] = r.offsets[-1] + count

    def _trim(self, r: Round, budget: Budget) -> str | None:
        """Cut a round to what is left of the budget; return the limit that allows nothing of it, if any."""
        planned = self.usage + Usage()
        for earlier in self._rounds:  # what is begun is as good as spent
            unasked = len(earlier.nodes) - earlier.taken
            if earlier.kind is Evaluate:
                planned.reward_calls += unasked
            else:
                planned.policy_calls += unasked
                planned.nodes += earlier.new_nodes
        reason = budget.exceeded(planned, REWARD_LIMITS if r.kind is Evaluate else POLICY_LIMITS)
        if reason is not None:
            return reason
        left = budget.remaining(planned)
        if r.kind is Evaluate:
            r.cut(left["reward_calls"], math.inf)
            return None
        # One call is held back for the completion, unless this round itself finishes trajectories.
        held = budget.completion and r.kind is Expand and not self._finished
        r.cut(left["policy_calls"] - held, left["nodes"])
        return None if r.nodes else "policy_calls"

    def _apply(self, r: Round) -> None:
        """Apply a round and begin what follows."""
        if self.take_in(r):
            self._fill()

    def take_in(self, r: Round) -> bool:
        """Apply a round; return whether the search goes on."""
        # Removed first: should an interrupt strike in between, nothing is applied twice.
        self._rounds.remove(r)
        size, finished = len(self.tree), len(self._finished)
        nodes: list[int] = []
        scores: Scores = np.empty(0)
        follow = None
        if r.kind is Evaluate:
            nodes, scores = self.evaluated(r)
            if self._ruling is not None:
                nodes, scores = self._ruling.distinct(self, nodes, scores)
        else:
            ends = self._grow(r)
            if self.stopped_by is not None:
                return False
            follow = Search._grown(self, r, ends) if self._completed else self._grown(r, ends)
        if follow is not None and follow.nodes:
            self._begin(follow.follow(r))
        elif not self._completed:  # the completion answers, it does not steer
            self._scored(r, nodes, scores)
        fruitful = bool(nodes) or len(self.tree) > size or len(self._finished) > finished
        if fruitful or r.place != "text":  # mere words neither are progress nor tell that there is none
            self._barren = 0 if fruitful else self._barren + 1
        # Trajectories count for convergence at the end of their cycle: before, they have no scores.
        return not self._must_end(0 if follow is not None and follow.nodes else len(r.ended))

    def _must_end(self, finished: int) -> bool:
        """End the search where it has converged or gets nowhere; return whether it ended."""
        reason = "stalled" if self._barren >= MOST_BARREN or self._begun >= MOST_IN_ALL else None
        if finished and self.config.patience is not None:
            answer = self._select()[0]
            self._unchanged = self._unchanged + finished if answer == self._leading else 1
            self._leading = answer
            if self._unchanged > self.config.patience:
                reason = "converged"
        if reason is None:
            return False
        self._drop(reason)  # how much was told of later rounds depends on timing
        self._answer_once()
        return True

    def _answer_once(self) -> None:
        """Where nothing reached an answer, begin one rollout that does, once."""
        spent = self._closing is not None and self.budget is not None and not self.budget.completion
        if not self._rounds and not self._finished and not self._completed and not spent:
            self._completed = True
            self.complete()

    # The result.

    @property
    def finished(self) -> int:
        """How many trajectories have ended."""
        return len(self._finished)

    @property
    def _dismissed(self) -> list[Finished]:
        """The trajectories that the rules do not let count."""
        return [] if self._ruling is None else self._ruling.dismissed

    def _select(self) -> tuple[str | None, tuple[Any, ...], tuple[Trajectory, ...]]:
        """Return the answer so far, the votes, and the trajectories in the order they ended."""
        trajectories = tuple(self._trajectory(f) for f in self._finished or self._dismissed)
        weights = self.scoring.value([t.score for t in trajectories]).tolist()
        return *select_answer(trajectories, self.how, weights), trajectories

    def result(self) -> Result:
        """Return the best so far; valid at any moment.

        Trajectories come in the order they ended.  Of those with the selected answer, the
        best-scored one is shown, the earliest among equals.
        """
        answer, votes, trajectories = self._select()
        reason = self.stopped_by or ("finished" if self.done else "interrupted")
        best = _best(trajectories, answer)
        remarks = [] if self._ruling is None else self._ruling.remarks(best, counted=bool(self._finished))
        if answer is None and trajectories and self.question.options:
            remarks.append("no trajectory ended with one of the options")
        return Result(
            question=self.question,
            answer=answer,
            trajectory=best,
            trajectories=trajectories,
            votes=votes,
            tree=self.tree,
            usage=self.usage + Usage(),
            stopped_by=reason,
            degraded=(*self.degraded, *remarks),
            seed=self.seed,
            strategy=self.config.name,
        )

    def _trajectory(self, f: Finished) -> Trajectory:
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
        score = f.score if f.tail else float(self.scores_of([f.node])[0])
        return Trajectory(tuple(steps), f.answer, score, f.node)


def _best(trajectories: Sequence[Trajectory], answer: str | None) -> Trajectory | None:
    """Return the best-scored trajectory with this answer; without an answer, the best of all."""
    wanted = None if answer is None else normalise(answer)
    stated = [t for t in trajectories if t.answer is not None and normalise(t.answer) == wanted]
    stated = stated or list(trajectories)
    return max(stated, key=lambda t: -math.inf if math.isnan(t.score) else t.score, default=None)


__all__ = [
    "Evaluate",
    "Expand",
    "Finished",
    "Model",
    "Request",
    "Rollout",
    "Round",
    "Scores",
    "Search",
    "Strategy",
]
