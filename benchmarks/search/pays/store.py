"""Records on disk: a file a process and a kind of result, one JSON object a line, continued after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Store:
    """Records by key, those of other processes included.

    Args:
        folder: where the files lie.
        name: of the kind of result; files are ``<name>.<part>.jsonl``.
        settings: what must be equal for old records to count.
        part: which process writes.

    Raises:
        ValueError: a file of that name was written with other settings, or is damaged before its last line.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], part: str = "0-1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.{part}.jsonl"
        self.settings = json.loads(json.dumps(dict(settings)))
        self.known: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob(f"{name}.*.jsonl")):
            if path.name.count(".") == 2 or path == self.path:
                self.known |= self._read(path)
        if not self.path.exists() or not self.path.stat().st_size:
            self._write({"settings": self.settings})

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record; it is on disk when this returns."""
        self.known[key] = record
        self._write({"key": key} | record)

    def _write(self, value: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(value) + "\n")

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        complete, _, rest = path.read_bytes().rpartition(b"\n")
        if rest and path == self.path:  # killed in the middle of a line; another process may still be writing its own
            path.write_bytes(complete + b"\n" if complete else b"")
        if not complete:
            return {}
        try:
            head, *records = map(json.loads, complete.split(b"\n"))
            found, rows = head["settings"], {record.pop("key"): record for record in records}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"`--out` must hold records of this study; '{path}' is damaged.") from None
        for name in sorted(found.keys() | self.settings.keys()):
            if found.get(name) != self.settings.get(name):
                raise ValueError(
                    f"`--out` must hold records of the same settings; '{path}' has {name} = {found.get(name)!r}, "
                    f"this run {self.settings.get(name)!r}."
                )
        return rows
