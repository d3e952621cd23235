"""A 3 x 3 grid of circles: one colour at the corners, one at the edges, one in the center."""

from __future__ import annotations

import numpy as np

from ._canvas import PALETTE, Canvas
from ._family import COLORS, MISSING, Family, Inconsistent, Instance, choices, hide, missing_index, pick

CORNERS, EDGES, CENTER = (0, 2, 6, 8), (1, 3, 5, 7), 4


class ColorGrid(Family):
    """The corners share a colour and so do the edges; a corner or an edge is missing."""

    name = "color_grid"
    perceive = ("row 1 : {} {} {}", "row 2 : {} {} {}", "row 3 : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        corner, edge, center = pick(rng, COLORS, 3)
        facts = [center if i == CENTER else corner if i in CORNERS else edge for i in range(9)]
        gone = int(rng.choice(CORNERS + EDGES))
        question = "What is the color of the missing part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], COLORS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        radius, gap, text = canvas.vary(46, 56), canvas.vary(122, 134), canvas.vary(42, 54)
        for i, color in enumerate(facts):
            x, y = 256 + (i % 3 - 1) * gap, 256 + (i // 3 - 1) * gap
            if color == MISSING:
                canvas.text(x, y, MISSING, text)
                canvas.note(x, y, number=MISSING)
            else:
                canvas.circle(x, y, radius, canvas.jitter(PALETTE[color]))
                canvas.note(x, y, shape="circle", color=color)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        if gone == CENTER:
            raise Inconsistent("the center must be known")
        corners = {facts[i] for i in CORNERS} - {MISSING}
        edges = {facts[i] for i in EDGES} - {MISSING}
        if len(corners) != 1 or len(edges) != 1 or len({*corners, *edges, facts[CENTER]}) != 3:
            raise Inconsistent("corners, edges and center must have one colour each")
        corner, edge = *corners, *edges
        place, answer = ("corner", corner) if gone in CORNERS else ("edge", edge)
        if answer not in COLORS:
            raise Inconsistent(f"{answer!r} is no colour")
        return [
            f"pattern : each corner is {corner} , each edge is {edge} , center is {facts[CENTER]}",
            f"missing part : {place} so {answer}",
            f"answer : {answer}",
        ]
