"""Three curved arms of circles that grow outwards."""

from __future__ import annotations

import math

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
)


class SizeCycle(Family):
    """Each arm is small, medium, large from the centre; one circle is missing.

    Arm 1 is the one whose outer circle comes first clockwise from the top.
    """

    name = "size_cycle"
    perceive = ("arm 1 : {} {} {}", "arm 2 : {} {} {}", "arm 3 : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        facts, gone = list(SIZES * 3), int(rng.integers(9))
        question = "What is the size of the missing circle denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], SIZES, 3), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        fill, text_size, turn = canvas.tint(), canvas.vary(46, 58), canvas.vary(0, 120)
        large, reach = canvas.vary(46, 53), canvas.vary(196, 208)
        radius = {
            "large": large,
            "medium": large * canvas.vary(0.7, 0.8),
            "small": large * canvas.vary(0.45, 0.55),
        }
        bend = canvas.vary(40, 50)
        places = [(0.276 * reach, bend), (0.626 * reach, bend * 0.55), (reach, 0.0)]
        for i, size in enumerate(facts):
            distance, back = places[i % 3]
            angle = math.radians(turn + 120 * (i // 3) - back - 90)
            x, y = 256 + distance * math.cos(angle), 256 + distance * math.sin(angle)
            if size == MISSING:
                canvas.text(x, y, MISSING, text_size)
                canvas.note(x, y, number=MISSING)
            else:
                canvas.circle(x, y, radius[size], fill)
                canvas.note(x, y, shape="circle", size=size)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        arm, place = divmod(missing_index(facts), 3)
        if facts != hide(list(SIZES * 3), 3 * arm + place):
            raise Inconsistent("the circles do not grow outwards in each arm")
        a, b = (i + 1 for i in range(3) if i != arm)
        return [
            f"pattern : arm {a} same as arm {b} : {' '.join(SIZES)}",
            f"arm {arm + 1} is {' '.join(facts[3 * arm : 3 * arm + 3])} so missing part is {SIZES[place]}",
            f"answer : {SIZES[place]}",
        ]
