"""``svip-search solve``: one question about pictures and videos."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .._images import open_image
from .._types import Question, Result
from .._video import Video, is_video
from ..strategies import STRATEGIES, EmbeddingRetriever, Example
from ._arguments import (
    UsageError,
    comma_list,
    non_negative_float,
    output_file,
    output_file_or_stdout,
    positive_float,
    positive_int,
)


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "solve",
        help="solve one question about pictures and videos",
        description="Search for the answer to a question about pictures and videos and show the solved tree. "
        "Ctrl-C shows the best answer so far.",
    )
    parser.add_argument("image", metavar="IMAGE",
                        help="picture (PNG, JPEG, WebP, GIF or BMP) or video (MP4, MOV, AVI, WebM, MKV, an animated "
                        "GIF, WebP or PNG, or a folder of pictures)")  # fmt: skip
    parser.add_argument("question", metavar="QUESTION", help="the question, in quotes")
    parser.add_argument("--options", type=comma_list, default=[], metavar="A,B", help="admissible answers")
    parser.add_argument("--answer", help="the true answer, to compare with; no model sees it")
    pictures = parser.add_argument_group("several pictures and videos")
    pictures.add_argument("--image", "--video", dest="more", action="append", default=[], metavar="FILE",
                          help="a further picture or video, after IMAGE; may be repeated")  # fmt: skip
    pictures.add_argument("--frames", type=positive_int, default=8, metavar="N",
                          help="most frames that are shown of each video (8)")  # fmt: skip
    pictures.add_argument("--fps", type=positive_float, metavar="F",
                          help="frames a second of a video that are shown (default: N over all of it)")  # fmt: skip
    add_search_flags(parser)
    parser.add_argument("--strategy", default="mcts", help=f"how to search (mcts): {', '.join(STRATEGIES)}")
    parser.add_argument("--patience", type=positive_int, metavar="N",
                        help="end once N more trajectories have not changed the answer")  # fmt: skip
    parser.add_argument("--examples", metavar="FILE", help="for retrieval-mcts: worked examples, one JSON object a "
                        "line with question, steps and answer")  # fmt: skip
    parser.add_argument("--temperature", type=non_negative_float, help="of the policy's sampling (default 1)")
    budget = parser.add_argument_group("budget")
    budget.add_argument("--budget-tokens", type=positive_int, metavar="N", help="policy and reward tokens")
    budget.add_argument("--budget-seconds", type=positive_float, metavar="S", help="wall-clock time")
    output = parser.add_argument_group("output")
    output.add_argument("--html", type=output_file, metavar="FILE", help="write the tree as one HTML page")
    output.add_argument(
        "--json", type=output_file_or_stdout, metavar="FILE", default=argparse.SUPPRESS,
        help="write the result as JSON; - prints it instead of the tree",
    )  # fmt: skip
    output.add_argument("--quiet", action="store_true", help="print the answer alone")
    parser.set_defaults(run=run)


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ``solve`` and ``evaluate`` share."""
    parser.add_argument("--n", type=positive_int, default=16, metavar="N", help="trajectories or iterations (16)")
    parser.add_argument("--policy", default="puzzle-tiny", help="name, folder or hub id (puzzle-tiny)")
    parser.add_argument("--reward", default="auto", help="name, folder, 'none', or 'auto' for the embedded one of the "
                        "policy's puzzles (auto)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (0)")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")


def run(arguments: argparse.Namespace) -> int:
    """Solve, show and write the result; return the exit code."""
    from ._show import answer_line, console, plain, show_result

    result = _solved(arguments)
    if arguments.html is not None:
        from ..viewer import write_html

        write_html(result, arguments.html)
    text = json.dumps(result.to_dict(), indent=1) if "json" in arguments else ""
    if text and arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if text and arguments.json is None:
        print(text)
    elif arguments.quiet:
        print(plain(result.answer) if result.answer is not None else answer_line(result).plain)
    else:
        show_result(result, console())
    if result.stopped_by == "interrupted":
        return 130
    return 0 if result.answer is not None else 1


def _solved(arguments: argparse.Namespace) -> Result:
    """Check everything that is cheap to check, then load the models and search."""
    from .._budget import Budget
    from .._solve import solve
    from ..strategies import make
    from ._show import console

    if arguments.strategy not in STRATEGIES:
        names = ", ".join(STRATEGIES)
        raise UsageError(f"argument --strategy: must be one of {names}; got {arguments.strategy!r}")
    wanted = {"temperature": arguments.temperature, "patience": arguments.patience}
    settings: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if arguments.strategy == "retrieval-mcts":
        settings["retriever"] = _retriever(arguments.examples)
    strategy = make(arguments.strategy, n=arguments.n, **settings)
    budget = Budget(tokens=arguments.budget_tokens, seconds=arguments.budget_seconds)
    shown = [_opened(path, arguments.frames, arguments.fps) for path in (arguments.image, *arguments.more)]
    question = Question(arguments.question, shown, arguments.options, arguments.answer)
    err = console(stderr=True)
    # A spinner where somebody is watching, nothing in a file or pipe.
    with err.status("loading the models") if err.is_terminal and not arguments.quiet else _Silent() as status:
        policy, reward = load_models(arguments.policy, reward_name(arguments), needs_reward=strategy.needs_reward)
        status.update(f"searching with {arguments.strategy}")
        return solve(question, policy, reward, strategy, budget, seed=arguments.seed)


def _opened(path: str, frames: int, fps: float | None) -> Any:
    """Return a picture or a video, each read once, so that what cannot be read is known before models are loaded."""
    if not is_video(path):
        return open_image(path)
    video = Video(path, frames=frames, fps=fps)
    video.read()
    return video


def _retriever(path: str | None) -> EmbeddingRetriever:
    """Return a retriever over the worked examples of a file."""
    if path is None:
        raise UsageError("argument --examples: must be given for the strategy retrieval-mcts")
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"argument --examples: cannot read '{path}': {error}") from None
    if not lines:
        raise UsageError(f"argument --examples: '{path}' holds no examples")
    return EmbeddingRetriever([_example(path, number, line) for number, line in enumerate(lines, 1)])


def _example(path: str, number: int, line: str) -> Example:
    try:
        row = json.loads(line)
        return Example(row["question"], tuple(row["steps"]), str(row["answer"]))
    except (ValueError, TypeError, KeyError):
        what = f"'{path}', example {number}, must be an object with question, steps and answer"
        raise UsageError(f"argument --examples: {what}; got {line.strip()[:60]}") from None


class _Silent:
    """Stands in for a spinner."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, text: str) -> None:
        """Say nothing."""


def reward_name(arguments: argparse.Namespace) -> str:
    """Return the reward model that is meant by ``--reward``, which may be "auto"."""
    from ..models.zoo import reward_for

    name: str = arguments.reward
    return reward_for(arguments.policy) if name == "auto" else name


def load_models(policy: str, reward: str, needs_reward: bool) -> tuple[Any, Any]:
    """Return the policy and the reward model (None where it is 'none').

    Raises:
        UsageError: the reward model is 'none' although it is needed.
    """
    from ..models import zoo

    if reward == "none" and needs_reward:
        raise UsageError("argument --reward: this strategy needs a reward model; got 'none'")
    return zoo.load_policy(policy), None if reward == "none" else zoo.load_reward(reward)
