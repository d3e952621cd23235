"""What several tests of runs share: files of questions, models that take their time, and processes to be killed.

``python run_cases.py JOURNAL PAUSE LEASE`` takes part in a run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import svip_search
from svip_search import Candidate, ProposeRequest, Schedule, Strategy, make
from svip_search._journal import Journal
from svip_search.runs.protocols import Store
from svip_search.runs.questions import read_questions
from svip_search.runs.runner import run
from svip_search.testing import HashPolicy, HashReward

HERE = Path(__file__).parent
OPTIONS = ["red", "green", "blue"]
STRATEGY: Strategy = make("mcts", n=6)


class SlowPolicy(HashPolicy):
    """A policy behind a coroutine that takes ``SVIP_TEST_PAUSE`` seconds a call."""

    def __init__(self, pause: float | None = None) -> None:
        super().__init__(branching=3, depth=3)
        self.pause = float(os.environ.get("SVIP_TEST_PAUSE", "0.005")) if pause is None else pause
        self.calls = 0

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        self.calls += len(requests)
        await asyncio.sleep(self.pause)
        return self.propose(requests)


class SleepingPolicy(HashPolicy):
    """The same in the calling thread."""

    def __init__(self, pause: float | None = None) -> None:
        super().__init__(branching=3, depth=3)
        self.pause = float(os.environ.get("SVIP_TEST_PAUSE", "0.005")) if pause is None else pause

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        time.sleep(self.pause)
        return super().propose(requests)


def start_command(*words: object, pause: float) -> subprocess.Popen[str]:
    """Start ``svip-search run`` in a process group of its own, as a shell does."""
    return subprocess.Popen(
        [sys.executable, "-m", "svip_search.cli", "run", *map(str, words)], start_new_session=True, text=True,
        env=environment(SVIP_TEST_PAUSE=str(pause)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    """Return the code with which a process ends, and what it says on stderr."""
    try:
        _, err = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


class DeadlyPolicy(HashPolicy):
    """A policy that kills its process."""

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def rewarding() -> HashReward:
    """A reward model, as ``module:function``."""
    return HashReward()


def records(count: int) -> list[dict[str, Any]]:
    """Questions that differ."""
    return [{"id": f"q{i}", "question": f"Which is {i}?", "options": OPTIONS, "answer": "red"} for i in range(count)]


def write_questions(path: Path, count: int) -> Path:
    """Write a file of questions and return its path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records(count)), encoding="utf-8")
    return path


def new_journal(folder: Path, count: int, name: str = "run.db") -> Journal:
    """Return a journal with so many questions."""
    journal = Journal.open(folder / name)
    file = write_questions(folder / "questions.jsonl", count)
    journal.add((entry.id, entry.hash, entry.payload) for entry in read_questions(file))
    return journal


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without what depends on time, and on what had to be read again."""
    usage = {name: value for name, value in result["usage"].items() if name not in ("seconds",)}
    return {**result, "usage": usage}


def results_of(store: Store) -> dict[str, dict[str, Any]]:
    """Return all results of a journal, as far as they are comparable."""
    return {id: comparable(result) for id, result in store.results()}


def undisturbed(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    """Return the results of a run that nobody disturbs."""
    folder.mkdir(exist_ok=True)
    with new_journal(folder, count) as journal:
        run(journal, HashPolicy(branching=3, depth=3), HashReward(), STRATEGY)
        return results_of(journal)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process that is to find this module and the library."""
    roots = [str(HERE), str(Path(svip_search.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots)), "OMP_NUM_THREADS": "1", **more}


def start_process(journal: Path, pause: float, lease: float) -> subprocess.Popen[bytes]:
    """Start a process that takes part in a run."""
    words = [sys.executable, str(HERE / "run_cases.py"), str(journal), str(pause), str(lease)]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)


def main(path: str, pause: str, lease: str) -> None:
    """Take part in a run."""
    with Journal.open(path) as journal:
        run(
            journal, SlowPolicy(float(pause)), HashReward(), STRATEGY, schedule=Schedule(searches=4),
            lease=float(lease), attempts=10_000,
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
