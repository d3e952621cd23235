"""Ctrl-C once and twice, for whoever runs something long."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from .runner import Abandoned


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end what is done within as Ctrl-C does, by KeyboardInterrupt; without effect in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def without_keyboard() -> Iterator[None]:
    """Put Ctrl-C off; processes that are started within never hear it, not even before they could ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stop:
    """How often somebody has asked a run to end: what `run` takes as its ``interrupt``.

    ::

        with (stop := Stop()).listening():
            run(..., interrupt=stop)

    Args:
        told: called with ``level`` whenever it rises.
        raises: whether the second request raises `Abandoned` in whatever the main thread does, rather than
            wait until somebody looks at ``level``.

    Attributes:
        level: 0 go on; 1 end once the open searches have ended; 2 end at once.
    """

    def __init__(self, told: Callable[[int], None] | None = None, *, raises: bool = True) -> None:
        self.level = 0
        self.told = told
        self.raises = raises
        self._heeded: list[signal.Signals] = []

    def __call__(self) -> int:
        return self.level

    def request(self) -> None:
        """Ask once more; a third time ends the process on the spot."""
        self.level += 1
        if self.level > 2:
            os._exit(130)
        if self.told is not None:
            self.told(self.level)
        if self.level == 2 and self.raises:
            raise Abandoned

    @contextlib.contextmanager
    def listening(self, *, keyboard: bool = True) -> Iterator[None]:
        """Take SIGTERM, and Ctrl-C unless not ``keyboard``, for a request; only the main thread can."""
        self._heeded = [signal.SIGTERM, signal.SIGINT] if keyboard else [signal.SIGTERM]
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self._heard) for number in self._heeded}
        if not keyboard:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            self._heeded = []
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen_again(self) -> None:
        """While `listening`, take the signals back from a library that took them for itself."""
        for number in self._heeded:
            signal.signal(number, self._heard)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.request()
