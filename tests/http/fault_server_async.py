"""A model server on raw sockets that answers well or misbehaves as told, and remembers what it was asked.

::

    with FaultServer("503", "ok") as server:            # a thread of its own; the last mode serves for ever
        HttpClient(server.url)...
    async with FaultServer(reply({"a": 1})) as server:  # in the running event loop
        ...

A mode is a name of `MODES` or a coroutine function of an `Exchange`.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FLOOD = 300_000_000


def certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server context with a certificate of its own, and the file that makes a client trust it."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    made = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Let nothing hang, whatever a server does; in the main thread."""

    def late(*_: object) -> None:
        raise AssertionError(f"this test did not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Request:
    """What came over the wire; names of headers are in lower case, ``body`` is parsed JSON or None."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    connection: int
    time: float = field(default_factory=time.monotonic)

    @property
    def body(self) -> Any:
        return json.loads(self.raw) if self.raw else None


@dataclass
class Exchange:
    """One request and the way to answer it; ``keep`` says whether the connection serves another."""

    server: FaultServer
    request: Request
    writer: asyncio.StreamWriter
    keep: bool = True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def good(self) -> dict[str, Any]:
        """Return the right answer to this request."""
        if self.request.path.endswith("/models"):
            return {"object": "list", "data": [{"id": "some-model", "object": "model"}]}
        return self.server.answer(self.request.body)


Mode = Callable[[Exchange], Awaitable[None]]


# -- the right answer -----------------------------------------------------------------------------


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer of an OpenAI-compatible server, the same for the same request."""
    chat = "messages" in request
    choices = [_choice(request, i, chat) for i in range(request.get("n") or 1)]
    spent = sum(len(_tokens(_text_of(c))) for c in choices)
    prompt = len(_tokens(json.dumps(request.get("messages", request.get("prompt", "")))))
    return {
        "id": _digest(request)[:12],
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": request.get("model", "some-model"),
        "choices": choices,
        "usage": {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent},
    }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def _text_of(choice: Mapping[str, Any]) -> str:
    return choice["message"]["content"] if "message" in choice else choice["text"]


def _choice(request: Mapping[str, Any], index: int, chat: bool) -> dict[str, Any]:
    asked = request.get("messages", request.get("prompt"))
    draw = (request.get("seed"), index) if request.get("temperature", 1.0) else ()
    digest = _digest(asked, draw)
    a, b, c = (int(digest[k : k + 6], 16) % 90 + 10 for k in (0, 6, 12))
    text = f"Count the shapes of row {a}.\nCompare them with row {b}.\nAnswer: {c}"
    stops = request.get("stop") or []
    ends = [at for s in ([stops] if isinstance(stops, str) else stops) if (at := text.find(s)) >= 0]
    text = text[: min(ends, default=len(text))]
    most = request.get("max_completion_tokens") or request.get("max_tokens") or 1 << 30
    tokens = _tokens(text)
    cut = len(tokens) > most
    tokens = tokens[:most]
    choice: dict[str, Any] = {"index": index, "finish_reason": "length" if cut else "stop"}
    choice |= {"message": {"role": "assistant", "content": "".join(tokens)}} if chat else {"text": "".join(tokens)}
    if request.get("logprobs") not in (None, False):
        log_probs = [-(int(_digest(digest, k)[:4], 16) % 1000 + 1) / 1000 for k in range(len(tokens))]
        choice["logprobs"] = _log_probs(tokens, log_probs, chat)
    return choice


def _log_probs(tokens: list[str], log_probs: list[float], chat: bool) -> dict[str, Any]:
    if not chat:
        return {"tokens": tokens, "token_logprobs": log_probs, "top_logprobs": None}
    return {
        "content": [
            {"token": t, "logprob": p, "bytes": list(t.encode()), "top_logprobs": []}
            for t, p in zip(tokens, log_probs, strict=True)
        ]
    }


# -- modes that are built -------------------------------------------------------------------------


def framed(body: bytes, status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    """Return a whole HTTP message."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def reply(body: Any, status: str = "200 OK", kind: str = "application/json", **headers: str) -> Mode:
    """Answer with a body (JSON unless it is bytes)."""
    message = framed(body if isinstance(body, bytes) else json.dumps(body).encode(), status, kind, **headers)

    async def send(exchange: Exchange) -> None:
        await exchange.send(message)

    return send


def raw(data: bytes) -> Mode:
    """Send bytes and close."""

    async def send(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.send(data)

    return send


def drip(data: bytes, seconds: float = 0.05, at_once: int = 0) -> Mode:
    """Send one byte every ``seconds``, after the first ``at_once``; then close."""

    async def send(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.send(data[:at_once])
        for byte in data[at_once:]:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(seconds)

    return send


def slow(seconds: float, then: Mode | str = "ok") -> Mode:
    """Answer after a while."""

    async def send(exchange: Exchange) -> None:
        await asyncio.sleep(seconds)
        await mode_of(then)(exchange)

    return send


def flood(head: bytes, piece: bytes, total: int = FLOOD, tail: bytes = b"") -> Mode:
    """Send ``head``, ``piece`` over and over up to ``total`` bytes and ``tail``, then close."""

    async def send(exchange: Exchange) -> None:
        exchange.keep = False
        await exchange.send(head)
        for _ in range(total // len(piece)):
            await exchange.send(piece)
        await exchange.send(tail)

    return send


def bomb(size: int = 1 << 26, encoding: str = "gzip") -> Mode:
    """Send ``size`` spaces in a compressed form."""
    coder = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    pieces = [coder.compress(b" " * (1 << 20)) for _ in range(size >> 20)] + [coder.flush()]
    return reply(b"".join(pieces), Content_Encoding=encoding)


# -- modes with a name ----------------------------------------------------------------------------


async def ok(exchange: Exchange) -> None:
    """Answer well."""
    await exchange.send(framed(json.dumps(await exchange.good()).encode()))


async def gzipped(exchange: Exchange) -> None:
    """Answer well, in a compressed form."""
    await exchange.send(framed(gzip.compress(json.dumps(await exchange.good()).encode()), Content_Encoding="gzip"))


async def chunked(exchange: Exchange) -> None:
    """Answer well, in two chunks."""
    body = json.dumps(await exchange.good()).encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:5], body[5:]))
    await exchange.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n")


async def hang(exchange: Exchange) -> None:
    """Never answer."""
    exchange.keep = False
    await asyncio.sleep(3600)


async def close(exchange: Exchange) -> None:
    """Close before any answer."""
    exchange.keep = False


async def reset(exchange: Exchange) -> None:
    """Break the connection before any answer."""
    exchange.keep = False
    sock = exchange.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.writer.transport.abort()


async def reset_in_body(exchange: Exchange) -> None:
    """Break the connection in the middle of a good answer."""
    message = framed(json.dumps(await exchange.good()).encode())
    await exchange.send(message[:-20])
    await asyncio.sleep(0.02)
    await reset(exchange)


async def cut_length(exchange: Exchange) -> None:
    """Close before as many bytes came as the header said."""
    exchange.keep = False
    await exchange.send(framed(json.dumps(await exchange.good()).encode())[:-20])


async def cut_json(exchange: Exchange) -> None:
    """Leave out the end of the JSON, in a message that is whole."""
    await exchange.send(framed(json.dumps(await exchange.good()).encode()[:-20]))


async def drip_body(exchange: Exchange) -> None:
    """Send a good answer one byte at a time."""
    message = framed(json.dumps(await exchange.good()).encode() + b" " * 9999)
    await drip(message, 0.05, at_once=message.index(b"\r\n\r\n") + 4)(exchange)


async def stale(exchange: Exchange) -> None:
    """Answer the first request of a connection well and close it at the second, as at the end of keep-alive."""
    if exchange.server.served(exchange.request.connection) > 1:
        await close(exchange)
    else:
        await ok(exchange)


async def echo_key(exchange: Exchange) -> None:
    """Repeat the bearer token in a refusal."""
    said = {"error": {"message": f"Incorrect API key: {exchange.request.headers.get('authorization')}"}}
    await reply(said, "401 Unauthorized")(exchange)


MODES: dict[str, Mode] = {
    "ok": ok,
    "gzip": gzipped,
    "chunked": chunked,
    "hang": hang,
    "drip body": drip_body,
    "drip headers": drip(HEAD + b"A: " + b"b" * 9999),
    "drip chunk sizes": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 9999),
    "close": close,
    "reset": reset,
    "reset in body": reset_in_body,
    "cut length": cut_length,
    "cut json": cut_json,
    "cut head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "cut chunk": raw(HEAD + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"choi'),
    "html": reply(b"<html>log in</html>", kind="text/html; charset=utf-8"),
    "empty object": reply({}),
    "null choices": reply({"choices": None}),
    "no object": reply([1]),
    "wrong type": reply(b'{"choices": []}', kind="text/plain"),
    "429": reply({"error": "slow down"}, "429 Too Many Requests", Retry_After="1"),
    "429 at once": reply({"error": "slow down"}, "429 Too Many Requests", Retry_After="0"),
    "500": reply(b"oops", "500 Internal Server Error"),
    "502": reply(b"<html>bad gateway</html>", "502 Bad Gateway", "text/html"),
    "503": reply(b"", "503 Service Unavailable"),
    "400": reply({"error": {"message": "no such\nfield"}}, "400 Bad Request"),
    "401": reply({"error": {"message": "who are you"}}, "401 Unauthorized"),
    "404": reply({"error": {"message": "no such model"}}, "404 Not Found"),
    "echo key": echo_key,
    "redirect": reply(b"", "307 Temporary Redirect", Location="http://127.0.0.1:9/v1"),
    "flood": flood(HEAD + b"Content-Length: %d\r\n\r\n" % FLOOD, b" " * (1 << 16)),
    "chunked flood": flood(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * (1 << 16) + b"\r\n"),
    "endless": flood(HEAD + b"\r\n", b" " * (1 << 16)),
    "gzip bomb": lambda exchange: bomb()(exchange),
    "deflate bomb": lambda exchange: bomb(encoding="deflate")(exchange),
    "no gzip": reply(b"this is no gzip", Content_Encoding="gzip"),
    "cut gzip": reply(gzip.compress(b'{"choices": []}')[:-9], Content_Encoding="gzip"),
    "unknown encoding": reply(b"\x1f", Content_Encoding="zstd-2"),
    "long header": flood(HEAD + b"A: ", b"b" * (1 << 16)),
    "many headers": flood(HEAD, b"A: b\r\n" * 1000),
    "long status": flood(b"HTTP/1.1 200 ", b"b" * (1 << 16)),
    "no utf-8": reply(b'{"choices": [{"text": "\xff"}]}'),
    "nan": reply(b'{"choices": [{"index": 0, "text": "a", "logprobs": {"token_logprobs": [NaN]}}]}'),
    "duplicate keys": reply(b'{"choices": null, "choices": [{"text": "a"}]}'),
    "deep": reply(b"[" * 200_000),
    "long number": reply(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "bad chunk": raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"),
    "not http": raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "two lengths": raw(HEAD + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
    "nothing to say": reply(b"", "204 No Content"),
    "stale": stale,
}


def mode_of(mode: Mode | str) -> Mode:
    """Return the mode of a name."""
    return MODES[mode] if isinstance(mode, str) else mode


# -- the server -----------------------------------------------------------------------------------


class FaultServer:
    """Serves the k-th request by the k-th mode, and all further ones by the last.

    Args:
        script: modes; none is ``"ok"``.
        answer: request JSON -> answer JSON, for the modes that answer well.
        delay: seconds before every answer.
        tls: for https.

    Attributes:
        requests: all requests, in order of arrival.
        most: the most requests that were being answered at once.
        gone: how many requests the client left before their answer was sent.
    """

    def __init__(
        self,
        *script: Mode | str,
        answer: Callable[[Mapping[str, Any]], dict[str, Any]] = answer,
        delay: float = 0.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer, self.delay, self.tls = answer, delay, tls
        self.requests: list[Request] = []
        self.most = self.gone = self.now = self.connections = 0
        self.port = 0
        self._answers: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.play(*script)

    def play(self, *script: Mode | str) -> None:
        """Serve by these modes from the next request on."""
        self.script, self._first = [mode_of(m) for m in script or ("ok",)], len(self.requests)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address up to its version."""
        return f"{'https' if self.tls else 'http'}://{self.address}/v1"

    def served(self, connection: int) -> int:
        """Return how many requests came over a connection."""
        return sum(r.connection == connection for r in self.requests)

    def until(self, condition: Callable[[FaultServer], bool], seconds: float = 10.0) -> bool:
        """Return whether something comes true in time (from any other thread than the server's)."""
        end = time.monotonic() + seconds
        while not condition(self) and time.monotonic() < end:
            time.sleep(0.005)
        return condition(self)

    # a thread of its own

    def __enter__(self) -> FaultServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None and self._thread is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _serve(self, ready: threading.Event) -> None:
        async with self:
            self._end = asyncio.Event()
            ready.set()
            await self._end.wait()

    # in the running event loop

    async def __aenter__(self) -> FaultServer:
        self._loop = asyncio.get_running_loop()
        await self._listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._leave()

    def down(self) -> None:
        """Go away: refuse and break all connections (from any other thread than the server's)."""
        self._there(self._leave())

    def up(self) -> None:
        """Come back, at the same port (from any other thread than the server's)."""
        self._there(self._listen())

    def _there(self, coroutine: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self.tls, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _leave(self) -> None:
        self._listener.close()
        for task in self._answers:
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        await self._listener.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        try:
            await self._converse(reader, writer, self.connections)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or this server goes away
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        keep = True
        while keep:
            request = await self._read(reader, connection)
            self.requests.append(request)
            mode = self.script[min(len(self.requests) - self._first, len(self.script)) - 1]
            exchange = Exchange(self, request, writer)
            await self._answer(mode, exchange, reader)
            keep = exchange.keep

    async def _answer(self, mode: Mode, exchange: Exchange, reader: asyncio.StreamReader) -> None:
        """Answer, unless the client leaves: pipelining does not happen here, so what can be read is the end."""
        self.now += 1
        self.most = max(self.most, self.now)

        async def work() -> None:
            await asyncio.sleep(self.delay)
            await mode(exchange)

        answering, leaving = asyncio.ensure_future(work()), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise ConnectionResetError
            answering.result()
        except OSError:
            self.gone += 1
            raise
        finally:
            self.now -= 1
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, path, headers, body, connection)
