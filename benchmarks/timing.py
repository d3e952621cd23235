"""Timing with the facts a figure needs to be compared later: date, commit, machine, versions, spread."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
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
    }


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
