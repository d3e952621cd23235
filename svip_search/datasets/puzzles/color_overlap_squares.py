"""Three squares in a row whose overlaps show the mixed colours."""

from __future__ import annotations

import numpy as np

from ._canvas import GREY, PALETTE, Canvas, Color, regular_polygon
from ._family import COLORS, MISSING, Family, Inconsistent, Instance, choices, hide, missing_index, pick

PRIMARY = ("red", "yellow", "blue")
MIX = {frozenset(("red", "yellow")): "orange", frozenset(("red", "blue")): "purple",
       frozenset(("yellow", "blue")): "green"}  # fmt: skip


class ColorOverlapSquares(Family):
    """Primary colours mix where squares overlap; one of the outer squares is missing."""

    name = "color_overlap_squares"
    perceive = ("squares : {} {} {}", "overlaps : {} {}")

    def sample(self, rng: np.random.Generator) -> Instance:
        a, b, c = pick(rng, PRIMARY, 3)
        facts = [a, b, c, MIX[frozenset((a, b))], MIX[frozenset((b, c))]]
        gone = int(rng.choice([0, 2]))
        question = "What is the missing color of the part denoted with a question mark?"
        return Instance(hide(facts, gone), facts[gone], choices(rng, facts[gone], COLORS), question)

    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        half, text, mark = canvas.vary(82, 93), canvas.vary(42, 54), canvas.vary(32, 44)
        reach = half * 2**0.5
        fills: dict[str, Color] = {c: canvas.jitter(PALETTE[c]) for c in COLORS}
        fills[MISSING] = canvas.jitter(GREY)
        middle = regular_polygon(256, 256, reach, 4, turn=-45)
        spots = [(256 - half, 256 + half), (256.0, 256.0), (256 + half, 256 - half)]
        for i in (0, 2, 1):
            corners = middle if i == 1 else regular_polygon(*spots[i], reach, 4)
            canvas.polygon(corners, fills[facts[i]])
        for i, side in ((0, -1), (2, 1)):
            x, y = spots[i]
            canvas.polygon([(x, y), (x - side * reach, y), (x, y + side * reach)], fills[facts[3 + i // 2]])
            far = side * mark
            self._label(canvas, x + far, y - far, facts[i], text)
            canvas.note(x - far, y + far, shape="part", color=facts[3 + i // 2])
        self._label(canvas, 256, 256, facts[1], text)

    @staticmethod
    def _label(canvas: Canvas, x: float, y: float, color: str, text: float) -> None:
        if color == MISSING:
            canvas.text(x, y, MISSING, text)
            canvas.note(x, y, shape="square", number=MISSING)
        else:
            canvas.note(x, y, shape="square", color=color)

    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        gone = missing_index(facts)
        if gone not in (0, 2):
            raise Inconsistent("an outer square must be the missing one")
        middle, known = facts[1], facts[2 - gone]
        mixed, target = (facts[4], facts[3]) if gone == 0 else (facts[3], facts[4])
        if MIX.get(frozenset((middle, known))) != mixed:
            raise Inconsistent("the known overlap is not the mix of its squares")
        answers = [c for c in PRIMARY if MIX.get(frozenset((middle, c))) == target]
        if len(answers) != 1 or answers[0] == known:
            raise Inconsistent("no third colour mixes to the overlap")
        answer = answers[0]
        return [
            f"pattern : {middle} + {known} = {mixed} so overlap is the mix",
            f"missing square : {middle} + {answer} = {target}",
            f"answer : {answer}",
        ]
