"""One self-contained page of labelled trajectories: picture, code, results, steps and labels.

As with the tree page, everything that a data set holds reaches the page through one block of JSON and is placed
by the script as text; a content security policy forbids every request.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from .._types import DIMENSIONS
from ..datasets.svip import SvipRecord
from .html import _clip, _data_url, _resource, _script_safe

#: Longest text of a field on the page.
_LONGEST = 20_000


def write_records(records: Iterable[SvipRecord], path: str | PathLike[str], title: str = "SVIP records") -> Path:
    """Write the page of some records to a file and return its path.

    Args:
        records: what to show; each picture is put into the page once.
        path: the file to write; its folder must exist.
        title: of the page.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.write_text(render_records(records, title), encoding="utf-8")
    return path


def render_records(records: Iterable[SvipRecord], title: str = "SVIP records") -> str:
    """Return the page of some records: one HTML text that needs no network and no other file.

    Args:
        records: what to show.
        title: of the page.

    Notes:
        A picture that cannot be read or drawn again is replaced by a note on the page.
    """
    data = records_data(records)
    parts = {
        "title": html.escape(_clip(title, 120)),
        "style": _resource("page.css") + _resource("records.css"),
        "plain": _plain(data),
        "data": _script_safe(data),
        "script": _resource("records.js"),
    }
    # One pass: a mark inside a foreign text is not filled in.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _resource("records.html"))


def records_data(records: Iterable[SvipRecord]) -> dict[str, Any]:
    """Return what the page shows, as plain JSON values (None for NaN); equal pictures are there once."""
    pictures: dict[str, Any] = {}
    shown = [_shown(record, pictures) for record in records]
    return {"dimensions": list(DIMENSIONS), "pictures": list(pictures.values()), "records": shown}


def _shown(record: SvipRecord, pictures: dict[str, Any]) -> dict[str, Any]:
    places = [_place(record, index, pictures) for index in range(len(record.images))]
    return {
        "id": record.id, "family": record.family, "question": _clip(record.question, _LONGEST),
        "options": list(record.options), "answer": record.answer, "outcome": record.outcome,
        "source": record.source, "sandbox": record.sandbox, "pictures": places,
        "steps": [_step(record, index) for index in range(len(record.steps))],
    }  # fmt: skip


def _place(record: SvipRecord, index: int, pictures: dict[str, Any]) -> int:
    """Return where the picture is in the list of pictures."""
    key = f"{record.folder} {record.images[index]} {record.generator}"
    if key not in pictures:
        try:
            pictures[key] = _data_url(record.to_question().images[index])
        except ValueError:  # drawn by another version
            pictures[key] = None
    return list(pictures).index(key)


def _step(record: SvipRecord, index: int) -> dict[str, Any]:
    labels = [None if math.isnan(v) else round(v, 4) for v in record.labels[index].tolist()]
    step: dict[str, Any] = {"text": _clip(record.steps[index], _LONGEST), "labels": labels}
    if record.program:
        step["code"] = _clip(record.program[index], _LONGEST)
        step["error"] = _clip(record.errors[index], _LONGEST)
        step["result"] = record.to_json()["results"][index]
    return step


def _plain(data: dict[str, Any]) -> str:
    """Return the chains for a reader without scripts."""
    parts = []
    for record in data["records"][:50]:
        steps = "".join(f"<li>{html.escape(_clip(step['text'], 500))}</li>" for step in record["steps"])
        parts.append(f"<h2>{html.escape(record['id'])}</h2><p>{html.escape(record['question'])}</p><ol>{steps}</ol>")
    return "".join(parts).encode("utf-8", "replace").decode("utf-8")
