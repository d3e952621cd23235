"""``svip-search evaluate``: strategies compared on a folder of questions."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import UsageError, comma_list, output_file, output_file_or_stdout, positive_int
from .solve import add_search_flags, load_models, reward_name


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="compare strategies on a folder of questions",
        description="Run strategies on a folder of <family>.jsonl files at equal cost and report their "
        "accuracy with 95 % intervals. Ctrl-C reports what is finished.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="PuzzleVQA, or any folder laid out like it")
    parser.add_argument(
        "--strategies", type=comma_list, metavar="A,B,...",
        default=["greedy", "self-consistency", "best-of-n", "weighted", "beam", "mcts"],
        help="which strategies, see `svip-search solve --help` (default: %(default)s)",
    )  # fmt: skip
    add_search_flags(parser)
    parser.add_argument("--limit", type=positive_int, metavar="N", help="so many, from all families")
    parser.add_argument("--batch", type=positive_int, default=8, metavar="N", help="questions at a time (8)")
    parser.add_argument("--shuffled-reward", action="store_true", help="control: permute the rewards")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", type=output_file_or_stdout, metavar="FILE", default=argparse.SUPPRESS,
        help="write the report as JSON; - prints it instead of the table",
    )  # fmt: skip
    output.add_argument("--csv", type=output_file, metavar="FILE", help="write accuracies as CSV")
    output.add_argument("--markdown", type=output_file, metavar="FILE", help="write the tables as Markdown")
    output.add_argument("--records", type=output_file, metavar="FILE",
                        help="one record a question; a rerun continues from it")  # fmt: skip
    output.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, show and write the report; return the exit code."""
    from ..datasets.puzzlevqa import load_puzzlevqa, spread
    from ..evaluation import evaluate
    from ..strategies import STRATEGIES
    from ._progress import evaluation_bar
    from ._show import console, report_table

    for name in arguments.strategies:
        if name not in STRATEGIES:
            raise UsageError(f"argument --strategies: must be among {', '.join(STRATEGIES)}; got {name!r}")
        if name == "retrieval-mcts":
            raise UsageError("argument --strategies: 'retrieval-mcts' needs worked examples, see `svip-search solve`")
    questions = load_puzzlevqa(arguments.folder)
    if arguments.limit is not None:
        questions = spread(questions, arguments.limit)
    needs_reward = any(STRATEGIES[name].needs_reward for name in arguments.strategies)
    named = reward_name(arguments)
    policy, reward = load_models(arguments.policy, named, needs_reward)
    with evaluation_bar(arguments.quiet) as progress:
        report = evaluate(
            questions, policy, reward, arguments.strategies, arguments.n, arguments.seed,
            batch=arguments.batch, shuffled_reward=arguments.shuffled_reward, records=arguments.records,
            labels={"policy": arguments.policy, "reward": named}, progress=progress,
        )  # fmt: skip
    printed = report.to_json(getattr(arguments, "json", None))
    if arguments.csv is not None:
        report.csv(arguments.csv)
    if arguments.markdown is not None:
        report.markdown(arguments.markdown)
    if "json" in arguments and arguments.json is None:
        print(printed, end="")
    elif not arguments.quiet:
        console().print(report_table(report))
    return 0 if report.to_dict()["complete"] else 130
