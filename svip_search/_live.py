"""One line on a terminal that says how a run of many searches stands."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from ._schedule import RunStats


class LiveLine:
    """Writes a `RunStats` over the last one; nothing where nobody watches but a line at the end.

    Args:
        stream: a terminal; on anything else only the final line is written.
        interval: seconds between two updates.

    Example:
        >>> import sys
        >>> LiveLine(sys.stdout).show(RunStats(done=3, total=3, seconds=2.0))
        3/3 done · 0 open · 0 tokens/s · slots 0 % · cache 0 % · 0:02
    """

    def __init__(self, stream: TextIO, interval: float = 0.2) -> None:
        self.stream = stream
        self.interval = interval
        self.terminal = bool(getattr(stream, "isatty", lambda: False)())
        self._last = -1.0
        self._finished = False

    def show(self, stats: RunStats) -> None:
        """Show how the run stands, if it is time to."""
        now = time.monotonic()
        final = not stats.open and stats.done and stats.done == (stats.total or stats.done)
        if final and not self._finished:
            self._finished = True
            self._write(summary(stats), end="\n")
        elif self.terminal and not final and now - self._last >= self.interval:
            self._last = now
            self._write(summary(stats), end="")

    def _write(self, text: str, end: str) -> None:
        if self.terminal:
            text = "\r\x1b[2K" + text[: shutil.get_terminal_size().columns - 1]
        self.stream.write(text + end)
        self.stream.flush()


def summary(stats: RunStats) -> str:
    """Return the figures of a run in one line."""
    of = "" if stats.total is None else f"/{stats.total:,}"
    parts = [
        f"{stats.done:,}{of} done",
        f"{stats.open} open",
        f"{stats.tokens_per_second:,.0f} tokens/s",
        f"slots {100 * stats.busy:.0f} %",
        f"cache {100 * stats.cached:.0f} %",
        _clock(stats.seconds),
    ]
    if stats.open and stats.eta is not None:
        parts.append(f"{_clock(stats.eta)} left")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
