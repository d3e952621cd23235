"""Many searches at once: simulations in virtual time, limits, steering, and models that misbehave."""

import asyncio
import io
import signal
import threading
import time
from dataclasses import replace
from functools import cache
from random import Random

import pytest

from svip_search import (
    MCTS,
    Beam,
    BestOfN,
    Budget,
    Greedy,
    Question,
    RunStats,
    Schedule,
    SelfConsistency,
    Task,
    Usage,
    WeightedVote,
    solve,
    solve_many,
)
from svip_search._live import LiveLine
from svip_search.simulation import SlowPolicy, SlowReward, collect, run_virtual
from svip_search.testing import HashPolicy, HashReward

STRATEGIES = [
    Greedy(),
    BestOfN(n=5),
    SelfConsistency(n=6, chunk=2),
    WeightedVote(n=4),
    Beam(width=2, expand=3),
    MCTS(iterations=6, expand=3),
    MCTS(iterations=8, expand=2, parallel=3),
    MCTS(iterations=8, expand=2, parallel=4, wave=2, rule="uct"),
    MCTS(iterations=4, expand=2, rollout=True, parallel=2),
]
QUESTIONS = [Question(f"Question {i}?", options=["red", "green", "blue"]) for i in range(8)]


@cache
def alone(strategy, question, seed, limit):
    """What a search finds when it has both models to itself."""
    budget = None if limit is None else Budget(policy_calls=limit)
    result = solve(QUESTIONS[question], HashPolicy(), HashReward(), STRATEGIES[strategy], budget, seed=seed)
    return result.tree.to_json(), result.answer, result.votes, result.stopped_by, result.usage.policy_calls


def simulate(seed):
    """Run random searches on random schedules with random delays, cancels and deadlines; check everything."""
    random = Random(seed)
    picks = [(random.randrange(len(STRATEGIES)), random.randrange(8), random.randrange(3),
              random.choice([None, None, 3, 7])) for _ in range(random.randint(1, 9))]  # fmt: skip
    late = {i for i in range(len(picks)) if random.random() < 0.1}
    tasks = [
        Task(
            replace(QUESTIONS[question]),
            STRATEGIES[strategy],
            Budget(policy_calls=limit, seconds=random.uniform(0.01, 0.1) if i in late else None)
            if limit is not None or i in late else None,
            seed_,
            random.choice([0.0, 0.0, 1.0]),
        )
        for i, (strategy, question, seed_, limit) in enumerate(picks)
    ]  # fmt: skip
    schedule = Schedule(
        searches=random.randint(1, 8),
        policy_slots=random.choice([None, 1, 3, 16, 40]),
        reward_batch=random.choice([1, 4, 64]),
        reward_wait=random.choice([0.0, 0.0, 0.02]),
        timeout=random.choice([None, 60.0]),
    )
    # An error of a merged call is cured by asking again one by one; one of a single request stays.
    errors = random.choice([0.0, 0.0, 0.0, 0.05])
    policy = SlowPolicy(HashPolicy(), random.choice([1, 4, 16]), sigma=random.choice([0.1, 0.6, 1.5]),
                        errors=errors, seed=seed)  # fmt: skip
    reward = SlowReward(HashReward(), jitter=3.0, errors=errors, seed=seed)
    run = solve_many(tasks, policy, reward, schedule=schedule)
    cancelled = {i for i in range(len(tasks)) if random.random() < 0.05}

    async def main():
        for i in cancelled:
            asyncio.get_running_loop().call_later(random.uniform(0, 0.2), run.cancel, i)
        found = await collect(run)
        await asyncio.sleep(5)  # late cancels, of searches that have ended
        return found

    found = run_virtual(main())
    assert sorted(found) == list(range(len(tasks)))
    for i, result in found.items():
        assert (result.tree.arena.virtual_visits == 0).all()
        budget = tasks[i].budget
        if budget is not None and budget.policy_calls is not None:
            assert result.usage.policy_calls <= budget.policy_calls
        if i in cancelled or i in late or errors:
            assert result.stopped_by in ("finished", "seconds", "cancelled", "policy_calls")
            continue
        strategy, question, seed_, limit = picks[i]
        usual = (result.tree.to_json(), result.answer, result.votes, result.stopped_by, result.usage.policy_calls)
        assert usual == alone(strategy, question, seed_, limit)
        assert not result.degraded
    nothing_is_left(run)
    spent = sum((result.usage for result in found.values()), Usage())
    total = run.stats()
    for name in ("policy_calls", "policy_tokens", "reward_calls", "nodes"):
        assert getattr(total.usage, name) == getattr(spent, name) + getattr(total.late, name), name
    return run


