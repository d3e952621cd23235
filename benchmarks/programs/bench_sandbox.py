"""The sandbox: what a program of six blocks and eight calls costs, and how many run in a second.

``pytest benchmarks/programs/bench_sandbox.py``, or ``python benchmarks/programs/bench_sandbox.py`` for a record.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks are no package
from timing import version, write_record

from svip_search.programs import Region
from svip_search.programs.sandbox import Sandbox

BLOCKS = (
    'objects = image.find("object")',
    "numbers = [o.number() for o in objects]\nnumbers",
    "known = sorted(n for n in numbers if n != '?')\nknown",
    "steps = [b - a for a, b in zip(known, known[1:])]\nsteps",
    "total = known[-1] + steps[-1]\ntotal",
    "answer = str(total)",
)


class Seven:
    """Seven objects with the numbers 1 to 7, the last one missing."""

    objects = tuple(Region(0.1 * i, 0.4, 0.1 * i + 0.08, 0.6) for i in range(7))

    def call(self, method: str, region: Region, arguments: Sequence[Any]) -> Any:
        if method == "find":
            return list(self.objects)
        place = self.objects.index(region)
        return "?" if place == 6 else place + 1


def once(sandbox: Sandbox) -> None:
    """Run the program."""
    assert sandbox.run(BLOCKS, Seven()).answer == "7"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as box:
        yield box


def bench_program(benchmark: Any, sandbox: Sandbox) -> None:
    """Time a program."""
    benchmark(once, sandbox)


def bench_shortest_program(benchmark: Any, sandbox: Sandbox) -> None:
    """Time what no program can save."""
    benchmark(sandbox.run, ["1"], Seven())


def bench_hundred_programs(benchmark: Any, sandbox: Sandbox) -> None:
    """Time a hundred programs on two workers."""
    benchmark(sandbox.run_many, [(BLOCKS, Seven())] * 100)


def latency(sandbox: Sandbox, blocks: Sequence[str], rounds: int = 3000) -> dict[str, float]:
    """Return milliseconds of one program on the clock on the wall, and of this process's processor time."""
    times, cpu = [], time.process_time()
    for _ in range(rounds):
        start = time.perf_counter()
        sandbox.run(blocks, Seven())
        times.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / rounds
    p20, p50, p80, p99 = np.percentile(times, [20, 50, 80, 99]) * 1e3
    figures = {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "p99_ms": p99, "cpu_here_ms": cpu * 1e3}
    return {name: round(float(ms), 3) for name, ms in figures.items()}


def rate(workers: int, rounds: int = 7, programs: int = 1000) -> dict[str, float]:
    """Return programs a second, and the processor time of one in all processes, which a busy machine hardly changes."""
    jobs, rates, before = [(BLOCKS, Seven())] * programs, [], _cpu()
    with Sandbox(workers=workers) as sandbox:
        sandbox.run_many(jobs)
        for _ in range(rounds):
            start = time.perf_counter()
            sandbox.run_many(jobs)
            rates.append(programs / (time.perf_counter() - start))
    p20, p50, p80 = np.percentile(rates, [20, 50, 80])
    cpu = (_cpu() - before) / programs / (rounds + 1)
    return {
        "p20": round(p20),
        "p50": round(p50),
        "p80": round(p80),
        "max": round(max(rates)),
        "cpu_ms": round(cpu * 1e3, 3),
    }


def _cpu() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def after_crash(rounds: int = 20) -> dict[str, float]:
    """Return milliseconds of the first program after its worker was killed in the middle of another."""
    times = []
    with Sandbox() as sandbox:
        for _ in range(rounds):
            once(sandbox)
            crashed = sandbox.run(["image.number()"], _Killer())
            assert crashed.blocks[-1].error == "crash"
            start = time.perf_counter()
            once(sandbox)
            times.append(time.perf_counter() - start)
    p20, p50, p80 = np.percentile(times, [20, 50, 80]) * 1e3
    return {
        "p20_ms": round(p20, 1),
        "p50_ms": round(p50, 1),
        "p80_ms": round(p80, 1),
        "max_ms": round(max(times) * 1e3, 1),
    }


class _Killer:
    """Kills the workers of this process in the middle of the program that asks it."""

    def call(self, method: str, region: Region, arguments: Sequence[Any]) -> Any:
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        time.sleep(0.02)
        return 1


def main() -> None:
    """Write the record."""
    with Sandbox() as sandbox:
        once(sandbox)
        figures: dict[str, Any] = {
            "unit": "a program of 6 blocks and 8 calls",
            "sandbox": sandbox.kind,
            "pydantic-monty": version("pydantic-monty"),
            "program": latency(sandbox, BLOCKS),
            "shortest program": latency(sandbox, ["1"]),
        }
    figures["programs a second, 1 worker"] = rate(1)
    figures["programs a second, 2 workers"] = rate(2)
    figures["after a crash"] = after_crash()
    print(write_record("sandbox", figures).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
