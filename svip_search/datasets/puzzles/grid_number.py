"""A 3 x 3 grid of numbers whose rows have the same sum."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas
from ._family import Family, Inconsistent, Instance, choices, hide, missing_index, number


def _row(rng: np.random.Generator, total: int) -> list[int]:
    while True:
        a, b = (int(v) for v in rng.integers(1, 10, 2))
        if 1 <= total - a - b <= 9:
            return [a, b, total - a - b]


class GridNumber(Family):
    """The rows of digits add up to one value; one digit is missing."""

    name = "grid_number"
    perceive = ("row 1 : {} {} {}", "row 2 : {} {} {}", "row 3 : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        total = int(rng.integers(8, 22))
        facts = [str(v) for _ in range(3) for v in _row(rng, total)]
        gone = int(rng.integers(9))
        options = choices(rng, facts[gone], [str(v) for v in range(1, 10)])
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], options, question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        gap, text, radius = canvas.vary(123, 133), canvas.vary(56, 74), canvas.vary(16, 34)
        side, fill = gap - canvas.vary(0, 4), canvas.tint()
        for i, value in enumerate(facts):
            x, y = 256 + (i % 3 - 1) * gap, 256 + (i // 3 - 1) * gap
            canvas.rounded_box(x, y, side, side, radius, fill)
            canvas.text(x, y, value, text)
            canvas.note(x, y, shape="square", number=value)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        row, column = divmod(missing_index(facts), 3)
        known = [[number(v) for v in facts[3 * r : 3 * r + 3]] for r in range(3) if r != row]
        total = sum(known[0])
        if sum(known[1]) != total:
            raise Inconsistent("the sums of the known rows differ")
        a, b = (number(facts[3 * row + c]) for c in range(3) if c != column)
        answer = total - a - b
        if not 1 <= answer <= 9:
            raise Inconsistent("the missing number must be a digit")
        sums = [f"{x} + {y} + {z} = {total}" for x, y, z in known]
        return [
            f"pattern : {sums[0]} and {sums[1]} so each row has same sum",
            f"row {row + 1} : {total} - {a} - {b} = {answer}",
            f"answer : {answer}",
        ]
