"""Rewards over HTTP against rewards here: paths a second, with the embedded model and with one that costs nothing.

``python benchmarks/serving/bench_reward_server.py`` writes a record; ``pytest`` times the instant model only.

Every call asks for new steps below known prompts: 16 questions with a picture each, 4 paths a question.  The server is
a process of its own, each side computes on one thread, and nothing is kept on the client's side.  Ways to ask:

- here: one call for all questions, or one for each
- far, one request: all questions in one
- far, at once: a request for each question, all sent together; the server merges what comes while it works
- far, in turn: a request for each question, one after another
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only
from timing import interleave, version, write_record

from svip_search import Question, generate_puzzle
from svip_search.rewards.remote_reward import RemoteReward
from svip_search.testing import HashReward

QUESTIONS, PATHS = 16, 4
Items = list[tuple[Question, list[tuple[str, ...]]]]


class ManyHashReward(HashReward):
    """Answers at once, many questions in a call."""

    def evaluate_many(self, items: Any) -> list[Any]:
        return [self.evaluate(*item) for item in items]


def load(name: str) -> Any:
    """Return a model by name."""
    if name == "instant":
        return ManyHashReward()
    import torch

    from svip_search import load_reward

    torch.set_num_threads(1)
    return load_reward(name)


def new_items() -> Iterator[Items]:
    """Yield the questions again and again, with paths of one step that nobody has seen yet."""
    puzzles = [generate_puzzle(seed=1, index=i) for i in range(QUESTIONS)]
    steps = [step for puzzle in puzzles for step in puzzle.steps]
    for turn in count():
        yield [
            (puzzle.question, [(f"{steps[(i + j) % len(steps)]} {turn} {j}",) for j in range(PATHS)])
            for i, puzzle in enumerate(puzzles)
        ]


@contextmanager
def server(name: str) -> Iterator[str]:
    """Serve a model from a process of its own."""
    command = [sys.executable, __file__, "--serve", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class Ways:
    """The ways to ask one model for the rewards of new paths."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.local = load(name)
        self.far = stack.enter_context(RemoteReward(stack.enter_context(server(name)), cache_size=0))
        self.loop = asyncio.new_event_loop()
        stack.callback(self.close)
        self.items = new_items()

    def close(self) -> None:
        """Close what was opened in the event loop."""
        self.loop.run_until_complete(self.far.arelease())
        self.loop.close()

    def all(self) -> dict[str, Callable[[], object]]:
        """Return them by name."""
        return {
            "here, one call": lambda: self.local.evaluate_many(next(self.items)),
            "here, a call a question": lambda: [self.local.evaluate(*item) for item in next(self.items)],
            "far, one request": lambda: self.loop.run_until_complete(self.far.aevaluate_many(next(self.items))),
            "far, at once": lambda: self.loop.run_until_complete(self.at_once()),
            "far, in turn": lambda: self.loop.run_until_complete(self.in_turn()),
        }

    async def at_once(self) -> None:
        """Send a request for each question, all together."""
        await asyncio.gather(*(self.far.aevaluate_many([item]) for item in next(self.items)))

    async def in_turn(self) -> None:
        """Send a request for each question, one after another."""
        for item in next(self.items):
            await self.far.aevaluate_many([item])


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Return milliseconds and paths a second of every way."""
    with ExitStack() as stack:
        found: dict[str, Any] = interleave(Ways(name, stack).all(), seconds=60, rounds=(rounds, rounds))
    print(f"\n{name}: {QUESTIONS} questions, {PATHS} new paths each, median (p20-p80) of {rounds}")
    for way, row in found.items():
        row["paths_per_second"] = round(QUESTIONS * PATHS / row["p50_ms"] * 1e3, 1)
        spread = f"{row['p50_ms']:8.2f} ms ({row['p20_ms']:.2f}-{row['p80_ms']:.2f})"
        print(f"  {way:24}{spread:32}{row['paths_per_second']:10,.0f} paths/s")
    sys.stdout.flush()
    return found


@pytest.mark.parametrize("way", ["far, one request", "far, at once", "far, in turn"])
def bench_instant(benchmark: Any, way: str) -> None:
    """Time 64 paths of a model that costs nothing."""
    with ExitStack() as stack:
        benchmark.pedantic(Ways("instant", stack).all()[way], rounds=10, warmup_rounds=2)


def main() -> None:
    """Print the tables and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        from svip_search.serving import reward_app, serve

        serve(reward_app(load(options.serve), name=options.serve), ready=lambda url: print(url, flush=True))
        return
    figures: dict[str, Any] = {name: measure(name, options.rounds) for name in ("instant", "svip-tiny")}
    figures["packages"] = {
        name: version(name) for name in ("aiohttp", "starlette", "uvicorn", "msgspec", "transformers")
    }
    print(write_record("reward_server", figures))


if __name__ == "__main__":
    main()
