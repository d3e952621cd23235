"""Two loops that drive a scheduler with models.

Models that answer in the calling thread are called there, one call at a time.  Models with coroutines
(``apropose``, ``aevaluate_many``) are called in an event loop, many at a time: in the caller's own where
there is one to await in, else in a thread of its own, at whose end ``arelease`` lets a model close what it
has opened there.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import _calls
from ._budget import Usage
from ._schedule import RunStats, Schedule
from ._scheduler import Call, Lane, Model, Scheduler
from ._types import Policy, Question, Result, RewardModel
from .strategies import Search

if TYPE_CHECKING:  # imported where they are used: whoever calls models in this thread is spared their cost
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

#: Candidates in flight where neither the schedule nor an asynchronous policy says how many.
SLOTS = 64
#: Seconds between two looks at ``interrupt`` and ``progress`` while nothing else happens.
LOOK = 0.2
STUCK = "no search can go on, and none has ended: a strategy waits for nothing"

Progress = Callable[[Search, Usage], None]
Watch = Callable[[RunStats], None]
Interrupt = Callable[[], bool]


class Run:
    """An iterator over the results of many searches, which can be watched and steered.

    `solve_many` makes it; nothing is asked before the first result is.

    Example:
        >>> from svip_search import solve_many
        >>> from svip_search.testing import HashPolicy
        >>> run = solve_many(["Which?"] * 3, HashPolicy(), strategy="greedy")
        >>> len(list(run)), run.stats().done
        (3, 3)
    """

    def __init__(
        self,
        scheduler: Scheduler,
        policy: Policy,
        reward: RewardModel | None,
        progress: Progress | None,
        interrupt: Interrupt | None,
    ) -> None:
        self._scheduler = scheduler
        self._callers: dict[Model, _Caller] = {
            "policy": _Caller(policy, scheduler.schedule.timeout),
            "reward": _Caller(reward, scheduler.schedule.timeout),
        }
        self._progress, self._interrupt = progress, interrupt
        #: Called with the statistics now and then.
        self.watch: Watch | None = None
        #: Whether Ctrl-C is raised again at the end, and models are told which questions they may forget.
        self.raise_interrupt = self.forget = False
        self._keyboard = self._threaded = False
        self._error: BaseException | None = None
        self._answers: list[tuple[int, list[Any], Usage]] = []  # that have come and were not taken yet
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._results: Iterator[tuple[int, Result]] | None = None
        self._aresults: Any = None

    # What a caller sees.

    def stats(self) -> RunStats:
        """Return a snapshot: questions, usage, slots, batches, pace."""
        return self._scheduler.stats()

    def cancel(self, index: int) -> None:
        """End the search of one question, which yields what it has; one that is not open is left alone."""
        self._steer(lambda: self._scheduler.cancel(index))

    def stop(self, reason: str = "interrupted") -> None:
        """Open no more searches and end those that are open; their results are still yielded."""
        self._steer(lambda: self._scheduler.stop(reason))

    def _steer(self, action: Callable[[], Any]) -> None:
        """Act on the scheduler, in its own thread."""
        if self._loop is None:
            action()
            return

        def act() -> None:
            action()
            if self._wake is not None:
                self._wake.set()

        self._loop.call_soon_threadsafe(act)

    def __iter__(self) -> Run:
        return self

    def __next__(self) -> tuple[int, Result]:
        if self._results is None:
            inline = not any(caller.asynchronous for caller in self._callers.values())
            self._results = self._inline() if inline else self._in_thread()
        return next(self._results)

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> tuple[int, Result]:
        if self._aresults is None:
            self._aresults = self._drive()
        result: tuple[int, Result] = await anext(self._aresults)
        return result

    def close(self) -> None:
        """End the run; what is open is lost."""
        if self._results is not None:
            self._results.close()  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """End the run; what is open is lost."""
        if self._aresults is not None:
            await self._aresults.aclose()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # The loop in the calling thread.

    def _inline(self) -> Iterator[tuple[int, Result]]:
        scheduler = self._scheduler
        scheduler.begin(time.monotonic)
        while not scheduler.done:
            call: Call | None = None
            try:
                scheduler.admit()
                self._ask_interrupt()
                calls = 0
                for model, caller in self._callers.items():
                    if (call := scheduler.next_call(model)) is not None:
                        scheduler.told(call.id, *caller.answer(call))
                        calls, call = calls + 1, None
                if not calls and not scheduler.ended and scheduler.open:
                    raise RuntimeError(STUCK)
                self._report()
            except KeyboardInterrupt:
                if scheduler.ended_by is not None:
                    raise
                self._keyboard = True
                scheduler.stop("interrupted")
                if call is not None:
                    scheduler.told(call.id, [KeyboardInterrupt()] * (len(call.requests) or len(call.items)))
            yield from self._ended()
        yield from self._ended()
        self._report()
        self._raise_again()

    def _ended(self) -> Iterator[tuple[int, Result]]:
        """Yield the results that are there."""
        while self._scheduler.ended:
            index, result = self._scheduler.ended.popleft()
            if self.forget:
                for caller in self._callers.values():
                    caller.forget(result.question)
            yield index, result

    def _ask_interrupt(self) -> None:
        if self._interrupt is not None and self._scheduler.ended_by is None and self._interrupt():
            self._scheduler.stop("interrupted")

    def _report(self) -> None:
        if self._progress is not None:
            for job in self._scheduler.open.values():
                self._progress(job.search, job.usage(self._scheduler.clock()))
        if self.watch is not None:
            self.watch(self.stats())

    def _raise_again(self) -> None:
        """Raise the Ctrl-C that ended the searches, now that their results are out."""
        if self._keyboard and self.raise_interrupt:
            raise KeyboardInterrupt

    # The loop in an event loop.

    async def _drive(self) -> AsyncIterator[tuple[int, Result]]:
        import asyncio

        scheduler = self._scheduler
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        scheduler.begin(self._loop.time)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while not scheduler.done:
                self._wake.clear()
                if self._error is not None and self._threaded and not isinstance(self._error, Exception):
                    return  # it would end this thread before anybody hears of it
                if self._error is not None:
                    raise self._error
                self._take_answers()
                scheduler.admit()
                self._ask_interrupt()
                for model, caller in self._callers.items():
                    while (call := scheduler.next_call(model)) is not None:
                        task = asyncio.create_task(self._answer(caller, call))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                self._report()
                if scheduler.ended:
                    for pair in self._ended():
                        yield pair
                elif not scheduler.done:
                    await self._pause(any(not task.done() for task in tasks))
            for pair in self._ended():
                yield pair
            self._report()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for caller in self._callers.values():
                caller.close()
            self._loop = None

    async def _answer(self, caller: _Caller, call: Call) -> None:
        """Make one call and note its outcome."""
        import asyncio

        try:
            outcomes, spent = await caller.aanswer(call)
            self._answers.append((call.id, outcomes, spent))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # of this library or of a strategy: nobody awaits the task
            self._error = error
        if self._wake is not None:
            self._wake.set()

    def _take_answers(self) -> None:
        """Hand over what has come since the last time, and let all searches concerned go on together."""
        answers, self._answers = self._answers, []
        for answer in answers:
            self._scheduler.hear(*answer)
        self._scheduler.advance()

    async def _pause(self, working: bool) -> None:
        """Wait until an answer comes, or something is due."""
        import asyncio

        assert self._wake is not None
        left = self._scheduler.next_event() - self._scheduler.clock()
        if not working and left == math.inf:
            raise RuntimeError(STUCK)
        if self._interrupt is not None or self.watch is not None:
            left = min(left, LOOK)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if left == math.inf else max(left, 0.0))

    def _in_thread(self) -> Iterator[tuple[int, Result]]:
        """Drive an event loop of its own, from a thread that may have one running."""
        import asyncio

        self._threaded = True
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="svip-search", daemon=True)
        thread.start()
        try:
            while True:
                future = asyncio.run_coroutine_threadsafe(self.__anext__(), loop)
                while True:
                    try:
                        pair = future.result()
                        break
                    except StopAsyncIteration:
                        if self._error is not None:
                            raise self._error from None
                        self._raise_again()
                        return
                    except KeyboardInterrupt:
                        if self._keyboard or future.done():
                            raise
                        self._keyboard = True
                        self.stop()
                yield pair
        finally:
            asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _shut_down(self) -> None:
        """End whatever still runs in this event loop, an answer that is being waited for included."""
        import asyncio

        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.aclose()
        for caller in self._callers.values():
            await caller.release()


class _Caller:
    """Calls one model, with or without coroutines, and tells what it spent."""

    def __init__(self, model: Any, timeout: float | None) -> None:
        self.model = model
        self.timeout = timeout
        able = [_has_coroutine(one) for one in (model, getattr(model, "outcome", None)) if one is not None]
        self.asynchronous = any(able)
        #: Whether of a pair of reward models one is called in a thread: there, questions are forgotten too.
        self._mixed = self.asynchronous and not all(able)
        self._reported = _calls.reported(model)
        self._forgotten: list[Question] = []
        self._lock = threading.Lock()  # of what was reported and what is to be forgotten
        self._thread: ThreadPoolExecutor | None = None

    def answer(self, call: Call) -> tuple[list[Any], Usage]:
        """Make a call in this thread."""
        self._forget_now()
        model = self._asked(call)
        if call.model == "policy":
            outcomes = _calls.propose(model, call.requests)
        else:
            outcomes = _calls.evaluate(model, call.items)
        return outcomes, self._spent()

    async def aanswer(self, call: Call) -> tuple[list[Any], Usage]:
        """Make a call without blocking the event loop."""
        model = self._asked(call)
        if not _has_coroutine(model):
            return await self._in_thread(call)
        if not self._mixed:
            self._forget_now()
        if call.model == "policy":
            outcomes = await _calls.apropose(model, call.requests, self.timeout)
        else:
            outcomes = await _calls.aevaluate(model, call.items, self.timeout)
        return outcomes, self._spent()

    def _asked(self, call: Call) -> Any:
        return self.model.outcome if call.outcome_model else self.model

    async def _in_thread(self, call: Call) -> tuple[list[Any], Usage]:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        self._thread = self._thread or ThreadPoolExecutor(1, "svip-search-model")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.answer, call)

    def _spent(self) -> Usage:
        """Return what the model reports beyond the last time: of several calls at once, the first to end pays."""
        with self._lock:
            now = _calls.reported(self.model)
            spent, self._reported = now - self._reported, now
        return spent

    def forget(self, question: Question) -> None:
        """Let the model free what it keeps for a question, before its next call."""
        if callable(getattr(self.model, "forget", None)):
            with self._lock:
                self._forgotten.append(question)

    def _forget_now(self) -> None:
        with self._lock:
            forgotten, self._forgotten = self._forgotten, []
        for question in forgotten:
            with contextlib.suppress(Exception):  # what a model raises never ends a search
                self.model.forget(question)

    async def release(self) -> None:
        """Let the model close what it keeps open in this event loop, which ends now."""
        if callable(getattr(self.model, "arelease", None)):
            await self.model.arelease()

    def close(self) -> None:
        """Let the thread end after the call it is in."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _has_coroutine(model: Any) -> bool:
    return any(callable(getattr(model, name, None)) for name in ("apropose", "aevaluate_many"))


