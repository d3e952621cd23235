"""Wrong and wasteful chains of thought: written again with something changed, so that what follows follows from it.

Nothing here says what is wrong with a chain; `label_steps` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ._family import Family, State, Task, plans_of
from .generate import FAMILIES, Plan, generate_plan
from .labels import trace

_T = TypeVar("_T")
_TRIES = 12
_CHANGES = 40
#: Moves beyond the shortest plan after which one who is lost gives an answer.
_LOST = 3
#: Share of moves before the fault that are tried, and taken back.
_TRIED = 0.1


class _Writer:
    """A chain in the making: the task as its author believes it to be, and where the plan stands."""

    def __init__(self, plan: Plan, rng: np.random.Generator) -> None:
        self.plan, self.rng = plan, rng
        self.family: Family = FAMILIES[plan.family]
        self.task: Task = plan.task
        self.steps: list[str] = []
        self.states: list[State] = [self.task.start]
        self.offset = 0  # of the numbers of moves, where its author has lost count

    @property
    def depth(self) -> int:
        return len(self.states) - 1

    def show(self, state: State) -> str:
        return self.family.show(self.task, state)

    def options(self) -> list[tuple[str, State]]:
        return list(self.family.moves(self.task, self.states[-1]))

    def best(self) -> list[tuple[str, State]]:
        """Return the first moves of shortest plans from here; none where the plan is lost, or over."""
        state = self.states[-1]
        left = plans_of(self.family, replace(self.task, start=state)).left
        return [m for m in self.options() if left.get(m[1], len(left)) == left.get(state, -1) - 1]

    def read(self) -> None:
        self.steps += self.family.readings(self.task)

    def move(self, action: str, after: State, text: str | None = None) -> None:
        self.states.append(after)
        self.steps.append(f"{self.depth + self.offset} : {action} : {text or self.show(after)}")

    def back(self, depth: int) -> None:
        self.states = self.states[: depth + 1]
        self.steps.append(f"back to {depth} : {self.show(self.states[-1])}")

    def go(self, moves: int) -> None:
        """Follow a shortest plan, with a look at another move now and then."""
        for _ in range(moves):
            best, others = self.best(), self.options()
            if not best:
                return
            if self.rng.random() < _TRIED and len(others) > 1:
                self.move(*_one(others, self.rng))
                self.back(self.depth - 1)
            self.move(*_one(best, self.rng))

    def finish(self) -> list[str]:
        """Go straight on to the end, or about at random where there is no way to it, and answer."""
        most = 2 * self.plan.length + _LOST
        while not self.family.ended(self.task, self.states[-1]) and self.depth < most:
            options = self.best() or self.options()
            if not options:
                break
            self.move(*_one(options, self.rng))
        return self.answer()

    def answer(self) -> list[str]:
        """Answer as if this were the end."""
        closing = self.family.closing(self.task, self.states[-1], self.depth + self.offset)
        return [*self.steps, *closing]


def _one(things: list[_T], rng: np.random.Generator) -> _T:
    return things[int(rng.integers(len(things)))]


def _changed(text: str, rng: np.random.Generator, parse: Callable[[str], State | None]) -> tuple[str, State] | None:
    """Return a text that is like another but for one or two words, and the state it tells; None if none is found."""
    for _ in range(_CHANGES):
        words = text.split()
        a, b = (int(i) for i in rng.integers(len(words), size=2))
        kind = rng.integers(3)
        if kind == 0:
            words[a], words[b] = words[b], words[a]
        elif kind == 1 and words[a].isdecimal():
            words[a] = str(max(0, int(words[a]) + int(rng.choice((-1, 1)))))
        else:
            words[a] = words[b]
        other = " ".join(words)
        if other != text and (state := parse(other)) is not None:
            return other, state
    return None


# ---- faults while planning -------------------------------------------------------------------------


def _misread_start(w: _Writer) -> list[str] | None:
    def other(text: str) -> State | None:
        state = w.family.parse(w.task, text, 0)
        return None if state == w.task.start else state  # words that are no part of the state may have changed

    found = _changed(w.show(w.task.start), w.rng, other)
    if found is None:
        return None
    w.task, w.states = replace(w.task, start=found[1]), [found[1]]
    w.read()
    return w.finish()


def _misread_goal(w: _Writer) -> list[str] | None:
    if not w.family.shows_goal:
        return None
    found = _changed(w.family.show_goal(w.task), w.rng, lambda text: w.family.parse_goal(w.task, text))
    if found is None:
        return None
    w.task = replace(w.task, goal=found[1])
    w.read()
    return w.finish()


def _illegal_move(w: _Writer) -> list[str] | None:
    """Make a move that is none here, and say what might have come of it."""
    _begin(w)
    here = dict(w.options())
    state, elsewhere = w.task.start, dict[str, State]()
    for _ in range(_TRIES):
        found = list(w.family.moves(w.task, state))
        elsewhere |= found
        state = _one(found, w.rng)[1] if found else w.task.start
    wrong = [action for action in elsewhere if action not in here]
    if not wrong:
        return None
    action = _one(wrong, w.rng)
    w.move(action, _one([w.states[-1], elsewhere[action], *here.values()], w.rng))
    return w.finish()


def _wrong_state(w: _Writer) -> list[str] | None:
    _begin(w)
    options = w.best() or w.options()
    if not options:
        return None
    action, after = _one(options, w.rng)
    found = _changed(w.show(after), w.rng, lambda text: w.family.parse(w.task, text, w.depth + 1))
    if found is None:
        return None
    w.move(action, found[1], found[0])
    return w.finish()


def _wrong_number(w: _Writer) -> list[str] | None:
    """Lose count of the moves, for good or for one move."""
    _begin(w)
    w.offset = int(w.rng.choice((-1, 1))) if w.depth else 1
    if w.rng.random() < 0.5:
        w.go(1)
        w.offset = 0
    return w.finish()


def _detour(w: _Writer) -> list[str] | None:
    """Leave the shortest plan and go on from there."""
    _begin(w)
    best = w.best()
    others = [m for m in w.options() if m not in best]
    if not others:
        return None
    w.move(*_one(others, w.rng))
    return w.finish()


def _needless_back(w: _Writer) -> list[str] | None:
    _begin(w, least=1)
    w.back(int(w.rng.integers(w.depth)))
    return w.finish()


def _premature(w: _Writer) -> list[str] | None:
    _begin(w)
    return w.answer()


def _begin(w: _Writer, least: int = 0) -> None:
    """Read the picture and make some of the right moves, all but the last at most unless ``least`` is more."""
    w.read()
    w.go(int(w.rng.integers(least, max(least + 1, w.plan.length))))


# ---- faults in the writing --------------------------------------------------------------------------


def _written(w: _Writer) -> list[str]:
    """Return a chain without a wrong state, straight or exploring."""
    return list(w.plan.steps) if w.rng.random() < 0.5 else trace(w.plan, w.rng)


def _wrong_sum(w: _Writer) -> list[str] | None:
    """Miscalculate in one of the steps from the end of the plan to the answer; the last of them is the answer."""
    steps = list(w.plan.steps)
    closing = len(steps) - len(w.family.readings(w.task)) - w.plan.length
    if closing < 2:
        return None
    at = len(steps) - 1 - int(w.rng.integers(1, closing))
    *words, last = steps[at].split()
    if not last.isdecimal():
        return None
    wrong = str(max(0, int(last) + int(w.rng.choice((-2, -1, 1, 2)))))
    steps[at] = " ".join((*words, wrong))
    if at == len(steps) - 2:
        steps[-1] = f"answer : {wrong}"
    return steps


def _other_option(w: _Writer) -> list[str] | None:
    others = [o for o in w.plan.question.options if o != w.plan.answer]
    return [*_written(w)[:-1], f"answer : {_one(others, w.rng)}"] if others else None


def _skipped(w: _Writer) -> list[str] | None:
    steps = _written(w)
    del steps[int(w.rng.integers(len(steps) - 1))]
    return steps


def _repeated(w: _Writer) -> list[str] | None:
    steps = _written(w)
    at = int(w.rng.integers(len(steps) - 1))
    steps.insert(int(w.rng.integers(at + 1, min(at + 3, len(steps)))), steps[at])
    return steps


def _stray(w: _Writer) -> list[str] | None:
    others = [name for name in FAMILIES if name != w.plan.family]
    other = generate_plan(int(w.rng.integers(2**31)), 0, families=[_one(others, w.rng)], pixels=32, plain=True)
    steps = _written(w)
    steps.insert(int(w.rng.integers(len(steps))), _one(list(other.steps[:-1]), w.rng))
    return steps


#: What can go wrong, by name.
FAULTS: dict[str, Callable[[_Writer], list[str] | None]] = {
    "misread_start": _misread_start, "misread_goal": _misread_goal, "illegal_move": _illegal_move,
    "wrong_state": _wrong_state, "wrong_number": _wrong_number, "detour": _detour, "needless_back": _needless_back,
    "premature": _premature, "wrong_sum": _wrong_sum, "other_option": _other_option, "skipped": _skipped,
    "repeated": _repeated, "stray": _stray,
}  # fmt: skip
#: What comes more often: a chain that is spoilt early and looks sound to its end.
_OFTEN = ("misread_start", "misread_start", "misread_goal", "illegal_move", "wrong_state", "detour")


def corrupt(plan: Plan, rng: np.random.Generator, fault: str = "") -> list[str]:
    """Return a wrong or wasteful chain of thought; `label_steps` says what is wrong.

    Args:
        plan: the puzzle.
        rng: source of the chain.
        fault: one of ``FAULTS``; any by default, and where a plan does not admit the one that is asked for.

    Returns:
        Steps that end in an answer, which need not be a wrong one.

    Raises:
        ValueError: there is no such fault.

    Example:
        >>> from svip_search.datasets.planning import generate_plan, label_steps
        >>> plan = generate_plan(seed=1, index=0, families=["tower_of_hanoi"], moves=(4, 4))
        >>> steps = corrupt(plan, np.random.default_rng(0), "needless_back")
        >>> any(step.startswith("back to") and label[0] == 0 for step, label in zip(steps, label_steps(plan, steps)))
        True
    """
    if fault and fault not in FAULTS:
        raise ValueError(f"`fault` must be one of {', '.join(FAULTS)}; got {fault!r}.")
    names = [*FAULTS, *_OFTEN]
    name = fault or _one(names, rng)
    while (steps := FAULTS[name](_Writer(plan, rng))) is None:
        name = _one(names, rng)
    return steps
