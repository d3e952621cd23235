"""What servers of reward models say, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._budget import Usage
from .._http._protocol import short
from .._types import DIMENSIONS

Kind = Literal["prm", "orm"]

_COUNTS = ("reward_tokens", "cached_reward_tokens", "reward_calls")


@dataclass(frozen=True, slots=True)
class About:
    """What a server says of its model."""

    kind: Kind
    scoring: Scoring | None
    name: str
    causal: bool


def as_reward(value: Any, steps: int, kind: Kind) -> NDArray[np.float32]:
    """Return the rewards of a path as an array: float32 [T, 3] of a ``"prm"``, [] of an ``"orm"``.

    Raises:
        ValueError: they have another shape, or are not all in [0, 1].

    Example:
        >>> as_reward([[0.5, 1, 0]], 1, "prm").tolist()
        [[0.5, 1.0, 0.0]]
    """
    wanted = (steps, len(DIMENSIONS)) if kind == "prm" else ()
    try:
        with np.errstate(over="ignore"):  # infinity is refused below
            found = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"rewards must be numbers of shape {list(wanted)}") from None
    if found.size == 0 and not steps and kind == "prm":
        return np.zeros(wanted, np.float32)
    if found.shape != wanted:
        raise ValueError(f"rewards must have shape {list(wanted)}; got {list(found.shape)}")
    if not bool(np.all((found >= 0) & (found <= 1))):  # no NaN either
        raise ValueError("rewards must lie in [0, 1]")
    return found


def read_about(answer: Any) -> About:
    """Return what a server says of its model.

    Raises:
        ValueError: it is no server of a reward model.
    """
    if not isinstance(answer, Mapping) or answer.get("kind") not in ("prm", "orm"):
        raise ValueError("no reward model's `kind`")
    dimensions = answer.get("dimensions", list(DIMENSIONS))
    if dimensions != list(DIMENSIONS):
        raise ValueError("other `dimensions`")
    scoring = answer.get("scoring")
    try:
        recommended = None if scoring is None else Scoring(**scoring)
    except TypeError as error:
        raise ValueError(f"another `scoring`: {error}") from None
    return About(answer["kind"], recommended, str(answer.get("name", "")), answer.get("causal") is True)


def read_rewards(answer: Any, lengths: Sequence[int]) -> tuple[list[list[Any]], Usage]:
    """Return what an answer has for each path of each item, unchecked, and what it cost.

    Args:
        answer: the parsed JSON.
        lengths: number of paths of each item.

    Raises:
        ValueError: it is no answer to such a request.
    """
    found = answer.get("rewards") if isinstance(answer, Mapping) else None
    if not isinstance(found, list) or [len(one) if isinstance(one, list) else -1 for one in found] != list(lengths):
        raise ValueError("no `rewards` for every path")
    told = answer.get("usage")
    counts = {name: told.get(name) for name in _COUNTS} if isinstance(told, Mapping) else {}
    whole = {name: n for name, n in counts.items() if type(n) is int and 0 <= n < 2**53}
    return found, Usage(**whole)


def error_text(value: Mapping[str, Any]) -> str:
    """Return the text of an error, foreign as it is, as one short line."""
    return short(str(value.get("error", "")))
