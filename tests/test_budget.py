import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import MCTS, Beam, BestOfN, Budget, Question, SelfConsistency, Usage, solve
from svip_search._budget import LIMITS
from svip_search.testing import HashPolicy, HashReward

quick = settings(max_examples=25, deadline=None)
QUESTION = Question("Which?", options=["red", "green", "blue"])
STRATEGIES = [
    MCTS(iterations=12, parallel=3),
    MCTS(iterations=6, rollout=True),
    Beam(width=3, expand=3),
    BestOfN(n=6),
    SelfConsistency(n=8, chunk=2),
]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("bad", [0, -1, math.nan])
def test_limits_must_be_positive(name, bad):
    with pytest.raises(ValueError, match=f"`{name}`"):
        Budget(**{name: bad})


@pytest.mark.parametrize("bad", ["10", True, [1]])
def test_limits_must_be_numbers(bad):
    with pytest.raises(TypeError, match="`tokens`"):
        Budget(tokens=bad)


def test_usage_adds_and_subtracts_field_by_field():
    fields = [f.name for f in dataclasses.fields(Usage)]
    a, b = Usage(*range(9)), Usage(*range(10, 19))
    for name in fields:
        assert getattr(a + b, name) == getattr(a, name) + getattr(b, name)
    assert (a + b) - b == a


def test_first_exceeded_limit_is_named_and_remaining_is_never_negative():
    budget = Budget(policy_calls=2, nodes=3)
    used = Usage(policy_calls=2, nodes=9)
    assert budget.exceeded(Usage(policy_calls=1, nodes=2)) is None
    assert budget.exceeded(used) == "policy_calls"
    assert budget.exceeded(used, ("nodes",)) == "nodes"
    assert budget.remaining(used)["nodes"] == 0
    assert budget.remaining(used)["tokens"] == math.inf


@quick
@given(st.sampled_from(STRATEGIES), st.integers(1, 40), st.integers(0, 3))
def test_policy_calls_are_never_exceeded_and_there_is_an_answer(strategy, limit, seed):
    budget = Budget(policy_calls=limit)
    result = solve(QUESTION, HashPolicy(), HashReward(), strategy, budget, seed=seed)
    assert result.usage.policy_calls <= limit
    assert result.answer in QUESTION.options
    assert result.stopped_by in ("finished", "policy_calls")


@quick
@given(st.sampled_from(STRATEGIES), st.integers(1, 40))
def test_reward_calls_are_never_exceeded(strategy, limit):
    result = solve(QUESTION, HashPolicy(), HashReward(), strategy, Budget(reward_calls=limit))
    assert result.usage.reward_calls <= limit
    assert result.answer in QUESTION.options


@quick
@given(st.sampled_from(STRATEGIES[:1] + STRATEGIES[2:3]), st.integers(1, 40))
def test_nodes_are_never_exceeded_by_steps(strategy, limit):
    budget = Budget(nodes=limit, completion=False)
    result = solve(QUESTION, HashPolicy(), HashReward(), strategy, budget)
    assert result.usage.nodes == len(result.tree) - 1 <= limit


@quick
@given(st.integers(1, 300))
def test_tokens_are_exceeded_by_one_request_at_most(limit):
    budget = Budget(policy_tokens=limit, completion=False)
    result = solve(QUESTION, HashPolicy(tokens=5), HashReward(), MCTS(iterations=20, expand=4), budget)
    assert result.usage.policy_tokens < limit + 4 * 5


def test_a_held_back_call_completes_the_search():
    budget = Budget(policy_calls=2)
    result = solve(QUESTION, HashPolicy(depth=6), HashReward(), MCTS(), budget)
    assert result.usage.policy_calls == 2
    assert len(result.trajectories) == 1
    without = solve(QUESTION, HashPolicy(depth=6), HashReward(), MCTS(), Budget(policy_calls=2, completion=False))
    assert without.answer is None
    assert without.usage.policy_calls == 2


def test_reward_tokens_count_towards_tokens():
    class Reading(HashReward):
        usage = Usage()

        def evaluate(self, question, paths):
            self.usage.reward_tokens += 100 * len(paths)
            return super().evaluate(question, paths)

    result = solve(QUESTION, HashPolicy(), Reading(), MCTS(iterations=50), Budget(tokens=500))
    assert result.stopped_by == "tokens"
    assert result.usage.reward_tokens == 100 * result.usage.reward_calls
