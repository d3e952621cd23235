"""WeightedReward: the mean of several reward models, and what happens where one of them fails."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import MCTS, BestOfN, CallableReward, Question, RewardError, Scoring, asolve, solve, solve_many
from svip_search._budget import Usage
from svip_search._types import RewardModel
from svip_search.rewards.weighted_reward import WeightedReward
from svip_search.testing import FaultyReward, HashPolicy, HashReward

QUESTION = Question("Which?", options=["red", "blue"])
OTHER = Question("Which one?", options=["red", "blue"])
PATHS = [("a",), ("a", "b"), ("c",)]


class Full(HashReward):
    """Does and reports everything that a reward model may."""

    def __init__(self, seed: int = 0, kind: Any = "prm") -> None:
        super().__init__(seed, kind)
        self.usage = Usage()
        self.said: list[Any] = []

    def evaluate(self, question: Question, paths: Any) -> Any:
        self.usage.reward_tokens += 10 * len(paths)
        return super().evaluate(question, paths)

    def evaluate_many(self, items: Any) -> Any:
        self.said.append(("many", len(items)))
        return [self.evaluate(*item) for item in items]

    def forget(self, question: Question) -> None:
        self.said.append(("forget", question))

    def clear(self) -> None:
        self.said.append("clear")

    def close(self) -> None:
        self.said.append("close")


class Remote(Full):
    """Answers in coroutines."""

    concurrent_calls = 4

    def __init__(self, seed: int = 0, kind: Any = "prm", delay: float = 0.0) -> None:
        super().__init__(seed, kind)
        self.delay = delay
        self.now = self.most = self.cancelled = 0

    async def aevaluate_many(self, items: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay)
            return [self.evaluate(*item) for item in items]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1

    async def arelease(self) -> None:
        self.said.append("arelease")


class Breaks(HashReward):
    """Raises on a call that holds the path of one step "a"."""

    def evaluate(self, question: Question, paths: Any) -> Any:
        if ("a",) in map(tuple, paths):
            raise RuntimeError("no a")
        return super().evaluate(question, paths)


def by_hand(pairs: Any, path: Any) -> Any:
    total = sum(weight for _, weight in pairs)
    return sum(np.asarray(m.evaluate(QUESTION, [path])[0], np.float64) * w / total for m, w in pairs)


def same(one: Any, two: Any) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True))


WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, st.sampled_from(["prm", "orm"]))
def test_it_is_the_weighted_mean(weights: list[float], kind: Any) -> None:
    pairs = [(HashReward(i, kind), w) for i, w in enumerate(weights)]
    reward = WeightedReward(pairs)
    assert isinstance(reward, RewardModel)
    assert reward.kind == kind
    for found, path in zip(reward.evaluate(QUESTION, PATHS), PATHS, strict=True):
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        assert found.shape == ((len(path), 3) if kind == "prm" else ())
        np.testing.assert_allclose(found, by_hand(pairs, path), rtol=1e-6)
        alone = [np.asarray(m.evaluate(QUESTION, [path])[0]) for m, _ in pairs]
        assert (found >= np.min(alone, axis=0) - 1e-6).all()
        assert (found <= np.max(alone, axis=0) + 1e-6).all()


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, st.randoms())
def test_the_order_of_models_changes_no_bit(weights: list[float], rng: Any) -> None:
    pairs = [(HashReward(i), w) for i, w in enumerate(weights)]
    shuffled = rng.sample(pairs, len(pairs))
    one, two = WeightedReward(pairs), WeightedReward(shuffled)
    assert same(one.evaluate(QUESTION, PATHS), two.evaluate(QUESTION, PATHS))


@settings(max_examples=100, deadline=None)
@given(WEIGHTS, st.integers(-40, 40))
def test_the_scale_of_the_weights_changes_nothing(weights: list[float], power: int) -> None:
    pairs = [(HashReward(i), w) for i, w in enumerate(weights)]
    scaled = [(m, w * 2.0**power) for m, w in pairs]
    assert same(WeightedReward(pairs).evaluate(QUESTION, PATHS), WeightedReward(scaled).evaluate(QUESTION, PATHS))
    thirds = WeightedReward([(m, w / 3) for m, w in pairs]).evaluate(QUESTION, PATHS)
    for found, wanted in zip(WeightedReward(pairs).evaluate(QUESTION, PATHS), thirds, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_splitting_a_model_or_weighing_it_by_nothing_changes_nothing() -> None:
    a, b, unasked = HashReward(1), HashReward(2), Full(3)
    whole = WeightedReward([(a, 3), (b, 1)]).evaluate(QUESTION, PATHS)
    split = WeightedReward([(a, 1), (b, 1), (a, 2), (unasked, 0)])
    assert same(split.evaluate(QUESTION, PATHS), whole)
    assert split.models == (a, b, unasked)
    assert split.weights == (0.75, 0.25, 0)
    assert unasked.usage == Usage()
    assert same(WeightedReward([(a, 7)]).evaluate(QUESTION, PATHS), a.evaluate(QUESTION, PATHS))
    assert same(WeightedReward({a: 3, b: 1}).evaluate(QUESTION, PATHS), whole)


@pytest.mark.parametrize("weights", [(1e308, 1e308), (5e-324, 5e-324), (1e308, 5e-324)])
def test_weights_at_the_ends_of_the_numbers(weights: tuple[float, float]) -> None:
    reward = WeightedReward([(HashReward(i), w) for i, w in enumerate(weights)])
    assert math.fsum(reward.weights) == 1
    assert all(np.isfinite(found).all() for found in reward.evaluate(QUESTION, PATHS))


def test_empty_paths_and_calls() -> None:
    reward = WeightedReward([(HashReward(), 1)])
    assert reward.evaluate(QUESTION, []) == []
    assert reward.evaluate_many([]) == []
    empty = WeightedReward([(CallableReward(lambda question, path: np.zeros((len(path), 3)), "prm"), 1)])
    assert empty.evaluate(QUESTION, [()])[0].shape == (0, 3)


# -- what models may be able to do ------------------------------------------------------------------


def test_models_that_take_several_questions_get_them_together() -> None:
    can, cannot = Full(1), HashReward(2)
    reward = WeightedReward([(can, 1), (cannot, 1)])
    items = [(QUESTION, PATHS), (OTHER, PATHS[:1]), (QUESTION, [])]
    found = reward.evaluate_many(items)
    assert can.said == [("many", 3)]
    assert [len(f) for f in found] == [3, 1, 0]
    for one, item in zip(found, items, strict=True):
        assert same(one, reward.evaluate(*item))


def test_usage_forgetting_and_scoring() -> None:
    one, two = Full(1), Full(2)
    reward = WeightedReward([(one, 1), (two, 3), (HashReward(3), 1)])
    reward.evaluate(QUESTION, PATHS)
    assert reward.usage == Usage(reward_tokens=60)
    assert reward.usage is not one.usage
    reward.forget(QUESTION)
    reward.clear()
    reward.close()
    assert one.said == two.said == [("forget", QUESTION), "clear", "close"]
    assert reward.scoring is None
    one.scoring = Scoring(aggregate="min")  # type: ignore[attr-defined]
    assert reward.scoring == Scoring(aggregate="min")
    two.scoring = Scoring(aggregate="min")  # type: ignore[attr-defined]
    assert reward.scoring == Scoring(aggregate="min")
    two.scoring = Scoring(aggregate="max")  # type: ignore[attr-defined]
    assert reward.scoring is None
    assert WeightedReward([(one, 1), (two, 1)], scoring=Scoring(veto=True)).scoring == Scoring(veto=True)


def test_coroutines_are_there_where_a_model_has_them() -> None:
    assert not hasattr(WeightedReward([(Full(), 1)]), "aevaluate_many")
    assert not hasattr(WeightedReward([(Full(), 1), (Remote(), 0)]), "aevaluate_many")
    remote, slower = Remote(1), Remote(2)
    slower.concurrent_calls = 2
    local = Full(3)
    reward = WeightedReward([(remote, 1), (local, 1), (slower, 1)])
    assert reward.concurrent_calls == 2

    async def run() -> Any:
        found = await reward.aevaluate_many([(QUESTION, PATHS), (OTHER, PATHS)])
        await reward.arelease()
        return found

    found = asyncio.run(run())
    assert same(found[0], reward.evaluate(QUESTION, PATHS))
    assert same(found[1], reward.evaluate(OTHER, PATHS))
    assert "arelease" in remote.said
    assert "arelease" in slower.said


def test_models_are_asked_at_the_same_time_but_each_thread_alone() -> None:
    """Both remote models wait together; the local one, in a thread, is never asked twice at once."""
    inside: list[str] = []
    met = threading.Barrier(3, timeout=20)

    class Meets(Remote):
        async def aevaluate_many(self, items: Any) -> Any:
            await asyncio.to_thread(met.wait)
            return await super().aevaluate_many(items)

    class Alone(HashReward):
        def evaluate(self, question: Question, paths: Any) -> Any:
            met.wait()
            return super().evaluate(question, paths)

    reward = WeightedReward([(Meets(1), 1), (Meets(2), 1), (Alone(3), 1)])
    assert len(asyncio.run(reward.aevaluate_many([(QUESTION, PATHS)]))[0]) == 3

    class Fragile(HashReward):
        def evaluate(self, question: Question, paths: Any) -> Any:
            assert not inside
            inside.append("busy")
            time.sleep(0.01)
            inside.pop()
            return super().evaluate(question, paths)

    fragile = WeightedReward([(Fragile(1), 1), (Remote(2), 1)])

    async def many() -> Any:
        return await asyncio.gather(*(fragile.aevaluate_many([(QUESTION, [path])]) for path in PATHS * 4))

    assert all(isinstance(found[0][0], np.ndarray) for found in asyncio.run(many()))


# -- failures --------------------------------------------------------------------------------------


def failing(fault: Any) -> Any:
    return FaultyReward(HashReward(1), fault)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", "RuntimeError: the reward model broke"),
        ("wrong_shape", r"must have shape \[1, 3\]; got \[2, 3\]"),
        ("out_of_range", r"must lie in \[0, 1\]"),
        ("nan", r"must lie in \[0, 1\]"),
        ("wrong_type", "must be numbers; got str"),
        ("wrong_length", "it must return 1 entries"),
    ],
)
def test_the_model_that_failed_is_named_or_left_out(fault: Any, told: str) -> None:
    good = HashReward(2)
    strict = WeightedReward([(good, 1), (failing(fault), 1)])
    try:
        (outcome,) = strict.evaluate(QUESTION, [("a",)])
    except RewardError as error:  # where the model failed on the call as a whole
        outcome = error
    assert re.match(rf"reward model 2 \(FaultyReward\): .*{told}", str(outcome))
    lenient = WeightedReward([(good, 1), (failing(fault), 1)], skip_failing=True)
    assert same(lenient.evaluate(QUESTION, PATHS), good.evaluate(QUESTION, PATHS))
    alone = WeightedReward([(failing(fault), 1)], skip_failing=True)
    assert all(isinstance(found, RewardError) for found in alone.evaluate(QUESTION, PATHS))


def test_a_fault_stays_with_its_path() -> None:
    good, bad = HashReward(2), Breaks(1)
    both = WeightedReward([(good, 1), (bad, 1)])
    lenient = WeightedReward([(good, 1), (bad, 1)], skip_failing=True)
    found = lenient.evaluate_many([(QUESTION, PATHS), (OTHER, PATHS[1:])])
    assert same(found[0][:1], good.evaluate(QUESTION, PATHS[:1]))
    assert same(found[0][1:], both.evaluate(QUESTION, PATHS[1:]))
    assert same(found[1], both.evaluate(OTHER, PATHS[1:]))


@pytest.mark.parametrize("skip", [False, True])
def test_exceptions_that_stand_for_a_path(skip: bool) -> None:
    def picky(question: Question, path: Any) -> float:
        if len(path) > 1:
            raise ValueError("too long")
        return 1.0

    half = CallableReward(lambda question, path: 0.5)
    reward = WeightedReward([(half, 1), (CallableReward(picky), 1)], skip_failing=skip)
    found = reward.evaluate(QUESTION, PATHS)
    assert [float(found[0]), float(found[2])] == [0.75, 0.75]
    if skip:
        assert float(found[1]) == 0.5
    else:
        assert str(found[1]) == "reward model 2 (CallableReward): ValueError: too long"


def test_a_failing_coroutine_ends_the_others() -> None:
    class Broken(Remote):
        async def aevaluate_many(self, items: Any) -> Any:
            await asyncio.sleep(0.01)
            raise OSError("gone")

    slow = Remote(1, delay=60)
    reward = WeightedReward([(slow, 1), (Broken(2), 1)])
    with pytest.raises(RewardError, match=r"reward model 2 \(Broken\): OSError: gone"):
        asyncio.run(reward.aevaluate_many([(QUESTION, PATHS)]))
    assert slow.cancelled == 1
    quick = WeightedReward([(Remote(1), 1), (Broken(2), 1)], skip_failing=True)
    found = asyncio.run(quick.aevaluate_many([(QUESTION, PATHS), (OTHER, PATHS[:1])]))
    assert same(found[0], HashReward(1).evaluate(QUESTION, PATHS))
    assert len(found[1]) == 1


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ([], ValueError, "`models` must hold at least one pair"),
        ([(HashReward(), 0)], ValueError, "`models` must have a weight above 0"),
        ([(HashReward(), -1)], ValueError, "`models` must have finite weights >= 0; got -1"),
        ([(HashReward(), math.nan)], ValueError, "`models` must have finite weights >= 0; got nan"),
        ([(HashReward(), math.inf)], ValueError, "`models` must have finite weights >= 0; got inf"),
        ([(HashReward(), "1")], ValueError, "`models` must have finite weights >= 0; got '1'"),
        ([(HashReward(), True)], ValueError, "`models` must have finite weights >= 0; got True"),
        ([HashReward()], TypeError, "`models` must hold pairs"),
        ([(None, 1)], TypeError, "`models` must be reward models with a method `evaluate`; got NoneType"),
        ([(HashReward, 1)], TypeError, "`models` must be reward models with a method `evaluate`; got <class"),
        ([(HashReward(kind="judge"), 1)], TypeError, "got HashReward of kind 'judge'"),  # type: ignore[arg-type]
        ([(HashReward(), 1), (HashReward(kind="orm"), 1)], ValueError, "of one kind.*see HybridReward"),
    ],
)
def test_wrong_models_are_named(models: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WeightedReward(models)


# -- searches --------------------------------------------------------------------------------------


def test_a_search_takes_it() -> None:
    one, two = HashReward(1), HashReward(2)
    reward = WeightedReward([(one, 1), (two, 0)])
    alone, weighted = (solve(QUESTION, HashPolicy(), r, MCTS(iterations=8), seed=3) for r in (one, reward))
    np.testing.assert_array_equal(alone.tree.arena.reward, weighted.tree.arena.reward)
    mixed = WeightedReward([(one, 1), (two, 1)])
    result = solve(QUESTION, HashPolicy(), mixed, MCTS(iterations=8), seed=3)
    assert result.degraded == ()
    steps = result.trajectory.steps if result.trajectory else ()
    texts = tuple(s.text for s in steps)
    np.testing.assert_allclose([s.reward for s in steps], mixed.evaluate(QUESTION, [texts])[0], rtol=1e-6)


def test_searches_with_coroutines_find_the_same() -> None:
    remote, local = Remote(1, delay=0.001), Full(2)
    reward = WeightedReward([(remote, 2), (local, 1)])
    plain = WeightedReward([(HashReward(1), 2), (HashReward(2), 1)])
    questions = [Question(f"Which is {i}?", options=["red", "blue"]) for i in range(6)]
    found = dict(solve_many(questions, HashPolicy(), reward, BestOfN(n=4), seed=5))
    for i, question in enumerate(questions):
        wanted = solve(question, HashPolicy(), plain, BestOfN(n=4), seed=found[i].seed)
        assert (found[i].answer, found[i].degraded) == (wanted.answer, ())
        assert [t.score for t in found[i].trajectories] == [t.score for t in wanted.trajectories]
    assert sum(result.usage.reward_tokens for result in found.values()) == reward.usage.reward_tokens > 0
    assert "arelease" in remote.said

    result = asyncio.run(asolve(questions[0], HashPolicy(), reward, BestOfN(n=4), seed=1))
    assert result.degraded == ()


def test_a_search_reports_the_model_that_failed() -> None:
    bad = WeightedReward([(HashReward(1), 1), (failing("raises"), 1)])
    result = solve(QUESTION, HashPolicy(), bad, BestOfN(n=3), seed=1)
    assert result.answer in ("red", "blue")
    assert "reward model 2 (FaultyReward)" in result.degraded[0]
    lenient = WeightedReward([(HashReward(1), 1), (failing("raises"), 1)], skip_failing=True)
    assert solve(QUESTION, HashPolicy(), lenient, BestOfN(n=3), seed=1).degraded == ()
