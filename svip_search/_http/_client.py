"""Calls of model servers: bounded in time and bytes, tried again after a passing fault, spread over equal servers.

::

    until the deadline, up to 1 + retries times:
        wait for a slot at a server that is healthy, the oldest call first
        answer = post(body)
        if it is JSON of the right form: return read(it)
        if the fault cannot pass: raise                       (400, 401, 404, a redirect, ...)
        if a tenth of all requests was tried again already: raise
        another server if there is one; else what Retry-After says, else about 0.25, 0.5, 1, ... s
    raise
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import os
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from .._errors import PolicyError, SvipSearchError
from ._call import Call, Settings
from ._protocol import Address, HttpFault, Scrubber, check_path
from ._servers import Gate, HttpStats, weight
from ._sessions import Sessions

T = TypeVar("T")
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class HttpClient:
    """Posts JSON to one or several equal servers and returns what is read out of the JSON that they answer.

    Args:
        base_url: ``http(s)://host[:port][/path]`` up to and with its version, without user name, query or
            fragment; several addresses are equal servers.
        api_key: sent as a bearer token; never part of a message, even if a server repeats it.  It travels with a
            pickle; that of ``api_key_env`` does not.
        api_key_env: the environment variable that holds it.
        timeout: seconds for a call from the moment it is admitted, with all its tries and waits.
        retries: how many more tries after a passing fault, >= 0.
        max_bytes: largest accepted answer, after decompression.
        slots: most requests in flight a server; fewer after 429, 503 and time-outs, one more a round
            that went well.
        error: what is raised, with one line that names the server and the reason.
        name: what messages call a server.

    Raises:
        ValueError: an argument is out of range.
        ImportError: aiohttp is not installed.

    Notes:
        Neither redirects nor proxies, cookies or passwords of the environment are used.  An object may be
        used from several event loops and threads at once, over a fork, and pickled: it travels as its
        settings.  A server that failed five times in a row is left alone for 0.5 s, then for twice as long
        after each request that finds it as bad, up to 30 s.

    Example:
        >>> client = HttpClient("http://127.0.0.1:9/v1", timeout=1, retries=0)
        >>> client.run(client.get("/models", lambda answer: answer["data"]))
        Traceback (most recent call last):
        ...
        svip_search._errors.PolicyError: The model server at 127.0.0.1:9 cannot be talked to (...), after 1 try.
        >>> client.close()
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        max_bytes: int = 1 << 24,
        slots: int = 64,
        error: type[SvipSearchError] = PolicyError,
        name: str = "model server",
    ) -> None:
        urls = (base_url,) if isinstance(base_url, str) else tuple(base_url)
        self._addresses = tuple(dict.fromkeys(map(Address.parse, urls)))
        if not self._addresses:
            raise ValueError("`base_url` must name a server; got none.")
        if not 0 < timeout < math.inf:
            raise ValueError(f"`timeout` must be > 0 and finite; got {timeout}.")
        if retries < 0 or max_bytes < 1 or slots < 1:
            got = f"{retries}, {max_bytes} and {slots}"
            raise ValueError(f"`retries` must be >= 0, `max_bytes` and `slots` >= 1; got {got}.")
        key = _key(api_key, api_key_env)
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise ValueError("`api_key` must be printable ASCII; got something else.")
        if importlib.util.find_spec("aiohttp") is None:
            raise ImportError("Model servers need aiohttp: pip install 'svip-search[remote]'.")
        self.timeout, self.retries, self.max_bytes, self.slots = timeout, retries, max_bytes, slots
        self.error, self.name = error, name
        self._secrets = {"api_key": api_key, "api_key_env": api_key_env}
        self._api_key = key
        self._clean = Scrubber(key)
        self._begin()

    def _begin(self) -> None:
        """Start with nothing open and nothing known of the servers."""
        self._process = os.getpid()
        self._gate = Gate(self._addresses, self.slots)
        self._sessions = Sessions(self._headers(), any(a.secure for a in self._addresses))
        self._closing = weakref.finalize(self, self._sessions.close)

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "Content-Type": "application/json",
            "User-Agent": "svip-search",
        }
        return headers if self._api_key is None else headers | {"Authorization": f"Bearer {self._api_key}"}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._settings(),)

    def _settings(self) -> dict[str, Any]:
        names = ("timeout", "retries", "max_bytes", "slots", "error", "name")
        settings = {name: getattr(self, name) for name in names}
        return settings | {"base_url": [a.url for a in self._addresses]} | self._secrets

    def __repr__(self) -> str:
        return f"HttpClient({', '.join(a.url for a in self._addresses)})"

    @property
    def where(self) -> str:
        """Host and port of each server, as messages name them; no secret is among them."""
        return ", ".join(a.authority for a in self._addresses)

    def place(self, key: str) -> str:
        """Return the address of the server that calls with this ``key`` go to while it is well and has room."""
        return max((a.url for a in self._addresses), key=lambda url: weight(key, url))

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        *,
        key: str | None = None,
        timeout: float | None = None,
    ) -> T:
        """Return ``read(answer)`` for the answer to a request.

        Args:
            path: what follows the base address, such as ``/chat/completions``.
            body: the request; it becomes JSON.
            read: checks the form of the parsed answer and takes out what is wanted.  It raises ValueError
                for another form, which counts as a passing fault; any other error goes through, and so
                does every `SvipSearchError`.
            key: the same key goes to the same server while that is healthy and has room, so that what it
                has cached stays useful.
            timeout: seconds for this call; None is the client's.

        Raises:
            SvipSearchError: the client's ``error``: the request is refused, or nothing usable came until
                the deadline.  Its ``__cause__`` is the `HttpFault`.
            ValueError: ``path`` is no path, or ``body`` cannot be JSON.
        """
        data = _ENCODER.encode(body).encode()
        return await self._call("POST", path, data, read, key, timeout)

    async def get(self, path: str, read: Callable[[Any], T], *, timeout: float | None = None) -> T:
        """Return ``read(answer)`` for what lies at a path; see :meth:`post`."""
        return await self._call("GET", path, None, read, None, timeout)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns, from code that is not one: it runs in a private thread's event loop.

        Example:
            >>> async def three():
            ...     return 3
            >>> client = HttpClient("http://127.0.0.1:9")
            >>> client.run(three())
            3
            >>> client.close()
        """
        self._here()
        return self._sessions.run(coroutine)

    async def arelease(self) -> None:
        """Close what was opened in the running event loop."""
        self._here()
        await self._sessions.arelease()

    def close(self) -> None:
        """Close everything; a later call opens what it needs again."""
        self._here()
        self._sessions.close()

    @property
    def stats(self) -> HttpStats:
        """What was done so far, in this process."""
        self._here()
        return self._gate.stats()

    def _here(self) -> None:
        """Leave to another process what it opened before this one was forked."""
        if self._process != os.getpid():
            self._closing()
            self._begin()

    # one call

    async def _call(
        self,
        method: str,
        path: str,
        data: bytes | None,
        read: Callable[[Any], T],
        key: str | None,
        timeout: float | None,
    ) -> T:
        check_path(path)
        self._here()
        settings = Settings(self._gate, self._sessions, self.retries, self.max_bytes, self.timeout, self._clean)
        call = Call(settings, method, path, data, self.timeout if timeout is None else timeout, key)
        try:
            async with asyncio.timeout(call.seconds) as scope:
                return await call.tries(read)
        except HttpFault as fault:
            reason = fault
        except TimeoutError:
            if not scope.expired():
                raise
            reason = call.late()
        raise self.error(f"The {self.name} at {call.where} {reason}.") from reason


def _restore(settings: dict[str, Any]) -> HttpClient:
    return HttpClient(**settings)


def _key(api_key: str | None, name: str | None) -> str | None:
    if name is None:
        return api_key
    if api_key is not None:
        raise ValueError("`api_key` and `api_key_env` exclude each other; got both.")
    if not os.environ.get(name):
        raise ValueError(f"`api_key_env` must name an environment variable that is set; got {name!r}.")
    return os.environ[name]
