"""Small data sets of labelled chains, written the way ``svip-search data build`` writes them."""

from __future__ import annotations

import numpy as np

from svip_search.datasets.planning import corrupt as corrupt_plan
from svip_search.datasets.planning import generate_plan
from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.puzzles.labels import corrupt
from svip_search.datasets.svip import write_svip
from svip_search.training.step_trees import record_of_chain


def records(n=24, seed=4, chains=3, families=None):
    rng = np.random.default_rng(seed)
    for index in range(n):
        puzzle = generate_puzzle(seed, index, families=families)
        yield record_of_chain(puzzle, puzzle.steps, "program")
        for k in range(chains - 1):
            yield record_of_chain(puzzle, corrupt(puzzle, rng), "policy:test" if k % 2 else "program")


def write_data(folder, n=60, seed=4, chains=3, families=None):
    """Write train-00000.jsonl and test-00000.jsonl and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_svip(records(n, seed, chains, families), folder / "train-00000.jsonl")
    write_svip(records(max(4, n // 6), seed + 1, chains, families), folder / "test-00000.jsonl")
    return folder


def plan_records(n=12, seed=4, chains=4, families=("tower_of_hanoi", "water_jugs", "rotting_kiwi")):
    """Records of small planning puzzles: the shortest chain, then spoilt ones."""
    rng = np.random.default_rng(seed)
    for index in range(n):
        plan = generate_plan(seed, index, families=families, moves=(2, 3), pixels=96)
        yield record_of_chain(plan, plan.steps, "trace")
        for k in range(chains - 1):
            yield record_of_chain(plan, corrupt_plan(plan, rng), "policy:test" if k % 2 else "corrupt")
