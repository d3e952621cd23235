"""Standard streams that are closed, full or read by nobody: no reason to end what takes weeks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


def open_missing() -> None:
    """Open the standard streams that a caller has closed (``2>&-``), to nowhere.

    Otherwise the next files that are opened get their numbers, and what a library prints goes into those.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for at, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(at, "w" if at else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 -- for good
            setattr(sys, name, stream)


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Within, what cannot be said on the standard error is not said, and nothing else happens."""
    before = sys.stderr
    patient = _Patient(before)
    sys.stderr = cast(TextIO, patient)
    try:
        yield
    finally:
        sys.stderr = before
        if patient.failed:
            _forget(before)


class _Patient:
    """A stream whose reader may leave, or whose disk may be full; otherwise the stream that it is made from."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed = False

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self.failed = True
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self.failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _forget(stream: TextIO) -> None:
    """Let go of what could not be written, which would be an error again when the process ends."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
