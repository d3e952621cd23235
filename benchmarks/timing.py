"""Timing with the facts a figure needs to be compared later: date, commit, machine, versions, spread."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent
RECORDS = ROOT / "records"


def machine() -> dict[str, Any]:
    """Return what a timing depends on, and how busy and how fast the machine is just now.

    ``loop_ns`` is the time of one turn of an empty loop in this interpreter: where two records
    differ in it, the machine was slower, not the code.
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "loop_ns": round(_loop_ns(), 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": version("torch"),
        "triton": version("triton"),
        "simd": _simd(),
    }


def _simd() -> dict[str, Any]:
    """Return the SIMD tiers of the compiled core and what overrides the choice, if anything does."""
    from svip_search import _core

    tiers = getattr(_core, "simd_tiers", list)
    return {"tiers": list(tiers()), "SVIP_SIMD": os.environ.get("SVIP_SIMD")}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _loop_ns(turns: int = 300_000) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(turns):
            pass
        best = min(best, time.process_time() - start)
    return best / turns * 1e9


def measure(run: Callable[[], int], rounds: int = 5) -> dict[str, float]:
    """Return microseconds of processor time per unit of work: p20, p50 and p80 over ``rounds``.

    Args:
        run: does the work and returns how many units it was.
        rounds: after one round to warm up.
    """
    run()
    times = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        units = run()
        times.append((time.process_time() - start) / units * 1e6)
    p20, p50, p80 = np.percentile(times, [20, 50, 80])
    return {"p20_us": round(p20, 3), "p50_us": round(p50, 3), "p80_us": round(p80, 3)}


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    rounds: tuple[int, int] = (3, 25),
    evict: Callable[[], object] | None = None,
    wait: Callable[[], object] | None = None,
    tick: Callable[[], object] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the milliseconds of calls that take turns, so that a busy spell of the machine hits all.

    A sample is the mean of as many calls as last a millisecond.  Before it, calls are made for 10 ms (one,
    if it is longer; none, if longer than 50 ms), so that a short one finds its own data in the caches, and
    the threads of its rivals, which go on spinning for some milliseconds, off the processor.  With ``evict``
    none is, and every sample is one call.

    Args:
        runs: name -> call.
        seconds: how long each may take altogether.
        rounds: fewest and most samples of each; a call of more than twice ``seconds`` gets one.
        evict: empties the caches, outside the timing.
        wait: ends a sample, inside the timing: waits for a device.
        tick: called after each sample with nothing to do but show progress.

    Returns:
        min_ms, p20_ms, p50_ms and p80_ms on the clock on the wall, cpu_ms, the median of the processor
        time of all threads together, and the number of rounds.
    """
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    repeats, wanted = {}, {}
    for name, run in runs.items():
        run()
        once = _sample(run, 1, wait)
        repeats[name] = 1 if evict else max(1, round(1e-3 / once[0]))
        wanted[name] = min(rounds[1], max(rounds[0], round(seconds / once[0] / repeats[name])))
        if once[0] > 2 * seconds:
            wanted[name], samples[name] = 0, [once]
    for turn in range(max(wanted.values(), default=0)):
        for name, run in runs.items():
            if turn >= wanted[name]:
                continue
            if evict:
                evict()
            elif not samples[name] or samples[name][-1][0] < 0.05:
                _settle(run)
            samples[name].append(_sample(run, repeats[name], wait))
            if tick:
                tick()
    return {name: _summary(found) for name, found in samples.items()}


def _settle(run: Callable[[], object], seconds: float = 0.01) -> None:
    end = time.perf_counter() + seconds
    run()
    while time.perf_counter() < end:
        run()


def _sample(run: Callable[[], object], repeats: int, wait: Callable[[], object] | None) -> tuple[float, float]:
    """Return the seconds of one call on the wall and of the processor."""
    if wait:
        wait()
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    if wait:
        wait()
    return (time.perf_counter() - start) / repeats, (time.process_time() - start_cpu) / repeats


def _summary(samples: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = np.array(samples).T * 1e3
    p20, p50, p80 = np.percentile(wall, [20, 50, 80])
    figures = {"min_ms": wall.min(), "p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "cpu_ms": np.median(cpu)}
    return {name: round(float(ms), 4) for name, ms in figures.items()} | {"rounds": len(samples)}


def version(package: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write_record(name: str, figures: dict[str, Any]) -> Path:
    """Write figures with their circumstances to ``records/<name>.json`` and return the path."""
    record = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "figures": figures,
    }
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def _commit() -> str:
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return git.stdout.strip() or "unknown"
