"""Checkers in a row: green ones go right, red ones left, by a step or a jump; how many moves to the lower row?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices
from ._grid import EMPTY, Grid

GREEN, RED = "green", "red"


class CheckerMove(Family):
    """The moves from the upper row of checkers to the lower one.  All plans are equally long; many get stuck."""

    name = "checker_move"
    usual = (1, 14)
    longest = 35
    templates = (
        "A checker game is being played on a grid of {} squares with {} green and {} red checkers. Initially, the"
        " checkers are arranged as shown in the starting configuration with the {} checkers occupying {} squares and"
        " one unoccupied square. Green checkers only move rightward and red checkers only move leftward. Every move is"
        " either i) a slide to the adjacent empty square, or ii) a jump over one position to an empty square, provided"
        " the checker being jumped over is of a different colour. Each square can accommodate a maximum of one checker"
        " at any time. How many moves are required to reach the ending configuration from the starting configuration"
        " following the specified rules?",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        pair = _swap(rng, moves) if rng.random() < 0.4 else _walk(rng, moves)
        if pair is None:
            return None
        start, end = pair
        green, red = start.count(GREEN), start.count(RED)
        question = self.templates[0].format(len(start), green, red, green + red, green + red)
        return Instance(question, str(moves), choices(rng, moves, 0, 3 if moves < 8 else 9), (*start, *end))

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        start, goal = cells[: grid.columns], cells[grid.columns :]
        if sorted(start) != sorted(goal) or start.count(EMPTY) != 1 or set(start) - {GREEN, RED, EMPTY}:
            raise Unreadable("both rows must show the same checkers and one empty square")
        return Task(grid, cells, start, goal)

    def show(self, task: Task, state: State) -> str:
        return " ".join(state)

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        squares = tuple(text.split())
        known = len(squares) == task.grid.columns and squares.count(EMPTY) == 1
        return squares if known and not set(squares) - {GREEN, RED, EMPTY} else None

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        return _moves(state)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state == task.goal)


def _moves(state: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    hole = state.index(EMPTY)
    for side, color, other in ((-1, GREEN, RED), (1, RED, GREEN)):
        for reach in (1, 2):
            place = hole + side * reach
            if not 0 <= place < len(state) or state[place] != color:
                continue
            if reach == 1 or state[hole + side] == other:
                after = list(state)
                after[hole], after[place] = color, EMPTY
                yield f"{place + 1} > {hole + 1}", tuple(after)


def _swap(rng: np.random.Generator, moves: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the classical exchange of all checkers, where one of ``moves`` moves exists: green * red + green + red."""
    fits = [(g, r) for g in range(1, 7) for r in range(1, 7) if g * r + g + r == moves and g + r <= 12]
    if not fits:
        return None
    green, red = fits[int(rng.integers(len(fits)))]
    return (
        (*[GREEN] * green, EMPTY, *[RED] * red),
        (*[RED] * red, EMPTY, *[GREEN] * green),
    )


def _walk(rng: np.random.Generator, moves: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return a random row and what random moves make of it; rows of one colour on each side have the longest plans."""
    checkers = int(rng.integers(3, 12))
    green = int(rng.integers(1, checkers))
    row = [GREEN] * green + [EMPTY] + [RED] * (checkers - green)
    for _ in range(int(rng.integers(0, 2 * checkers if moves < 6 else 3))):
        a, b = rng.integers(0, len(row), 2)
        row[int(a)], row[int(b)] = row[int(b)], row[int(a)]
    start = state = tuple(row)
    for _ in range(moves):
        after = [s for _, s in _moves(state)]
        if not after:
            return None
        state = after[int(rng.integers(len(after)))]
    return start, state
