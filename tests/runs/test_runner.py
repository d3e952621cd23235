"""Runs on a journal: what is finished, retried, released and taken over, and that results do not depend on it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("apsw")

from run_cases import STRATEGY, SleepingPolicy, SlowPolicy, new_journal, results_of, undisturbed

from svip_search import (
    Budget,
    Candidate,
    ImageError,
    PolicyError,
    ProposeRequest,
    Question,
    Schedule,
    make,
    solve,
)
from svip_search._errors import JournalError
from svip_search._journal import Journal
from svip_search.runs import leases as leases_module
from svip_search.runs import runner as module
from svip_search.runs.cached import CallCache
from svip_search.runs.leases import Leases
from svip_search.runs.runner import Abandoned, item_seed, run
from svip_search.runs.stop import Stop
from svip_search.testing import FaultyPolicy, HashPolicy, HashReward, hash_int

POLICY = HashPolicy(branching=3, depth=3)
REWARD = HashReward()


class Clock:
    """A clock that can be moved."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with new_journal(tmp_path, 20) as journal:
        yield journal


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, Any]:
    return undisturbed(tmp_path / "undisturbed", 20)


def counts_of(journal: Journal) -> tuple[int, int, int, int]:
    c = journal.counts()
    return c.waiting, c.leased, c.done, c.failed


@pytest.mark.parametrize("policy", [POLICY, SlowPolicy(0.001), SleepingPolicy(0.0)])
@pytest.mark.parametrize("searches", [1, 3, 50])
def test_results_are_those_of_solve(journal: Journal, policy: Any, searches: int) -> None:
    report = run(journal, policy, REWARD, STRATEGY, seed=5, schedule=Schedule(searches=searches))
    assert (report.done, report.failed, report.retried, report.duplicates, report.released) == (20, 0, 0, 0, 0)
    assert counts_of(journal) == (0, 0, 20, 0)
    for index, (id, result) in enumerate(journal.results()):
        question = Question(f"Which is {index}?", options=["red", "green", "blue"], answer="red", id=id)
        alone = solve(question, POLICY, REWARD, STRATEGY, seed=item_seed(5, id))
        assert (result["id"], result["answer"], result["seed"]) == (f"q{index}", alone.answer, alone.seed)
        assert result["trajectories"] == alone.to_dict()["trajectories"]
        assert "tree" not in result


