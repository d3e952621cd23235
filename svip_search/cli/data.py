"""``svip-search data build|card|show``: labelled trajectories made from visual programs."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._arguments import UsageError, add_dataclass_flags, dataclass_from_flags, output_file, positive_int

if TYPE_CHECKING:
    from rich.console import Console

    from ..datasets.svip import SvipRecord


def add_command(commands: Any, with_flags: bool = True) -> None:
    """Add the command to the parser; the flags of ``data build`` come from its configuration."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "data",
        help="build or look at labelled trajectories",
        description="Trajectories whose every step carries relevance, logic and attribute labels.",
    )
    kinds = parser.add_subparsers(metavar="build|card|show", dest="kind", required=True)
    _add_build(kinds, with_flags)
    card: argparse.ArgumentParser = kinds.add_parser(
        "card", help="count what is in a data set", description="Write README.md and card.json of a data set anew."
    )
    card.add_argument("folder", metavar="FOLDER", help="a data set")
    card.set_defaults(run=run_card)
    _add_show(kinds)


def _add_build(kinds: Any, with_flags: bool) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "build",
        help="build a data set",
        description="Build SVIP-Train and SVIP-Test from generated puzzles. A build that was interrupted goes on "
        "where it stopped, with the same command.",
    )
    if with_flags:
        from ..programs.build import BuildConfig

        add_dataclass_flags(parser, BuildConfig)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(run=run_build)


def _add_show(kinds: Any) -> None:
    parser: argparse.ArgumentParser = kinds.add_parser(
        "show",
        help="show records",
        description="Print a record, or write a page with the pictures, code, results, steps and labels of many.",
    )
    parser.add_argument("path", metavar="PATH", help="a .jsonl or .parquet file, or a folder of them")
    parser.add_argument("--id", help="name of the record to print (default: the first)")
    parser.add_argument("--html", type=output_file, metavar="FILE", help="write a page instead")
    parser.add_argument("--limit", type=positive_int, default=200, metavar="N", help="records on the page (200)")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(run=run_show)


def run_build(arguments: argparse.Namespace) -> int:
    """Build with a progress bar and say where the data set is."""
    from ..programs.build import BuildConfig, build
    from ._progress import training_bar
    from ._show import console

    config = dataclass_from_flags(arguments, BuildConfig)
    with training_bar("trajectories", arguments.quiet) as progress:
        folder = build(config, lambda done, total, _: progress(done, total, ""))
    console().print(f"saved to {folder}", markup=False)
    return 0


def run_card(arguments: argparse.Namespace) -> int:
    """Write the card and print it."""
    from rich.markdown import Markdown

    from ..programs.card import card_markdown, write_card
    from ._show import console

    out = console()
    text = card_markdown(write_card(arguments.folder))
    out.print(Markdown(text)) if out.is_terminal else print(text, end="")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print one record, or write the page of many; records that cannot be used are counted."""
    from ._show import console

    skipped: Counter[str] = Counter()
    records = _records(arguments.path, skipped)
    if arguments.html:
        from ..viewer.records import write_records

        page = write_records(islice(records, arguments.limit), arguments.html, Path(arguments.path).name)
        console().print(f"saved to {page}", markup=False)
    else:
        wanted = (r for r in records if arguments.id in (None, r.id))
        record = next(wanted, None)
        if record is None:
            which = f"named {arguments.id!r}" if arguments.id else "that can be used"
            why = f": {next(iter(skipped))}" if skipped else ""
            raise UsageError(f"'{arguments.path}' has no record {which}{why}")
        _print(record, console())
    for reason, number in skipped.items():
        console(stderr=True).print(f"skipped {number}, as {reason}", markup=False)
    return 0


def _records(path: str, skipped: Counter[str]) -> Iterator[SvipRecord]:
    from ..datasets.svip import read_svip

    first: dict[str, str] = {}

    def note(error: Exception) -> None:
        text = str(error)
        skipped[first.setdefault(text.split(": ", 1)[-1], text)] += 1

    return read_svip(path, on_error=note, check_images=False)


def _print(record: SvipRecord, out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from .._types import DIMENSIONS
    from ._show import COLORS, plain

    out.print(Text(plain(record.question), style="bold"))
    if record.options:
        out.print(Text("options  " + "  ·  ".join(map(plain, record.options)), style="dim"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("step")
    for name, color in zip(DIMENSIONS, COLORS, strict=True):
        table.add_column(name, justify="right", style=color)
    for i, step in enumerate(record.steps):
        labels = ("–" if v != v else f"{v:.2f}" for v in record.labels[i].tolist())
        table.add_row(Text(plain(step)), *labels)
        for line in record.program[i].splitlines() if record.program else ():
            table.add_row(Text("    " + line.rstrip(), style="dim"))
    out.print(table)
    told = "right" if record.outcome else "wrong"
    out.print(Text(f"{record.id}: the answer is {told}, it should be {plain(str(record.answer))}"))
