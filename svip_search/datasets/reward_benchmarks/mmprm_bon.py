"""Best-of-N records of MM-PRM: many solutions of a question, cut into steps, and which are right.

One JSON list (or JSON lines): ``question, image_path, solutions_splits, labels`` and, in files of results,
``prm_scores``.  Traps of the format, each with a test:

- ``prm_scores`` are another model's rewards; they are not read.
- a solution may have no steps.  It keeps its place and can never be chosen.
- the pictures' folder is named apart, not in the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .._svip_check import RecordError
from ._shared import (
    CandidatesItem,
    Folder,
    OnError,
    find_files,
    flag_of,
    image_roots,
    list_of,
    name_of,
    pictures,
    read,
    refuse,
    step_texts,
    steps_of,
    text_of,
)  # fmt: skip


def load_mmprm_bon(
    data: Folder, *, images: Folder | None = None, on_error: OnError = None, check_images: bool = True
) -> list[CandidatesItem]:
    """Return questions with their solutions.

    Args:
        data: a JSON or JSON-lines file, or a folder of them; files that end in ``_score.json`` are results.
        images: where the pictures lie, if not beside the file.
        on_error: called for each record that cannot be used, which is then left out; by default it is raised.
        check_images: whether the pictures must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: nothing is there.

    Reference: Du et al., "MM-PRM", 2025, arXiv 2505.13427.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "k12.json"
        >>> _ = file.write_text(json.dumps([{"question": "2 + 3 = ?", "image_path": None, "labels": [0, 1],
        ...                                  "solutions_splits": [["6"], ["Add.", "5"]]}]))
        >>> load_mmprm_bon(file)[0].solutions
        (('6',), ('Add.', '5'))
    """
    files = find_files(data, ("*.json", "*.jsonl", "data/*.json", "data/*.jsonl"), "MM-PRM best-of-N records")
    files = [file for file in files if not file.stem.endswith("_score")] or files
    return read(files, partial(_item, images=images, check=check_images), on_error)


def _item(record: Mapping[str, Any], file: Path, index: int, images: Folder | None, check: bool) -> CandidatesItem:
    solutions = list_of(record, "solutions_splits")
    labels = list_of(record, "labels")
    if len(labels) != len(solutions):
        raise RecordError(f"`labels` must have one entry a solution, {len(solutions)}; got {len(labels)}.")
    right = tuple(flag_of(value, "labels") for value in labels)
    steps = tuple(_steps(value) for value in solutions)
    shown = pictures(record.get("image_path") or record.get("image"), image_roots(file, images), check)
    text = text_of(record, "question", "query_cot")
    return CandidatesItem(name_of(record, f"{file.stem}/{index}"), "all", text, shown, steps, right)


def _steps(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return steps_of(value) if value.strip() else ()
    if not isinstance(value, (list, tuple)):
        raise refuse("solutions_splits", "a list of solutions, each a list of texts", value)
    return step_texts(value, "solutions_splits")
