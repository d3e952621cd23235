"""Merges what clients ask at the same time into calls of one model.

    while something waits:
        batch    = what waits, in its order, up to a weight; what nobody waits for any more is dropped
        outcomes = call(batch)          in the one thread that the model has
        hand out the outcomes, each with its share of what the model says it has spent

Nothing waits for company: a call is made as soon as the model is idle, and what comes meanwhile makes up the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .. import _calls
from .._budget import Usage
from .._types import Question

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Job(Generic[T]):
    item: T
    weight: int
    answer: asyncio.Future[tuple[Any, Usage]]


class Batcher(Generic[T]):
    """Calls one model for many clients, from one event loop.

    Args:
        model: what is called; its ``usage`` is read before and after.
        call: takes several items and returns an outcome for each, an exception for one that failed.
        acall: the same as a coroutine, for a model that takes several calls at a time: every item is a call of its
            own then, in the event loop; None: ``call`` in one thread.
        batch: most weight of a call; one item alone may have more.

    Attributes:
        calls: how many were made.
        items: how many items were in them.
    """

    def __init__(
        self,
        model: Any,
        call: Callable[[Sequence[T]], list[Any]],
        acall: Callable[[Sequence[T]], Awaitable[list[Any]]] | None,
        batch: int,
    ) -> None:
        self.model, self._call, self._acall, self.batch = model, call, acall, batch
        self.calls = self.items = 0
        self._waiting: deque[_Job[T]] = deque()
        self._thread = ThreadPoolExecutor(1, "svip-search-model")
        self._task: asyncio.Task[None] | None = None
        self._reported = _calls.reported(model)

    async def ask(self, item: T, weight: int) -> tuple[Any, Usage]:
        """Return the outcome of an item, and what it cost as far as the model tells.

        An item whose task is cancelled before its call begins is never asked.
        """
        if self._acall is not None:
            self.calls, self.items = self.calls + 1, self.items + 1
            (outcome,) = await self._acall([item])
            return outcome, self._spent()
        job = _Job(item, weight, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await job.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            self.calls, self.items = self.calls + 1, self.items + len(batch)
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, batch)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # a SystemExit of a model must not end the server
                answers = [(error, Usage())] * len(batch)
            for job, answer in zip(batch, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)

    def _next(self) -> list[_Job[T]]:
        """Take the next batch from the queue."""
        batch: list[_Job[T]] = []
        room = self.batch
        while self._waiting:
            job = self._waiting[0]
            if job.answer.done():  # its client has gone
                self._waiting.popleft()
                continue
            if batch and job.weight > room:
                break
            batch.append(self._waiting.popleft())
            room -= job.weight
        return batch

    def _answer(self, batch: Sequence[_Job[T]]) -> list[tuple[Any, Usage]]:
        outcomes = self._call([job.item for job in batch])
        shares = _calls.share(self._spent(), [max(job.weight, 1) for job in batch])
        return list(zip(outcomes, shares, strict=True))

    def _spent(self) -> Usage:
        """Return what the model reports beyond the last time."""
        now = _calls.reported(self.model)
        spent, self._reported = now - self._reported, now
        return spent

    async def forget(self, question: Question) -> None:
        """Let the model free what it keeps for a question, between two of its calls."""
        if not callable(forget := getattr(self.model, "forget", None)):
            return
        if self._acall is not None:
            forget(question)
        else:
            await asyncio.get_running_loop().run_in_executor(self._thread, forget, question)

    async def close(self) -> None:
        """End: what waits is given up, a call that is under way is not waited for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for job in self._waiting:
            job.answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if callable(release := getattr(self.model, "arelease", None)):
            await release()
