"""What a record of SVIP must be, field by field."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .planning import FAMILIES

#: Of the format.
VERSION = 1


class RecordError(ValueError):
    """A record cannot be used; the message names the file, the line and the field."""


def _need(good: bool, name: str, requirement: str, got: Any) -> None:
    if not good:
        shown = repr(got)
        raise RecordError(f"`{name}` must be {requirement}; got {shown if len(shown) <= 80 else shown[:77] + '...'}.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_int(n) and n >= 0 for n in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


_TEXT = (lambda v: isinstance(v, str), "a text")
_WORD = (lambda v: isinstance(v, str) and bool(v.strip()), "a text that is not empty")
_TEXTS = (_is_texts, "a list of texts")
_LIST = (lambda v: isinstance(v, list), "a list")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": _WORD, "family": _TEXT, "question": _WORD, "options": _TEXTS,
    "answer": (lambda v: v is None or isinstance(v, str), "a text or null"),
    "images": _LIST, "program": _TEXTS, "results": _LIST, "errors": _TEXTS,
    "steps": (lambda v: _is_texts(v) and bool(v), "a list of at least one text"), "labels": _LIST,
    "outcome": (lambda v: _is_int(v) and v in (0, 1), "0 or 1"), "source": _WORD,
    "seed": (_is_int, "a whole number"), "generator": _TEXT, "sandbox": _TEXT,
}  # fmt: skip


def check(data: Any, folder: Path, check_images: bool) -> dict[str, Any]:
    """Return the fields of a record, lists as tuples, labels as an array and unknown fields under ``extra``.

    Raises:
        RecordError: a field is missing or not as it must be.
    """
    if not isinstance(data, dict):
        raise RecordError(f"a record must be a JSON object; got {type(data).__name__}.")
    _need(data.get("version") == VERSION, "version", str(VERSION), data.get("version", "none"))
    for name, (good, requirement) in _FIELDS.items():
        if name not in data:
            raise RecordError(f"`{name}` is missing.")
        _need(good(data[name]), name, requirement, data[name])
    if data["options"] and data["answer"] is not None:
        _need(data["answer"] in data["options"], "answer", f"one of {data['options']}", data["answer"])
    _check_lengths(data)
    for index, image in enumerate(data["images"]):
        _check_image(f"images[{index}]", image, folder if check_images else None)
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in _FIELDS}
    found["extra"] = {name: value for name, value in data.items() if name not in _FIELDS and name != "version"}
    rows = [row or [None] * 3 for row in data["labels"]]
    return found | {"labels": np.array([[math.nan if v is None else v for v in row] for row in rows], np.float32)}


def _check_lengths(data: dict[str, Any]) -> None:
    blocks, steps = len(data["program"]), len(data["steps"])
    for name in ("results", "errors"):
        _need(len(data[name]) == blocks, name, f"as long as `program`, {blocks}", len(data[name]))
    _need(blocks in (0, steps), "program", f"empty or as long as `steps`, {steps}", blocks)
    _need(len(data["labels"]) == steps, "labels", f"as long as `steps`, {steps}", len(data["labels"]))
    for index, row in enumerate(data["labels"]):
        good = row is None or (isinstance(row, list) and len(row) == 3 and all(map(_is_label, row)))
        _need(good, f"labels[{index}]", "null or three numbers in 0..1 (or null)", row)


def _is_label(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1)


def _check_image(name: str, image: Any, folder: Path | None) -> None:
    if isinstance(image, dict):
        kind = "plan" if "plan" in image else "puzzle"
        pixels, moves, families = image.get("pixels"), image.get("moves", [1, 1]), image.get("families", [*FAMILIES])
        good = _is_pair(image.get(kind)) and isinstance(pixels, int) and 1 <= pixels <= 4096
        _need(good, name, '{"puzzle" or "plan": [seed, index], "pixels": 1..4096}', image)
        good = _is_pair(moves) and 1 <= moves[0] <= moves[1]
        _need(good, name, '"moves": [least, most] where it has such', image)
        good = _is_texts(families) and bool(families) and set(families) <= FAMILIES.keys()
        _need(good, name, f'"families": some of {", ".join(FAMILIES)} where it has such', image)
        return
    inside = isinstance(image, str) and image != "" and not Path(image).is_absolute() and ".." not in Path(image).parts
    _need(inside, name, "a path below the folder of the file, or a puzzle", image)
    if folder is not None and not (folder / image).is_file():
        raise RecordError(f"`{name}`: there is no picture '{image}' in '{folder}'.")
