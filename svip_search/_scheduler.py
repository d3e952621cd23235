"""Many searches, one policy, one reward model: who is asked what next, and whose answer is whose.

No barriers: a search asks as soon as its own tree allows it, and a call is made of whatever is ready
across searches and questions::

    open searches, up to `Schedule.searches`
    each lane (policy, reward):  call = the ready requests of the searches that were served least,
                                        up to `batch`, while less than `slots` are in flight
    outcomes come back:          every search takes its own, and may be ready again
    a search ends:               its result leaves at once, its memory is given back, another is opened

This part does no input or output and reads no clock but the one it is given; `_solve.py` drives it with
models, tests drive it through virtual time.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ._budget import Budget, Usage
from ._calls import Item, share
from ._schedule import LaneStats, RunStats, Schedule
from ._types import ProposeRequest, Result
from .strategies import Evaluate, Request, Search, advance_all

Model = Literal["policy", "reward"]
Clock = Callable[[], float]
#: Nodes of one search in one request.
REQUEST = 64
#: Seconds by which a timer may fire early: event loops round.
ROUNDING = 1e-6


class Job:
    """A search with its deadline and what it has spent."""

    def __init__(self, index: int, search: Search, budget: Budget | None, priority: float, now: float) -> None:
        self.index = index
        self.search = search
        self.budget = budget
        self.priority = priority
        self.start = now
        self.served = 0  # candidates and paths asked, in both lanes
        self.ready: dict[Model, float] = {}  # since when it waits in a lane
        self.settled = Usage()  # what the run's ledger knows of
        self.closed = False

    @property
    def deadline(self) -> float:
        """When its time is up."""
        seconds = self.budget.seconds if self.budget is not None else None
        return math.inf if seconds is None else self.start + seconds

    def usage(self, now: float) -> Usage:
        """Return all that was spent until now."""
        return self.search.usage + Usage(seconds=now - self.start)

    def cut(self, reason: str, complete: bool = True) -> None:
        """End the search; where nothing is finished and its budget allows it, begin a completion."""
        search = self.search
        if search.stopped_by is not None:  # in its completion
            search.abort()
            return
        search.stop(reason)
        if complete and not search.finished and (self.budget is None or self.budget.completion):
            search.complete()


@dataclass
class Call:
    """Requests of several searches that go to a model together.

    Attributes:
        requests: for the policy, one entry a node.
        items: for the reward model, one entry a request.
        outcome_model: whether the second of a pair of reward models is meant.
    """

    id: int
    model: Model
    parts: list[tuple[Job, Request, int]]  # how many entries each request has
    size: int
    outcome_model: bool = False
    requests: list[ProposeRequest] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


class Lane:
    """One model's queue.

    Args:
        model: which.
        batch: most candidates or paths in a call.
        slots: most in flight.
        calls: most calls in flight.
        wait: seconds that a call may wait while others are in flight.
        single: every call holds one node, as servers take them.
    """

    def __init__(
        self, model: Model, batch: int, slots: int, calls: float = 1, wait: float = 0.0, *, single: bool = False
    ) -> None:
        self.model = model
        self.batch, self.slots, self.calls, self.wait, self.single = batch, slots, calls, wait, single
        self.queue: list[tuple[float, int, int, Job]] = []
        self.in_flight: dict[int, Call] = {}
        self.busy = 0
        self.stats = LaneStats()
        self._now: float | None = None
        self._since = 0.0  # when what is queued began to wait

    def pass_time(self, now: float) -> None:
        """Account for the time since the last change."""
        if self._now is not None:
            self.stats.busy += self.busy * (now - self._now)
        self._now = now

    def push(self, job: Job, now: float) -> None:
        """Queue a search that has something to ask, once."""
        if self.model not in job.ready and job.search.wants(self.model) is not None:
            job.ready[self.model] = now
            self._since = self._since if self.queue else now
            heapq.heappush(self.queue, (-job.priority, job.served, job.index, job))

    def peek(self) -> Job | None:
        """Return the search to be served next, dropping those that have nothing to ask any more."""
        while self.queue:
            job = self.queue[0][-1]
            if not job.closed and job.search.wants(self.model) is not None:
                return job
            self.pop()
        return None

    def pop(self) -> float:
        """Take the first search out of the queue; return since when it waited."""
        job = heapq.heappop(self.queue)[-1]
        return job.ready.pop(self.model)

    def due(self, now: float) -> float:
        """Return when the next call may be made: now, later, or never as things are."""
        job = self.peek()
        if job is None or len(self.in_flight) >= self.calls:
            return math.inf
        if self.in_flight and self.busy + job.search.width(self.model) > self.slots:
            return math.inf
        if not self.in_flight or not self.wait or self._waiting() >= self.batch:
            return now
        return max(now, self._since + self.wait)

    def _waiting(self) -> int:
        """Return how many candidates or paths a node of each queued search asks, no further than a batch."""
        waiting = 0
        for *_, job in self.queue:
            waiting += job.search.width(self.model)
            if waiting >= self.batch:
                break
        return waiting

    def fits(self, call: Call, job: Job) -> bool:
        """Whether at least one node of a search's next request goes into a call."""
        if not call.parts:
            return True  # `due` has looked; and a request larger than everything is asked alone
        if self.single or call.outcome_model != (self.model == "reward" and job.search.wants_outcome()):
            return False
        size = call.size + job.search.width(self.model)
        return size <= self.batch and self.busy + size <= self.slots

    def enter(self, call: Call, now: float) -> None:
        """Count a call in."""
        self.pass_time(now)
        self.in_flight[call.id] = call
        self.busy += call.size
        self._since = now
        self.stats.calls += 1
        self.stats.size += call.size
        self.stats.searches += len({job.index for job, _, _ in call.parts})

    def leave(self, call: Call, now: float) -> None:
        """Count a call out."""
        self.pass_time(now)
        del self.in_flight[call.id]
        self.busy -= call.size


