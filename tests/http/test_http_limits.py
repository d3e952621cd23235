"""Limits, the choice of a server and the queue before them, told the time and watched over all orders of events."""

from __future__ import annotations

import asyncio
import math
from email.utils import formatdate
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search._http._limits import LONGEST_WAIT, Aimd, Breaker, RetryBudget, backoff, retry_after
from svip_search._http._protocol import Address, Scrubber, check_path
from svip_search._http._servers import Gate, Place, choose

EVENTS = st.lists(st.tuples(st.sampled_from("rt"), st.floats(0, 3)), max_size=300)


def addresses(count):
    return [Address.parse(f"http://10.0.0.{i + 1}:8000/v1") for i in range(count)]


# -- retries --------------------------------------------------------------------------------------


@given(EVENTS, st.floats(1, 20), st.floats(0, 1), st.floats(0, 5))
def test_retries_stay_within_burst_share_and_rate(events, burst, ratio, rate):
    budget, now, requests, taken = RetryBudget(burst, ratio, rate), 0.0, 0, 0
    start = None
    for event, seconds in events:
        now += seconds
        if event == "r":
            budget.request()
            requests += 1
        else:
            start = now if start is None else start
            taken += budget.retry(now)
            assert taken <= burst + ratio * requests + rate * (now - start) + 1e-6


def test_a_spent_budget_lets_a_lone_request_be_retried_later():
    budget = RetryBudget(burst=3)
    assert [budget.retry(5.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.retry(5.5)
    assert budget.retry(6.1)


def test_ten_requests_pay_for_one_retry():
    budget = RetryBudget(burst=1, rate=0.0)
    assert budget.retry(0.0)
    for _ in range(9):
        budget.request()
    assert not budget.retry(0.0)
    budget.request()
    budget.request()
    assert budget.retry(0.0)


def test_a_clock_that_goes_back_brings_no_tokens():
    budget = RetryBudget(burst=1)
    assert budget.retry(100.0)
    assert not budget.retry(0.0)
    assert not budget.retry(100.5)


# -- breaker --------------------------------------------------------------------------------------


def test_breaker_opens_probes_and_closes():
    breaker = Breaker(failures=3, first=1.0, longest=3.0)
    for _ in range(3):
        assert breaker.opens() == -math.inf
        assert not breaker.begin()
        breaker.failure(10.0, probe=False)
    assert not breaker.closed
    assert breaker.opens() == 11.0
    for ends, seconds in ((11.0, 2.0), (13.0, 3.0), (16.0, 3.0)):  # twice as long, at most `longest`
        assert breaker.begin()
        assert breaker.opens() == math.inf
        breaker.failure(ends, probe=True)
        assert breaker.opens() == ends + seconds
    assert breaker.openings == 4
    assert breaker.begin()
    breaker.success()
    assert breaker.closed
    assert breaker.opens() == -math.inf


def test_failures_of_requests_from_before_the_opening_say_nothing_new():
    breaker = Breaker(failures=2, first=1.0)
    for _ in range(64):
        breaker.failure(0.0, probe=False)
    assert breaker.openings == 1
    assert breaker.opens() == 1.0
    assert breaker.begin()
    breaker.failure(1.5, probe=False)  # a late one, while the probe is out
    assert breaker.opens() == math.inf


def test_a_probe_without_a_verdict_lets_the_next_one_go():
    breaker = Breaker(failures=1, first=1.0)
    breaker.failure(0.0, probe=False)
    assert breaker.begin()
    breaker.nothing(probe=True)
    assert breaker.opens() == 1.0
    assert not breaker.closed


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 8))
def test_breaker_opens_only_after_failures_in_a_row(answers, failures):
    breaker, row = Breaker(failures), 0
    for good in answers:
        if not breaker.closed:
            assert row >= failures
            break
        row = 0 if good else row + 1
        breaker.success() if good else breaker.failure(0.0, probe=False)
    else:
        assert breaker.closed == (row < failures)


# -- requests in flight ---------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2), st.floats(0, 2)), max_size=300), st.integers(1, 100))
def test_the_limit_stays_between_one_and_the_ceiling(events, ceiling):
    aimd, now = Aimd(ceiling), 0.0
    for good, seconds, age in events:
        now += seconds
        before = aimd.value
        aimd.success() if good else aimd.overload(now - age, now)
        assert 1 <= aimd.limit <= ceiling
        assert aimd.value >= before / 2
        assert aimd.value <= before + 1


