"""What a server takes from its clients at most, and how it refuses the rest."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import msgspec
import numpy as np

from .._images import MAX_PIXELS

T = TypeVar("T")
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_WHERE = re.compile(r" - at `(?:key in )?\$?\.?([^`]*)`$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may ask of a server, and what all may ask together.

    Args:
        body: bytes of a request's body, counted while it comes in.
        header: bytes of its header.
        depth: how deep its JSON may nest.
        values: numbers, texts, lists and objects in its JSON.
        messages: messages of a conversation.
        images: pictures of a question.
        pixels: of all pictures of a request together, read from their headers before any is decoded; each
            single picture has at most 33 megapixels (`svip_search._images.MAX_PIXELS`).
        n: choices of one request.
        items: questions of one request for rewards.
        paths: paths of one request for rewards.
        steps: steps of a path, or of the beginning that a policy is to continue.
        requests: requests at a time, those that wait and those that are still coming in included; one more
            is answered with 429.
        header_seconds: from the first byte of a request, or from connecting, to the end of its header.
        body_seconds: from there to the end of its body.
        seconds: from there to its answer.
        send_seconds: for a client to take what waits to be sent to it.

    Raises:
        ValueError: a limit is not positive.

    Example:
        >>> Limits(requests=8).body
        20971520
    """

    body: int = 20 << 20
    header: int = 16 << 10
    depth: int = 64
    values: int = 200_000
    messages: int = 256
    images: int = 16
    pixels: int = 2 * MAX_PIXELS
    n: int = 128
    items: int = 256
    paths: int = 4096
    steps: int = 1024
    requests: int = 256
    header_seconds: float = 15.0
    body_seconds: float = 30.0
    seconds: float = 600.0
    send_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (value := getattr(self, field.name)) > 0:
                raise ValueError(f"`{field.name}` must be positive; got {value!r}.")


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        message: one line that the client may read.
        param: the field that is to blame, None where none is.
        kind: the ``type`` of the error; default: by status.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.kind = kind or _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the answer as JSON."""
        return error_body(self.message, self.kind, self.param)


_KINDS = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "overloaded_error",
    504: "timeout_error",
}


class ClientGone(Exception):
    """The client has closed its connection: nobody reads an answer."""


def error_body(message: str, kind: str, param: str | None = None) -> bytes:
    """Return an error as JSON."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param}})


def check_most(value: int, limit: int, what: str, param: str) -> None:
    """Refuse more than a limit."""
    if value > limit:
        raise Refusal(400, f"`{param}` must have at most {limit} {what}; got {value}.", param)


async def read_body(receive: Receive, headers: Mapping[str, str], limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        Refusal: it is no plain JSON by its header (415), too large (413), or too slow (408).
        ClientGone: the client left before its end.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    # Also what keeps web pages out: a browser asks before it sends this type to another site.
    if kind != "application/json":
        raise Refusal(415, f"`content-type` must be application/json; got {kind[:80]!r}.")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refusal(415, "`content-encoding` is not supported: send the body as it is.")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limits.body:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            return await _read(receive, limits)
    except TimeoutError:
        raise Refusal(408, f"The body must be there within {limits.body_seconds:g} seconds.") from None


async def _read(receive: Receive, limits: Limits) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limits.body:
            raise _too_large(limits)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"The body must have at most {limits.body} bytes.")


def nesting(body: bytes) -> tuple[int, int]:
    r"""Return how deep the JSON in a body nests, and the most values it can hold.

    Brackets and commas within texts do not count.  What comes after the first error of the JSON is
    counted in some way or other.

    Example:
        >>> nesting(rb'{"a": [[1, 2], "[[[\"[["]}')
        (3, 6)
    """
    if b"\\" in body:  # pairs first, so that what then stands before a quote escapes it
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    data = np.frombuffer(body, np.uint8)
    outside = ~np.logical_xor.accumulate(data == ord('"')) if data.size else np.zeros(0, bool)
    # "[" and "{", "]" and "}" differ in one bit.
    opens, closes = ((data | 32 == ord(bracket)) & outside for bracket in "{}")
    brackets = np.flatnonzero(opens | closes)
    depth = int(np.cumsum(np.where(opens[brackets], 1, -1)).max(initial=0))
    return depth, 1 + int(opens.sum()) + int(((data == ord(",")) & outside).sum())


def decode(body: bytes, kind: type[T], limits: Limits) -> T:
    """Return a body as a value of some type.

    Raises:
        Refusal: it is no JSON, too deep, too long, or not of that type.
    """
    depth, values = nesting(body)
    if depth > limits.depth:
        raise Refusal(400, f"The JSON must nest at most {limits.depth} deep; got {depth}.")
    if values > limits.values:
        raise Refusal(400, f"The JSON must hold at most {limits.values} values.")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        where = _WHERE.search(message)
        param = where[1] if where else None
        raise Refusal(400, f"The request has another form than expected: {message[:500]}.", param or None) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refusal(400, f"The body must be JSON: {str(error)[:200]}.") from None
