"""MCTS with instant models: time of one simulation, and of one new node, as the tree grows.

One simulation selects a leaf, adds its six children, evaluates them and backs their values up.
``pytest benchmarks/search/bench_mcts.py``, or ``python benchmarks/search/bench_mcts.py`` for a record.
"""

from __future__ import annotations

from typing import Any

import pytest
from workloads import BRANCHING, mcts, measure, run, write_record


@pytest.mark.parametrize("parallel", [1, 16, 64, 256])
def bench_mcts(benchmark: Any, parallel: int) -> None:
    """Time a tree of 1e4 nodes."""
    benchmark.pedantic(run, args=(mcts(10_000, parallel),), rounds=3, warmup_rounds=1)


def main() -> None:
    """Write the record: processor time a new node, from 1e3 to 1e6 nodes."""
    figures: dict[str, Any] = {"unit": f"a new node; a simulation adds {BRANCHING}"}
    for parallel in (1, 16, 64, 256):
        figures[f"parallel={parallel}"] = measure(lambda p=parallel: len(run(mcts(100_000, p)).tree), rounds=3)
    for nodes in (10_000, 100_000, 1_000_000):
        rounds = 3 if nodes < 1_000_000 else 1
        figures[f"nodes={nodes}"] = measure(lambda n=nodes: len(run(mcts(n, 64)).tree), rounds=rounds)
    print(write_record("search_mcts", figures).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
