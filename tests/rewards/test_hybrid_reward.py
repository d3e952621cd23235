"""HybridReward: one model for the steps, another for the outcome."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from svip_search import (
    MCTS,
    CallableReward,
    Hybrid,
    Question,
    Schedule,
    Scoring,
    ShuffledReward,
    asolve,
    solve,
    solve_many,
)
from svip_search._budget import Usage
from svip_search._types import RewardModel
from svip_search.rewards import HybridReward
from svip_search.testing import HashPolicy, HashReward

QUESTION = Question("Which?", options=["red", "blue"])
PATHS = [("a",), ("a", "b"), ("c",)]


class Counting(HashReward):
    """Does and reports everything that a reward model may."""

    def __init__(self, seed: int = 0, kind: Any = "prm") -> None:
        super().__init__(seed, kind)
        self.usage, self.cleared = Usage(), 0
        self.forgotten: list[Question] = []
        self.scoring = Scoring(aggregate="min")

    def evaluate(self, question: Question, paths: Any) -> Any:
        self.usage.reward_calls += len(paths)
        self.usage.reward_tokens += 10
        return super().evaluate(question, paths)

    def evaluate_many(self, items: Any) -> Any:
        return [self.evaluate(*item) for item in items]

    def forget(self, question: Question) -> None:
        self.forgotten.append(question)

    def clear(self) -> None:
        self.cleared += 1


def test_it_is_the_process_model_with_another_beside_it() -> None:
    process, outcome = Counting(1), Counting(2, "orm")
    reward = HybridReward(process, outcome)
    assert isinstance(reward, RewardModel)
    assert (reward.kind, reward.outcome, reward.scoring) == ("prm", outcome, process.scoring)
    wanted = HashReward(1).evaluate(QUESTION, PATHS)
    for found in (reward.evaluate(QUESTION, PATHS), *reward.evaluate_many([(QUESTION, PATHS)] * 2)):
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    reward.outcome.evaluate(QUESTION, PATHS[:1])
    assert reward.usage == process.usage + outcome.usage == Usage(reward_calls=10, reward_tokens=40)
    reward.forget(QUESTION)
    reward.clear()
    assert process.forgotten == outcome.forgotten == [QUESTION]
    assert process.cleared == outcome.cleared == 1


def test_models_that_can_do_less() -> None:
    reward = HybridReward(HashReward(), CallableReward(lambda question, path: 0.5))
    assert reward.usage == Usage()
    assert reward.scoring is None
    assert getattr(reward, "evaluate_many", None) is None
    reward.forget(QUESTION)
    reward.clear()
    assert HybridReward(HashReward(), Counting()).usage == Usage()


def test_a_model_that_is_both_counts_once() -> None:
    model = Counting()
    reward = HybridReward(model, model)
    reward.evaluate(QUESTION, PATHS)
    reward.forget(QUESTION)
    assert reward.usage == Usage(reward_calls=3, reward_tokens=10)
    assert model.forgotten == [QUESTION]
    assert reward.usage is not model.usage


def test_a_search_takes_it() -> None:
    strategy = MCTS(iterations=8)
    plain = solve(QUESTION, HashPolicy(), Counting(1), strategy, seed=3)
    hybrid = solve(QUESTION, HashPolicy(), HybridReward(Counting(1), HashReward(2, "orm")), strategy, seed=3)
    np.testing.assert_array_equal(hybrid.tree.arena.reward, plain.tree.arena.reward)


def test_shuffling_spares_neither() -> None:
    process, outcome = Counting(1), Counting(2, "orm")
    shuffled: Any = ShuffledReward(HybridReward(process, outcome), seed=4)
    paths = [(f"step {i}",) for i in range(9)]
    for model, plain in ((shuffled, process), (shuffled.outcome, outcome)):
        found, true = (np.array([float(r.sum()) for r in m.evaluate(QUESTION, paths)]) for m in (model, plain))
        assert not np.array_equal(found, true)
        assert sorted(found) == sorted(true)
    shuffled.forget(QUESTION)
    assert process.forgotten
    assert outcome.forgotten


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": None}, "`process` must be a reward model with a method `evaluate`; got NoneType"),
        ({"outcome": lambda question, path: 1}, "`outcome` must be a reward model with a method `evaluate`; got func"),
        ({"outcome": HashReward}, "`outcome` must be a reward model with a method `evaluate`; got <class"),
        ({"process": HashReward(kind="orm")}, "`process` .* of kind 'prm'; got HashReward of kind 'orm'"),
        ({"outcome": HashReward(kind="judge")}, "`outcome` .* of kind 'orm' or 'prm'; got HashReward of kind 'judge'"),  # type: ignore[arg-type]
    ],
)
def test_wrong_models_are_named(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"process": HashReward(), "outcome": HashReward(kind="orm")} | change
    with pytest.raises(TypeError, match=message):
        HybridReward(**arguments)


# -- models with coroutines ------------------------------------------------------------------------


class Far(Counting):
    """Answers in the event loop, several calls at a time."""

    concurrent_calls = 3

    def __init__(self, seed: int = 0, kind: Any = "prm") -> None:
        super().__init__(seed, kind)
        self.under_way = self.most = self.released = 0
        self.threads: set[str] = set()

    async def aevaluate_many(self, items: Any) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.threads.add(threading.current_thread().name)
        await asyncio.sleep(0.005)
        self.under_way -= 1
        return [[*map(np.asarray, Counting.evaluate(self, *item))] for item in items]

    def evaluate(self, question: Question, paths: Any) -> Any:
        raise AssertionError("called without its coroutine")

    async def arelease(self) -> None:
        self.released += 1


class Near(Counting):
    """Answers in one thread, and is told to forget there alone."""

    def __init__(self, seed: int = 0, kind: Any = "prm") -> None:
        super().__init__(seed, kind)
        self.threads: set[str] = set()

    def evaluate(self, question: Question, paths: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        return super().evaluate(question, paths)

    def forget(self, question: Question) -> None:
        self.threads.add(threading.current_thread().name)
        super().forget(question)


@pytest.mark.parametrize("process_class", [Far, Near])
@pytest.mark.parametrize("outcome_class", [Far, Near])
def test_each_model_is_called_in_its_own_way(process_class: Any, outcome_class: Any) -> None:
    """Whichever of the two has coroutines, the searches are those of two models without."""
    questions = [Question(f"Which, {i}?", options=["red", "blue"]) for i in range(8)]
    plain = HybridReward(Counting(1), Counting(2, "orm"))
    wanted = dict(solve_many(questions, HashPolicy(), plain, Hybrid(n=4)))
    process, outcome = process_class(1), outcome_class(2, "orm")
    reward = HybridReward(process, outcome)
    with solve_many(questions, HashPolicy(), reward, Hybrid(n=4), schedule=Schedule(reward_batch=4)) as run:
        found = dict(run)
    for index, result in wanted.items():
        assert (found[index].answer, found[index].degraded) == (result.answer, ())
        assert found[index].usage.reward_calls == result.usage.reward_calls
    assert reward.usage.reward_calls == plain.usage.reward_calls
    assert run.stats().usage.reward_tokens == reward.usage.reward_tokens
    for model in (process, outcome):
        if isinstance(model, Far):
            assert model.released == 1
            assert model.threads == {"svip-search"}
        elif Far in (process_class, outcome_class):
            assert len(model.threads) == 1 and "svip-search-model" in min(model.threads)
    assert process_class is not Far or process.most > 1


def test_it_has_coroutines_only_where_they_are() -> None:
    assert not hasattr(HybridReward(Counting(), Far(2, "orm")), "aevaluate_many")
    assert HybridReward(Far(), Counting(2, "orm")).concurrent_calls == 3
    assert HybridReward(Counting(), HashReward(2, "orm")).concurrent_calls == 1


def test_it_works_in_the_loop_of_a_caller() -> None:
    async def run() -> Any:
        reward = HybridReward(Far(1), Far(2, "orm"))
        result = await asolve(QUESTION, HashPolicy(), reward, Hybrid(n=4))
        await reward.arelease()
        assert [model.released for model in (reward.process, reward.outcome)] == [1, 1]  # type: ignore[attr-defined]
        return result

    result = asyncio.run(run())
    assert result.degraded == ()
    plain = HybridReward(Counting(1), Counting(2, "orm"))
    assert result.answer == solve(QUESTION, HashPolicy(), plain, Hybrid(n=4)).answer


def test_a_model_that_cannot_forget_ends_no_search() -> None:
    class Stubborn(Counting):
        def forget(self, question: Question) -> None:
            raise ValueError("never")

    results = dict(solve_many(["Which?"] * 5, HashPolicy(), Stubborn(), Hybrid(n=2, outcome="last")))
    assert len(results) == 5
