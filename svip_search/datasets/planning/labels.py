"""Labels of planning steps from the truth of the picture and the shortest plans, and chains of mixed quality.

Labels are float32 [T, 3] (relevance, logic, attribute), NaN where a dimension says nothing about a step.

* **attribute**: of a step that states what the picture shows, the share of its words that are true.
* **logic**: of a move, whether it is legal and its state right, and whether the shortest plan is still open: 1 on a
  shortest plan, ``RECOVERS ** k`` where plans from here are k moves longer, 0 for what does not follow.  It is
  judged from the start *as stated*: a misread picture never counts as bad logic.
* **relevance**: whether a step brings the plan on: 0 for a detour, for a state that was passed before, and for going
  back from where all was well; a half for a repeated reading; 0 for what has nothing to do with the puzzle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ._family import Plans, State, Task, plans_of
from .generate import FAMILIES, Plan

NAN = float("nan")
#: What is left of the value of a prefix for each move that it wastes: it can still go back.
RECOVERS = 0.2
#: Moves that a way without return counts as.
_LOST = 2

_READING = re.compile(r"(start|goal) : (.+)")
_MOVE = re.compile(r"(\d{1,3}) : ([^:]+) : (.+)")
_BACK = re.compile(r"back to (\d{1,3}) : (.+)")


@dataclass
class Follower:
    """Follows a chain of thought: where the plan stands, as far as the steps say.

    Attributes:
        plan: the puzzle.
        states: state after each move of the plan so far, ``states[0]`` the start; None where unknown.
        sound: whether nothing that the plan rests on is wrong: readings, moves, states.
    """

    plan: Plan
    states: list[State | None] = field(default_factory=lambda: [None])
    sound: bool = True
    _task: Task | None = None
    _stated: set[str] = field(default_factory=set)
    _closed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.family = FAMILIES[self.plan.family]
        self._task = self.plan.task

    @property
    def depth(self) -> int:
        """Moves of the plan so far."""
        return len(self.states) - 1

    @property
    def task(self) -> Task:
        """The task as stated so far."""
        assert self._task is not None
        return self._task

    @property
    def plans(self) -> Plans:
        """The shortest plans of the task as stated."""
        return plans_of(self.family, self.task)

    @property
    def hopeful(self) -> bool:
        """Whether the plan so far is one of the shortest of the true task, with nothing wrong in it."""
        state = self.states[-1]
        ready = self.plan.task.start if state is None and self.depth == 0 else state
        return self.sound and self.task == self.plan.task and self.plan.plans.excess(ready, self.depth) == 0

    def value(self, state: State | None, depth: int) -> float:
        """Return what a plan is worth that is in ``state`` after ``depth`` moves, in 0..1."""
        if state is None or self.task.start is None or self.plans.length is None:
            return 0.0
        excess = self.plans.excess(state, depth)
        return float(RECOVERS ** (_LOST if excess is None else max(excess, 0)))  # < 0 after an illegal move

    def read(self, step: str) -> tuple[float, float, float]:
        """Take one step in and return its labels."""
        for pattern, take in ((_READING, self._reading), (_BACK, self._back), (_MOVE, self._move)):
            found = pattern.fullmatch(step)
            if found:
                return take(*found.groups())
        return self._close(step)

    def _reading(self, what: str, text: str) -> tuple[float, float, float]:
        true = self.plan.task
        shown = self.family.show(true, true.start) if what == "start" else self._shown_goal()
        if shown is None:
            return 0.0, 0.0, NAN  # the family states no goal
        repeated = what in self._stated
        self._stated.add(what)
        if what == "start":
            state = self.family.parse(true, text, 0)
            self.states = [true.start if text == shown else state]
            self._task = replace(self.task, start=self.states[0])
        else:
            goal = true.goal if text == shown else self.family.parse_goal(true, text)
            self._task = replace(self.task, goal=goal)
        self.sound &= text == shown
        return (0.5 if repeated else 1.0), 1.0, _share(text, shown)

    def _shown_goal(self) -> str | None:
        return self.family.show_goal(self.plan.task) if self.family.shows_goal else None

    def _move(self, number: str, action: str, text: str) -> tuple[float, float, float]:
        state, depth = self.states[-1], int(number)
        after = None if state is None else dict(self.family.moves(self.task, state)).get(action)
        right = after is not None and depth == self.depth + 1 and self.family.show(self.task, after) == text
        if not right:
            self.sound = False
            self.states.append(self.family.parse(self.task, text, self.depth + 1))
            return 1.0, 0.0, NAN
        passed, before = after in self.states, self.value(state, self.depth)
        self.states.append(after)
        value = self.value(after, depth)
        return (0.0 if passed or value < before else 1.0), value, NAN

    def _back(self, number: str, text: str) -> tuple[float, float, float]:
        depth = int(number)
        state = self.states[depth] if depth < self.depth else None
        if state is None or self.family.show(self.task, state) != text:
            self.sound = False
            self.states = [*self.states[:depth], self.family.parse(self.task, text, depth)]
            return 0.0, 0.0, NAN
        needed = self.value(self.states[-1], self.depth) < self.value(state, depth)
        self.states = self.states[: depth + 1]
        return float(needed), self.value(state, depth), NAN

    def _close(self, step: str) -> tuple[float, float, float]:
        state = self.states[-1]
        known = state is not None and self.task.start is not None
        ended = known and self.family.ended(self.task, state)
        following = self.family.closing(self.task, state, self.depth) if ended else []
        told = [*self._closed, step]
        if told == following[: len(told)]:
            self._closed = told
            shortest = self.task.start is not None and self.plans.excess(state, self.depth) == 0
            return 1.0, float(shortest), NAN
        self.sound = False
        concludes = step.startswith("answer : ") or any(_like(step, other) for other in following)
        if concludes:  # what is beside the point leaves the conclusion as it was
            self._closed = told
        return float(concludes), 0.0, NAN


def _share(text: str, shown: str) -> float:
    """Return the share of words that are as they should be; 0 for a text of another length."""
    words, true = text.split(), shown.split()
    return float(np.mean([a == b for a, b in zip(words, true, strict=True)])) if len(words) == len(true) else 0.0


def _like(step: str, other: str) -> bool:
    return re.sub(r"\d+", "#", step) == re.sub(r"\d+", "#", other)


def label_steps(plan: Plan, steps: Sequence[str]) -> NDArray[np.float32]:
    """Return [T, 3] labels (relevance, logic, attribute) in [0, 1], NaN where unlabelled.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["water_jugs"], moves=(2, 2))
        >>> label_steps(plan, plan.steps)[:, 1].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    follower = Follower(plan)
    return np.array([follower.read(step) for step in steps], np.float32).reshape(len(steps), 3)


