"""The entry point: reads the arguments, runs one command, turns errors into one line.

Exit codes: 0 done, 1 no answer or an internal error, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from .._errors import SvipSearchError
from ._arguments import UsageError
from ._streams import open_missing, unread


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments after the program name; None takes them from ``sys.argv``.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        svip-search ...
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    open_missing()
    _encode_anything()
    with unread():
        return _main(words)


def _main(words: list[str]) -> int:
    try:
        return int(_run(words))
    except (UsageError, SvipSearchError, ValueError, TypeError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe has left: nothing to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 141
        return _complain(error, words, code=2)
    except ImportError as error:
        hint = f"{error}; `pip install svip-search[all]` installs what the command line needs"
        return _complain(UsageError(hint), words, code=2)
    except KeyboardInterrupt:
        print("svip-search: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # anything else is a fault of the library, and said to be one
        fault = UsageError(f"internal error, {type(error).__name__}: {error} (--debug shows where)")
        return _complain(fault, words, code=1)


def _run(words: list[str]) -> int:
    parser = build_parser(words)
    if not words:
        parser.print_help()
        return 0
    try:
        arguments = parser.parse_args(words)
    except SystemExit as end:  # --help and --version
        return int(end.code or 0)
    return int(arguments.run(arguments))


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        words: the arguments to come: the flags of ``train`` and ``data`` are read from their
            configurations, which need torch and more, and so are only added where they are asked for.
    """
    from . import data, evaluate, judge, kernels, models, run, serve, solve, train

    parser = _Parser("svip-search", description="Guided search over chains of thought about pictures.")
    parser.add_argument("--version", action="version", version=f"svip-search {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (solve, run, evaluate, judge, models, kernels, serve):
        module.add_command(commands)
    for name, heavy in (("train", train), ("data", data)):
        heavy.add_command(commands, with_flags=bool(words) and words[0] == name)
    return parser


def _complain(error: BaseException, words: Sequence[str], code: int) -> int:
    if "--debug" in words:
        import traceback

        traceback.print_exc()
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"svip-search: error: {line}", file=sys.stderr)
    return code


def _encode_anything() -> None:
    """A terminal of another encoding shows `?` for what it lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
