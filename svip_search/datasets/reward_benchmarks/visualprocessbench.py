"""VisualProcessBench: chains of thought whose every step people held to be right, neutral or wrong.

The layout is ``test.jsonl`` beside ``images/``.  Traps of the format, each with a test:

- ``response`` is an object of ``steps`` and ``process_correctness``; tables keep it as JSON text, copies name
  its parts otherwise or make it a list of objects.
- a label is 1 (right), 0 (neutral) or -1 (wrong): reading 0 as wrong would be an error. Neutral steps are kept
  in the chain and left out of the figures.
- every wrong step counts, not the first alone.
- ``answer`` must not be shown to the model that judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._svip_check import RecordError
from ._shared import (
    Folder,
    OnError,
    StepsItem,
    find_files,
    from_text,
    image_roots,
    list_of,
    name_of,
    pick,
    pictures,
    read,
    refuse,
    step_texts,
    text_of,
)  # fmt: skip

_STEPS = ("steps", "step_list", "step", "text")
_LABELS = ("process_correctness", "step_correctness", "correctness", "labels", "label")
#: How a label is written.
_MEANING = {
    "1": True, "+": True, "correct": True, "positive": True, "0": None, "neutral": None,
    "-1": False, "-": False, "incorrect": False, "negative": False,
}  # fmt: skip


def load_visualprocessbench(
    data: Folder, *, images: Folder | None = None, on_error: OnError = None, check_images: bool = True
) -> list[StepsItem]:
    """Return the chains of VisualProcessBench; a step is right, wrong, or neutral (None).

    Args:
        data: the folder with ``test.jsonl``, or a file.
        images: where the pictures lie, if not beside the file.
        on_error: called for each record that cannot be used, which is then left out; by default it is raised.
        check_images: whether the pictures must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: nothing is there.

    Reference: Wang et al., "VisualPRM", 2025, arXiv 2503.10291.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "test.jsonl"
        >>> record = {"image": [], "question": "2 + 3 = ?", "answer": "5", "data_source": "MMMU",
        ...           "response": {"steps": ["Add.", "Well.", "6"], "process_correctness": [1, 0, -1]}}
        >>> _ = file.write_text(json.dumps(record))
        >>> load_visualprocessbench(file)[0].right
        (True, None, False)
    """
    places = ("test.jsonl", "test*.jsonl", "*.jsonl", "data/test*.parquet", "*.parquet", "*.json", "data/*.jsonl")
    files = find_files(data, places, "VisualProcessBench records")
    return read(files, partial(_item, images=images, check=check_images), on_error)


def _item(record: Mapping[str, Any], file: Path, index: int, images: Folder | None, check: bool) -> StepsItem:
    steps, labels = _response(record)
    if len(steps) != len(labels):
        raise RecordError(f"`process_correctness` must have one entry a step, {len(steps)}; got {len(labels)}.")
    source = record.get("data_source") or record.get("source") or "all"
    shown = pictures(record.get("image", record.get("images")), image_roots(file, images), check)
    right = tuple(_label(value) for value in labels)
    name = name_of(record, f"{source}/{index}")
    return StepsItem(name, str(source), text_of(record, "question"), shown, step_texts(steps, "steps"), right)


def _response(record: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return steps and labels, wherever the record has them."""
    response: Any = record.get("response")
    if isinstance(response, str):
        response = from_text(response)
    if isinstance(response, Mapping):
        return list_of(response, *_STEPS), list_of(response, *_LABELS)
    if isinstance(response, list) and response and all(isinstance(step, Mapping) for step in response):
        return [pick(step, *_STEPS) for step in response], [pick(step, *_LABELS) for step in response]
    if isinstance(response, list) and any(name in record for name in _LABELS):
        return response, list_of(record, *_LABELS)
    if response is None and any(name in record for name in _STEPS):
        return list_of(record, *_STEPS), list_of(record, *_LABELS)
    if response is None:
        raise RecordError("`response` is missing.")
    raise refuse("response", "an object of `steps` and `process_correctness`", response)


def _label(value: Any) -> bool | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value).strip().lower()
    if isinstance(value, bool) or not isinstance(value, (int, str)) or word not in _MEANING:
        raise refuse("process_correctness", "1, 0 or -1", value)
    return _MEANING[word]
