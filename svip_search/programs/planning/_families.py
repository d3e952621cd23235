"""Recipes of the eight families."""

from __future__ import annotations

from collections.abc import Sequence

from ...datasets.planning import FAMILIES, Task
from ...datasets.planning._family import State
from ...datasets.planning.maze import DIRECTIONS
from ...datasets.planning.number_slide import Ask, _line
from ._recipe import PlanRecipe, answer, sums

_WAYS = 'ways = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}'
#: Where a state of a maze has what is asked for.
_COUNTS = {"cells": "S[3]", "left": "S[5]", "right": "S[7]"}


def _sized(code: str, task: Task) -> str:
    return code.strip("\n").replace("ROWS", str(task.grid.rows)).replace("COLUMNS", str(task.grid.columns))


def _pairs(count: int) -> list[str]:
    return [f"{a} > {b}" for a in range(1, count + 1) for b in range(1, count + 1) if a != b]


class _Between(PlanRecipe):
    """Families whose moves are named ``a > b``."""

    verb: str

    def move(self, action: str, before: str, last: str) -> str:
        return f"{self.verb}({before}, {action.replace(' > ', ', ')})"


class WaterJugs(_Between):
    """Amount, capacity and wanted amount of each jug."""

    name = "water_jugs"
    verb = "pour"
    reached = "[jug[0] for jug in S] == goal"
    missed = "[jug[0] for jug in S] != goal"

    def start(self, task: Task) -> str:
        given = f"full, goal = {list(task.ask)}, {list(task.goal)}"  # type: ignore[call-overload]
        rules = """
def pour(jugs, a, b):
    after = [list(jug) for jug in jugs]
    poured = min(after[a - 1][0], after[b - 1][1] - after[b - 1][0])
    if poured < 1:
        raise ValueError("nothing can be poured")
    after[a - 1][0] -= poured
    after[b - 1][0] += poured
    return after
def read(i):
    return image.crop(i / COLUMNS, 0, (i + 1) / COLUMNS, 1).number()
state_0 = [[read(i), full[i], goal[i]] for i in range(COLUMNS)]
"""
        return f"{given}\n{_sized(rules, task)}"

    def tried(self, task: Task, state: State) -> Sequence[str]:
        return _pairs(task.grid.columns)

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        at = int(action.split(" > ")[1]) - 1
        return [f"S[{at}][0] = {n}" for n in (after[at] - 1, after[at] + 1) if 0 <= n <= task.ask[at]]  # type: ignore[index]


