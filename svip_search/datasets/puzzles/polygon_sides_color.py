"""Six polygons in a triangle; polygons with the same number of sides have the same colour."""

from __future__ import annotations

import numpy as np

from ._canvas import GREY, PALETTE, Canvas, Point, regular_polygon
from ._family import (
    COLORS,
    MISSING,
    SIDES,
    Family,
    Inconsistent,
    Instance,
    choices,
    hide,
    missing_index,
    number,
    pick,
)  # fmt: skip

SHAPE_OF_SIDES = {str(n): shape for shape, n in SIDES.items()}
#: Rows of one, two and three polygons; the last is perceived in two steps.
PERCEIVE = ("row 1 : {} {}", "row 2 : {} {} , {} {}", "row 3 : {} {} , {} {}", "row 3 right : {} {}")


def triangle_layout(canvas: Canvas) -> list[Point]:
    """Return the centres of one, two and three parts in rows below each other."""
    top, down, across = canvas.vary(76, 86), canvas.vary(127, 136), canvas.vary(148, 156)
    return [(256 + (i - row / 2) * across, top + row * down) for row in range(3) for i in range(row + 1)]


class PolygonSidesColor(Family):
    """Three pairs of polygons, a colour for each number of sides; one colour is missing."""

    name = "polygon_sides_color"
    perceive = PERCEIVE

    def sample(self, rng: np.random.Generator) -> Instance:
        sides, colors = pick(rng, [str(n) for n in SIDES.values()], 3), pick(rng, COLORS, 3)
        order = rng.permutation(6) // 2
        facts = [fact for i in order for fact in (sides[i], colors[i])]
        gone = 2 * int(rng.integers(6)) + 1
        question = "What is the missing color of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], COLORS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        radius, turn, size = canvas.vary(54, 63), canvas.vary(-5, 5), canvas.vary(44, 56)
        for (x, y), sides, color in zip(triangle_layout(canvas), facts[::2], facts[1::2], strict=True):
            gone = color == MISSING
            fill = GREY if gone else canvas.jitter(PALETTE[color])
            canvas.polygon(regular_polygon(x, y, radius, int(sides), turn), fill)
            if gone:
                canvas.text(x, y, MISSING, size)
            canvas.note(x, y, shape=SHAPE_OF_SIDES[sides], color="" if gone else color,
                        number=MISSING if gone else "")  # fmt: skip

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        if gone % 2 == 0:
            raise Inconsistent("a color must be the missing fact")
        sides = facts[::2]
        seen = {(s, c) for s, c in zip(sides, facts[1::2], strict=True) if c != MISSING}
        color_of = dict(seen)
        if len(seen) != 3 or len(color_of) != 3 or len(set(color_of.values())) != 3:
            raise Inconsistent("the number of sides does not tell the color")
        if any(sides.count(s) != 2 or number(s) not in SIDES.values() for s in sides):
            raise Inconsistent("each number of sides must occur twice")
        same = facts[gone - 1]
        a, b = (s for s in dict.fromkeys(sides) if s != same)
        return [
            f"pattern : both {a} sides {color_of[a]} , both {b} sides {color_of[b]} so same sides same color",
            f"missing part has {same} sides , other {same} sides is {color_of[same]}",
            f"answer : {color_of[same]}",
        ]
