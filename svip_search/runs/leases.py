"""Leases of a process on items, renewed behind its back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from .cached import CallCache

#: Seconds between two writes of calls that are to be kept, at most.
WRITE = 1.0


class LeaseStore(Protocol):
    """The part of a journal that renews leases."""

    def renew(self, owner: str, ids: Sequence[str], lease: float) -> list[str]:
        """Return those items that are still leased to this owner, now for longer."""
        ...


class Leases:
    """What a process has claimed and not finished; a thread renews it three times a lease.

    Args:
        store: a journal.
        owner: the name of the process.
        seconds: how long a lease lasts.

    Attributes:
        cache: where given, its calls are written by the same thread.

    Notes:
        An item whose lease is lost, since the process stood still for longer, is searched on: whoever
        finishes it first, his result counts.
    """

    def __init__(self, store: LeaseStore, owner: str, seconds: float) -> None:
        self.store, self.owner, self.seconds = store, owner, seconds
        self.cache: CallCache | None = None
        self._ids: dict[str, None] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def add(self, ids: Iterable[str]) -> None:
        """Note what was claimed."""
        with self._lock:
            self._ids.update(dict.fromkeys(ids))

    def remove(self, ids: Iterable[str]) -> None:
        """Note what was finished, failed or released."""
        with self._lock:
            for id in ids:
                self._ids.pop(id, None)

    def held(self) -> list[str]:
        """Return what is claimed."""
        with self._lock:
            return list(self._ids)

    def check(self) -> None:
        """Raise what the thread has met, if it was an error."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Leases:
        self._thread = threading.Thread(target=self._beat, name="svip-search-leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if self.cache is not None and not (isinstance(kind, type) and issubclass(kind, Exception)):
            self.cache.flush()

    def _beat(self) -> None:
        due = time.monotonic() + self.seconds / 3
        try:
            while not self._end.wait(min(WRITE, self.seconds / 6)):
                if self.cache is not None:
                    self.cache.flush()
                if time.monotonic() >= due:
                    due = time.monotonic() + self.seconds / 3
                    self._renew()
        except Exception as error:  # a thread has nobody to tell but who asks it
            self._error = error

    def _renew(self) -> None:
        if ids := self.held():
            self.store.renew(self.owner, ids, self.seconds)
