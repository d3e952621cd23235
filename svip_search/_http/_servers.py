"""Who may be asked now: servers with their limits, the choice between them, and a fair queue before them."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ._limits import Aimd, Breaker, RetryBudget
from ._protocol import Address


@dataclass(frozen=True, slots=True)
class ServerStats:
    """How it stands with one server.

    Args:
        url: its base address.
        healthy: whether its breaker is closed.
        limit: how many requests may be in flight now.
        in_flight: how many are.
    """

    url: str
    healthy: bool
    limit: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class HttpStats:
    """What a client has done so far.

    Args:
        requests: calls of ``post`` and ``get``.
        tries: requests sent, those over connections that had gone stale not counted.
        retries: tries after the first of a call.
        stale: requests sent again, because their connection had been closed in the meantime.
        faults: how many tries failed, by the ``kind`` of their `HttpFault`.
        sent: bytes of the bodies of requests.
        received: bytes of the bodies of answers, decompressed.
        servers: one entry a server.
    """

    requests: int
    tries: int
    retries: int
    stale: int
    faults: dict[str, int]
    sent: int
    received: int
    servers: tuple[ServerStats, ...]


class Server:
    """One server: its limits and what is in flight there."""

    def __init__(self, address: Address, slots: int) -> None:
        self.address = address
        self.aimd, self.breaker = Aimd(slots), Breaker()
        self.in_flight = 0
        self.resting = -math.inf  # until when it asked to be left alone
        self.fault = ""  # what it did wrong last

    def opens(self, now: float) -> float:
        """Return when it may be asked as far as time alone decides: -inf now, inf after the probe."""
        until = max(self.breaker.opens(), self.resting)
        return until if until > now else -math.inf

    def has_room(self, now: float) -> bool:
        """Whether a request may begin."""
        return self.in_flight < self.aimd.limit and self.opens(now) == -math.inf

    @property
    def load(self) -> float:
        """Share of the slots that are taken."""
        return self.in_flight / self.aimd.limit

    def stats(self) -> ServerStats:
        """Return a snapshot."""
        return ServerStats(self.address.url, self.breaker.closed, self.aimd.limit, self.in_flight)


def weight(key: str, name: str) -> bytes:
    """Return the weight of a server for a key: the heaviest gets it, so that a lost one moves its own keys alone."""
    return blake2b(f"{key}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def choose(
    servers: Sequence[Server], key: str | None, tried: Collection[Server], now: float, turn: int = 0
) -> Server | None:
    """Return the server for the next try, None while none has room.

    Args:
        servers: all there are.
        key: the same key goes to the same server while that is healthy and has room.
        tried: those that failed this call already: asked again only if no other has room.
        now: the time.
        turn: breaks ties between equally loaded servers.
    """
    if len(servers) == 1:
        return servers[0] if servers[0].has_room(now) else None
    open_now = [s for s in servers if s.opens(now) == -math.inf]
    fresh = [s for s in open_now if s not in tried]
    return _pick(fresh, key, now, turn) or _pick(open_now, key, now, turn)


def _pick(servers: Sequence[Server], key: str | None, now: float, turn: int) -> Server | None:
    if key is not None and servers:
        first = max(servers, key=lambda s: weight(key, s.address.url))
        if first.has_room(now):
            return first
    k = turn % len(servers) if servers else 0
    with_room = [s for s in (*servers[k:], *servers[:k]) if s.has_room(now)]
    return min(with_room, key=lambda s: s.load, default=None)


class Slot:
    """A place in flight at a server."""

    __slots__ = ("probe", "server", "started")

    def __init__(self, server: Server, probe: bool, started: float) -> None:
        self.server, self.probe, self.started = server, probe, started


class Place:
    """A call's place in the queue: kept over its tries, so that the oldest call is served first."""

    __slots__ = ("key", "loop", "queued", "signal", "slot", "thread", "ticket", "tried")

    def __init__(self, ticket: int, key: str | None) -> None:
        self.ticket, self.key = ticket, key
        self.tried: set[Server] = set()
        self.slot: Slot | None = None
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.signal: asyncio.Future[None] | None = None
        self.queued = False

    def __lt__(self, other: Place) -> bool:
        return self.ticket < other.ticket

    def wake(self) -> None:
        """Let the call look again; from any thread."""
        signal = self.signal
        if signal is None:
            return
        if self.thread == threading.get_ident():
            _ring(signal)
        else:
            try:
                self.loop.call_soon_threadsafe(_ring, signal)
            except RuntimeError:  # its event loop is closed: nobody waits there
                self.signal = None


def _ring(signal: asyncio.Future[None]) -> None:
    if not signal.done():
        signal.set_result(None)


