"""Rot spreads from kiwi to kiwi, minute by minute; how many minutes until none is fresh?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices
from ._grid import EMPTY, Grid

FRESH, ROTTEN = "fresh", "rotten"


class RottingKiwi(Family):
    """A process that can only be followed: one move a state, each a chance to slip."""

    name = "rotting_kiwi"
    usual = (1, 6)
    longest = 14
    shows_goal = False
    templates = (
        "You are given a {} x {} grid in which each cell can contain either no kiwi, one fresh kiwi, or one rotten"
        " kiwi. Every minute, any fresh kiwi that is 4-directionally adjacent to a rotten kiwi also becomes rotten."
        " What is the minimum number of minutes that must elapse until no cell has a fresh kiwi?",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        side = int(rng.choice((3, 3, 3, 4)) if moves < 7 else rng.choice((4, 5, 5, 6)))
        kiwis = rng.random(side * side) < rng.uniform(0.4, 0.9)
        cells = [FRESH if kiwi else EMPTY for kiwi in kiwis]
        for place in rng.integers(0, side * side, 1 if rng.random() < 0.7 else 2):
            cells[int(place)] = ROTTEN
        question = self.templates[0].format(side, side)
        task = self.task(Grid(self.name, side, side), question, tuple(cells))
        minutes = self.remaining(task).get(task.start)
        if minutes != moves:
            return None
        return Instance(question, str(moves), choices(rng, moves, 1, 3), task.cells)

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        if set(cells) - {FRESH, ROTTEN, EMPTY}:
            raise Unreadable("cells must be empty, fresh or rotten")
        return Task(grid, cells, cells)

    def show(self, task: Task, state: State) -> str:
        side = task.grid.columns
        return " | ".join(" ".join(state[i : i + side]) for i in range(0, len(state), side))

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        rows = [row.split() for row in text.split(" | ")]
        sound = len(rows) == task.grid.rows and all(len(row) == task.grid.columns for row in rows)
        state = tuple(word for row in rows for word in row)
        return state if sound and not set(state) - {FRESH, ROTTEN, EMPTY} else None

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        side = task.grid.columns
        rotten = {divmod(i, side) for i, word in enumerate(state) if word == ROTTEN}
        touched = {(r + d, c + a) for r, c in rotten for d, a in ((0, 1), (0, -1), (1, 0), (-1, 0))}
        after = tuple(
            ROTTEN if word == FRESH and divmod(i, side) in touched else word for i, word in enumerate(state)
        )  # fmt: skip
        if after != state:
            yield "spread", after

    def ended(self, task: Task, state: State) -> bool:
        return FRESH not in state