def nothing_is_left(run):
    """Whatever was opened is closed, whatever was asked is answered or forgotten."""
    scheduler = run._scheduler
    assert not scheduler.open
    assert not scheduler.ended
    for lane in scheduler.lanes.values():
        assert lane.peek() is None
        assert not lane.queue


@pytest.mark.parametrize("part", range(24))
def test_simulations_in_virtual_time(part):
    for seed in range(50 * part, 50 * part + 50):
        simulate(seed)


def slow(questions, strategy=None, *, slots=4, schedule=None, policy=None, **settings):
    policy = policy or SlowPolicy(HashPolicy(), slots)
    strategy = strategy or MCTS(iterations=6, expand=2)
    return solve_many(questions, policy, SlowReward(HashReward()), strategy, schedule=schedule, **settings)


def test_a_higher_priority_is_served_first():
    tasks = [Task(replace(QUESTIONS[i % 8]), priority=float(i == 5)) for i in range(8)]
    run = slow(tasks, slots=1, schedule=Schedule(searches=8, policy_slots=2))

    async def first():
        async for index, _ in run:
            await run.aclose()
            return index

    assert run_virtual(first()) == 5


def test_a_deadline_ends_a_search_in_the_middle_of_a_call():
    run = slow(QUESTIONS[:2], policy=SlowPolicy(HashPolicy(), mean=100.0), budget=Budget(seconds=2.0))

    async def main():
        found = await collect(run)
        return found, asyncio.get_running_loop().time()

    found, now = run_virtual(main())
    assert now == pytest.approx(2.0)
    assert {result.stopped_by for result in found.values()} == {"seconds"}
    assert all(result.usage.seconds == pytest.approx(2.0) for result in found.values())


def test_a_run_budget_ends_all_and_each_still_answers():
    run = slow(QUESTIONS * 4, MCTS(iterations=30, expand=2), run_budget=Budget(policy_calls=60))
    found = run_virtual(collect(run))
    stats = run.stats()
    assert stats.usage.policy_calls <= 60
    assert 0 < len(found) < 32
    assert all(result.answer for result in found.values())
    assert "run_policy_calls" in {result.stopped_by for result in found.values()}
    nothing_is_left(run)


@pytest.mark.parametrize("limit", ["reward_calls", "policy_tokens", "tokens"])
def test_run_limits_are_kept_up_to_what_is_in_flight(limit):
    run = slow(QUESTIONS * 4, MCTS(iterations=30, expand=2), run_budget=Budget(**{limit: 200}, completion=False))
    found = run_virtual(collect(run))
    assert getattr(run.stats().usage, limit) <= 200 + (0 if limit == "reward_calls" else 8 * 5)
    assert f"run_{limit}" in {result.stopped_by for result in found.values()}


def test_what_comes_after_a_cancel_is_counted_and_otherwise_ignored():
    run = slow(QUESTIONS[:1], policy=SlowPolicy(HashPolicy(), mean=1.0))

    async def main():
        asyncio.get_running_loop().call_later(0.01, run.cancel, 0)
        found = [pair async for pair in run]
        await asyncio.sleep(60)
        return found

    ((_, result),) = run_virtual(main())
    assert result.stopped_by == "cancelled"
    assert len(result.tree) == 1
    run.cancel(0)
    run.cancel(99)


