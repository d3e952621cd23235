"""Several coroutines awaited together, so that none outlives whoever awaits them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any


async def gathered(awaitables: Iterable[Awaitable[Any]], keep: type[Exception] | tuple[()] = ()) -> list[Any]:
    """Return what all of them return, in their order.

    Args:
        awaitables: coroutines, tasks or futures.
        keep: errors of this kind stand for what was not returned.

    Raises:
        BaseException: the first error of another kind, once all have ended: what others have spent meanwhile is
            counted, and none goes on behind the caller's back.

    Example:
        >>> async def half(number):
        ...     if number % 2:
        ...         raise ValueError("odd")
        ...     return number // 2
        >>> asyncio.run(gathered([half(4), half(3)], keep=ValueError))
        [2, ValueError('odd')]
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await asyncio.gather(*tasks, return_exceptions=True)
    return [_outcome(task, keep) for task in tasks]


def _outcome(task: asyncio.Future[Any], keep: type[Exception] | tuple[()]) -> Any:
    """Return what a task that has ended returned, be it an error, or the error that it raised."""
    if not task.cancelled() and isinstance(error := task.exception(), keep):
        return error
    return task.result()
