"""Three shapes above a line and their mirror images below it."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas, regular_polygon
from ._family import (
    MISSING,
    SIDES,
    Family,
    Inconsistent,
    Instance,
    choices,
    hide,
    missing_index,
    pick,
)

SHAPES = ("triangle", "square", "pentagon", "hexagon")


class ShapeReflect(Family):
    """Each shape stands again on the other side of the line; one of the six is missing."""

    name = "shape_reflect"
    perceive = ("top row : {} {} {}", "bottom row : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        facts = pick(rng, SHAPES, 3) * 2
        gone = int(rng.integers(6))
        question = "What is the missing shape denoted by a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], SHAPES), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        pitch, rise, radius = canvas.vary(122, 134), canvas.vary(80, 91), canvas.vary(45, 54)
        fill, size, reach = canvas.tint(), canvas.vary(44, 56), canvas.vary(180, 204)
        canvas.line([(256 - reach, 256), (256 + reach, 256)])
        for i, shape in enumerate(facts):
            x, side = 256 + (i % 3 - 1) * pitch, 1 if i > 2 else -1
            y = 256 + side * rise
            if shape == MISSING:
                canvas.circle(x, y, radius, None, dashed=True)
                canvas.text(x, y, MISSING, size)
                canvas.note(x, y, number=MISSING)
                continue
            turn = 45.0 if shape == "square" else side * 90.0
            canvas.polygon(regular_polygon(x, y, radius, SIDES[shape], turn), fill)
            canvas.note(x, y, shape=shape)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        answer = facts[(gone + 3) % 6]
        a, b = (i for i in range(3) if i != gone % 3)
        if facts[a] != facts[a + 3] or facts[b] != facts[b + 3]:
            raise Inconsistent("the rows are not reflections of each other")
        if len({facts[a], facts[b], answer}) != 3 or any(f not in SIDES for f in (facts[a], facts[b], answer)):
            raise Inconsistent("the shapes of a row must be different")
        row, other = ("top", "bottom") if gone < 3 else ("bottom", "top")
        return [
            f"pattern : {facts[a]} same as {facts[a]} , {facts[b]} same as {facts[b]} so rows are same",
            f"missing part in {row} row is same as {answer} in {other} row",
            f"answer : {answer}",
        ]
