"""Facts about the machine in every pytest-benchmark record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "search")]  # benchmarks are no package

from timing import machine  # noqa: E402


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Add what `timing.machine` knows."""
    machine_info["svip"] = machine()