def test_a_full_flight_that_is_refused_halves_the_limit_once():
    aimd = Aimd(64)
    for k in range(64):
        aimd.overload(started=0.0, now=1.0 + k / 100)
    assert aimd.limit == 32
    aimd.overload(started=1.0, now=2.0)
    assert aimd.limit == 16


def test_a_round_of_good_answers_adds_about_one():
    aimd = Aimd(64)
    aimd.overload(0.0, 1.0)
    for _ in range(aimd.limit):
        aimd.success()
    assert 32.9 < aimd.value <= 33


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_doubles_within_bounds(attempt, draw):
    wait = backoff(attempt, draw)
    most = min(8.0, 0.25 * 2.0 ** min(attempt, 10))
    assert most / 2 <= wait <= most


# -- Retry-After ----------------------------------------------------------------------------------


@given(st.text() | st.from_regex(r"[0-9.eE+-]{1,400}") | st.from_regex(r"\w{3}, \d\d \w{3} \d{1,6} \d\d:\d\d:\d\d GMT"))
def test_any_retry_after_is_none_or_at_most_a_minute(value):
    seconds = retry_after(value, 1e9)
    assert seconds is None or 0 <= seconds <= LONGEST_WAIT


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), (" 3 ", 3), ("3600", 60), ("-5", None), ("1e3", None),
                                                ("nan", None), ("", None), ("soon", None), ("٣", None)])  # fmt: skip
def test_retry_after_in_seconds(value, seconds):
    assert retry_after(value, 0.0) == seconds


@pytest.mark.parametrize("ahead", [-100, 0, 5, 7200])
def test_retry_after_as_a_date(ahead):
    assert retry_after(formatdate(1e9 + ahead, usegmt=True), 1e9) == min(max(ahead, 0), 60)


# -- the choice of a server -----------------------------------------------------------------------


def servers(count, slots=4):
    return Gate(addresses(count), slots).servers


KEYS = [f"question {i}" for i in range(300)]


def test_a_key_stays_with_its_server_and_only_the_keys_of_a_lost_one_move():
    four = servers(4)
    before = {key: choose(four, key, (), 0.0) for key in KEYS}
    assert {key: choose(four[::-1], key, (), 0.0) for key in KEYS} == before
    lost = four[1]
    lost.resting = 100.0
    after = {key: choose(four, key, (), 0.0) for key in KEYS}
    assert all(after[key] is before[key] for key in KEYS if before[key] is not lost)
    moved = [after[key] for key in KEYS if before[key] is lost]
    assert {id(s) for s in moved} == {id(s) for s in four if s is not lost}
    shares = [sum(s is one for s in before.values()) for one in four]
    assert min(shares) > 300 / 4 / 2


def test_a_full_server_spills_to_the_least_loaded():
    three = servers(3)
    first = choose(three, "a", (), 0.0)
    others = [s for s in three if s is not first]
    first.in_flight, others[0].in_flight, others[1].in_flight = 4, 2, 1
    assert choose(three, "a", (), 0.0) is others[1]
    first.in_flight = 3
    assert choose(three, "a", (), 0.0) is first


def test_calls_without_a_key_go_round():
    three = servers(3)
    assert [choose(three, None, (), 0.0, turn) for turn in range(6)] == three * 2


def test_a_server_that_failed_this_call_is_asked_only_if_no_other_has_room():
    two = servers(2)
    first = choose(two, "a", (), 0.0)
    (other,) = (s for s in two if s is not first)
    assert choose(two, "a", {first}, 0.0) is other
    other.in_flight = 4
    assert choose(two, "a", {first}, 0.0) is first
    first.in_flight = 4
    assert choose(two, "a", {first}, 0.0) is None


def test_an_open_breaker_is_passed_over_until_its_time():
    two = servers(2)
    first = choose(two, "a", (), 0.0)
    for _ in range(5):
        first.breaker.failure(0.0, probe=False)
    assert choose(two, "a", (), 0.4) is not first
    assert choose(two, "a", (), 0.6) is first
    first.breaker.begin()
    assert choose(two, "a", (), 0.7) is not first


# -- the queue ------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["call", "call", "call", "good", "fault", "overload", "rest", "left", "quit", "time"]),
        st.integers(0, 1000),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(STEPS, st.integers(1, 3), st.integers(1, 4))
def test_slots_are_handed_out_in_order_and_never_forgotten(steps, count, slots):
    asyncio.run(_play(steps, count, slots))


