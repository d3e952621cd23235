"""Adding many items: read once into a temporary table, checked as a whole, then copied in short transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import apsw

from .._errors import JournalError
from ._connection import Connection, rows
from ._packing import dumped, encodable, sum_of

CHUNK = 5000  # items in Python's memory at once, and in the first transactions
#: Items in a later transaction: each writes every page of the index of ids that it touches, which is all of them for
#: random ids, so larger ones write less; others wait for one about half a second.
LARGE = 50_000

_TABLE = """
  PRAGMA main.cache_size = -65536;
  PRAGMA temp.cache_size = -65536;
  PRAGMA temp.journal_mode = OFF;
  CREATE TABLE temp.staged(position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, input_hash TEXT NOT NULL,
    payload TEXT NOT NULL, checksum INTEGER NOT NULL)"""
_KNOWN = """SELECT count(*), min(iif(i.input_hash = s.input_hash, NULL, s.position)) FROM temp.staged s
  JOIN main.items i ON i.id = s.id WHERE s.position BETWEEN :first AND :last"""
_ADD_ITEMS = """INSERT INTO main.items(number, id, input_hash)
  SELECT :base + position, id, input_hash FROM temp.staged WHERE position BETWEEN :first AND :last
  ORDER BY position ON CONFLICT (id) DO NOTHING"""
_ADD_INPUTS = """INSERT INTO main.inputs(number, payload, checksum)
  SELECT i.number, s.payload, s.checksum FROM temp.staged s CROSS JOIN main.items i ON i.number = :base + s.position
  WHERE s.position BETWEEN :first AND :last ORDER BY s.position"""

_Staged = tuple[int, str, str, str, int]


class Staging:
    """A temporary table, on the disk where it grows, of the items of one call of `Journal.add`."""

    def __init__(self, connection: Connection) -> None:
        """Take a connection for itself, and close it at the end."""
        self._connection = connection
        self._read = 0
        self._known = 0

    def __enter__(self) -> Staging:
        try:
            with self._connection.using() as db:
                rows(db, _TABLE)  # all of it: executing alone stops at a row, which a PRAGMA returns
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # and with it goes the table

    def add(self, items: Iterable[tuple[str, str, Any]], progress: Callable[[int, int], object]) -> int:
        """Add what is new; see `Journal.add`."""
        staged = self._rows(items)
        while chunk := list(islice(staged, CHUNK)):
            self._stage(chunk)
            progress(self._read, 0)
        added = 0
        first = self._read if self._known == self._read else 0
        while first < self._read:
            after = min(first + min(max(CHUNK, first), LARGE), self._read)
            added += self._copy(first, after - 1)
            progress(self._read, added)
            first = after
        return added

    def _rows(self, items: Iterable[tuple[str, str, Any]]) -> Iterator[_Staged]:
        for position, (id, input_hash, payload) in enumerate(items):
            for name, text in (("id", id), ("input_hash", input_hash)):
                if not isinstance(text, str) or not text or not encodable(text):
                    raise ValueError(f"`{name}` of item {position + 1} must be a text that is not empty; got {text!r}")
            text = dumped(f"payload of {id}", payload)
            yield position, id, input_hash, text, sum_of(id, text)

    def _stage(self, chunk: list[_Staged]) -> None:
        """Take in a chunk; only the temporary table is written, so nobody waits."""
        first, last = chunk[0][0], chunk[-1][0]
        with self._connection.using() as db:
            db.execute("BEGIN")
            try:
                before = db.total_changes()
                db.executemany("INSERT INTO temp.staged VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", chunk)
                if db.total_changes() - before < len(chunk):
                    raise self._duplicate(db, chunk)
                self._known += self._check(db, first, last)
            finally:
                db.execute("COMMIT")
        self._read = last + 1

    def _copy(self, first: int, last: int) -> int:
        """Add a chunk's items and return how many were new."""
        with self._connection.writing(durable=True) as db:
            self._check(db, first, last)  # again: others may have added some meanwhile
            [(largest,)] = rows(db, "SELECT coalesce(max(number), 0) FROM main.items")
            where = {"base": largest + 1 - first, "first": first, "last": last}
            db.execute(_ADD_ITEMS, where)
            added = db.changes()
            db.execute(_ADD_INPUTS, where)
            db.execute("UPDATE main.counts SET waiting = waiting + ?", (added,))
        return added

    def _check(self, db: apsw.Connection, first: int, last: int) -> int:
        """Return how many of a chunk the journal has already, all with the same hash."""
        [(known, differing)] = rows(db, _KNOWN, {"first": first, "last": last})
        if differing is not None:
            query = """SELECT s.id, i.input_hash, s.input_hash FROM temp.staged s JOIN main.items i ON i.id = s.id
              WHERE s.position = ?"""
            [(id, old, new)] = rows(db, query, (differing,))
            raise JournalError(
                f"item {id!r} is in the journal {self._connection.path} with other contents: "
                f"its `input_hash` was {old[:64]!r} and is now {new[:64]!r}"
            )
        return int(known)

    def _duplicate(self, db: apsw.Connection, chunk: list[_Staged]) -> JournalError:
        for position, id, *_ in chunk:
            for (first,) in rows(db, "SELECT position FROM temp.staged WHERE id = ?", (id,)):
                if first != position:
                    path = self._connection.path
                    return JournalError(f"items {first + 1} and {position + 1} for {path} have the same id {id!r}")
        raise AssertionError("an item was refused that is no duplicate")
