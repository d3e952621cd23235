import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from svip_search import Scoring, aggregate, step_value
from svip_search._aggregate import EPSILON

quick = settings(max_examples=25, deadline=None)
RULES = ["mean", "min", "last", "product", "sum_log", "mean_log_odds", "max"]
REWARDS = arrays(np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(0, 1, width=32))


def by_hand(values, how):
    clamped = [min(max(v, EPSILON), 1 - EPSILON) for v in values]
    return {
        "mean": sum(values) / len(values),
        "min": min(values),
        "max": max(values),
        "last": values[-1],
        "product": math.prod(values),
        "sum_log": sum(math.log(v) for v in clamped),
        "mean_log_odds": sum(math.log(v / (1 - v)) for v in clamped) / len(values),
    }[how]


@pytest.mark.parametrize("how", RULES)
@quick
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_aggregate_equals_its_formula(how, values):
    assert aggregate(values, how) == pytest.approx(by_hand(values, how), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("how", RULES)
@quick
@given(paths=st.lists(REWARDS, min_size=1, max_size=5))
def test_many_paths_score_exactly_like_each_alone(how, paths):
    scoring = Scoring(aggregate=how, weights=(3, 1, 2))
    together = scoring.score_many(np.concatenate(paths), [len(p) for p in paths])
    assert together.tolist() == [scoring.score(p) for p in paths]


@pytest.mark.parametrize("how", RULES)
@quick
@given(paths=st.lists(REWARDS, min_size=2, max_size=5))
def test_value_lies_in_the_unit_interval_and_keeps_the_order(how, paths):
    scoring = Scoring(aggregate=how)
    scores = np.sort([scoring.score(p) for p in paths])
    values = scoring.value(scores)
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("veto", [False, True])
@pytest.mark.parametrize("how", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rewards_of_exactly_0_and_1_stay_finite(how, veto, dtype):
    """What a model gives that is sure of itself; a logarithm of them would not be a number."""
    scoring = Scoring(aggregate=how, veto=veto)
    sure = [np.array(rows, dtype) for rows in ([[0, 0, 0]], [[1, 1, 1]], [[1, 0, 1], [0, 1, 1]])]
    sure += [np.zeros((500, 3), dtype), np.ones((500, 3), dtype), np.tile(np.array([[0], [1]], dtype), (50, 3))]
    scores = scoring.score_many(np.concatenate(sure), [len(path) for path in sure])
    assert np.isfinite(scores).all()
    assert scores.tolist() == [scoring.score(path) for path in sure]
    values = scoring.value(scores)
    assert ((values >= 0) & (values <= 1)).all()
    worst, best = scoring.score(sure[0]), scoring.score(sure[1])
    assert worst < scoring.score([[0.5, 0.5, 0.5]]) < best
    assert scoring.value(worst) == pytest.approx(0, abs=2 * EPSILON)
    assert scoring.value(best) == pytest.approx(1, abs=2 * EPSILON)


@pytest.mark.parametrize("how", RULES)
@quick
@given(rewards=REWARDS, step=st.integers(0, 5), dimension=st.integers(0, 2))
def test_a_better_step_never_makes_a_path_worse(how, rewards, step, dimension):
    better = rewards.copy()
    row = better[step % len(better)]
    row[dimension] = max(row[dimension], np.float32(0.75))
    for veto in (False, True):
        scoring = Scoring(aggregate=how, veto=veto)
        assert scoring.score(better) >= scoring.score(rewards) - 1e-12


@quick
@given(numbers=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5), weights=st.tuples(*[st.integers(0, 9)] * 3))
def test_one_number_in_all_dimensions_comes_back_whatever_the_weights(numbers, weights):
    if not any(weights):
        return
    rewards = np.repeat(np.array(numbers)[:, None], 3, axis=1)
    for veto in (False, True):
        assert step_value(rewards, weights, veto) == pytest.approx(numbers, rel=1e-12, abs=1e-15)


def test_step_value_weighs_dimensions_or_takes_the_worst():
    assert step_value([[1, 0, 0]], weights=(2, 1, 1)).tolist() == [0.5]
    assert step_value([[1, 0.5, 0]], veto=True).tolist() == [0]
    assert step_value([[1, 0.5, 0]], weights=(1, 1, 0), veto=True).tolist() == [0.5]


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 1), (1, 1), (math.nan, 1, 1)])
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="`weights`"):
        Scoring(weights=weights)


def test_bad_shapes_and_rules_are_refused():
    with pytest.raises(ValueError, match="`rewards`"):
        step_value([[1.0, 2.0]])
    with pytest.raises(ValueError, match="`values`"):
        aggregate([])
    with pytest.raises(ValueError, match="`aggregate`"):
        Scoring(aggregate="median")