class Scheduler:
    """The searches of a run.

    Args:
        schedule: sizes and waits.
        jobs: what makes the searches, one after another as they are opened; given the time.
        policy_lane, reward_lane: the two queues.
        run_budget: limits on all searches together.
        total: how many questions there are, where that is known.

    Notes:
        Not thread-safe: one thread drives it.
    """

    def __init__(
        self,
        schedule: Schedule,
        jobs: Iterator[Callable[[float], Job]],
        policy_lane: Lane,
        reward_lane: Lane,
        run_budget: Budget | None = None,
        total: int | None = None,
    ) -> None:
        self.schedule = schedule
        self.lanes: dict[Model, Lane] = {"policy": policy_lane, "reward": reward_lane}
        self.run_budget = run_budget
        self.clock: Clock = time.monotonic
        self.ended_by: str | None = None  # why no more searches are opened
        self.open: dict[int, Job] = {}
        self.ended: deque[tuple[int, Result]] = deque()
        self._jobs: Iterator[Callable[[float], Job]] | None = jobs
        self._start = self.clock()
        self._next_call = 0
        self._done = 0
        self._ledger = Usage()  # of all searches
        self._late = Usage()
        self._deadlines: list[tuple[float, int]] = []
        self._calls: dict[int, Call] = {}
        self._heard: dict[int, Job] = {}
        self._total = total

    def begin(self, clock: Clock) -> None:
        """Start the clock, which tells seconds."""
        self.clock = clock
        self._start = clock()

    # Opening and ending.

    def admit(self) -> None:
        """Open searches while there is room for them."""
        while self._jobs is not None and len(self.open) < self.schedule.searches:
            self.expire()
            if self.ended_by is not None:
                return
            make = next(self._jobs, None)
            if make is None:
                self._jobs = None
                return
            self.add(make(self.clock()))

    def add(self, job: Job) -> None:
        """Open one search."""
        self.open[job.index] = job
        if job.deadline < math.inf:
            heapq.heappush(self._deadlines, (job.deadline, job.index))
        self._queue(job)

    def _queue(self, job: Job) -> None:
        """Let a search wait for its turn; one that has ended leaves."""
        if job.closed:
            return
        self._settle(job)
        if job.search.done:
            self._close(job)
            return
        now = self.clock()
        for lane in self.lanes.values():
            lane.push(job, now)

    def _close(self, job: Job) -> None:
        """Let a search that has ended leave, with its result."""
        self._settle(job)
        job.closed = True
        self.open.pop(job.index, None)
        usage = job.usage(self.clock())
        self._done += 1
        self.ended.append((job.index, replace(job.search.result(), usage=usage)))

    @property
    def done(self) -> bool:
        """Whether every search has ended."""
        return not self.open and (self._jobs is None or self.ended_by is not None)

    def cancel(self, index: int, reason: str = "cancelled") -> bool:
        """End one open search now, without a completion; False where it is not open."""
        job = self.open.get(index)
        if job is None:
            return False
        job.search.stop(reason)
        job.search.abort()
        self._close(job)
        return True

    def stop(self, reason: str, complete: bool = True) -> None:
        """Open no more searches, and end those that are open: each may complete one trajectory."""
        self.ended_by = self.ended_by or reason
        for job in list(self.open.values()):
            job.cut(reason, complete)
            self._queue(job)

    # Calls.

    def next_call(self, model: Model) -> Call | None:
        """Return a call to be made now, None where there is nothing to ask or no room."""
        lane, now = self.lanes[model], self.clock()
        self.expire()
        if lane.due(now) > now + ROUNDING:
            return None
        call = Call(self._next_call, model, [], 0)
        while (job := lane.peek()) is not None and lane.fits(call, job) and (most := self._most(lane, call, job)):
            self._serve(lane, call, job, now, most)
        if not call.parts:
            return None
        self._next_call += 1
        self._calls[call.id] = call
        lane.enter(call, now)
        return call

    def _most(self, lane: Lane, call: Call, job: Job) -> int:
        """Return how many nodes of a search's next request may go into a call; 0 ends a run without budget."""
        room = min(lane.batch, lane.slots - lane.busy) - call.size
        most = 1 if lane.single else max(1, min(REQUEST, room // job.search.width(lane.model)))
        if self.run_budget is None or self.ended_by is not None:
            return most
        left = self.run_budget.remaining(self._spent())
        return int(min(most, left["policy_calls" if lane.model == "policy" else "reward_calls"]))

    def _serve(self, lane: Lane, call: Call, job: Job, now: float, most: int) -> None:
        """Move up to ``most`` nodes of a search's next request into a call."""
        search = job.search
        call.outcome_model = lane.model == "reward" and search.wants_outcome()
        request = search.take(lane.model, most)
        lane.stats.waited += now - lane.pop()
        lane.stats.requests += 1
        if isinstance(request, Evaluate):
            call.items.append((search.question, search.paths(request)))
            size = count = len(request.nodes)
        else:
            asked = search.requests_for(request)
            call.requests += asked
            size, count = request.n * len(asked), len(asked)
        call.parts.append((job, request, count))
        call.size += size
        job.served += size
        if self.run_budget is not None:
            self._settle(job)
        lane.push(job, now)

    def told(self, call_id: int, outcomes: Sequence[Any], spent: Usage | None = None) -> None:
        """Hand the outcomes of a call to their searches, and let these go on: `hear`, then `advance`."""
        self.hear(call_id, outcomes, spent)
        self.advance()

    def hear(self, call_id: int, outcomes: Sequence[Any], spent: Usage | None = None) -> None:
        """Take in the outcomes of a call; a call that was told already is ignored.

        Args:
            call_id: of a `Call`.
            outcomes: for the policy one entry a request of the call, for the reward model one list an item.
            spent: what the model reports it has spent on the call; shared out by number of entries.

        Raises:
            KeyError: no such call was ever made.
        """
        call = self._calls.pop(call_id, None)
        if call is None:
            if 0 <= call_id < self._next_call:
                return
            raise KeyError(f"`call_id` must be the id of a call of this run; got {call_id!r}.")
        self.lanes[call.model].leave(call, self.clock())
        shares = share(_reported_part(call.model, spent or Usage()), [count for _, _, count in call.parts])
        position = 0
        for i, (job, request, count) in enumerate(call.parts):
            outcome: Any = outcomes[i] if call.model == "reward" else list(outcomes[position : position + count])
            position += count
            if not job.search.expects(request.id) and call.model == "policy":
                shares[i].policy_tokens = _tokens(outcome)
            if job.closed:
                self._late += shares[i]
                self._ledger += shares[i]
                continue
            job.search.charge(shares[i])
            job.search.hear(request.id, outcome)
            self._heard[job.index] = job

    def advance(self) -> None:
        """Let the searches that have heard something go on, all together."""
        heard, self._heard = list(self._heard.values()), {}
        advance_all([job.search for job in heard])
        for job in heard:
            self._queue(job)

    def _settle(self, job: Job) -> None:
        """Enter what a search has spent since the last time into the run's ledger."""
        used = job.search.usage + Usage()
        self._ledger += used - job.settled
        job.settled = used

    # Limits.

    def expire(self) -> None:
        """Cut the searches whose time is up, and all of them where the run's budget is."""
        now = self.clock()
        while self._deadlines and self._deadlines[0][0] <= now + ROUNDING:
            job = self.open.get(heapq.heappop(self._deadlines)[1])
            if job is not None:
                job.cut("seconds", complete=False)
                self._queue(job)
        if self.run_budget is not None and self.ended_by is None:
            reason = self.run_budget.exceeded(self._spent())
            if reason is not None:
                self.stop(f"run_{reason}", self.run_budget.completion and reason != "seconds")

    def _spent(self) -> Usage:
        """All that the run has spent, with the call that each open search may still need to complete."""
        used = self.usage()
        used.seconds = self.clock() - self._start
        if self.run_budget is not None and self.run_budget.completion and self.run_budget.policy_calls is not None:
            used.policy_calls += sum(not job.search.finished for job in self.open.values())
        return used

    def next_event(self) -> float:
        """Return when to look again if nothing else happens: a deadline, or the end of a wait."""
        now = self.clock()
        first = self._deadlines[0][0] if self._deadlines else math.inf
        if self.run_budget is not None and self.run_budget.seconds is not None and self.ended_by is None:
            first = min(first, self._start + self.run_budget.seconds)
        return min(first, *(lane.due(now) for lane in self.lanes.values()))

    # What it has come to.

    def usage(self) -> Usage:
        """Return what all searches have spent until now, ``seconds`` aside."""
        return self._ledger + Usage()

    def stats(self) -> RunStats:
        """Return a snapshot of the run."""
        now = self.clock()
        for lane in self.lanes.values():
            lane.pass_time(now)
        policy = self.lanes["policy"]
        return RunStats(
            self._done,
            len(self.open),
            self._total,
            self.usage(),
            self._late + Usage(),
            replace(policy.stats),
            replace(self.lanes["reward"].stats),
            policy.slots,
            policy.busy,
            now - self._start,
        )


def _reported_part(model: Model, spent: Usage) -> Usage:
    """Keep what only the model knows; the rest is counted by the searches."""
    if model == "policy":
        return Usage(prompt_tokens=spent.prompt_tokens, cached_policy_tokens=spent.cached_policy_tokens)
    return Usage(reward_tokens=spent.reward_tokens, cached_reward_tokens=spent.cached_reward_tokens)


def _tokens(outcome: list[Any]) -> int:
    """Count the tokens of candidates that nobody will look at any more."""
    total = 0
    for continuations in outcome:
        for steps in continuations if isinstance(continuations, (list, tuple)) else ():
            for step in steps if isinstance(steps, (list, tuple)) else ():
                tokens = getattr(step, "tokens", 0)
                total += tokens if isinstance(tokens, int) else 0
    return total
