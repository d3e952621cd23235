"""Six shapes around a missing one; equal shapes have equal sizes."""

from __future__ import annotations

import re

import numpy as np

from ._canvas import Canvas, regular_polygon
from ._family import (
    MISSING,
    SIDES,
    SIZES,
    Family,
    Inconsistent,
    Instance,
    choices,
    missing_index,
    pick,
)
from .shape_size_grid import SHAPES, TURN

#: The two parts of each opposite pair, in reading order.
PAIRS = ((0, 5), (1, 4), (2, 3))
_ASKED = re.compile(r"if it is an? (\w+)\?")


class ShapeSizeHexagon(Family):
    """A size for each of three shapes, opposite shapes alike; the size of the centre is missing."""

    name = "shape_size_hexagon"
    perceive = ("top row : {} {} , {} {}", "middle row : {} {} , {} , {} {}", "bottom row : {} {} , {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        shapes, sizes = pick(rng, SHAPES, 3), pick(rng, SIZES, 3)
        words = [fact for i in (0, 1, 2, 2, 1, 0) for fact in (sizes[i], shapes[i])]
        asked = int(rng.integers(3))
        question = f"What is the size of the missing shape denoted with a question mark if it is a {shapes[asked]}?"
        facts = (*words[:6], MISSING, *words[6:])
        return Instance(facts, sizes[asked], choices(rng, sizes[asked], SIZES, 3), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        across, down = canvas.vary(166, 174), canvas.vary(142, 152)
        large, fill = canvas.vary(68, 77), canvas.tint()
        radius = {
            "large": large,
            "medium": large * canvas.vary(0.6, 0.7),
            "small": large * canvas.vary(0.29, 0.36),
        }
        spots = [(-0.5, -1), (0.5, -1), (-1, 0), (1, 0), (-0.5, 1), (0.5, 1)]
        words = facts[:6] + facts[7:]
        for (dx, dy), size, shape in zip(spots, words[::2], words[1::2], strict=True):
            x, y = 256 + dx * across, 256 + dy * down
            canvas.polygon(regular_polygon(x, y, radius[size], SIDES[shape], TURN[shape]), fill)
            canvas.note(x, y, shape=shape, size=size)
        canvas.text(256, 256, MISSING, canvas.vary(76, 92))
        canvas.note(256, 256, number=MISSING)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        found = _ASKED.search(question)
        if missing_index(facts) != 6 or found is None:
            raise Inconsistent("the shape in the center must be the missing one")
        words = facts[:6] + facts[7:]
        parts = [(words[i + 1], words[i]) for i in range(0, 12, 2)]
        size_of = dict(parts[i] for i, _ in PAIRS)
        if any(parts[i] != parts[j] for i, j in PAIRS) or set(size_of.values()) != set(SIZES):
            raise Inconsistent("opposite shapes are not alike")
        asked = found[1]
        if len(size_of) != 3 or asked not in size_of:
            raise Inconsistent("the shape asked for is not among the others")
        a, b = (s for s in size_of if s != asked)
        return [
            f"pattern : both {a} is {size_of[a]} , both {b} is {size_of[b]} so same shape same size",
            f"missing part is {asked} , both {asked} is {size_of[asked]}",
            f"answer : {size_of[asked]}",
        ]
