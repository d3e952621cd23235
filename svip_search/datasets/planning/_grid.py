"""Pictures of planning puzzles as grids of cells, and how a question tells which grid it is about.

A planning question states its grid in words ("13 * 7 cells", "3 rods and 6 disks"), so its picture can be cut into
the cells of that grid before anything is known of what is in them.  A cell holds one word of ``CELL_WORDS``::

    number_slide    n x n          "1".. , "." the open position
    maze            rows x columns "#" , "." , "entry" , "exit"
    move_box        n x n          "#" , "." , "box" , "player" , "flag"
    n_queens        n x n          "queen" , "."
    rotting_kiwi    n x n          "fresh" , "rotten" , "."
    checker_move    2 x n          "green" , "red" , "."             row 1 the start, row 2 the end
    tower_of_hanoi  2n x 3         "1" the smallest disk .. , "."    n levels of the start from the top, then the end
    water_jugs      1 x jugs       "0".. litres
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EMPTY = "."
#: All that a cell may hold.
CELL_WORDS: tuple[str, ...] = (
    EMPTY, "#", "entry", "exit", "box", "player", "flag", "queen", "fresh", "rotten", "green", "red",
    *(str(n) for n in range(25)),
)  # fmt: skip
#: Rows and columns of the largest picture that is cut.
LARGEST = 16


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a picture.

    Args:
        family: whose picture it is.
        rows: cells from top to bottom.
        columns: cells from left to right.
        scale: largest capacity in litres, of water jugs only.
    """

    family: str
    rows: int
    columns: int
    scale: int = 0

    def __len__(self) -> int:
        return self.rows * self.columns


#: What stands between two words of a pattern is bounded: the time on any text grows with its length only.
_PATTERNS = {
    "number_slide": re.compile(r"sliding puzzle of (\d{1,3}) \* (\d{1,3}) tile"),
    "maze": re.compile(r"maze having (\d{1,3}) \* (\d{1,3}) cells"),
    "move_box": re.compile(r"storekeeper.{0,300}?represented by an? (\d{1,3}) x (\d{1,3}) grid", re.DOTALL),
    "n_queens": re.compile(r"given an? (\d{1,3}) \* (\d{1,3}) chessboard"),
    "rotting_kiwi": re.compile(r"given an? (\d{1,3}) x (\d{1,3}) grid in which each cell .{0,60}?kiwi"),
    "checker_move": re.compile(r"checker game .{0,60}? grid of (\d{1,3}) squares"),
    "tower_of_hanoi": re.compile(r"tower of hanoi game with (\d{1,3}) rods and (\d{1,3}) disks"),
    "water_jugs": re.compile(r"given \d{1,3} jugs of capacities ((?:\d{1,3}, ){0,15}\d{1,3}) litres"),
}


def grid_of(question: str) -> Grid | None:
    """Return the grid that a planning question is about; None where it is no such question.

    Args:
        question: its words, of any case; text around it does no harm.

    Returns:
        None too where the grid has no cell, or more than ``LARGEST`` rows or columns.

    Example:
        >>> grid_of("This is maze having 13 * 7 cells. The empty cells are coloured white")
        Grid(family='maze', rows=13, columns=7, scale=0)
        >>> grid_of("What is the missing number?") is None
        True
    """
    text = question.lower()
    for family, pattern in _PATTERNS.items():
        found = pattern.search(text)
        if found:
            grid = _grid(family, [int(n) for part in found.groups() for n in part.split(", ")])
            return grid if 0 < grid.rows <= LARGEST and 0 < grid.columns <= LARGEST else None
    return None


def _grid(family: str, numbers: list[int]) -> Grid:
    if family == "checker_move":
        return Grid(family, 2, numbers[0])
    if family == "tower_of_hanoi":
        return Grid(family, 2 * numbers[1], numbers[0])
    if family == "water_jugs":
        return Grid(family, 1, len(numbers), max(numbers))
    return Grid(family, *numbers)
