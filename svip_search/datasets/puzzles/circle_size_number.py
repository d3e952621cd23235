"""A ring of six numbered circles whose size grows with their number."""

from __future__ import annotations

import math

import numpy as np

from ._canvas import Canvas
from ._family import MISSING, Family, Inconsistent, Instance, choices, hide, missing_index, number, pick

DIGITS = tuple(str(v) for v in range(1, 7))


class CircleSizeNumber(Family):
    """Three numbers stand twice each; the size (1 to 6) of a circle is its number."""

    name = "circle_size_number"
    perceive = (
        "circles 1 2 : {} size {} , {} size {}",
        "circles 3 4 : {} size {} , {} size {}",
        "circles 5 6 : {} size {} , {} size {}",
    )

    def sample(self, rng: np.random.Generator) -> Instance:
        kinds = pick(rng, DIGITS, 3)
        numbers = pick(rng, kinds * 2, 6)
        gone = int(rng.integers(6))
        facts = [v for n in numbers for v in (n, n)]
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, 2 * gone), numbers[gone], choices(rng, numbers[gone], DIGITS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        ring, base, step = canvas.vary(146, 154), canvas.vary(48, 51), canvas.vary(3.6, 4.3)
        text, fill, width = canvas.vary(48, 62), canvas.tint(), canvas.vary(1, 3)
        for i, (value, size) in enumerate(zip(facts[::2], facts[1::2], strict=True)):
            angle = math.radians(60 * i)  # clockwise from the right
            x, y = 256 + ring * math.cos(angle), 256 + ring * math.sin(angle)
            canvas.circle(x, y, base + step * int(size), fill, width=width)
            canvas.text(x, y, value, text)
            canvas.note(x, y, shape="circle", number=value, size=size)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        numbers, sizes = facts[::2], facts[1::2]
        if gone % 2:
            raise Inconsistent("a number must be the missing one")
        known = [n for n in numbers if n != MISSING]
        if any(n not in (MISSING, s) for n, s in zip(numbers, sizes, strict=True)):
            raise Inconsistent("a number differs from the size of its circle")
        if any(sizes.count(s) != 2 for s in sizes):
            raise Inconsistent("each size must stand twice")
        answer = str(number(sizes[gone // 2]))
        a, b = [n for n in dict.fromkeys(known) if n != answer]
        return [
            f"pattern : size {a} has {a} and size {b} has {b} so same size has same number",
            f"missing circle : size {answer} has {answer}",
            f"answer : {answer}",
        ]
