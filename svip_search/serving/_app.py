"""What every server does around its own routes: who may ask, how much, and how errors look."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._limits import ClientGone, Limits, Refusal, error_body, read_body

T = TypeVar("T")
logger = logging.getLogger("svip_search.serving")

#: Seconds and bytes for which what a refused client still sends is read, so that it gets to read why.
DRAIN_SECONDS, DRAIN_BYTES = 2.0, 64 << 20


def make_app(
    routes: Sequence[Route], *, token: str | None, limits: Limits, closing: Callable[[], Awaitable[None]]
) -> Starlette:
    """Return an application with the given routes and ``/healthz``.

    Args:
        routes: of the server.
        token: that clients must send, None for none.
        limits: what a request may ask.
        closing: awaited when the application ends, in its event loop.

    Raises:
        ValueError: the token is empty, or has characters that a header cannot carry.
    """
    if token is not None and not (token and token.isascii() and token.isprintable() and token.strip() == token):
        raise ValueError("`token` must be a non-empty text of visible ASCII characters, or None.")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await closing()

    app = Starlette(
        routes=[Route("/healthz", _healthz, methods=["GET"]), *routes],
        middleware=[Middleware(Guard, token=token, limits=limits)],
        exception_handlers={HTTPException: _plain_refusal},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.has_token, app.state.limits = token is not None, limits
    return app


async def _healthz(request: Request) -> Response:
    return answer({"status": "ok"})


def _plain_refusal(request: Request, error: Exception) -> Response:
    """Answer a route or method that does not exist."""
    assert isinstance(error, HTTPException)
    message = f"There is no {request.method} {request.url.path[:200]!r} here."
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    body = error_body(message, kind)
    return Response(body, error.status_code, dict(error.headers or {}), media_type="application/json")


def answer(value: Any) -> Response:
    """Return a value as an answer in JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


async def body_of(request: Request, limits: Limits) -> bytes:
    """Return the body of a request; see `read_body`."""
    return await read_body(request.receive, request.headers, limits)


async def unless_gone(request: Request, work: Awaitable[T], limits: Limits) -> T:
    """Return what some work gives; cancel it when the client leaves or the time is over.

    Raises:
        ClientGone: the client left.
        Refusal: the time is over (504).
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({task, gone}, timeout=limits.seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGone
        raise Refusal(504, f"There was no answer within {limits.seconds:g} seconds.")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Guard:
    """Lets requests in, and makes of everything that goes wrong an answer in JSON.

    Args:
        app: what is guarded.
        token: that requests must bear, but those for ``/healthz``; None lets everybody in.
        limits: of the size of a header, and of the number of requests at a time.
    """

    def __init__(self, app: ASGIApp, token: str | None, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self.active = 0
        self._token = None if token is None else _digest(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        self.active += 1
        try:
            self._admit(scope)
            await self.app(scope, exchange.receive, exchange.send)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        except ClientGone:
            pass
        except Exception:
            logger.exception("a request failed")
            if not exchange.started:
                await exchange.refuse(Refusal(500, "The server failed."))
        finally:
            self.active -= 1

    def _admit(self, scope: Scope) -> None:
        headers = scope["headers"]
        if sum(len(name) + len(value) + 4 for name, value in headers) > self.limits.header:
            raise Refusal(431, f"The header must have at most {self.limits.header} bytes.")
        if scope["path"] == "/healthz":
            return
        if self._token is not None and not self._is_known(Headers(raw=headers).get("authorization", "")):
            raise Refusal(401, "A valid bearer token is required.", headers={"www-authenticate": "Bearer"})
        if self.active > self.limits.requests:
            raise Refusal(429, "Too many requests at a time; try again.", headers={"retry-after": "1"})

    def _is_known(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        # Digests have one length, so that not even the length of the token shows in the time.
        same = hmac.compare_digest(_digest(token.strip().encode("latin-1", "replace")), self._token or b"")
        return same and scheme.lower() == "bearer"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class _Exchange:
    """One request and its answer; a request that is refused before its end is ended in good order."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.started = False
        names = {name for name, _ in scope["headers"]}
        self._complete = not names & {b"content-length", b"transfer-encoding"}

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._complete = True
        return message

    async def send(self, message: Message) -> None:
        """Send; before the end of an answer, read what the client still sends."""
        if message["type"] == "http.response.start":
            self.started = True
            if not self._complete:
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
        elif not self._complete and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self) -> None:
        """Read for a while: a connection that is closed with data unread takes the answer along."""
        left = DRAIN_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._complete and left > 0:
                    left -= len((await self.receive()).get("body", b""))

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error."""
        headers = {**refusal.headers, "content-type": "application/json"}
        body = refusal.body()
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
