"""Long reads of a journal, a page at a time: one open to its end would keep SQLite's log from being emptied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from ._connection import Connection, Row, rows

_PAGE = 1 << 22  # characters held at once
_COLUMNS = "SELECT r.number, i.id, r.payload, r.checksum FROM results r JOIN items i USING (number)"
_RESULTS = f"{_COLUMNS} WHERE r.number > ? ORDER BY r.number LIMIT 1000"
_RESULT = f"{_COLUMNS} WHERE r.number = ?"
_FAILURES = """SELECT number, id, error FROM items INDEXED BY failed
  WHERE state = 'failed' AND number > ? ORDER BY number LIMIT 1000"""


def all_results(connection: Connection) -> Iterator[Row]:
    """Yield (number, id, payload, checksum) of every result, in the order of numbers."""
    return _paged(connection, _RESULTS)


def results_of(connection: Connection, ids: Iterable[str]) -> Iterator[Row]:
    """Yield the same of these items, those without a result left out."""
    numbers: set[int] = set()
    for id in ids:
        with connection.using() as db:
            numbers.update(number for (number,) in rows(db, "SELECT number FROM items WHERE id = ?", (id,)))
    for number in sorted(numbers):
        with connection.using() as db:
            found = rows(db, _RESULT, (number,))
        yield from found


def all_failures(connection: Connection) -> Iterator[Row]:
    """Yield (number, id, error) of every failed item, in the order of numbers."""
    return _paged(connection, _FAILURES)


def _paged(connection: Connection, query: str) -> Iterator[Row]:
    number = 0
    while page := _page(connection, query, number):
        yield from page
        number = page[-1][0]


def _page(connection: Connection, query: str, after: int) -> list[Row]:
    page: list[Row] = []
    size = 0
    with connection.using() as db, contextlib.closing(db.cursor()) as cursor:
        for row in cursor.execute(query, (after,)):
            page.append(row)
            size += len(row[2])
            if size > _PAGE:
                break
    return page
