"""How values lie in a journal: JSON texts and blobs, each with a checksum, as SQLite's pages have none."""

from __future__ import annotations

import json
import zlib
from typing import Any

from .._errors import JournalError
from ._errors import damaged

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_ENCODE_ASCII = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_PACK_FROM = 1024  # bytes; shorter calls are not worth the time of compressing them


def dumped(argument: str, value: Any) -> str:
    """Return a value as JSON text that is valid UTF-8, also where its texts have lone surrogates.

    Raises:
        ValueError: names the argument, if the value is not JSON-able.
    """
    try:
        text = _ENCODE(value)
        return text if encodable(text) else _ENCODE_ASCII(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`{argument}` must be JSON-able; {error}") from error


def loaded(path: str, id: str, text: str, checksum: int) -> Any:
    """Return the value of a JSON text of an item.

    Raises:
        JournalError: if the text is not what was written for this item.
    """
    if sum_of(id, text) != checksum:
        raise _changed(path, f"item {id!r}")
    return json.loads(text)


def sum_of(id: str, text: str) -> int:
    """Return the checksum of what belongs to an item, another one for every item."""
    return zlib.crc32(text.encode(), zlib.crc32(id.encode()))


def to_call(key: str, value: bytes) -> tuple[bytes, int, int]:
    """Return (value, packed, checksum) as stored; long ones are compressed where that makes them shorter."""
    checksum = zlib.crc32(value, zlib.crc32(key.encode()))
    if len(value) >= _PACK_FROM and len(packed := zlib.compress(value, 1)) < len(value):
        return packed, 1, checksum
    return bytes(value), 0, checksum


def from_call(path: str, key: str, value: bytes, packed: int, checksum: int) -> bytes:
    """Return a cached value as it was given.

    Raises:
        JournalError: if it is not what was written for this key.
    """
    try:
        plain = zlib.decompress(value) if packed else value
    except zlib.error as error:
        raise _changed(path, f"call {key!r}") from error
    if zlib.crc32(plain, zlib.crc32(key.encode())) != checksum:
        raise _changed(path, f"call {key!r}")
    return plain


def encodable(text: str) -> bool:
    """Return whether a text can be stored: a lone surrogate, which JSON can spell, has no UTF-8."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def storable(text: str) -> str:
    """Return a text with what has no UTF-8 replaced."""
    return text if encodable(text) else text.encode(errors="backslashreplace").decode()


def _changed(path: str, what: str) -> JournalError:
    return damaged(path, f"the contents of {what} are not what was written")
