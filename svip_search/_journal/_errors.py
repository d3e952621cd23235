"""What an error of SQLite means for a journal, in one line that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from .._errors import JournalError

DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)
LOCKED = (apsw.BusyError, apsw.LockedError)


@contextmanager
def explained(path: str, wait: float) -> Iterator[None]:
    """Turn every error of SQLite within the block into a JournalError."""
    try:
        yield
    except apsw.Error as error:
        raise JournalError(_line(path, wait, error)) from error
    except UnicodeDecodeError as error:  # a text of the file, as texts that go in are encoded before
        raise damaged(path, "a text is not UTF-8") from error


def damaged(path: str, detail: str) -> JournalError:
    """Return the error for a file whose contents are not what was written."""
    return JournalError(f"the journal {path} is damaged: {detail}; go on from a snapshot, or start another")


def _line(path: str, wait: float, error: apsw.Error) -> str:
    reason = " ".join(str(error).split())
    if isinstance(error, LOCKED):
        return f"the journal {path} is locked by another process; waited {wait:g} s"
    if isinstance(error, apsw.FullError):
        return f"the disk of the journal {path} is full; nothing finished is lost, free some space and go on"
    if isinstance(error, apsw.NotADBError):
        return f"{path} is no journal: it is not an SQLite database, or its beginning is damaged"
    if isinstance(error, DAMAGED):
        return str(damaged(path, _diagnosis(path) or reason))
    if isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError)):
        return read_only(path)
    if isinstance(error, apsw.CantOpenError):
        return f"the journal {path} cannot be opened, or no file made beside it: {reason}"
    if isinstance(error, apsw.IOError):
        return f"the journal {path} cannot be read or written: {reason}"
    return f"the journal {path} cannot be used: {reason}"


def displaced(path: str) -> JournalError:
    """Return the error for a path that no longer leads to the file that was opened by it."""
    return JournalError(
        f"the journal {path} was deleted or moved while it was in use, or another file put in its place"
    )


def read_only(path: str) -> str:
    """Return the line for a file or folder that must not be written."""
    return f"the journal {path} is read-only; a run needs to write it and files beside it"


def _diagnosis(path: str) -> str:
    """Return the first line of SQLite's own check, "" where it finds nothing or cannot even run."""
    try:
        db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        found = str(db.execute("PRAGMA quick_check(1)").get)
        db.close()
    except apsw.Error:
        return ""
    return "" if found == "ok" else " ".join(found.split())
