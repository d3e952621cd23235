"""One turn of many searches: one call for all trees, against calls of each tree.

A turn releases each tree's leaf, backs a value up from it and selects the next; trees have 193 nodes.
``pytest benchmarks/search/bench_forest.py``, or ``python benchmarks/search/bench_forest.py`` for a record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from timing import interleave, write_record
from workloads import BRANCHING

from svip_search._core import Tree, advance_many, select_many

SIZES = [1, 16, 256, 4096]
C = 1.25


def grown(seed: int, expansions: int = 32) -> Tree:
    """Return a tree after this many simulations with random values."""
    rng = np.random.default_rng(seed)
    tree = Tree()
    for _ in range(expansions):
        leaf = tree.select(C)
        first = tree.add_children(int(leaf[0]), np.full(BRANCHING, 1 / BRANCHING, np.float32))
        tree.backup(np.arange(first, first + BRANCHING), rng.random(BRANCHING))
        tree.release(leaf)
    return tree


def one_call(count: int) -> Callable[[], None]:
    """Return a turn that is one call for all trees."""
    trees = [grown(seed) for seed in range(count)]
    values = np.full(count, 0.5)
    leaves, counts = select_many(trees, C)

    def turn() -> None:
        nonlocal leaves, counts
        leaves, counts = advance_many(trees, leaves, counts, leaves, counts, values, C)

    return turn


def calls_of_each(count: int) -> Callable[[], None]:
    """Return a turn that is three calls for each tree."""
    trees = [grown(seed) for seed in range(count)]
    value = np.full(1, 0.5)
    leaves = [tree.select(C) for tree in trees]

    def turn() -> None:
        for i, tree in enumerate(trees):
            tree.release(leaves[i])
            tree.backup(leaves[i], value)
            leaves[i] = tree.select(C)

    return turn


RUNS = {"one call": one_call, "calls of each": calls_of_each}


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("run", RUNS)
def bench_forest(benchmark: Any, run: str, count: int) -> None:
    """Time a turn of all trees."""
    benchmark.pedantic(RUNS[run](count), rounds=max(20, 4096 // count), warmup_rounds=3)


def main() -> None:
    """Write the record: both kinds of turn, taking turns themselves."""
    figures: dict[str, Any] = {"unit": "a turn of all trees: release, backup, select"}
    for count in SIZES:
        runs = {name: make(count) for name, make in RUNS.items()}
        figures[f"trees={count}"] = interleave(runs, rounds=(20, 50))
    print(write_record("search_forest", figures).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
