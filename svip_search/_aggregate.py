"""Rewards of the steps of a path -> one score.

Two foldings: over the dimensions (`step_value`), then over the steps (`aggregate`).  The mean over
steps is the default: it compares paths of different length fairly, where a sum or a product favours
short ones, and VisualPRM found it best (mean 41.1, min 40.4, max 35.9 at best-of-8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Aggregate = Literal["mean", "min", "last", "product", "sum_log", "mean_log_odds", "max"]
Floats = NDArray[np.float64]

#: Rewards are kept this far from 0 and 1 before a logarithm is taken.
EPSILON = 1e-6


def _clamped(values: Floats) -> Floats:
    return np.clip(values, EPSILON, 1 - EPSILON)


def _log_odds(values: Floats) -> Floats:
    values = _clamped(values)
    return np.log(values) - np.log1p(-values)


# Each folds segments of values, given where they start and how long they are: many paths in one call.
_Fold = Callable[[Floats, NDArray[np.intp], NDArray[np.intp]], Floats]
_FOLDS: dict[str, _Fold] = {
    "mean": lambda v, start, length: np.add.reduceat(v, start) / length,
    "min": lambda v, start, length: np.minimum.reduceat(v, start),
    "max": lambda v, start, length: np.maximum.reduceat(v, start),
    "last": lambda v, start, length: v[start + length - 1],
    "product": lambda v, start, length: np.multiply.reduceat(v, start),
    "sum_log": lambda v, start, length: np.add.reduceat(np.log(_clamped(v)), start),
    "mean_log_odds": lambda v, start, length: np.add.reduceat(_log_odds(v), start) / length,
}


def step_value(rewards: ArrayLike, weights: Sequence[float] = (1.0, 1.0, 1.0), veto: bool = False) -> Floats:
    """Return one value for each step: the weighted mean over the dimensions, or their minimum.

    Args:
        rewards: [T, 3] in [0, 1]; relevance, logic, attribute.
        weights: weight of each dimension, not negative; only their proportion matters.
        veto: take the minimum over the dimensions of positive weight instead.

    Returns:
        float64 [T].

    Raises:
        ValueError: wrong shape, negative weights, or all weights zero.

    Example:
        >>> step_value([[1.0, 0.5, 0.0]]).tolist()
        [0.5]
        >>> step_value([[1.0, 0.5, 0.0]], weights=(1, 1, 0), veto=True).tolist()
        [0.5]
    """
    array = np.asarray(rewards, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"`rewards` must have shape [T, 3]; got {list(array.shape)}.")
    return _step_value(array, _normalised(weights), veto)


def _step_value(rewards: Floats, weights: tuple[float, ...], veto: bool) -> Floats:
    if veto:
        lowest: Floats = rewards[:, np.array(weights) > 0].min(axis=1)
        return lowest
    a, b, c = weights
    # Not a matrix product: its rounding depends on how many rows there are, and so on the batch.
    return rewards[:, 0] * a + rewards[:, 1] * b + rewards[:, 2] * c


def _normalised(weights: Sequence[float]) -> tuple[float, ...]:
    w = np.asarray(weights, dtype=np.float64)
    if w.shape != (3,) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise ValueError(f"`weights` must be three numbers >= 0, not all 0; got {list(weights)}.")
    return tuple((w / w.sum()).tolist())


def aggregate(values: ArrayLike, how: Aggregate = "mean") -> float:
    """Return one number for the values of the steps of a path.

    ``sum_log`` is sum(log v), ``mean_log_odds`` is mean(log v - log(1 - v)), both of values clamped
    to [1e-6, 1 - 1e-6]; the others are what their names say.

    Args:
        values: [T] in [0, 1], at least one.
        how: the rule.

    Raises:
        ValueError: an unknown rule, or ``values`` is empty or not one-dimensional.

    Example:
        >>> aggregate([1.0, 0.5, 0.0]), aggregate([0.9, 0.5], "min")
        (0.5, 0.5)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"`values` must have shape [T] with T >= 1; got {list(array.shape)}.")
    return float(_fold(how)(array, np.array([0]), np.array([len(array)]))[0])


def _fold(how: str) -> _Fold:
    if how not in _FOLDS:
        raise ValueError(f"`aggregate` must be one of {', '.join(get_args(Aggregate))}; got {how!r}.")
    return _FOLDS[how]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How the rewards of a path become its score.

    Args:
        aggregate: rule over the steps, see `aggregate`.
        weights: of relevance, logic and attribute, kept with sum 1.
        veto: minimum over the dimensions instead of their weighted mean.

    Raises:
        ValueError: an unknown rule, or unusable weights.

    Example:
        >>> Scoring(aggregate="min").score([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]])
        0.5
    """

    aggregate: Aggregate = "mean"
    weights: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    veto: bool = False

    def __post_init__(self) -> None:
        _fold(self.aggregate)
        object.__setattr__(self, "weights", _normalised(self.weights))

    def score(self, rewards: ArrayLike) -> float:
        """Return the score of one path with rewards [T, 3]."""
        return aggregate(step_value(rewards, self.weights, self.veto), self.aggregate)

    def score_many(self, rewards: ArrayLike, lengths: Any) -> Floats:
        """Return the scores of many paths, whose ``rewards`` [sum(lengths), 3] stand one after another.

        Args:
            rewards: the paths' rewards, concatenated.
            lengths: number of steps of each path, at least 1 each.

        Returns:
            float64 [len(lengths)].
        """
        lengths = np.asarray(lengths, dtype=np.intp)
        values = _step_value(np.asarray(rewards, dtype=np.float64), self.weights, self.veto)
        return _fold(self.aggregate)(values, np.cumsum(lengths) - lengths, lengths)

    def value(self, scores: ArrayLike) -> Floats:
        """Return the scores mapped to [0, 1], in the same order: what is backed up and what votes weigh."""
        array = np.asarray(scores, dtype=np.float64)
        if self.aggregate == "sum_log":
            return np.exp(array)
        if self.aggregate == "mean_log_odds":
            return 1 / (1 + np.exp(-array))
        return array
