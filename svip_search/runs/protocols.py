"""What a run needs of a journal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from .cached import CallStore


class Item(Protocol):
    """A question that was claimed; ``attempt`` is 1 at its first claim."""

    @property
    def id(self) -> str: ...

    @property
    def payload(self) -> Any: ...

    @property
    def attempt(self) -> int: ...


class Counts(Protocol):
    """How many items there are of each kind."""

    @property
    def waiting(self) -> int: ...

    @property
    def leased(self) -> int: ...

    @property
    def done(self) -> int: ...

    @property
    def failed(self) -> int: ...

    @property
    def total(self) -> int: ...


class Store(CallStore, Protocol):
    """What a run needs of a journal: `svip_search._journal.Journal` has it, and so may a proxy over a network."""

    def claim(self, owner: str, limit: int, lease: float) -> Sequence[Item]: ...

    def renew(self, owner: str, ids: Sequence[str], lease: float) -> list[str]: ...

    def release(self, owner: str, ids: Sequence[str]) -> None: ...

    def finish(self, owner: str, id: str, result: Any) -> bool: ...

    def fail(self, owner: str, id: str, error: str, *, attempts: int) -> str: ...

    def counts(self) -> Counts: ...

    def results(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]: ...

    def failures(self) -> Iterator[tuple[str, str]]: ...