def is_right(plan: Plan, steps: Sequence[str]) -> bool:
    """Return whether the chain ends in the true answer."""
    return bool(steps) and steps[-1] == f"answer : {plan.answer}"


# ---- chains of mixed quality ------------------------------------------------------------------------


def trace(plan: Plan, rng: np.random.Generator, slips: float = 0.2) -> list[str]:
    """Return a chain that explores: some moves are random, and what leads nowhere is often taken back.

    Args:
        plan: the puzzle.
        rng: source of the chain.
        slips: share of moves that are drawn from all legal ones.

    Returns:
        Steps without a wrong reading or state; they end in an answer, which is wrong where a plan too long was kept.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["tower_of_hanoi"], moves=(4, 4))
        >>> trace(plan, np.random.default_rng(0))[-1].startswith("answer : ")
        True
    """
    family, task, plans = FAMILIES[plan.family], plan.task, plan.plans
    steps, states = family.readings(task), [task.start]
    most = 2 * plan.length + 8  # after so many moves it goes straight on

    def lost(state: State, depth: int) -> bool:
        return plans.excess(state, depth) != 0

    for done in range(4 * most):
        state, depth, careful = states[-1], len(states) - 1, done >= most
        options = list(family.moves(task, state))
        over = family.ended(task, state)
        if lost(state, depth) and (careful or not options or rng.random() < (0.6 if over else 0.35)):
            good = next(d for d in range(depth, -1, -1) if not lost(states[d], d))
            states = states[: good + 1]
            steps.append(f"back to {good} : {family.show(task, states[-1])}")
            continue
        if over:
            break
        best = [m for m in options if plans.left.get(m[1], 10**6) == plans.left.get(state, 0) - 1] or options
        chosen = best if careful or rng.random() >= slips else options
        action, after = chosen[int(rng.integers(len(chosen)))]
        states.append(after)
        steps.append(f"{depth + 1} : {action} : {family.show(task, after)}")
    return [*steps, *family.closing(task, states[-1], len(states) - 1)]
