"""Seven upright bars side by side, numbered by their length."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas
from ._family import Family, Inconsistent, Instance, choices, hide
from .rectangle_height_color import (
    LENGTHS,
    PERCEIVE,
    bar_layout,
    reason_bars,
    sample_bars,
)

NUMBERS = ("1", "2", "3")


class RectangleHeightNumber(Family):
    """Short is 1, medium is 2 and long is 3; the last number is missing."""

    name = "rectangle_height_number"
    perceive = PERCEIVE

    def sample(self, rng: np.random.Generator) -> Instance:
        facts = sample_bars(rng, NUMBERS)
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, 13), facts[13], choices(rng, facts[13], (*NUMBERS, "4")), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        fill, size = canvas.tint(), canvas.vary(44, 56)
        for (x, w, heights, radius), length, value in zip(bar_layout(canvas), facts[::2], facts[1::2], strict=True):
            canvas.rounded_box(x, 256, w, heights[length], radius, fill)
            canvas.text(x, 256, value, size)
            canvas.note(x, 256, shape="rectangle", number=value, size=length)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        steps, value_of = reason_bars(facts)
        if any(value_of[length] != n for length, n in zip(LENGTHS, NUMBERS, strict=True)):
            raise Inconsistent("the numbers do not follow the lengths")
        return steps
