"""Eight shapes around a square that turn from the top left one into the bottom right one."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas, Point, regular_polygon
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

SHAPES = ("triangle", "square", "pentagon", "hexagon", "circle")
CIRCLE_SIDES = 30


def outline_at(shape: str, along: float) -> Point:
    """Return the point at the fraction ``along`` of the outline of a unit shape, from the right on."""
    sides = SIDES.get(shape, CIRCLE_SIDES)
    corners = regular_polygon(0, 0, 1, sides, 0)
    i = int(along * sides + 1e-9) % sides
    rest = along * sides - int(along * sides + 1e-9)
    (x0, y0), (x1, y1) = corners[i], corners[(i + 1) % sides]
    return x0 + (x1 - x0) * rest, y0 + (y1 - y0) * rest


def morph(start: str, end: str, share: float) -> list[Point]:
    """Return the corners of the unit shape that is ``share`` of the way from ``start`` to ``end``."""
    counts = [SIDES.get(shape, CIRCLE_SIDES) for shape in (start, end)]
    stops = sorted({round(i / n, 6) for n in counts for i in range(n)})
    pairs = [(outline_at(start, s), outline_at(end, s)) for s in stops]
    return [(a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share) for a, b in pairs]


class ShapeMorph(Family):
    """The two ends are regular; one of them is missing, but its neighbours look like it."""

    name = "shape_morph"
    perceive = (
        "top left : {}",
        "bottom right : {}",
        "next to top left : {} like",
        "next to bottom right : {} like",
    )

    def sample(self, rng: np.random.Generator) -> Instance:
        ends = pick(rng, SHAPES, 2)
        gone = int(rng.integers(2))
        question = "What is the missing shape of the part denoted with a question mark?"
        return Instance(hide(ends * 2, gone), ends[gone], choices(rng, ends[gone], SHAPES), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        pitch, radius, size = canvas.vary(122, 132), canvas.vary(45, 54), canvas.vary(56, 68)
        fill, (start, end) = canvas.tint(), facts[2:]
        shapes = {i: morph(start, end, i / 4) for i in range(5)}
        names = {0: start, 1: start, 2: "morph", 3: end, 4: end}
        for row, column in ((r, c) for r in range(3) for c in range(3) if (r, c) != (1, 1)):
            x, y, share = 256 + (column - 1) * pitch, 256 + (row - 1) * pitch, row + column
            if share in (0, 4) and facts[share // 4] == MISSING:
                canvas.text(x, y, MISSING, size)
                canvas.note(x, y, number=MISSING)
                continue
            canvas.polygon([(x + radius * px, y + radius * py) for px, py in shapes[share]], fill)
            canvas.note(x, y, shape=names[share])

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        if gone > 1 or any(f not in SHAPES for f in facts if f != MISSING):
            raise Inconsistent("one end must be the missing shape")
        known, answer = facts[1 - gone], facts[2 + gone]
        if facts[3 - gone] != known or answer == known:
            raise Inconsistent("the shapes do not morph from the known end into another shape")
        where = "bottom right" if gone else "top left"
        return [
            f"pattern : {known} next to {known} like so shapes morph from {known} to {answer}",
            f"missing part is {where} , next to {answer} like so {answer}",
            f"answer : {answer}",
        ]
