"""VLRMBench: twelve tasks about the steps and the outcome of chains of thought, one JSON-lines file a task.

The layout is that of the repository: ``benchmark_data/<task>.jsonl`` and pictures in ``meta_data/Image``;
the files alone, or one of them, will do.  Traps of the format, each with a test:

- the chain to judge is ``reasoning_error``, one text cut by ``STEP<k>:``.  ``step_list`` is the untouched
  original, and comparing the two would give the labels away; only ``multi_solution`` (two solutions, the
  original is the better one) and those records of ``foresight`` without ``reasoning_error`` use it.
- in ``task_gt`` a 1 is an error, a 0 a right step.
- edited steps end in other line breaks than untouched ones, so white space is made plain.
- records with ``error_info`` were left out by the authors.
- ``error_reason_analysis`` and ``error_correction`` ask for text, which a reward model does not write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .._svip_check import RecordError
from ._shared import (
    Folder,
    Item,
    OnError,
    PairItem,
    PrefixItem,
    StepsItem,
    find_files,
    flag_of,
    image_roots,
    list_of,
    marked_steps,
    name_of,
    pick,
    pictures,
    plain_step,
    read,
    refuse,
    step_texts,
    text_of,
)  # fmt: skip

#: Which reward speaks about the errors of a task; the others are judged by the value of a step.
DIMENSION_OF = {
    "redundant_det": "relevance",
    "step_correctness": "logic",
    "attribute_hallucination": "attribute",
    "detail_error": "attribute",
}
STEP_TASKS = (
    "step_correctness", "redundant_det", "most_confidence", "existence_hallucination", "attribute_hallucination",
    "detail_error", "location_error", "image_ref_error",
)  # fmt: skip
TASKS = (*STEP_TASKS, "multi_solution", "foresight")
#: Tasks whose answers are texts.
WRITTEN = ("error_reason_analysis", "error_correction")

_STEP = re.compile(r"STEP\s*(\d+)\s*:")
_STEP_OF_A_LINE = re.compile(r"(?m)^\s*STEP\s*(\d+)\s*:")


def load_vlrmbench(
    data: Folder,
    tasks: Sequence[str] = (),
    *,
    images: Folder | None = None,
    on_error: OnError = None,
    check_images: bool = True,
) -> list[Item]:
    r"""Return the records of VLRMBench: `StepsItem`, of ``multi_solution`` `PairItem`, of ``foresight`` `PrefixItem`.

    Args:
        data: the repository, its ``benchmark_data``, or one file.
        tasks: which of `TASKS`; all that are there by default.
        images: where the pictures lie, if not in ``meta_data/Image``.
        on_error: called for each record that cannot be used, which is then left out; by default it is raised.
        check_images: whether the pictures must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: nothing is there, or a task is unknown.

    Reference: Ruan et al., "VLRMBench", ICCV 2025, arXiv 2503.07478.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "step_correctness.jsonl"
        >>> record = {"id": "a", "image": [], "question": "2 + 3 = ?", "task_gt": [0, 1],
        ...           "reasoning_error": "STEP1: Add them.\n\nSTEP2: It is 6."}
        >>> _ = file.write_text(json.dumps(record))
        >>> load_vlrmbench(file)[0].steps, load_vlrmbench(file)[0].right
        (('Add them.', 'It is 6.'), (True, False))
    """
    for task in tasks:
        if task not in TASKS:
            text = " (its answers are texts)" if task in WRITTEN else ""
            raise ValueError(f"`tasks` must be among {', '.join(TASKS)}; got {task!r}{text}.")
    places = ("benchmark_data/*.jsonl", "*.jsonl", "data/*.jsonl", "*/benchmark_data/*.jsonl", "*.json")
    files = find_files(data, places, "VLRMBench tasks")
    wanted = [file for file in files if file.stem in (tasks or TASKS) or len(files) == 1]
    missing = sorted(set(tasks) - {file.stem for file in wanted}) if len(files) > 1 else []
    if missing or not wanted:
        raise ValueError(f"`data` must hold <task>.jsonl; '{data}' has no {', '.join(missing) or 'task of VLRMBench'}.")
    return read(wanted, partial(_item, wanted=tuple(tasks or TASKS), images=images, check=check_images), on_error)


def _item(
    record: Mapping[str, Any], file: Path, index: int, wanted: Sequence[str], images: Folder | None, check: bool
) -> Item | None:
    if "error_info" in record:
        return None
    task = file.stem if file.stem in TASKS else record.get("category") or record.get("task")
    if task in WRITTEN:
        return None
    if task not in TASKS:
        raise refuse("category", f"one of {', '.join(TASKS)}, as the file's name is none", task)
    if task not in wanted:
        return None
    name, text = f"{task}/{name_of(record, str(index))}", text_of(record, "question")
    shown = pictures(record.get("image", record.get("images")), image_roots(file, images), check)
    if task == "multi_solution":
        both = (_solution(record, "step_list"), _solution(record, "reasoning_error"))
        return PairItem(name, task, text, shown, both, 0)
    if task == "foresight":
        field = "reasoning_error" if record.get("reasoning_error") is not None else "step_list"
        return PrefixItem(
            name, task, text, shown, _solution(record, field), flag_of(pick(record, "task_gt"), "task_gt")
        )
    labels = list_of(record, "task_gt")
    steps = _solution(record, "reasoning_error", len(labels))
    if len(labels) != len(steps):
        raise RecordError(
            f"`task_gt` must have one entry a step of `reasoning_error`, {len(steps)}; got {len(labels)}."
        )
    return StepsItem(name, task, text, shown, steps, tuple(not flag_of(v, "task_gt") for v in labels))


def _solution(record: Mapping[str, Any], field: str, count: int = 0) -> tuple[str, ...]:
    """Return the steps of a field that is one text with marks or a list of steps, without ``STEP<k>:``.

    A step may quote a mark.  Those at the beginning of a line are trusted, unless that gives another ``count``.
    """
    value = pick(record, field)
    if isinstance(value, str):
        if not value.strip():
            raise refuse(field, "a text that is not empty", value)
        found = [marked_steps(value, mark) for mark in (_STEP_OF_A_LINE, _STEP)]
        steps = next((steps for steps in found if len(steps) == count), found[0] or found[1])
        return step_texts(steps or [value], field)
    if not isinstance(value, (list, tuple)) or not value:
        raise refuse(field, "a text or a list of steps", value)
    return tuple(plain_step(_STEP.sub("", step, count=1)) for step in step_texts(value, field))
