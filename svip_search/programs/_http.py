"""One JSON request to a model server: bounded in time and bytes, sent again after a passing fault.

::

    until the deadline, up to 1 + retries times:
        answer = post(body)                        every wait ends at the deadline, whatever drips in
        if it is JSON of the right form: return it
        if the fault cannot pass: raise            (400, 401, 404, a redirect, ...)
        sleep what Retry-After says, else 0.25, 0.5, 1, ... s
    raise
"""

from __future__ import annotations

import email.utils
import http.client
import io
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .._errors import PolicyError

T = TypeVar("T")

#: Statuses after which the same request may well succeed.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_PIECE = 1 << 16
_LONGEST_WAIT = 60.0


class _Fault(Exception):
    """An answer that cannot be used; ``passing`` if another try may get a better one."""

    def __init__(self, message: str, *, passing: bool = True, wait: float | None = None) -> None:
        super().__init__(message)
        self.passing, self.wait = passing, wait


class _Patient(io.RawIOBase):
    """A connected socket whose every wait ends at one moment; a time-out of its own would begin anew with each byte."""

    def __init__(self, sock: socket.socket, end: float) -> None:
        self.sock, self.end = sock, end

    def _arm(self) -> None:
        self.sock.settimeout(_left(self.end))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._arm()
        return self.sock.recv_into(buffer)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._arm()
            view = view[self.sock.send(view) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        """Leave the socket open: `http.client` closes it before the answer is read."""


def _left(end: float) -> float:
    """Return the seconds that are left."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class JsonClient:
    """Posts JSON to one server and returns the JSON that it answers.

    Args:
        base_url: ``http(s)://host[:port][/path]``; without user name, query or fragment.
        api_key: sent as a bearer token; never part of a message.
        timeout: seconds for a request with all its tries and waits, > 0.
        retries: how many more tries after a passing fault, >= 0.
        max_bytes: largest accepted answer, >= 1.

    Raises:
        ValueError: an argument is out of range, or the address is not one of these.

    Notes:
        Redirects are not followed, proxies of the environment are not used, and compressed answers
        are refused.  Looking up the host name is the one thing that the deadline does not bound.

    Example:
        >>> JsonClient("ftp://example.org")
        Traceback (most recent call last):
        ...
        ValueError: `base_url` must be http(s)://host[:port][/path]; got 'ftp://example.org'.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        max_bytes: int = 1 << 24,
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise ValueError(f"`timeout` must be > 0 and finite; got {timeout}.")
        if retries < 0 or max_bytes < 1:
            raise ValueError(f"`retries` must be >= 0 and `max_bytes` >= 1; got {retries} and {max_bytes}.")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key):
            raise ValueError("`api_key` must be printable ASCII; got something else.")
        self.secure, self.host, self.port, self.path = _address(base_url)
        self.timeout, self.retries, self.max_bytes = timeout, retries, max_bytes
        self._api_key = api_key

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, end: float | None = None) -> T:
        """Return ``read(answer)`` for the answer to a request.

        Args:
            path: what follows the base address, such as ``/completions``.
            body: the request.
            read: checks the answer and takes out what is wanted; it raises ValueError for another form.
            end: the deadline, by `time.monotonic`; None is ``timeout`` seconds from now.

        Raises:
            PolicyError: the server refuses the request, or gives nothing usable until the deadline.
        """
        data = json.dumps(body).encode()
        end = time.monotonic() + self.timeout if end is None else end
        for attempt in range(self.retries + 1):
            try:
                return self._try(path, data, end, read)
            except _Fault as fault:
                wait = 0.25 * 2**attempt if fault.wait is None else fault.wait
                tries = f"after {attempt + 1} {'try' if attempt == 0 else 'tries'}"
                if not fault.passing or attempt == self.retries:
                    raise self._error(f"{fault}, {tries}" if fault.passing else str(fault)) from None
                if time.monotonic() + wait >= end:
                    raise self._error(f"{fault}, {tries}; no time is left for another") from None
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _error(self, message: str) -> PolicyError:
        if self._api_key is not None:  # a server may repeat what it was sent
            message = message.replace(self._api_key, "***")
        return PolicyError(f"The model server at {self.host}:{self.port} {message}.")

    def _try(self, path: str, data: bytes, end: float, read: Callable[[Any], T]) -> T:
        try:
            raw = self._exchange(path, data, end)
        except TimeoutError:
            raise _Fault(f"did not answer within {self.timeout:g} s", passing=False) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Fault(f"cannot be talked to ({type(error).__name__}: {_short(str(error))})") from None
        try:
            return read(json.loads(raw))
        except (ValueError, RecursionError) as error:
            raise _Fault(f"answered something else than was asked for ({_short(str(error))})") from None

    def _exchange(self, path: str, data: bytes, end: float) -> bytes:
        """Return the body of one answer of status 200."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        connection = kind(self.host, self.port, timeout=_left(end))
        sock = None
        try:
            connection.connect()
            sock = connection.sock
            connection.sock = _Patient(sock, end)
            connection.request("POST", self.path + path, data, self._headers())
            response = connection.getresponse()
            raw = self._body(response)
            _check(response, raw)
            return raw
        finally:
            if sock is not None:
                sock.close()
            connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        return headers

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        too_large = _Fault(f"answered more than {self.max_bytes} bytes", passing=False)
        if response.length is not None and response.length > self.max_bytes:
            raise too_large
        pieces, size = [], 0
        while piece := response.read(_PIECE):
            size += len(piece)
            if size > self.max_bytes:
                raise too_large
            pieces.append(piece)
        return b"".join(pieces)


def _address(url: str) -> tuple[bool, str, int, str]:
    """Return whether it is https, host, port and path."""
    wrong = ValueError(f"`base_url` must be http(s)://host[:port][/path]; got {url!r}.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong
    if "@" in parts.netloc or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        # An address with a password in it must not be repeated.
        raise ValueError("`base_url` must be plain ASCII without user name, query or fragment; got one that is not.")
    secure = parts.scheme == "https"
    return secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/")


def _check(response: http.client.HTTPResponse, raw: bytes) -> None:
    """Raise a fault unless this is JSON of status 200."""
    status = response.status
    if 300 <= status < 400:
        raise _Fault(f"answered with a redirect (status {status}), which is not followed", passing=False)
    if status != 200:
        said = _short(raw[:2000].decode("utf-8", "replace"))
        wait = _retry_after(response.getheader("Retry-After")) if status in PASSING else None
        raise _Fault(f"answered with status {status} ({said})", passing=status in PASSING, wait=wait)
    kind = response.getheader("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/json"):
        raise _Fault(f"answered {_short(kind)} instead of application/json")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise _Fault("answered in a compressed form that was not asked for", passing=False)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most a minute; None without a usable one."""
    if value is None:
        return None
    try:
        seconds = (
            float(value)
            if value.strip().isdigit()
            else email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        )
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _short(text: str) -> str:
    """Return foreign text as one printable line of at most 200 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return line[:200] or "nothing said"
