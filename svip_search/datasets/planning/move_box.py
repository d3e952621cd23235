"""A storekeeper pushes a box to a flag; how many pushes?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices, integers, parse_place, show_place
from ._grid import EMPTY, Grid

WALL, BOX, PLAYER, FLAG = "#", "box", "player", "flag"
DIRECTIONS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}

Place = tuple[int, int]


class MoveBox(Family):
    """The pushes of one box; the player walks freely to where a push starts.

    A state is (box row, box column, player row, player column).
    """

    name = "move_box"
    usual = (1, 8)
    longest = 18
    templates = (
        "A storekeeper is a puzzle in which the player pushes boxes around in a warehouse trying to get them to target"
        " locations. The game is represented by an {} x {} grid of characters grid where each element is a wall, floor,"
        " or box. Your task is to move the box to the end flag under the following rules:\n\n1. The box can be moved to"
        " an adjacent free cell by standing next to the box and then moving in the direction of the box by 1 grid. This"
        " is a push.\n2. The player cannot walk through the box.\n\nWhat is the minimum number of pushes to move the"
        " box to the end flag.",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        side = int(rng.choice((5, 6, 6, 6, 6, 7)) if moves < 7 else rng.choice((6, 7, 8, 9)))
        cells = np.full((side, side), WALL, dtype=object)
        inner = np.where(rng.random((side - 2, side - 2)) < rng.uniform(0.05, 0.4), WALL, EMPTY)
        cells[1:-1, 1:-1] = inner
        free = [(int(r), int(c)) for r, c in np.argwhere(cells == EMPTY)]
        if len(free) < 4:
            return None
        box, player = (free[i] for i in rng.permutation(len(free))[:2])
        task = Task(Grid(self.name, side, side), tuple(cells.ravel()), (*box, *player))
        ends = self._pushes(task)
        flags = [place for place, pushes in ends.items() if pushes == moves and place not in (box, player)]
        if not flags:
            return None
        cells[box], cells[player], cells[flags[int(rng.integers(len(flags)))]] = BOX, PLAYER, FLAG
        question = self.templates[0].format(side, side)
        return Instance(question, str(moves), choices(rng, moves, 1, 3), tuple(cells.ravel()))

    def _pushes(self, task: Task) -> dict[Place, int]:
        """Return how many pushes take the box to each place."""
        found = {task.start[:2]: 0}
        level, seen, depth = [task.start], {task.start}, 0
        while level:
            depth, before = depth + 1, level
            level = list(dict.fromkeys(s for state in before for _, s in self.moves(task, state) if s not in seen))
            seen.update(level)
            for state in level:
                found.setdefault(state[:2], depth)
        return found

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        if any(cells.count(thing) != 1 for thing in (BOX, PLAYER, FLAG)):
            raise Unreadable("the warehouse must have one box, one player and one flag")
        box, player, flag = (divmod(cells.index(thing), grid.columns) for thing in (BOX, PLAYER, FLAG))
        return Task(grid, cells, (*box, *player), flag)

    def show(self, task: Task, state: State) -> str:
        box_row, box_column, row, column = state
        return f"box {box_row + 1} {box_column + 1} player {row + 1} {column + 1}"

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        words = text.split()
        if len(words) != 6 or (words[0], words[3]) != (BOX, PLAYER):
            return None
        found = integers(" ".join((*words[1:3], *words[4:])))
        sound = found and all(
            1 <= n <= side for n, side in zip(found, (task.grid.rows, task.grid.columns) * 2, strict=True)
        )
        return tuple(n - 1 for n in found) if found and sound else None

    def show_goal(self, task: Task) -> str:
        return show_place(task.goal)

    def parse_goal(self, task: Task, text: str) -> State | None:
        return parse_place(task.grid, text)

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        box, player = state[:2], state[2:]
        reached = _walk(task, box, player)
        for action, (down, across) in DIRECTIONS.items():
            ahead = (box[0] + down, box[1] + across)
            if (box[0] - down, box[1] - across) in reached and _free(task, ahead):
                yield f"push {action}", (*ahead, *box)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state[:2] == task.goal)


def _free(task: Task, place: Place) -> bool:
    row, column = place
    inside = 0 <= row < task.grid.rows and 0 <= column < task.grid.columns
    return inside and task.cells[row * task.grid.columns + column] != WALL


def _walk(task: Task, box: Place, player: Place) -> set[Place]:
    """Return where the player can walk to without moving the box."""
    seen, stack = {player}, [player]
    while stack:
        row, column = stack.pop()
        for down, across in DIRECTIONS.values():
            place = (row + down, column + across)
            if place not in seen and place != box and _free(task, place):
                seen.add(place)
                stack.append(place)
    return seen
