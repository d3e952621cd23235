"""What is open: a session an event loop, and the thread behind the synchronous door."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from aiohttp import ClientSession

T = TypeVar("T")


async def _kept(session: ClientSession) -> AsyncGenerator[None, None]:
    """Close a session when it is closed itself, which a dying event loop does to its generators."""
    try:
        yield
    finally:
        await session.close()
        await asyncio.sleep(0)  # the transports close their sockets in the next turn


class Sessions:
    """Sessions by event loop, and a private loop in a thread; all made when first needed."""

    def __init__(self, headers: dict[str, str], secure: bool) -> None:
        self._headers, self._secure = headers, secure
        self._open: dict[asyncio.AbstractEventLoop, tuple[ClientSession, AsyncGenerator[None, None]]] = {}
        self._thread: _LoopThread | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    async def get(self) -> ClientSession:
        """Return the session of the running loop."""
        loop = asyncio.get_running_loop()
        held = self._open.get(loop)
        if held is not None and not held[0].closed:
            return held[0]
        self._bury()
        from ._exchange import new_session

        session = new_session(self._headers, self._secure)
        guard = _kept(session)
        self._open[loop] = session, guard
        await anext(guard)
        return session

    async def arelease(self) -> None:
        """Close the session of the running loop."""
        held = self._open.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[1].aclose()

    def _bury(self) -> None:
        """Forget the sessions of loops that are closed."""
        for loop in list(self._open):  # a copy, which other threads may make longer meanwhile
            if loop.is_closed() and (held := self._open.pop(loop, None)) is not None:
                _abandon(held[0])

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns that runs in the private loop."""
        with self._lock:
            if self._thread is None:
                self._thread = _LoopThread()
            thread = self._thread
        return thread.run(coroutine)

    def close(self) -> None:
        """Close everything, from any thread; what was inherited over a fork belongs to the other process."""
        if self._process != os.getpid():
            return _disown(self._open)
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()
        self._bury()
        for loop in list(self._open):
            held = self._open.pop(loop, None)
            if held is not None:
                _close_in(loop, *held)
        return None


def _close_in(loop: asyncio.AbstractEventLoop, session: ClientSession, guard: AsyncGenerator[None, None]) -> None:
    """Close a session in its loop, which may run in this thread, in another or not at all."""
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is running:
        _closing(guard)
    elif loop.is_running():
        with suppress(RuntimeError):  # it may end right now, which closes the session as well
            loop.call_soon_threadsafe(_closing, guard)
    elif running is None:
        with suppress(RuntimeError):
            loop.run_until_complete(guard.aclose())
    else:
        _abandon(session)


_tasks: set[asyncio.Task[None]] = set()


def _closing(guard: AsyncGenerator[None, None]) -> None:
    async def close() -> None:
        await guard.aclose()

    task = asyncio.get_running_loop().create_task(close())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _abandon(session: ClientSession) -> None:
    """Close the sockets of a session whose loop was closed under it; only reaching inside gets at them."""
    if session.closed:
        return
    connector: Any = session.connector
    session.detach()
    held = [p for waiting in getattr(connector, "_conns", {}).values() for p, *_ in waiting]
    for protocol in [*held, *getattr(connector, "_acquired", ())]:
        _drop(getattr(protocol, "transport", None))
    with suppress(Exception):
        connector._close()


def _drop(transport: Any) -> None:
    if transport is None:
        return
    _drop(getattr(getattr(transport, "_ssl_protocol", None), "_transport", None))
    if hasattr(transport, "_ssl_protocol"):
        transport._closed = True
    elif getattr(transport, "_sock", None) is not None:
        transport._sock.close()
        transport._sock = None


_inherited: list[Any] = []


def _disown(sessions: dict[Any, Any]) -> None:
    """Keep inherited sessions from being closed: their selector is shared with the other process."""
    for session, guard in sessions.values():
        connector: Any = session.connector
        session.detach()
        if connector is not None:
            connector._closed = True
        _inherited.append((session, guard, connector))
    sessions.clear()


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(_wait(ready),), name="svip-http", daemon=True)
        self._thread.start()
        self._loop, self._end = ready.result()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._thread is threading.current_thread():
            coroutine.close()
            raise RuntimeError("`run` must not be called from a coroutine that it runs.")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # such as KeyboardInterrupt
            raise

    def stop(self) -> None:
        with suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not threading.current_thread():
            self._thread.join(10)


async def _wait(ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    end = asyncio.Event()
    ready.set_result((asyncio.get_running_loop(), end))
    await end.wait()
