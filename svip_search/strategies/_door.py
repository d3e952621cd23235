"""Checks at the door: what policies and reward models return, before a search relies on it.

Both are user code.  Whatever they return, a search goes on: what can be used is kept, and what
cannot is reported as a complaint that names the policy or the reward model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._types import Candidate

#: Stands for a log-probability of minus infinity or NaN: no prior, yet a finite number in files.
IMPOSSIBLE = -1e30

Continuation = Sequence[Candidate]
_REASONS = frozenset(("step", "stop", "length"))


def check_continuations(outcome: object, n: int) -> tuple[list[Continuation], int, list[str]]:
    """Return the usable continuations (at most ``n``), the tokens spent on all, and complaints."""
    complaints: list[str] = []
    if isinstance(outcome, BaseException):
        return [], 0, [f"policy failed: {_describe(outcome)}"]
    if not isinstance(outcome, (list, tuple)):
        return [], 0, [f"policy must return a list of continuations; got {type(outcome).__name__}"]
    kept: list[Continuation] = []
    tokens = 0
    for continuation in outcome:
        # The usual case: these lines run for every candidate.
        if type(continuation) is tuple:
            spent = 0
            for c in continuation:
                if (
                    type(c) is not Candidate
                    or type(c.text) is not str
                    or type(c.tokens) is not int
                    or c.finish_reason not in _REASONS
                    or not IMPOSSIBLE <= c.log_prob < math.inf
                ):
                    break
                spent += c.tokens
            else:
                if continuation:
                    kept.append(continuation)
                    tokens += spent
                continue
        steps = _repair(continuation, complaints)
        tokens += sum(c.tokens for c in steps)
        if steps:
            kept.append(steps)
    if len(kept) > n:
        complaints.append(f"policy returned {len(kept)} candidates where {n} were asked; the rest is dropped")
    elif not kept:
        complaints.append("policy returned no candidates")
    return kept[:n], tokens, complaints


def _repair(continuation: object, complaints: list[str]) -> list[Candidate]:
    """Return the steps up to the first that cannot be used, and say what was wrong."""
    if isinstance(continuation, Candidate):
        continuation = (continuation,)
    if not isinstance(continuation, (list, tuple)):
        complaints.append(f"policy must return tuples of Candidate; got {type(continuation).__name__}")
        return []
    steps = []
    c: Any
    for c in continuation:
        repaired = _repair_step(c, complaints)
        if repaired is None:
            break
        steps.append(repaired)
    return steps


def _repair_step(c: Any, complaints: list[str]) -> Candidate | None:
    """Return a candidate that can be used, or None; either way say what was wrong."""
    if not isinstance(c, Candidate):
        complaints.append(f"policy must return Candidate steps; got {type(c).__name__}")
        return None
    text: object = c.text
    if not isinstance(text, str):
        complaints.append(f"policy must return steps of text; got {type(text).__name__}")
        return None
    if c.finish_reason not in _REASONS:
        complaints.append(f"policy returned the unknown finish reason {c.finish_reason!r}")
        return None
    try:
        tokens, log_prob = max(int(c.tokens), 0), float(c.log_prob)
    except (TypeError, ValueError, OverflowError):
        complaints.append("policy must return numbers for `tokens` and `log_prob`")
        return None
    if math.isnan(log_prob) or log_prob == math.inf:
        complaints.append(f"policy returned a log-probability of {log_prob}; it counts as impossible")
        log_prob = IMPOSSIBLE
    return Candidate(str(text), max(log_prob, IMPOSSIBLE), tokens, c.finish_reason)


def check_rewards(
    outcomes: Sequence[Any], lengths: list[int]
) -> tuple[list[int], NDArray[Any], list[int], list[tuple[int, str]]]:
    """Return which outcomes are usable, their rows one after another, how many each, and complaints.

    A path of T steps may get [T, 3], or one number for the whole path, which becomes one row.
    Complaints come with the index of their outcome.
    """
    # The usual case first, checked for all paths at once.
    if set(map(type, outcomes)) == {np.ndarray} and all(o.ndim == 2 for o in outcomes):
        counts = list(map(len, outcomes))
        if counts == lengths and len({o.shape[1] for o in outcomes}) == 1:
            rows = np.concatenate(outcomes)
            if rows.shape[1] == 3 and rows.dtype.kind == "f" and rows.min() >= 0 and rows.max() <= 1:
                return list(range(len(lengths))), rows, counts, []
    usable, arrays, complaints = [], [], []
    for i, (outcome, length) in enumerate(zip(outcomes, lengths, strict=True)):
        array = _as_rewards(outcome, length)
        if isinstance(array, str):
            complaints.append((i, array))
        else:
            usable.append(i)
            arrays.append(array)
    rows = np.concatenate(arrays) if arrays else np.empty((0, 3), dtype=np.float32)
    return usable, rows, list(map(len, arrays)), complaints


def _as_rewards(outcome: object, length: int) -> NDArray[Any] | str:
    if isinstance(outcome, BaseException):
        return f"reward model failed: {_describe(outcome)}"
    try:
        array = np.asarray(outcome, dtype=np.float32)
    except Exception as error:  # whatever the conversion of a foreign object raises
        return f"reward model must return numbers: {_describe(error)}"
    if outcome is None:
        return "reward model must return rewards; got None"
    if array.shape == ():
        array = np.full((1, 3), array, dtype=np.float32)
    elif array.shape != (length, 3):
        return f"reward model must return rewards of shape [T, 3] = [{length}, 3]; got {list(array.shape)}"
    if not ((array >= 0) & (array <= 1)).all():  # false for NaN as well
        return "reward model returned rewards outside [0, 1] or NaN"
    return array


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
