"""A hexagon of six coloured parts in which opposite parts have the same colour."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ._canvas import GREY, PALETTE, Canvas, Point, regular_polygon
from ._family import COLORS, MISSING, Family, Inconsistent, Instance, choices, hide, missing_index, pick


def hexagon_parts(radius: float, text_at: float) -> Iterator[tuple[list[Point], Point]]:
    """Yield the six parts of a hexagon, anti-clockwise from the top: corners and text position."""
    corners = regular_polygon(256, 256, radius, 6, turn=0)
    for i in range(6):
        angle = math.radians(270 - 60 * i)
        spot = (256 + text_at * math.cos(angle), 256 + text_at * math.sin(angle))
        yield [(256.0, 256.0), corners[(4 - i) % 6], corners[(5 - i) % 6]], spot


class ColorHexagon(Family):
    """Three colours, each on two opposite parts."""

    name = "color_hexagon"
    perceive = ("parts 1 2 3 : {} {} {}", "parts 4 5 6 : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        facts = pick(rng, COLORS, 3) * 2
        gone = int(rng.integers(6))
        question = "What is the missing color of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], COLORS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        radius, text = canvas.vary(158, 182), canvas.vary(42, 54)
        parts = hexagon_parts(radius, radius * canvas.vary(0.56, 0.61))
        for color, (corners, (x, y)) in zip(facts, parts, strict=True):
            gone = color == MISSING
            canvas.polygon(corners, canvas.jitter(GREY if gone else PALETTE[color]))
            if gone:
                canvas.text(x, y, MISSING, text)
                canvas.note(x, y, shape="part", number=MISSING)
            else:
                canvas.note(x, y, shape="part", color=color)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        pairs = [i for i in range(3) if i != gone % 3]
        if any(facts[i] != facts[i + 3] for i in pairs):
            raise Inconsistent("opposite parts differ")
        answer = facts[(gone + 3) % 6]
        if len({*(facts[i] for i in pairs), answer}) != 3 or answer not in COLORS:
            raise Inconsistent("there must be three colours")
        first, second = (f"{facts[i]} is opposite {facts[i + 3]}" for i in pairs)
        return [
            f"pattern : {first} and {second} so opposite parts are the same",
            f"missing part : opposite {answer}",
            f"answer : {answer}",
        ]
