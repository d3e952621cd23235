"""Six polygons in a triangle, each with its number of sides written inside."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas, regular_polygon
from ._family import (
    SIDES,
    Family,
    Inconsistent,
    Instance,
    choices,
    hide,
    missing_index,
    number,
    pick,
)
from .polygon_sides_color import PERCEIVE, SHAPE_OF_SIDES, triangle_layout


class PolygonSidesNumber(Family):
    """``number = sides``, all six different; one number is missing."""

    name = "polygon_sides_number"
    perceive = PERCEIVE

    def sample(self, rng: np.random.Generator) -> Instance:
        pool = [str(n) for n in SIDES.values()]
        facts = [fact for sides in pick(rng, pool, 6) for fact in (sides, sides)]
        gone = 2 * int(rng.integers(6)) + 1
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], pool), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        radius, turn, size = canvas.vary(54, 63), canvas.vary(-5, 5), canvas.vary(44, 56)
        fill = canvas.tint()
        for (x, y), sides, value in zip(triangle_layout(canvas), facts[::2], facts[1::2], strict=True):
            canvas.polygon(regular_polygon(x, y, radius, int(sides), turn), fill)
            canvas.text(x, y, value, size)
            canvas.note(x, y, shape=SHAPE_OF_SIDES[sides], number=value)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        if gone % 2 == 0:
            raise Inconsistent("a number must be the missing fact")
        pairs = [(number(facts[i]), number(facts[i + 1])) for i in range(0, 12, 2) if i + 1 != gone]
        sides = number(facts[gone - 1])
        if any(s != n for s, n in pairs) or len({s for s, _ in pairs} | {sides}) != 6:
            raise Inconsistent("the numbers are not the numbers of sides")
        if sides not in SIDES.values():
            raise Inconsistent(f"no polygon here has {sides} sides")
        (a, _), (b, _) = pairs[:2]
        return [
            f"pattern : {a} sides has number {a} and {b} sides has number {b} so number = sides",
            f"missing part has {sides} sides so number = {sides}",
            f"answer : {sides}",
        ]
