"""One call on its way through tries, waits and servers."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from .._errors import SvipSearchError
from ._limits import backoff
from ._protocol import OVERLOAD, HttpFault, Kind, parse
from ._servers import Gate, Server, Slot
from ._sessions import Sessions

T = TypeVar("T")
#: How often a call that a busy server refused looks for a retry in the budget: after six seconds it is no storm.
_PATIENCE = 5


class Settings(NamedTuple):
    """What the calls of a client share."""

    gate: Gate
    sessions: Sessions
    retries: int
    max_bytes: int
    timeout: float
    clean: Callable[[str], str]


class Call:
    """One request, sent until there is a usable answer.

    Args:
        client: what it shares with others.
        method: POST or GET.
        path: after the base address.
        data: the body.
        seconds: until the deadline.
        key: of the server's choice.
    """

    def __init__(
        self, client: Settings, method: str, path: str, data: bytes | None, seconds: float, key: str | None
    ) -> None:
        self.client, self.gate = client, client.gate
        self.method, self.path, self.data, self.seconds = method, path, data, seconds
        self.end = time.monotonic() + seconds
        self.place = client.gate.admit(key)
        self.server: Server | None = None
        self.fault: HttpFault | None = None
        self.made = 0

    @property
    def where(self) -> str:
        """The server that messages name."""
        servers = [self.server] if self.server is not None else self.gate.servers
        return ", ".join(s.address.authority for s in servers)

    def late(self) -> HttpFault:
        """Return what to say at the deadline."""
        did = "did not answer" if self.server is not None else "had no free slot"
        before = f"; before that it {self.fault}" if self.fault is not None else ""
        return HttpFault(f"{did} within {self.seconds:.3g} s{before}", "timeout", passing=False)

    async def tries(self, read: Callable[[Any], T]) -> T:
        """Return what ``read`` makes of the first usable answer.

        Raises:
            HttpFault: there is none.
        """
        while True:
            slot = await self._slot()
            self.server = slot.server
            if self.made:
                self.gate.count(retries=1)
            self.made += 1
            try:
                return await self._once(slot, read)
            except HttpFault as fault:
                self.fault = fault
            await self._again(self.fault)

    # between tries

    async def _again(self, fault: HttpFault) -> None:
        """Return when another try may begin; raise if none may."""
        if not fault.passing:
            raise fault
        if self.made > self.client.retries:
            raise self._told(fault)
        await self._allowed(fault)
        self._avoid()
        now = time.monotonic()
        if fault.wait is not None or self.gate.any_fresh(self.place, now):
            return  # the gate keeps the server's rest
        wait = backoff(self.made - 1, random.random())
        if now + wait >= self.end:
            raise self._told(fault, "; no time is left for another")
        await asyncio.sleep(wait)

    async def _allowed(self, fault: HttpFault) -> None:
        """Take a retry out of the budget; without one, wait if the server has too much to do, else raise."""
        for attempt in range(_PATIENCE):
            if self.gate.may_retry(time.monotonic()):
                return
            if fault.status not in OVERLOAD:
                raise self._told(fault, "; too many requests were tried again already", "budget")
            await asyncio.sleep(backoff(attempt, random.random()))

    def _told(self, fault: HttpFault, more: str = "", kind: Kind | None = None) -> HttpFault:
        """Return a fault that says how often it was tried."""
        tries = f"after {self.made} {'try' if self.made == 1 else 'tries'}"
        return HttpFault(f"{fault}, {tries}{more}", kind or fault.kind, status=fault.status, passing=fault.passing)

    def _avoid(self) -> None:
        """Prefer servers that have not failed this call; once all have, all but the last."""
        assert self.server is not None
        self.place.tried.add(self.server)
        if len(self.place.tried) == len(self.gate.servers):
            self.place.tried = {self.server}

    async def _slot(self) -> Slot:
        """Return a slot as soon as it is this call's turn."""
        gate, place = self.gate, self.place
        openings = gate.openings
        try:
            while (slot := gate.enter(place, time.monotonic())) is None:
                await self._wait(openings)
        except BaseException:
            gate.quit(place, time.monotonic())
            raise
        place.slot = place.signal = None
        return slot

    async def _wait(self, openings: int) -> None:
        """Return when there may be a slot; raise if no server will be asked in time."""
        now, signal = time.monotonic(), self.place.signal
        assert signal is not None
        opening = self.gate.next_opening(now)
        if not self.gate.any_open(now):
            # A probe that fails while this call waits counts as a try of its own; who has one try only never waits.
            failed = self.gate.openings - openings
            left = (self.client.retries + 1 - self.made) * len(self.gate.servers) if self.client.retries else 0
            if self.end <= opening < math.inf or failed >= left:
                raise self._closed(opening - now)
        timer = None
        if opening < math.inf:
            timer = self.place.loop.call_later(max(0.0, opening - now), self.place.wake)
        try:
            await signal
        finally:
            if timer is not None:
                timer.cancel()

    def _closed(self, seconds: float) -> HttpFault:
        """Return what to say when no server may be asked."""
        if self.fault is not None:
            return self._told(self.fault, "; no time is left for another")
        when = f" for another {seconds:.1f} s" if seconds < math.inf else ""
        said = "; ".join(dict.fromkeys(s.fault for s in self.gate.servers if s.fault))
        return HttpFault(f"is left alone{when}: it {said}", "unavailable")

    # one try

    async def _once(self, slot: Slot, read: Callable[[Any], T]) -> T:
        """Return what comes of one slot, and give the slot back with what was learnt of the server."""
        healthy: bool | None = True
        overload, rest, fault = False, 0.0, ""
        try:
            return await self._exchange(slot.server, read)
        except HttpFault as found:
            healthy, overload = _alive(found), found.status in OVERLOAD
            rest, fault = found.wait or 0.0, str(found)
            self.gate.count(fault=found.kind)
            raise
        except asyncio.CancelledError:
            healthy = None
            now = time.monotonic()
            if now >= self.end:  # else the caller left, which says nothing of the server
                fault = f"did not answer within {self.seconds:.3g} s"
                self.gate.count(fault="timeout")
                if now - slot.started >= self.client.timeout / 2:  # a call in a hurry says little, too
                    healthy, overload = False, True
            raise
        finally:
            self.gate.leave(slot, time.monotonic(), healthy=healthy, overload=overload, rest=rest, fault=fault)

    async def _exchange(self, server: Server, read: Callable[[Any], T]) -> T:
        from ._exchange import exchange

        clean = self.client.clean
        session = await self.client.sessions.get()
        url = server.address.url + self.path
        raw, stale = await exchange(session, self.method, url, self.data, self.client.max_bytes, clean)
        self.gate.count(sent=len(self.data or b""), received=len(raw), stale=stale)
        return parse(raw, read, clean, (SvipSearchError,))


def _alive(fault: HttpFault) -> bool | None:
    """Return whether a server that answered so is healthy, None if that cannot be told."""
    if fault.kind in ("redirect", "size"):
        return None
    return fault.kind == "status" and fault.status is not None and fault.status < 500
