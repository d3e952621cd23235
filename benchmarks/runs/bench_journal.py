"""The journal: what claiming and finishing an item costs, how a million items are opened, and what 200 kills lose.

``pytest benchmarks/runs/bench_journal.py``, or ``python benchmarks/runs/bench_journal.py`` for a record.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # neither benchmarks nor tests are a package
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "runs"))
from journal_worker import kill_many
from timing import version, write_record

from svip_search._journal import Journal

PAYLOAD = {"text": "What comes next in the sequence of figures?", "images": ["a.png"], "options": list("1234")}
RESULT = {"answer": "3", "score": 0.75, "steps": [{"text": "step " * 30, "reward": [0.5, 0.25, 1.0]}] * 8}
CALL = json.dumps({"choices": [{"text": "The shapes alternate, so the next one is a circle. " * 8}] * 4}).encode()
MILLION = 1_000_000


def items(count: int, *, scattered: bool = False) -> Iterator[tuple[str, str, Any]]:
    """Yield items whose ids come in their order, or in none, as digests do."""
    for number in range(count):
        id = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" if scattered else f"question {number:07}"
        yield id, f"{number:032x}", PAYLOAD


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal") as journal:
        journal.add(items(100_000))
        yield journal


def cycle(journal: Journal, claimed: int) -> int:
    """Claim items and finish them."""
    for item in journal.claim("me", claimed, 60):
        journal.finish("me", item.id, RESULT)
    return claimed


@pytest.mark.parametrize("claimed", [1, 32])
def bench_claim_and_finish(benchmark: Any, journal: Journal, claimed: int) -> None:
    """Time one claim and the finishing of what it gave."""
    benchmark.pedantic(cycle, (journal, claimed), rounds=50)


def bench_cache(benchmark: Any, journal: Journal) -> None:
    """Time a call that is put in the cache and found there."""
    numbers = iter(range(10**9))

    def put_and_get() -> None:
        key = f"{next(numbers):064x}"
        journal.cache({key: CALL})
        journal.cached([key])

    benchmark(put_and_get)


def cost(run: Callable[[], int], rounds: int = 9) -> dict[str, float]:
    """Return microseconds a unit: of this process's processor time, and on the wall, where a disk is waited for."""
    run()
    samples = []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        units = run()
        samples.append(((time.process_time() - cpu) / units * 1e6, (time.perf_counter() - start) / units * 1e6))
    (cpu_20, wall_20), (cpu_50, wall_50), (cpu_80, wall_80) = np.percentile(samples, [20, 50, 80], axis=0)
    found = {"cpu_p20_us": cpu_20, "cpu_p50_us": cpu_50, "cpu_p80_us": cpu_80}
    found |= {"wall_p20_us": wall_20, "wall_p50_us": wall_50, "wall_p80_us": wall_80}
    return {name: round(float(us), 1) for name, us in found.items()}


def an_item(folder: Path, claimed: int) -> dict[str, float]:
    """Return what claiming, finishing and reading the result of an item costs."""

    def run() -> int:
        units, known = 0, []
        while units < 320:
            for item in journal.claim("me", claimed, 60):
                known.append(item.id)
                journal.finish("me", item.id, RESULT)
            units += claimed
        assert len(list(journal.results(known))) == units
        return units

    with Journal.open(folder / f"claim {claimed}") as journal:
        journal.add(items(100_000))
        return cost(run)


def parts(folder: Path) -> dict[str, Any]:
    """Return the same for every method by itself, and for lines appended to a file and synced, which is the least."""
    found: dict[str, Any] = {}
    with Journal.open(folder / "parts") as journal:
        journal.add(items(100_000))
        ids = [item.id for item in journal.claim("me", 20_000, 60)]
        todo = iter(ids)
        found["claim_1"] = cost(lambda: sum(len(journal.claim("me", 1, 60)) for _ in range(300)))
        found["claim_32"] = cost(lambda: sum(len(journal.claim("me", 32, 60)) for _ in range(30)))
        found["finish"] = cost(lambda: sum(journal.finish("me", next(todo), RESULT) for _ in range(300)))
        found["renew_64"] = cost(lambda: len(journal.renew("me", ids[-64:], 60)))
        found["counts"] = cost(lambda: sum(journal.counts().total > 0 for _ in range(1000)))
        found["results"] = cost(lambda: sum(1 for _ in journal.results()))
        keys = iter(f"{number * 0x9E3779B97F4A7C15 % 2**64:064x}" for number in range(10**9))
        found["cache_put_1"] = cost(lambda: sum(journal.cache({next(keys): CALL}) is None for _ in range(300)))
        found["cache_put_32"] = cost(lambda: journal.cache({next(keys): CALL for _ in range(32)}) or 32, 30)
        stored = [f"{number * 0x9E3779B97F4A7C15 % 2**64:064x}" for number in range(320)]
        found["cache_get_1"] = cost(lambda: sum(len(journal.cached([key])) for key in stored))
        found["cache_get_32"] = cost(lambda: len(journal.cached(stored)))
    with open(folder / "lines", "ab", buffering=0) as file:

        def append() -> int:
            file.write(json.dumps(RESULT).encode() + b"\n")
            os.fsync(file.fileno())
            return 1

        found["a line appended to a file and synced"] = cost(lambda: sum(append() for _ in range(300)))
    return found


def million(folder: Path, *, scattered: bool) -> dict[str, float]:
    """Return the seconds a million items take to add, to add again, and to come back to."""
    path, found = folder / f"million {scattered}", {}

    def timed(name: str, run: Callable[[], object]) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        run()
        found[f"{name}_s"] = round(time.perf_counter() - start, 4)
        found[f"{name}_cpu_s"] = round(time.process_time() - cpu, 4)

    with Journal.open(path) as journal:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        timed("add", lambda: journal.add(items(MILLION, scattered=scattered)))
        timed("add_again", lambda: journal.add(items(MILLION, scattered=scattered)))
        if not scattered:  # the second time, it was there already
            found["memory_mb"] = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        journal.claim("dead", 100_000, 1e-3)

    def resume() -> None:
        with Journal.open(path) as journal:
            assert journal.counts().total == MILLION
            assert len(journal.claim("me", 32, 60)) == 32

    timed("resume", resume)
    with Journal.open(path) as journal:
        while len(journal.claim("dead", 100_000, 1e-3)) == 100_000 and journal.counts().waiting:
            pass  # until nothing waits, and all claims are of leases that ran out
        found["claim_32_lapsed_us"] = cost(lambda: len(journal.claim("me", 32, 60)))["cpu_p50_us"]
        timed("verify", journal.verify)
    found["file_mb"] = round(path.stat().st_size / 1e6)
    return found


def main() -> None:
    # Memory is a peak of the whole process, so what needs most comes first.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {
            "apsw": version("apsw"),
            "result_bytes": len(json.dumps(RESULT)),
            "call_bytes": len(CALL),
        }
        figures["million_items"] = million(folder, scattered=False)
        figures["million_items_with_scattered_ids"] = million(folder, scattered=True)
        figures["claim_finish_results"] = {f"{n} a claim": an_item(folder, n) for n in (1, 32)}
        figures["parts"] = parts(folder)
        figures["kill_9"] = kill_many(folder, 200)
    print(json.dumps(figures, indent=1))
    print(write_record("journal", figures))


if __name__ == "__main__":
    main()
