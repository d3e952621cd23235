"""What n samples of a question would answer, for every n, from one larger pool of samples of it.

A pool of M samples is drawn once.  Every subset of n of them is what n fresh samples might have been, so the mean
over all subsets is an unbiased estimate of the accuracy with n samples, of less variance than one draw of n.  Entry
n - 1 of a curve is that mean for n = 1..M.

::

    share of subsets that miss c marked ones   C(M - c, n) / C(M, n)
    pass, distinct                             sums of such shares, exact
    best of n                                  exact too: the best of a subset lies among the equal ones at rank r
    votes                                      no closed form: the mean over random orders of the pool, each begun at
                                               every one of its samples (exact for n = 1 and M)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Orders of the pool behind a curve of votes, at least.
ORDERS = 64


def _log_factorials(most: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def missed(pool: int, marked: ArrayLike) -> Floats:
    """Return the share of subsets that hold none of the marked ones.

    Args:
        pool: number of samples, M >= 1.
        marked: [K] how many of them are marked, 0..M each.

    Returns:
        float64 [K, M], column n - 1 for subsets of n.

    Raises:
        ValueError: ``pool`` is below 1, or a count is out of range.

    Example:
        >>> missed(4, [1]).round(3).tolist()
        [[0.75, 0.5, 0.25, 0.0]]
    """
    counts = np.atleast_1d(np.asarray(marked, np.int64))
    if pool < 1 or (counts < 0).any() or (counts > pool).any():
        raise ValueError(f"`marked` must lie in 0..`pool`, `pool` >= 1; got {counts.tolist()} of {pool}.")
    logs, n = _log_factorials(pool), np.arange(1, pool + 1)
    left = pool - counts[:, None] - n  # samples neither marked nor in the subset
    shares = logs[pool - counts][:, None] - logs[np.maximum(left, 0)] + logs[pool - n] - logs[pool]
    return np.where(left >= 0, np.exp(shares), 0.0)


def pass_curve(right: ArrayLike) -> Floats:
    """Return the chance that one of n samples is right.

    Args:
        right: bool [M].

    Returns:
        float64 [M].

    Example:
        >>> pass_curve([True, False, False, False]).round(6).tolist()
        [0.25, 0.5, 0.75, 1.0]
    """
    marks = np.asarray(right, bool)
    curve: Floats = 1 - missed(len(marks), [int(marks.sum())])[0]
    return curve


def distinct_curve(kinds: ArrayLike) -> Floats:
    """Return how many different kinds there are among n samples.

    Args:
        kinds: int [M], negative for samples that count as none.

    Returns:
        float64 [M].

    Example:
        >>> distinct_curve([0, 0, 1, -1]).round(2).tolist()
        [0.75, 1.33, 1.75, 2.0]
    """
    codes = np.asarray(kinds, np.int64)
    counts = np.unique(codes[codes >= 0], return_counts=True)[1]
    curve: Floats = (1 - missed(len(codes), counts)).sum(axis=0) if len(counts) else np.zeros(len(codes))
    return curve


def best_curve(scores: ArrayLike, right: ArrayLike) -> Floats:
    """Return the chance that the best-scored of n samples is right; equal ones are equally likely to come first.

    Args:
        scores: [M], NaN for samples that state no answer: they never win.
        right: bool [M].

    Returns:
        float64 [M].

    Raises:
        ValueError: the lengths differ.

    Example:
        >>> best_curve([0.9, 0.5, 0.5, np.nan], [True, True, False, False]).round(3).tolist()
        [0.5, 0.75, 0.875, 1.0]
    """
    values, marks = np.asarray(scores, np.float64), np.asarray(right, bool)
    if values.shape != marks.shape or values.ndim != 1:
        raise ValueError(f"`right` must have length {values.shape}; got {marks.shape}.")
    known = ~np.isnan(values)
    if not known.any():
        return np.zeros(len(values))
    _, rank = np.unique(-values[known], return_inverse=True)  # 0 is the best
    counts = np.bincount(rank)
    share = np.bincount(rank, weights=marks[known]) / counts
    above = missed(len(values), np.concatenate([[0], np.cumsum(counts)]))  # none of the best r ranks in the subset
    curve: Floats = share @ (above[:-1] - above[1:])
    return curve


def vote_curve(
    answers: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None, orders: int = ORDERS, seed: int = 0
) -> Floats:
    """Return the chance that the answer of most votes, or of most weight, among n samples is right.

    Args:
        answers: int [M], which answer a sample states, negative for none.
        right: bool [M].
        weights: [M] >= 0; None counts votes.  Ties go to the answer that comes first.
        orders: how many orders of the pool at least; entry n - 1 is the mean over the first n samples of each.
        seed: of the orders.

    Returns:
        float64 [M].

    Example:
        >>> vote_curve([0, 0, 0, 1], [True, True, True, False]).tolist()[-1]
        1.0
    """
    codes, marks = np.asarray(answers, np.int64), np.asarray(right, bool)
    weight = np.ones(len(codes)) if weights is None else np.nan_to_num(np.asarray(weights, np.float64))
    rng = np.random.default_rng(seed)
    total, cycles = np.zeros(len(codes)), -(-orders // max(1, len(codes)))
    for _ in range(cycles):
        order = rng.permutation(len(codes))
        for begin in range(len(codes)):
            turned = np.roll(order, begin)
            total += _winners(codes[turned], marks[turned], weight[turned])
    return total / max(1, cycles * len(codes))


def _winners(codes: NDArray[np.int64], marks: NDArray[np.bool_], weight: Floats) -> NDArray[np.bool_]:
    """Return [M], whether the winner among the first n is right."""
    stating = np.flatnonzero(codes >= 0)
    if not len(stating):
        return np.zeros(len(codes), bool)
    kinds, first = np.unique(codes[stating], return_index=True)
    kinds = kinds[np.argsort(first)]  # columns in order of appearance: the first largest is the earlier one
    column = np.argsort(kinds)[np.searchsorted(np.sort(kinds), codes[stating])]
    ballots = np.zeros((len(codes), len(kinds)))
    ballots[stating, column] = weight[stating]
    true = np.zeros(len(kinds), bool)
    true[column] = marks[stating]
    won: NDArray[np.bool_] = true[ballots.cumsum(axis=0).argmax(axis=1)]
    won[: stating[0]] = False  # nobody has voted yet
    return won


def at(curve: ArrayLike, n: float) -> float:
    """Return a curve at a size between whole numbers, held within 1..M.

    Example:
        >>> at([0.5, 0.7], 1.5), at([0.5, 0.7], 9)
        (0.6, 0.7)
    """
    values = np.asarray(curve, np.float64)
    return float(np.interp(n, np.arange(1, len(values) + 1), values))
