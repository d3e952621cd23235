"""The tree attention by pytest-benchmark: ours and the strongest rivals, for comparing two commits.

``pytest benchmarks/kernels/bench_triatt.py --benchmark-only``; for a report with all rivals and the
machine's ceilings run `compare_triatt.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # benchmarks are no package

from baselines import BASELINES, Limits, Skipped
from ours import ON_CPU
from trees import Case, make

TIMED = ON_CPU | {name: BASELINES[name] for name in ("path loop", "segment loop", "segments batched")}


@pytest.mark.parametrize("mode", ["full", "frontier"])
@pytest.mark.parametrize("nodes", [256, 1024])
@pytest.mark.parametrize("name", TIMED)
def bench_triatt(benchmark: Any, name: str, nodes: int, mode: str) -> None:
    """Time a beam tree with a prefix of 512 tokens, d = 128, float32."""
    try:
        ready = TIMED[name](make(Case(nodes=nodes, mode=mode)), Limits())
    except Skipped as reason:
        pytest.skip(str(reason))
    benchmark.pedantic(ready.run, rounds=10, warmup_rounds=1)
