"""Sliding tiles: what do moves of the open position lead to, how small or large can a sum become, how many boards?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices, integers
from ._grid import EMPTY, Grid

DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
SIDES = {"top": ("row", 0), "bottom": ("row", -1), "left": ("column", 0), "right": ("column", -1)}

#: Moves after which boards can be counted, see `_new_boards`.
_COUNTED = 5

Board = tuple[int, ...]  # row by row, 0 the open position


@dataclass(frozen=True)
class Ask:
    """What a question wants.

    Args:
        kind: ``"follow"`` a sequence of moves, ``"extreme"`` of a sum over free moves, or ``"count"`` the boards.
        moves: how many.
        sequence: of ``follow``, the directions.
        what: of ``follow``: minimum, maximum or sum; of ``extreme``: minimum or maximum.
        line: of ``follow``: row or column; of ``extreme``: top, bottom, left or right.
    """

    kind: str
    moves: int
    sequence: tuple[str, ...] = ()
    what: str = ""
    line: str = ""


class NumberSlide(Family):
    """States are (moves done, board); to count boards, (moves done, (open position, how many are new after each…))."""

    name = "number_slide"
    usual = (1, 5)
    longest = 8
    shows_goal = False
    _board = (
        "The board shown in the image is a sliding puzzle of {} * {} tile dimensions. It has {} numbered tiles and one"
        " unoccupied (open) position. Tiles in the same row or column of the open position can be moved by sliding them"
        " horizontally or vertically, respectively. All tiles always stay and move inside the red boundary wall, as"
        " shown in the image. A move is defined as moving the open position by one tile unit in any available"
        " direction. You start from the board position shown in the image and perform exactly {} move{}"
    )
    templates = (
        _board + " such that the open position is seen moving in the following sequence: {}. What is the minimum number"
        " in the {} which now has the open position?",
        _board + " such that the open position is seen moving in the following sequence: {}. What is the maximum number"
        " in the {} which now has the open position?",
        _board + " such that the open position is seen moving in the following sequence: {}. What is the sum of numbers"
        " of the {} which now has the open position?",
        _board + ". What is the {} sum that you can achieve across the {} most {} in the final board position?",
        _board + ". How many unique final board positions can you reach?",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        side = int(rng.integers(3, 6))
        board = tuple(int(n) for n in rng.permutation(side * side))
        plural = "" if moves == 1 else "s"
        words: list[object] = [side, side, side * side - 1, moves, plural]
        kind = str(rng.choice(("follow", "extreme", "count"), p=(0.37, 0.4, 0.23))) if moves < 6 else "follow"
        if kind == "follow":
            template = self.templates[int(rng.integers(3))]
            words += [", ".join(_wander(rng, board, side, moves)), rng.choice(("row", "column"))]
        elif kind == "extreme":
            place = str(rng.choice(list(SIDES)))
            template = self.templates[3]
            words += [rng.choice(("minimum", "maximum")), place, SIDES[place][0]]
        else:
            template = self.templates[4]
        question = template.format(*words)
        cells = tuple(str(n) if n else EMPTY for n in board)
        task = self.task(Grid(self.name, side, side), question, cells)
        answer = self._answer(task)
        return Instance(question, str(answer), choices(rng, answer, 0, 4 if answer < 10 else 15), cells)

    def _answer(self, task: Task) -> int:
        left, state, depth = self.remaining(task), task.start, 0
        while left[state]:
            state = next(s for _, s in self.moves(task, state) if left.get(s) == left[state] - 1)
            depth += 1
        return int(self.closing(task, state, depth)[-1].split()[-1])

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        board = tuple(0 if w == EMPTY else int(w) if w.isdecimal() and len(w) < 3 else -1 for w in cells)
        if grid.rows != grid.columns or grid.rows < 2:
            raise Unreadable(f"the board must be square, of 2 rows at least; got {grid.rows} x {grid.columns}")
        if sorted(board) != list(range(len(cells))):
            raise Unreadable(f"the tiles must be 1 to {len(cells) - 1} with one open position")
        ask = _ask(question)
        start = (0, (board.index(0), 1)) if ask.kind == "count" else (0, board)
        return Task(grid, cells, start, None, ask)

    def show(self, task: Task, state: State) -> str:
        side, (_, what) = task.grid.columns, state
        if _asked(task).kind == "count":
            row, column = divmod(what[0], side)
            return f"open {row + 1} {column + 1} boards " + " ".join(map(str, what[1:]))
        words = [str(n) if n else EMPTY for n in what]
        return " | ".join(" ".join(words[i : i + side]) for i in range(0, len(words), side))

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        if _asked(task).kind == "count":
            return _parse_counts(task, text, depth)
        rows = [row.split() for row in text.split(" | ")]
        if len(rows) != task.grid.rows or any(len(row) != task.grid.columns for row in rows):
            return None
        words = [word for row in rows for word in row]
        board = tuple(0 if w == EMPTY else int(w) if w.isdecimal() and len(w) < 3 else -1 for w in words)
        return (depth, board) if board.count(0) == 1 and min(board) == 0 else None

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        ask, side, (depth, what) = _asked(task), task.grid.columns, state
        if depth >= ask.moves:
            return
        if ask.kind == "count":
            yield "reach", (depth + 1, (*what, _new_boards(what[0], side, depth + 1)))
            return
        allowed = ask.sequence[depth : depth + 1] if ask.kind == "follow" else DIRECTIONS
        for direction in allowed:
            after = _slide(what, side, direction)
            if after is not None:
                yield direction, (depth + 1, after)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state[0] == _asked(task).moves)

    def best(self, task: Task, ends: Sequence[State]) -> Sequence[State]:
        ask = _asked(task)
        if ask.kind != "extreme" or not ends:
            return ends
        sums = {state: sum(_line(task, state)) for state in ends}
        wanted = (min if ask.what == "minimum" else max)(sums.values())
        return [state for state, total in sums.items() if total == wanted]

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        ask = _asked(task)
        if ask.kind == "count":
            return _sums(state[1][1:][depth % 2 :: 2])
        numbers = _line(task, state)
        listed = f"{ask.line} : " + " ".join(map(str, numbers))
        if ask.what in ("minimum", "maximum") and ask.kind == "follow":
            return [listed, f"answer : {(min if ask.what == 'minimum' else max)(numbers)}"]
        return [listed, *_sums(numbers)]


def _sums(numbers: Sequence[int]) -> list[str]:
    """Return the additions of some numbers one by one, and the answer."""
    steps, total = [], numbers[0]
    for n in numbers[1:]:
        steps.append(f"{total} + {n} = {total + n}")
        total += n
    return [*steps, f"answer : {total}"]


def _asked(task: Task) -> Ask:
    assert isinstance(task.ask, Ask)
    return task.ask


def _ask(question: str) -> Ask:
    found = re.search(r"perform exactly (\d{1,3}) move", question)
    if not found:
        raise Unreadable("the question must say how many moves are performed")
    moves = int(found[1])
    if moves > NumberSlide.longest:
        raise Unreadable(f"at most {NumberSlide.longest} moves can be followed; the question has {moves}")
    if "How many unique" in question:
        if moves > _COUNTED:
            raise Unreadable(f"boards are counted after at most {_COUNTED} moves; the question has {moves}")
        return Ask("count", moves)
    extreme = re.search(r"What is the (minimum|maximum) sum .*? across the (top|bottom|left|right) most", question)
    if extreme:
        return Ask("extreme", moves, (), extreme[1], extreme[2])
    follow = re.search(
        r"following sequence: ([a-z, ]+)\. What is the (minimum|maximum|sum) .*? the (row|column)", question
    )
    if not follow:
        raise Unreadable("the question must ask for boards, for a sum, or for numbers after a sequence of moves")
    sequence = tuple(follow[1].split(", "))
    if len(sequence) != moves or set(sequence) - set(DIRECTIONS):
        raise Unreadable(f"the sequence must name {moves} directions")
    return Ask("follow", moves, sequence, follow[2], follow[3])


def _parse_counts(task: Task, text: str, depth: int) -> State | None:
    words, side = text.split(), task.grid.columns
    numbers = integers(" ".join((*words[1:3], *words[4:])))
    if words[:1] + words[3:4] != ["open", "boards"] or numbers is None or len(numbers) != depth + 3:
        return None
    row, column, *counts = numbers
    inside = 1 <= row <= side and 1 <= column <= side
    return (depth, ((row - 1) * side + column - 1, *counts)) if inside else None


def _slide(board: Board, side: int, direction: str) -> Board | None:
    """Return the board after the open position has moved; None where it cannot."""
    at = board.index(0)
    row, column = at // side + DIRECTIONS[direction][0], at % side + DIRECTIONS[direction][1]
    if not (0 <= row < side and 0 <= column < side):
        return None
    after = list(board)
    after[at], after[row * side + column] = after[row * side + column], 0
    return tuple(after)


def _wander(rng: np.random.Generator, board: Board, side: int, moves: int) -> list[str]:
    path: list[str] = []
    for _ in range(moves):
        ways = [(d, after) for d in DIRECTIONS if (after := _slide(board, side, d)) is not None]
        direction, board = ways[int(rng.integers(len(ways)))]
        path.append(direction)
    return path


def _line(task: Task, state: State) -> list[int]:
    """Return the numbers of the row or column that the question is about, without the open position."""
    ask, side, board = _asked(task), task.grid.columns, state[1]
    if ask.kind == "follow":
        row, column = divmod(board.index(0), side)
        kind, at = ask.line, row if ask.line == "row" else column
    else:
        kind, at = SIDES[ask.line]
    at %= side
    line = board[at * side : (at + 1) * side] if kind == "row" else board[at::side]
    return [n for n in line if n]


def _new_boards(hole: int, side: int, moves: int) -> int:
    """Return how many boards take ``moves`` moves and no fewer: walks of the open position that never turn back.

    Two such walks of up to 5 moves give different boards; at 6, half a turn of three tiles meets its mirror image.
    """
    walks = {(hole, -1): 1}
    for _ in range(moves):
        longer: dict[tuple[int, int], int] = {}
        for (at, before), count in walks.items():
            for after in _beside(at, side):
                if after != before:
                    longer[after, at] = longer.get((after, at), 0) + count
        walks = longer
    return sum(walks.values())


def _beside(at: int, side: int) -> list[int]:
    row, column = divmod(at, side)
    near = [(row + d, column + a) for d, a in DIRECTIONS.values()]
    return [r * side + c for r, c in near if 0 <= r < side and 0 <= c < side]
