"""The one connection a process has to a journal: one thread at a time, transactions, and what a fork does to it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apsw

from .._errors import JournalError
from ._errors import displaced, explained
from ._schema import connect

Row = tuple[Any, ...]

#: Connections of a parent process.  A child must neither use nor close them: both could touch the parent's locks.
_LEFT_TO_PARENT: list[apsw.Connection] = []


class Connection:
    """An open journal's file, its lock and its transactions."""

    def __init__(self, path: str, db: apsw.Connection, wait: float) -> None:
        self.path = path
        self.wait = wait
        self._db: apsw.Connection | None = db
        self._file = _file_at(path)
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def using(self) -> Iterator[apsw.Connection]:
        """Hold the connection: nobody else uses it, and its errors say what they mean."""
        if os.getpid() != self._pid:
            self._connect_again()
        with self._lock, explained(self.path, self.wait):
            if self._db is None:
                raise JournalError(f"the journal {self.path} is closed")
            yield self._db

    @contextlib.contextmanager
    def writing(self, *, durable: bool) -> Iterator[apsw.Connection]:
        """Hold the connection in a transaction that is on the disk at the end, or at the end of a later durable one."""
        with self.using() as db:
            if not self.in_place():  # SQLite would go on writing to a file that nobody finds again
                raise displaced(self.path)
            db.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite ends it by itself after some errors
                    with contextlib.suppress(apsw.Error):
                        db.execute("ROLLBACK")
                raise

    def another(self) -> Connection:
        """Return a second connection to the file, for what takes long or needs tables of its own."""
        with self.using():
            if not self.in_place():
                raise displaced(self.path)
            return Connection(self.path, connect(self.path, self.wait, create=False), self.wait)

    def in_place(self) -> bool:
        """Whether the path still leads to the file that is open."""
        return self._file == _file_at(self.path)

    def close(self) -> None:
        """Close the file; twice is harmless."""
        if os.getpid() != self._pid:
            self._leave_to_parent()
        with self._lock, explained(self.path, self.wait):
            db, self._db = self._db, None
            if db is not None:
                db.close()

    def _connect_again(self) -> None:
        """In a forked child: leave the parent's connection alone, and its locks, which other threads may hold."""
        if self._leave_to_parent():
            if not self.in_place():
                raise displaced(self.path)
            self._db = connect(self.path, self.wait, create=False)

    def _leave_to_parent(self) -> bool:
        db, self._db, self._lock, self._pid = self._db, None, threading.Lock(), os.getpid()
        if db is not None:
            _LEFT_TO_PARENT.append(db)
        return db is not None


def _file_at(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others, None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def rows(db: apsw.Connection, query: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
    """Return all that a query finds, so that no reading transaction stays open."""
    return db.execute(query, bindings).fetchall()
