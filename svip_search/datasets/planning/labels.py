"""Labels of planning steps from the truth of the picture and the shortest plans, and chains of mixed quality.

Labels are float32 [T, 3] (relevance, logic, attribute), NaN where a dimension says nothing about a step.

* **attribute**: of a step that states what the picture shows, the share of its words that are true.
* **logic**: whether the plan, as far as this step, is legal and still reaches the right answer: 1 on a shortest plan,
  ``RECOVERS ** k`` where plans from here are k moves longer, 0 once something that it rests on is wrong: a reading, a
  move, a state.  A reading itself is no matter of logic: 1.  So the logic of the last step is the value of a prefix.
* **relevance**: whether a step brings the plan on: 0 for a detour, for a state that was passed before, for going
  back from where all was well, and for what has nothing to do with the puzzle; a half for a repeated reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from ._family import State
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
    """Follows a chain of thought: where the plan stands, and whether anything that it rests on is wrong.

    Attributes:
        plan: the puzzle.
        states: state after each move of the plan so far, ``states[0]`` the start; None from a wrong move on.
        misread: which readings were wrong when they were last stated.
        concluded: whether a wrong conclusion was drawn: a sum, a distance, an answer.
    """

    plan: Plan
    states: list[State | None] = field(init=False)
    misread: set[str] = field(default_factory=set)
    concluded: bool = False
    _stated: set[str] = field(default_factory=set)
    _closed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.family, self.task, self.plans = FAMILIES[self.plan.family], self.plan.task, self.plan.plans
        self.states = [self.task.start]

    @property
    def depth(self) -> int:
        """Moves of the plan so far."""
        return len(self.states) - 1

    @property
    def sound(self) -> bool:
        """Whether nothing that the plan rests on is wrong: readings, moves, states."""
        return not self.misread and not self.concluded and None not in self.states

    @property
    def hopeful(self) -> bool:
        """Whether the plan so far is one of the shortest, with nothing wrong in it."""
        return self.value() == 1

    def value(self, depth: int | None = None) -> float:
        """Return what the plan is worth, in 0..1; that of its first ``depth`` moves where it is given."""
        states = self.states if depth is None else self.states[: depth + 1]
        if self.misread or self.concluded or None in states:
            return 0.0
        excess = self.plans.excess(states[-1], len(states) - 1)
        return float(RECOVERS ** (_LOST if excess is None else excess))

    def read(self, step: str) -> tuple[float, float, float]:
        """Take one step in and return its labels."""
        for pattern, take in ((_READING, self._reading), (_BACK, self._back), (_MOVE, self._move)):
            found = pattern.fullmatch(step)
            if found:
                return take(*found.groups())
        return self._close(step)

    def _reading(self, what: str, text: str) -> tuple[float, float, float]:
        if what == "goal" and not self.family.shows_goal:
            return 0.0, self.value(), NAN
        shown = self.family.show(self.task, self.task.start) if what == "start" else self.family.show_goal(self.task)
        repeated = what in self._stated
        self._stated.add(what)
        self.misread.discard(what)
        if text != shown:
            self.misread.add(what)
        if what == "start":
            self.states, self._closed = [self.task.start], []
        return (0.5 if repeated else 1.0), 1.0, _share(text, shown)

    def _move(self, number: str, action: str, text: str) -> tuple[float, float, float]:
        state, before = self.states[-1], self.value()
        after = None if state is None else dict(self.family.moves(self.task, state)).get(action)
        right = after is not None and int(number) == self.depth + 1 and self.family.show(self.task, after) == text
        passed = right and after in self.states
        self.states.append(after if right else None)
        self._closed = []
        detour = right and self.value() < before
        return float(not (passed or detour)), self.value(), NAN

    def _back(self, number: str, text: str) -> tuple[float, float, float]:
        depth = int(number)
        state = self.states[depth] if depth < self.depth else None
        self._closed = []
        if state is None or self.family.show(self.task, state) != text:
            self.states = [*self.states[:depth], None]
            return 0.0, 0.0, NAN
        needed = self.value() < self.value(depth)
        self.states = self.states[: depth + 1]
        return float(needed), self.value(), NAN

    def _close(self, step: str) -> tuple[float, float, float]:
        state = self.states[-1]
        ended = state is not None and self.family.ended(self.task, state)
        following = self.family.closing(self.task, state, self.depth) if ended else []
        told = [*self._closed, step]
        if told == following[: len(told)] and self.hopeful:
            self._closed = told
            return 1.0, 1.0, NAN
        if step.startswith("answer : ") or any(_like(step, other) for other in following):
            self.concluded = True
            return 1.0, 0.0, NAN
        return 0.0, self.value(), NAN  # beside the point: it leaves the plan as it was


def _share(text: str, shown: str) -> float:
    """Return the share of words that are as they should be; where there are more or fewer, of those in order."""
    words, true = text.split(), shown.split()
    if len(words) == len(true):
        return float(np.mean([a == b for a, b in zip(words, true, strict=True)]))
    return SequenceMatcher(None, words[:200], true, autojunk=False).ratio()


def _like(step: str, other: str) -> bool:
    return re.sub(r"\d+", "#", step) == re.sub(r"\d+", "#", other)


def label_steps(plan: Plan, steps: Sequence[str]) -> NDArray[np.float32]:
    """Return [T, 3] labels (relevance, logic, attribute) in [0, 1], NaN where unlabelled.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["rotting_kiwi"], moves=(2, 2))
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
