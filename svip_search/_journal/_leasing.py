"""Who may work on what until when: the changes of an item's state, each within a transaction of the caller's."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from ._connection import Row, rows
from ._packing import loaded

# Each query names its index: should it ever not fit, SQLite refuses instead of reading all items.
_OPEN = "SELECT i.number, i.id, i.attempt + 1, p.payload, p.checksum FROM items i INDEXED BY"
_WAITING = f"{_OPEN} waiting JOIN inputs p USING (number) WHERE state = 'waiting' ORDER BY attempt, number LIMIT ?"
_EXPIRED = f"""{_OPEN} lease_until JOIN inputs p USING (number)
  WHERE state = 'leased' AND lease_until <= ? ORDER BY lease_until LIMIT ?"""
_AHEAD = f"""{_OPEN} lease_from JOIN inputs p USING (number)
  WHERE state = 'leased' AND lease_from > ? ORDER BY lease_from LIMIT ?"""
_CLAIM = """UPDATE items SET state = 'leased', attempt = attempt + 1, owner = ?, lease_from = ?, lease_until = ?
  WHERE number = ?"""
_RENEW = "UPDATE items SET lease_from = ?, lease_until = ? WHERE id = ? AND state = 'leased' AND owner = ?"
_RELEASE = """UPDATE items SET state = 'waiting', attempt = attempt - 1, owner = NULL, lease_from = NULL,
  lease_until = NULL WHERE id = ? AND state = 'leased' AND owner = ?"""
_SETTLE = """UPDATE items SET state = ?, error = ?, owner = NULL, lease_from = NULL, lease_until = NULL
  WHERE number = ?"""
_COUNT = """UPDATE counts SET waiting = waiting + :waiting, leased = leased + :leased,
  done = done + :done, failed = failed + :failed"""


@dataclass(frozen=True, slots=True)
class Item:
    """One claimed piece of work; ``attempt`` is 1 at its first claim, and a claim that is released does not count."""

    id: str
    payload: Any
    attempt: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items are in which state; an expired lease counts as leased until somebody claims the item."""

    waiting: int
    leased: int
    done: int
    failed: int

    @property
    def total(self) -> int:
        """All items."""
        return self.waiting + self.leased + self.done + self.failed


def new_owner() -> str:
    """Return a name for one start of one process: host, process number and something random.

    Example:
        >>> new_owner() != new_owner()
        True
    """
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def claimable(db: apsw.Connection, now: float, limit: int) -> tuple[list[Row], list[Row]]:
    """Return up to ``limit`` items that wait or whose lease lapsed; each query ends after as many index entries."""
    waiting = rows(db, _WAITING, (limit,))
    lapsed: list[Row] = []
    for query in (_EXPIRED, _AHEAD):  # no item is in both: a lease begins before it ends
        if missing := limit - len(waiting) - len(lapsed):
            lapsed += rows(db, query, (now, missing))
    return waiting, lapsed


def claim(db: apsw.Connection, path: str, owner: str, limit: int, now: float, lease: float) -> list[Item]:
    """Lease items, and return them; see `Journal.claim`."""
    waiting, lapsed = claimable(db, now, limit)
    found = waiting + lapsed
    items = [Item(id, loaded(path, id, text, checksum), attempt) for _, id, attempt, text, checksum in found]
    db.executemany(_CLAIM, [(owner, now - lease, now + lease, row[0]) for row in found])
    count(db, waiting=-len(waiting), leased=len(waiting))
    return items


def renew(db: apsw.Connection, owner: str, ids: Sequence[str], now: float, lease: float) -> list[str]:
    """Lease items again that are still the owner's, and return them."""
    kept = []
    for id in ids:
        db.execute(_RENEW, (now - lease, now + lease, id, owner))
        if db.changes():
            kept.append(id)
    return kept


def release(db: apsw.Connection, owner: str, ids: Sequence[str]) -> None:
    """Put the owner's items back as they were before they were claimed."""
    before = db.total_changes()
    db.executemany(_RELEASE, [(id, owner) for id in ids])
    released = db.total_changes() - before
    count(db, waiting=released, leased=-released)


def settle(db: apsw.Connection, number: int, state: str, error: str | None) -> None:
    """End a lease."""
    db.execute(_SETTLE, (state, error, number))


def count(db: apsw.Connection, *, waiting: int = 0, leased: int = 0, done: int = 0, failed: int = 0) -> None:
    """Change the counts by so much."""
    db.execute(_COUNT, {"waiting": waiting, "leased": leased, "done": done, "failed": failed})


def find(db: apsw.Connection, id: str) -> tuple[int, str, str | None, int]:
    """Return (number, state, owner, attempt) of an item.

    Raises:
        ValueError: if there is none with this id.
    """
    found = rows(db, "SELECT number, state, owner, attempt FROM items WHERE id = ?", (id,))
    if not found:
        raise ValueError(f"`id` must be that of an item in the journal; got {id!r}")
    number, state, owner, attempt = found[0]
    return number, state, owner, attempt