def test_answers_told_twice_late_or_for_nobody():
    run = solve_many(QUESTIONS[:2], HashPolicy(), HashReward(), "best-of-n")
    scheduler = run._scheduler
    scheduler.admit()
    call = scheduler.next_call("policy")
    assert len(call.requests) == 2
    outcomes = HashPolicy().propose(call.requests)
    scheduler.cancel(0)
    scheduler.told(call.id, outcomes)
    before = scheduler.stats()
    scheduler.told(call.id, [RuntimeError("again")] * 2)
    assert scheduler.stats().usage == before.usage
    assert before.late.policy_tokens == sum(c.tokens for one in outcomes[0] for c in one)
    with pytest.raises(KeyError, match="`call_id`"):
        scheduler.told(call.id + 1, [])
    results = dict(run)
    assert results[0].stopped_by == "cancelled"
    assert results[1].tree.to_dict() == solve(QUESTIONS[1], HashPolicy(), HashReward(), "best-of-n").tree.to_dict()


def test_a_policy_that_answers_for_another_search_degrades_that_call_alone():
    class Mixed(HashPolicy):
        async def apropose(self, requests):
            found = self.propose(requests)
            return found + found if requests[0].question.text == QUESTIONS[0].text else found

    found = run_virtual(collect(slow(QUESTIONS[:2], policy=Mixed())))
    assert found[0].degraded
    assert found[0].answer is None
    assert "must return a list of 1 entries" in found[0].degraded[0]
    assert not found[1].degraded


def test_a_policy_that_never_answers_is_given_up_after_the_timeout():
    class Silent(HashPolicy):
        async def apropose(self, requests):
            await asyncio.sleep(1e9)

    run = slow(QUESTIONS[:2], policy=Silent(), schedule=Schedule(timeout=3.0))
    found = run_virtual(collect(run))
    assert all("no answer within 3 s" in result.degraded[0] for result in found.values())


def test_tasks_bring_their_own_settings_and_searches_of_any_kind_mix():
    tasks = [
        Task(QUESTIONS[0], BestOfN(n=3), seed=4),
        QUESTIONS[1],
        Task(QUESTIONS[2], MCTS(iterations=3), Budget(policy_calls=2)),
    ]
    found = dict(solve_many(tasks, HashPolicy(), HashReward(), Beam(width=2, expand=2), seed=1))
    assert [found[i].strategy for i in range(3)] == ["best-of-n", "beam", "mcts"]
    assert (
        found[0].tree.to_dict() == solve(QUESTIONS[0], HashPolicy(), HashReward(), BestOfN(n=3), seed=4).tree.to_dict()
    )
    assert found[2].usage.policy_calls == 2
    further = dict(solve_many([Task(QUESTIONS[1], tree=found[1].tree, strategy=MCTS(iterations=4))], HashPolicy(),
                              HashReward(), seed=2))  # fmt: skip
    assert further[0].tree.text[: len(found[1].tree)] == found[1].tree.text


def test_merged_reward_calls_are_larger_than_those_of_one_search():
    class Counting(HashReward):
        def __init__(self):
            super().__init__()
            self.items = []

        def evaluate_many(self, items):
            self.items.append(len(items))
            return [self.evaluate(*item) for item in items]

    reward = Counting()
    found = dict(solve_many(QUESTIONS, HashPolicy(), reward, Beam(width=2, expand=2)))
    assert max(reward.items) == len(QUESTIONS)
    for i, question in enumerate(QUESTIONS):
        assert (
            found[i].tree.to_dict()
            == solve(question, HashPolicy(), HashReward(), Beam(width=2, expand=2)).tree.to_dict()
        )


