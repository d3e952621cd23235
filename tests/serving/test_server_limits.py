"""Who gets in, how much, and how errors look: over real sockets, for both kinds of servers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_checks import HeldPolicy, ask, ask_all, chat, post_bytes, raw_socket, until, waiting
from uvicorn.protocols.http.h11_impl import H11Protocol

from svip_search import CallablePolicy
from svip_search.serving import Limits, policy_app, reward_app, running, serve
from svip_search.serving._limits import Refusal, decode, nesting
from svip_search.serving._requests import read_chat, read_completion
from svip_search.testing import HashPolicy, HashReward

CHAT = "/v1/chat/completions"
SMALL = Limits(body=2000, header=1000, depth=8, values=50, body_seconds=0.5, header_seconds=0.5, requests=2)


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    with running(policy_app(HashPolicy(), limits=SMALL)) as url:
        yield url


def until_closed(connection: socket.socket) -> bytes:
    """Return everything until the other side closes."""
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


# ---- tokens -------------------------------------------------------------------------------------


def test_every_route_but_health_wants_the_token() -> None:
    for app, paths in (
        (policy_app(HashPolicy(), token="s3cret"), ["/v1/models", CHAT, "/v1/completions", "/nowhere", "/"]),
        (reward_app(HashReward(), token="s3cret"), ["/v1/reward", "/v1/rewards", "/nowhere"]),
    ):
        with running(app) as url:
            assert ask(url, "/healthz") == (200, {"status": "ok"})
            for path in paths:
                for token in (None, "", "wrong", "s3cre", "s3cret1"):
                    status, answer, headers = ask_all(url, path, token=token)
                    assert (status, answer["error"]["type"]) == (401, "authentication_error")
                    assert headers["www-authenticate"] == "Bearer"
                assert ask(url, path, token="s3cret")[0] in (200, 404, 405)
            assert ask(url, paths[0], Authorization="Basic s3cret")[0] == 401
            assert ask(url, paths[0], Authorization="bearer  s3cret ")[0] == 200


def test_a_body_without_the_token_is_not_read() -> None:
    with running(policy_app(HashPolicy(), token="s3cret")) as url, raw_socket(url) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
        connection.settimeout(20)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_an_address_for_others_needs_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="`host` must be a loopback address where there is no token"):
        serve(policy_app(HashPolicy()), host)


def test_with_a_token_any_address_will_do() -> None:
    with running(policy_app(HashPolicy(), token="s3cret"), "0.0.0.0") as url:
        assert ask(url.replace("0.0.0.0", "127.0.0.1"), "/v1/models", token="s3cret")[0] == 200


def test_localhost_and_a_port_that_is_taken() -> None:
    app = policy_app(HashPolicy())
    with running(app, "localhost") as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/v1"))
        assert ask(f"http://localhost:{port}", "/healthz")[0] == 200
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"), running(policy_app(HashPolicy()), port=port):
            pass


def test_answers_are_not_held_back_for_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    connected = H11Protocol.connection_made

    def note(self: Any, transport: Any) -> None:
        made.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        connected(self, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", note)
    with running(policy_app(HashPolicy())) as url:
        assert ask(url, "/healthz")[0] == 200
    assert made
    assert all(made)


# ---- sizes --------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_refused_before_it_is_there(small: str) -> None:
    status, answer, headers = ask_all(small, CHAT, chat("x" * 3000))
    assert (status, answer["error"]["message"]) == (413, "The body must have at most 2000 bytes.")
    assert headers["connection"] == "close"


def test_a_body_without_a_length_is_counted_while_it_comes(small: str) -> None:
    with raw_socket(small) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(30):
            connection.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
        found = until_closed(connection)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_a_client_reads_why_even_if_it_sends_everything_first() -> None:
    with running(policy_app(HashPolicy(), limits=Limits(body=1000))) as url:
        assert ask(url, CHAT, b"x" * 8_000_000)[0] == 413


def test_headers_are_limited(small: str) -> None:
    assert ask(small, "/healthz", X_Long="x" * 960)[0] == 431
    with raw_socket(small) as connection:  # a line that does not end
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 5000)
        found = until_closed(connection)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert "at most 1000 bytes" in json.loads(found.partition(b"\r\n\r\n")[2])["error"]["message"]


@pytest.mark.parametrize("bytes_", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"])
def test_what_is_not_http_is_answered_in_json(small: str, bytes_: bytes) -> None:
    with raw_socket(small) as connection:
        connection.sendall(bytes_ + b"\r\n\r\n")
        found = until_closed(connection)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert "error" in json.loads(found.partition(b"\r\n\r\n")[2])


def test_deep_and_long_json_is_refused(small: str) -> None:
    deep: Any = 1
    for _ in range(9):
        deep = [deep]
    status, answer = ask(small, CHAT, chat(logit_bias=deep))
    assert (status, answer["error"]["message"]) == (400, "The JSON must nest at most 8 deep; got 10.")
    status, answer = ask(small, CHAT, chat(logit_bias=[0] * 60))
    assert (status, answer["error"]["message"]) == (400, "The JSON must hold at most 50 values.")
    assert ask(small, CHAT, chat("[" * 100 + '\\"{' + "," * 100))[0] == 200  # within a text


def test_only_plain_json_is_read(small: str) -> None:
    body = json.dumps(chat()).encode()
    assert ask(small, CHAT, body)[0] == 200
    assert ask(small, CHAT, body, Content_Type="application/json; charset=utf-8")[0] == 200
    assert ask(small, CHAT, body, Content_Type="text/plain")[0] == 415  # what any web page may send
    assert ask(small, CHAT, body, Content_Encoding="gzip")[0] == 415


# ---- time ---------------------------------------------------------------------------------------


def test_a_header_that_drips_is_cut_off(small: str) -> None:
    with raw_socket(small) as connection:
        end, cut = time.monotonic() + 20, False
        while not cut:
            assert time.monotonic() < end
            try:
                connection.sendall(b"G")
            except OSError:
                cut = True
            time.sleep(0.05)
    with raw_socket(small) as connection:  # and one that never begins
        assert until_closed(connection) == b""


def test_a_second_header_that_drips_is_cut_off_too(small: str) -> None:
    with raw_socket(small) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        found = b""
        while b'"ok"}' not in found:
            found += connection.recv(4096)
        assert found.startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /healthz HT")
        assert until_closed(connection) == b""


def test_a_body_that_drips_is_refused(small: str) -> None:
    with raw_socket(small) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
        found = until_closed(connection)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.5 seconds" in found


def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    policy = CallablePolicy(lambda question, prefix, n, seed: ["x" * 30_000_000 + " Answer: 1"])
    app = policy_app(policy, limits=Limits(send_seconds=3))  # enough for a client that reads, on a busy machine
    with running(app) as url, raw_socket(url) as connection:
        connection.sendall(post_bytes(CHAT, chat()) * 2)  # the second one waits for the first to be sent
        found = ask(url, CHAT, chat())[1]  # another client is served meanwhile
        assert len(found["choices"][0]["message"]["content"]) > 30_000_000
        time.sleep(5)
        assert len(until_closed(connection)) < 30_000_000


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    policy = HeldPolicy()
    with running(policy_app(policy, limits=Limits(seconds=0.2))) as url:
        status, answer = ask(url, CHAT, chat())
        policy.held.gate.set()
        assert (status, answer["error"]["type"]) == (504, "timeout_error")


def test_one_request_too_many_is_told_to_come_again(small: str) -> None:
    policy = HeldPolicy()
    app = policy_app(policy, limits=SMALL)
    with running(app) as url:
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(ask(url, CHAT, chat())[0])) for _ in range(2)]
        threads[0].start()
        policy.held.arrived()
        threads[1].start()
        until(lambda: waiting(app) == 1)
        status, answer, headers = ask_all(url, CHAT, chat())
        assert (status, answer["error"]["type"], headers["retry-after"]) == (429, "overloaded_error", "1")
        assert ask(url, "/healthz")[0] == 200
        policy.held.gate.set()
        for thread in threads:
            thread.join()
        assert found == [200, 200]
        assert ask(url, CHAT, chat())[0] == 200


def test_clients_that_leave_in_the_middle_leave_nothing_behind(small: str) -> None:
    for part in (10, 100, 200):
        for _ in range(3):
            with raw_socket(small) as connection:
                connection.sendall(post_bytes(CHAT, chat("x" * 300))[:part])
    end = time.monotonic() + 20
    while ask(small, CHAT, chat())[0] != 200:  # only two requests at a time are taken here
        assert time.monotonic() < end


def test_many_requests_on_one_connection(small: str) -> None:
    with raw_socket(small) as connection:
        connection.sendall(post_bytes(CHAT, chat()) * 5)
        found = b""
        while found.count(b"chat.completion") < 5:
            piece = connection.recv(65536)
            assert piece
            found += piece
    assert found.count(b"HTTP/1.1 200 ") == 5


# ---- routes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/v1", "GET", 404),
        ("/v1/models/", "GET", 404),
        ("/docs", "GET", 404),
        ("/%00%ff", "GET", 404),
        (CHAT, "GET", 405),
        ("/v1/models", "POST", 405),
        ("/v1/models", "DELETE", 405),
    ],
)
def test_unknown_routes_are_answered_in_json(small: str, path: str, method: str, status: int) -> None:
    found, answer, _ = ask_all(small, path, method=method)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param"}


def test_an_error_of_the_server_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = policy_app(HashPolicy())

    def broken(*_: object) -> None:
        raise RuntimeError("at /secret/path")

    monkeypatch.setattr(app.state.server, "_answer", broken)
    with running(app) as url:
        status, answer = ask(url, CHAT, chat())
    assert status == 500
    assert answer["error"] == {"message": "The server failed.", "type": "server_error", "param": None}


@pytest.mark.parametrize("name", ["body", "requests", "seconds"])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be positive; got 0"):
        Limits(**{name: 0})


# ---- any bytes ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"])}, optional={"text": st.text() | JSON, "image_url": JSON}
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"])},
    optional={"content": st.text() | st.lists(PART | JSON, max_size=3) | JSON},
)
FIELDS = {
    name: st.integers(-1, 5) | st.floats() | st.text(max_size=3) | st.booleans() | JSON
    for name in ("n", "temperature", "seed", "max_tokens", "stop", "logprobs", "continue_final_message", "stream", "x")
}
CHATS = st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=3) | JSON}, optional=FIELDS)
PROMPTS = st.fixed_dictionaries({"prompt": st.text() | JSON}, optional=FIELDS)


def check(read: Any, body: bytes) -> bool:
    """Whether a body can be answered; anything but a refusal of the client is a fault."""
    try:
        read(body, "policy", "\n", Limits())
    except Refusal as found:
        refusal = found
    else:
        return True
    assert 400 <= refusal.status < 500
    json.loads(refusal.body())
    return False


@settings(max_examples=300, deadline=None)
@given(CHATS | JSON, st.booleans())
def test_any_chat_is_read_or_refused(value: Any, spoil: bool) -> None:
    body = json.dumps(value).encode()
    check(read_chat, body[: len(body) // 2] if spoil else body)


@settings(max_examples=200, deadline=None)
@given(PROMPTS | JSON)
def test_any_prompt_is_read_or_refused(value: Any) -> None:
    check(read_completion, json.dumps(value).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused(body: bytes) -> None:
    assert not check(read_chat, body)


@settings(max_examples=300, deadline=None)
@given(JSON | st.lists(st.text(alphabet='[]{},"\\a')))
def test_nesting_is_counted_as_it_is(value: Any) -> None:
    def depth(value: Any) -> int:
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    def values(value: Any) -> int:
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        return 1 + sum(map(values, inner))

    for ascii_ in (True, False):
        found = nesting(json.dumps(value, ensure_ascii=ascii_).encode("utf-8", "surrogatepass"))
        assert found[0] == depth(value)
        assert found[1] >= values(value)


def test_twenty_megabytes_of_brackets_are_refused_at_once() -> None:
    rng = np.random.default_rng(0)
    for alphabet in (b"[]", b"[", b'"', b'"[', b"\\", b'\\"[', b"[],"):
        body = bytes(rng.choice(list(alphabet), 1 << 20).astype(np.uint8))
        with pytest.raises(Refusal):
            decode(body, list, Limits())
