"""A hexagon of six numbered parts in which the two parts of a colour add up to the same sum."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas
from ._family import (
    COLORS,
    MISSING,
    Family,
    Inconsistent,
    Instance,
    choices,
    hide,
    missing_index,
    number,
    pick,
)
from .color_hexagon import hexagon_parts
from .color_size_circle import SHADES


class ColorNumberHexagon(Family):
    """Three colours on two parts each; one number is missing."""

    name = "color_number_hexagon"
    perceive = (
        "parts 1 2 : {} {} , {} {}",
        "parts 3 4 : {} {} , {} {}",
        "parts 5 6 : {} {} , {} {}",
    )

    def sample(self, rng: np.random.Generator) -> Instance:
        total = int(rng.integers(6, 15))
        cells: list[tuple[str, str]] = []
        for color in pick(rng, COLORS, 3):
            a = int(rng.integers(max(1, total - 9), min(9, total - 1) + 1))
            cells += [(color, str(a)), (color, str(total - a))]
        facts = [word for i in rng.permutation(6) for word in cells[i]]
        gone = 2 * int(rng.integers(6)) + 1
        options = choices(rng, facts[gone], [str(v) for v in range(10)])
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], options, question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        radius, text = canvas.vary(158, 182), canvas.vary(42, 54)
        parts = hexagon_parts(radius, radius * canvas.vary(0.56, 0.61))
        for color, value, (corners, (x, y)) in zip(facts[::2], facts[1::2], parts, strict=True):
            canvas.polygon(corners, canvas.jitter(SHADES[color][1]))
            canvas.text(x, y, value, text)
            canvas.note(x, y, shape="part", color=color, number=value)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        groups: dict[str, list[str]] = {}
        for color, value in zip(facts[::2], facts[1::2], strict=True):
            groups.setdefault(color, []).append(value)
        if gone % 2 == 0 or sorted(map(len, groups.values())) != [2, 2, 2]:
            raise Inconsistent("each of three colours must stand on two parts")
        known = {c: [number(v) for v in pair] for c, pair in groups.items() if MISSING not in pair}
        total, *others = {sum(pair) for pair in known.values()}
        color = facts[gone - 1]
        partner = next(number(v) for v in groups[color] if v != MISSING)
        if others or not 1 <= total - partner <= 9:
            raise Inconsistent("the sums of the colours differ")
        sums = [f"{c} {a} + {b} = {total}" for c, (a, b) in known.items()]
        return [
            f"pattern : {sums[0]} and {sums[1]} so same color has same sum",
            f"missing {color} part : {total} - {partner} = {total - partner}",
            f"answer : {total - partner}",
        ]
