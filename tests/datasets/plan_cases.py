"""Planning puzzles for tests: generated ones, ones written by hand, and the real ones with their true cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svip_search._types import Question
from svip_search.datasets.planning import FAMILIES, Plan, generate_plan, grid_of, label_steps
from svip_search.datasets.planning._family import Plans, plans_of
from svip_search.datasets.planning.generate import _solved

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/algopuzzlevqa"
each_family = pytest.mark.parametrize("family", FAMILIES)
#: Questions without blanks, "{}" where the puzzle says something.
TEMPLATES = {name: family.templates for name, family in FAMILIES.items()}


@lru_cache(maxsize=1024)
def plan(family: str, index: int, moves: tuple[int, int] | None = None) -> Plan:
    return generate_plan(23, index, families=[family], moves=moves, pixels=64)


def plans(question: str, cells: tuple[str, ...]) -> Plans:
    """Return the shortest plans of a question about cells."""
    grid = grid_of(question)
    assert grid is not None
    family = FAMILIES[grid.family]
    return plans_of(family, family.task(grid, question, cells))


def solve(question: str, cells: tuple[str, ...]) -> list[str]:
    """Return a right chain for a question about cells."""
    found = plans(question, cells)
    return _solved(found.family, found.task, np.random.default_rng(0))[0]


def by_hand(question: str, cells: str) -> Plan:
    """Return the plan of a puzzle that is written in a test; rows of cells may be apart by lines."""
    words, grid = tuple(cells.split()), grid_of(question)
    assert grid is not None
    assert len(words) == len(grid)
    steps, length = solve(question, words), plans(question, words).length
    assert length is not None
    asked = Question(question, images=[Image.new("RGB", (8, 8))], answer=steps[-1].split()[-1], id="by/hand")
    return Plan(grid.family, 0, 0, asked, grid, words, tuple(steps), length)


def labels(plan: Plan, *moves: str) -> list[tuple[float, ...]]:
    """Return the labels of the steps that follow the right readings, NaN as -1."""
    readings = plan.plans.family.readings(plan.task)
    after = label_steps(plan, [*readings, *moves])[len(readings) :]
    return [tuple(round(float(v), 4) for v in row) for row in np.nan_to_num(after, nan=-1)]


def real() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the family and the record of each real puzzle."""
    for path in sorted(REAL.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield path.stem, json.loads(line)


def real_cells(family: str, solution: dict[str, Any]) -> tuple[str, ...]:
    """Return what the picture of a real puzzle shows, from the solution that comes with it."""
    return tuple(_CELLS[family](solution))


def _number_slide(s: dict[str, Any]) -> list[str]:
    return [str(n) if n else "." for row in s["starting_grid"] for n in row]


def _maze(s: dict[str, Any]) -> list[str]:
    rows = [["#" if wall else "." for wall in row] for row in s["maze"]]
    for (row, column), word in zip((s["optimal_path"][0], s["optimal_path"][-1]), ("entry", "exit"), strict=True):
        rows[row][column] = word
    return [word for row in rows for word in row]


def _move_box(s: dict[str, Any]) -> list[str]:
    words = {"#": "#", ".": ".", "": ".", "B": "box", "S": "player", "T": "flag"}
    return [words[sign] for row in s["timestep"]["grid_0"] for sign in row]


def _n_queens(s: dict[str, Any]) -> list[str]:
    given = {tuple(place) for place in s["given_queen_positions"]}
    return ["queen" if (r, c) in given else "." for r in range(s["rows"]) for c in range(s["columns"])]


def _rotting_kiwi(s: dict[str, Any]) -> list[str]:
    return [(".", "fresh", "rotten")[kiwi] for row in s["timestep"]["minute_0"] for kiwi in row]


def _checker_move(s: dict[str, Any]) -> list[str]:
    return [{"G": "green", "R": "red", "_": "."}[sign] for sign in s["start_position"] + s["end_position"]]


def _tower_of_hanoi(s: dict[str, Any]) -> list[str]:
    levels = range(sum(map(len, s["start_position"])) - 1, -1, -1)
    both = (s["start_position"], s["end_position"])
    return [str(rod[i]) if i < len(rod) else "." for towers in both for i in levels for rod in towers]


def _water_jugs(s: dict[str, Any]) -> list[str]:
    return [str(litres) for litres in s["start"]]


_CELLS = {
    "number_slide": _number_slide, "maze": _maze, "move_box": _move_box, "n_queens": _n_queens,
    "rotting_kiwi": _rotting_kiwi, "checker_move": _checker_move, "tower_of_hanoi": _tower_of_hanoi,
    "water_jugs": _water_jugs,
}  # fmt: skip