def _declared(model: Any, name: str, attribute: str, default: int) -> int:
    """Return what a model says about itself."""
    value = getattr(model, attribute, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must have a positive integer `{attribute}`, or none; got {value!r}.")
    return value


def policy_lane(policy: Any, schedule: Schedule) -> Lane:
    """Return the queue of the policy, as large as the schedule or the policy says."""
    if not callable(getattr(policy, "apropose", None)):
        slots = schedule.policy_slots or schedule.policy_batch
        return Lane("policy", min(schedule.policy_batch, slots), slots, 1, schedule.policy_wait)
    slots = schedule.policy_slots or _declared(policy, "policy", "slots", SLOTS)
    return Lane("policy", slots, slots, math.inf, 0.0, single=True)


def reward_lane(reward: Any, schedule: Schedule) -> Lane:
    """Return the queue of the reward model, as large as the schedule or the model says."""
    batch = schedule.reward_batch
    if not callable(getattr(reward, "aevaluate_many", None)):
        slots = schedule.reward_slots or batch
        return Lane("reward", min(batch, slots), slots, 1, schedule.reward_wait)
    # Requests that come while a call is out make up the next one; a model may say that it answers several at once.
    calls = _declared(reward, "reward", "concurrent_calls", 1)
    slots = schedule.reward_slots or batch * calls
    return Lane("reward", min(batch, slots), slots, calls, schedule.reward_wait)