async def _play(steps, count, slots):
    gate, now = Gate(addresses(count), slots), 0.0
    waiting, held, order = [], [], []

    def settle():
        for place in [p for p in waiting if p.slot is not None]:
            waiting.remove(place)
            order.append(place.ticket)
            assert gate.enter(place, now) is place.slot
            held.append(place.slot)
            place.slot = None

    for step, k in steps:
        if step == "call":
            place = gate.admit(f"{k}" if k % 3 else None)
            waiting.append(place)
            gate.enter(place, now)
        elif step == "time":
            now += k / 100
            for place in sorted(waiting):
                if place in waiting:  # not served along with one before it
                    gate.enter(place, now)
                    settle()
        elif step == "quit" and waiting:
            gate.quit(waiting.pop(k % len(waiting)), now)
        elif held and step in ("good", "fault", "overload", "rest", "left"):
            healthy = {"good": True, "overload": True, "rest": True, "fault": False}.get(step)
            rest = k / 100 if step == "rest" else 0.0
            gate.leave(held.pop(k % len(held)), now, healthy=healthy, overload=step == "overload", rest=rest)
        settle()
        _check_gate(gate, waiting, held, now)
    for place in waiting:
        gate.quit(place, now)
    for slot in held:
        gate.leave(slot, now, healthy=True)
    assert all(s.in_flight == 0 for s in gate.servers)
    assert all(a < b for a, b in pairwise(order))


def _check_gate(gate, waiting, held, now):
    for server in gate.servers:
        mine = [slot for slot in held if slot.server is server]
        assert server.in_flight == len(mine) <= server.aimd.ceiling
        assert sum(slot.probe for slot in mine) <= 1 or server.breaker.closed
        if waiting and not server.has_room(now):
            continue
        assert not waiting  # somebody waits though this server has room


def test_a_place_of_a_dead_event_loop_is_passed_over():
    gate = Gate(addresses(1), 1)

    async def take():
        place = gate.admit(None)
        return place, gate.enter(place, 0.0)

    _, slot = asyncio.run(take())
    dead, nothing = asyncio.run(take())
    assert nothing is None

    async def wait():
        place = gate.admit(None)
        assert gate.enter(place, 0.0) is None
        gate.leave(slot, 0.0, healthy=True)
        await place.signal
        assert place.slot is not None
        gate.leave(place.slot, 0.0, healthy=True)

    asyncio.run(wait())
    assert dead.slot is None
    assert gate.stats().servers[0].in_flight == 0


def test_places_are_ordered_by_admission():
    async def make():
        return Place(1, None), Place(2, None)

    first, second = asyncio.run(make())
    assert first < second


# -- text -----------------------------------------------------------------------------------------

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40)


@given(SECRETS, st.text(max_size=300), st.text(max_size=300), st.integers(0, 220))
def test_a_secret_never_gets_through_and_text_stays_short(secret, before, after, padding):
    text = Scrubber(secret)("x" * padding + before + secret + after)
    assert secret not in text
    assert text.isprintable()
    assert len(text) <= 200


@pytest.mark.parametrize("padding", range(0, 1010, 5))
def test_no_part_of_a_secret_is_left_at_the_cut(padding):
    assert "sk-" not in Scrubber("sk-0123456789abcdef")("y" * padding + "sk-0123456789abcdef")


def test_a_secret_is_found_in_other_spellings():
    scrub = Scrubber('a/b"c+d')
    assert scrub('in JSON a/b\\"c+d, in an address a/b%22c%2Bd or a%2Fb%22c%2Bd') == (
        "in JSON ***, in an address *** or ***"
    )


@pytest.mark.parametrize("path", ["", "models", "/", "//models", "/a b", "/a\r\nX: y", "/a?b", "/a#b", "/../admin",
                                  "/.", "/a/../b", "/a/", "/%2e%2e", "/ü", "http://x/y", "/a\\b", "/a\n"])  # fmt: skip
def test_a_path_can_neither_leave_nor_add(path):
    with pytest.raises(ValueError, match="`path`"):
        check_path(path)


@pytest.mark.parametrize("path", ["/models", "/chat/completions", "/v1.5/models/a-b_c:d~"])
def test_plain_paths_are_good(path):
    check_path(path)


def test_addresses_are_taken_apart():
    assert Address.parse("https://example.org/v1/") == Address(True, "example.org", 443, "/v1")
    six = Address.parse("http://[::1]:8080")
    assert (six.host, six.authority, six.url) == ("::1", "[::1]:8080", "http://[::1]:8080")
