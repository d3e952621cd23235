"""Seven upright bars side by side; bars of the same length have the same colour."""

from __future__ import annotations

import numpy as np

from ._canvas import GREY, PALETTE, Canvas
from ._family import (
    COLORS,
    MISSING,
    Family,
    Inconsistent,
    Instance,
    choices,
    hide,
    missing_index,
    pick,
)  # fmt: skip

LENGTHS = ("short", "medium", "long")
PERCEIVE = ("parts 1 2 : {} {} , {} {}", "parts 3 4 : {} {} , {} {}",
            "parts 5 6 : {} {} , {} {}", "part 7 : {} {}")  # fmt: skip


def sample_bars(rng: np.random.Generator, values: list[str] | tuple[str, ...]) -> list[str]:
    """Return length and value of seven bars: two of each length, then one more of any."""
    order = [*(rng.permutation(6) // 2), int(rng.integers(3))]
    return [fact for i in order for fact in (LENGTHS[i], values[i])]


def bar_layout(canvas: Canvas) -> list[tuple[float, float, dict[str, float], float]]:
    """Return centre x, width, height of each length and corner radius of the seven bars."""
    pitch, gap, radius = canvas.vary(61, 66), canvas.vary(0, 4), canvas.vary(14, 24)
    unit = canvas.vary(120, 132)
    heights = {length: unit * (i + 1) for i, length in enumerate(LENGTHS)}
    return [(256 + (i - 3) * pitch, pitch - gap, heights, radius) for i in range(7)]


def reason_bars(facts: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Return the steps from the stated bars to the answer, and the value of each length."""
    if missing_index(facts) != 13:
        raise Inconsistent("the value of the last bar must be the missing fact")
    lengths, same = facts[0:12:2], facts[12]
    seen = set(zip(lengths, facts[1:12:2], strict=True))
    value_of = dict(seen)
    if len(seen) != 3 or set(value_of) != set(LENGTHS) or len(set(value_of.values())) != 3:
        raise Inconsistent("the length does not tell the value")
    if any(lengths.count(length) != 2 for length in LENGTHS) or same not in value_of:
        raise Inconsistent("each length must occur twice before the last bar")
    (a, b), part = (v for v in LENGTHS if v != same), lengths.index(same) + 1
    steps = [
        f"pattern : both {a} is {value_of[a]} , both {b} is {value_of[b]}",
        f"missing part is {same} same as part {part} : {value_of[same]}",
        f"answer : {value_of[same]}",
    ]
    return steps, value_of


class RectangleHeightColor(Family):
    """A colour for each of three lengths; the last colour is missing."""

    name = "rectangle_height_color"
    perceive = PERCEIVE

    def sample(self, rng: np.random.Generator) -> Instance:
        facts = sample_bars(rng, pick(rng, COLORS, 3))
        question = "What is the missing color of the part denoted with a question mark?"
        return Instance(hide(facts, 13), facts[13], choices(rng, facts[13], COLORS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        size = canvas.vary(44, 56)
        for (x, w, heights, radius), length, color in zip(bar_layout(canvas), facts[::2], facts[1::2], strict=True):
            gone = color == MISSING
            fill = GREY if gone else canvas.jitter(PALETTE[color])
            canvas.rounded_box(x, 256, w, heights[length], radius, fill)
            if gone:
                canvas.text(x, 256, MISSING, size)
            canvas.note(x, 256, shape="rectangle", color="" if gone else color,
                        number=MISSING if gone else "", size=length)  # fmt: skip

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        return reason_bars(facts)[0]
