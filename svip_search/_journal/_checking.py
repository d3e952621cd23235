"""What must hold in a journal, whatever happened to the processes that wrote it."""

from __future__ import annotations

import apsw

from ._errors import damaged
from ._packing import from_call, loaded

#: What is wrong -> a query that finds an example of it.
WRONG = {
    "item {!r} is done and has no result": """SELECT id FROM items LEFT JOIN results USING (number)
      WHERE state = 'done' AND payload IS NULL LIMIT 1""",
    "item {!r} has a result and is not done": """SELECT id FROM items JOIN results USING (number)
      WHERE state <> 'done' LIMIT 1""",
    "result {} is of no item": "SELECT number FROM results WHERE number NOT IN (SELECT number FROM items) LIMIT 1",
    "input {} is of no item": "SELECT number FROM inputs WHERE number NOT IN (SELECT number FROM items) LIMIT 1",
    "item {!r} has no input": "SELECT id FROM items WHERE number NOT IN (SELECT number FROM inputs) LIMIT 1",
    "item {!r} has half a lease": """SELECT id FROM items WHERE (state = 'leased') <>
      (owner IS NOT NULL AND lease_from IS NOT NULL AND lease_until IS NOT NULL AND lease_from < lease_until
       AND attempt > 0) LIMIT 1""",
    "item {!r} failed without an error": "SELECT id FROM items WHERE state = 'failed' AND error IS NULL LIMIT 1",
    "item {!r} has attempts below zero": "SELECT id FROM items WHERE attempt < 0 LIMIT 1",
}
_COUNTED = """SELECT coalesce(sum(state = 'waiting'), 0), coalesce(sum(state = 'leased'), 0),
  coalesce(sum(state = 'done'), 0), coalesce(sum(state = 'failed'), 0) FROM items"""


def check(db: apsw.Connection, path: str) -> None:
    """Raise JournalError for the first thing in a journal that is not as it must be."""
    found = str(db.execute("PRAGMA integrity_check(1)").get)
    if found != "ok":
        raise damaged(path, " ".join(found.split()))
    for what, query in WRONG.items():
        for (example,) in db.execute(query):
            raise damaged(path, what.format(example))
    counted, kept = db.execute(_COUNTED).fetchall(), db.execute("SELECT * FROM counts").fetchall()
    if counted != kept:
        raise damaged(path, f"its counts are {kept} where there are {counted}")
    for table in ("inputs", "results"):
        for id, text, checksum in db.execute(f"SELECT id, payload, checksum FROM {table} JOIN items USING (number)"):
            loaded(path, id, text, checksum)
    for key, value, packed, checksum in db.execute("SELECT key, value, packed, checksum FROM calls"):
        from_call(path, key, value, packed, checksum)
