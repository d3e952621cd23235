"""A reward model made of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from .._types import Prefix, Question


class CallableReward:
    """Makes a reward model of ``fn(question, path)``.

    Args:
        fn: returns the rewards of one path of T steps, all in [0, 1]: an array [T, 3] for a
            ``"prm"``, one number for an ``"orm"``.
        kind: which of the two.

    Raises:
        TypeError: ``fn`` is not callable.
        ValueError: an unknown kind.

    Example:
        >>> from svip_search import BestOfN, Question, solve
        >>> from svip_search.testing import HashPolicy
        >>> shorter = CallableReward(lambda question, path: 1 / len(path))
        >>> result = solve(Question("Which?"), HashPolicy(depth=4), shorter, BestOfN(n=2))
        >>> result.trajectory.score
        0.25
    """

    kind: Literal["prm", "orm"]

    def __init__(self, fn: Callable[[Question, Prefix], Any], kind: Literal["prm", "orm"] = "orm") -> None:
        if not callable(fn):
            raise TypeError(f"`fn` must be callable; got {type(fn).__name__}.")
        if kind not in ("prm", "orm"):
            raise ValueError(f"`kind` must be 'prm' or 'orm'; got {kind!r}.")
        self.fn = fn
        self.kind = kind

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[Any]:
        """Return the rewards of each path; an exception of ``fn`` stands for its path."""
        return [self._one(question, path) for path in paths]

    def _one(self, question: Question, path: Prefix) -> Any:
        try:
            return self.fn(question, path)
        except Exception as error:
            return error