def test_one_bad_item_of_a_merged_reward_call_spoils_no_other():
    class Picky(HashReward):
        def evaluate(self, question, paths):
            if question.text == QUESTIONS[1].text:
                raise ValueError("cannot see")
            return super().evaluate(question, paths)

        def evaluate_many(self, items):
            return [self.evaluate(*item) for item in items]

    found = dict(solve_many(QUESTIONS[:3], HashPolicy(), Picky(), "best-of-n"))
    assert [bool(found[i].degraded) for i in range(3)] == [False, True, False]


@pytest.mark.parametrize("inside", [False, True])
def test_asynchronous_models_work_in_synchronous_code(inside):
    class Async:
        async def apropose(self, requests):
            await asyncio.sleep(0.001)
            return HashPolicy().propose(requests)

    def main():
        run = solve_many(QUESTIONS[:4], Async(), HashReward(), Beam(width=2, expand=2))
        return dict(run), threading.active_count()

    async def loop():
        return main()

    before = threading.active_count()
    found, _ = asyncio.run(loop()) if inside else main()
    assert solve(QUESTIONS[0], Async(), HashReward(), Beam(width=2, expand=2)).answer == found[0].answer
    for i in range(4):
        plain = solve(QUESTIONS[i], HashPolicy(), HashReward(), Beam(width=2, expand=2))
        assert found[i].tree.to_dict() == plain.tree.to_dict()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_run_that_is_closed_early_leaves_no_tasks():
    run = slow(QUESTIONS)

    async def main():
        index, _ = await anext(run)
        await run.aclose()
        return index

    run_virtual(main())  # raises where tasks are left


def test_stopping_a_run_yields_what_there_is():
    run = slow(QUESTIONS * 3, schedule=Schedule(searches=4))
    found = []

    async def main():
        async for pair in run:
            found.append(pair)
            if len(found) == 2:
                run.stop()

    run_virtual(main())
    assert 2 < len(found) <= 6
    assert {result.stopped_by for _, result in found} <= {"finished", "interrupted"}
    assert all(result.answer for _, result in found)


def test_an_error_of_a_strategy_is_raised_and_does_not_hang():
    class Broken(Beam):
        name = "broken"

        class search(Beam.search):
            def _scored(self, round, nodes, scores):
                raise ZeroDivisionError("bug")

    with pytest.raises(ZeroDivisionError):
        run_virtual(collect(slow(QUESTIONS[:1], Broken())))
    with pytest.raises(ZeroDivisionError):
        solve(QUESTIONS[0], HashPolicy(), HashReward(), Broken())


def test_waiting_makes_fuller_batches_and_never_keeps_an_idle_model_waiting():
    def mean_size(wait):
        reward = SlowReward(HashReward(), call=0.001)
        reward.concurrent_calls = 4
        run = solve_many(QUESTIONS, SlowPolicy(HashPolicy(), 4), reward, MCTS(iterations=6, expand=2),
                         schedule=Schedule(reward_wait=wait))  # fmt: skip
        run_virtual(collect(run))
        return run.stats().reward.mean_size

    assert mean_size(0.05) >= mean_size(0.0)
    single = slow(QUESTIONS[:1], schedule=Schedule(reward_wait=100.0))
    run_virtual(collect(single))
    assert single.stats().reward.mean_wait == 0.0


def test_statistics_of_a_run():
    run = slow(QUESTIONS, slots=2, schedule=Schedule(policy_slots=4))
    run_virtual(collect(run))
    stats = run.stats()
    assert (stats.done, stats.open, stats.total) == (8, 0, 8)
    assert 0.5 < stats.busy <= 1
    assert stats.tokens_per_second > 0
    assert stats.eta == 0


@pytest.mark.parametrize("terminal", [False, True])
def test_the_live_line(terminal):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    stream = Stream()
    line = LiveLine(stream, interval=0.0)
    usage = Usage(policy_tokens=500, prompt_tokens=300, cached_policy_tokens=100)
    line.show(RunStats(done=1, open=2, total=3, usage=usage, seconds=2.0))
    line.show(RunStats(done=3, total=3, usage=usage, seconds=4.0))
    text = stream.getvalue()
    assert ("1/3 done · 2 open · 250 tokens/s · slots 0 % · cache 33 % · 0:02 · 0:04 left" in text) == terminal
    assert text.endswith("3/3 done · 0 open · 125 tokens/s · slots 0 % · cache 33 % · 0:04\n")


