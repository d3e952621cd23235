"""The cache of calls: the same answers, nothing asked twice, errors asked again."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svip_search import Candidate, HybridReward, PolicyError, ProposeRequest, Question, RewardError, make, solve
from svip_search.runs import cached as module
from svip_search.runs.cached import (
    CachedPolicy,
    CachedReward,
    CallCache,
    DictStore,
    read_candidates,
    read_reward,
    write_candidates,
    write_reward,
)
from svip_search.strategies import STRATEGIES
from svip_search.testing import FaultyPolicy, FaultyReward, HashPolicy, HashReward

QUESTION = Question("Which?", options=["red", "blue"], id="q")


class Counting(HashPolicy):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(branching=3, depth=3)
        self.asked = 0
        self.slots = 7

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        self.asked += len(requests)
        return super().propose(requests)


class Asking(Counting):
    """The same with a coroutine."""

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        return self.propose(requests)


class CountingReward(HashReward):
    """Counts the paths it is asked about."""

    asked = 0

    def evaluate(self, question: Question, paths: Any) -> Any:
        self.asked += len(paths)
        return super().evaluate(question, paths)


class ManyReward(CountingReward):
    """The same for several questions at once, with a coroutine too."""

    def evaluate_many(self, items: Any) -> Any:
        return [self.evaluate(*item) for item in items]


class AskingReward(CountingReward):
    """The same with a coroutine."""

    async def aevaluate_many(self, items: Any) -> Any:
        return [self.evaluate(*item) for item in items]


@pytest.mark.parametrize("policy_class", [Counting, Asking])
@pytest.mark.parametrize("reward_class", [CountingReward, ManyReward, AskingReward])
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "retrieval-mcts"])
def test_a_second_search_asks_nothing_and_finds_the_same(name: str, policy_class: Any, reward_class: Any) -> None:
    store = DictStore()
    plain = solve(QUESTION, policy_class(), reward_class(), make(name, n=5), seed=3)
    for again in (False, True):
        cache, policy, reward = CallCache(store), policy_class(), reward_class()
        found = solve(
            QUESTION, CachedPolicy(policy, cache, "p"), CachedReward(reward, cache, "r"), make(name, n=5), seed=3
        )
        cache.flush()
        assert found.tree.to_dict() == plain.tree.to_dict()
        assert (found.answer, found.votes, found.degraded) == (plain.answer, plain.votes, plain.degraded)
        assert found.usage.policy_tokens == plain.usage.policy_tokens  # what it is charged, whoever paid
        if again:
            assert (policy.asked, reward.asked) == (0, 0)
            assert cache.served.policy_calls == found.usage.policy_calls
            assert cache.served.policy_tokens == found.usage.policy_tokens
            assert cache.served.reward_calls == found.usage.reward_calls


def written(kept: Any, *arguments: Any) -> Any:
    """Call, and write what is new."""
    found = (kept.propose if isinstance(kept, CachedPolicy) else kept.evaluate)(*arguments)
    kept.cache.flush()
    return found


def request(**changes: Any) -> ProposeRequest:
    fields: dict[str, Any] = {"question": QUESTION, "prefix": ("a",), "n": 2, "seed": 1, "temperature": 1.0}
    return ProposeRequest(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes",
    [{"prefix": ("a", "b")}, {"prefix": ("ab",)}, {"n": 3}, {"seed": 2}, {"temperature": 0.5}, {"whole": True},
     {"question": Question("Which?", options=["red"])}, {"question": Question("Whose?", options=["red", "blue"])}],
)  # fmt: skip
def test_another_request_is_another_call(changes: dict[str, Any]) -> None:
    policy = Counting()
    kept = CachedPolicy(policy, DictStore(), "p")
    written(kept, [request()])
    assert written(kept, [request(**changes)]) == HashPolicy(branching=3, depth=3).propose([request(**changes)])
    assert policy.asked == 2
    assert kept.propose([request(), request(**changes)]) == policy.propose([request(), request(**changes)])
    assert policy.asked == 4  # by this line alone


def test_another_revision_is_another_model() -> None:
    store, policy = CallCache(DictStore()), Counting()
    for revision in ("a", "b", "a"):
        written(CachedPolicy(policy, store, revision), [request()])
    assert policy.asked == 2


def test_part_of_a_batch_may_be_known() -> None:
    policy, reward = Counting(), ManyReward()
    cache = CallCache(DictStore())
    kept, judged = CachedPolicy(policy, cache, "p"), CachedReward(reward, cache, "r")
    batch = [request(seed=seed) for seed in range(5)]
    written(kept, batch[1::2])
    assert kept.propose(batch) == HashPolicy(branching=3, depth=3).propose(batch)
    assert policy.asked == 5
    other = Question("Whose?")
    written(judged, QUESTION, [("a",)])
    items = [(QUESTION, [("b",), ("a",)]), (other, [("a", "b")]), (QUESTION, [("a",)])]
    for got, (question, paths) in zip(judged.evaluate_many(items), items, strict=True):
        for one, right in zip(got, HashReward().evaluate(question, paths), strict=True):
            np.testing.assert_array_equal(one, right)
    assert reward.asked == 3  # ("a",) is known both times


def test_errors_and_nonsense_are_not_kept() -> None:
    store = DictStore()
    for fault in ("raises", "wrong_type", "wrong_length"):
        kept = CachedPolicy(FaultyPolicy(HashPolicy(), fault), store, "p")  # type: ignore[arg-type]
        result = solve(QUESTION, kept, strategy="greedy")
        assert result.degraded
        kept.cache.flush()
        assert not store.entries
    for fault in ("raises", "wrong_type", "wrong_length"):
        judged = CachedReward(FaultyReward(HashReward(), fault), store, "r")  # type: ignore[arg-type]
        result = solve(QUESTION, HashPolicy(), judged, make("best-of-n", n=2))
        assert result.degraded
        judged.cache.flush()
        assert not store.entries
    with pytest.raises(PolicyError, match="a list of 1 entries"):
        CachedPolicy(FaultyPolicy(HashPolicy(), "wrong_length"), store, "p").propose([request()])
    with pytest.raises(RewardError, match="return 1 entries"):
        CachedReward(FaultyReward(HashReward(), "wrong_length"), store, "r").evaluate(QUESTION, [("a",)])


def test_what_a_model_has_its_wrapper_has() -> None:
    cache = CallCache(DictStore())
    assert CachedPolicy(Counting(), cache, "p").slots == 7
    assert not hasattr(CachedPolicy(Counting(), cache, "p"), "apropose")
    assert hasattr(CachedPolicy(Asking(), cache, "p"), "apropose")
    assert not hasattr(CachedReward(HashReward(), cache, "r"), "evaluate_many")
    pair = CachedReward(HybridReward(HashReward(), HashReward(2, "orm")), cache, "r")
    assert pair.kind == "prm"
    first, second = pair.evaluate(QUESTION, [("a",)]), pair.outcome.evaluate(QUESTION, [("a",)])
    assert (first[0].shape, second[0].shape) == ((1, 3), ())
    assert pair.outcome.evaluate(QUESTION, [("a",)]) == second  # the two are not mixed up
    copy = pickle.loads(pickle.dumps(CachedPolicy(HashPolicy(), DictStore(), "p").model))
    assert copy.propose([request()])


def test_new_questions_are_not_looked_up_and_finished_ones_not_written() -> None:
    class Watched(DictStore):
        looked = 0

        def cached(self, keys: Sequence[str]) -> dict[str, bytes]:
            self.looked += len(keys)
            return super().cached(keys)

    store, policy = Watched(), Counting()
    cache = CallCache(store)
    kept = CachedPolicy(policy, cache, "p")
    cache.open(["q", "r"])
    assert store.looked == 2  # once a question, not once a call
    kept.propose([request()])
    assert (store.looked, policy.asked) == (2, 1)
    cache.drop("q")
    cache.flush()
    assert not store.entries
    kept.propose([request()])
    cache.flush()
    assert len(store.entries) == 2  # the call, and that there is one
    again = CallCache(store)
    again.open(["q", "r"])
    assert CachedPolicy(policy, again, "p").propose([request()]) == kept.propose([request()])
    assert policy.asked == 2


def test_many_new_calls_are_written_without_being_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    store = DictStore()
    kept = CachedPolicy(HashPolicy(), store, "p")
    for seed in range(25):
        kept.propose([request(seed=seed)])
    assert sum(not key.startswith("begun/") for key in store.entries) == 20


def test_coroutines_of_several_event_loops() -> None:
    policy = Asking()
    kept = CachedPolicy(policy, DictStore(), "p")
    for _ in range(2):
        kept.cache.flush()
        assert asyncio.run(kept.apropose([request()])) == HashPolicy(branching=3, depth=3).propose([request()])
    assert policy.asked == 1


numbers = st.floats(allow_nan=False)
candidates = st.builds(
    Candidate, st.text(st.characters()), numbers, st.integers(), st.sampled_from(["step", "stop", "length"])
)


@given(st.lists(st.lists(candidates, max_size=3).map(tuple), max_size=3))
def test_candidates_survive_exactly(outcome: Any) -> None:
    value = write_candidates(outcome)
    assert value is not None
    assert read_candidates(value) == outcome


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 3), min_size=1), st.sampled_from(["<f4", "<f8", "<f2"]))
def test_rewards_survive_exactly(rows: Any, dtype: str) -> None:
    for array in (np.array(rows, dtype), np.array(rows[0][0], dtype), np.dtype(dtype).type(rows[0][0])):
        value = write_reward(array)
        assert value is not None
        found = read_reward(value)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == np.asarray(array).dtype


def test_what_is_not_kept() -> None:
    for outcome in ("text", [("just text",)], None, [None], [(Candidate("a", np.float32(1)),)]):  # type: ignore[arg-type]
        assert write_candidates(outcome) is None
    for reward in (None, "good", [0.5], np.array([1, 2]), np.zeros((1, 1, 1))):
        assert write_reward(reward) is None
