"""The last queens of a board on which none threatens another; how far are they from each other?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices
from ._grid import EMPTY, Grid

QUEEN = "queen"
#: An empty board of 12 rows has a million ways to begin.
LARGEST_BOARD = 11
Board = tuple[int, ...]  # the queen's column from 1 in each row, 0 for none


class NQueens(Family):
    """Queens are placed from the top row down.  With more than two missing, the question is about the outer two."""

    name = "n_queens"
    usual = (2, 3)
    longest = 7
    shows_goal = False
    _squares = (
        "You are given {} {} * {} chessboard. The Manhattan distance between two squares in a chessboard is equal to"
        " the minimal number of orthogonal King moves between these squares on the otherwise empty board. The objective"
        " is to place {} chess queens on this board so that no two queens threaten each other; i.e. no two queens share"
        " the same row, column, or diagonal. {} queens have already been placed in some of the squares of the board, as"
        " shown in the image. "
    )
    templates = (
        _squares + "Suppose you pick two squares to place the two remaining queen pieces in a way that fulfills the"
        " objective. What is the Manhattan distance between these two squares?",
        _squares + "Suppose you pick {} squares to place the remaining queen pieces in a way that fulfills the"
        " objective. What is the Manhattan distance between the topmost and the lowest of these squares?",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        side = int(rng.choice((6, 7, 8, 8, 9, 9, 10)))
        full = _boards(side)
        board = list(full[int(rng.integers(len(full)))])
        for row in rng.permutation(side)[:moves]:
            board[int(row)] = 0
        cells = tuple(QUEEN if board[row] == column + 1 else EMPTY for row in range(side) for column in range(side))
        article, placed = ("an" if side in (8, 11) else "a"), side - moves
        words = (article, side, side, side, placed, moves)
        question = self.templates[moves > 2].format(*words)
        task = self.task(Grid(self.name, side, side), question, cells)
        ends = _completions(tuple(board))
        distances = {_distance(task.start, end) for end in ends}
        if moves < 2 or len(distances) != 1:
            return None
        answer = distances.pop()
        return Instance(question, str(answer), choices(rng, answer, 1, 7), cells)

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        if grid.rows != grid.columns or grid.rows > LARGEST_BOARD:
            raise Unreadable(f"a board must be square, at most {LARGEST_BOARD} rows; got {grid.rows} x {grid.columns}")
        board = []
        for row in range(grid.rows):
            columns = [c + 1 for c in range(grid.columns) if cells[row * grid.columns + c] == QUEEN]
            if len(columns) > 1:
                raise Unreadable("no row can have two queens")
            board.append(columns[0] if columns else 0)
        if not _sound(tuple(board)):
            raise Unreadable("no queens in the picture can threaten each other")
        return Task(grid, cells, tuple(board))

    def show(self, task: Task, state: State) -> str:
        return " ".join(str(column) if column else EMPTY for column in state)

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        words = text.split()
        known = all(w == EMPTY or (w.isdecimal() and len(w) < 3 and 0 < int(w) <= task.grid.columns) for w in words)
        if len(words) != task.grid.rows or not known:
            return None
        return tuple(0 if w == EMPTY else int(w) for w in words)

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        if 0 in state:
            row = state.index(0)
            for column in _safe(state, row):
                yield f"row {row + 1} column {column}", (*state[:row], column, *state[row + 1 :])

    def ended(self, task: Task, state: State) -> bool:
        return 0 not in state

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        placed = [(row, state[row]) for row, before in enumerate(task.start) if before == 0]
        if not placed:
            return ["answer : 0"]
        (top, a), (low, b) = placed[0], placed[-1]
        down, across = low - top, abs(a - b)
        return [f"distance {down} + {across} = {down + across}", f"answer : {down + across}"]


def _threatens(row: int, column: int, other_row: int, other: int) -> bool:
    return column == other or abs(column - other) == abs(row - other_row)


def _safe(board: Board, row: int) -> list[int]:
    others = [(r, c) for r, c in enumerate(board) if c and r != row]
    return [c for c in range(1, len(board) + 1) if not any(_threatens(row, c, r, other) for r, other in others)]


def _sound(board: Board) -> bool:
    placed = [(r, c) for r, c in enumerate(board) if c]
    return not any(_threatens(*a, *b) for i, a in enumerate(placed) for b in placed[:i])


def _completions(board: Board) -> list[Board]:
    if 0 not in board:
        return [board]
    row = board.index(0)
    return [end for c in _safe(board, row) for end in _completions((*board[:row], c, *board[row + 1 :]))]


@lru_cache(maxsize=8)
def _boards(side: int) -> list[Board]:
    """Return all full boards of a side: 4 at 6, 40 at 7, 92 at 8, 352 at 9, 724 at 10."""
    return _completions((0,) * side)


def _distance(start: Board, end: Board) -> int:
    rows = [r for r, column in enumerate(start) if column == 0]
    return rows[-1] - rows[0] + abs(end[rows[0]] - end[rows[-1]])
