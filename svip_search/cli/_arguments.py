"""Argument types with messages that say what is required, and flags made from dataclasses."""

from __future__ import annotations

import argparse
import csv
import math
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints


class UsageError(Exception):
    """The arguments cannot be used; the message is one line."""


def positive_int(text: str) -> int:
    """Read an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


def positive_float(text: str) -> float:
    """Read a finite number above 0."""
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0; got {text}")
    return value


def non_negative_float(text: str) -> float:
    """Read a finite number of at least 0."""
    value = _number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0; got {text}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a number; got {text!r}")
    return value


def comma_list(text: str) -> list[str]:
    """Read ``a,b,"c, d"`` as three words; the quotes protect a comma."""
    rows = list(csv.reader([text], skipinitialspace=True))
    words = [word.strip() for word in rows[0]] if rows else []
    if not words or "" in words:
        raise argparse.ArgumentTypeError(f"must be words between commas; got {text!r}")
    return words


def output_file(text: str) -> Path:
    """Read the path of a file to write; its folder must exist, so that no work is lost at the end."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file; '{text}' is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"its folder must exist; there is no '{path.parent}'")
    return path


def output_file_or_stdout(text: str) -> Path | None:
    """As `output_file`; ``-`` is the standard output (None)."""
    return None if text == "-" else output_file(text)


def add_dataclass_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Add one flag a field, with its default and with the field's line of the class docstring.

    Supported fields: int, float, str and bool (``--flag/--no-flag``), each possibly optional, and
    tuples of str or float, written with commas.
    """
    meanings = _meanings(config.__doc__ or "")
    hints = get_type_hints(config)
    for field in fields(config):
        kind = _plain_type(hints[field.name])
        flag = "--" + field.name.replace("_", "-")
        default = field.default if field.default is not MISSING else None
        shown = "" if default in (None, "", ()) else f" (default {default})"
        text = (meanings.get(field.name, "") + shown).replace("%", "%%")
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "dest": field.name}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **settings)
        elif kind is tuple:
            member = get_args(hints[field.name])[0]
            parser.add_argument(flag, type=_tuple_of(member), metavar="1,2" if member is float else "A,B", **settings)
        else:
            parser.add_argument(flag, type=_typed(kind), metavar=kind.__name__.upper(), **settings)


def dataclass_from_flags(arguments: argparse.Namespace, config: type[Any]) -> Any:
    """Return the configuration that the flags of `add_dataclass_flags` describe."""
    names = {field.name for field in fields(config)}
    return config(**{name: value for name, value in vars(arguments).items() if name in names})


def _plain_type(hint: Any) -> type[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else str
    if get_origin(hint) is tuple:
        return tuple
    return hint if hint in (int, float, str, bool) else str


def _tuple_of(member: type[Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda words: tuple(_typed(member)(word) for word in comma_list(words))


def _typed(kind: type[Any]) -> Callable[[str], Any]:
    if kind is not int:
        return {float: _number}.get(kind, str)

    def whole(text: str) -> int:
        try:
            return int(text.replace("_", ""))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}") from None

    return whole


def _meanings(docstring: str) -> dict[str, str]:
    """Read ``name: meaning`` from the Args section of a docstring, continuation lines joined."""
    _, _, rest = docstring.partition("Args:")
    section = re.split(r"\n\s*(?:Raises|Example|Notes|Returns|Reference):", rest)[0]
    found: dict[str, str] = {}
    for name, text in re.findall(r"^ {8}(\w+): (.*(?:\n {10,}.*)*)", section, re.MULTILINE):
        found[name] = " ".join(text.replace("``", "").split()).rstrip(".")
    return found
