"""MM-RLHF-RewardBench: chosen and rejected responses about pictures and films.

The layout is ``mm_reward_bench.jsonl`` beside its pictures.  Traps of the format, each with a test:

- several pairs share an id on purpose: ACC counts pairs, ACC+ counts ids of which every pair is right.
- the category is told by a word in the path of the picture or film.
- a film is a folder of frames; up to ``frames`` of them are shown, evenly spaced, first and last among them.
- ``chosen_reason`` and ``rejected_reason`` tell the answer and are never shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .._svip_check import RecordError
from ._shared import (
    Folder,
    OnError,
    PairItem,
    find_files,
    image_roots,
    name_of,
    pick,
    pictures,
    read,
    refuse,
    steps_of,
    text_of,
)  # fmt: skip

#: In the order in which the published script looks for them.
CATEGORIES = ("mcq", "long", "short", "safety", "video")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


@dataclass(frozen=True)
class RlhfPair(PairItem):
    """A pair, with the id that it shares with other pairs: ``question_id``."""

    question_id: str = ""


def load_mm_rlhf_rewardbench(
    data: Folder,
    *,
    images: Folder | None = None,
    frames: int = 32,
    on_error: OnError = None,
    check_images: bool = True,
) -> list[RlhfPair]:
    r"""Return the pairs of MM-RLHF-RewardBench; the first response of each is the better one.

    Args:
        data: the folder with ``mm_reward_bench.jsonl``, or a file.
        images: where the pictures and the folders of frames lie, if not beside the file.
        frames: most frames of a film.
        on_error: called for each record that cannot be used, which is then left out; by default it is raised.
        check_images: whether the pictures must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: nothing is there, or ``frames`` is below 1.

    Reference: Zhang et al., "MM-RLHF", 2025, arXiv 2502.10391.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "mm_reward_bench.jsonl"
        >>> _ = file.write_text(json.dumps({"id": 7, "image": "mcq/7.png", "prompt": "<image>\nWhich?",
        ...                                 "chosen": "B", "rejected": "A"}))
        >>> pair = load_mm_rlhf_rewardbench(file, check_images=False)[0]
        >>> pair.group, pair.text, pair.responses
        ('mcq', 'Which?', (('B',), ('A',)))
    """
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 1:
        raise ValueError(f"`frames` must be a positive integer; got {frames!r}.")
    places = ("mm_reward_bench.jsonl", "*.jsonl", "*.parquet", "data/*.parquet", "data/*.jsonl", "*.json")
    files = find_files(data, places, "MM-RLHF-RewardBench pairs")
    return read(files, partial(_item, images=images, frames=frames, check=check_images), on_error)


def _item(
    record: Mapping[str, Any], file: Path, index: int, images: Folder | None, frames: int, check: bool
) -> RlhfPair:
    both = []
    for name in ("chosen", "rejected"):
        value = pick(record, name)
        if not isinstance(value, str):
            raise refuse(name, "a text", value)
        both.append(steps_of(value))
    roots = image_roots(file, images)
    shown = pictures(record.get("image") or None, roots, check)
    film = record.get("video") or None
    if film is not None and not shown:
        shown = _frames(film, roots, frames, check)
    question_id = name_of(record, str(index))
    text = text_of(record, "prompt", "question")
    return RlhfPair(question_id, _category(record), text, shown, (both[0], both[1]), 0, question_id)


def _category(record: Mapping[str, Any]) -> str:
    where = " ".join(str(value) for name in ("image", "video") if isinstance(value := record.get(name), str))
    given = record.get("category")
    found = next((word for word in CATEGORIES if word in where), None)
    return found or (given if isinstance(given, str) and given else "other")


def _frames(film: Any, roots: list[Path], most: int, check: bool) -> tuple[Any, ...]:
    [folder] = pictures(film, roots, check, "video") if isinstance(film, str) else [film]
    if not isinstance(folder, str) or (check and not Path(folder).is_dir()):
        raise refuse("video", "a folder of frames", film)
    if not check:
        return (folder,)
    found = sorted(str(p) for p in Path(folder).iterdir() if p.suffix.lower() in _PICTURES)
    if not found:
        raise RecordError(f"`video` must be a folder of frames; '{folder}' holds no picture.")
    places = np.linspace(0, len(found) - 1, min(most, len(found))).astype(int)
    return tuple(found[i] for i in places)
