"""The HTTP client under load: requests a second and how long one takes with 64 in flight, beside other clients.

``pytest benchmarks/serving/bench_client.py``, or ``python benchmarks/serving/bench_client.py`` for a record.
The openai SDK and the httpx2 it is built on are compared where they are importable::

    pip install --target /tmp/openai_sdk openai==3.54.0
    python benchmarks/serving/bench_client.py --packages /tmp/openai_sdk

The server is a process of its own that answers 200 bytes, either at once or after 50 ms; what a request takes
beyond those is the overhead of client and machine together.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only
from timing import version, write_record

from svip_search._http import HttpClient

IN_FLIGHT, REQUESTS, ROUNDS = 64, 3000, 7
DELAYS = {"answers at once": 0.0, "answers after 50 ms": 0.05}
BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "How many circles are in the third row? " * 4}],
    "temperature": 1.0,
    "max_tokens": 64,
    "n": 1,
}
MESSAGE = {"role": "assistant", "content": "There are three circles in the first row."}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 39},
}

#: What the SDK is built on.
HTTPX = "httpx2"

Ask = Callable[[], Awaitable[str]]
Figures = dict[str, float]


# ---- the server ---------------------------------------------------------------------------------


class Answerer(asyncio.Protocol):
    """Answers every request with the same bytes."""

    delay = 0.0
    raw = json.dumps(ANSWER).encode()
    message = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(raw), raw)

    def connection_made(self, transport: Any) -> None:
        self.transport, self.data = transport, b""
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, blank, body = self.data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if blank and len(body) >= size:
            self.data = body[size:]
            if self.delay:
                self.loop.call_later(self.delay, self.transport.write, self.message)
            else:
                self.transport.write(self.message)


async def serve(delay: float) -> None:
    """Print the port and serve until the process is ended."""
    Answerer.delay = delay
    server = await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def server_process(delay: float) -> Iterator[str]:
    """Run a server in a process of its own; yield its base address."""
    command = [sys.executable, __file__, "--serve", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


# ---- the clients --------------------------------------------------------------------------------


def text_of(answer: Any) -> str:
    """Return the text of an answer."""
    return str(answer["choices"][0]["message"]["content"])


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Ask]:
    """This library's client."""
    client = HttpClient(url, slots=IN_FLIGHT)
    try:
        yield lambda: client.post("/chat/completions", BODY, text_of)
    finally:
        await client.arelease()


@asynccontextmanager
async def bare_aiohttp(url: str) -> AsyncIterator[Ask]:
    """aiohttp as it comes, without retries, limits or checks."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> str:
            async with session.post(url + "/chat/completions", json=BODY) as response:
                return text_of(await response.json())

        yield ask


@asynccontextmanager
async def openai_sdk(url: str) -> AsyncIterator[Ask]:
    """The SDK of OpenAI."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask() -> str:
            answer = await client.chat.completions.create(**BODY)
            return str(answer.choices[0].message.content)

        yield ask


@asynccontextmanager
async def bare_httpx(url: str) -> AsyncIterator[Ask]:
    """What that SDK is built on, as it comes."""
    httpx = importlib.import_module(HTTPX)

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:

        async def ask() -> str:
            return text_of((await client.post(url + "/chat/completions", json=BODY)).json())

        yield ask


CLIENTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "svip-search": ("svip_search", ours),
    "aiohttp": ("aiohttp", bare_aiohttp),
    "openai": ("openai", openai_sdk),
    HTTPX: (HTTPX, bare_httpx),
}


def available() -> tuple[dict[str, Callable[[str], Any]], dict[str, str]]:
    """Return the clients that can be imported, and why the others cannot."""
    found, missing = {}, {}
    for name, (module, client) in CLIENTS.items():
        try:
            importlib.import_module(module)
            found[name] = client
        except ImportError as error:
            missing[name] = f"left out: {error}"
    return found, missing


# ---- measuring ----------------------------------------------------------------------------------


async def load(client: Callable[[str], Any], url: str, requests: int, delay: float) -> Figures:
    """Keep 64 requests in flight until so many are answered; connections are open before the clock starts."""
    times: list[float] = []
    left = requests

    async def work(ask: Ask) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            start = time.perf_counter()
            text = await ask()
            times.append(time.perf_counter() - start)
            assert text == MESSAGE["content"]

    async with client(url) as ask:
        await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))
        start, start_cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work(ask) for _ in range(IN_FLIGHT)))
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    p50, p99 = np.percentile(times, [50, 99]) * 1e3 - delay * 1e3
    figures = {"requests_per_second": requests / seconds, "p50_ms": p50, "p99_ms": p99}
    return figures | {"cpu_us_per_request": cpu / requests * 1e6}


def spread(rows: list[Figures]) -> dict[str, dict[str, float]]:
    """Return median, p20 and p80 of each figure."""
    found = {}
    for name in rows[0]:
        p20, p50, p80 = np.percentile([row[name] for row in rows], [20, 50, 80])
        found[name] = {"p50": round(float(p50), 2), "p20": round(float(p20), 2), "p80": round(float(p80), 2)}
    return found


def measure(clients: dict[str, Callable[[str], Any]], delay: float, requests: int, rounds: int) -> dict[str, Any]:
    """Let the clients take turns, so that a busy spell of the machine hits all."""
    rows: dict[str, list[Figures]] = {name: [] for name in clients}
    with server_process(delay) as url:
        for turn in range(rounds + 1):
            for name, client in clients.items():
                slow = name in ("openai", HTTPX)
                row = asyncio.run(load(client, url, requests // 5 if slow else requests, delay))
                if turn:  # the first one warms up
                    rows[name].append(row)
                    print(".", end="", flush=True)
    return {name: spread(found) for name, found in rows.items()}


def show(title: str, figures: dict[str, Any]) -> None:
    """Print a table."""
    print(f"\n{title}, {IN_FLIGHT} in flight: median (p20-p80)")
    print(f"{'':14}{'requests/s':>26}{'p50 ms':>24}{'p99 ms':>24}{'cpu us':>10}")
    for name, row in figures.items():
        cells = [row[key] for key in ("requests_per_second", "p50_ms", "p99_ms")]
        texts = [f"{c['p50']:,.1f} ({c['p20']:,.1f}-{c['p80']:,.1f})" for c in cells]
        print(f"{name:14}{texts[0]:>26}{texts[1]:>24}{texts[2]:>24}{row['cpu_us_per_request']['p50']:>10.0f}")


# ---- pytest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["svip-search", "aiohttp"])
def bench_requests(benchmark: Any, name: str) -> None:
    """Time a thousand requests."""
    with server_process(0.0) as url:
        benchmark.pedantic(lambda: asyncio.run(load(CLIENTS[name][1], url, 1000, 0.0)), rounds=5, warmup_rounds=1)


def main() -> None:
    """Print the tables and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", metavar="FOLDER", help="where the openai SDK lies, if it is not installed")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of a round; a fifth for the slow clients")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-record", action="store_true", help="print only")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return
    if options.packages:
        sys.path.append(options.packages)  # last: what it brings along stays hidden behind what is installed
    clients, missing = available()
    for name, why in missing.items():
        print(name, why)
    figures: dict[str, Any] = {
        "load": {"in_flight": IN_FLIGHT, "requests": options.requests, "rounds": options.rounds},
        "versions": {name: version(name) for name in CLIENTS} | missing,
    }
    for title, delay in DELAYS.items():
        figures[title] = measure(clients, delay, options.requests, options.rounds)
        show(title, figures[title])
    if not options.no_record:
        print(write_record("http_client", figures))


if __name__ == "__main__":
    main()
