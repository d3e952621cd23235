"""What the tests of servers share: plain requests, and models that can be held and watched."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from svip_search import ProposeRequest, Question, Usage
from svip_search.testing import HashPolicy, HashReward


def ask(url: str, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> tuple[int, Any]:
    """Send one request; return status and parsed JSON.  A body that is no bytes becomes JSON."""
    status, answer, _ = ask_all(url, path, body, token=token, **headers)
    return status, answer


def ask_all(
    url: str, path: str, body: Any = None, *, token: str | None = None, method: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """The same, with the headers of the answer by their names in small letters."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    sent = {} if body is None else {"Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def raw_socket(url: str) -> socket.socket:
    """Return a connection to a server."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def post_bytes(path: str, body: Any) -> bytes:
    """Return a whole POST request."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def chat(text: str = "Which?", so_far: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chat request."""
    turns = [{"role": "user", "content": text}]
    if so_far is not None:
        turns.append({"role": "assistant", "content": so_far})
    return {"messages": turns, **fields}


def picture_url(width: int = 8, height: int = 8, kind: str = "PNG", seed: int = 0) -> str:
    """Return the ``data:`` address of a random picture."""
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def waiting(app: Any) -> int:
    """Return how many requests wait for the model of an application."""
    return len(app.state.server.batcher._waiting)


class Held:
    """A gate in a model: calls wait at it, and say that they do."""

    def __init__(self) -> None:
        self.entered, self.gate = threading.Semaphore(0), threading.Event()

    def wait(self) -> None:
        self.entered.release()
        assert self.gate.wait(60)

    def arrived(self) -> None:
        """Wait until a call has come to the gate."""
        assert self.entered.acquire(timeout=60)


def together(app: Any, held: Held, calls: Sequence[Callable[[], object]]) -> None:
    """Make calls of a server so that all but the first wait while its model works on that one."""
    threads = [threading.Thread(target=call) for call in calls]
    threads[0].start()
    held.arrived()
    for thread in threads[1:]:
        thread.start()
    until(lambda: waiting(app) == len(threads) - 1)
    held.gate.set()
    for thread in threads:
        thread.join()


class HeldPolicy(HashPolicy):
    """Notes what it is asked, and answers when its gate is open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.held = Held()
        self.calls: list[list[ProposeRequest]] = []

    def propose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        self.calls.append(list(requests))
        self.held.wait()
        return super().propose(requests)


class CountingReward(HashReward):
    """Notes what it is asked, and says what it has spent."""

    def __init__(self, kind: Any = "prm") -> None:
        super().__init__(kind=kind)
        self.usage = Usage()
        self.calls: list[list[tuple[Question, Any]]] = []

    def evaluate_many(self, items: Any) -> list[Any]:
        self.calls.append(list(items))
        return [self.evaluate(*item) for item in items]

    def evaluate(self, question: Question, paths: Any) -> list[Any]:
        self.usage.reward_calls += len(paths)
        self.usage.reward_tokens += sum(map(len, paths))
        return super().evaluate(question, paths)
