"""The small things that stand in the cells of planning puzzles, drawn once and kept.

A sprite is drawn in units of 1/100 of its side, at four times its size, and reduced.  Every kind has ``VARIANTS``
drawings that differ in colours, proportions and line widths; variant 0 is the plain one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

#: Drawings of each kind.
VARIANTS = 16
_SIDE = 96
_SUPERSAMPLE = 4
_K = _SIDE * _SUPERSAMPLE / 100

Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]


class _Pen:
    """Draws one sprite in units, each number a little off where the variant is not the plain one."""

    def __init__(self, variant: int) -> None:
        self.rng = np.random.default_rng(variant) if variant else None
        self.image = Image.new("RGBA", (_SIDE * _SUPERSAMPLE,) * 2, (255, 255, 255, 0))
        self._draw = ImageDraw.Draw(self.image)

    def vary(self, middle: float, by: float) -> float:
        return middle if self.rng is None else float(self.rng.uniform(middle - by, middle + by))

    def color(self, color: Color, by: int = 22) -> Color:
        r, g, b = (min(255, max(0, round(self.vary(c, by)))) for c in color)
        return r, g, b

    def polygon(self, points: Points, fill: Color, outline: Color | None = None, width: float = 0) -> None:
        scaled = [(x * _K, y * _K) for x, y in points]
        self._draw.polygon(scaled, fill)
        if outline is not None:
            self._draw.line([*scaled, scaled[0], scaled[1]], outline, round(width * _K), "curve")

    def line(self, points: Points, fill: Color, width: float) -> None:
        """A line with round ends."""
        scaled = [(x * _K, y * _K) for x, y in points]
        self._draw.line(scaled, fill, round(width * _K), "curve")
        for x, y in (points[0], points[-1]):
            self.disc(x, y, width / 2, width / 2, fill)

    def disc(self, x: float, y: float, a: float, b: float, fill: Color, outline: Color | None = None,
             width: float = 0) -> None:  # fmt: skip
        box = ((x - a) * _K, (y - b) * _K, (x + a) * _K, (y + b) * _K)
        self._draw.ellipse(box, fill, outline, max(1, round(width * _K)))

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, radius: float = 0) -> None:
        self._draw.rounded_rectangle((x0 * _K, y0 * _K, x1 * _K, y1 * _K), radius * _K, fill)


def _ellipse(x: float, y: float, a: float, b: float, turn: float, count: int = 40) -> list[tuple[float, float]]:
    """Points of an ellipse turned by ``turn`` radians."""
    c, s = math.cos(turn), math.sin(turn)
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(x + a * math.cos(t) * c - b * math.sin(t) * s, y + a * math.cos(t) * s + b * math.sin(t) * c)
            for t in angles]  # fmt: skip


def _fresh(pen: _Pen) -> None:
    """Half a kiwi, cut face to the upper left."""
    turn, x, y = -math.radians(pen.vary(35, 15)), pen.vary(45, 3), pen.vary(42, 3)
    a, b = pen.vary(46, 3), pen.vary(38, 3)
    skin = pen.color((150, 106, 60))
    pen.polygon(_ellipse(x + pen.vary(8, 3), y + pen.vary(12, 3), 44, 40, turn + 0.6), skin)
    pen.polygon(_ellipse(x, y, a, b, turn), skin)
    pen.polygon(_ellipse(x, y, a - 4, b - 4, turn), pen.color((181, 212, 26)))
    ray, seed = pen.color((128, 178, 48)), pen.color((40, 46, 22))
    outer, inner = _ellipse(x, y, a - 9, b - 9, turn, 18), _ellipse(x, y, a - 22, b - 18, turn, 18)
    for from_, to in zip(outer, inner, strict=True):
        pen.line([from_, to], ray, 4)
    pen.polygon(_ellipse(x, y, a - 26, b - 24, turn), pen.color((226, 222, 160)))
    for sx, sy in _ellipse(x, y, a - pen.vary(23, 2), b - pen.vary(18, 2), turn, 17):
        pen.disc(sx, sy, 2.3, 3.2, seed)


def _rotten(pen: _Pen) -> None:
    """The kiwi crossed out."""
    _fresh(pen)
    red, dark, light = pen.color((244, 67, 54)), pen.color((198, 40, 40)), pen.color((255, 130, 120))
    width, end = pen.vary(19, 3), pen.vary(11, 3)
    far = 100 - end
    for start, stop in (((end, end), (far, far)), ((far, end), (end, far))):
        pen.line([(start[0] + 1, start[1] + 2), (stop[0] + 1, stop[1] + 2)], dark, width)
        pen.line([start, stop], red, width - 2)
    pen.line([(end + 2, end - 2), (end + 22, end + 18)], light, 4)


def _box(pen: _Pen) -> None:
    """A cardboard box seen from a corner."""
    low, side, mid = pen.vary(27, 4), pen.vary(5, 3), pen.vary(50, 3)
    edge = pen.vary(49, 3)
    pen.polygon([(side, low), (mid, edge), (mid, 98), (side, 75)], pen.color((176, 124, 76)))
    pen.polygon([(mid, edge), (100 - side, low), (100 - side, 73), (mid, 98)], pen.color((148, 96, 54)))
    pen.polygon([(mid, 3), (100 - side, low), (mid, edge), (side, low)], pen.color((218, 164, 106)))
    tape = pen.color((255, 224, 178))
    pen.polygon([(26, 15), (38, 9), (80, 32), (69, 39)], tape)
    pen.polygon([(69, 38), (82, 32), (82, 48), (69, 54)], pen.color((214, 196, 178)))
    ink = pen.color((90, 60, 35))
    for x in (10, 15, 22):
        pen.box(x, 66, x + 2, 74, ink)


def _player(pen: _Pen) -> None:
    """A person facing the viewer."""
    skin, shirt = pen.color((255, 202, 40)), pen.color((0, 176, 148), 30)
    hair, legs = pen.color((92, 58, 48)), pen.color((130, 130, 134))
    x, wide = pen.vary(50, 2), pen.vary(13, 2)
    for sign in (-1, 1):
        pen.line([(x + sign * (wide + 3), 44), (x + sign * (wide + 7), 64)], skin, 7)
        pen.line([(x + sign * (wide + 1), 38), (x + sign * (wide + 5), 49)], shirt, 8)
        pen.box(x + sign * 6 - 5, 58, x + sign * 6 + 4.5, 96, legs)
        pen.box(x + sign * 7 - 5, 94, x + sign * 7 + 5, 99, pen.color((70, 70, 76)), 2)
    pen.box(x - 4, 28, x + 4, 38, skin)
    pen.box(x - wide, 34, x + wide, 66, shirt, 5)
    top = pen.vary(2, 1)
    pen.disc(x, top + 12, 13, 13, hair)
    pen.disc(x, top + 18, 11, 13, skin)
    for sign in (-1, 1):
        pen.disc(x + sign * 4.5, top + 17, 1.6, 1.8, (50, 40, 40))
    pen.line([(x - 4, top + 25), (x + 4, top + 25)], (110, 60, 40), 2)


def _flag(pen: _Pen) -> None:
    """A waving chequered flag on a slanted pole."""
    lean, wave, drop = pen.vary(10, 3), pen.vary(5, 2), pen.vary(1, 4)
    pen.line([(5, 8), (5 + lean + 3, 97)], pen.color((168, 168, 168)), 6)
    ink, paper = pen.color((55, 55, 55)), pen.color((236, 236, 236), 15)
    columns, rows = 6, 5

    def at(i: int, j: int) -> tuple[float, float]:
        x = 10 + i * 86 / columns + j * 1.8
        return x, 4 + j * 12 + wave * math.sin(0.4 + i * 1.0) + drop * i / columns

    for i in range(columns):
        for j in range(rows):
            corners = [at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)]
            pen.polygon(corners, paper if (i + j) % 2 else ink)


def _brick(pen: _Pen) -> None:
    """A piece of a brick wall that fills its cell."""
    courses, gap, shift = 7, pen.vary(2.5, 1), pen.vary(-18, 5)
    reds = [pen.color(c) for c in ((228, 80, 46), (228, 80, 46), (191, 54, 12), (255, 112, 67))]
    pen.box(0, 0, 100, 100, pen.color((226, 204, 196), 20))
    height = 100 / courses
    for row in range(courses):
        for i in range(4):
            x = 36 * i + (0 if row % 2 else shift)
            color = reds[(row * 3 + i * 5 + row // 2) % 4]
            pen.box(x, row * height + gap / 2, x + 36 - gap, (row + 1) * height - gap / 2, color)


def _queen(pen: _Pen) -> None:
    """A white chess queen with a black outline."""
    ink: Color = (0, 0, 0)
    white = pen.color((255, 255, 255), 8)
    width, spread, top = pen.vary(4.5, 1.5), pen.vary(42, 3), pen.vary(16, 3)
    tips = [(50 + spread * i / 2, top + abs(i) ** 2 * 3.2 - 3) for i in range(-2, 3)]
    crown: list[tuple[float, float]] = [(21, 66)]
    for i, (x, y) in enumerate(tips):
        crown.append((x, y + 4))
        if i < 4:
            crown.append((50 + (i - 1.5) * 15, 58))
    crown.append((79, 66))
    pen.polygon([*crown, (76, 76), (24, 76)], white, ink, width)
    pen.polygon([(24, 72), (76, 72), (80, 92), (20, 92)], white, ink, width)
    pen.disc(50, 92, 30, 5, white, ink, width)
    pen.polygon([(26, 76), (74, 76), (77, 90), (23, 90)], white)
    pen.line([(24, 72), (38, 69), (62, 69), (76, 72)], ink, width * 0.9)
    pen.line([(24, 82), (38, 79), (62, 79), (76, 82)], ink, width * 0.9)
    for x, y in tips:
        pen.disc(x, y, 5.5, 5.5, white, ink, width * 0.9)


_KINDS = {
    "fresh": _fresh, "rotten": _rotten, "box": _box, "player": _player, "flag": _flag, "#": _brick, "queen": _queen,
}  # fmt: skip


@lru_cache(maxsize=len(_KINDS) * VARIANTS)
def sprite(kind: str, variant: int) -> Image.Image:
    """Return the RGBA drawing of one kind of thing; not to be changed."""
    pen = _Pen(variant)
    _KINDS[kind](pen)
    return pen.image.reduce(_SUPERSAMPLE)


@lru_cache(maxsize=512)
def scaled(kind: str, variant: int, side: int) -> Image.Image:
    """Return the drawing at ``side`` pixels; not to be changed."""
    return sprite(kind, variant).resize((side, side), Image.Resampling.BILINEAR)
