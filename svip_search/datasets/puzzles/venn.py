"""Three overlapping circles whose overlaps hold the sum of their neighbours."""

from __future__ import annotations

import numpy as np

from ._canvas import Canvas
from ._family import Family, Inconsistent, Instance, choices, hide, missing_index, number


class Venn(Family):
    """``overlap = left + right``; one of the outer circles is missing."""

    name = "venn"
    perceive = ("circles : {} {} {}", "overlaps : {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        a, b, c = (int(v) for v in rng.integers(1, 10, 3))
        facts = [str(v) for v in (a, b, c, a + b, b + c)]
        gone = int(rng.choice([0, 2]))
        options = choices(rng, facts[gone], [str(v) for v in range(1, 10)])
        question = "What is the missing number of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], options, question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        radius, gap = canvas.vary(88, 96), canvas.vary(112, 124)
        fill, size = canvas.tint(), canvas.vary(30, 38)
        centers = [256 + (i - 1) * gap for i in range(3)]
        for width in (0.0, None):  # fills first: each outline stays visible under the next disc
            for x in centers:
                canvas.circle(x, 256, radius, fill if width == 0.0 else None, width=width)
        spots = [centers[0] - 8, centers[1], centers[2] + 8,
                 (centers[0] + centers[1]) / 2, (centers[1] + centers[2]) / 2]  # fmt: skip
        for x, fact in zip(spots, facts, strict=True):
            canvas.text(x, 256, fact, size)
            canvas.note(x, 256, number=fact)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        if gone not in (0, 2):
            raise Inconsistent("an outer circle must be the missing one")
        middle, known = number(facts[1]), number(facts[2 - gone])
        sum_known, sum_gone = (number(facts[3 + (gone == 0)]), number(facts[3 + (gone == 2)]))
        if middle + known != sum_known or sum_gone < middle:
            raise Inconsistent("the known overlap is not the sum of its circles")
        answer = sum_gone - middle
        return [
            f"pattern : {middle} + {known} = {sum_known} so overlap is the sum",
            f"missing circle : {sum_gone} - {middle} = {answer}",
            f"answer : {answer}",
        ]
