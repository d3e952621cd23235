"""Questions of a run: one JSON object a line, read as a stream.

============ ======================================================== =========================
field        meaning
============ ======================================================== =========================
question     text of the question (or ``text``)                       required
images       list of paths, relative to the file (or ``image``)       optional
videos       the same for videos (or ``video``)                       optional
options      admissible answers, texts or numbers                     optional
answer       the true answer; no model sees it                        optional
id           name of the question, a text or a whole number           a digest of the line
seed         of this question's search                                made from the run's and id
============ ======================================================== =========================

Other fields are ignored.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from .._types import Question

#: A longer line is no question: pictures are given by their paths.
MAX_LINE = 4 << 20
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_NAMES = {"question": ("question", "text"), "images": ("images", "image"), "videos": ("videos", "video")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a file of questions.

    Args:
        id: of the question.
        hash: digest of everything the line says of it.
        payload: what `as_question` makes the question from; plain JSON values.
        line: its number, from 1.
    """

    id: str
    hash: str
    payload: dict[str, Any]
    line: int


def read_questions(path: str | PathLike[str], *, check: bool = False) -> Iterator[Entry]:
    """Yield the questions of a JSON-lines file, in their order.

    Args:
        path: the file, in UTF-8, with or without a byte order mark; blank lines are skipped.
        check: also see whether pictures and videos exist, which otherwise turns out when their turn comes.

    Raises:
        ValueError: a line cannot be used, or two have the same id (known at the end alone); the message
            names the file, the line and the field.
        OSError: the file cannot be read.

    Notes:
        Memory is eight bytes a line, however large the file is.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "questions.jsonl"
        >>> _ = file.write_text('{"id": "sum", "question": "2 + 2 = ?", "options": [3, 4]}')
        >>> [(entry.id, as_question(entry.payload, file.parent).options) for entry in read_questions(file)]
        [('sum', ('3', '4'))]
    """
    digests = array("Q")
    folder = Path(path).parent
    for entry in _entries(path):
        if check:
            _check_files(entry, path, folder)
        digests.append(_short(entry.id))
        yield entry
    _check_ids(path, digests)


def as_question(payload: Mapping[str, Any], folder: str | PathLike[str] = "", id: str = "") -> Question:
    """Return the question of an `Entry`'s payload, its paths taken from ``folder``; nothing is opened."""
    images: list[Any] = [os.path.join(folder, name) for name in payload.get("images", ())]
    if payload.get("videos"):
        from .._video import Video

        images += [Video(os.path.join(folder, name)) for name in payload["videos"]]
    return Question(payload["question"], images, payload.get("options", ()), payload.get("answer"), id)


def missing_files(payload: Mapping[str, Any], folder: str | PathLike[str]) -> list[str]:
    """Return the pictures and videos of a payload that are not there."""
    gone = [name for name in payload.get("images", ()) if not os.path.isfile(os.path.join(folder, name))]
    return gone + [name for name in payload.get("videos", ()) if not os.path.exists(os.path.join(folder, name))]


def _fail(path: str | PathLike[str], line: int, reason: str) -> NoReturn:
    raise ValueError(f"'{os.fspath(path)}', line {line}: {reason}.") from None


def _entries(path: str | PathLike[str]) -> Iterator[Entry]:
    with open(path, "rb") as stream:
        for number, raw, whole in _lines(stream, path):
            try:
                record = json.loads(raw.decode("utf-8"), parse_constant=_no_number)
                entry = _entry(record, number)
            except UnicodeDecodeError as error:
                _fail(path, number, f"must be UTF-8; byte {error.start + 1} of the line is not ({error.reason})")
            except json.JSONDecodeError as error:
                cut = "" if whole else "; the file ends in the middle of a line"
                _fail(path, number, f"must be JSON; {error.msg} at character {error.pos + 1}{cut}")
            except RecursionError:
                _fail(path, number, "must not be nested so deeply")
            except (ValueError, TypeError) as error:
                _fail(path, number, str(error).rstrip("."))
            yield entry


