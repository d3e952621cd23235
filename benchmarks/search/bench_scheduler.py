"""Many searches at once: slots of a server kept busy, processor time of a request, memory of ten thousand.

``pytest benchmarks/search/bench_scheduler.py``, or ``python benchmarks/search/bench_scheduler.py`` for a
record.  its-hub is compared where it is importable; it needs no more than its own wheel::

    pip install --no-deps --target /tmp/its-hub its-hub==1.2.0
    python benchmarks/search/bench_scheduler.py --its-hub /tmp/its-hub
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import heapq
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from importlib import metadata
from random import Random
from typing import Any

import numpy as np
import pytest
from workloads import write_record

from svip_search import MCTS, Beam, ProposeRequest, Question, RunStats, Schedule, Strategy, solve_many
from svip_search.simulation import SlowPolicy, SlowReward, collect, run_virtual
from svip_search.testing import HashPolicy, HashReward, InstantPolicy, InstantReward

SLOTS, MEAN, SIGMA, REWARD_CALL, DEPTH = 16, 0.02, 0.6, 0.01, 8
WIDTH = 4
#: Candidates a beam asks: 4 of the root, then 4 of each of 4 nodes.
BEAM_CANDIDATES = WIDTH + WIDTH * WIDTH * (DEPTH - 1)
QUESTIONS = {1: 7, 4: 5, 16: 5, 64: 3}  # how many, and how often it is repeated
STRATEGIES: dict[str, Strategy] = {
    "beam": Beam(width=WIDTH, expand=WIDTH),
    "beam, relaxed": Beam(width=WIDTH, expand=WIDTH, relaxed=True),
    "mcts": MCTS(iterations=16, expand=WIDTH, parallel=4),
    "mcts, relaxed": MCTS(iterations=16, expand=WIDTH, parallel=4, relaxed=True),
}
Figures = dict[str, float]


def questions(count: int) -> list[Question]:
    """Return questions that differ."""
    return [Question(f"Which of {i}?") for i in range(count)]


def hash_policy() -> HashPolicy:
    """Return a policy that hardly ever says the same twice, so that everybody's beams have the same work."""
    return HashPolicy(branching=1 << 16, depth=DEPTH)


# ---- 1. slots kept busy ---------------------------------------------------------------------------


def load(slots: int, seed: int) -> tuple[SlowPolicy, SlowReward]:
    """Return the server and the reward model that everybody gets."""
    policy = SlowPolicy(hash_policy(), slots, mean=MEAN, sigma=SIGMA, seed=seed)
    return policy, SlowReward(HashReward(), call=REWARD_CALL)


def figures_of(policy: SlowPolicy, ended: Sequence[float], candidates: int) -> Figures:
    """Return what a run comes to whose questions ended after so many seconds each."""
    seconds = max(ended)
    return {
        "busy": policy.worked / (policy.server_slots * seconds),
        "seconds": seconds,
        "mean_seconds_to_result": float(np.mean(ended)),
        "candidates": candidates,
        "candidates_per_second": candidates / seconds,
    }


async def ours(strategy: Strategy, count: int, slots: int, seed: int) -> Figures:
    """Run this library's searches, as many open as there are slots' worth of."""
    policy, reward = load(slots, seed)
    schedule = Schedule(searches=max(16, count) if slots > SLOTS else 16)
    start = asyncio.get_running_loop().time()
    run = solve_many(questions(count), policy, reward, strategy, seed=seed, schedule=schedule)
    ended = [asyncio.get_running_loop().time() - start async for _ in run]
    stats = run.stats()
    return figures_of(policy, ended, stats.policy.size) | {
        "reward_calls": stats.reward.calls,
        "reward_size": stats.reward.mean_size,
        "reward_wait_ms": stats.reward.mean_wait * 1e3,
    }


