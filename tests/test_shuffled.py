"""ShuffledReward: many questions at a time, and many searches at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svip_search import Question, ShuffledReward
from svip_search.testing import HashReward

QUESTIONS = [Question(f"Which {i}?") for i in range(3)]


class Merging(HashReward):
    def evaluate_many(self, items: Any) -> Any:
        return [self.evaluate(*item) for item in items]


def assert_equal(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_merged_calls_equal_separate_ones() -> None:
    several = [(f"step {i}",) * (1 + i % 2) for i in range(5)]
    merged, separate = ShuffledReward(Merging(), seed=2), ShuffledReward(HashReward(), seed=2)
    for paths in (several, [("alone",)], several[::-1]):
        items = [(question, paths) for question in (*QUESTIONS, QUESTIONS[0])]
        found = merged.evaluate_many(items)
        assert_equal(found, [separate.evaluate(*item) for item in items])
        assert any(not np.array_equal(a, b) for a, b in zip(found[0], HashReward().evaluate(*items[0]), strict=True))


def test_only_models_that_merge_have_a_method_for_it() -> None:
    with pytest.raises(AttributeError, match="evaluate_many"):
        _ = ShuffledReward(HashReward()).evaluate_many


def test_coroutines_of_the_model_are_not_handed_out() -> None:
    model: Any = HashReward()
    model.usage = model.aevaluate_many = object()
    shuffled = ShuffledReward(model)
    assert shuffled.usage is model.usage
    assert not hasattr(shuffled, "aevaluate_many")


def test_a_wrong_number_of_answers_is_passed_on() -> None:
    model: Any = Merging()
    model.evaluate_many = lambda items: [[]]
    assert ShuffledReward(model).evaluate_many([(q, []) for q in QUESTIONS]) == [[]]


def test_lone_paths_of_searches_side_by_side_are_shuffled_too() -> None:
    shuffled, alone = ShuffledReward(HashReward(), seed=1), ShuffledReward(HashReward(), seed=1)
    rounds = [[shuffled.evaluate(q, [(f"step {i}",)]) for q in QUESTIONS] for i in range(4)]
    for j, question in enumerate(QUESTIONS):
        for i in range(4):
            assert_equal([rounds[i][j]], [alone.evaluate(question, [(f"step {i}",)])])
            if i:
                assert not np.array_equal(rounds[i][j][0], HashReward().evaluate(question, [(f"step {i}",)])[0])


@pytest.mark.parametrize("forget", [lambda model: model.forget(QUESTIONS[0]), lambda model: model.clear()])
def test_what_is_forgotten_is_given_to_nobody(forget: Any) -> None:
    shuffled = ShuffledReward(HashReward(), seed=1)
    shuffled.evaluate(QUESTIONS[0], [("a",)])
    forget(shuffled)
    (found,) = shuffled.evaluate(QUESTIONS[0], [("b",)])
    np.testing.assert_array_equal(found, HashReward().evaluate(QUESTIONS[0], [("b",)])[0])
