"""Nested circles of one colour that become lighter or darker towards the center."""

from __future__ import annotations

import numpy as np

from ._canvas import GREY, PALETTE, Canvas, Color
from ._family import COLORS, MISSING, Family, Inconsistent, Instance, choices, missing_index

LEVELS = ("lightest", "light", "dark", "darkest")
# fmt: off
_LIGHTEST = ((244, 204, 204), (252, 229, 205), (255, 242, 204), (217, 234, 211),
             (207, 226, 243), (217, 210, 233))
_LIGHT = ((234, 153, 153), (249, 203, 156), (255, 229, 153), (182, 215, 168),
          (159, 197, 232), (180, 167, 214))
_DARKEST = ((204, 0, 0), (230, 145, 56), (241, 194, 50), (106, 168, 79), (61, 133, 198), (103, 78, 167))
# fmt: on
#: Four shades of each colour, in the order of LEVELS.
SHADES: dict[str, tuple[Color, Color, Color, Color]] = {
    c: (_LIGHTEST[i], _LIGHT[i], PALETTE[c], _DARKEST[i]) for i, c in enumerate(COLORS)
}
_ORDERS = {LEVELS[:0:-1]: ("lighter", "lightest", "light"), LEVELS[:3]: ("darker", "darkest", "dark")}


class ColorSizeCircle(Family):
    """The shade moves by one level a circle; the innermost circle is missing."""

    name = "color_size_circle"
    perceive = ("circle 1 : {} {}", "circle 2 : {} {}", "circle 3 : {} {}", "center : {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        color = COLORS[int(rng.integers(6))]
        levels = list(_ORDERS)[int(rng.integers(2))]
        word = _ORDERS[levels][2]
        twin = f"{'dark' if word == 'light' else 'light'} {color}"
        pool = [f"{w} {c}" for w in ("light", "dark") for c in COLORS if c != color]
        options = choices(rng, f"{word} {color}", choices(rng, twin, pool, 3))
        question = "What is the missing color of the part denoted with a question mark?"
        facts = (*(v for level in levels for v in (level, color)), MISSING)
        return Instance(facts, f"{word} {color}", options, question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        step, inner, text = canvas.vary(47, 54), canvas.vary(46, 54), canvas.vary(42, 54)
        for i in range(3):
            level, color = facts[2 * i], facts[2 * i + 1]
            radius = inner + step * (3 - i)
            canvas.circle(256, 256, radius, canvas.jitter(SHADES[color][LEVELS.index(level)], 5))
            canvas.note(256 + radius - step / 2, 256, shape="circle", color=color, size=level)
        canvas.circle(256, 256, inner, canvas.jitter(GREY))
        canvas.text(256, 256, MISSING, text)
        canvas.note(256, 256, shape="circle", number=MISSING)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        if missing_index(facts) != 6:
            raise Inconsistent("the center must be the missing one")
        levels, colors = facts[:6:2], facts[1:6:2]
        if levels not in _ORDERS or len(set(colors)) != 1 or colors[0] not in COLORS:
            raise Inconsistent("the circles are not successive shades of one colour")
        trend, shade, word = _ORDERS[levels]
        return [
            f"pattern : {' '.join(levels)} so each circle is {trend}",
            f"missing circle : {shade} {colors[0]}",
            f"answer : {word} {colors[0]}",
        ]
