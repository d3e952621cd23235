"""VL-RewardBench: pairs of responses, ranked by people, in three groups.

The layout is ``data/data.jsonl`` beside ``data/images/``, or a Parquet file that holds the pictures.
Traps of the format, each with a test:

- a rank of 0 is the better response: ``human_ranking`` is no index and no score.
- the first response is the better one in nearly all records, so whoever breaks ties by place must shuffle.
- ids are not unique.
- the Parquet file has no ``image_path``, from which the group is read; there the beginning of the id tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ._shared import (
    Folder,
    OnError,
    PairItem,
    find_files,
    image_roots,
    list_of,
    name_of,
    pictures,
    read,
    refuse,
    steps_of,
    text_of,
)  # fmt: skip

GROUPS = ("general", "hallucination", "reasoning")
#: The group of a source, as the published script has it.
_GROUP = {
    "vlfeedback": "general", "wildvision-battle": "general", "povid": "hallucination", "rlhf-v": "hallucination",
    "rlaif-v": "hallucination", "reasoning_tasks": "reasoning",
}  # fmt: skip
#: The group that the beginning of an id tells; all others are of VLFeedback.
_BEGINNING = {
    "rlaif": "hallucination", "rlhf": "hallucination", "povid": "hallucination", "hallucination": "hallucination",
    "mathverse": "reasoning", "mmmu": "reasoning", "wildvision": "general",
}  # fmt: skip


def load_vl_rewardbench(
    data: Folder, *, images: Folder | None = None, on_error: OnError = None, check_images: bool = True
) -> list[PairItem]:
    """Return the pairs of VL-RewardBench in the order of the file.

    Args:
        data: the repository, its ``data`` folder, or one JSON-lines or Parquet file.
        images: where the pictures lie, if not beside the file.
        on_error: called for each record that cannot be used, which is then left out; by default it is raised.
        check_images: whether the pictures must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: nothing is there.

    Reference: Li et al., "VL-RewardBench", CVPR 2025, arXiv 2411.17451.

    Example:
        >>> import json, pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "data.jsonl"
        >>> _ = file.write_text(json.dumps({"id": "RLAIF-V-14", "image": None, "query": "What is it?",
        ...                                 "response": ["A dog.", "A cat."], "human_ranking": [1, 0]}))
        >>> pair = load_vl_rewardbench(file)[0]
        >>> pair.group, pair.responses[pair.better]
        ('hallucination', ('A cat.',))
    """
    places = ("data/data.jsonl", "data.jsonl", "data/test*.parquet", "*.parquet", "data/*.jsonl", "*.jsonl", "*.json")
    files = find_files(data, places, "VL-RewardBench pairs")
    return read(files, partial(_item, images=images, check=check_images), on_error)


def _item(record: Mapping[str, Any], file: Path, index: int, images: Folder | None, check: bool) -> PairItem:
    responses = list_of(record, "response", "responses")
    if len(responses) != 2 or not all(isinstance(r, str) for r in responses):
        raise refuse("response", "two texts", responses)
    ranks = list_of(record, "human_ranking", "ranking")
    if sorted(map(repr, ranks)) != ["0", "1"]:
        raise refuse("human_ranking", "[0, 1] or [1, 0], 0 for the better response", ranks)
    value = record.get("image") if record.get("image") is not None else record.get("image_path")
    shown = pictures(value, image_roots(file, images), check)
    name = name_of(record, str(index))
    both = (steps_of(responses[0]), steps_of(responses[1]))
    return PairItem(name, _group(record, name), text_of(record, "query", "question"), shown, both, ranks.index(0))


def _group(record: Mapping[str, Any], name: str) -> str:
    """Return the group: given, or told by the folder of the picture, or by the beginning of the id."""
    given = record.get("group")
    if given in GROUPS:
        return str(given)
    path = record.get("image_path")
    for folder in path.split("/") if isinstance(path, str) else ():
        if folder.lower() in _GROUP:
            return _GROUP[folder.lower()]
    return _BEGINNING.get(re.split("[-_]", name, maxsplit=1)[0].lower(), "general")