async def its_hub(count: int, slots: int, seed: int) -> Figures:
    """Run its-hub's beam search on each question, gathered, as its documentation does it."""
    from its_hub.api import AbstractLanguageModel, AbstractProcessRewardModel
    from its_hub.core.algorithms.beam_search import BeamSearch
    from its_hub.core.lms.step_generation import StepGeneration

    policy, reward = load(slots, seed)
    draws = Random(seed)
    separator = "\n\n"
    asked = 0

    def steps_of(text: str) -> tuple[str, ...]:
        return tuple(text.removesuffix(separator).split(separator))

    class Model(AbstractLanguageModel):  # type: ignore[misc]
        async def agenerate(self, messages: list[Any], stop: str | None = None, **kwargs: Any) -> list[dict[str, str]]:
            return await asyncio.gather(*map(self.agenerate_single, messages))

        async def agenerate_single(self, messages: list[Any], stop: str | None = None, **kwargs: Any) -> dict[str, str]:
            nonlocal asked
            asked += 1
            prefix = steps_of(messages[1].content) if len(messages) > 1 else ()
            request = ProposeRequest(Question(messages[0].content), prefix, 1, seed=draws.getrandbits(63))
            (((candidate,),),) = await policy.apropose([request])
            return {"role": "assistant", "content": candidate.text}

    class Reward(AbstractProcessRewardModel):  # type: ignore[misc]
        def score(self, prompt: Any, steps: list[str]) -> list[float]:
            raise NotImplementedError

        async def ascore(self, prompt: Any, steps: list[str]) -> list[float]:
            paths = [steps_of(text) for text in steps]
            (rewards,) = await reward.aevaluate_many([(Question(str(prompt)), paths)])
            return [float(one.mean()) for one in rewards]

    generation = StepGeneration(max_steps=DEPTH + 1, step_token=separator, stop_token="Answer:", temperature=1.0)
    search = BeamSearch(generation, Reward(), beam_width=WIDTH)
    start = asyncio.get_running_loop().time()

    async def answer(question: Question) -> float:
        await search.ainfer(Model(), question.text, budget=WIDTH * WIDTH)
        return asyncio.get_running_loop().time() - start

    ended = await asyncio.gather(*map(answer, questions(count)))
    return figures_of(policy, ended, asked) | {
        "reward_calls": len(reward.sizes),
        "reward_size": float(np.mean(reward.sizes)),
    }


