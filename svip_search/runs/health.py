"""What a run does while all its searches fail, because a server is down, say."""

from __future__ import annotations

from .._errors import PolicyError

#: Pauses of up to a minute that are made while every search fails, before a run is given up.
PAUSES = 16


class Health:
    """Whether searches succeed: where one after another fails, a run pauses and then tries single ones.

    Args:
        searches: how many are open at a time.
    """

    def __init__(self, searches: int) -> None:
        self.searches = searches
        self.failing = self.pauses = 0
        self.reason = ""

    @property
    def probing(self) -> bool:
        """Whether one search at a time is tried."""
        return self.pauses > 0

    def allows(self, opened: int) -> bool:
        """Whether another search may be opened."""
        if self.probing:
            return not opened and not self.failing
        return self.failing < max(self.searches, 8)

    def note(self, good: bool, reason: str | None) -> None:
        """Take note of a search that has ended."""
        if good:
            self.failing = self.pauses = 0
        else:
            self.failing += 1
            self.reason = reason or ""

    def pause(self) -> float:
        """Return how many seconds to wait before the next try; 0 where all is well."""
        if self.allows(0):
            return 0.0
        if self.pauses == PAUSES:
            raise PolicyError(f"all searches fail; nothing is lost, and the run can be continued: {self.reason}")
        self.pauses += 1
        self.failing = 0
        return float(min(60, 2 ** (self.pauses - 1)))
