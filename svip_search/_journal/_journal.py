"""The object that a run works with; what its methods do is said here, and done in the modules beside it."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._adding import Staging
from ._checking import check
from ._connection import Connection, rows
from ._errors import damaged, explained
from ._leasing import Counts, Item, claim, claimable, count, find, release, renew, settle
from ._packing import dumped, from_call, loaded, storable, sum_of, to_call
from ._reading import all_failures, all_results, results_of
from ._schema import connect, prepare


class Journal:
    """Work that survives whoever does it; made by `Journal.open`.

    Every method may be called from any thread, and works in a forked child, which gets a connection of its
    own.  Other processes may have the same file open.  A method that changes something either did so
    completely or raised and changed nothing; all raise JournalError if the file cannot be used.

    Notes:
        The order of claims is: waiting items that were tried least, in the order they were added; then
        leases that ran out.  A lease given at time t for s seconds holds while the clock shows between
        t - s and t + s: a clock set far back frees the item instead of freezing it, and one set forward
        may let a second owner work on it, of whom the first to finish is kept.
        `finish`, `fail` and `add` are on the disk when they return; a power cut may undo the last claims
        and cached calls, a killed process undoes nothing.

    Example:
        >>> journal = Journal.open("run.journal", fingerprint={"strategy": "beam"})
        >>> journal.add([("q1", "hash of q1", {"text": "2 + 2?"}), ("q2", "hash of q2", {"text": "3 + 3?"})])
        2
        >>> for item in journal.claim("me", limit=1, lease=60.0):
        ...     journal.finish("me", item.id, {"answer": "4"})
        True
        >>> list(journal.results()), journal.counts().waiting
        ([('q1', {'answer': '4'})], 1)
        >>> journal.close()
    """

    def __init__(self, connection: Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock

    @property
    def path(self) -> str:
        """The file, as an absolute path."""
        return self._connection.path

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        fingerprint: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        wait: float = 30.0,
        create: bool = True,
    ) -> Journal:
        """Return the journal in a file, made if it is not there.

        Args:
            path: the file; its folder exists, and SQLite makes two more files beside it while it is open.
            fingerprint: JSON-able settings that could change results.  Stored when the file is made, compared
                at every later opening; None compares nothing.
            clock: seconds as `time.time` gives them, the same for all processes on the journal.
            wait: seconds to wait for other processes before giving up, in every call.
            create: whether to make a file that is not there; if not, that is an error.

        Raises:
            JournalError: if the file is no journal, damaged, of another version or other settings, locked for
                longer than ``wait``, read-only, or in a place where SQLite's write-ahead log does not work.
        """
        if not 0 <= wait <= 1e6:
            raise ValueError(f"`wait` must be seconds from 0 to 1e6; got {wait}")
        name = os.path.abspath(os.fspath(path))
        db = connect(name, wait, create=create)
        try:
            prepare(db, name, wait, fingerprint)
        except BaseException:
            db.close()
            raise
        return cls(Connection(name, db, wait), clock)

    def add(
        self, items: Iterable[tuple[str, str, Any]], *, progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Add items that are not there yet and return how many those were; all of them or, on an error, none.

        Items that are there already stay as they are, also those that are not among ``items``.

        Args:
            items: (id, input_hash, payload): an id, not empty; a digest of all that the id stands for; what
                `claim` hands out, JSON-able.  Read once, in bounded memory.
            progress: called now and then with how many were read and how many of them were added so far.

        Raises:
            JournalError: if an id is there with another ``input_hash``, or twice among ``items``.
            ValueError: if an id or a hash is not a text, or empty, or a payload is not JSON-able.

        Notes:
            Nothing is added before all items were read and found right; then a few thousand at a time, so that
            other processes can go on.  One killed meanwhile, or whose disk is full, may have added some:
            adding again adds the rest.
        """
        with Staging(self._connection.another()) as staging:
            return staging.add(items, progress or (lambda read, added: None))

    def claim(self, owner: str, limit: int, lease: float) -> list[Item]:
        """Lease up to ``limit`` items to an owner and return them; fewer, or none, where no more can be claimed.

        Args:
            owner: unique to a start of a process, as `new_owner` makes them.
            limit: at least 1; claiming several at once costs less for each.
            lease: seconds, after which others may claim an item that is neither finished nor renewed.
        """
        _check_lease(owner, lease)
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1; got {limit}")
        with self._connection.using() as db:
            if not any(claimable(db, self._clock(), 1)):
                return []  # without the lock, for which others might be waiting
        with self._connection.writing(durable=False) as db:
            return claim(db, self.path, owner, limit, self._clock(), lease)

    def renew(self, owner: str, ids: Sequence[str], lease: float) -> list[str]:
        """Lease items for another ``lease`` seconds from now and return those that are still the owner's.

        An item whose lease ran out is still the owner's until somebody else claims it.
        """
        _check_lease(owner, lease)
        with self._connection.writing(durable=False) as db:
            return renew(db, owner, ids, self._clock(), lease)

    def release(self, owner: str, ids: Sequence[str]) -> None:
        """Put items back as they were before the owner claimed them; others' items are left alone."""
        with self._connection.writing(durable=False) as db:
            release(db, owner, ids)

    def finish(self, owner: str, id: str, result: Any) -> bool:
        """Write an item's result; False, and nothing changed, if it has one already.

        An owner whose lease ran out may finish all the same: the first result is kept, whoever brings it.

        Args:
            owner: recorded with the result.
            id: of an item in the journal.
            result: JSON-able.
        """
        text = dumped("result", result)
        with self._connection.writing(durable=True) as db:
            number, state, _, _ = find(db, id)
            db.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (number, text, sum_of(id, text), owner, self._clock()),
            )
            if not db.changes():
                return False
            settle(db, number, "done", None)
            count(db, **{state: -1}, done=1)
        return True

    def fail(self, owner: str, id: str, error: str, *, attempts: int) -> str:
        """Give up an attempt at an item and return its state: "waiting", or "failed" if it was the last.

        Args:
            owner: who claimed it; if it is somebody else's by now, or done, nothing changes.
            id: of an item in the journal.
            error: kept with the item.
            attempts: how many claims an item gets before it counts as failed.
        """
        with self._connection.writing(durable=True) as db:
            number, state, holder, attempt = find(db, id)
            if state != "leased" or holder != owner:
                return state
            after = "failed" if attempt >= attempts else "waiting"
            settle(db, number, after, storable(error))
            count(db, **{after: 1}, leased=-1)
        return after

    def retry(self) -> int:
        """Let failed items wait again, with all their attempts, and return how many those were."""
        with self._connection.writing(durable=True) as db:
            db.execute("UPDATE items SET state = 'waiting', attempt = 0 WHERE state = 'failed'")
            changed = db.changes()
            count(db, waiting=changed, failed=-changed)
        return changed

    def counts(self) -> Counts:
        """Return how many items are in which state; kept up to date with every change, so nothing is counted."""
        with self._connection.using() as db:
            found = rows(db, "SELECT waiting, leased, done, failed FROM counts")
        if not found:
            raise damaged(self.path, "its counts are gone")
        return Counts(*found[0])

    def results(self, ids: Iterable[str] | None = None) -> Iterator[tuple[str, Any]]:
        """Yield (id, result) of done items in the order they were added, in bounded memory.

        Others may go on writing: a result that arrives meanwhile is yielded too if its turn is still to come.

        Args:
            ids: only those of these items; ids without a result are passed over.  None: all.
        """
        found = all_results(self._connection) if ids is None else results_of(self._connection, ids)
        for _, id, text, checksum in found:
            yield id, loaded(self.path, id, text, checksum)

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield (id, error) of failed items in the order they were added."""
        return ((id, error) for _, id, error in all_failures(self._connection))

    def cached(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the cached calls among these keys."""
        query = "SELECT value, packed, checksum FROM calls WHERE key = ?"
        with self._connection.using() as db:
            found = [(key, *row) for key in keys for row in rows(db, query, (key,))]
        return {key: from_call(self.path, key, *row) for key, *row in found}

    def cache(self, entries: Mapping[str, bytes]) -> None:
        """Keep the outcome of calls; for a key that is there already the first one stays.

        Notes:
            On the disk with the next `finish`: a power cut may cost the calls of items that were not done.
        """
        packed = [(key, *to_call(key, value)) for key, value in entries.items()]
        with self._connection.writing(durable=False) as db:
            db.executemany("INSERT INTO calls VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", packed)

    def snapshot(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the journal as it is at this moment, under a temporary name until it is complete.

        Args:
            path: another file, which is replaced if it exists; the copy is a journal of its own.

        Notes:
            Saves what was in a file that is not `in_place` any more, too.
        """
        target = os.path.abspath(os.fspath(path))
        if os.path.realpath(target) == os.path.realpath(self.path):
            raise ValueError(f"`path` must be another file than the journal; got {target}")
        part = f"{target}.{secrets.token_hex(4)}.part"
        # A file that cannot be found any more is read by the connection that has it, while others wait.
        source = self._connection.another() if self.in_place() else self._connection
        try:
            with source.using() as db, explained(part, source.wait), contextlib.closing(connect(part, 0)) as copy:
                with copy.backup("main", db, "main") as backup:
                    backup.step(-1)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, complete on the disk
            _replace(part, target)
        finally:
            if source is not self._connection:
                source.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    def in_place(self) -> bool:
        """Whether the file is where it was opened: not deleted, moved, or replaced by another one since."""
        return self._connection.in_place()

    def verify(self) -> None:
        """Check the file and what must hold in it: one result for a done item, none for others, true counts.

        Raises:
            JournalError: says what is wrong first.

        Notes:
            Reads everything; others may go on writing.
        """
        with self._connection.using() as db:
            db.execute("BEGIN")
            try:
                check(db, self.path)
            finally:
                db.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; what is leased stays so.  Closing twice is harmless."""
        self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_lease(owner: str, lease: float) -> None:
    if not owner:
        raise ValueError("`owner` must be a text that is not empty; got ''")
    if not 0 < lease < math.inf:
        raise ValueError(f"`lease` must be a positive number of seconds; got {lease}")


def _replace(part: str, target: str) -> None:
    """Give a complete file its name, also in the folder on the disk."""
    os.replace(part, target)
    if os.name == "posix":
        folder = os.open(os.path.dirname(target), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
