"""Measures as functions of how often each question counts, so that value and bootstrap are one formula.

A measure takes ``counts`` [R, Q], R weightings of the Q questions of a benchmark, and gives [R] values.  All ones is
the benchmark itself; a row of a multinomial draw is a bootstrap resample of its questions.  What the measures say
with weights of one is what `evaluation.metrics` says: a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._bootstrap import interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
Measure = Callable[[Floats], Floats]

#: Resamples behind an interval: measures of steps cost more than means of questions.
RESAMPLES = 1000
_AT_A_TIME = 2_000_000  # questions of all resamples of a chunk: 16 MB
_IN_CACHE = 100_000  # weights of a block of resamples, which are read several times


def estimate(measures: Sequence[Measure], questions: int, seed: int = 0) -> list[dict[str, object]]:
    """Return ``{"value", "ci95"}`` of every measure, None where it is undefined; all see the same resamples."""
    ones = np.ones((1, questions))
    values = [float(measure(ones)[0]) for measure in measures]
    samples: list[list[Floats]] = [[] for _ in measures]
    rng = np.random.default_rng(seed)
    chunk = max(1, min(RESAMPLES, _AT_A_TIME // questions))
    for start in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - start)
        counts = rng.multinomial(questions, np.full(questions, 1 / questions), size=rows).astype(np.float64)
        for found, measure in zip(samples, measures, strict=True):
            found.append(measure(counts))
    return [
        {"value": None if np.isnan(value) else value, "ci95": None if np.isnan(value) else interval(np.concatenate(s))}
        for value, s in zip(values, samples, strict=True)
    ]


def _ratio(above: Floats, below: Floats) -> Floats:
    found: Floats = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    return found


def _totals(values: Floats, question: Indices) -> Measure:
    """Return ``counts -> [R, J]``, the weighted sums of the columns of ``values`` [N, J].

    Summed a question first: resamples then cost questions, not steps.
    """
    present, place = np.unique(question, return_inverse=True)
    table = np.stack([np.bincount(place, column, len(present)) for column in values.T], axis=1)
    return lambda counts: counts[:, present] @ table


def mean(values: ArrayLike, question: Indices) -> Measure:
    """Return the measure "mean of values"; ``question`` [N] tells whose each value is."""
    numbers = np.asarray(values, np.float64)
    totals = _totals(np.column_stack([numbers, np.ones_like(numbers)]), question)

    def measure(counts: Floats) -> Floats:
        above, below = totals(counts).T
        return _ratio(above, below)

    return measure


def auroc(scores: Floats, positive: Bools, question: Indices) -> Measure:
    """Return the measure "area under the ROC curve": positives above each negative, equal ones half."""
    order = np.argsort(scores[positive], kind="stable")
    good, bad = scores[positive][order], scores[~positive]
    good_owner, bad_owner = question[positive][order], question[~positive]
    left, right = np.searchsorted(good, bad, "left"), np.searchsorted(good, bad, "right")
    rows = max(1, _IN_CACHE // (len(scores) + 1))

    def some(counts: Floats) -> Floats:
        below = np.zeros((len(counts), len(good) + 1))
        np.cumsum(counts[:, good_owner], axis=1, out=below[:, 1:])
        total, weights = below[:, -1], counts[:, bad_owner]
        above = total[:, None] - (below[:, left] + below[:, right]) / 2
        return _ratio((weights * above).sum(1), total * weights.sum(1))

    return lambda counts: np.concatenate([some(counts[i : i + rows]) for i in range(0, len(counts), rows)])


def calibration(scores: Floats, labels: Floats, question: Indices, bins: int = 15) -> Measure:
    """Return the measure "expected calibration error"."""
    place = np.minimum((scores * bins).astype(np.intp), bins - 1)
    gaps = np.zeros((len(scores), bins + 1))
    gaps[np.arange(len(scores)), place] = scores - labels
    gaps[:, bins] = 1
    totals = _totals(gaps, question)

    def measure(counts: Floats) -> Floats:
        found = totals(counts)
        return _ratio(np.abs(found[:, :bins]).sum(1), found[:, bins])

    return measure


def f1(said: Bools, truth: Bools, question: Indices) -> Measure:
    """Return the measure "F1 of what is true"."""
    totals = _totals(np.column_stack([2.0 * (said & truth), said.astype(np.float64) + truth]), question)

    def measure(counts: Floats) -> Floats:
        above, below = totals(counts).T
        return _ratio(above, below)

    return measure


def macro_f1(said: Bools, truth: Bools, question: Indices) -> Measure:
    """Return the measure "mean of the F1 of both classes"."""
    return average([f1(said, truth, question), f1(~said, ~truth, question)])


def weighted_f1(said: Bools, truth: Bools, question: Indices) -> Measure:
    """Return the measure "VLRMBench's F1_w": each class weighed by the share of the other."""
    good, bad = f1(said, truth, question), f1(~said, ~truth, question)
    share = mean(truth, question)

    def measure(counts: Floats) -> Floats:
        p = share(counts)
        found: Floats = (1 - p) * np.nan_to_num(good(counts)) + p * np.nan_to_num(bad(counts))
        return found

    return measure


def average(measures: Sequence[Measure]) -> Measure:
    """Return the mean of some measures, those that are undefined left out."""

    def measure(counts: Floats) -> Floats:
        values = np.stack([m(counts) for m in measures])
        known = ~np.isnan(values)
        return _ratio(np.where(known, values, 0).sum(0), known.sum(0).astype(np.float64))

    return measure


def harmonic(first: Measure, second: Measure) -> Measure:
    """Return the harmonic mean of two measures, 0 where both are."""

    def measure(counts: Floats) -> Floats:
        a, b = first(counts), second(counts)
        found: Floats = np.where(a + b == 0, 0.0, 2 * a * b / np.where(a + b == 0, 1, a + b))
        return found

    return measure
