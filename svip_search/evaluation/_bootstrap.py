"""Intervals by resampling questions with replacement."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Resamples behind every interval.
RESAMPLES = 10_000
_CHUNK = 500  # resamples at a time, so that memory stays small


def resampled_means(values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the means of every row of ``values`` over bootstrap resamples of its columns.

    All rows see the same resamples, so that the difference of two rows of the outcome is the paired
    bootstrap of their difference.

    Args:
        values: [S, B], S series over the same B questions.
        resamples: how many.
        seed: the same seed draws the same resamples.

    Returns:
        float64 [S, resamples].

    Notes:
        Each resample is a vector of counts, so that all means of a chunk are one matrix product.

    Example:
        >>> means = resampled_means([[1, 0, 1, 1], [0, 0, 1, 1]])
        >>> means.shape, bool((means[0] >= means[1]).all())
        ((2, 10000), True)
    """
    series = np.atleast_2d(np.asarray(values, np.float64))
    questions = series.shape[1]
    if questions < 1:
        raise ValueError("`values` must hold at least one question.")
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = rng.integers(questions, size=(rows, questions)) + questions * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * questions).reshape(rows, questions)
        parts.append(series @ counts.T / questions)
    return np.concatenate(parts, axis=1)


def interval(samples: ArrayLike, level: float = 0.95) -> list[float] | None:
    """Return the percentile interval [low, high] of bootstrap samples, NaN left out; None if all are.

    Example:
        >>> interval([0.0] * 50 + [1.0] * 50)
        [0.0, 1.0]
    """
    numbers = np.asarray(samples, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    if not len(numbers):
        return None
    tail = 50 * (1 - level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an interval may be infinite: inf - inf inside
        low, high = np.percentile(numbers, [tail, 100 - tail])
    return [float(low), float(high)]


def gap_closed(accuracy: Floats, base: Floats, ceiling: Floats) -> Floats:
    """Return (accuracy - base) / (ceiling - base), NaN where there is no gap.

    Example:
        >>> gap_closed(np.array([0.8]), np.array([0.6]), np.array([1.0]))
        array([0.5])
    """
    gap = ceiling - base
    closed: Floats = np.divide(accuracy - base, gap, out=np.full_like(gap, np.nan), where=gap > 1e-12)
    return closed
