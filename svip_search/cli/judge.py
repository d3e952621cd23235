"""``svip-search judge``: a reward model on a benchmark of reward models."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import UsageError, comma_list, output_file, output_file_or_stdout, positive_int

#: Known here without importing what runs them.
BENCHMARKS = ("svip-test", "vlrmbench", "visualprocessbench", "vl-rewardbench", "mm-rlhf-rewardbench", "mmprm-bon")


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "judge",
        help="a reward model on a benchmark of reward models",
        description="Ask a reward model about every record of a benchmark and report the benchmark's own "
        "figures with 95 %% intervals. All records are checked first. Ctrl-C reports what is finished.",
    )
    parser.add_argument("data", metavar="DATA", nargs="+", help="the benchmark's folder or file; of svip-test several")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--reward", default="svip-tiny", metavar="MODEL", help="name or folder (svip-tiny)")
    parser.add_argument("--tasks", type=comma_list, default=[], metavar="A,B,...", help="of vlrmbench (default: all)")
    parser.add_argument("--images", metavar="FOLDER", help="where the pictures lie, if not beside the records")
    parser.add_argument("--k", type=positive_int, default=1, metavar="N",
                        help="judgements of each case; their majority decides a pair (1)")  # fmt: skip
    parser.add_argument(
        "--threshold", type=_share, metavar="T",
        help="a step is right where its reward is above it (default: the model's own, or 0.5)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of the responses (0)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="so many cases, from all groups")
    parser.add_argument("--batch", type=positive_int, default=8, metavar="N", help="cases at a time (8)")
    parser.add_argument("--skip-unusable", action="store_true",
                        help="leave out and count records that cannot be used, instead of stopping")  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", type=output_file_or_stdout, metavar="FILE", default=argparse.SUPPRESS,
        help="write the report as JSON; - prints it instead of the tables",
    )  # fmt: skip
    output.add_argument("--markdown", type=output_file, metavar="FILE", help="write the tables as Markdown")
    output.add_argument("--records", type=output_file, metavar="FILE",
                        help="one record a case; a rerun continues from it")  # fmt: skip
    output.add_argument("--figure", type=output_file, metavar="FILE",
                        help="of svip-test, a reliability diagram (.png, .svg, .pdf)")  # fmt: skip
    output.add_argument("--quiet", action="store_true", help="no progress bar and no tables")
    parser.set_defaults(run=run)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number in 0..1; got {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Judge, show and write the report; return the exit code."""
    from ..evaluation.judge import judge
    from ..evaluation.reliability_figure import check_figure_path, reliability_figure
    from ..models.zoo import load_reward
    from ._progress import training_bar
    from ._show import console

    if len(arguments.data) > 1 and arguments.benchmark != "svip-test":
        raise UsageError(f"argument DATA: must be one folder or file of {arguments.benchmark}; got {arguments.data}")
    if arguments.figure is not None:
        if arguments.benchmark != "svip-test":
            raise UsageError(f"argument --figure: must be left out of {arguments.benchmark}; svip-test has one")
        check_figure_path(arguments.figure)
    reward: Any = load_reward(arguments.reward)
    with training_bar("cases", arguments.quiet) as progress:
        report = judge(
            arguments.benchmark, arguments.data if arguments.benchmark == "svip-test" else arguments.data[0], reward,
            k=arguments.k, seed=arguments.seed, limit=arguments.limit, batch=arguments.batch,
            threshold=arguments.threshold, images=arguments.images, tasks=arguments.tasks, records=arguments.records,
            skip_unusable=arguments.skip_unusable, labels={"reward": arguments.reward}, progress=progress,
        )  # fmt: skip
    printed = report.to_json(getattr(arguments, "json", None))
    if arguments.markdown is not None:
        report.markdown(arguments.markdown)
    if arguments.figure is not None:
        reliability_figure(report.to_dict(), arguments.figure)
    if "json" in arguments and arguments.json is None:
        print(printed, end="")
    elif not arguments.quiet:
        _show(report, console())
    return 0 if report.to_dict()["complete"] else 130


def _show(report: Any, out: Any) -> None:
    """Print every table, what was left out, and what the figures are."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ._show import plain

    data = report.to_dict()
    out.print(Text(f"{data['benchmark']}  ·  {data['reward']}  ·  {data['n_questions']:,} questions", style="bold"))
    for title, heads, rows in report.tables():
        table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, header_style="dim")
        for index, head in enumerate(heads):
            table.add_column(Text(plain(head)), justify="right" if index else "left", no_wrap=not index)
        for row in rows:
            table.add_row(*(Text(plain(word)) for word in row))
        out.print(table)
    for name, best in data.get("own_head_best", {}).items():
        if best is False:
            out.print(Text(f"Another head than {name}'s tells its labels best.", style="yellow"))
    skipped = data["skipped"]
    if skipped["count"]:
        out.print(
            Text(f"{skipped['count']:,} records were left out; the first: {plain(skipped['first'][0])}", "yellow")
        )
    out.print(Text("In percent, 95 % intervals in brackets: " + data["intervals"] + ".", style="dim"))
