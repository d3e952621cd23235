"""What a client does to a server that has enough, as state machines that are told the time.

``RetryBudget``  retries are at most a tenth of the requests, but for a small reserve
``Breaker``      a server that keeps failing is left alone, then asked once, then used again
``Aimd``         how many requests may be in flight: halved when it is too many, one more a round that went well
"""

from __future__ import annotations

import email.utils
import math

#: Longest time that a server may ask to be left alone, in seconds.
LONGEST_WAIT = 60.0


class RetryBudget:
    """Tokens that retries cost: in any stretch of time at most ``burst + ratio * requests + rate * seconds``.

    Args:
        burst: most tokens at hand, and how many there are at first.
        ratio: what a request brings.
        rate: what a second brings, so that a lone request may still be retried.
    """

    def __init__(self, burst: float = 10.0, ratio: float = 0.1, rate: float = 1.0) -> None:
        self.burst, self.ratio, self.rate = burst, ratio, rate
        self.tokens, self._last = burst, -math.inf

    def request(self) -> None:
        """Note that a request was made."""
        self.tokens = min(self.burst, self.tokens + self.ratio)

    def retry(self, now: float) -> bool:
        """Take a token if there is one."""
        self.tokens = min(self.burst, self.tokens + self.rate * max(0.0, now - self._last))
        self._last = max(self._last, now)
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Breaker:
    """Closed while a server answers; open after failures in a row; half open while one request probes it.

    ::

        closed --- `failures` in a row --> open for `first` s --> half open --- good answer --> closed
                                             ^                      |
                                             +-- failure: twice as long, at most `longest`

    Args:
        failures: how many in a row open it.
        first: seconds that it stays open at first.
        longest: seconds that it stays open at most.
    """

    def __init__(self, failures: int = 5, first: float = 0.5, longest: float = 30.0) -> None:
        self.failures, self.first, self.longest = failures, first, longest
        self.openings = 0
        self._row = 0
        self._seconds = 0.0
        self._until = -math.inf
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether the server counts as healthy."""
        return self._seconds == 0.0

    def opens(self) -> float:
        """Return when a request is admitted, by time alone: -inf now, inf not before the probe has ended."""
        return math.inf if self._probing else self._until

    def begin(self) -> bool:
        """Note that a request begins that was admitted; return whether it is the probe."""
        self._probing = not self.closed
        return self._probing

    def success(self) -> None:
        """Note a good answer, to whatever request."""
        self._row, self._seconds, self._until, self._probing = 0, 0.0, -math.inf, False

    def failure(self, now: float, probe: bool) -> None:
        """Note a failure; those of requests from before it opened say nothing new."""
        if self.closed:
            self._row += 1
            if self._row >= self.failures:
                self._open(now, self.first)
        elif probe:
            self._open(now, min(2 * self._seconds, self.longest))

    def nothing(self, probe: bool) -> None:
        """Note that a request ended without a word about the server's health."""
        if probe and not self.closed:
            self._probing = False

    def _open(self, now: float, seconds: float) -> None:
        self._row, self._seconds, self._until, self._probing = 0, seconds, now + seconds, False
        self.openings += 1


class Aimd:
    """A limit of requests in flight: additive increase, multiplicative decrease.

    Args:
        ceiling: the largest limit, and the first.
    """

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.value = float(ceiling)
        self._cut = -math.inf

    @property
    def limit(self) -> int:
        """How many requests may be in flight."""
        return int(self.value)

    def success(self) -> None:
        """Grow by one for as many good answers as may be in flight."""
        self.value = min(float(self.ceiling), self.value + 1.0 / self.value)

    def overload(self, started: float, now: float) -> None:
        """Halve, once a round: requests that began before the last cut tell of the limit before it."""
        if started >= self._cut:
            self.value, self._cut = max(1.0, self.value / 2), now


def backoff(attempt: int, draw: float, first: float = 0.25, longest: float = 8.0) -> float:
    """Return the seconds to wait after try number ``attempt`` (from 0): doubling, between half and all of it.

    Args:
        attempt: number of the try that failed.
        draw: a random number in [0, 1).
        first: the longest wait after the first try.
        longest: the longest wait ever.

    Example:
        >>> [backoff(k, 0.0) for k in range(3)]
        [0.125, 0.25, 0.5]
    """
    return float(min(longest, first * 2 ** min(attempt, 30)) * (0.5 + 0.5 * draw))


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most `LONGEST_WAIT`; None without a usable one.

    Args:
        value: the header: seconds, or a date of HTTP.
        now: the time of day, in seconds since 1970.

    Example:
        >>> retry_after("7", 0.0), retry_after("Thu, 01 Jan 1970 00:00:09 GMT", 4.0), retry_after("soon", 0.0)
        (7.0, 5.0, None)
    """
    if value is None:
        return None
    value = value.strip()
    try:
        digits = value.isascii() and value.isdigit()
        seconds = float(value) if digits else email.utils.parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)
