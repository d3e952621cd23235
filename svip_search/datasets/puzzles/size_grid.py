"""A 3 x 3 grid of circles: one size at the corners, one at the edges, one in the centre."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas
from ._family import (
    MISSING,
    SIZES,
    Family,
    Inconsistent,
    Instance,
    choices,
    hide,
    missing_index,
    pick,
)

#: Index of the sort of each place in reading order: corner, edge or center.
SORT = (0, 1, 0, 1, 2, 1, 0, 1, 0)


class SizeGrid(Family):
    """Corners are alike and edges are alike; a corner or an edge is missing."""

    name = "size_grid"
    perceive = ("row 1 : {} {} {}", "row 2 : {} {} {}", "row 3 : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        sizes = pick(rng, SIZES, 3)
        facts = [sizes[s] for s in SORT]
        gone = int(rng.choice([i for i in range(9) if i != 4]))
        question = "What is the size of the missing part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], SIZES, 3), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        pitch, large, fill = canvas.vary(124, 132), canvas.vary(46, 54), canvas.tint()
        radius = {
            "large": large,
            "medium": large * canvas.vary(0.46, 0.54),
            "small": large * canvas.vary(0.3, 0.36),
        }
        text_size = canvas.vary(46, 58)
        for i, size in enumerate(facts):
            x, y = 256 + (i % 3 - 1) * pitch, 256 + (i // 3 - 1) * pitch
            if size == MISSING:
                canvas.text(x, y, MISSING, text_size)
                canvas.note(x, y, number=MISSING)
            else:
                canvas.circle(x, y, radius[size], fill)
                canvas.note(x, y, shape="circle", size=size)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        stated = [{facts[i] for i in range(9) if SORT[i] == s and i != gone} for s in range(3)]
        if gone == 4 or any(len(s) != 1 for s in stated) or set().union(*stated) != set(SIZES):
            raise Inconsistent("corners, edges and center are not of three sizes")
        corner, edge, center = (s.pop() for s in stated)
        place, answer = ("edge", edge) if SORT[gone] else ("corner", corner)
        return [
            f"pattern : each corner is {corner} , each edge is {edge} , center is {center}",
            f"missing part is {place} , same as each {place} : {answer}",
            f"answer : {answer}",
        ]
