"""Virtual time: models that take their time, in an event loop whose clock need not.

What a scheduler does under a given load is found out in milliseconds, and the same each time::

    policy = SlowPolicy(HashPolicy(), slots=16)
    results = run_virtual(collect(solve_many(questions, policy, reward)))
    policy.busy     # share of its slots that were in use
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from math import log
from random import Random
from typing import Any, TypeVar

from ._drive import Run
from ._types import Policy, ProposeRequest, Question, Result, RewardModel

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the loop's clock to it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if not events and timeout is None:
            raise RuntimeError("nothing will ever happen: every task waits for another")
        if not events and timeout is not None:
            self.loop.now += max(timeout, 0.0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which `asyncio.sleep` takes no time but ``loop.time()`` passes.

    Raises:
        RuntimeError: nothing is ready and no timer runs, which on a real clock would hang.

    Notes:
        For code that only sleeps and computes: threads and sockets are not waited for.
    """

    def __init__(self) -> None:
        selector = _Jumping()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual seconds that have passed."""
        return self.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, run in virtual time.

    Raises:
        RuntimeError: it would wait for ever, or has left tasks behind.

    Example:
        >>> import asyncio, time
        >>> start = time.monotonic()
        >>> run_virtual(asyncio.sleep(3600))
        >>> time.monotonic() - start < 10
        True
    """
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(main)
        loop.run_until_complete(asyncio.sleep(0))  # tasks that were cancelled end here
        left = asyncio.all_tasks(loop)
        if left:
            raise RuntimeError(f"{len(left)} tasks were left behind")
        return result
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()


async def collect(run: Run) -> dict[int, Result]:
    """Return all results of a run by their index."""
    return {index: result async for index, result in run}


class SlowPolicy:
    """A policy on a server: so many slots, first come first served, each candidate takes its time.

    Args:
        policy: what it answers.
        slots: candidates worked at a time.
        mean: seconds a candidate takes on average, log-normally distributed.
        sigma: of the logarithm.
        errors: share of requests that fail instead, after their time.
        seed: of the times and errors.

    Attributes:
        worked: slot-seconds in use until now.
    """

    def __init__(
        self,
        policy: Policy,
        slots: int = 16,
        *,
        mean: float = 0.02,
        sigma: float = 0.6,
        errors: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.server_slots = slots
        self.slots = 2 * slots  # a caller that stays ahead of the server
        self.location = float(log(mean) - sigma * sigma / 2)
        self.sigma = sigma
        self.errors = errors
        self.random = Random(seed)
        self.worked = 0.0
        self._free = asyncio.Semaphore(slots)

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        """Return the continuations of each request, after a while."""
        candidates = [self._candidate() for request in requests for _ in range(request.n)]
        await asyncio.gather(*candidates)
        if self.random.random() < self.errors:
            raise ConnectionError("the server went away")
        return list(self.policy.propose(requests))

    async def _candidate(self) -> None:
        async with self._free:
            seconds = self.random.lognormvariate(self.location, self.sigma)
            await asyncio.sleep(seconds)
            self.worked += seconds


class SlowReward:
    """A reward model that answers one call at a time.

    Args:
        reward: what it answers.
        call: seconds a call takes, whatever is in it.
        path: seconds that each path adds.
        jitter: largest share by which a call takes longer, drawn uniformly.
        errors: share of calls that fail.
        seed: of jitter and errors.

    Attributes:
        sizes: paths of each call until now.
    """

    def __init__(
        self,
        reward: RewardModel,
        *,
        call: float = 0.01,
        path: float = 0.0,
        jitter: float = 0.0,
        errors: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.reward = reward
        self.kind = reward.kind
        self.call, self.path, self.jitter, self.errors = call, path, jitter, errors
        self.random = Random(seed)
        self.sizes: list[int] = []
        self._turn = asyncio.Semaphore(1)

    async def aevaluate_many(self, items: Sequence[tuple[Question, Any]]) -> list[Any]:
        """Return the rewards of each item's paths, after a while."""
        paths = sum(len(one) for _, one in items)
        async with self._turn:
            self.sizes.append(paths)
            await asyncio.sleep((self.call + self.path * paths) * (1 + self.jitter * self.random.random()))
        if self.random.random() < self.errors:
            raise ConnectionError("the server went away")
        return [self.reward.evaluate(question, one) for question, one in items]
