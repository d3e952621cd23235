"""Telling the blocks of planning programs as the steps of the domain."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .._types import BlockRun, Json
from ..narrate import LONGEST, Told

_COMMENT = re.compile(r"# (.+)(?:\n|$)")


def narrate_plan(block: str, run: BlockRun, context: Sequence[Told] = ()) -> str:
    r"""Return what a block did and found as a step of a plan: the comment that opens it, then its value.

    Args:
        block: the source, as `PlanProgramGenerator` writes it.
        run: what it gave; one that failed is told as such.
        context: not needed.

    Example:
        >>> narrate_plan("# 2 : 1 > 3\nstate_2 = move(state_1, 1, 3)\nstate_2", BlockRun([3, 1, 2]))
        '2 : 1 > 3 : 3 1 2'
        >>> narrate_plan("# 1 : spread\nstate_1", BlockRun([["fresh", "."], ["rotten", "."]]))
        '1 : spread : fresh . | rotten .'
        >>> narrate_plan("total_1 = 5 + 7\n[5, '+', 7, '=', total_1]", BlockRun([5, "+", 7, "=", 12]))
        '5 + 7 = 12'
        >>> narrate_plan("# 2 : 1 > 3\nstate_2 = move(state_1, 1, 3)", BlockRun(error="runtime", message="no"))
        '2 : 1 > 3 : failed'
    """
    head = _COMMENT.match(block)
    found = _text(run.value) if run.ok else "failed"
    return (f"{head[1]} : {found}" if head else found)[:LONGEST]


def _text(value: Json) -> str:
    """Return a state in words: rows stand apart."""
    if not isinstance(value, list):
        return "none" if value is None else " ".join(str(value).split()) or "none"
    nested = any(isinstance(part, list) for part in value)
    return (" | " if nested else " ").join(_text(part) if part != [] else "." for part in value) or "."