class TowerOfHanoi(_Between):
    """Rod and wanted rod of each disk, the smallest first, so that the first on a rod is its uppermost."""

    name = "tower_of_hanoi"
    verb = "move"
    reached = "[disk[0] for disk in S] == [disk[1] for disk in S]"
    missed = "[disk[0] for disk in S] != [disk[1] for disk in S]"

    def start(self, task: Task) -> str:
        rules = """
def move(disks, a, b):
    rods = [disk[0] for disk in disks]
    if a not in rods or b in rods and rods.index(b) < rods.index(a):
        raise ValueError("no disk can go there")
    after = [list(disk) for disk in disks]
    after[rods.index(a)][0] = b
    return after
def read(half, disk):
    return int(3 * half.find(str(disk))[0].x) + 1
upper, lower = image.crop(0, 0, 1, 0.5), image.crop(0, 0.5, 1, 1)
state_0 = [[read(upper, disk), read(lower, disk)] for disk in range(1, DISKS + 1)]
"""
        return rules.strip().replace("DISKS", str(task.grid.rows // 2))

    def tried(self, task: Task, state: State) -> Sequence[str]:
        return _pairs(3)

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        a, b = (int(n) for n in action.split(" > "))
        return [f"S[[disk[0] for disk in S].index({b})][0] = {6 - a - b}"]


class CheckerMove(_Between):
    """Squares as a list of words."""

    name = "checker_move"
    verb = "move"

    def start(self, task: Task) -> str:
        rules = """
def move(row, a, b):
    color, over = row[a - 1], row[(a + b) // 2 - 1]
    reach = b - a if color == "green" else a - b
    if color == "." or row[b - 1] != "." or reach not in (1, 2) or reach == 2 and over in (".", color):
        raise ValueError("no checker can go so")
    after = list(row)
    after[a - 1], after[b - 1] = ".", color
    return after
def read(r):
    return [image.crop(c / COLUMNS, r / 2, (c + 1) / COLUMNS, (r + 1) / 2).text() for c in range(COLUMNS)]
state_0 = read(0)
"""
        return _sized(rules, task)

    def goal(self, task: Task) -> str:
        return "goal = read(1)"

    def tried(self, task: Task, state: State) -> Sequence[str]:
        hole = state.index(".") + 1
        near = (hole - 2, hole - 1, hole + 1, hole + 2)
        return [f"{place} > {hole}" for place in near if 0 < place <= task.grid.columns]

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        a, b = (int(n) - 1 for n in action.split(" > "))
        other = "red" if after[b] == "green" else "green"
        return [f'S[{a}] = "{after[b]}"', f'S[{b}] = "{other}"']


class RottingKiwi(PlanRecipe):
    """The board as rows of words."""

    name = "rotting_kiwi"
    reached = '"fresh" not in sum(S, [])'
    missed = '"fresh" in sum(S, [])'

    def start(self, task: Task) -> str:
        rules = """
def near(board, r, c):
    around = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
    return [board[y][x] for y, x in around if 0 <= y < ROWS and 0 <= x < ROWS]
def rots(board, r, c):
    return board[r][c] == "fresh" and "rotten" in near(board, r, c)
def spread(board):
    after = [["rotten" if rots(board, r, c) else board[r][c] for c in range(ROWS)] for r in range(ROWS)]
    if after == board:
        raise ValueError("nothing spreads")
    return after
def read(r, c):
    return image.crop(c / ROWS, r / ROWS, (c + 1) / ROWS, (r + 1) / ROWS).text()
state_0 = [[read(r, c) for c in range(ROWS)] for r in range(ROWS)]
"""
        return _sized(rules, task)

    def move(self, action: str, before: str, last: str) -> str:
        return f"spread({before})"

    def tried(self, task: Task, state: State) -> Sequence[str]:
        return ["spread"]

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        slips, minutes = [], _minutes(task, after)
        for i, word in enumerate(after):
            other = "fresh" if word == "rotten" else "rotten"
            if word != "." and _minutes(task, (*after[:i], other, *after[i + 1 :])) != minutes:
                slips.append(f'S[{i // task.grid.columns}][{i % task.grid.columns}] = "{other}"')
        return slips


def _minutes(task: Task, state: State) -> int:
    """Return how often rot spreads from a state on; -1 where it does not reach every kiwi."""
    moves, minutes = FAMILIES["rotting_kiwi"].moves, 0
    while found := next(moves(task, state), None):
        state, minutes = found[1], minutes + 1
    return -1 if "fresh" in state else minutes


class NQueens(PlanRecipe):
    """The queen's column in each row."""

    name = "n_queens"

    def start(self, task: Task) -> str:
        rules = """
def place(board, row, column):
    if board[row - 1] != ".":
        raise ValueError("the row has a queen")
    for r, c in enumerate(board, start=1):
        if c != "." and (c == column or abs(c - column) == abs(r - row)):
            raise ValueError("two queens threaten each other")
    after = list(board)
    after[row - 1] = column
    return after
def read(r):
    found = image.crop(0, r / ROWS, 1, (r + 1) / ROWS).find("queen")
    return int(found[0].x * ROWS) + 1 if found else "."
state_0 = [read(r) for r in range(ROWS)]
"""
        return _sized(rules, task)

    def move(self, action: str, before: str, last: str) -> str:
        _, row, _, column = action.split()
        return f"place({before}, {row}, {column})"

    def tried(self, task: Task, state: State) -> Sequence[str]:
        row = state.index(0) + 1 if 0 in state else 1
        return [f"row {row} column {column}" for column in range(1, task.grid.columns + 1)]

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        row = int(action.split()[1]) - 1
        return [f"S[{row}] = {c}" for c in (after[row] - 1, after[row] + 1) if 0 < c <= task.grid.columns]

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        distance = (
            'placed = [r for r, c in enumerate(state_0) if c == "."]\n'
            "down, across = placed[-1] - placed[0], abs(S[placed[0]] - S[placed[-1]])\n"
            "distance = down + across\n"
            "['distance', down, '+', across, '=', distance]"
        )
        return [distance, answer("distance")] if depth else [answer("0")]

    def guess(self, task: Task, depth: int) -> str:
        return 'len([c for c in S if c != "."]) - 1'


class NumberSlide(PlanRecipe):
    """The board as rows of words; to count boards, the open place and how many are new after each move."""

    name = "number_slide"

    def start(self, task: Task) -> str:
        if _ask(task).kind == "count":
            rules = """
def beside(r, c):
    return [(y, x) for y, x in [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)] if 0 < y <= ROWS and 0 < x <= ROWS]
def reach(found):
    walks = {((found[1], found[2]), (0, 0)): 1}
    for _ in range(len(found) - 4):
        longer = {}
        for (at, before), ways in walks.items():
            for there in beside(*at):
                if there != before:
                    longer[(there, at)] = longer.get((there, at), 0) + ways
        walks = longer
    return [*found, sum(walks.values())]
hole = image.find(".")[0]
state_0 = ["open", int(hole.y * ROWS) + 1, int(hole.x * ROWS) + 1, "boards", 1]
"""
        else:
            rules = f"""
{_WAYS}
def slide(board, way):
    r, c = [(r, c) for r in range(ROWS) for c in range(ROWS) if board[r][c] == "."][0]
    y, x = r + ways[way][0], c + ways[way][1]
    if not (0 <= y < ROWS and 0 <= x < ROWS):
        raise ValueError("the wall is there")
    after = [list(row) for row in board]
    after[r][c], after[y][x] = board[y][x], "."
    return after
def read(r, c):
    return image.crop(c / ROWS, r / ROWS, (c + 1) / ROWS, (r + 1) / ROWS).text()
state_0 = [[read(r, c) for c in range(ROWS)] for r in range(ROWS)]
"""
        return _sized(rules, task)

    def move(self, action: str, before: str, last: str) -> str:
        return f"reach({before})" if action == "reach" else f'slide({before}, "{action}")'

    def tried(self, task: Task, state: State) -> Sequence[str]:
        return [] if _ask(task).kind == "count" else list(DIRECTIONS)

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        ask, side = _ask(task), task.grid.columns
        if ask.kind == "count":  # every other number is added up in the end
            return ["S[-1] += 1", "S[-1] -= 1"] if (ask.moves - after[0]) % 2 == 0 else []
        places = [(divmod(after[1].index(n), side), n) for n in _line(task, after)]
        return [f'S[{r}][{c}] = "{n + 1}"' for (r, c), n in places]

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        ask = _ask(task)
        if ask.kind == "count":
            return sums(depth // 2 + 1, f"numbers = S[4:][{depth % 2}::2]")
        lines = {
            "row": '[row for row in S if "." in row][0]', "top": "S[0]", "left": "[row[0] for row in S]",
            "column": '[column for column in zip(*S) if "." in column][0]',
            "bottom": "S[-1]", "right": "[row[-1] for row in S]",
        }  # fmt: skip
        listed = f'# {ask.line}\nnumbers = [int(n) for n in {lines[ask.line]} if n != "."]\nnumbers'
        if ask.kind == "follow" and ask.what != "sum":
            return [listed, answer(f"{'min' if ask.what == 'minimum' else 'max'}(numbers)")]
        return [listed, *sums(len(_line(task, state)))]

    def guess(self, task: Task, depth: int) -> str:
        return "S[-1]" if _ask(task).kind == "count" else 'max([int(n) for row in S for n in row if n != "."])'


class Maze(PlanRecipe):
    """Place, cells and turns in the words of the steps; what the run before was, a move is told."""

    name = "maze"
    reached = "S[:2] == goal"
    missed = "S[:2] != goal"

    def start(self, task: Task) -> str:
        rules = f"""
{_WAYS}
def run(state, way, cells, last):
    turn = (list(ways).index(way) - list(ways).index(last)) % 4 if last else 0
    if last and turn in (0, 2):
        raise ValueError("a run turns to the left or to the right")
    walls = [(int(p.y * ROWS), int(p.x * COLUMNS)) for p in image.find("#")]
    r, c = state[0] - 1, state[1] - 1
    for _ in range(cells):
        r, c = r + ways[way][0], c + ways[way][1]
        if not (0 <= r < ROWS and 0 <= c < COLUMNS) or (r, c) in walls:
            raise ValueError("there is a wall")
    left, right = state[5] + (turn == 3), state[7] + (turn == 1)
    return [r + 1, c + 1, "cells", state[3] + cells, "left", left, "right", right]
def read(what):
    found = image.find(what)[0]
    return [int(found.y * ROWS) + 1, int(found.x * COLUMNS) + 1]
state_0 = [*read("entry"), "cells", 1, "left", 0, "right", 0]
"""
        return _sized(rules, task)

    def goal(self, task: Task) -> str:
        return 'goal = read("exit")'

    def move(self, action: str, before: str, last: str) -> str:
        way, cells = action.split()
        return f'run({before}, "{way}", {cells}, "{last.split()[0] if last else ""}")'

    def tried(self, task: Task, state: State) -> Sequence[str]:
        return [f"{way} {self._ahead(task, state, way) + 1}" for way in DIRECTIONS]

    def _ahead(self, task: Task, state: State, way: str) -> int:
        """Return how many cells are free from a place on."""
        (down, across), (r, c), free = DIRECTIONS[way], state[:2], -1
        while 0 <= r < task.grid.rows and 0 <= c < task.grid.columns and task.cells[r * task.grid.columns + c] != "#":
            r, c, free = r + down, c + across, free + 1
        return free

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        place = _COUNTS.get(str(task.ask), _COUNTS["left"])
        return [f"{place} += 1", f"{place} += 2"]

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        if task.ask != "combined":
            return [answer(f"{_COUNTS[str(task.ask)]} + ({self.missed})")]
        turns = "turns = S[5] + S[7]\n[S[5], '+', S[7], '=', turns]"
        return [turns, answer(f"turns + ({self.missed})")]

    def guess(self, task: Task, depth: int) -> str:
        return f"S[3] - ({self.reached})"


class MoveBox(PlanRecipe):
    """Places of box and player in the words of the steps."""

    name = "move_box"
    reached = "S[1:3] == goal"
    missed = "S[1:3] != goal"

    def start(self, task: Task) -> str:
        rules = f"""
{_WAYS}
def push(state, way):
    walls = [(int(p.y * ROWS) + 1, int(p.x * COLUMNS) + 1) for p in image.find("#")]
    r, c = state[1], state[2]
    down, across = ways[way]
    seen, todo = [], [(state[4], state[5])]
    while todo:
        y, x = todo.pop()
        if (y, x) != (r, c) and (y, x) not in seen and (y, x) not in walls and 0 < y <= ROWS and 0 < x <= COLUMNS:
            seen.append((y, x))
            todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    y, x = r + down, c + across
    if (r - down, c - across) not in seen:
        raise ValueError("the player cannot stand there")
    if (y, x) in walls or not (0 < y <= ROWS and 0 < x <= COLUMNS):
        raise ValueError("there is a wall")
    return ["box", y, x, "player", r, c]
def read(what):
    found = image.find(what)[0]
    return [int(found.y * ROWS) + 1, int(found.x * COLUMNS) + 1]
state_0 = ["box", *read("box"), "player", *read("player")]
"""
        return _sized(rules, task)

    def goal(self, task: Task) -> str:
        return 'goal = read("flag")'

    def move(self, action: str, before: str, last: str) -> str:
        return f'push({before}, "{action.split()[1]}")'

    def tried(self, task: Task, state: State) -> Sequence[str]:
        return [f"push {way}" for way in DIRECTIONS]

    def slips(self, task: Task, action: str, after: State) -> list[str]:
        sides = (task.grid.rows, task.grid.columns)
        return [f"S[{i + 1}] = {n + 1}" for i in (0, 1) for n in (after[i] - 1, after[i] + 1) if 0 <= n < sides[i]]


def _ask(task: Task) -> Ask:
    assert isinstance(task.ask, Ask)
    return task.ask


RECIPES: dict[str, PlanRecipe] = {
    recipe.name: recipe
    for recipe in (
        CheckerMove(), Maze(), MoveBox(), NQueens(), NumberSlide(), RottingKiwi(), TowerOfHanoi(), WaterJugs(),
    )
}  # fmt: skip
