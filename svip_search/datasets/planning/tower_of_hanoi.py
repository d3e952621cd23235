"""Towers of Hanoi: one disk at a time, never onto a smaller one; how many moves from the upper to the lower picture?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices, distances, integers
from ._grid import EMPTY, Grid

RODS = 3
Towers = tuple[tuple[int, ...], ...]  # the disks of each rod from the bottom to the top


class TowerOfHanoi(Family):
    """The moves from one arrangement of disks to another."""

    name = "tower_of_hanoi"
    usual = (1, 10)
    longest = 63
    templates = (
        "You are playing a Tower of Hanoi game with {} rods and {} disks of various diameters, which can slide onto any"
        " rod. You are given the starting and ending configuration of the game as shown in the top and the bottom of"
        " the image, respectively. The game has the following rules: i) Only one disk may be moved at a time; ii) Each"
        " move consists of taking the upper disk from one of the stacks and placing it on top of another stack or on"
        " an empty rod; and iii) No disk can be placed on top of a disk that is smaller than it. What is the minimum"
        " number of moves required to go from the starting to the ending configuration?",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        disks = int(rng.integers(max(2, (moves + 1).bit_length()), 8 if moves > 6 else 7))
        start = _towers([int(rod) for rod in rng.integers(0, RODS, disks)])
        at_distance = [state for state, d in _from(disks, start).items() if d == moves]
        if not at_distance:
            return None
        goal = at_distance[int(rng.integers(len(at_distance)))]
        question = self.templates[0].format(RODS, disks)
        cells = (*_cells(start, disks), *_cells(goal, disks))
        return Instance(question, str(moves), choices(rng, moves, 1, 3), cells)

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        half = len(cells) // 2
        start, goal = _read(cells[:half], grid.columns), _read(cells[half:], grid.columns)
        if start is None or goal is None or grid.columns != RODS:
            raise Unreadable("both pictures must show the same disks, each on a larger one")
        return Task(grid, cells, start, goal)

    def show(self, task: Task, state: State) -> str:
        return " | ".join(" ".join(map(str, rod)) or EMPTY for rod in state)

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        rods = [[] if part == EMPTY else integers(part) for part in text.split(" | ")]
        if None in rods or len(rods) != RODS:
            return None
        state = tuple(tuple(rod or ()) for rod in rods)
        disks = sorted(d for rod in state for d in rod)
        sound = disks == list(range(1, task.grid.rows // 2 + 1)) and all(_descends(rod) for rod in state)
        return state if sound else None

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        return _moves(state)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state == task.goal)

    def remaining(self, task: Task) -> dict[State, int]:
        return _from(task.grid.rows // 2, task.goal)  # every move can be taken back


def _moves(state: Towers) -> Iterator[tuple[str, Towers]]:
    for a, rod in enumerate(state):
        for b, other in enumerate(state):
            if a != b and rod and (not other or other[-1] > rod[-1]):
                after = list(state)
                after[a], after[b] = rod[:-1], (*other, rod[-1])
                yield f"{a + 1} > {b + 1}", tuple(after)


@lru_cache(maxsize=8)
def _graph(disks: int) -> dict[State, list[State]]:
    """Return the neighbours of all arrangements, 3 ** disks."""
    states: list[list[int]] = [[]]
    for _ in range(disks):
        states = [[*s, rod] for s in states for rod in range(RODS)]
    return {towers: [after for _, after in _moves(towers)] for towers in map(_towers, states)}


@lru_cache(maxsize=512)
def _from(disks: int, state: Towers) -> dict[State, int]:
    graph = _graph(disks)
    return distances([state], graph) if state in graph else {}


def _towers(rods: list[int]) -> Towers:
    """Return the arrangement in which disk ``i + 1`` is on ``rods[i]``."""
    return tuple(tuple(d for d in range(len(rods), 0, -1) if rods[d - 1] == rod) for rod in range(RODS))


def _descends(rod: tuple[int, ...]) -> bool:
    return all(a > b for a, b in pairwise(rod))


def _cells(towers: Towers, disks: int) -> list[str]:
    """Return the levels from the top, rod by rod."""
    return [
        str(rod[level]) if level < len(rod) else EMPTY for level in range(disks - 1, -1, -1) for rod in towers
    ]  # fmt: skip


def _read(cells: tuple[str, ...], rods: int) -> Towers | None:
    levels = [cells[i : i + rods] for i in range(0, len(cells), rods)]
    towers = tuple(
        tuple(int(level[rod]) for level in reversed(levels) if level[rod] != EMPTY and level[rod].isdecimal())
        for rod in range(rods)
    )
    disks = sorted(d for rod in towers for d in rod)
    sound = disks == list(range(1, len(levels) + 1)) and all(_descends(rod) for rod in towers)
    return towers if sound else None
