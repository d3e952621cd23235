"""Three triangles of numbers; the right one of each is the product of the left two."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas, regular_polygon
from ._family import MISSING, Family, Inconsistent, Instance, choices, hide, missing_index, number


class Triangle(Family):
    """Each group is (top, bottom, right) with ``right = top x bottom``; one number is missing."""

    name = "triangle"
    perceive = ("group 1 : {} {} {}", "group 2 : {} {} {}", "group 3 : {} {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        pairs = [(int(a), int(b)) for a, b in rng.integers(1, 10, (3, 2))]
        facts = [str(v) for a, b in pairs for v in (a, b, a * b)]
        gone = int(rng.integers(9))
        pool = [str(v) for v in range(10 if int(facts[gone]) < 10 else 100)]
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], pool), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        ring, reach, radius = canvas.vary(122, 134), canvas.vary(48, 54), canvas.vary(29, 33)
        text, fill = canvas.vary(31, 40), canvas.tint()
        right, below, above = regular_polygon(256, 256, ring, 3, turn=0)
        for g, center in enumerate((above, below, right)):
            tip, bottom, top = regular_polygon(*center, reach, 3, turn=0)
            canvas.polygon([tip, bottom, top], None)
            for (x, y), value in zip((top, bottom, tip), facts[3 * g : 3 * g + 3], strict=True):
                canvas.circle(x, y, radius, fill)
                canvas.text(x, y, value, text)
                canvas.note(x, y, shape="circle", number=value)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        row, place = divmod(missing_index(facts), 3)
        groups = [facts[i : i + 3] for i in (0, 3, 6)]
        known = [[number(v) for v in g] for g in groups if MISSING not in g]
        if any(a * b != c for a, b, c in known):
            raise Inconsistent("a known group is not a product")
        a, b = (number(v) for v in groups[row] if v != MISSING)
        if place == 2:
            answer, apply = a * b, f"{a} x {b} = {a * b}"
        elif a == 0 or b % a or not 1 <= b // a <= 9:
            raise Inconsistent("no digit gives the product")
        else:
            answer, apply = b // a, f"{b} / {a} = {b // a}"
        products = [f"{x} x {y} = {z}" for x, y, z in known]
        return [
            f"pattern : {products[0]} and {products[1]} so right is the product",
            f"group {row + 1} : {apply}",
            f"answer : {answer}",
        ]
