"""Mazes: the way from the green arrow to the blue one; how many cells, or turns, has it?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices, parse_place, show_place
from ._grid import EMPTY, Grid

WALL, ENTRY, EXIT = "#", "entry", "exit"
DIRECTIONS = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}  # clockwise
_CLOCKWISE = list(DIRECTIONS)
_STATE = re.compile(r"(\d{1,2}) (\d{1,2}) cells (\d{1,3}) left (\d{1,2}) right (\d{1,2})")
_COMBINED = "combined number of left and right"

Place = tuple[int, int]  # row and column from 0


class Maze(Family):
    """The way through a maze without loops, run by run: a run goes straight on to where one can turn.

    A state is (row, column, direction of the last run, cells visited, left turns, right turns).
    """

    name = "maze"
    usual = (3, 12)
    longest = 24
    templates = tuple(
        "This is maze having {} * {} cells. The empty cells are coloured white and the obstacle cells are coloured"
        " black. From an empty cell, you can only move up, down, left, or right to another adjacent empty cell. You"
        " cannot move diagonally between two empty cells and cannot step into a cell with an obstacle. The entry cell"
        " of the maze is shown with the green arrow. The exit cell of the maze is shown with the blue arrow. Suppose"
        " you have found the most optimal path in the maze between the entrance and exit, where you need to go through"
        " the least number of empty cells and you need to make the least number of left and right turns. " + asked
        for asked in (
            "How many cells do you need to visit in this optimal path including the entrance and exit cells?",
            "What is the total number of left turns do you need to make in this optimal path?",
            "What is the total number of right turns do you need to make in this optimal path?",
            f"What is the {_COMBINED} turns do you need to make in this optimal path?",
        )
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        sides = (5, 7, 7, 9) if moves < 5 else (7, 9, 11, 13) if moves < 11 else (9, 11, 13, 13)
        rows, columns = (int(n) for n in rng.choice(sides, 2))
        cells = _carve(rng, rows, columns)
        kind = int(rng.choice(4, p=(0.32, 0.22, 0.22, 0.24)))
        question = self.templates[kind].format(rows, columns)
        task = self.task(Grid(self.name, rows, columns), question, cells)
        end = self._end(task)
        if end[1] != moves:
            return None
        answer = int(self.closing(task, *end)[-1].split()[-1])
        return Instance(question, str(answer), choices(rng, answer, 0, 4 if kind else 12), cells)

    def _end(self, task: Task) -> tuple[State, int]:
        """Return the state at the exit and the number of runs to it."""
        level, depth = [task.start], 0
        while level:
            for state in level:
                if self.ended(task, state):
                    return state, depth
            level, depth = [after for state in level for _, after in self.moves(task, state)], depth + 1
        raise Unreadable("the maze must have a way from its entry to its exit")

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        if cells.count(ENTRY) != 1 or cells.count(EXIT) != 1:
            raise Unreadable("the maze must have one entry and one exit")
        if _has_loop(grid, cells):
            raise Unreadable("the maze must have one way only to each of its cells")
        row, column = divmod(cells.index(ENTRY), grid.columns)
        start = (row, column, "", 1, 0, 0)
        return Task(grid, cells, start, divmod(cells.index(EXIT), grid.columns), _asked(question))

    def show(self, task: Task, state: State) -> str:
        row, column, _, cells, left, right = state
        return f"{row + 1} {column + 1} cells {cells} left {left} right {right}"

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        found = _STATE.fullmatch(text)
        if not found:
            return None
        row, column, *counts = (int(n) for n in found.groups())
        inside = 1 <= row <= task.grid.rows and 1 <= column <= task.grid.columns
        # The direction is not in the words; the one that leads on from here is known from the step's action.
        return (row - 1, column - 1, "", *counts) if inside else None

    def show_goal(self, task: Task) -> str:
        return show_place(task.goal)

    def parse_goal(self, task: Task, text: str) -> State | None:
        return parse_place(task.grid, text)

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        row, column, last, cells, left, right = state
        for turn, direction in _turns(last):
            down, across = DIRECTIONS[direction]
            run, place = 0, (row, column)
            while _free(task, ahead := (place[0] + down, place[1] + across)):
                run, place = run + 1, ahead
                if _stops(task, place, direction):
                    counts = (cells + run, left + (turn == -1), right + (turn == 1))
                    yield f"{direction} {run}", (*place, direction, *counts)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state[:2] == task.goal)

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        *_, cells, left, right = state
        if task.ask == "combined":
            return [f"{left} + {right} = {left + right}", f"answer : {left + right}"]
        return [f"answer : { {'cells': cells, 'left': left, 'right': right}[str(task.ask)] }"]


def _asked(question: str) -> str:
    text = question.lower()
    asked = {"how many cells": "cells", _COMBINED: "combined"} | {f"number of {s} turns": s for s in ("left", "right")}
    for words, what in asked.items():
        if words in text:
            return what
    raise Unreadable("the question must ask for cells or for turns")


def _free(task: Task, place: Place) -> bool:
    return _open(task.grid, task.cells, place)


def _open(grid: Grid, cells: tuple[str, ...], place: Place) -> bool:
    row, column = place
    return 0 <= row < grid.rows and 0 <= column < grid.columns and cells[row * grid.columns + column] != WALL


@lru_cache(maxsize=256)
def _has_loop(grid: Grid, cells: tuple[str, ...]) -> bool:
    """Return whether one can walk in a circle; then runs would have no end, for states count the cells visited."""
    entry = divmod(cells.index(ENTRY), grid.columns)
    seen, stack, passages = {entry}, [entry], 0
    while stack:
        row, column = stack.pop()
        beside = [(row + d, column + a) for d, a in DIRECTIONS.values() if _open(grid, cells, (row + d, column + a))]
        passages += len(beside)  # each of them twice in all
        stack += [place for place in beside if place not in seen]
        seen.update(beside)
    return passages > 2 * (len(seen) - 1)


def _turns(last: str) -> list[tuple[int, str]]:
    """Return where one may go after a run: to its left (-1) or its right (1); anywhere at the entry (0)."""
    if not last:
        return [(0, direction) for direction in DIRECTIONS]
    at = _CLOCKWISE.index(last)
    return [(-1, _CLOCKWISE[at - 1]), (1, _CLOCKWISE[(at + 1) % 4])]


def _stops(task: Task, place: Place, direction: str) -> bool:
    """Return whether a run may end here: at a side way, at the exit, or where it cannot go on."""
    row, column = place
    down, across = DIRECTIONS[direction]
    sides = ((row + across, column + down), (row - across, column - down))
    onward = _free(task, (row + down, column + across))
    return not onward or place == task.goal or any(_free(task, side) for side in sides)


def _carve(rng: np.random.Generator, rows: int, columns: int) -> tuple[str, ...]:
    """Return a maze without loops: a random depth-first walk over the odd cells, entry and exit in the border."""
    cells = np.full((rows, columns), WALL, dtype=object)
    stack = [(1, 1)]
    cells[1, 1] = EMPTY
    while stack:
        row, column = stack[-1]
        ways = [
            (row + 2 * d, column + 2 * a, row + d, column + a)
            for d, a in DIRECTIONS.values()
            if 0 < row + 2 * d < rows and 0 < column + 2 * a < columns and cells[row + 2 * d, column + 2 * a] == WALL
        ]
        if not ways:
            stack.pop()
            continue
        r, c, between_r, between_c = ways[int(rng.integers(len(ways)))]
        cells[between_r, between_c] = cells[r, c] = EMPTY
        stack.append((r, c))
    cells[1, 0] = ENTRY
    exit_at = (rows - 1, columns - 2) if rng.random() < 0.5 else (rows - 2, columns - 1)
    cells[exit_at] = EXIT
    return tuple(cells.ravel())
