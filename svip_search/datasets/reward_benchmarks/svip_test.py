"""SVIP-Test: the held-out part of a data set of SVIP records, never the part for training.

Traps, each with a test: a folder that `svip-search data build` made holds both parts, and one that is not
finished may hold the training part alone; a puzzle that another version drew would be another puzzle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .._svip_check import RecordError
from ..svip import SvipRecord, read_svip
from ._shared import Folder, OnError


def load_svip_test(
    data: Folder | Sequence[Folder], *, on_error: OnError = None, check_images: bool = True
) -> list[SvipRecord]:
    """Return the records of SVIP-Test.

    Args:
        data: files or folders, or several of them.  Of a folder with ``train-*`` files only the ``test-*``
            files are read; of other folders all.
        on_error: called for each record that cannot be used, which is then left out; by default it is raised.
        check_images: whether the pictures must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: there is no such file, or a folder holds a training part alone.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "train-00000.jsonl").write_text("")
        >>> try:
        ...     load_svip_test(folder)
        ... except ValueError as error:
        ...     print(str(error).replace(str(folder), "F"))
        `data` must hold test-*.jsonl; 'F' has a training part alone, which is not for judging.
    """
    several = [data] if isinstance(data, (str, Path)) or not isinstance(data, Sequence) else list(data)
    found: list[SvipRecord] = []
    seen: dict[str, int] = {}
    for file in (file for path in several for file in _files(Path(path))):
        for record in _usable(file, on_error, check_images):
            count = seen[record.id] = seen.get(record.id, 0) + 1
            found.append(record if count == 1 else replace(record, id=f"{record.id}#again{count}"))
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    visible = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
    records = [p for p in visible if p.suffix == ".jsonl"] or [p for p in visible if p.suffix == ".parquet"]
    held_out = [p for p in records if p.name.startswith("test-")]
    if held_out:
        return held_out
    if any(p.name.startswith("train-") for p in records):
        raise ValueError(
            f"`data` must hold test-*.jsonl; '{path}' has a training part alone, which is not for judging."
        )
    return records or [path]


def _usable(file: Path, on_error: OnError, check_images: bool) -> Iterator[SvipRecord]:
    for record in read_svip(file, on_error, check_images):
        try:
            record.check_generator()
        except RecordError as problem:
            error = RecordError(f"{file}, record {record.id!r}: {problem}")
            if on_error is None:
                raise error from None
            on_error(error)
            continue
        yield record