class Gate:
    """Hands out slots in order of admission; shared by all event loops and threads that use a client.

    Args:
        addresses: of the servers.
        slots: most requests in flight at each.
    """

    def __init__(self, addresses: Iterable[Address], slots: int) -> None:
        self.servers = [Server(address, slots) for address in addresses]
        # A limit that is halved from `slots` down to one is refused twice that many requests on the way.
        self.budget = RetryBudget(max(10.0, 2.0 * slots * len(self.servers)))
        self.faults: Counter[str] = Counter()
        self.requests = self.tries = self.retries = self.stale = self.sent = self.received = 0
        self._tickets = itertools.count()
        self._lock = threading.RLock()  # the collector may end an abandoned call while it is held
        self._queue: list[Place] = []

    def admit(self, key: str | None) -> Place:
        """Return the place of a new call."""
        with self._lock:
            self.requests += 1
            self.budget.request()
        return Place(next(self._tickets), key)

    def enter(self, place: Place, now: float) -> Slot | None:
        """Return a slot if it is this call's turn and there is one; else the place is queued."""
        with self._lock:
            if place.slot is not None:
                return place.slot  # handed over while it waited
            if self._queue:
                self._queue_up(place)
                self._serve(now)
            else:
                place.slot = self._grant(place, now)
                if place.slot is None:
                    self._queue_up(place)
            return place.slot

    def _queue_up(self, place: Place) -> None:
        place.signal = place.loop.create_future()
        if not place.queued:
            place.queued = True
            heapq.heappush(self._queue, place)

    def _grant(self, place: Place, now: float) -> Slot | None:
        server = choose(self.servers, place.key, place.tried, now, self.tries)
        if server is None:
            return None
        self.tries += 1
        server.in_flight += 1
        return Slot(server, server.breaker.begin(), now)

    def _serve(self, now: float) -> None:
        """Give slots to those who wait, the oldest first."""
        while self._queue:
            place = self._queue[0]
            if place.queued and not place.loop.is_closed():  # else the call has left
                slot = self._grant(place, now)
                if slot is None:
                    return
                place.slot, place.queued = slot, False
                place.wake()
            heapq.heappop(self._queue)

    def quit(self, place: Place, now: float) -> None:
        """Take a call out of the queue, and give back a slot that it was just given."""
        with self._lock:
            place.queued = False
            slot, place.slot = place.slot, None
            if slot is not None:
                self.tries -= 1
                self.leave(slot, now, healthy=None)

    def leave(
        self,
        slot: Slot,
        now: float,
        *,
        healthy: bool | None,
        overload: bool = False,
        rest: float = 0.0,
        fault: str = "",
    ) -> None:
        """Give a slot back, with what it showed of the server.

        Args:
            slot: as it was given.
            now: the time.
            healthy: whether the server answered as it should, None if that cannot be told.
            overload: whether it had too much to do.
            rest: seconds that it wants to be left alone.
            fault: what went wrong, for messages.
        """
        server, breaker = slot.server, slot.server.breaker
        with self._lock:
            server.in_flight -= 1
            openings = breaker.openings
            if healthy is None:
                breaker.nothing(slot.probe)
            elif healthy:
                breaker.success()
            else:
                breaker.failure(now, slot.probe)
            if overload:
                server.aimd.overload(slot.started, now)
            elif healthy:
                server.aimd.success()
            server.resting = max(server.resting, now + rest if rest else -math.inf)
            server.fault = fault or server.fault
            if self._queue:
                self._serve(now)
                if rest or breaker.openings > openings:
                    self._nudge()

    def _nudge(self) -> None:
        """Let everybody look again, for what they wait for may now be a moment instead of a slot."""
        for place in self._queue:
            place.wake()

    def next_opening(self, now: float) -> float:
        """Return when the next server that may not be asked may be, inf if only an answer can tell."""
        return min((t for s in self.servers if (t := s.opens(now)) > now), default=math.inf)

    def any_open(self, now: float) -> bool:
        """Whether some server may be asked, room or not."""
        return any(s.opens(now) == -math.inf for s in self.servers)

    def any_fresh(self, place: Place, now: float) -> bool:
        """Whether a server has room that has not failed this call yet."""
        return any(s.has_room(now) for s in self.servers if s not in place.tried)

    @property
    def openings(self) -> int:
        """How often breakers have opened."""
        return sum(s.breaker.openings for s in self.servers)

    def may_retry(self, now: float) -> bool:
        """Take a retry out of the budget if it has one."""
        with self._lock:
            return self.budget.retry(now)

    def count(
        self, *, fault: str | None = None, retries: int = 0, sent: int = 0, received: int = 0, stale: int = 0
    ) -> None:
        """Add to the statistics."""
        with self._lock:
            self.retries += retries
            self.sent += sent
            self.received += received
            self.stale += stale
            if fault is not None:
                self.faults[fault] += 1

    def stats(self) -> HttpStats:
        """Return a snapshot."""
        with self._lock:
            servers = tuple(s.stats() for s in self.servers)
            counts = (self.requests, self.tries, self.retries, self.stale)
            return HttpStats(*counts, dict(self.faults), self.sent, self.received, servers)
