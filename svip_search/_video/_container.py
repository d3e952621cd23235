"""What kind of file a video is, told from its bytes, and whether the end of it is there.

Only files whose first bytes are those of a container that is meant reach the decoder.  Playlists and scripts,
which would make it open other files and addresses, do not.
"""

from __future__ import annotations

from typing import BinaryIO

from .._errors import ImageError

_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MOST_PARTS = 1_000_000


def container(stream: BinaryIO, name: str) -> str | None:
    """Return ``"mp4"`` (or MOV), ``"avi"``, ``"mkv"`` (or WebM), or None for any other file.

    Raises:
        ImageError: the file is one of these or a GIF, but ends before it should.
    """
    kind: str | None
    head = stream.read(12)
    size = stream.seek(0, 2)
    stream.seek(0)
    if head[4:8] in _BOXES:
        kind, end = "mp4", _boxes_end(stream, size)
    elif head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        kind, end = "avi", _riff_end(stream, size)
    elif head[:4] == _EBML:
        kind, end = "mkv", _matroska_end(stream, size)
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        kind, end = None, _gif_end(stream, size)
    else:
        return None
    if end > size:
        raise ImageError(f"Cannot read video {name}: it is truncated: {size} bytes, and at least {end} are announced.")
    stream.seek(0)
    return kind


def _boxes_end(stream: BinaryIO, size: int) -> int:
    """Return where the boxes of an MP4 file end by what they say of themselves (ISO/IEC 14496-12, 4.2)."""
    place = 0
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        head = stream.read(16)
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8 or length == 0:  # to the end of the file, or filling behind the last box
            return size
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:
            return size
        place += length
        if place >= size:
            break
    return place


def _riff_end(stream: BinaryIO, size: int) -> int:
    """Return where the chunks of an AVI file end; large files have several."""
    place = 0
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        head = stream.read(8)
        length = int.from_bytes(head[4:8], "little")
        if len(head) < 8 or head[:4] != b"RIFF" or length == 0:  # zero: its writer could not go back
            return size
        place += 8 + length
        if place >= size:
            break
    return place


def _matroska_end(stream: BinaryIO, size: int) -> int:
    """Return where the segment of a Matroska file ends; one that was streamed does not say (RFC 8794)."""
    place = 0
    for _ in range(8):
        stream.seek(place)
        head = stream.read(12)
        length, bytes_of_length = _vint(head[4:])
        if len(head) < 5 or length is None or head[:1] < b"\x10":
            return size
        place += 4 + bytes_of_length + length
        if head[:4] == _SEGMENT or place > size:
            return place
    return size


def _gif_end(stream: BinaryIO, size: int) -> int:
    """Return where the blocks of a GIF file end: Pillow takes one that was cut off for a shorter film."""
    stream.seek(10)
    place = 13 + _color_table(stream.read(1))
    while place < size:
        stream.seek(place)
        head = stream.read(10)
        if head[:1] == b"\x2c":  # a picture: its place, its colours, the size of its codes
            place += 11 + _color_table(head[9:10])
        elif head[:1] == b"\x21":  # an extension and its label
            place += 2
        else:  # the end, or what Pillow does not read either
            return size
        stream.seek(place)
        while place < size and (length := int.from_bytes(stream.read(1), "little")):
            place += 1 + length
            stream.seek(length, 1)
        place += 1
    return max(place, size + 1)  # the mark of the end is missing


def _color_table(flags: bytes) -> int:
    """Return the bytes that a table of colours takes."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _vint(data: bytes) -> tuple[int | None, int]:
    """Return a number of variable size and how many bytes it takes; None where it is unknown or none."""
    if not data or not data[0]:
        return None, 1
    count = 9 - data[0].bit_length()
    value = int.from_bytes(data[:count], "big") & ((1 << 7 * count) - 1)
    unknown = len(data) < count or value == (1 << 7 * count) - 1
    return (None if unknown else value), count
