"""Progress bars: live on a terminal, a line now and then in a file or pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ._show import console

#: Called with (done, total, text).
Report = Callable[[int, int, str], None]
_LINE_EVERY = 30.0  # seconds between two lines where there is no terminal


@contextmanager
def training_bar(label: str, quiet: bool = False) -> Iterator[Report]:
    """Yield a function ``report(done, total, text)`` that keeps a bar (or lines) up to date."""
    err = console(stderr=True)
    if quiet:
        yield lambda done, total, text: None
    elif not err.is_terminal:
        yield _lines(err, label)
    else:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task(label, total=None, text="")

            def report(done: int, total: int, text: str) -> None:
                progress.update(task, completed=done, total=total, text=text)

            yield report


def _lines(err: Console, label: str) -> Report:
    last, complete = time.monotonic(), False

    def report(done: int, total: int, text: str) -> None:
        nonlocal last, complete
        now = time.monotonic()
        if now - last >= _LINE_EVERY or (done == total and not complete):
            last, complete = now, done == total
            err.print(f"{label} {done}/{total}  {text}", markup=False)

    return report


@contextmanager
def evaluation_bar(quiet: bool = False) -> Iterator[Callable[[int, int, Mapping[str, float]], None]]:
    """Yield a function ``report(done, total, accuracies)`` that keeps a bar (or lines) up to date."""
    with training_bar("questions", quiet) as report:

        def show(done: int, total: int, accuracies: Mapping[str, float]) -> None:
            report(done, total, "  ".join(f"{name} {100 * share:.1f}" for name, share in accuracies.items()))

        yield show
