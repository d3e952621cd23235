"""Measures of reward models against hand-computed values, definitions and each other."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search.evaluation import _judge_measures as m
from svip_search.evaluation.metrics import (
    auroc,
    best_threshold,
    calibration_error,
    f1,
    first_error,
    first_error_localisation,
    macro_f1,
    pairwise_accuracy,
    reliability,
    weighted_f1,
)  # fmt: skip

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), min_size=1, max_size=30)


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b)


@settings(deadline=None, max_examples=50)
@given(SCORES, st.randoms(use_true_random=False))
def test_auroc_is_the_share_of_ordered_pairs(scores, random):
    positive = [random.random() < 0.5 for _ in scores]
    pairs = list(
        product(
            [s for s, p in zip(scores, positive, strict=True) if p],
            [s for s, p in zip(scores, positive, strict=True) if not p],
        )
    )
    wanted = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]) if pairs else float("nan")
    assert same(auroc(scores, positive), float(wanted))


def test_unknown_labels_are_left_out_everywhere():
    nan = float("nan")
    assert auroc([0.9, 0.1, 0.99], [1, 0, nan]) == 1.0
    assert calibration_error([0.5, 0.5, 0.9], [1, 0, nan]) == 0.0
    assert f1([1, 0, 1], [1, 0, nan]) == macro_f1([1, 0, 1], [1, 0, nan]) == weighted_f1([1, 0, 1], [1, 0, nan]) == 1.0
    assert best_threshold([0.7, 0.2, 0.9], [1, 0, nan]) == 0.7
    assert pairwise_accuracy([0.9, nan], [0.1, 0.5]) == 1.0
    assert first_error([1, nan, None, 0]) == 3


def test_nothing_to_measure_is_nan():
    assert math.isnan(auroc([0.5, 0.6], [1, 1]))
    assert math.isnan(auroc([], []))
    assert math.isnan(calibration_error([], []))
    assert math.isnan(f1([0, 0], [0, 0]))
    assert math.isnan(weighted_f1([], []))
    assert math.isnan(macro_f1([], []))
    assert math.isnan(best_threshold([0.1], [0]))
    assert math.isnan(pairwise_accuracy([], []))
    found = first_error_localisation([-1], [-1])
    assert math.isnan(found.erroneous)
    assert math.isnan(found.f1)


def test_calibration_by_hand():
    # bin [0, .5): scores .1 .3 labels 0 1 -> |.2 - .5| * 2; bin [.5, 1]: .9 1.0 labels .8 1 -> |.95 - .9| * 2
    assert calibration_error([0.1, 0.3, 0.9, 1.0], [0, 1, 0.8, 1], bins=2) == pytest.approx((0.6 + 0.1) / 4)
    found = reliability([1.0, 0.0], [1, 0], bins=3)
    assert found.counts == (1, 0, 1)
    assert found.to_dict()["mean_score"] == [0.0, None, 1.0]


def test_weighted_f1_weighs_each_class_by_the_others_share():
    # 3 errors, 1 right; said 2 errors of which both are: F1 error = 4/5, F1 right = 2/3
    said, truth = [1, 1, 0, 0], [1, 1, 1, 0]
    assert weighted_f1(said, truth) == pytest.approx(0.25 * 0.8 + 0.75 * 2 / 3)
    assert weighted_f1([0, 0], [1, 1]) == 0.0  # as the published code: nothing found is 0, not undefined


def test_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 20, 200) / 20, rng.random(200) < 0.3
    best = f1(scores >= best_threshold(scores, truth), truth)
    assert best == max(f1(scores >= t, truth) for t in np.unique(scores))


def test_first_error_by_hand():
    found = first_error_localisation([0, 2, -1, 1], [0, 1, -1, -1])
    assert (found.accuracy, found.erroneous, found.correct, found.chains) == (0.5, 0.5, 0.5, 4)
    assert found.f1 == 0.5
    assert first_error_localisation([0, 0], [1, -1]).f1 == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([1], [1, 0]), "as long as each other"),
        (lambda: auroc([1], [0.5]), "`positive` must hold 0, 1 or NaN; got 0.5"),
        (lambda: auroc([float("nan")], [1]), "got NaN beside a known label"),
        (lambda: calibration_error([1.5], [1]), "`scores` must lie in 0..1; got 1.5"),
        (lambda: calibration_error([0.5], [-1]), "`labels` must lie in 0..1; got -1"),
        (lambda: reliability([0.5], [1], bins=0), "`bins` must be a positive integer; got 0"),
        (lambda: f1([2], [1]), "`predicted` must hold"),
        (lambda: first_error_localisation([1], []), "`predicted` must be as long as `truth`"),
        (lambda: pairwise_accuracy([1], []), "as long as each other"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ---- the weighted twins ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(SCORES, st.randoms(use_true_random=False))
def test_measures_with_weights_of_one_are_the_metrics(scores, random):
    values = np.array(scores)
    labels = np.array([random.choice([0.0, 0.25, 0.75, 1.0]) for _ in scores])
    right, said, owner = labels > 0.5, values > 0.5, np.array([random.randrange(5) for _ in scores])
    ones = np.ones((1, 5))
    assert same(m.auroc(values, right, owner)(ones)[0], auroc(values, right))
    assert same(m.calibration(values, labels, owner)(ones)[0], calibration_error(values, labels))
    assert same(m.f1(said, right, owner)(ones)[0], f1(said, right))
    assert same(m.macro_f1(said, right, owner)(ones)[0], macro_f1(said, right))
    assert same(m.weighted_f1(said, right, owner)(ones)[0], weighted_f1(said, right))


def test_a_weight_of_two_is_the_question_twice():
    rng = np.random.default_rng(1)
    scores, labels, owner = rng.random(60), rng.random(60), rng.integers(0, 6, 60)
    right, said = labels > 0.5, scores > 0.5
    counts = np.array([[2.0, 0, 1, 3, 1, 1]])
    rows = np.concatenate([np.flatnonzero(owner == q) for q in range(6) for _ in range(int(counts[0, q]))])
    assert m.auroc(scores, right, owner)(counts)[0] == pytest.approx(auroc(scores[rows], right[rows]))
    assert m.calibration(scores, labels, owner)(counts)[0] == pytest.approx(
        calibration_error(scores[rows], labels[rows])
    )
    assert m.weighted_f1(said, right, owner)(counts)[0] == pytest.approx(weighted_f1(said[rows], right[rows]))
    assert m.macro_f1(said, right, owner)(counts)[0] == pytest.approx(macro_f1(said[rows], right[rows]))


def test_intervals_cover_and_are_seeded():
    rng = np.random.default_rng(2)
    won, owner = rng.random(400) < 0.7, np.arange(400)
    [found] = m.estimate([m.mean(won, owner)], 400)
    assert found == m.estimate([m.mean(won, owner)], 400)[0]
    low, high = found["ci95"]
    assert low < found["value"] < high
    spread = 1.96 * math.sqrt(0.7 * 0.3 / 400)
    assert high - low == pytest.approx(2 * spread, rel=0.15)
    assert m.estimate([m.mean([], np.zeros(0, np.intp))], 3) == [{"value": None, "ci95": None}]
