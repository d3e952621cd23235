"""One planning puzzle by (seed, index): the entry to all families."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from ..._types import Question
from .._sequence import check_place, family_names
from ._draw import draw
from ._family import Family, Instance, Plans, Task, plans_of
from ._grid import CELL_WORDS, Grid, grid_of
from .checker_move import CheckerMove
from .maze import Maze
from .move_box import MoveBox
from .n_queens import NQueens
from .number_slide import NumberSlide
from .rotting_kiwi import RottingKiwi
from .tower_of_hanoi import TowerOfHanoi
from .water_jugs import WaterJugs

FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        CheckerMove(), Maze(), MoveBox(), NQueens(), NumberSlide(), RottingKiwi(), TowerOfHanoi(), WaterJugs(),
    )
}  # fmt: skip
#: Draws of one puzzle before another length is tried.
_ATTEMPTS = 60


@dataclass(frozen=True)
class Plan:
    """A generated planning puzzle with everything that is true of it.

    Attributes:
        family: which of ``FAMILIES``.
        seed: of the sequence.
        index: in the sequence.
        question: words, picture, options and true answer.
        grid: the cells of the picture.
        cells: what is in them, row by row, words of ``CELL_WORDS``.
        steps: a right chain of thought with a shortest plan.
        length: moves of the shortest plan.
        families: what it was drawn from; None: all.
        moves: the range of lengths that was asked for; None: the usual one.
    """

    family: str
    seed: int
    index: int
    question: Question
    grid: Grid
    cells: tuple[str, ...]
    steps: tuple[str, ...]
    length: int
    families: tuple[str, ...] | None = None
    moves: tuple[int, int] | None = None

    @property
    def image(self) -> Image.Image:
        """The picture."""
        picture: Image.Image = self.question.images[0]
        return picture

    @property
    def answer(self) -> str:
        """The true answer."""
        assert self.question.answer is not None
        return self.question.answer

    @property
    def task(self) -> Task:
        """What is asked, as it is."""
        return FAMILIES[self.family].task(self.grid, self.question.text, self.cells)

    @property
    def plans(self) -> Plans:
        """Its shortest plans."""
        return plans_of(FAMILIES[self.family], self.task)


def generate_plan(
    seed: int,
    index: int,
    *,
    families: Sequence[str] | None = None,
    moves: tuple[int, int] | None = None,
    pixels: int = 384,
    plain: bool = False,
) -> Plan:
    """Return planning puzzle number ``index`` of the endless sequence ``seed``.

    Args:
        seed: which sequence, >= 0; training, validation and tests use different ones.
        index: position in it, >= 0; the same arguments give the same puzzle.
        families: names to draw from, uniformly; all eight by default.
        moves: least and most moves of the shortest plan, so far as the family has such plans (kiwi and tiles are
            followed rather than planned, and end earlier than towers); what is usual for the family by default.
        pixels: longer side of the picture.
        plain: draw in the plain style, without shift, jitter or noise.

    Raises:
        ValueError: a family does not exist, ``seed`` or ``index`` is negative, or ``moves`` is no range of positive
            numbers.

    Notes:
        Three to ten milliseconds on one core, the shortest plans included.

    Example:
        >>> plan = generate_plan(seed=1, index=0, families=["tower_of_hanoi"], moves=(3, 3))
        >>> plan.length, plan.steps[-1] == f"answer : {plan.answer}"
        (3, True)
    """
    names = family_names(families, FAMILIES)
    check_place(seed, index)
    if moves is not None and not (len(moves) == 2 and 1 <= moves[0] <= moves[1]):
        raise ValueError(f"`moves` must be (least, most) with 1 <= least <= most; got {moves}.")
    rng = np.random.default_rng([seed, index])
    family = FAMILIES[names[int(rng.integers(len(names)))]]
    instance = _instance(family, rng, moves)
    grid = grid_of(instance.question)
    assert grid is not None, instance.question
    picture = draw(grid, instance.cells, None if plain else rng, pixels, instance.capacities)
    identity = f"{family.name}/{seed}-{index}" + (f"-{moves[0]}-{moves[1]}" if moves else "")
    question = Question(
        instance.question, images=[picture], options=instance.options, answer=instance.answer, id=identity
    )  # fmt: skip
    steps, length = _solved(family, family.task(grid, instance.question, instance.cells), rng)
    drawn_from = tuple(names) if families is not None else None
    return Plan(family.name, seed, index, question, grid, instance.cells, tuple(steps), length, drawn_from, moves)


def _instance(family: Family, rng: np.random.Generator, moves: tuple[int, int] | None) -> Instance:
    """Return a puzzle whose length is drawn first: so long plans are as frequent as short ones."""
    low, high = moves or family.usual
    low, high = min(low, family.longest), min(high, family.longest)
    while True:
        length = int(rng.integers(low, high + 1))
        for _ in range(_ATTEMPTS):
            instance = family.sample(rng, length)
            if instance is not None:
                return instance
        low, high = max(1, low - 1), high + (low == 1)  # the family has no such plans: nearly such ones


def _solved(family: Family, task: Task, rng: np.random.Generator) -> tuple[list[str], int]:
    """Return a chain of thought with one of the shortest plans, and how many moves it has."""
    plans, state, steps, depth = plans_of(family, task), task.start, family.readings(task), 0
    length = plans.left[state]
    while plans.left[state]:
        good = [m for m in family.moves(task, state) if plans.left.get(m[1], length + 1) == plans.left[state] - 1]
        action, state = good[int(rng.integers(len(good)))]
        depth += 1
        steps.append(f"{depth} : {action} : {family.show(task, state)}")
    return [*steps, *family.closing(task, state, depth)], length


# ---- words -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def phrases() -> tuple[str, ...]:
    """Return the stretches of text that are the same in every question of a family, in lower case, longest first.

    Example:
        >>> phrases()[-1] in "what is the maximum sum that you can achieve across the left most column"
        False
    """
    parts = (part.strip().lower() for f in FAMILIES.values() for t in f.templates for part in t.split("{}"))
    return tuple(sorted({p for p in parts if " " in p}, key=lambda p: (-len(p), p)))


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Return every word outside of `phrases`: numbers 0..150, what cells hold, and what the families write.

    The words are collected from the families themselves, so a new family brings its own along.
    """
    found: set[str] = set(CELL_WORDS)
    for family in FAMILIES.values():
        for index in range(40):
            instance = _instance(family, np.random.default_rng([0, index]), None)
            grid = grid_of(instance.question)
            assert grid is not None
            task = family.task(grid, instance.question, instance.cells)
            steps, _ = _solved(family, task, np.random.default_rng(0))
            for text in (_without_phrases(instance.question), *steps, "back to a an"):
                found.update(re.findall(r"[^\W\d_]+|[^\w\s]", text.lower()))
    numbers = [str(n) for n in range(151)]
    return (*numbers, *sorted(found - set(numbers) | {"options", ":", ","}))


def _without_phrases(text: str) -> str:
    text = text.lower()
    for phrase in phrases():
        text = text.replace(phrase, " ")
    return text
