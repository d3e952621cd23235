"""A 3 x 3 grid whose lines one way share the shape and the other way share the size."""

from __future__ import annotations

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
    hide,
    missing_index,
    pick,
)

SHAPES = ("triangle", "square", "pentagon", "hexagon")
TURN = {"triangle": -90.0, "square": 45.0, "pentagon": -90.0, "hexagon": 0.0}


class ShapeSizeGrid(Family):
    """Sizes grow or shrink along each line of equal shapes; one size is missing.

    The facts are the direction of the lines (row or column), the three shapes and the nine sizes.
    """

    name = "shape_size_grid"
    perceive = (
        "same shape in each {} : {} {} {}",
        "row 1 : {} {} {}",
        "row 2 : {} {} {}",
        "row 3 : {} {} {}",
    )

    def sample(self, rng: np.random.Generator) -> Instance:
        sizes = SIZES if rng.integers(2) else SIZES[::-1]
        kind = "row" if rng.integers(2) else "column"
        grid = [sizes[i % 3 if kind == "row" else i // 3] for i in range(9)]
        gone = 4 + int(rng.integers(9))
        facts = [kind, *pick(rng, SHAPES, 3), *grid]
        question = "What is the size of the missing part denoted by a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], SIZES, 3), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        pitch, large, fill = canvas.vary(124, 132), canvas.vary(60, 67), canvas.tint()
        radius = {
            "large": large,
            "medium": large * canvas.vary(0.63, 0.73),
            "small": large * canvas.vary(0.32, 0.4),
        }
        text_size = canvas.vary(56, 68)
        for i, size in enumerate(facts[4:]):
            row, column = divmod(i, 3)
            x, y = 256 + (column - 1) * pitch, 256 + (row - 1) * pitch
            if size == MISSING:
                canvas.text(x, y, MISSING, text_size)
                canvas.note(x, y, number=MISSING)
                continue
            shape = facts[1 + (row if facts[0] == "row" else column)]
            canvas.polygon(regular_polygon(x, y, radius[size], SIDES[shape], TURN[shape]), fill)
            canvas.note(x, y, shape=shape, size=size)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone, kind = missing_index(facts) - 4, facts[0]
        if gone < 0 or kind not in ("row", "column") or len(set(facts[1:4])) != 3:
            raise Inconsistent("a size must be missing from three lines of different shapes")
        grid = facts[4:]
        lines = [grid[3 * i : 3 * i + 3] if kind == "row" else grid[i::3] for i in range(3)]
        line, place = divmod(gone, 3) if kind == "row" else divmod(gone, 3)[::-1]
        a, b = (i for i in range(3) if i != line)
        if lines[a] != lines[b] or lines[a] not in (SIZES, SIZES[::-1]):
            raise Inconsistent("the sizes do not progress alike")
        answer = lines[a][place]
        if hide(list(lines[a]), place) != lines[line]:
            raise Inconsistent("the line of the missing part does not progress alike")
        return [
            f"pattern : {kind} {a + 1} same as {kind} {b + 1} : {' '.join(lines[a])}",
            f"{kind} {line + 1} is {' '.join(lines[line])} so missing {facts[1 + line]} is {answer}",
            f"answer : {answer}",
        ]
