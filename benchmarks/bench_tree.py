"""Time of one simulation through Python: select, add six children, back up, release."""

import numpy as np
import pytest

from svip_search._core import Tree

BRANCHING, MAX_DEPTH = 6, 16


def simulator(tree):
    priors = np.full(BRANCHING, 1 / BRANCHING, np.float32)
    values = np.random.default_rng(0).random((4096, BRANCHING))
    offsets = np.arange(BRANCHING, dtype=np.int32)
    turn = 0

    def simulate():
        nonlocal turn
        leaf = tree.select(1.25)
        first = tree.add_children(leaf[0], priors)
        children = offsets + np.int32(first)
        tree.backup(children, values[turn % 4096])
        if len(tree.path(first)) > MAX_DEPTH:
            tree.set_status(children, 2)
        tree.release(leaf)
        turn += 1

    return simulate


@pytest.mark.parametrize("nodes", [10_000, 100_000, 1_000_000])
def bench_simulation(benchmark, nodes):
    tree = Tree()
    simulate = simulator(tree)
    while len(tree) < nodes:
        simulate()
    benchmark.pedantic(simulate, rounds=5000)
