"""A 3 x 3 grid of coloured numbers in which the same number has the same colour."""

from __future__ import annotations

import re

import numpy as np

from ._canvas import GREY, PALETTE, Canvas
from ._family import COLORS, MISSING, Family, Inconsistent, Instance, choices, missing_index, number, pick

UNKNOWN = "grey"


class GridNumberColor(Family):
    """Four numbers with a colour each; the question gives the number of the grey part."""

    name = "grid_number_color"
    perceive = (
        "row 1 : {} {} , {} {} , {} {}",
        "row 2 : {} {} , {} {} , {} {}",
        "row 3 : {} {} , {} {} , {} {}",
    )

    def sample(self, rng: np.random.Generator) -> Instance:
        digits, colors = pick(rng, [str(v) for v in range(1, 10)], 4), pick(rng, COLORS, 4)
        cells = [(MISSING, UNKNOWN), *zip(digits, colors, strict=True), *zip(digits, colors, strict=True)]
        facts = tuple(word for i in rng.permutation(9) for word in cells[i])
        question = f"What is the missing color if the part denoted with the question mark has the number {digits[0]}?"
        return Instance(facts, colors[0], choices(rng, colors[0], COLORS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        gap, text, radius = canvas.vary(146, 155), canvas.vary(48, 62), canvas.vary(16, 32)
        side, width = gap - canvas.vary(0, 3), canvas.vary(1, 3)
        for i, (value, color) in enumerate(zip(facts[::2], facts[1::2], strict=True)):
            x, y = 256 + (i % 3 - 1) * gap, 256 + (i // 3 - 1) * gap
            fill = canvas.jitter(PALETTE.get(color, GREY))
            canvas.rounded_box(x, y, side, side, radius, fill, width=width)
            canvas.text(x, y, value, text)
            canvas.note(x, y, shape="square", color=color, number=value)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone, asked = missing_index(facts), re.search(r"number (\d+)\?", question)
        if asked is None or gone % 2 or facts[gone + 1] != UNKNOWN or facts.count(UNKNOWN) != 1:
            raise Inconsistent("a grey part must be the missing one and the question give its number")
        colors: dict[str, list[str]] = {}
        for value, color in zip(facts[::2], facts[1::2], strict=True):
            if value != MISSING:
                colors.setdefault(str(number(value)), []).append(color)
        if any(len(c) != 2 or len(set(c)) != 1 for c in colors.values()):
            raise Inconsistent("each number must stand twice in one colour")
        if asked[1] not in colors or colors[asked[1]][0] not in COLORS or len({c[0] for c in colors.values()}) != 4:
            raise Inconsistent("four numbers must have a colour each, the asked one among them")
        answer = colors.pop(asked[1])[0]
        pairs = [f"{value} is {c[0]}" for value, c in colors.items()]
        return [
            f"pattern : {pairs[0]} and {pairs[1]} so same number has same color",
            f"missing part : {asked[1]} is {answer}",
            f"answer : {answer}",
        ]
