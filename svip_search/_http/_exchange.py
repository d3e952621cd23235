"""One request and its answer over aiohttp."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import aiohttp
from yarl import URL

from ._protocol import HttpFault, check_type, read_body, refusal

#: Seconds that a connection is kept for the next request: less than the 5 s of common servers, so that
#: theirs ends first but rarely.
_KEEP_ALIVE = 4.0
#: Seconds within which a connection must come about.
_CONNECT = 10.0
#: Set to a list before a request; whoever opens a connection for it appends to the list.
_opened: ContextVar[list[None]] = ContextVar("opened")
#: Largest body that is handed over in one piece: aiohttp warns of larger ones.
_PIECE = 1 << 20
#: How often a request is sent again because its connection had been closed in the meantime.
_STALE = 3
#: Largest body of a refusal that is read, and for how many seconds.
_REFUSAL, _PATIENCE = 1 << 16, 1.0


class _Connector(aiohttp.TCPConnector):
    """Breaks connections that no other request will use, where aiohttp would wait for the server's farewell in TLS."""

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        if key.is_ssl and (should_close or protocol.should_close) and protocol.transport is not None:
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)


def _socket(info: Any) -> socket.socket:
    """Return a new socket, and tell the request that it is not on a connection used before."""
    _opened.get([]).append(None)
    family, kind, protocol, *_ = info
    return socket.socket(family, kind, protocol)


def new_session(headers: Mapping[str, str], secure: bool) -> aiohttp.ClientSession:
    """Return a session that takes nothing from the environment but the certificates it trusts.

    Args:
        headers: of every request.
        secure: whether certificates will be needed.
    """
    trust = ssl.create_default_context() if secure else True
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, keepalive_timeout=_KEEP_ALIVE, socket_factory=_socket, ssl=trust),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
        auto_decompress=False,
        trust_env=False,
    )


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    data: bytes | None,
    max_bytes: int,
    clean: Callable[[str], str],
) -> tuple[bytes, int]:
    """Return the body of an answer of status 200, and how many connections had gone stale.

    A server may close a connection that it kept, just as a request goes out on it: that request was
    never looked at, and is sent again.

    Raises:
        HttpFault: there is no such answer.
    """
    for stale in range(_STALE + 1):
        fresh: list[None] = []
        _opened.set(fresh)
        try:
            response = await _answer(session, method, url, data)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if not fresh and stale < _STALE and _gone(error):
                continue
            said = clean(_reason(error))
        else:
            return await _body(response, max_bytes, clean), stale
        break
    raise HttpFault(f"cannot be talked to ({said})", "connection")


async def _answer(session: aiohttp.ClientSession, method: str, url: str, data: bytes | None) -> aiohttp.ClientResponse:
    body = io.BytesIO(data) if data is not None and len(data) > _PIECE else data
    return await session.request(method, URL(url, encoded=True), data=body, allow_redirects=False)


async def _body(response: aiohttp.ClientResponse, max_bytes: int, clean: Callable[[str], str]) -> bytes:
    """Return the body, and leave the connection to others only if all of it was read."""
    try:
        if response.status != 200:
            raise refusal(response, await _said(response), clean)
        check_type(response, clean)
        raw = await read_body(response, max_bytes)
    except (aiohttp.ClientError, OSError) as error:
        fault = HttpFault(f"cannot be talked to ({clean(_reason(error))})", "connection", status=response.status)
    except HttpFault as found:
        fault = found
    except BaseException:
        response.close()
        raise
    else:
        response.release()
        return raw
    if response.content.at_eof():
        response.release()
    else:
        response.close()
    raise fault


async def _said(response: aiohttp.ClientResponse) -> bytes:
    """Return what a refusal says: its first bytes, if they come at all."""
    with suppress(aiohttp.ClientError, OSError, HttpFault, TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            return await read_body(response, _REFUSAL)
    return b""


def _gone(error: BaseException) -> bool:
    """Whether a connection was closed before anything came over it."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the half of a head that came
    return isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError)


def _reason(error: BaseException) -> str:
    """Return the name of the innermost error and what it says."""
    for name in ("certificate_error", "os_error"):
        error = getattr(error, name, None) or error
    said = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    if isinstance(error, aiohttp.ClientPayloadError) or not isinstance(getattr(error, "message", ""), str):
        said = "the answer was cut off"
    return f"{type(error).__name__}: {said}"