def test_an_item_may_bring_its_own_seed(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run.db") as journal:
        journal.add([("a", "h", {"question": "Which?", "seed": 0}), ("b", "h", {"question": "Which?", "seed": 77})])
        run(journal, POLICY, strategy="greedy", seed=5)
        assert [result["seed"] for _, result in journal.results()] == [0, 77]


def test_an_empty_journal_and_one_that_is_done(journal: Journal, tmp_path: Path) -> None:
    with Journal.open(tmp_path / "empty.db") as empty:
        assert run(empty, POLICY, strategy="greedy").done == 0
    run(journal, POLICY, REWARD, STRATEGY)
    assert run(journal, Refusing(), REWARD, STRATEGY).done == 0


class Refusing(HashPolicy):
    """A policy of a server that is down."""

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        raise PolicyError("the server is down")


def test_what_never_gets_an_answer_fails_after_its_attempts(tmp_path: Path) -> None:
    with new_journal(tmp_path, 3) as journal:
        report = run(journal, Refusing(), REWARD, STRATEGY, attempts=2)
        assert (report.done, report.failed, report.retried) == (0, 3, 3)
        assert [(id, "PolicyError: the server is down" in error) for id, error in journal.failures()] == [
            ("q0", True), ("q1", True), ("q2", True)
        ]  # fmt: skip
        assert journal.retry() == 3
        assert run(journal, POLICY, REWARD, STRATEGY).done == 3


class Wobbly(HashPolicy):
    """Every call fails the first time it is made."""

    def __init__(self) -> None:
        super().__init__(branching=3, depth=3)
        self.seen: set[int] = set()
        self.answered = 0

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        (request,) = requests[:1]
        key = hash_int(request.prefix, request.seed)
        if key not in self.seen and hash_int("fails", key) % 3 == 0:
            self.seen.add(key)
            raise PolicyError("try again")
        self.answered += len(requests)
        return super().propose(requests)


def test_faults_that_pass_leave_no_trace(journal: Journal, expected: dict[str, Any]) -> None:
    policy = Wobbly()
    schedule = Schedule(policy_batch=3)
    report = run(journal, policy, REWARD, STRATEGY, attempts=100, schedule=schedule)
    assert report.retried > 0
    assert report.done == 20
    assert results_of(journal) == expected
    # Paid once: what did not fail came from the journal when a search was made again.
    assert report.served.policy_calls > 0
    assert policy.answered <= sum(result["usage"]["policy_calls"] for result in expected.values()) + report.retried


def test_the_last_attempt_counts_if_it_has_an_answer(journal: Journal) -> None:
    policy = FaultyPolicy(POLICY, "raises", rate=0.1)  # the same calls fail every time
    report = run(journal, policy, REWARD, STRATEGY, attempts=2, schedule=Schedule(policy_batch=3))
    assert report.retried > 0
    assert report.done > 10
    kept = dict(journal.results())
    assert any("policy failed" in line for result in kept.values() for line in result["degraded"])
    assert all(result["trajectories"] for result in kept.values())
    assert report.done + report.failed == 20


class Blind(HashPolicy):
    """Cannot read the pictures of one question."""

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        if any("3" in request.question.text for request in requests):
            raise ImageError("Cannot read image 'x.png': it is damaged or truncated.")
        return super().propose(requests)


def test_unreadable_pictures_fail_at_once(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    journal.add([("gone", "h", {"question": "?", "images": ["there.png", "gone.png"]}), ("odd", "h", {"text": 3})])
    report = run(journal, Blind(), REWARD, STRATEGY, folder=tmp_path)
    assert (report.failed, report.retried, report.done) == (4, 0, 18)
    failures = dict(journal.failures())
    assert failures.keys() == {"q3", "q13", "gone", "odd"}
    assert failures["gone"] == f"there is no '{tmp_path / 'gone.png'}'"
    assert failures["q3"] == "policy failed: ImageError: Cannot read image 'x.png': it is damaged or truncated."


def test_a_server_that_is_down_for_a_while_costs_few_questions(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down(HashPolicy):
        calls = 0

        def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
            self.calls += 1
            if self.calls < 20:
                raise PolicyError("down")
            return super().propose(requests)

    pauses: list[float] = []
    monkeypatch.setattr(module._Runner, "_sleep", lambda self, seconds: pauses.append(seconds))
    report = run(journal, Down(), REWARD, STRATEGY, schedule=Schedule(searches=8))
    assert report.done + report.failed == 20
    assert report.failed == 0
    assert [pause for pause in pauses if pause >= 1][:3] == [1, 2, 4]


def test_a_server_that_stays_down_ends_the_run(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Runner, "_sleep", lambda self, seconds: None)
    with pytest.raises(PolicyError, match=r"all searches fail; nothing is lost.*the server is down"):
        run(journal, Refusing(), REWARD, STRATEGY, schedule=Schedule(searches=4), attempts=50)
    assert counts_of(journal) == (20, 0, 0, 0)
    assert run(journal, POLICY, REWARD, STRATEGY).done == 20


# ---- being interrupted --------------------------------------------------------------------------


@pytest.mark.parametrize("policy_class", [SlowPolicy, SleepingPolicy])
def test_a_drain_finishes_what_is_open(journal: Journal, expected: dict[str, Any], policy_class: Any) -> None:
    stop = Stop()
    seen: list[int] = []

    def show(counts: Any, stats: Any) -> None:
        seen.append(counts.leased)
        if stats.done and not stop.level:
            stop.request()

    module_show, module.SHOW = module.SHOW, 0.0
    try:
        report = run(
            journal, policy_class(0.002), REWARD, STRATEGY, schedule=Schedule(searches=4), interrupt=stop, progress=show
        )
    finally:
        module.SHOW = module_show
    assert report.interrupted == 1
    assert 1 <= report.done <= 8
    assert max(seen) <= 8  # those open, and those whose result is about to be written
    assert counts_of(journal) == (20 - report.done, 0, report.done, 0)
    run(journal, POLICY, REWARD, STRATEGY)
    assert results_of(journal) == expected


@pytest.mark.parametrize("policy_class", [SlowPolicy, SleepingPolicy])
def test_a_second_request_ends_at_once(journal: Journal, expected: dict[str, Any], policy_class: Any) -> None:
    level = 0

    def press() -> None:
        nonlocal level
        level = 2

    timer = threading.Timer(0.15, press)
    timer.start()
    start = time.monotonic()
    # The policy answers in time, but a search needs 18 calls of it.
    report = run(journal, policy_class(0.1), REWARD, make("mcts", n=18), interrupt=lambda: level)
    timer.join()
    assert time.monotonic() - start < 1.5
    assert (report.done, report.interrupted) == (0, 2)
    assert report.released == 16
    assert counts_of(journal) == (20, 0, 0, 0)
    run(journal, POLICY, REWARD, STRATEGY)
    assert results_of(journal) == expected


def test_ctrl_c_without_any_preparation(journal: Journal, expected: dict[str, Any]) -> None:
    class Pressed(HashPolicy):
        calls = 0

        def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
            self.calls += 1
            if self.calls == 20:
                raise KeyboardInterrupt
            return super().propose(requests)

    policy = Pressed(branching=3, depth=3)
    with pytest.raises(KeyboardInterrupt):
        run(journal, policy, REWARD, STRATEGY, schedule=Schedule(searches=4))
    waiting, leased, done, failed = counts_of(journal)
    assert (leased, failed) == (0, 0)
    assert waiting + done == 20
    run(journal, POLICY, REWARD, STRATEGY)
    assert results_of(journal) == expected


def test_requests_to_stop_count(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    stop = Stop(heard.append)
    stop.request()
    with pytest.raises(Abandoned):
        stop.request()
    monkeypatch.setattr(os, "_exit", lambda code: heard.append(code))
    Stop.request(stop)
    assert heard[:3] == [1, 2, 130]
    quiet = Stop(raises=False)
    quiet.request()
    quiet.request()
    assert quiet() == 2


# ---- several at once ----------------------------------------------------------------------------


class Recorded:
    """A journal that remembers who has claimed what; it can lose its first few renewals."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.claims: list[str] = []
        self.renewed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def claim(self, owner: str, limit: int, lease: float) -> Any:
        items = self.journal.claim(owner, limit, lease)
        self.claims += [item.id for item in items]
        return items

    def renew(self, owner: str, ids: Sequence[str], lease: float) -> list[str]:
        self.renewed += 1
        return self.journal.renew(owner, ids, lease)


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """Return what several functions return that run at the same time."""
    found: list[Any] = [None] * len(works)

    def call(index: int) -> None:
        found[index] = works[index]()

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_two_share_the_work(journal: Journal, expected: dict[str, Any], tmp_path: Path) -> None:
    with Journal.open(tmp_path / "run.db") as other:
        schedule = Schedule(searches=2)
        reports = in_threads(
            *(
                lambda store=store: run(store, SlowPolicy(0.003), REWARD, STRATEGY, schedule=schedule)  # type: ignore[misc]
                for store in (journal, other)
            )
        )
    assert [report.done + report.duplicates for report in reports] == [r.done for r in reports]
    assert sum(report.done for report in reports) == 20
    assert min(report.done for report in reports) >= 3
    assert results_of(journal) == expected


def test_what_others_leave_behind_is_taken_over(journal: Journal, expected: dict[str, Any]) -> None:
    held = journal.claim("dead", 5, 0.6)
    assert len(held) == 5
    start = time.monotonic()
    report = run(journal, POLICY, REWARD, STRATEGY)
    assert report.done == 20
    assert time.monotonic() - start > 0.4  # it waited for the leases to end
    assert results_of(journal) == expected


def test_leases_of_long_searches_are_renewed(tmp_path: Path) -> None:
    with new_journal(tmp_path, 4) as journal:
        store = Recorded(journal)
        reports = in_threads(
            lambda: run(store, SlowPolicy(0.15), REWARD, make("mcts", n=8), lease=0.5),
            lambda: time.sleep(0.1) or run(store, SlowPolicy(0.15), REWARD, make("mcts", n=8), lease=0.5),
        )
        assert sorted(store.claims) == ["q0", "q1", "q2", "q3"]  # each once, though a search takes two leases
        assert store.renewed >= 2
        assert sum(report.done for report in reports) == 4


def test_a_lost_lease_costs_effort_and_nothing_else(
    journal: Journal, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leases, "_renew", lambda self: None)  # as if the process stood still
    reports = in_threads(
        lambda: run(journal, SlowPolicy(0.05), REWARD, STRATEGY, lease=0.1),
        lambda: run(journal, POLICY, REWARD, STRATEGY, lease=0.1),
    )
    assert sum(report.done for report in reports) == 20
    assert sum(report.duplicates for report in reports) > 0
    assert results_of(journal) == expected


def test_clocks_that_jump(tmp_path: Path, expected: dict[str, Any]) -> None:
    clock = Clock()
    rng = Random(3)
    file = tmp_path / "run.db"
    new_journal(tmp_path, 20).close()

    class Jumping(SlowPolicy):
        async def apropose(self, requests: Any) -> Any:
            if rng.random() < 0.1:
                clock.offset += rng.choice([-1e5, 1e5, -30.0, 30.0])
            return await super().apropose(requests)

    with Journal.open(file, clock=clock) as one, Journal.open(file, clock=clock) as two:
        reports = in_threads(
            lambda: run(one, Jumping(0.002), REWARD, STRATEGY, lease=5.0, schedule=Schedule(searches=3)),
            lambda: run(two, Jumping(0.002), REWARD, STRATEGY, lease=5.0, schedule=Schedule(searches=3)),
        )
        assert sum(report.done for report in reports) == 20
        one.verify()
        assert results_of(one) == expected


# ---- a journal that breaks ----------------------------------------------------------------------


class Breaking:
    """A journal one of whose methods stops to work after some calls."""

    def __init__(self, journal: Journal, name: str, after: int) -> None:
        self.journal, self.name, self.left = journal, name, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.journal, name)
        if name != self.name:
            return method

        def counted(*arguments: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise JournalError("the disk is full")
            return method(*arguments, **more)

        return counted


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("name", ["claim", "finish", "renew", "counts", "cache", "cached"])
def test_an_error_of_the_journal_ends_the_run_and_loses_nothing(
    name: str, after: int, journal: Journal, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "WRITE", 0.02)
    schedule = Schedule(searches=3)
    complaint = None
    try:
        run(Breaking(journal, name, after), SlowPolicy(0.01), REWARD, STRATEGY, schedule=schedule, lease=0.15)
    except JournalError as error:
        complaint = str(error)
    few = name in ("counts", "claim", "cached", "cache")  # maybe too few of them to break
    assert complaint == "the disk is full" or (few and complaint is None)
    run(journal, POLICY, REWARD, STRATEGY)
    assert results_of(journal) == expected
    journal.verify()


def test_calls_made_before_a_kill_are_not_paid_again(journal: Journal, expected: dict[str, Any]) -> None:
    level = 0

    def stop_soon(counts: Any, stats: Any) -> None:
        nonlocal level
        level = 2 if stats.usage.policy_calls > 60 else 0

    module_show, module.SHOW = module.SHOW, 0.0
    try:
        first, second = SlowPolicy(0.002), SlowPolicy(0.002)
        run(journal, first, REWARD, STRATEGY, interrupt=lambda: level, progress=stop_soon)
    finally:
        module.SHOW = module_show
    assert first.calls > 50
    report = run(journal, second, REWARD, STRATEGY)
    assert results_of(journal) == expected
    assert report.served.policy_calls > 0
    total = sum(result["usage"]["policy_calls"] for result in expected.values())
    assert first.calls + second.calls <= total + 16  # what was in flight at the moment


def test_without_the_cache_of_calls(journal: Journal, expected: dict[str, Any]) -> None:
    report = run(Breaking(journal, "cache", 0), POLICY, REWARD, STRATEGY, cache=False)
    assert report.done == 20
    assert results_of(journal) == expected


# ---- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"lease": 0}, "`lease` must be a number of at least 0.1; got 0"), ({"attempts": 0}, "`attempts` must be"),
     ({"lease": "1"}, "`lease` must be"), ({"strategy": "guess"}, "must be one of"),
     ({"reward": None}, "`reward` must be given"), ({"policy": 3}, "`policy` must have"),
     ({"budget": 3}, "`budget` must be a Budget")],
)  # fmt: skip
def test_arguments_are_checked_before_anything_is_claimed(
    journal: Journal, settings: dict[str, Any], reason: str
) -> None:
    given = {"policy": POLICY, "reward": REWARD, "strategy": STRATEGY, **settings}
    with pytest.raises((ValueError, TypeError), match=reason):
        run(journal, **given)
    assert counts_of(journal) == (20, 0, 0, 0)


def test_budgets_hold_for_each_search(journal: Journal) -> None:
    run(journal, POLICY, REWARD, make("mcts", n=50), Budget(policy_calls=3))
    assert {result["stopped_by"] for _, result in journal.results()} == {"policy_calls"}


def test_the_thread_of_leases_ends(journal: Journal) -> None:
    before = threading.active_count()
    with Leases(journal, "me", 60.0) as leases:
        leases.cache = CallCache(journal)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
