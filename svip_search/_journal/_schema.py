"""The tables of a journal: made in an empty file, recognised in an old one, refused in any other."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import apsw

from .._errors import JournalError
from ._errors import LOCKED, damaged, explained, read_only

APPLICATION = 0x53564950  # "SVIP"
VERSION = 1

#: State changes rewrite a row, so rows of `items` are short: what goes in and comes out lies in tables of its own.
TABLES = {
    "meta": "CREATE TABLE meta(key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "items": """CREATE TABLE items(
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  input_hash TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'leased', 'done', 'failed')),
  attempt INTEGER NOT NULL DEFAULT 0,
  owner TEXT,
  lease_from REAL,
  lease_until REAL,
  error TEXT
) STRICT""",
    "waiting": "CREATE INDEX waiting ON items(attempt, number) WHERE state = 'waiting'",
    "lease_from": "CREATE INDEX lease_from ON items(lease_from) WHERE state = 'leased'",
    "lease_until": "CREATE INDEX lease_until ON items(lease_until) WHERE state = 'leased'",
    "failed": "CREATE INDEX failed ON items(number) WHERE state = 'failed'",
    "inputs": """CREATE TABLE inputs(
  number INTEGER PRIMARY KEY,
  payload TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT""",
    "results": """CREATE TABLE results(
  number INTEGER PRIMARY KEY,
  payload TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  owner TEXT NOT NULL,
  finished REAL NOT NULL
) STRICT""",
    "calls": """CREATE TABLE calls(
  key TEXT NOT NULL PRIMARY KEY,
  value BLOB NOT NULL,
  packed INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT""",
    "counts": """CREATE TABLE counts(
  waiting INTEGER NOT NULL,
  leased INTEGER NOT NULL,
  done INTEGER NOT NULL,
  failed INTEGER NOT NULL
) STRICT""",
}


def connect(path: str, wait: float, *, create: bool = True) -> apsw.Connection:
    """Return a connection to a file that may be made if there is none; an existing one is not changed yet."""
    if not os.path.isdir(os.path.dirname(path)):
        raise JournalError(f"the folder of the journal {path} does not exist")
    if os.path.isdir(path):
        raise JournalError(f"the journal {path} is a folder; a file is needed")
    if not create and not os.path.exists(path):
        raise JournalError(f"there is no journal {path}")
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    with explained(path, wait):
        db = apsw.Connection(path, flags=flags)
    try:
        if db.readonly("main"):
            raise JournalError(read_only(path))
        db.set_busy_timeout(round(wait * 1000))
        with explained(path, wait):
            # A damaged page is noticed when read; a schema someone tampered with runs no functions.
            db.execute("PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA journal_size_limit = 67108864")
    except BaseException:
        db.close()
        raise
    return db


def prepare(db: apsw.Connection, path: str, wait: float, fingerprint: Mapping[str, Any] | None) -> None:
    """Make the tables in an empty file; check that any other is a journal of this version and these settings.

    Raises:
        JournalError: for another program's database, another version, other settings, or a file system
            on which SQLite's write-ahead log does not work.
        ValueError: if the fingerprint is not JSON-able.
    """
    wanted = None if fingerprint is None else _plain(fingerprint)
    with explained(path, wait):
        if db.execute("SELECT count(*) FROM sqlite_schema").get:
            _recognise(db, path)  # before anything is written to what may be someone else's
            _use_wal(db, path, wait)
        else:
            _use_wal(db, path, wait)
            _create(db, wanted)
            _recognise(db, path)  # another process may have been faster, with another version
        if wanted is not None:
            _compare(db, path, wanted)


def _recognise(db: apsw.Connection, path: str) -> None:
    if db.execute("PRAGMA application_id").get != APPLICATION:
        raise JournalError(f"{path} is no journal: it is an SQLite database of another program")
    version = db.execute("PRAGMA user_version").get
    if version != VERSION:
        age = "a newer" if int(str(version)) > VERSION else "an older"
        raise JournalError(
            f"the journal {path} was written by {age} version of svip-search, in format {version}; "
            f"this version reads format {VERSION}"
        )
    found = {str(name): sql for name, sql in db.execute("SELECT name, sql FROM sqlite_schema")}
    for name, sql in TABLES.items():
        if found.get(name) != sql:
            raise damaged(path, f"the definition of `{name}` is missing or another one")


def _use_wal(db: apsw.Connection, path: str, wait: float) -> None:
    """Switch to the write-ahead log, for which SQLite does not wait by itself where others hold the file."""
    end = time.monotonic() + wait
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").get
            break
        except LOCKED:
            if time.monotonic() >= end:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise JournalError(
            f"the journal {path} cannot use SQLite's write-ahead log (its mode stays {mode!r}), as on "
            "network file systems without shared memory; put it on a local disk"
        )


def _create(db: apsw.Connection, fingerprint: dict[str, Any] | None) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if not db.execute("SELECT count(*) FROM sqlite_schema").get:
            for sql in TABLES.values():
                db.execute(sql)
            db.execute("INSERT INTO counts VALUES (0, 0, 0, 0)")
            created = datetime.now(UTC).isoformat(timespec="seconds")
            settings = json.dumps(fingerprint, sort_keys=True)
            db.execute("INSERT INTO meta VALUES ('created', ?), ('fingerprint', ?)", (created, settings))
            db.execute(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _plain(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprint as it comes back from JSON: tuples are lists, keys are texts."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(fingerprint), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`fingerprint` must be a mapping of JSON values; {error}") from error
    return plain


def _compare(db: apsw.Connection, path: str, wanted: dict[str, Any]) -> None:
    stored = db.execute("SELECT value FROM meta WHERE key = 'fingerprint'").get
    try:
        before, now = _flat(json.loads(str(stored)) or {}), _flat(wanted)
    except ValueError as error:
        raise damaged(path, "its settings are no JSON") from error
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differing:
        shown = ", ".join(_difference(key, before, now) for key in differing[:8])
        more = f", and {len(differing) - 8} more" if len(differing) > 8 else ""
        raise JournalError(f"the journal {path} is of a run with other settings: {shown}{more}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the JSON text of every setting, those within others under dotted names."""
    texts: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            texts |= _flat(value, f"{prefix}{key}.")
        else:
            texts[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return texts


def _difference(key: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    old, new = before.get(key, "not set"), now.get(key, "not set")
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - 20) if max(len(old), len(new)) > 60 else 0
    return f"`{key}` was {_cut(old, start)} and is now {_cut(new, start)}"


def _cut(text: str, start: int, length: int = 60) -> str:
    """Return what can be shown of a long value: from a little before the first difference."""
    end = start + length
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
