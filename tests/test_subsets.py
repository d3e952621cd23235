"""What n samples would answer, from one pool: the same as trying every subset in every order."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from svip_search._types import Trajectory
from svip_search._vote import select_answer
from svip_search.evaluation._subsets import at, best_curve, distinct_curve, missed, pass_curve, vote_curve

NAN = float("nan")
#: Scores, which answer each states (negative: none) and which answer is right, of small pools with ties.
POOLS = [
    ([0.9, 0.2, 0.5, 0.7], [0, 1, 1, 2], 1),
    ([0.5, 0.5, 0.5, 0.1], [0, 1, 1, 1], 1),
    ([NAN, 0.3, 0.3, NAN, 0.8], [-1, 0, 1, -1, 2], 0),
    ([NAN, NAN], [-1, -1], 0),
    ([0.4], [0], 0),
]


def trajectories(scores, answers, order):
    said = [None if answers[i] < 0 else "abc"[answers[i]] for i in order]
    return [Trajectory((), answer, scores[i], 0) for answer, i in zip(said, order, strict=True)]


def brute(scores, answers, right, n, how, weights=None):
    """The share of all ordered draws of ``n`` samples whose answer is right."""
    orders = list(permutations(range(len(scores)), n))
    hits = 0
    for order in orders:
        weight = None if weights is None else [0.0 if np.isnan(weights[i]) else weights[i] for i in order]
        answer, _ = select_answer(trajectories(scores, answers, order), how, weight)
        hits += answer == "abc"[right]
    return hits / len(orders)


@pytest.mark.parametrize(("scores", "answers", "right"), POOLS)
def test_best_of_n_is_the_mean_over_all_ordered_subsets(scores, answers, right):
    curve = best_curve(scores, [a == right for a in answers])
    wanted = [brute(scores, answers, right, n, "max") for n in range(1, len(scores) + 1)]
    assert curve == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("scores", "answers", "right"), POOLS)
@pytest.mark.parametrize("weighted", [False, True])
def test_votes_come_near_the_mean_over_all_ordered_subsets(scores, answers, right, weighted):
    how, weights = ("weighted", scores) if weighted else ("majority", [1.0] * len(scores))
    curve = vote_curve(answers, [a == right for a in answers], scores if weighted else None, orders=6000)
    wanted = [brute(scores, answers, right, n, how, weights) for n in range(1, len(scores) + 1)]
    assert curve == pytest.approx(wanted, abs=0.03)
    assert curve[0] == pytest.approx(wanted[0], abs=1e-12)  # each begins as often as any other


def test_pass_and_distinct_are_means_over_all_subsets():
    kinds = np.array([0, 0, 1, 2, 2, 2, -1])
    for n in range(1, 8):
        subsets = [kinds[list(c)] for c in combinations(range(7), n)]
        assert distinct_curve(kinds)[n - 1] == pytest.approx(np.mean([len(set(s) - {-1}) for s in subsets]))
        assert pass_curve(kinds == 2)[n - 1] == pytest.approx(np.mean([2 in s for s in subsets]))


def test_a_larger_pool_of_the_same_samples_estimates_the_same():
    rng = np.random.default_rng(0)
    right = rng.random((300, 16)) < 0.3
    scores = right + rng.normal(size=right.shape)
    whole = np.mean([best_curve(s, r) for s, r in zip(scores, right, strict=True)], axis=0)
    first = np.mean([best_curve(s[:4], r[:4]) for s, r in zip(scores, right, strict=True)], axis=0)
    assert whole[:4] == pytest.approx(first, abs=0.04)
    assert (np.diff(whole) > 0).all()


def test_nothing_to_count():
    assert missed(5, [0, 5]).tolist() == [[1.0] * 5, [0.0] * 5]
    assert distinct_curve([-1, -1]).tolist() == [0.0, 0.0]
    assert vote_curve([-1, -1], [False, False]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("marked", [[-1], [6]])
def test_counts_out_of_range_are_refused(marked):
    with pytest.raises(ValueError, match="`marked` must lie in"):
        missed(5, marked)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="`right` must have length"):
        best_curve([0.1, 0.2], [True])


def test_between_sizes():
    assert at([0.2, 0.4, 0.8], 2.5) == pytest.approx(0.6)
    assert at([0.2, 0.4, 0.8], 0.5) == 0.2
