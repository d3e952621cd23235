"""The HTTP client against a server that misbehaves in every way: what is returned, raised, sent, kept and closed."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp")

from fault_server_async import MODES, FaultServer, bomb, certified, mode_of, ok, raw, reply, slow

from svip_search._errors import PolicyError, RewardError
from svip_search._http import Encoded, HttpClient, HttpFault, data_url, gathered
from svip_search._question_key import QuestionKeys, question_key
from svip_search._types import Question

BODY = {"model": "some-model", "messages": [{"role": "user", "content": "How many?"}], "seed": 3}
GOOD = ("ok", "gzip", "chunked", "nan", "duplicate keys", "stale")
#: Modes after which the same request is sent again, with the kind of their fault.
PASSING = {
    "connection": ("close", "reset", "reset in body", "cut length", "cut head", "cut chunk", "long header",
                   "many headers", "long status", "bad chunk", "not http", "two lengths"),
    "status": ("429 at once", "500", "502", "503"),
    "type": ("html", "wrong type"),
    "encoding": ("no gzip", "cut gzip"),
    "json": ("cut json", "no utf-8", "deep", "long number"),
    "form": ("empty object", "null choices", "no object"),
}  # fmt: skip
FINAL = {
    "status": ("400", "401", "404", "echo key", "nothing to say"),
    "redirect": ("redirect",),
    "size": ("flood", "chunked flood", "endless", "gzip bomb", "deflate bomb"),
    "encoding": ("unknown encoding",),
}
HANGING = ("hang", "drip body", "drip headers", "drip chunk sizes")


def pairs(modes):
    return [(mode, kind) for kind, names in modes.items() for mode in names]


def texts(found):
    """Read the texts of an answer."""
    choices = found.get("choices") if isinstance(found, dict) else None
    if not choices:
        raise ValueError("no choices")
    return [c["message"]["content"] if "message" in c else c["text"] for c in choices]


def ask(client, **options):
    return client.post("/chat/completions", BODY, texts, **options)


def once(server, coroutine=ask, **options):
    """Return what one call comes to, and the statistics after it."""

    async def call():
        client = HttpClient(server.url, **({"timeout": 20, "retries": 1} | options))
        try:
            return await coroutine(client), client.stats
        finally:
            await client.arelease()

    return asyncio.run(call())


def test_every_mode_is_tested():
    named = {*GOOD, *HANGING, "429"}
    assert named | {m for m, _ in pairs(PASSING)} | {m for m, _ in pairs(FINAL)} == set(MODES)


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", GOOD)
def test_a_good_answer_is_read(mode):
    with FaultServer(mode) as server:
        found, stats = once(server)
        expected = {"nan": ["a"], "duplicate keys": ["a"]}.get(mode) or texts(server.answer(BODY))
    assert found == expected
    assert (stats.requests, stats.tries, stats.retries, stats.faults) == (1, 1, 0, {})
    assert stats.sent == len(server.requests[0].raw)
    assert stats.received > 0


def test_what_goes_over_the_wire():
    with FaultServer() as server:
        once(server, api_key="sk-secret")
        once(server, lambda client: client.get("/models", lambda found: [m["id"] for m in found["data"]]))
    post, get = server.requests
    assert (post.method, post.path, post.body) == ("POST", "/v1/chat/completions", BODY)
    assert post.headers["authorization"] == "Bearer sk-secret"
    assert post.headers["content-type"] == "application/json"
    assert (get.method, get.path, get.raw) == ("GET", "/v1/models", b"")
    assert "authorization" not in get.headers
    assert "cookie" not in get.headers


def test_a_large_body_is_sent():
    body = BODY | {"messages": [{"role": "user", "content": "x" * 3_000_000}]}
    with FaultServer("500", "ok") as server:
        once(server, lambda client: client.post("/chat/completions", body, texts))
    assert [r.body for r in server.requests] == [body, body]


def test_connections_are_kept_and_cookies_are_not():
    with FaultServer(reply({"choices": [{"text": "a"}]}, Set_Cookie="id=1; Path=/")) as server:

        async def twice(client):
            return await ask(client) + await ask(client)

        assert once(server, twice)[0] == ["a", "a"]
    assert [r.connection for r in server.requests] == [1, 1]
    assert all("cookie" not in r.headers for r in server.requests)


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDE00"])
def test_half_a_character_is_a_fault(half):
    bad = reply(b'{"choices": [{"text": "%s"}]}' % half.encode())
    whole = reply(b'{"choices": [{"text": "\\ud83d\\ude00"}]}')
    with FaultServer(bad, whole) as server:
        found, stats = once(server)
    assert found == ["\U0001f600"]
    assert stats.faults == {"json": 1}


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "kind"), pairs(PASSING))
def test_a_passing_fault_is_tried_again(mode, kind):
    with FaultServer(mode, "ok") as server:
        found, stats = once(server)
        assert found == texts(server.answer(BODY))
    assert len(server.requests) == 2
    assert (stats.tries, stats.retries, stats.faults) == (2, 1, {kind: 1})


@pytest.mark.parametrize(("mode", "kind"), pairs(PASSING))
def test_a_fault_that_stays_is_one_line(mode, kind):
    with FaultServer(mode) as server, pytest.raises(PolicyError, match="after 2 tries") as caught:
        once(server)
    message, fault = str(caught.value), caught.value.__cause__
    assert message.startswith(f"The model server at {server.address} ")
    assert message.isprintable()
    assert len(message) < 400
    assert isinstance(fault, HttpFault)
    assert (fault.kind, fault.passing) == (kind, True)
    assert fault.status == (int(mode[:3]) if kind == "status" else fault.status)


@pytest.mark.parametrize(("mode", "kind"), pairs(FINAL))
def test_a_fault_that_cannot_pass_is_not_tried_again(mode, kind):
    with FaultServer(mode) as server, pytest.raises(PolicyError) as caught:
        once(server, api_key="sk-secret")
    assert len(server.requests) == 1
    assert caught.value.__cause__.kind == kind
    assert "sk-secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("mode", HANGING)
def test_nothing_resets_the_deadline(mode):
    start = time.monotonic()
    with FaultServer(mode) as server:
        with pytest.raises(PolicyError, match=r"did not answer within 0\.4 s") as caught:
            once(server, timeout=0.4)
        assert time.monotonic() - start < 10  # the drips last for minutes
        assert server.until(lambda s: s.gone == 1)
    assert caught.value.__cause__.kind == "timeout"


def test_a_deadline_says_what_was_wrong_before_and_may_be_one_calls_own():
    with FaultServer("500", "hang") as server, pytest.raises(PolicyError) as caught:
        once(server, lambda client: ask(client, timeout=0.5))
    assert "did not answer within 0.5 s; before that it answered with status 500 (oops)" in str(caught.value)


BUSY = b"HTTP/1.1 503 Busy\r\n"


@pytest.mark.parametrize(
    "message",
    [BUSY + b"\r\nplain", BUSY + b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
     BUSY + b"Content-Length: 999\r\n\r\ncut", BUSY + b"Content-Encoding: gzip\r\n\r\nno gzip",
     BUSY + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000],
)  # fmt: skip
def test_a_busy_server_may_say_so_in_any_form(message):
    with FaultServer(raw(message), "ok") as server:
        assert once(server)[1].faults == {"status": 1}


def test_a_refusal_that_drips_costs_a_second_at_most():
    async def drips(exchange):
        await exchange.send(b"HTTP/1.1 400 Bad\r\nContent-Length: 999\r\n\r\n")
        await asyncio.sleep(60)

    with FaultServer(drips) as server, pytest.raises(PolicyError, match="status 400"):
        once(server)


@pytest.mark.parametrize("mode", ["gzip bomb", "flood", "chunked flood", "long header", "many headers"])
def test_floods_take_little_memory(mode):
    behaviour = bomb() if mode == "gzip bomb" else MODES[mode]
    with FaultServer(behaviour) as server:
        client = HttpClient(server.url, retries=0, max_bytes=1_000_000)
        tracemalloc.start()
        try:
            with pytest.raises(PolicyError):
                client.run(ask(client))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            client.close()
    assert peak < 12_000_000


def test_an_answer_of_exactly_the_limit_is_read():
    body = b'{"choices": [{"text": "a"}]}'
    with FaultServer(reply(body)) as server:
        assert once(server, max_bytes=len(body))[0] == ["a"]
        with pytest.raises(PolicyError, match=f"answered more than {len(body) - 1} bytes"):
            once(server, max_bytes=len(body) - 1)


def test_a_redirect_is_not_followed():
    with FaultServer() as other, FaultServer(reply(b"", "302 Found", Location=other.url)) as server:
        with pytest.raises(PolicyError, match=r"a redirect \(status 302\), which is not followed"):
            once(server)
        assert not other.requests


def test_the_environment_is_not_asked(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password pw\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with FaultServer() as proxy, FaultServer() as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        once(server)
        assert not proxy.requests
        assert "authorization" not in server.requests[0].headers


def test_no_server_at_all():
    with FaultServer() as server:
        pass
    with pytest.raises(PolicyError, match=r"cannot be talked to \(ConnectionRefusedError: .*\), after 2 tries\."):
        once(server)


def test_read_decides_what_is_a_fault():
    def read(found):
        raise kinds.pop()

    class NamedError(RewardError, ValueError):
        pass

    with FaultServer() as server:
        kinds = [NamedError("mine"), ValueError("a\nb" * 999)]
        with pytest.raises(NamedError, match="mine"):
            once(server, lambda client: client.post("/completions", BODY, read))
        assert len(server.requests) == 2
        kinds = [KeyError("k")]
        with pytest.raises(KeyError):
            once(server, lambda client: client.post("/completions", BODY, read))
        assert len(server.requests) == 3


def test_the_error_and_the_name_are_the_callers():
    with FaultServer("400") as server, pytest.raises(RewardError, match=f"The reward server at {server.address} ans"):
        once(server, error=RewardError, name="reward server")


def test_a_key_is_in_no_message():
    with FaultServer("echo key") as server:
        with pytest.raises(PolicyError, match=r"Incorrect API key: Bearer \*\*\*") as caught:
            once(server, api_key="sk-secret")
        client = HttpClient(server.url, api_key="sk-secret")
        assert "sk-secret" not in repr(client) + str(caught.value)


# -- waiting and giving up ------------------------------------------------------------------------


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_kept_to(date):
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=2.9), usegmt=True) if date else "1"
    with FaultServer(reply(b"", "429 Too Many Requests", Retry_After=value), "ok") as server:
        once(server)
    first, second = (r.time for r in server.requests)
    assert second - first >= 1


def test_a_server_that_wants_rest_gets_it_from_all_calls():
    async def calls(client):
        first = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0.3)
        return await asyncio.gather(first, *(ask(client) for _ in range(3)))

    with FaultServer("429", "ok") as server:
        once(server, calls)
    first, *others = (r.time for r in server.requests)
    assert len(others) == 4
    assert min(others) - first >= 1


@pytest.mark.parametrize("value", ["30", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_rest_beyond_the_deadline_is_not_waited_for(value):
    async def calls(client):
        with pytest.raises(PolicyError, match=r"status 503 .* after 1 try; no time is left for another"):
            await ask(client)
        with pytest.raises(PolicyError, match=r"is left alone for another \d+\.\d s: it answered with status 503"):
            await ask(client)

    start = time.monotonic()
    with FaultServer(reply(b"", "503 Busy", Retry_After=value)) as server:
        once(server, calls, timeout=10)
    assert time.monotonic() - start < 8
    assert len(server.requests) == 1


def test_retries_are_a_small_share_of_the_requests():
    turn = itertools.cycle(["500", "ok"])

    async def half_broken(exchange):
        await mode_of(next(turn))(exchange)

    async def calls(client):
        found = await asyncio.gather(*(ask(client) for _ in range(200)), return_exceptions=True)
        return [e.__cause__.kind for e in found if isinstance(e, PolicyError)]

    with FaultServer(half_broken) as server:
        start = time.monotonic()
        kinds, stats = once(server, calls, retries=3, slots=2)
        seconds = time.monotonic() - start
    assert stats.retries <= 10 + 0.1 * 200 + seconds + 1
    assert len(server.requests) == stats.tries == 200 + stats.retries
    assert set(kinds) == {"budget"}
    assert stats.faults["status"] == len(kinds) + stats.retries


def test_a_server_with_too_much_to_do_is_asked_again_at_the_pace_of_the_budget():
    async def calls(client):
        found = await asyncio.gather(*(ask(client) for _ in range(50)), return_exceptions=True)
        return [e.__cause__.kind for e in found]

    with FaultServer("429 at once") as server:
        kinds, stats = once(server, calls, retries=99, slots=5, timeout=2)
    assert set(kinds) == {"timeout"}
    assert 10 <= stats.retries <= 2 * 5 + 0.1 * 50 + 2 + 1
    assert stats.servers[0].limit == 1


def test_a_refused_flight_lowers_the_limit_and_good_answers_raise_it():
    async def at_most_four(exchange):
        await asyncio.sleep(0.002)
        await mode_of("ok" if exchange.server.now <= 4 else "429 at once")(exchange)

    async def calls(client):
        await asyncio.gather(*(ask(client) for _ in range(24)))
        low = client.stats.servers[0].limit
        server.play("ok")
        for _ in range(100):
            await ask(client)
        return low

    with FaultServer(at_most_four) as server:
        low, stats = once(server, calls, retries=20, slots=16)
    assert 1 <= low <= 8
    assert low < stats.servers[0].limit <= 16
    assert stats.servers[0].in_flight == 0


def test_calls_wait_in_order_for_a_slot():
    async def calls(client):
        return await asyncio.gather(*(client.post("/completions", BODY | {"seed": k}, texts) for k in range(20)))

    with FaultServer(delay=0.002) as server:
        once(server, calls, slots=2)
    seeds = [r.body["seed"] for r in server.requests]
    assert server.most <= 2
    assert all(abs(seed - k) <= 1 for k, seed in enumerate(seeds))


def test_a_call_that_gets_no_slot_says_so():
    async def calls(client):
        hanging = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0.05)
        with pytest.raises(PolicyError, match=r"had no free slot within 0\.2 s"):
            await ask(client, timeout=0.2)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)

    with FaultServer("hang") as server:
        _, stats = once(server, calls, slots=1)
    assert (stats.requests, stats.tries, stats.servers[0].in_flight) == (2, 1, 0)


@pytest.mark.parametrize("mode", HANGING)
def test_cancelling_closes_the_connection_and_frees_the_slot(mode):
    async def calls(client):
        task = asyncio.ensure_future(ask(client))
        while not server.requests:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.stats.servers[0].in_flight == 0
        return await ask(client)

    with FaultServer(mode, "ok") as server:
        _, stats = once(server, calls, slots=1)
        assert server.until(lambda s: s.gone == 1)
    assert [r.connection for r in server.requests] == [1, 2]
    assert stats.faults == {}
    assert stats.servers[0].limit == 1


def test_cancelling_those_who_wait_leaves_the_queue_to_others():
    async def calls(client):
        tasks = [asyncio.ensure_future(ask(client)) for _ in range(10)]
        await asyncio.sleep(0.02)
        for task in tasks[1:9]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [type(one).__name__ for one in found]

    with FaultServer(slow(0.1)) as server:
        kinds, stats = once(server, calls, slots=1)
    assert kinds == ["list", *["CancelledError"] * 8, "list"]
    assert len(server.requests) == stats.tries == 2


def test_only_patient_deadlines_count_against_a_server():
    async def calls(client):
        for timeout in (0.05, 0.05, 0.3):
            with pytest.raises(PolicyError):
                await ask(client, timeout=timeout)
            yielded.append(client.stats.servers[0].limit)

    yielded = []
    with FaultServer("hang") as server:
        once(server, calls, timeout=0.3)
    assert yielded == [64, 64, 32]


# -- servers that come and go ---------------------------------------------------------------------


def test_a_stale_connection_is_replaced_without_a_fault():
    async def calls(client):
        return [await ask(client) for _ in range(6)]

    with FaultServer("stale") as server:
        found, stats = once(server, calls, retries=0)
    assert len(found) == 6
    assert (stats.tries, stats.retries, stats.faults) == (6, 0, {})
    assert stats.stale >= 2


def test_a_dead_server_is_left_alone_then_probed_once():
    async def calls(client):
        for _ in range(5):
            with pytest.raises(PolicyError, match="status 500"):
                await ask(client)
        with pytest.raises(
            PolicyError, match=r"is left alone for another 0\.\d s: it answered with status 500 \(oops\)"
        ):
            await ask(client)
        assert not client.stats.servers[0].healthy
        assert len(server.requests) == 5
        server.play("ok")
        await asyncio.sleep(0.55)
        await asyncio.gather(*(ask(client) for _ in range(5)), return_exceptions=True)
        return await ask(client)

    with FaultServer("500") as server:
        _, stats = once(server, calls, retries=0)
    assert stats.servers[0].healthy


def test_calls_outlive_a_restart():
    async def calls(client):
        await ask(client)
        await asyncio.to_thread(server.down)
        waiting = [asyncio.ensure_future(ask(client)) for _ in range(40)]
        await asyncio.sleep(0.7)
        await asyncio.to_thread(server.up)
        return await asyncio.gather(*waiting)

    with FaultServer() as server:
        found, stats = once(server, calls, retries=5)
    assert len(found) == 40
    assert stats.servers[0].healthy
    assert stats.faults["connection"] >= 5


def test_those_who_wait_for_a_dead_server_give_up():
    async def calls(client):
        return await asyncio.gather(*(ask(client) for _ in range(30)), return_exceptions=True)

    with FaultServer("close") as server:
        found, stats = once(server, calls, retries=2, timeout=30, slots=4)
    assert all(isinstance(one, PolicyError) for one in found)
    assert {one.__cause__.kind for one in found} <= {"connection", "unavailable"}
    assert len(server.requests) < 30
    assert stats.servers[0].in_flight == 0


def test_a_key_stays_with_its_server():
    async def calls(client):
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] * 3:
            await client.post("/completions", BODY | {"user": key}, texts, key=key)

    with FaultServer() as one, FaultServer() as two:
        once_of([one, two], calls)
        users = [{r.body["user"] for r in server.requests} for server in (one, two)]
    assert users[0].isdisjoint(users[1])
    assert users[0] | users[1] == set("abcdefgh")
    assert len(one.requests) + len(two.requests) == 24


def once_of(servers, coroutine, **options):
    async def call():
        client = HttpClient([s.url for s in servers], **({"timeout": 20, "retries": 1} | options))
        try:
            return await coroutine(client), client.stats
        finally:
            await client.arelease()

    return asyncio.run(call())


def test_another_server_is_asked_without_waiting():
    async def calls(client):
        return [await ask(client, key=f"{k}") for k in range(4)]

    busy = reply(b"", "503 Busy", Retry_After="60")
    with FaultServer(busy) as one, FaultServer() as two:
        start = time.monotonic()
        found, stats = once_of([one, two], calls, timeout=60)
        assert time.monotonic() - start < 30
    assert len(found) == len(two.requests) == 4
    assert len(one.requests) <= 1  # it asked for a minute's rest
    assert stats.retries == len(one.requests)


def test_a_lost_server_is_replaced_and_taken_back():
    async def calls(client):
        for k in range(60):
            await ask(client, key=f"{k}")
        unhealthy = [not s.healthy for s in client.stats.servers]
        await asyncio.to_thread(one.up)
        await asyncio.sleep(0.6)
        for k in range(20):
            await ask(client, key=f"{k}")
        return unhealthy

    with FaultServer() as one, FaultServer() as two:
        one.down()
        unhealthy, stats = once_of([one, two], calls)
    assert unhealthy == [True, False]
    assert stats.faults == {"connection": 5}
    assert all(s.healthy for s in stats.servers)
    assert len(one.requests) > 0
    assert len(two.requests) >= 60


def test_load_spills_to_the_other_server():
    async def calls(client):
        return await asyncio.gather(*(ask(client, key="same") for _ in range(8)))

    with FaultServer(slow(0.05)) as one, FaultServer(slow(0.05)) as two:
        once_of([one, two], calls, slots=4)
    assert (one.most, two.most) == (4, 4)


# -- loops, threads, processes --------------------------------------------------------------------


def threads():
    return [t for t in threading.enumerate() if t.name == "svip-http"]


def sockets():
    return len([name for name in os.listdir("/proc/self/fd") if is_socket(name)])


def is_socket(name):
    try:
        return os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    except OSError:
        return False


def test_run_needs_no_event_loop_and_minds_none():
    with FaultServer() as server:
        client = HttpClient(server.url)

        async def inside():
            return client.run(ask(client))

        found = [client.run(ask(client)), asyncio.run(inside())]
        with pytest.raises(RuntimeError, match="must not be called from a coroutine that it runs"):
            client.run(inside())
        assert len(threads()) == 1
        client.close()
        assert not threads()
        found.append(client.run(ask(client)))
        client.close()
    assert found == [texts(server.answer(BODY))] * 3


def test_threads_share_a_client():
    with FaultServer(delay=0.005) as server:
        client = HttpClient(server.url, slots=3)
        found = []

        def work(own):
            for _ in range(5):
                found.append(asyncio.run(ask(client)) if own else client.run(ask(client)))

        workers = [threading.Thread(target=work, args=(k % 2,)) for k in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stats = client.stats
        client.close()
    assert len(found) == len(server.requests) == 40
    assert server.most <= 3
    assert stats.servers[0].in_flight == 0


def test_one_loop_after_another_leaves_nothing_open():
    with FaultServer() as server:
        before = sockets()
        client = HttpClient(server.url)
        for _ in range(3):
            asyncio.run(ask(client))  # the loop closes what was opened in it
        assert server.until(lambda _: sockets() == before)  # the server's end closes when it hears of it
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask(client))
        loop.close()  # without a word to its generators
        del loop
        asyncio.run(ask(client))
        client.close()
        del client
        gc.collect()


@pytest.mark.parametrize("how", ["close", "collect"])
@pytest.mark.parametrize("where", ["private", "this", "stopped", "closed", "other"])
def test_nothing_is_left_behind(where, how):
    with FaultServer() as server:
        before = sockets()
        client = HttpClient(server.url)
        if where == "private":
            client.run(ask(client))
            _end(client, how)
            del client
        elif where == "this":
            asyncio.run(_use_and_end([client], how))
            del client
        else:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(ask(client))
            thread = threading.Thread(target=loop.run_forever)
            if where == "other":
                thread.start()
            if where == "closed":
                loop.close()
            _end(client, how)
            del client
            gc.collect()
            if where == "other":
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), loop).result()
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
            loop.close()
        gc.collect()
        assert not threads()
        assert sockets() <= before + 1  # the server's end of the connection may be there still


def _end(client, how):
    if how == "close":
        client.close()


async def _use_and_end(clients, how):
    client = clients.pop()
    await ask(client)
    _end(client, how)
    del client
    gc.collect()
    await asyncio.sleep(0.02)


def test_arelease_closes_the_connections_of_this_loop_alone():
    async def use():
        await ask(client)
        assert client._sessions._open
        await client.arelease()
        assert asyncio.get_running_loop() not in client._sessions._open
        await client.arelease()
        await ask(client)
        await client.arelease()

    with FaultServer() as server:
        client = HttpClient(server.url)
        client.run(ask(client))
        asyncio.run(use())
        client.run(ask(client))
        client.close()
    assert [r.connection for r in server.requests] == [1, 2, 3, 1]


def test_a_client_travels_as_its_settings():
    with FaultServer() as server:
        client = HttpClient([server.url], api_key="sk-secret", timeout=7, slots=3, error=RewardError, name="judge")
        client.run(ask(client))
        twin = pickle.loads(pickle.dumps(client))
        assert twin.run(ask(twin)) == texts(server.answer(BODY))
        assert twin.stats.requests == 1
        assert (twin.timeout, twin.slots, twin.error, twin.name) == (7, 3, RewardError, "judge")
        assert server.requests[-1].headers["authorization"] == "Bearer sk-secret"
        client.close()
        twin.close()


def test_a_key_of_the_environment_stays_there(monkeypatch):
    monkeypatch.setenv("MODEL_KEY", "sk-secret")
    client = HttpClient("http://127.0.0.1:9", api_key_env="MODEL_KEY")
    kept = pickle.dumps(client)
    assert b"sk-secret" not in kept
    monkeypatch.setenv("MODEL_KEY", "sk-other")
    assert pickle.loads(kept)._headers()["Authorization"] == "Bearer sk-other"
    monkeypatch.delenv("MODEL_KEY")
    with pytest.raises(ValueError, match="`api_key_env` must name an environment variable that is set"):
        pickle.loads(kept)
    with pytest.raises(ValueError, match="exclude each other"):
        HttpClient("http://127.0.0.1:9", api_key="a", api_key_env="MODEL_KEY")


def test_a_key_has_a_place_among_the_servers():
    with FaultServer() as one, FaultServer() as two:
        client = HttpClient([one.url, two.url])
        assert client.where == f"{one.address}, {two.address}"
        for key in map(str, range(16)):
            asked = {server.url: len(server.requests) for server in (one, two)}
            client.run(ask(client, key=key))
            (grown,) = (s.url for s in (one, two) if len(s.requests) > asked[s.url])
            assert client.place(key) == grown
        client.close()
    assert one.requests and two.requests


def test_sessions_of_closed_loops_are_dropped_while_others_come():
    """Looking at a loop lets other threads run, and these may open sessions of their own."""
    with FaultServer() as server:
        client = HttpClient(server.url)
        opened = client._sessions._open

        class Loop(asyncio.SelectorEventLoop):
            def is_closed(self):
                if self in opened:
                    opened.setdefault(other, opened[self])
                return super().is_closed()

        loop, other = Loop(), asyncio.new_event_loop()
        loop.run_until_complete(ask(client))
        loop.run_until_complete(client.arelease())
        loop.run_until_complete(ask(client))
        asyncio.run(ask(client))
        opened.pop(other)
        client.close()
        loop.close()
        other.close()


# -- several coroutines, and what is made of questions ----------------------------------------------


def test_all_have_ended_when_one_has_failed():
    ended = []

    async def fails():
        raise PolicyError("no")

    async def returns(what):
        await asyncio.sleep(0.02)
        ended.append(what)
        return what

    error = ValueError("a value like any other")
    with pytest.raises(PolicyError, match="no"):
        asyncio.run(_gathered([fails(), returns(1)]))
    assert ended == [1]
    found = asyncio.run(_gathered([fails(), returns(error)], keep=PolicyError))
    assert isinstance(found[0], PolicyError) and found[1] is error


def test_none_goes_on_when_the_caller_is_cancelled():
    ended = []

    async def slow():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(asyncio.current_task().cancelling())

    async def run():
        task = asyncio.create_task(_gathered([slow(), slow()], keep=Exception))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [1, 1]

    asyncio.run(run())


async def _gathered(coroutines, **options):
    return await gathered(coroutines, **options)


def test_pictures_are_worked_on_beside_the_loop_and_words_do_not_wait_for_them():
    gate, threads = threading.Event(), []

    def make(question):
        threads.append(threading.current_thread() is threading.main_thread())
        if question.images:
            assert gate.wait(20)
        return question.text

    made = Encoded(make, len)
    film = Question("Which?", images=[np.zeros((4, 4, 3), np.uint8)])

    async def run():
        slow = [asyncio.create_task(made.of(film)) for _ in range(3)]
        while not threads:
            await asyncio.sleep(0.001)
        assert (await made.of(Question("How many?")))[1] == "How many?"
        gate.set()
        return [await task for task in slow]

    found = asyncio.run(run())
    assert found == [(question_key(film), "Which?")] * 3
    assert (threads, made.made) == ([False, True], 2)
    again = Question("Which?", images=[np.zeros((4, 4, 3), np.uint8)])
    assert asyncio.run(made.of(again)) == found[0]  # the same content
    assert made.made == 2
    assert made.forget(film) == question_key(film)
    asyncio.run(made.of(again))
    assert made.made == 3


def test_keys_are_hashed_once_an_object_and_no_more_are_kept_than_allowed(monkeypatch):
    hashed = []
    monkeypatch.setattr("svip_search._question_key.question_key", lambda q: hashed.append(q) or question_key(q))
    keys, questions = QuestionKeys(2), [Question(f"Which, {i}?") for i in range(3)]
    for question in (questions[0], questions[1], questions[0], questions[2], questions[0]):
        assert keys(question) == question_key(question)
    assert hashed == questions
    assert [keys.known(q) is not None for q in questions] == [True, False, True]
    assert keys.forget(questions[0]) == question_key(questions[0])
    assert keys.known(questions[0]) is None


FORKED = """
    import asyncio, os, sys
    sys.path.insert(0, {folder!r})
    from fault_server_async import FaultServer
    from svip_search._http import HttpClient

    async def ask(client):
        return await client.post("/completions", {{"prompt": "a"}}, lambda found: len(found["choices"]))

    async def main():
        client = HttpClient(sys.argv[1])
        client.run(ask(client))
        await ask(client)
        child = os.fork()
        if child == 0:
            asyncio._set_running_loop(None)
            code = 1
            try:
                assert client.run(ask(client)) == 1
                assert asyncio.run(ask(client)) == 1
                assert client.stats.requests == 2
                client.close()
                code = 0
            finally:
                {leave}
        assert os.waitpid(child, 0)[1] == 0
        assert await ask(client) == 1  # over the connection that the child left alone
        assert client.run(ask(client)) == 1
        await client.arelease()
        client.close()

    asyncio.run(main())
    print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("leave", ["os._exit(code)", "sys.exit(code)"])
