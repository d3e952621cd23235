"""Work spread over processes that leave with their parent, however it ends."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")


def work(
    start: Callable[[ExitStack], Worker],
    make: Callable[[Worker, Item], Result],
    items: Sequence[Item],
    jobs: int,
) -> Iterator[Result]:
    """Yield the results of some items, each as soon as it is there.

    Args:
        start: called once a process; what it puts on the stack is closed at the end.
        make: makes the result of an item; like ``start`` it must be a function of a module.
        items: what to work on, in this order.
        jobs: processes; with one, all is done in this process.

    Raises:
        BaseException: what ``start`` or ``make`` raised; items that were not begun are dropped.

    Example:
        >>> list(work(lambda stack: 10, lambda ten, item: ten + item, [1, 2], jobs=1))
        [11, 12]
    """
    if min(jobs, len(items)) > 1:
        yield from _in_pool(start, make, items, min(jobs, len(items)))
    elif items:
        with ExitStack() as stack:
            worker = start(stack)
            for item in items:
                yield make(worker, item)


def _in_pool(start: Any, make: Any, items: Sequence[Any], jobs: int) -> Iterator[Any]:
    # Fresh processes: a forked copy has copies of its parent's locks, held or not.
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (start,))
    try:
        for future in as_completed([pool.submit(_make, make, item) for item in items]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_own: list[Any] = []  # what `start` gave in this process


def _begin(start: Callable[[ExitStack], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which says when to stop
    Thread(target=_follow_the_parent, daemon=True).start()
    stack = ExitStack()
    atexit.register(stack.close)
    _own[:] = [start(stack)]


def _follow_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()  # returns when it is gone: one that was killed tells nobody
    os._exit(1)


def _make(make: Callable[[Any, Any], Any], item: Any) -> Any:
    return make(_own[0], item)
