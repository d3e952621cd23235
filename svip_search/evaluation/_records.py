"""One record a question, kept in a file so that a run can be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar, cast


@dataclass(frozen=True)
class Record:
    """What every strategy made of one question.

    Args:
        id: of the question.
        family: of the question.
        options: how many it has.
        samples: what a majority of the shared samples says, None where none were drawn.
        strategies: by name: answer, right, pass, tokens, seconds and so on.
    """

    id: str
    family: str
    options: int
    samples: dict[str, Any] | None
    strategies: dict[str, dict[str, Any]]


AnyRecord = TypeVar("AnyRecord")


class RecordFile(Generic[AnyRecord]):
    """An append-only JSON-lines file: the settings of the run, then one record a line.

    Args:
        path: the file, created where it is missing; None keeps nothing.
        settings: what must be equal for old records to count.
        kind: the dataclass of a record; it has an ``id``.

    Raises:
        ValueError: the file belongs to another run or is no record file.
    """

    def __init__(self, path: str | PathLike[str] | None, settings: Mapping[str, Any], kind: type[AnyRecord]) -> None:
        self.path = None if path is None else Path(path)
        self.kind = kind
        self.known: dict[str, AnyRecord] = {}
        if self.path is None:
            return
        if self.path.exists() and self.path.stat().st_size:
            self._read(self.path, dict(settings))
        else:
            self._write(json.dumps({"settings": settings}))

    def append(self, record: AnyRecord) -> None:
        """Add one record to the file."""
        if self.path is not None:
            self._write(json.dumps(asdict(cast(Any, record))))

    def _write(self, line: str) -> None:
        assert self.path is not None
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def _read(self, path: Path, settings: dict[str, Any]) -> None:
        text = path.read_text(encoding="utf-8", errors="replace")
        complete, _, rest = text.rpartition("\n")
        if rest:  # the last run was killed in the middle of a line
            path.write_text(complete + "\n" if complete else "", encoding="utf-8")
        lines = complete.split("\n")
        try:
            found = json.loads(lines[0])["settings"]
            records = [self.kind(**json.loads(line)) for line in lines[1:] if line.strip()]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"`records` must be a file that an evaluation wrote; '{path}' is not.") from None
        wanted = json.loads(json.dumps(settings))
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                raise ValueError(
                    f"`records` must come from the same settings; '{path}' has {name} = {found.get(name)!r}, "
                    f"this run {wanted.get(name)!r}."
                )
        self.known = {cast(Any, record).id: record for record in records}
