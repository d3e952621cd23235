"""Water jugs: pour one into another until one is empty or the other full; how many pourings to the wanted amounts?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

import numpy as np

from ._family import Family, Instance, State, Task, Unreadable, choices, distances, integers
from ._grid import Grid

LARGEST_JUG = 14
#: States of five jugs of which the largest has ``LARGEST_JUG`` litres are fewer.
_LARGEST = 400_000
#: Pourings after the shortest plan that are looked at.
_BEYOND = 3


class WaterJugs(Family):
    """The pourings from the amounts in the picture to those of the question.

    A state is told as amount, capacity and wanted amount of each jug: what is compared stands side by side.
    """

    name = "water_jugs"
    shows_goal = False  # every state does
    usual = (1, 7)
    longest = 20
    templates = (
        "You are given {} jugs of capacities {} litres. Initially, the amount of water that is contained in each jar is"
        " shown in the image. A single step of water pouring from one jug to another is constrained by the following"
        " rules: i) take a non-empty jug and pour water from it to another non-full jug until the first one becomes"
        " empty or the second one becomes full; and ii) no water can be split while pouring. The objective is to reach"
        " the amounts of {} litres of water in the jugs from left to right, respectively. What is the minimum number of"
        " water pouring steps required to achieve the objective?",
    )

    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        count = int(rng.choice([2, 3, 3, 3, 4, 4, 5]))
        sizes = rng.permutation(np.arange(1, LARGEST_JUG + 1))[:count]
        full = tuple(sorted((int(s) for s in sizes), reverse=True))
        start = tuple(int(rng.integers(0, size + 1)) for size in full)
        levels = _levels(full, start, moves)
        if len(levels) <= moves:
            return None
        goals = levels[moves]
        goal = goals[int(rng.integers(len(goals)))]
        question = self.templates[0].format(count, ", ".join(map(str, full)), ", ".join(map(str, goal)))
        cells = tuple(map(str, start))
        return Instance(question, str(moves), choices(rng, moves, 1, 3), cells, capacities=full)

    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        full = _numbers(r"of capacities ((?:\d{1,3}, )*\d{1,3}) litres", question)
        goal = _numbers(r"amounts of ((?:\d{1,3}, )*\d{1,3}) litres", question)
        start = integers(" ".join(cells))
        if start is None or not len(full) == len(goal) == len(start) == grid.columns:
            raise Unreadable("capacities, wanted amounts and jugs in the picture must be as many")
        if prod(f + 1 for f in full) > _LARGEST:
            raise Unreadable(f"jugs with more than {_LARGEST} states cannot be planned; there are {full}")
        if any(s > f for s, f in zip(start, full, strict=True)):
            raise Unreadable("no jug can hold more than its capacity")
        return Task(grid, cells, tuple(start), goal, full)

    def show(self, task: Task, state: State) -> str:
        return " | ".join(f"{a} {f} {g}" for a, f, g in zip(state, _full(task), task.goal, strict=True))

    def parse(self, task: Task, text: str, depth: int) -> State | None:
        jugs = [integers(part) or [] for part in text.split(" | ")]
        if any(len(jug) != 3 or jug[0] > jug[1] for jug in jugs):
            return None
        amounts, full, goal = zip(*jugs, strict=True)
        return amounts if (full, goal) == (_full(task), task.goal) else None

    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        return _moves(_full(task), state)

    def ended(self, task: Task, state: State) -> bool:
        return bool(state == task.goal)

    def remaining(self, task: Task) -> dict[State, int]:
        """Look no further than a few pourings beyond the goal: five large jugs have 100,000 states."""
        before: dict[State, list[State]] = {task.start: []}
        level, left = [task.start], _BEYOND
        while level and left:
            left -= task.goal in before
            fresh = []
            for state in level:
                for _, after in _moves(_full(task), state):
                    if after not in before:
                        before[after] = []
                        fresh.append(after)
                    before[after].append(state)
            level = fresh
        return distances([task.goal], before) if task.goal in before else {}


def _full(task: Task) -> tuple[int, ...]:
    full: tuple[int, ...] = task.ask  # type: ignore[assignment]
    return full


def _moves(full: tuple[int, ...], state: tuple[int, ...]) -> Iterator[tuple[str, State]]:
    for a, have in enumerate(state):
        for b, other in enumerate(state):
            poured = min(have, full[b] - other)
            if a != b and poured:
                after = list(state)
                after[a], after[b] = have - poured, other + poured
                yield f"{a + 1} > {b + 1}", tuple(after)


def _levels(full: tuple[int, ...], start: tuple[int, ...], moves: int) -> list[list[State]]:
    """Return the states at each distance from the start, as far as ``moves``."""
    seen, levels = {start}, [[start]]
    while levels[-1] and len(levels) <= moves:
        found = dict.fromkeys(after for state in levels[-1] for _, after in _moves(full, state))
        levels.append([state for state in found if state not in seen])
        seen.update(levels[-1])
    return levels if levels[-1] else levels[:-1]


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    return tuple(int(n) for n in found[1].split(", ")) if found else ()
