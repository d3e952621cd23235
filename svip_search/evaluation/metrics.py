"""Measures of a reward model: how well it ranks, how true its numbers are, where it finds the first error.

All take plain arrays.  A label that is NaN is unknown and left out with its score.  A measure that has
nothing to measure (no label, or one class only where two are needed) is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

NAN = float("nan")


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Args:
        scores: [N], larger means more likely positive.
        positive: [N], true or 1 for positives, false or 0 for negatives, NaN where unknown.

    Returns:
        A share in 0..1; NaN where one class is missing.

    Raises:
        ValueError: the lengths differ, a score is not a number, or a label is neither 0, 1 nor NaN.

    Example:
        >>> auroc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.875
    """
    values, truth = _known(scores, positive, "positive")
    chosen = _binary(truth, "positive")
    return _auroc(values, chosen)


def _auroc(values: Floats, chosen: NDArray[np.bool_]) -> float:
    n, p = len(values), int(chosen.sum())
    if p in (0, n):
        return NAN
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]  # equal scores share the middle of their ranks
    return float((ranks[chosen].sum() - p * (p + 1) / 2) / (p * (n - p)))


# ---- calibration -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """Scores in bins of equal width, beside what the labels say.

    Args:
        edges: [bins + 1], from 0 to 1; a bin holds its lower edge, the last bin both.
        counts: [bins].
        mean_score: [bins], NaN where a bin is empty.
        mean_label: [bins], NaN where a bin is empty.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean_score: tuple[float, ...]
    mean_label: tuple[float, ...]

    @property
    def error(self) -> float:
        """The expected calibration error; NaN where there is nothing in any bin."""
        total = sum(self.counts)
        if not total:
            return NAN
        gaps = zip(self.counts, self.mean_score, self.mean_label, strict=True)
        return sum(n * abs(score - label) for n, score, label in gaps if n) / total

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, None where a bin is empty."""
        return {
            "edges": list(self.edges),
            "counts": list(self.counts),
            "mean_score": [None if np.isnan(v) else v for v in self.mean_score],
            "mean_label": [None if np.isnan(v) else v for v in self.mean_label],
        }


def reliability(scores: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """Return the mean score and the mean label of every bin of scores: a reliability diagram in numbers.

    Args:
        scores: [N] in 0..1.
        labels: [N] in 0..1, soft labels are welcome, NaN where unknown.
        bins: how many of equal width, at least 1.

    Raises:
        ValueError: lengths differ, something lies outside 0..1, or ``bins`` is below 1.

    Example:
        >>> found = reliability([0.1, 0.2, 0.9], [0.0, 1.0, 1.0], bins=2)
        >>> found.counts, [round(v, 3) for v in found.mean_score], found.mean_label
        ((2, 1), [0.15, 0.9], (0.5, 1.0))
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ValueError(f"`bins` must be a positive integer; got {bins!r}.")
    values, truth = _known(scores, labels, "labels")
    _within(values, "scores")
    _within(truth, "labels")
    place = np.minimum((values * bins).astype(np.intp), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(place, values, bins) / counts
        mean_label = np.bincount(place, truth, bins) / counts
    edges = np.linspace(0, 1, bins + 1)
    return Reliability(*(tuple(row.tolist()) for row in (edges, counts, mean_score, mean_label)))


def calibration_error(scores: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error, Σ over bins of count/N · |mean score − mean label|.

    Labels may be soft: a score of 0.7 is true where the labels beside it are 0.7 on average.  0 is perfect.

    Args:
        scores: [N] in 0..1.
        labels: [N] in 0..1, NaN where unknown.
        bins: how many of equal width.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.

    Example:
        >>> round(calibration_error([0.8, 0.8, 0.8, 0.8], [1, 1, 1, 0]), 3)
        0.05
    """
    return reliability(scores, labels, bins).error


# ---- decisions ---------------------------------------------------------------------------------------


def f1(predicted: ArrayLike, positive: ArrayLike) -> float:
    """Return the F1 of the positive class, 2·hits / (2·hits + false alarms + misses).

    Args:
        predicted: [N] 0 or 1.
        positive: [N] 0 or 1, NaN where unknown.

    Returns:
        0..1; 0 where nothing is found, NaN where nothing is positive and nothing is predicted to be.

    Example:
        >>> f1([1, 1, 0, 0], [1, 0, 1, 0])
        0.5
    """
    said, truth = _decisions(predicted, positive)
    return _f1(said, truth)


def macro_f1(predicted: ArrayLike, positive: ArrayLike) -> float:
    """Return the mean of the F1 of both classes, a class that neither occurs nor is predicted left out.

    Args:
        predicted: [N] 0 or 1.
        positive: [N] 0 or 1, NaN where unknown.

    Example:
        >>> round(macro_f1([1, 1, 1, 0], [1, 1, 0, 0]), 3)
        0.733
    """
    said, truth = _decisions(predicted, positive)
    both = [_f1(said, truth), _f1(~said, ~truth)]
    known = [v for v in both if not np.isnan(v)]
    return float(np.mean(known)) if known else NAN


def weighted_f1(predicted: ArrayLike, positive: ArrayLike) -> float:
    """Return VLRMBench's F1_w: the F1 of each class, weighed by the share of the *other*.

    ``F1_w = share(negative) · F1(positive) + share(positive) · F1(negative)``, so that the rarer class
    counts more.  As in the published code an F1 without anything to find is 0.

    Args:
        predicted: [N] 0 or 1.
        positive: [N] 0 or 1, NaN where unknown.

    Example:
        >>> round(weighted_f1([1, 0, 0, 0], [1, 1, 0, 0]), 4), weighted_f1([1, 0, 0, 0], [1, 0, 0, 0])
        (0.7333, 1.0)
    """
    said, truth = _decisions(predicted, positive)
    if not len(truth):
        return NAN
    share = float(truth.mean())
    good, bad = _f1(said, truth), _f1(~said, ~truth)
    return (1 - share) * (0 if np.isnan(good) else good) + share * (0 if np.isnan(bad) else bad)


def best_threshold(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the threshold t for which ``score >= t`` has the best F1, the highest such t.

    Fit it on data that are not those you report on.

    Args:
        scores: [N].
        positive: [N] 0 or 1, NaN where unknown.

    Returns:
        One of the scores; NaN where nothing is positive.

    Example:
        >>> best_threshold([0.9, 0.6, 0.5, 0.1], [1, 1, 0, 0])
        0.6
    """
    values, truth = _known(scores, positive, "positive")
    chosen = _binary(truth, "positive")
    if not chosen.any():
        return NAN
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(chosen[order])
    quality = 2 * hits / (np.arange(1, len(values) + 1) + chosen.sum())
    ends = np.append(np.diff(values[order]) != 0, True)  # a threshold takes all equal scores or none
    return float(values[order][np.argmax(np.where(ends, quality, -1))])


# ---- chains ------------------------------------------------------------------------------------------


def first_error(steps: Sequence[Any] | NDArray[Any]) -> int:
    """Return the index of the first step that is wrong, -1 where none is.

    Args:
        steps: true or 1 for a right step, false or 0 for a wrong one; NaN and None are no error.

    Example:
        >>> first_error([1, 1, 0, 1]), first_error([True, True])
        (2, -1)
    """
    for index, right in enumerate(steps):
        if right is not None and not np.isnan(right) and not right:
            return index
    return -1


@dataclass(frozen=True)
class FirstError:
    """How often the first error is found, after ProcessBench.

    Args:
        accuracy: share of all chains whose first error (or its absence) is found.
        erroneous: the same, of chains with an error; NaN where there is none.
        correct: the same, of chains without; NaN where there is none.
        chains: how many.
    """

    accuracy: float
    erroneous: float
    correct: float
    chains: int

    @property
    def f1(self) -> float:
        """Harmonic mean of ``erroneous`` and ``correct``: neither always nor never complaining pays."""
        if np.isnan(self.erroneous) or np.isnan(self.correct):
            return NAN
        total = self.erroneous + self.correct
        return 2 * self.erroneous * self.correct / total if total else 0.0


def first_error_localisation(predicted: Iterable[int], truth: Iterable[int]) -> FirstError:
    """Return how often the predicted first error is the true one.

    Args:
        predicted: index of the first step held to be wrong, -1 for none, one a chain.
        truth: the same as the labels have it, see `first_error`.

    Raises:
        ValueError: the lengths differ.

    Reference: Zheng et al., "ProcessBench", 2024, section 4.

    Example:
        >>> found = first_error_localisation([2, -1, 0], [2, -1, 1])
        >>> round(found.accuracy, 3), found.erroneous, found.correct, round(found.f1, 3)
        (0.667, 0.5, 1.0, 0.667)
    """
    said, true = np.asarray(list(predicted), np.int64), np.asarray(list(truth), np.int64)
    if len(said) != len(true):
        raise ValueError(f"`predicted` must be as long as `truth`, {len(true)}; got {len(said)}.")
    hit, wrong = said == true, true >= 0
    whole, erroneous, correct = (float(hit[rows].mean()) if rows.any() else NAN for rows in (true >= -1, wrong, ~wrong))
    return FirstError(whole, erroneous, correct, len(true))


def pairwise_accuracy(better: ArrayLike, worse: ArrayLike, ties: float = 0.5) -> float:
    """Return how often the better of two has the higher score.

    Args:
        better: [N] scores of those that should win.
        worse: [N] scores of the others.
        ties: what an equal pair counts; several benchmarks say 0.

    Returns:
        0..1, NaN where there is no pair; pairs with a NaN are left out.

    Raises:
        ValueError: the lengths differ.

    Example:
        >>> pairwise_accuracy([0.9, 0.5], [0.1, 0.5]), pairwise_accuracy([0.9, 0.5], [0.1, 0.5], ties=0)
        (0.75, 0.5)
    """
    high, low = np.asarray(better, np.float64), np.asarray(worse, np.float64)
    if high.shape != low.shape or high.ndim != 1:
        raise ValueError(f"`better` and `worse` must be as long as each other; got {high.shape} and {low.shape}.")
    known = ~(np.isnan(high) | np.isnan(low))
    if not known.any():
        return NAN
    return float(np.mean((high > low)[known] + ties * (high == low)[known]))


# ---- shared ------------------------------------------------------------------------------------------


def _known(scores: ArrayLike, labels: ArrayLike, name: str) -> tuple[Floats, Floats]:
    values, truth = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            f"`scores` and `{name}` must be one-dimensional and as long as each other; "
            f"got {list(values.shape)} and {list(truth.shape)}."
        )
    known = ~np.isnan(truth)
    if np.isnan(values[known]).any():
        raise ValueError("`scores` must be numbers; got NaN beside a known label.")
    return values[known], truth[known]


def _binary(truth: Floats, name: str) -> NDArray[np.bool_]:
    odd = truth[(truth != 0) & (truth != 1)]
    if len(odd):
        raise ValueError(f"`{name}` must hold 0, 1 or NaN; got {odd[0]:g}.")
    found: NDArray[np.bool_] = truth == 1
    return found


def _decisions(predicted: ArrayLike, positive: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    said, truth = _known(predicted, positive, "positive")
    return _binary(said, "predicted"), _binary(truth, "positive")


def _f1(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    hits, both = int((said & truth).sum()), int(said.sum() + truth.sum())
    return 2 * hits / both if both else NAN


def _within(values: Floats, name: str) -> None:
    outside = values[(values < 0) | (values > 1)]
    if len(outside):
        raise ValueError(f"`{name}` must lie in 0..1; got {outside[0]:g}.")