def _lines(stream: IO[bytes], path: str | PathLike[str]) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number and bytes of each line that is not blank, and whether it has an end."""
    number = 0
    while raw := stream.readline(MAX_LINE + 1):
        number += 1
        if number == 1 and raw.startswith(_UTF16):
            _fail(path, 1, "must be UTF-8; the file begins like UTF-16")
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if len(raw) > MAX_LINE:
            _fail(path, number, f"must not be longer than {MAX_LINE >> 20} MiB; pictures are given by their paths")
        if raw.strip():
            yield number, raw, raw.endswith(b"\n")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"must hold numbers JSON knows; got {text}")


def _entry(record: Any, number: int) -> Entry:
    if not isinstance(record, dict):
        raise ValueError(f"must hold a JSON object; got {type(record).__name__}")
    payload = _payload(record)
    Question(payload["question"], (), payload.get("options", ()))  # complains of what it cannot take
    text = json.dumps(payload, sort_keys=True, ensure_ascii=False)
    try:
        digest = blake2b(text.encode("utf-8"), digest_size=16).hexdigest()
    except UnicodeEncodeError:
        raise ValueError("must hold whole characters; half of a surrogate pair is none") from None
    return Entry(_id(record.get("id"), digest), digest, payload, number)


def _payload(record: dict[str, Any]) -> dict[str, Any]:
    text = _one(record, "question")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"`question` must be a non-empty text; got {_shown(text)}")
    payload: dict[str, Any] = {"question": text}
    for name in ("images", "videos"):
        if paths := _paths(name, _one(record, name)):
            payload[name] = paths
    options = record.get("options")
    if options is not None and not isinstance(options, list):
        raise ValueError(f"`options` must be a list; got {_shown(options)}")
    if options:
        payload["options"] = [_word("options", option) for option in options]
    if record.get("answer") is not None:
        payload["answer"] = _word("answer", record["answer"])
    if (seed := record.get("seed")) is not None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(1 << 63) <= seed < 1 << 63:
            raise ValueError(f"`seed` must be a whole number of 64 bits; got {_shown(seed)}")
        payload["seed"] = seed
    return payload


def _one(record: dict[str, Any], name: str) -> Any:
    """Return a field that has two names."""
    given = [record[n] for n in _NAMES[name] if record.get(n) is not None]
    if len(given) > 1:
        raise ValueError(f"only one of `{'` and `'.join(_NAMES[name])}` may be given")
    return given[0] if given else None


def _paths(name: str, value: Any) -> list[str]:
    paths = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(p, str) and p and "\0" not in p for p in paths):
        raise ValueError(f"`{name}` must be a list of paths; got {_shown(value)}")
    for path in paths:
        if path.startswith(("http://", "https://", "data:")):
            raise ValueError(f"`{name}` must be paths of files, not addresses; got {_shown(path)}")
    return paths


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"`{name}` must hold texts or numbers; got {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):  # 1e999 is JSON
        raise ValueError(f"`{name}` must hold numbers JSON knows; got {value}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _id(value: Any, digest: str) -> str:
    if value is None:
        return digest
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError(f"`id` must be a non-empty text or a whole number; got {_shown(value)}")
    text = str(value)
    if len(text) > 1000 or not text.isprintable():
        raise ValueError(f"`id` must be at most 1,000 printable characters; got {_shown(value)}")
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_files(entry: Entry, path: str | PathLike[str], folder: Path) -> None:
    for name in missing_files(entry.payload, folder):
        field = "images" if name in entry.payload.get("images", ()) else "videos"
        _fail(path, entry.line, f"`{field}` must be files that exist; there is no '{folder / name}'")


def _short(id: str) -> int:
    return int.from_bytes(blake2b(id.encode("utf-8"), digest_size=8).digest(), "little")


def _check_ids(path: str | PathLike[str], digests: array[int]) -> None:
    """Complain of the first id that two lines have; only where there may be one is the file read again."""
    values, counts = np.unique(np.frombuffer(digests, np.uint64) if digests else np.empty(0), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    seen: dict[str, int] = {}
    for entry in _entries(path) if suspects else ():
        if _short(entry.id) not in suspects:
            continue
        if entry.id in seen:
            _fail(path, entry.line, f"`id` must differ from line to line; line {seen[entry.id]} has {entry.id!r} too")
        seen[entry.id] = entry.line
