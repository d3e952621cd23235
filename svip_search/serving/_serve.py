"""Runs an application: until Ctrl-C, or beside the program that embeds it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from ._limits import Limits, error_body

#: Seconds for requests that are under way when a server ends.
GRACE = 10


def serve(
    app: Starlette, host: str = "127.0.0.1", port: int = 0, *, ready: Callable[[str], None] | None = None
) -> None:
    """Serve an application until Ctrl-C.

    Args:
        app: of `policy_app` or `reward_app`.
        host: where to listen; an address that is not loopback is for applications with a token.
        port: 0 chooses a free one.
        ready: called with the base URL as soon as connections are taken.

    Raises:
        ValueError: others could reach the address, and the application has no token.
        OSError: the address cannot be used.
        KeyboardInterrupt: Ctrl-C, once requests under way are answered (or `GRACE` seconds later).

    Notes:
        To be called in the main thread, where signals arrive.  SIGTERM ends it in the same way, and then the process.
    """
    with _bound(app, host, port) as listener:
        server = _Server(app, listener, ready)
        with _quiet_end():
            server.run(sockets=[listener])


@contextmanager
def running(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve an application from a thread; the value is its base URL, up to and with ``/v1``.

    Args:
        app: of `policy_app` or `reward_app`.
        host: see `serve`.
        port: see `serve`.

    Raises:
        ValueError, OSError: as `serve`.

    Example:
        >>> from svip_search import BestOfN, Question, solve
        >>> from svip_search.rewards.remote_reward import RemoteReward
        >>> from svip_search.serving import reward_app
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> with running(reward_app(HashReward())) as url, RemoteReward(url) as reward:
        ...     solve(Question("Which?"), HashPolicy(), reward, BestOfN(n=2)).usage.reward_calls
        2
    """
    with _bound(app, host, port) as listener:
        server = _Server(app, listener, None)
        thread = threading.Thread(target=server.run, args=([listener],), name="svip-search-server", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.002)
            if not server.started:
                raise RuntimeError("the server did not start")
            yield server.url
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _bound(app: Starlette, host: str, port: int) -> Iterator[socket.socket]:
    """Return a socket that is bound to an address."""
    check_address(host, bool(getattr(app.state, "has_token", False)))
    with _named(host, port):
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    family, kind, protocol, _, address = found[0]
    # asyncio switches Nagle's algorithm off only where the protocol is said; else an answer takes 40 ms longer.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _named(host, port):
            listener.bind(address)
        yield listener
    finally:
        listener.close()


@contextmanager
def _named(host: str, port: int) -> Iterator[None]:
    """Say in an error which address cannot be used."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {host!r}, port {port}: {error.strerror or error}") from error


@contextmanager
def _quiet_end() -> Iterator[None]:
    """Keep out of the log that what waits for a server's end is cancelled by an end at once (Ctrl-C twice)."""
    log = logging.getLogger("uvicorn.error")

    def is_news(record: logging.LogRecord) -> bool:
        return "CancelledError" not in record.getMessage()

    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


def check_address(host: str, has_token: bool) -> None:
    """Refuse an address that others can reach where there is no token.

    Raises:
        ValueError: it is such an address.
    """
    if not has_token and not _is_loopback(host):
        raise ValueError(f"`host` must be a loopback address where there is no token; got {host!r}.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """A server that says when it is ready, and is quiet otherwise."""

    def __init__(self, app: Starlette, listener: socket.socket, ready: Callable[[str], None] | None) -> None:
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
        self._ready = ready
        limits: Limits = app.state.limits
        super().__init__(
            uvicorn.Config(
                app,
                http=_protocol(limits),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=limits.header,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACE,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._ready is not None:
            self._ready(self.url)


def _protocol(limits: Limits) -> type[H11Protocol]:
    """Return a protocol whose clients must send headers and take answers in time, and whose errors are JSON."""

    class Protocol(H11Protocol):
        deadline: asyncio.TimerHandle | None = None
        stalled: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            if self.stalled is not None:
                self.stalled.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.stalled = self.loop.call_later(limits.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            if self.stalled is not None:
                self.stalled.cancel()
            super().resume_writing()

        def _watch(self) -> None:
            """Begin to count where a header is due, end where it is complete."""
            if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
                self._rest()
            elif self.deadline is None:
                self.deadline = self.loop.call_later(limits.header_seconds, self.transport.abort)

        def _rest(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP, or has too long a header."""
            message = f"This must be an HTTP request with a header of at most {limits.header} bytes."
            body = error_body(message, "invalid_request_error")
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            with suppress(h11.LocalProtocolError):  # an answer may be under way already
                for event in (h11.Response(status_code=400, headers=headers), h11.Data(body), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Protocol
