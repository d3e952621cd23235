"""Where the steps of a planning puzzle have led, from the words of the question and of the steps alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ..._rules import Standing
from ..._types import Question
from ..._vote import extract_answer
from ._family import Family, Task, Unreadable
from ._grid import EMPTY, Grid, grid_of
from .generate import FAMILIES

#: What is read of a chain and of a step; no chain of a puzzle comes near it.
_MOST_STEPS, _MOST_CHARACTERS = 1000, 1000

_READING = re.compile(r"(start|goal) : (.+)")
_MOVE = re.compile(r"([0-9]{1,3}) : ([^:]+) : (.+)")
_BACK = re.compile(r"back to ([0-9]{1,3}) : (.+)")
_COUNTED = re.compile(r"cells ([0-9]{1,3}) left ([0-9]{1,2}) right ([0-9]{1,2})")

#: Pictures that each family can read: what a state may look like depends on the grid and the words alone.
_PICTURES: dict[str, Callable[[Grid], list[str]]] = {
    "checker_move": lambda g: ["green"] * (g.columns - 1) + [EMPTY] + ["green"] * (g.columns - 1) + [EMPTY],
    "maze": lambda g: ["entry", "exit"] + ["#"] * (len(g) - 2),
    "move_box": lambda g: ["box", "player", "flag"] + [EMPTY] * (len(g) - 3),
    "n_queens": lambda g: [EMPTY] * len(g),
    "number_slide": lambda g: [*map(str, range(1, len(g))), EMPTY],
    "rotting_kiwi": lambda g: [EMPTY] * len(g),
    "tower_of_hanoi": lambda g: 2 * [w for disk in range(g.rows // 2) for w in (str(disk + 1), EMPTY, EMPTY)],
    "water_jugs": lambda g: ["0"] * len(g),
}
#: Families whose answer is the number of moves.
_COUNTS = {"checker_move", "move_box", "rotting_kiwi", "tower_of_hanoi", "water_jugs"}


@dataclass(frozen=True)
class _Asked:
    """What the words of a question say: ``most`` is how far ``measure`` of a plan may get."""

    question: str
    family: Family
    task: Task
    options: tuple[str, ...]
    what: str
    most: int | None


@lru_cache(maxsize=1024)
def _asked(text: str, options: tuple[str, ...]) -> _Asked | None:
    grid = grid_of(text)
    if grid is None:
        return None
    family = FAMILIES[grid.family]
    try:
        task = family.task(grid, text, tuple(_PICTURES[grid.family](grid)))
    except (Unreadable, ValueError, IndexError):
        return None
    largest = max(map(int, options)) if options and all(_is_number(o) for o in options) else None
    if family.name == "maze":
        return _Asked(text, family, task, options, str(task.ask), largest)
    if family.name in _COUNTS:
        return _Asked(text, family, task, options, "moves", largest)
    return _Asked(text, family, task, options, "moves", _moves_asked(family.name, text, grid))


@lru_cache(maxsize=1 << 16)
def _is_state(question: str, options: tuple[str, ...], text: str, moves: int) -> bool:
    """Return whether a text is a state; every prefix of every chain asks about the same ones."""
    asked = _asked(question, options)
    return asked is not None and asked.family.parse(asked.task, text, moves) is not None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6


def _moves_asked(family: str, text: str, grid: Grid) -> int | None:
    """Return the moves of every right plan, where the question tells them."""
    pattern = r"exactly ([0-9]{1,3}) move" if family == "number_slide" else r"([0-9]{1,3}) queens have already"
    found = re.search(pattern, text.lower())
    if not found:
        return None
    return int(found[1]) if family == "number_slide" else max(grid.rows - int(found[1]), 0)


@dataclass(frozen=True, slots=True)
class _Point:
    """One state of the plan as it stands: after how many moves, and what is wrong up to here."""

    number: int
    text: str
    heading: str = ""
    loop: bool = False
    doubt: str = ""


@dataclass
class _Reader:
    """Follows steps by their own statements."""

    asked: _Asked
    plan: list[_Point] = field(default_factory=list)
    goal: str = ""
    closings: list[str] = field(default_factory=list)
    repeated: bool = False
    back: bool = False
    returns: int = 0
    fault: str = ""
    _first: dict[Hashable, int] = field(default_factory=dict)  # fewest moves after which a place was reached
    _returns: dict[Hashable, int] = field(default_factory=dict)

    def read(self, step: str) -> None:
        """Take one step in."""
        self.back, self.returns = False, 0
        for pattern, take in ((_READING, self._reading), (_BACK, self._back), (_MOVE, self._move)):
            found = pattern.fullmatch(step)
            if found:
                self.closings, self.repeated = [], False
                take(*found.groups())
                return
        self.repeated |= step in self.closings
        self.closings.append(step)
        if step.startswith("answer :") and self.asked.options and extract_answer(step, self.asked.options) is None:
            self.fault = "an answer that is none of the options"

    def _reading(self, what: str, text: str) -> None:
        family, task = self.asked.family, self.asked.task
        if what == "start":
            doubt = "" if _is_state(self.asked.question, self.asked.options, text, 0) else "a start that is none"
            self.plan = []
            self._arrive(_Point(0, text, doubt=doubt))
        else:
            known = not family.shows_goal or family.parse_goal(task, text) is not None
            repeated, self.goal = text == self.goal, text
            if self.plan:
                last = self.plan.pop()
                doubt = last.doubt or ("" if known else "a goal that is none")
                self.plan.append(_Point(last.number, last.text, last.heading, last.loop or repeated, doubt))
                self._first.setdefault(self._place(self.plan[-1]), last.number)

    def _move(self, number: str, action: str, text: str) -> None:
        count = int(number)
        before = self.plan[-1].number if self.plan else 0
        doubt = "" if count == before + 1 else f"move {count} after move {before}"
        if not _is_state(self.asked.question, self.asked.options, text, count):
            doubt = "a state that is none"
        heading = action.split()[0] if action.split() else ""
        self.plan = [p for p in self.plan if p.number < count]
        self._arrive(_Point(count, text, heading if self.asked.family.name == "maze" else "", doubt=doubt))

    def _arrive(self, point: _Point) -> None:
        """Take the plan to a state; it is a loop where that was reached before with no more moves."""
        place = self._place(point)
        looped = self._first.get(place, point.number + 1) <= point.number
        self._first[place] = min(point.number, self._first.get(place, point.number))
        last = self.plan[-1] if self.plan else None
        loop, doubt = looped or bool(last and last.loop), (last.doubt if last else "") or point.doubt
        self.plan.append(_Point(point.number, point.text, point.heading, loop, doubt))

    def _place(self, point: _Point) -> Hashable:
        """Return what makes two states of a plan the same place."""
        if self.asked.family.name == "number_slide":  # so many moves must be made: the same board may come again
            return point.number, point.text
        if self.asked.family.name == "maze":  # cells and turns are counted on
            return " ".join(point.text.split()[:2])
        return self.goal, point.text

    def _back(self, number: str, text: str) -> None:
        count = int(number)
        farther = bool(self.plan) and self.plan[-1].number > count
        kept = [p for p in self.plan if p.number <= count]
        known = bool(kept) and (kept[-1].number, kept[-1].text) == (count, text)
        point = kept.pop() if known else _Point(count, text, doubt=f"going back to {count}, where it was not")
        if not farther:  # nothing is taken back, so it could be said for ever
            point = _Point(point.number, point.text, point.heading, True, point.doubt)
        self.plan = [*kept, point]
        place = self._place(point)
        self.returns = self._returns[place] = self._returns.get(place, 0) + 1
        self.back = True

    def standing(self) -> Standing:
        """Return where the steps so far have led."""
        if not self.plan:
            return Standing(fault=self.fault)
        last = self.plan[-1]
        known = not last.doubt.endswith("is none")
        key = (self.goal, last.text, last.heading, last.number, tuple(self.closings), self.returns)
        fault = self.fault or self._excess(last)
        loop = last.loop or self.repeated
        return Standing(key if known else None, last.number, loop, self.back, fault, last.doubt)

    def _excess(self, last: _Point) -> str:
        most, what = self.asked.most, self.asked.what
        if most is None:
            return ""
        count = last.number
        if what != "moves":
            counted = _COUNTED.search(last.text)
            cells, left, right = map(int, counted.groups()) if counted else (0, 0, 0)
            count = {"cells": cells, "left": left, "right": right}.get(what, left + right)
        return f"more than {most} {'turns' if what in ('left', 'right', 'combined') else what}" if count > most else ""


def state_of(question: Question, steps: Sequence[str]) -> Standing | None:
    """Return where the steps of a planning puzzle have led; None for any other question.

    Reads the words of question and steps and nothing else.  It is a ``StateOf`` for ``PlanRules``::

        key     goal and state as stated, number of moves, steps of the conclusion so far
        loop    the plan comes to a state that it, or a branch it has left, had reached with no more moves (tiles, of
                which a number of moves is asked: with as many); or a step says what was said before
        back    the last step is "back to K : STATE"; its key is not that of the state it goes back to, as what was
                tried is known now
        fault   an answer that is none of the options, or a plan longer than any option allows: more moves than the
                largest number (checkers, boxes, kiwis, towers, jugs) or than are asked for (queens, tiles), more cells
                or turns than the largest number (mazes)
        doubt   a state that is none, a wrong number, going back to where the plan was not

    Args:
        question: its words and options; its picture and true answer are not looked at.
        steps: the chain so far, any text; the first 1000 steps and 1000 characters of each are read.

    Notes:
        Never raises.  Some tens of microseconds a step.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["tower_of_hanoi"], moves=(3, 3))
        >>> there = state_of(plan.question, plan.steps[:2])
        >>> undone = [*plan.steps[:2], f"2 : {plan.steps[1].split(' : ')[1]} : {plan.steps[0].split(' : ')[1]}"]
        >>> there.length, there.loop, state_of(plan.question, undone).loop
        (1, False, True)
    """
    asked = _asked(question.text, tuple(question.options))
    if asked is None:
        return None
    reader = _Reader(asked)
    for step in steps[:_MOST_STEPS]:
        reader.read(" ".join(step[:_MOST_CHARACTERS].split()))
    return reader.standing()
