"""What a journal costs a run: processor time of a question, and two processes against one on a slow policy.

``pytest benchmarks/runs/bench_runner.py``, or ``python benchmarks/runs/bench_runner.py`` for a record.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from timing import write_record  # noqa: E402

from svip_search import Candidate, ProposeRequest, Question, Schedule, Task, make, solve_many  # noqa: E402
from svip_search._journal import Journal  # noqa: E402
from svip_search.runs.runner import item_seed, run  # noqa: E402
from svip_search.testing import HashPolicy, HashReward  # noqa: E402

PAUSE = 0.05
SEARCHES = 4
STRATEGY = make("mcts", n=8)


class FarPolicy(HashPolicy):
    """A policy on a server that takes its time, and has room."""

    def __init__(self, pause: float = PAUSE) -> None:
        super().__init__(branching=3, depth=4)
        self.pause = pause

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        await asyncio.sleep(self.pause)
        return self.propose(requests)


def payloads(count: int) -> list[tuple[str, str, Any]]:
    """Return items of a journal."""
    return [(f"q{i}", "hash", {"question": f"Which is {i}?", "options": ["red", "blue"]}) for i in range(count)]


def search_alone(count: int, policy: Any) -> None:
    """Search without a journal."""
    tasks = [Task(Question(p["question"], (), p["options"], id=id), seed=item_seed(0, id))
             for id, _, p in payloads(count)]  # fmt: skip
    for _ in solve_many(tasks, policy, HashReward(), STRATEGY, schedule=Schedule(searches=16)):
        pass


class Watched:
    """A journal with a stopwatch for the processor time of the calling thread."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.journal, name)

        def timed(*arguments: Any, **more: Any) -> Any:
            start = time.thread_time()
            try:
                return method(*arguments, **more)
            finally:
                self.seconds += time.thread_time() - start

        return timed


def search_with(count: int, policy: Any, cache: bool) -> tuple[float, float]:
    """Return milliseconds of processor time a question: of all, and in the journal."""
    with tempfile.TemporaryDirectory() as folder, Journal.open(f"{folder}/run.db") as journal:
        journal.add(payloads(count))
        store = Watched(journal)
        start = time.process_time()
        report = run(store, policy, HashReward(), STRATEGY, schedule=Schedule(searches=16), cache=cache)
        seconds = time.process_time() - start
    assert report.done == count
    return seconds / count * 1e3, store.seconds / count * 1e3


def cost(count: int = 300, rounds: int = 9) -> dict[str, float]:
    """Return milliseconds of processor time a question, in turns."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, policy in (("in the thread", HashPolicy(branching=3, depth=4)), ("coroutine", FarPolicy(0.0))):
            start = time.process_time()
            search_alone(count, policy)
            alone = (time.process_time() - start) / count * 1e3
            found.setdefault(f"search alone, {name}", []).append(alone)
            for kind, cache in (("without calls", False), ("with calls", True)):
                all_of_it, journal = search_with(count, policy, cache)
                found.setdefault(f"run {kind} beyond that, {name}", []).append(all_of_it - alone)
                found.setdefault(f"of it in the journal, {kind}, {name}", []).append(journal)
    return {f"{name}, ms": round(median(times), 3) for name, times in found.items()}


def seconds_of(processes: int, count: int) -> float:
    """Return how long so many processes take for a run, from the first result to the last."""
    with tempfile.TemporaryDirectory() as folder, Journal.open(f"{folder}/run.db") as journal:
        journal.add(payloads(count))
        words = [sys.executable, __file__, "--work", f"{folder}/run.db", f"{folder}/go"]
        running = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(processes)]
        try:
            for one in running:  # it has imported what it needs
                assert one.stdout is not None
                one.stdout.readline()
            start = time.perf_counter()
            Path(folder, "go").touch()
            while journal.counts().done < count:
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            for one in running:
                one.kill()
                one.communicate()


def work(journal: str, go: str) -> None:
    """Take part in a run, once there is a file."""
    print("ready", flush=True)
    while not Path(go).exists():
        time.sleep(0.002)
    with Journal.open(journal) as store:
        run(store, FarPolicy(), HashReward(), STRATEGY, schedule=Schedule(searches=SEARCHES))


def scaling(count: int = 120, rounds: int = 3) -> dict[str, float]:
    """Return questions a second of one, two and four processes, in turns."""
    times: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(rounds):
        for processes, found in times.items():
            found.append(seconds_of(processes, count))
    one = median(times[1])
    figures = {f"questions a second, {n} processes": round(count / median(t), 2) for n, t in times.items()}
    return figures | {f"{n} processes against 1": round(one / median(times[n]), 3) for n in (2, 4)}


def bench_a_question_in_a_journal(benchmark: Any) -> None:
    benchmark.pedantic(lambda: search_with(100, HashPolicy(), True), rounds=5)


@pytest.mark.parametrize("processes", [1, 2])
def bench_processes(processes: int, benchmark: Any) -> None:
    benchmark.pedantic(lambda: seconds_of(processes, 30), rounds=1)


def main() -> None:
    """Write the record."""
    settings = {"seconds a call": PAUSE, "searches open in a process": SEARCHES, "strategy": repr(STRATEGY)}
    figures = {"settings": settings, "processor time a question": cost(), "processes": scaling()}
    print(write_record("run_runner", figures))
    for name in ("processor time a question", "processes"):
        for key, value in figures[name].items():
            print(f"{key:60} {value}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:4])
    else:
        main()
