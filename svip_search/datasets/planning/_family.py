"""What a planning family is: tasks with states, moves between them, and an answer that the shortest plan gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from ._grid import Grid

#: A state of a task; families choose the type.
State = Any


@dataclass(frozen=True)
class Task:
    """What a question asks of a picture: the same fields for all families.

    Args:
        grid: the cells of the picture.
        cells: what is in them, row by row.
        start: the state that the picture shows.
        goal: what is to be reached; None where the family has nothing to say of it.
        ask: what else the question's words say, hashable.
    """

    grid: Grid
    cells: tuple[str, ...]
    start: State
    goal: State = None
    ask: Hashable = None


@dataclass(frozen=True)
class Instance:
    """A puzzle before it is drawn; ``capacities`` of water jugs only."""

    question: str
    answer: str
    options: tuple[str, ...]
    cells: tuple[str, ...]
    capacities: tuple[int, ...] = ()


class Unreadable(ValueError):
    """Question and picture give no task of the family."""


class Family(ABC):
    """One family of planning puzzles.

    A chain of thought states what is seen, then moves from state to state, then concludes::

        start : STATE          goal : GOAL
        1 : ACTION : STATE     2 : ACTION : STATE     back to 1 : STATE     2 : ACTION : STATE   …
        answer : X

    All methods are pure functions of the task, so they also tell what follows from a picture that was misread.
    """

    name: str
    #: Words of the question; ``{}`` stands for what differs from puzzle to puzzle.
    templates: tuple[str, ...]
    #: Shortest plans that puzzles have by default, and the longest that there are.
    usual: tuple[int, int]
    longest: int
    #: Whether a chain states the goal, in the words of a state: so it stands where states are compared with it.
    shows_goal = True

    # ---- making puzzles ------------------------------------------------------------------------------

    @abstractmethod
    def sample(self, rng: np.random.Generator, moves: int) -> Instance | None:
        """Return a puzzle whose shortest plan has ``moves`` moves; None where this draw has none."""

    # ---- what a puzzle is ----------------------------------------------------------------------------

    @abstractmethod
    def task(self, grid: Grid, question: str, cells: tuple[str, ...]) -> Task:
        """Return the task of a question about a picture.

        Raises:
            Unreadable: they do not fit together.
        """

    @abstractmethod
    def show(self, task: Task, state: State) -> str:
        """Return a state in words."""

    @abstractmethod
    def parse(self, task: Task, text: str, depth: int) -> State | None:
        """Return the state that ``show`` writes so after ``depth`` moves; None where there is none."""

    def show_goal(self, task: Task) -> str:
        """Return the goal in words."""
        return self.show(task, task.goal)

    def parse_goal(self, task: Task, text: str) -> State | None:
        """Return the goal that ``show_goal`` writes so; None where there is none."""
        return self.parse(task, text, 0)

    @abstractmethod
    def moves(self, task: Task, state: State) -> Iterator[tuple[str, State]]:
        """Yield the legal moves from a state: their action in words, and the state after them."""

    @abstractmethod
    def ended(self, task: Task, state: State) -> bool:
        """Return whether a plan may end in a state."""

    def best(self, task: Task, ends: Sequence[State]) -> Sequence[State]:
        """Return those of the states in which plans may end that answer the question; all by default."""
        return ends

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        """Return the steps from the end of a plan of ``depth`` moves to the answer."""
        return [f"answer : {depth}"]

    # ---- what follows --------------------------------------------------------------------------------

    def remaining(self, task: Task) -> dict[State, int]:
        """Return how many moves are left at least from each state that can still answer the question.

        Cost: one visit of every state that can be reached from the start.
        """
        states: list[State] = [task.start]
        before: dict[State, list[State]] = {task.start: []}
        for state in states:
            for _, after in self.moves(task, state):
                if after not in before:
                    before[after] = []
                    states.append(after)
                before[after].append(state)
        ends = [state for state in states if self.ended(task, state)]
        return distances(list(self.best(task, ends)), before)

    def readings(self, task: Task) -> list[str]:
        """Return the steps that state what the picture shows."""
        steps = [f"start : {self.show(task, task.start)}"]
        return [*steps, f"goal : {self.show_goal(task)}"] if self.shows_goal else steps


def distances(sources: list[State], neighbours: dict[State, list[State]]) -> dict[State, int]:
    """Return the number of edges from the nearest source to every node that can be reached from one."""
    found = dict.fromkeys(sources, 0)
    queue = deque(sources)
    while queue:
        node = queue.popleft()
        for other in neighbours[node]:
            if other not in found:
                found[other] = found[node] + 1
                queue.append(other)
    return found


def integers(text: str) -> list[int] | None:
    """Return the numbers of a text that holds nothing else; None for any other text."""
    words = text.split()
    return [int(w) for w in words] if words and all(w.isdecimal() and len(w) < 4 for w in words) else None


def show_place(place: tuple[int, int]) -> str:
    """Return row and column, counted from 0, in words, where they count from 1."""
    return f"{place[0] + 1} {place[1] + 1}"


def parse_place(grid: Grid, text: str) -> tuple[int, int] | None:
    """Return the place in a grid that `show_place` writes so; None where there is none."""
    found = integers(text)
    if found is None or len(found) != 2 or not (1 <= found[0] <= grid.rows and 1 <= found[1] <= grid.columns):
        return None
    return found[0] - 1, found[1] - 1


def choices(rng: np.random.Generator, answer: int, low: int = 0, spread: int = 4) -> tuple[str, ...]:
    """Return four different numbers >= ``low`` in random order: the answer and some within ``spread`` of it.

    How many of them are smaller is drawn first, so that the options do not tell which one is right: numbers drawn
    around the answer would leave it in the middle, and a policy learns that before it learns to plan.
    """
    fewer = min(int(rng.integers(4)), answer - low)
    below, above = np.arange(max(low, answer - spread), answer), np.arange(answer + 1, answer + spread + 1)
    picked = [*rng.permutation(below)[:fewer], *rng.permutation(above)[: 3 - fewer], answer]
    return tuple(str(picked[i]) for i in rng.permutation(4))


@dataclass(frozen=True)
class Plans:
    """The shortest plans of a task: how far each state is from an end that answers the question.

    Attributes:
        length: moves of the shortest plan; None where there is none.
        left: moves left from each state that can still answer.
    """

    family: Family
    task: Task
    left: dict[State, int] = field(repr=False)

    @property
    def length(self) -> int | None:
        return self.left.get(self.task.start)

    def excess(self, state: State, depth: int) -> int | None:
        """Return how many moves longer than the shortest plan one becomes that is here after ``depth`` moves.

        None where it cannot answer any more without going back.
        """
        if self.length is None or state not in self.left:
            return None
        return depth + self.left[state] - self.length


@lru_cache(maxsize=256)
def plans_of(family: Family, task: Task) -> Plans:
    """Return the shortest plans of a task."""
    return Plans(family, task, family.remaining(task))
