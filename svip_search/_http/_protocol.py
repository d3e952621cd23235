"""What goes over the wire: addresses, answers in full or refused, and foreign text made harmless."""

from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from ._limits import retry_after

if TYPE_CHECKING:
    from aiohttp import ClientResponse

T = TypeVar("T")
Kind = Literal[
    "connection", "timeout", "status", "redirect", "size", "type", "encoding", "json", "form", "unavailable", "budget"
]

#: Statuses after which the same request may well succeed.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Statuses that say: fewer at once.
OVERLOAD = frozenset({429, 503})
_PATH = re.compile(r"(/[A-Za-z0-9_~:-][A-Za-z0-9._~:-]*)+")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class HttpFault(Exception):
    """Why a call failed: the ``__cause__`` of the error that `HttpClient` raises.

    Attributes:
        kind: ``"connection"`` (refused, broken, not HTTP), ``"timeout"``, ``"status"``, ``"redirect"``,
            ``"size"`` (more than ``max_bytes``), ``"type"`` (not application/json), ``"encoding"``
            (compressed in a way that was not asked for, or damaged), ``"json"`` (not JSON), ``"form"``
            (``read`` raised ValueError), ``"unavailable"`` (no server may be asked), ``"budget"``
            (too many retries already).
        status: of the answer, None without one.
        passing: whether another try may get a better answer.
        wait: seconds that the server asked to be left alone.
    """

    def __init__(
        self, message: str, kind: Kind, *, status: int | None = None, passing: bool = True, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.kind, self.status, self.passing, self.wait = kind, status, passing, wait


@dataclass(frozen=True)
class Address:
    """One base address."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as errors name them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole of it, without a slash at the end."""
        return f"{'https' if self.secure else 'http'}://{self.authority}{self.path}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the parts of ``http(s)://host[:port][/path]``.

        Raises:
            ValueError: it is not such an address.
        """
        wrong = ValueError(f"`base_url` must be http(s)://host[:port][/path]; got {url!r}.")
        try:
            parts = urlsplit(url)
            port = parts.port
        except (ValueError, TypeError, AttributeError):
            raise wrong from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise wrong
        if "@" in parts.netloc or not re.fullmatch(r"[!-~]+", url) or set(url) & set("?#\\"):
            # An address with a password in it must not be repeated.
            raise ValueError(
                "`base_url` must be plain ASCII without user name, query or fragment; got one that is not."
            )
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"))


def check_path(path: str) -> None:
    """Raise unless a path can neither leave the base address nor add to the request."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"`path` must be like '/chat/completions'; got {path!r}.")


def short(text: str) -> str:
    """Return foreign text as one printable line of at most 200 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:1000]).split())
    return line[:200] or "nothing said"


class Scrubber:
    """Takes a secret out of foreign text, however it is written there."""

    def __init__(self, secret: str | None) -> None:
        forms = {secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe="")} if secret else set()
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return foreign text as one short line without the secret."""
        return short(self._without(short(self._without(text))))

    def _without(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, "***")
        return text


async def read_body(response: ClientResponse, max_bytes: int) -> bytes:
    """Return the body of an answer, decompressed, after at most ``max_bytes`` of it.

    Raises:
        HttpFault: there is more, or it cannot be decompressed.
    """
    unpack = _unpacker(response.headers.get("Content-Encoding"))
    if (response.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    content = response.content
    piece = await content.readany()
    if unpack is None and content.at_eof() and len(piece) <= max_bytes:
        return piece  # what nearly every answer is
    pieces, size, packed = [], 0, 0
    while piece:
        packed += len(piece)
        part = piece if unpack is None else _unpacked(unpack, piece, max_bytes - size + 1)
        size += len(part)
        if max(size, packed) > max_bytes:
            raise _too_large(max_bytes)
        pieces.append(part)
        piece = await content.readany()
        if unpack is not None:
            await asyncio.sleep(0)  # decompressing holds the event loop
    if unpack is not None and packed and not (unpack.eof and not unpack.unused_data):
        raise HttpFault("answered with damaged compressed data", "encoding", status=response.status)
    return b"".join(pieces)


def _too_large(max_bytes: int) -> HttpFault:
    return HttpFault(f"answered more than {max_bytes} bytes", "size", passing=False)


def _unpacker(encoding: str | None) -> Any:
    """Return what decompresses an answer, None for plain ones."""
    name = (encoding or "identity").strip().lower()
    if name in ("identity", ""):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)  # either header
    raise HttpFault("answered in a compressed form that was not asked for", "encoding", passing=False)


def _unpacked(unpack: Any, piece: bytes, most: int) -> bytes:
    try:
        return bytes(unpack.decompress(piece, most))
    except zlib.error:
        raise HttpFault("answered with damaged compressed data", "encoding") from None


def refusal(response: ClientResponse, raw: bytes, clean: Callable[[str], str]) -> HttpFault:
    """Return the fault of an answer whose status is not 200, and whose body is ``raw``."""
    status = response.status
    if 300 <= status < 400:
        said = f"answered with a redirect (status {status}), which is not followed"
        return HttpFault(said, "redirect", status=status, passing=False)
    passing = status in PASSING
    wait = retry_after(response.headers.get("Retry-After"), time.time()) if passing else None
    said = f"answered with status {status} ({clean(raw.decode('utf-8', 'replace'))})"
    return HttpFault(said, "status", status=status, passing=passing, wait=wait)


def check_type(response: ClientResponse, clean: Callable[[str], str]) -> None:
    """Raise unless an answer says that it is JSON, or says nothing."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/json"):
        raise HttpFault(f"answered {clean(kind)} instead of application/json", "type", status=response.status)


def parse(raw: bytes, read: Callable[[Any], T], clean: Callable[[str], str], passed: tuple[type[Exception], ...]) -> T:
    """Return ``read(JSON)``.

    Args:
        raw: the body.
        read: checks the form and takes out what is wanted.
        clean: makes foreign text harmless.
        passed: errors of ``read`` that are no faults, though they may be ValueErrors.
    """
    kind: Kind = "json"
    try:
        value = json.loads(raw.decode())
        if _SURROGATE.search(raw):  # half a character, that no file and no other server takes
            json.dumps(value, ensure_ascii=False).encode()
        kind = "form"
        return read(value)
    except passed:
        raise
    except (ValueError, RecursionError) as error:
        said = clean(str(error))
    raise HttpFault(f"answered something else than was asked for ({said})", kind, status=200)