def test_a_fork_shares_nothing(leave):
    code = textwrap.dedent(FORKED).format(folder=str(Path(__file__).parent), leave=leave)
    with FaultServer() as server:
        command = [sys.executable, "-W", "error", "-c", code, server.url]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout, run.returncode) == ("fine\n", 0), run.stderr
    assert "Warning" not in run.stderr
    connections = [r.connection for r in server.requests]
    assert len(set(connections)) == 4
    assert len(connections) == 6


def test_importing_needs_no_aiohttp_and_no_pillow():
    code = "import sys, svip_search._http; print({'aiohttp', 'torch', 'PIL'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# -- https ----------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path):
    return certified(tmp_path)


def test_https_is_trusted_by_certificate(tls, monkeypatch):
    context, certificate = tls
    with FaultServer(tls=context) as server:
        with pytest.raises(PolicyError, match="SSLCertVerificationError"):
            once(server)
        assert not server.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert once(server)[0] == texts(server.answer(BODY))
        server.play("drip body")
        with pytest.raises(PolicyError, match="within 1 s"):
            once(server, timeout=1)
        gc.collect()


@pytest.mark.parametrize("mode", HANGING)
def test_cancelling_over_https_waits_for_no_farewell(tls, monkeypatch, mode):
    context, certificate = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def calls(client):
        await ask(client)
        task = asyncio.ensure_future(ask(client))
        while len(server.requests) < 2:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.until, lambda s: s.gone == 1)

    before = sockets()
    with FaultServer("ok", mode, tls=context) as server:
        once(server, calls)
    gc.collect()
    assert sockets() == before


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:80",
        "ftp://a",
        "http://",
        "http://a:99999",
        "http://a:0",
        "file:///etc/passwd",
        [],
        ["http://a", ""],
    ],
)
def test_only_addresses_of_servers_are_accepted(url):
    with pytest.raises(ValueError, match="`base_url` must"):
        HttpClient(url)


