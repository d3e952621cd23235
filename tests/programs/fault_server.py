"""A model server that misbehaves as told: one behaviour a request, the last one for ever."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

Behaviour = Callable[[socket.socket, dict[str, Any]], None]


def reply(body: bytes | Any, status: str = "200 OK", kind: str = "application/json", **headers: str) -> Behaviour:
    """Answer with a body (JSON unless it is bytes)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(raw)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return lambda sock, request: sock.sendall("\r\n".join([*lines, "", ""]).encode() + raw)


def choices(*texts: str | None) -> Behaviour:
    """Answer with these texts, in the form of the request's protocol."""

    def send(sock: socket.socket, request: dict[str, Any]) -> None:
        chat = "messages" in request["body"]
        found = [{"message": {"content": t}} if chat else {"text": t} for t in texts]
        reply({"choices": found})(sock, request)

    return send


def drip(data: bytes, seconds: float) -> Behaviour:
    """Send one byte every ``seconds``."""

    def send(sock: socket.socket, request: dict[str, Any]) -> None:
        for byte in data:
            sock.sendall(bytes([byte]))
            time.sleep(seconds)

    return send


def reset(sock: socket.socket, request: dict[str, Any]) -> None:
    """Break the connection."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def raw(data: bytes) -> Behaviour:
    """Send bytes and close."""
    return lambda sock, request: sock.sendall(data)


class Faults(socketserver.ThreadingTCPServer):
    """Remembers what it was asked, as ``{"path", "headers", "body", "time"}``."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self.behaviours, self.requests = list(behaviours), list[dict[str, Any]]()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(socketserver.StreamRequestHandler):
    server: Faults

    def handle(self) -> None:
        path = self.rfile.readline().decode().split()[1]
        headers = dict(line.decode().strip().split(": ", 1) for line in iter(self.rfile.readline, b"\r\n"))
        body = json.loads(self.rfile.read(int(headers["Content-Length"])))
        request = {"path": path, "headers": headers, "body": body, "time": time.monotonic()}
        self.server.requests.append(request)
        k = min(len(self.server.requests), len(self.server.behaviours)) - 1
        with suppress(OSError):  # the client may have gone
            self.server.behaviours[k](self.request, request)


@contextmanager
def fault_server(*behaviours: Behaviour) -> Iterator[Faults]:
    """Serve on an ephemeral port of the loopback interface."""
    with Faults(behaviours) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