@pytest.mark.parametrize(
    "settings",
    [{"searches": 0}, {"policy_batch": 1.5}, {"reward_batch": True}, {"policy_slots": -1}, {"reward_wait": -1.0},
     {"timeout": float("nan")}, {"policy_wait": "1"}],
)  # fmt: skip
def test_bad_schedules_are_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}`"):
        Schedule(**settings)


def test_bad_tasks_are_refused_before_anything_runs():
    with pytest.raises(TypeError, match="`question`"):
        solve_many([QUESTIONS[0], 7], HashPolicy(), HashReward())
    with pytest.raises(TypeError, match="`run_budget`"):
        solve_many(QUESTIONS, HashPolicy(), HashReward(), run_budget=5)
    with pytest.raises(TypeError, match="single"):
        solve_many(Task(QUESTIONS[0]), HashPolicy(), HashReward())


class Sleeping:
    """An asynchronous policy on the real clock."""

    def __init__(self, seconds=0.01):
        self.seconds = seconds

    async def apropose(self, requests):
        await asyncio.sleep(self.seconds)
        return HashPolicy().propose(requests)


def press_ctrl_c(after, times=1):
    def press():
        for _ in range(times):
            time.sleep(after)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to a thread")
def test_ctrl_c_ends_searches_over_asynchronous_models_and_is_raised_at_the_end():
    found = []
    thread = press_ctrl_c(0.3)
    with pytest.raises(KeyboardInterrupt):
        found.extend(solve_many(QUESTIONS[:3], Sleeping(), HashReward(), MCTS(iterations=10_000)))
    thread.join()
    assert sorted(index for index, _ in found) == [0, 1, 2]
    assert {result.stopped_by for _, result in found} == {"interrupted"}
    assert all(result.answer for _, result in found)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to a thread")
def test_a_second_ctrl_c_does_not_wait_for_a_model_that_hangs():
    thread = press_ctrl_c(0.3, times=2)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(solve_many(QUESTIONS[:1], Sleeping(3600.0), HashReward(), MCTS()))
    assert time.monotonic() - start < 30
    thread.join()


def test_a_policy_that_raises_what_is_no_exception_does_not_hang():
    class Exiting:
        async def apropose(self, requests):
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(solve_many(QUESTIONS[:2], Exiting(), HashReward(), "best-of-n"))


def test_counters_of_a_model_are_not_taken_for_settings_and_bad_settings_are_refused():
    class Counting(HashReward):
        calls = 0

        async def aevaluate_many(self, items):
            self.calls += 1
            return [self.evaluate(*item) for item in items]

    found = run_virtual(collect(solve_many(QUESTIONS[:3], SlowPolicy(HashPolicy()), Counting(), "beam")))
    assert all(result.answer for result in found.values())
    for name in ("slots", "concurrent_calls"):
        policy, reward = SlowPolicy(HashPolicy()), Counting()
        setattr(policy if name == "slots" else reward, name, 0)
        with pytest.raises(ValueError, match=f"`{name}`, or none; got 0"):
            solve_many(QUESTIONS, policy, reward, "beam")


def test_a_strategy_that_waits_for_nothing_is_an_error_and_no_hang():
    class Waiting(Beam):
        name = "waiting"

        class search(Beam.search):
            def wants(self, model=None):
                return None

    with pytest.raises(RuntimeError, match="waits for nothing"):
        run_virtual(collect(slow(QUESTIONS[:1], Waiting())))
    with pytest.raises(RuntimeError, match="waits for nothing"):
        solve(QUESTIONS[0], HashPolicy(), HashReward(), Waiting())