async def at_once(count: int, slots: int, seed: int) -> Figures:
    """Ask for a beam's candidates all at once: what this event loop and these timers allow."""
    policy, _ = load(slots, seed)
    asked = [ProposeRequest(q, (), WIDTH, seed=i) for q in questions(count) for i in range(BEAM_CANDIDATES // WIDTH)]
    start = asyncio.get_running_loop().time()
    await asyncio.gather(*(policy.apropose([request]) for request in asked))
    return figures_of(policy, [asyncio.get_running_loop().time() - start], WIDTH * len(asked))


def barrier(count: int, slots: int, seed: int) -> Figures:
    """Simulate beams of all questions in step: one batch of candidates, one reward call, again."""
    random, location = Random(seed), math.log(MEAN) - SIGMA * SIGMA / 2
    now = worked = 0.0
    candidates = 0
    for step in range(DEPTH):
        free = [now] * slots
        for _ in range(count * (WIDTH if step == 0 else WIDTH * WIDTH)):
            seconds = random.lognormvariate(location, SIGMA)
            heapq.heapreplace(free, free[0] + seconds)
            worked += seconds
            candidates += 1
        now = max(free) + REWARD_CALL
    return {
        "busy": worked / (slots * now),
        "seconds": now,
        "mean_seconds_to_result": now,
        "candidates": candidates,
        "candidates_per_second": candidates / now,
    }


Runner = Callable[[int, int, int], Coroutine[Any, Any, Figures]]


def runners() -> dict[str, Runner]:
    """Return what is compared: questions, slots and seed to figures."""
    found: dict[str, Runner] = {
        name: lambda count, slots, seed, s=strategy: ours(s, count, slots, seed)  # type: ignore[misc]
        for name, strategy in STRATEGIES.items()
    }
    if its_hub_missing() is None:
        found["its-hub beam"] = its_hub
    return found | {"no search": at_once}


def its_hub_missing() -> str | None:
    """Return why its-hub is left out, None where it is not."""
    try:
        from its_hub.core.algorithms import beam_search  # noqa: F401
    except ImportError as error:
        return f"skipped: {error}"
    return None


def spread(samples: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """Return p20, p50 and p80 of each figure."""
    found = {}
    for name in samples[0]:
        p20, p50, p80 = np.percentile([sample[name] for sample in samples], [20, 50, 80])
        found[name] = {"p20": round(float(p20), 4), "p50": round(float(p50), 4), "p80": round(float(p80), 4)}
    return found


def measure_slots(kind: str, slots: Callable[[int], int], repeats: Callable[[int], int]) -> dict[str, Any]:
    """Return the figures of every runner for every number of questions; runners take turns.

    Args:
        kind: "real" sleeps, "virtual" does not.
        slots: of the server, by number of questions.
        repeats: by number of questions.
    """
    go: Callable[[Coroutine[Any, Any, Figures]], Figures] = asyncio.run if kind == "real" else run_virtual
    figures: dict[str, Any] = {}
    for count in QUESTIONS:
        samples: dict[str, list[Figures]] = {name: [] for name in runners()}
        samples["global barrier (simulated)"] = []
        for seed in range(repeats(count)):
            for name, runner in runners().items():
                gc.collect()
                samples[name].append(go(runner(count, slots(count), seed)))
            samples["global barrier (simulated)"].append(barrier(count, slots(count), seed))
        figures[f"questions={count}"] = {name: spread(found) for name, found in samples.items()} | {
            "slots": slots(count),
            "repeats": repeats(count),
        }
        show_slots(f"{kind} time, {count} questions, {slots(count)} slots", figures[f"questions={count}"])
    return figures


COLUMNS = [
    ("seconds", 8, 2),
    ("mean_seconds_to_result", 9, 2),
    ("candidates", 7, 0),
    ("candidates_per_second", 9, 0),
    ("reward_calls", 7, 0),
    ("reward_size", 7, 1),
    ("reward_wait_ms", 9, 2),
]


def show_slots(title: str, figures: dict[str, Any]) -> None:
    """Print a table."""
    print(f"\n{title}, median (p20-p80) of {figures['repeats']}")
    heads = ["wall s", "result s", "cand.", "cand./s", "calls", "paths", "wait ms"]
    columns = list(zip(heads, COLUMNS, strict=True))
    print(f"{'':28}{'busy %':>20}" + "".join(f"{head:>{width}}" for head, (_, width, _) in columns))
    for name, row in figures.items():
        if not isinstance(row, dict):
            continue
        busy = {key: f"{100 * value:.1f}" for key, value in row["busy"].items()}
        line = f"{name:28}{busy['p50'] + ' (' + busy['p20'] + '-' + busy['p80'] + ')':>20}"
        for _, (key, width, digits) in columns:
            line += f"{row[key]['p50']:{width}.{digits}f}" if key in row else " " * width
        print(line)
    sys.stdout.flush()


# ---- 2. processor time of a request -----------------------------------------------------------------


class AsyncInstantPolicy(InstantPolicy):
    """Answers at once, in a coroutine."""

    slots = 64

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        return self.propose(requests)


class AsyncInstantReward:
    """Answers at once, in a coroutine."""

    kind = "prm"

    def __init__(self) -> None:
        self.reward = InstantReward()

    async def aevaluate_many(self, items: Sequence[tuple[Question, Any]]) -> list[Any]:
        return [self.reward.evaluate(question, paths) for question, paths in items]


def bare(strategy: Strategy, count: int, nodes: int) -> int:
    """Play searches one after another with up to ``nodes`` nodes a policy request; return the number of requests."""
    policy, reward = InstantPolicy(WIDTH), InstantReward()
    strategy = strategy.scored_by(reward)
    requests = 0
    for question in questions(count):
        search = strategy.start(question)
        while not search.done:
            while search.wants("policy") is not None:
                request = search.take("policy", nodes)
                search.tell(request.id, policy.propose(search.requests_for(request)))
                requests += 1
            while search.wants("reward") is not None:
                request = search.take("reward", 64)
                search.tell(request.id, reward.evaluate(search.question, search.paths(request)))
                requests += 1
        search.result()
    return requests


def inline(strategy: Strategy, count: int) -> RunStats:
    """Run searches in the calling thread."""
    run = solve_many(questions(count), InstantPolicy(WIDTH), InstantReward(), strategy)
    for _ in run:
        pass
    return run.stats()


def in_event_loop(strategy: Strategy, count: int) -> RunStats:
    """Run searches in an event loop."""
    run = solve_many(questions(count), AsyncInstantPolicy(WIDTH), AsyncInstantReward(), strategy)

    async def drain() -> None:
        async for _ in run:
            pass

    asyncio.run(drain())
    return run.stats()


Loop = Callable[[Strategy, int], RunStats]
#: With the most nodes that go into one policy request.
LOOPS: dict[str, tuple[Loop, int]] = {"inline": (inline, 64), "asyncio": (in_event_loop, 1)}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of a call in microseconds, and what it returns."""
    gc.collect()
    start = time.process_time()
    result = run()
    return (time.process_time() - start) * 1e6, result


def measure_requests(count: int = 64, repeats: int = 11) -> dict[str, Any]:
    """Return processor time a request beyond that of the searches themselves."""
    strategies = {name: STRATEGIES[name] for name in ("beam", "mcts")}
    samples: dict[str, list[Figures]] = {f"{loop}, {name}": [] for loop in LOOPS for name in strategies}
    for turn in range(repeats + 1):
        for loop, (run, nodes) in LOOPS.items():
            for name, strategy in strategies.items():
                alone, played = timed(lambda s=strategy, n=nodes: bare(s, count, n))
                whole, stats = timed(lambda s=strategy, r=run: r(s, count))
                requests = stats.policy.requests + stats.reward.requests
                if turn:  # the first one warms up
                    samples[f"{loop}, {name}"].append(
                        {
                            "scheduler_us": (whole - alone) / requests,
                            "whole_us": whole / requests,
                            "search_us": alone / requests,
                            "requests": requests,
                            "bare_requests": played,
                            "calls": stats.policy.calls + stats.reward.calls,
                        }
                    )
    figures = {name: spread(found) for name, found in samples.items()}
    print(f"\nprocessor time a request, {count} questions, us, median (p20-p80) of {repeats}")
    print(f"{'':20}{'scheduler':>22}{'search':>9}{'requests':>10}{'bare':>7}{'calls':>7}")
    for name, row in figures.items():
        own = row["scheduler_us"]
        cell = f"{own['p50']:.1f} ({own['p20']:.1f}-{own['p80']:.1f})"
        rest = [row[key]["p50"] for key in ("search_us", "requests", "bare_requests", "calls")]
        print(f"{name:20}{cell:>22}{rest[0]:>9.1f}{rest[1]:>10.0f}{rest[2]:>7.0f}{rest[3]:>7.0f}")
    return figures | {"unit": "microseconds of processor time a request", "questions": count, "repeats": repeats}


# ---- 3. ten thousand searches -----------------------------------------------------------------------


def resident() -> float:
    """Return the MiB of memory that this process holds now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> float:
    """Return the most MiB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def open_all(count: int, keep: bool) -> Figures:
    """Run so many searches, all open at once, in virtual time; keep their results or let them go."""
    asked = questions(count)
    policy = SlowPolicy(hash_policy(), 1024, mean=MEAN, sigma=SIGMA)
    reward = SlowReward(HashReward(), call=REWARD_CALL)
    run_virtual(collect(solve_many(questions(2), policy, reward, "mcts")))  # whatever is imported and cached once
    gc.collect()
    before, start, start_cpu = resident(), time.perf_counter(), time.process_time()
    strategy = MCTS(iterations=8, expand=WIDTH)
    run = solve_many(asked, policy, reward, strategy, schedule=Schedule(searches=count))

    async def drive() -> tuple[int, int, dict[int, Any]]:
        ended, most_open, kept = 0, 0, {}
        async for index, result in run:
            most_open = most_open or run.stats().open + run.stats().done  # none has left before all were there
            ended += result.stopped_by == "finished"
            if keep:
                kept[index] = result
        return ended, most_open, kept

    ended, most_open, kept = run_virtual(drive())
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    stats = run.stats()
    figures = {
        "peak_mib": peak() - before,
        "peak_kib_per_search": (peak() - before) * 1024 / count,
        "before_mib": before,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "virtual_seconds": stats.seconds,
        "ended": ended,
        "most_open": most_open,
        "requests": stats.policy.requests + stats.reward.requests,
    }
    gc.collect()
    figures["after_mib"] = resident() - before
    del kept
    gc.collect()
    figures["after_all_dropped_mib"] = resident() - before
    trim()
    figures["after_trim_mib"] = resident() - before
    return {name: round(value, 3) for name, value in figures.items()}


def trim() -> None:
    """Hand freed memory back to the system, where the C library can."""
    call = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if call is not None:
        call(0)


def measure_memory(count: int = 10_000) -> dict[str, Any]:
    """Return memory and time of many open searches, each way in a process of its own."""
    figures: dict[str, Any] = {"searches": count}
    for name in ("results kept", "results dropped"):
        command = [sys.executable, __file__, "--open", str(count)] + ["--keep"] * (name == "results kept")
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures[name] = json.loads(output.splitlines()[-1])
        print(f"\n{count} searches open, {name}")
        for key, value in figures[name].items():
            print(f"  {key:24}{value:>12,.1f}")
        sys.stdout.flush()
    return figures


# ---- pytest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beam", "mcts"])
@pytest.mark.parametrize("loop", LOOPS)
def bench_requests(benchmark: Any, loop: str, name: str) -> None:
    """Time 16 questions with instant models."""
    benchmark.pedantic(LOOPS[loop][0], args=(STRATEGIES[name], 16), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("name", STRATEGIES)
def bench_load(benchmark: Any, name: str) -> None:
    """Time 16 questions under load, in virtual time; all but the sleeping counts."""

    def run() -> Figures:
        return run_virtual(ours(STRATEGIES[name], 16, SLOTS, 0))

    benchmark.extra_info["busy"] = benchmark.pedantic(run, rounds=3, warmup_rounds=1)["busy"]


# ---- record ------------------------------------------------------------------------------------------


def sections() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the parts of the record."""
    few = min(QUESTIONS.values())
    yield "slots", lambda: measure_slots("real", lambda count: SLOTS, QUESTIONS.__getitem__)
    yield "slots, virtual time", lambda: measure_slots("virtual", lambda count: SLOTS, lambda count: few)
    yield "slots grow, virtual time", lambda: measure_slots("virtual", lambda count: SLOTS * count, lambda count: few)
    yield "requests", measure_requests
    yield "memory", measure_memory


def main() -> None:
    """Print the tables and write the record; parts asked for by name are printed only."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help="; ".join(name for name, _ in sections()))
    parser.add_argument("--its-hub", metavar="FOLDER", help="where its-hub lies, if it is not installed")
    parser.add_argument("--open", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(open_all(options.open, options.keep)))
        return
    if options.its_hub:
        sys.path.append(options.its_hub)  # last: what it brings along stays hidden behind what is installed
    missing = its_hub_missing()
    figures: dict[str, Any] = {
        "load": {"slots": SLOTS, "mean": MEAN, "sigma": SIGMA, "reward_call": REWARD_CALL, "depth": DEPTH},
        "its-hub": missing or metadata.version("its-hub"),
    }
    print("its-hub", figures["its-hub"], flush=True)
    for name, measure in sections():
        if not options.sections or name in options.sections:
            figures[name] = measure()
    if not options.sections:
        print(write_record("search_scheduler", figures))


if __name__ == "__main__":
    main()