@pytest.mark.parametrize(
    "url", ["http://me:pw@a/v1", "http://a/v1?k=pw", "http://a/#pw", "http://a/pw\\", "http://a/ pw"]
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(ValueError, match="`base_url`") as caught:
        HttpClient(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"timeout": 0}, "timeout"), ({"timeout": float("nan")}, "timeout"), ({"retries": -1}, "retries"),
     ({"max_bytes": 0}, "max_bytes"), ({"slots": 0}, "slots"), ({"api_key": "a\r\nX: y"}, "api_key"),
     ({"api_key": ""}, "api_key"), ({"api_key": "ключ"}, "api_key")],
)  # fmt: skip
def test_arguments_out_of_range(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        HttpClient("http://a", **options)


def test_what_cannot_be_sent_is_not_sent():
    with FaultServer() as server:
        for path, body in (("/a\r\nX: y", BODY), ("/../admin", BODY), ("/a", {"temperature": float("nan")})):
            with pytest.raises(ValueError, match=r"`path`|JSON compliant"):
                once(server, lambda client, p=path, b=body: client.post(p, b, texts))
        assert not server.requests


def test_pictures_become_addresses():
    image = pytest.importorskip("PIL.Image")
    picture = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    kind, _, data = data_url(picture).partition(",")
    assert kind == "data:image/png;base64"
    with image.open(io.BytesIO(base64.b64decode(data))) as seen:
        np.testing.assert_array_equal(np.asarray(seen), picture)


# -- the server itself ----------------------------------------------------------------------------


def test_the_server_answers_as_the_protocol_says():
    with FaultServer() as server:
        request = BODY | {"n": 3, "logprobs": True, "stop": ["\n"], "temperature": 1.0}
        found = once(server, lambda client: client.post("/chat/completions", request, lambda answer: answer))[0]
        assert found == server.answer(request)
        cut = server.answer({"prompt": "a", "max_tokens": 2, "logprobs": 1})
    assert [c["index"] for c in found["choices"]] == [0, 1, 2]
    assert len(set(texts(found))) > 1
    for choice, text in zip(found["choices"], texts(found), strict=True):
        assert "".join(t["token"] for t in choice["logprobs"]["content"]) == text
        assert "\n" not in text
        assert all(t["logprob"] < 0 for t in choice["logprobs"]["content"])
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == len(cut["choices"][0]["logprobs"]["tokens"]) == 2


def test_the_server_serves_in_a_running_loop_too():
    async def use():
        async with FaultServer(ok) as server:
            client = HttpClient(server.url)
            found = await ask(client)
            await client.arelease()
            return found == texts(server.answer(BODY))

    assert asyncio.run(use())
