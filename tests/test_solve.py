import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import (
    MCTS,
    Beam,
    BestOfN,
    Budget,
    CallablePolicy,
    CallableReward,
    Candidate,
    Question,
    Schedule,
    Usage,
    asolve,
    solve,
    solve_many,
)
from svip_search.testing import FaultyPolicy, FaultyReward, HashPolicy, HashReward

QUESTION = Question("Which?", options=["red", "green", "blue"])


class Counting(HashPolicy):
    """Counts calls, and does something at one of them."""

    def __init__(self, at=None, action=None):
        super().__init__()
        self.calls, self.at, self.action = [], at, action

    def propose(self, requests):
        self.calls.append(list(requests))
        if self.action is not None and len(self.calls) == self.at:
            self.action()
        return super().propose(requests)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", ["beam", "mcts", "best-of-n", "weighted"])
def test_the_same_seed_gives_the_same_result(strategy):
    a, b = (solve(QUESTION, HashPolicy(), HashReward(), strategy, seed=3) for _ in range(2))
    assert a.tree.to_dict() == b.tree.to_dict()
    assert (a.answer, a.votes, a.trajectories) == (b.answer, b.votes, b.trajectories)
    other = solve(QUESTION, HashPolicy(), HashReward(), strategy, seed=4)
    assert other.tree.to_dict() != a.tree.to_dict()


@pytest.mark.parametrize("at", [1, 2, 5])
def test_keyboard_interrupt_still_answers(at):
    result = solve(QUESTION, Counting(at, interrupt), HashReward(), MCTS())
    assert result.stopped_by == "interrupted"
    assert result.answer in QUESTION.options


def test_a_second_keyboard_interrupt_is_raised():
    class Stuck(HashPolicy):
        def propose(self, requests):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(QUESTION, Stuck(), HashReward(), MCTS())


def test_seconds_end_a_slow_search_without_completion():
    policy = Counting(1, lambda: time.sleep(0.05))
    result = solve(QUESTION, policy, HashReward(), MCTS(), Budget(seconds=0.04))
    assert result.stopped_by == "seconds"
    assert len(policy.calls) == 1
    assert result.usage.seconds >= 0.04


def test_interrupt_and_progress_callbacks():
    seen = []
    result = solve(
        QUESTION,
        HashPolicy(),
        HashReward(),
        MCTS(iterations=50),
        progress=lambda search, usage: seen.append((len(search.tree), usage.policy_calls)),
        interrupt=lambda: len(seen) >= 6,
    )
    assert result.stopped_by == "interrupted"
    assert result.answer in QUESTION.options
    assert seen == sorted(seen)


def test_asolve_inside_a_running_loop():
    async def main():
        tasks = (asolve(QUESTION, HashPolicy(), HashReward(), "beam", seed=s) for s in range(3))
        return await asyncio.gather(*tasks)

    found = asyncio.run(main())
    for seed, result in enumerate(found):
        plain = solve(QUESTION, HashPolicy(), HashReward(), "beam", seed=seed)
        assert result.tree.to_dict() == plain.tree.to_dict()


def test_solve_works_inside_a_running_loop():
    async def main():
        return solve(QUESTION, HashPolicy(), HashReward(), "mcts")

    assert asyncio.run(main()).answer in QUESTION.options


def test_a_cancelled_asolve_ends_its_thread():
    started, calls = threading.Event(), []

    class Slow(HashPolicy):
        def propose(self, requests):
            calls.append(1)
            started.set()
            time.sleep(0.05)
            return super().propose(requests)

    async def main():
        task = asyncio.create_task(asolve(QUESTION, Slow(), HashReward(), MCTS(iterations=1000, expand=2)))
        await asyncio.to_thread(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # waits for the worker thread
    assert len(calls) <= 2


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.sampled_from(["mcts", "beam", "best-of-n"]), st.sampled_from([0.0, 0.3]))
def test_solve_many_equals_solve_one_by_one(batch, strategy, rate):
    questions = [Question(f"Question {i}?", options=["red", "green"]) for i in range(5)]
    policy = FaultyPolicy(HashPolicy(), "raises", rate)
    reward = FaultyReward(HashReward(), "raises", rate)
    found = dict(solve_many(questions, policy, reward, strategy, seed=1, schedule=Schedule(searches=batch)))
    assert sorted(found) == list(range(5))
    for i, question in enumerate(questions):
        plain = solve(question, policy, reward, strategy, seed=1)
        assert found[i].tree.to_dict() == plain.tree.to_dict()
        assert found[i].answer == plain.answer
        assert found[i].degraded == plain.degraded
        assert found[i].usage.policy_calls == plain.usage.policy_calls


