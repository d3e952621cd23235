"""Towers of Hanoi: one disk at a time, never onto a smaller one; how many moves from the upper to the lower picture?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise, product

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices, distances, integers
from ._grid import EMPTY, Grid

RODS = 3
Towers = tuple[int, ...]  # the rod of each disk, 1 to 3, the smallest disk first: any such tuple is an arrangement


class TowerOfHanoi(Family):
    """The moves from one arrangement of disks to another.

    A state is told as rod and wanted rod of each disk: what is compared stands side by side.
    """

    name = "tower_of_hanoi"
    shows_goal = False  # every state does
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
        start = tuple(int(rod) for rod in rng.integers(1, RODS + 1, disks))
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
        return " | ".join(f"{rod} {wanted}" for rod, wanted in zip(state, task.goal, strict=True))

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        pairs = [integers(part) or [] for part in text.split(" | ")]
        known = all(len(pair) == 2 and min(pair) >= 1 and max(pair) <= RODS for pair in pairs)
        return tuple(rod for rod, _ in pairs) if known and len(pairs) == task.grid.rows // 2 else None

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        return _moves(state)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state == task.goal)

    def remaining(self, task: Task) -> dict[State, int]:
        return _from(task.grid.rows // 2, task.goal)  # every move can be taken back


def _moves(state: Towers) -> Iterator[tuple[str, Towers]]:
    top = {rod: state.index(rod) for rod in set(state)}  # the smallest disk of a rod
    for a in sorted(top):
        for b in range(1, RODS + 1):
            if a != b and top[a] < top.get(b, len(state)):
                yield f"{a} > {b}", (*state[: top[a]], b, *state[top[a] + 1 :])


@lru_cache(maxsize=8)
def _graph(disks: int) -> dict[State, list[State]]:
    """Return the neighbours of all arrangements, 3 ** disks."""
    every = product(range(1, RODS + 1), repeat=disks)
    return {towers: [after for _, after in _moves(towers)] for towers in every}


@lru_cache(maxsize=512)
def _from(disks: int, state: Towers) -> dict[State, int]:
    graph = _graph(disks)
    return distances([state], graph) if state in graph else {}


def _cells(towers: Towers, disks: int) -> list[str]:
    """Return the levels from the top, rod by rod."""
    rods = [[d for d in range(disks, 0, -1) if towers[d - 1] == rod] for rod in range(1, RODS + 1)]
    return [
        str(rod[level]) if level < len(rod) else EMPTY for level in range(disks - 1, -1, -1) for rod in rods
    ]  # fmt: skip


def _read(cells: tuple[str, ...], rods: int) -> Towers | None:
    """Return the arrangement in the levels of a picture; None where disks are missing or lie on smaller ones."""
    levels = [cells[i : i + rods] for i in range(0, len(cells), rods)]
    found = [(int(word), rod) for level in levels for rod, word in enumerate(level, start=1) if word.isdecimal()]
    whole = sorted(disk for disk, _ in found) == list(range(1, len(levels) + 1))
    piled = all(c > b for a in range(1, rods + 1) for b, c in pairwise(disk for disk, rod in found if rod == a))
    return tuple(rod for _, rod in sorted(found)) if whole and piled else None