def test_solve_many_merges_policy_calls_and_takes_no_more_questions_than_needed():
    taken = []

    def questions():
        for i in range(100):
            taken.append(i)
            yield f"Question {i}?"

    policy = Counting()
    stream = solve_many(questions(), policy, HashReward(), MCTS(iterations=4), schedule=Schedule(searches=4))
    next(stream)
    stream.close()
    assert len(taken) == 4
    assert all(len(call) == 4 for call in policy.calls[:4])


def test_solve_many_yields_open_searches_before_it_raises_an_interrupt():
    found = []
    stream = solve_many(["a?", "b?", "c?"], Counting(2, interrupt), HashReward(), "mcts", schedule=Schedule(searches=2))
    with pytest.raises(KeyboardInterrupt):
        found.extend(next(stream) for _ in range(3))
    assert sorted(i for i, _ in found) == [0, 1]
    assert {r.stopped_by for _, r in found} == {"interrupted"}


def test_reported_usage_is_shared_out_exactly():
    class Reading(HashPolicy):
        usage = Usage()

        def propose(self, requests):
            self.usage.prompt_tokens += 7
            return super().propose(requests)

    policy = Reading()
    results = [
        r for _, r in solve_many(["a?", "b?", "c?"], policy, HashReward(), "mcts", schedule=Schedule(searches=3))
    ]
    assert sum(r.usage.prompt_tokens for r in results) == policy.usage.prompt_tokens > 0


def test_a_fault_stays_with_the_request_that_causes_it():
    class Picky(HashPolicy):
        def propose(self, requests):
            if any("branch 1" in "".join(r.prefix) for r in requests):
                raise RuntimeError("no ones")
            return super().propose(requests)

    result = solve(QUESTION, Picky(distinct=True), HashReward(), Beam(width=3, expand=3))
    assert result.answer in QUESTION.options
    failed = {int(entry.split(":")[0].removeprefix("node ")) for entry in result.degraded}
    assert failed
    assert all("branch 1" in "".join(result.tree.texts(node)) for node in failed)


def test_functions_as_models():
    def propose(question, prefix, n, seed):
        if len(prefix) < 2:
            return [f"Look at part {i}." for i in range(n)]
        return [Candidate("Answer: red", -1.0, 3, "stop"), ("Answer: blue",)]

    policy = CallablePolicy(propose)
    reward = CallableReward(lambda question, path: float("blue" in path[-1]))
    for strategy in (BestOfN(n=4), Beam(width=2, expand=2), MCTS(iterations=12)):
        result = solve(Question("Which?"), policy, reward, strategy)
        assert not result.degraded
        assert all(len(t.steps) == 3 for t in result.trajectories)
    assert solve(Question("Which?"), policy, reward, Beam(width=2, expand=2)).answer == "blue"

    broken = CallablePolicy(lambda *a: 1 / 0)
    assert "ZeroDivisionError" in solve(QUESTION, broken, strategy="greedy").degraded[0]


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match="`reward`"):
        solve(QUESTION, HashPolicy(), strategy="mcts")
    with pytest.raises(TypeError, match=r"`policy`.*CallablePolicy"):
        solve(QUESTION, lambda: None, HashReward())
    with pytest.raises(TypeError, match="`reward`"):
        solve(QUESTION, HashPolicy(), 3)
    with pytest.raises(TypeError, match="`strategy`"):
        solve(QUESTION, HashPolicy(), HashReward(), MCTS)
    with pytest.raises(ValueError, match="`name`"):
        solve(QUESTION, HashPolicy(), HashReward(), "magic")
    with pytest.raises(TypeError, match="`budget`"):
        solve(QUESTION, HashPolicy(), HashReward(), budget=100)
    with pytest.raises(TypeError, match="`seed`"):
        solve(QUESTION, HashPolicy(), HashReward(), seed=None)
    with pytest.raises(TypeError, match="`question`"):
        solve(7, HashPolicy(), HashReward())
    with pytest.raises(TypeError, match="`schedule`"):
        solve_many([], HashPolicy(), HashReward(), schedule=8)
    with pytest.raises(TypeError, match="`questions`"):
        solve_many(QUESTION, HashPolicy(), HashReward())
    with pytest.raises(TypeError, match="`fn`"):
        CallablePolicy("text")
    with pytest.raises(ValueError, match="`kind`"):
        CallableReward(len, kind="rm")
