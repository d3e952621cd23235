"""Pictures of planning puzzles, in the manner of the pictures that people test with.

Drawn at the final size, without supersampling: frames and tiles lie along the pixels anyway, and the curved things
are sprites.  A picture that is given an ``rng`` varies in all that does not change its meaning, and some pictures
are spoiled a little, so that an eye that learns from them is sometimes wrong and knows what that is like.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svip_search.datasets.planning import _draw_sprites as sprites
from svip_search.datasets.planning._cut import JUG_SLACK, ROD
from svip_search.datasets.planning._grid import EMPTY, Grid
from svip_search.datasets.puzzles._canvas import Color, _font

BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)
#: Disks of a tower from the smallest.
DISKS: tuple[Color, ...] = (
    (254, 219, 179), (254, 182, 101), (255, 145, 27), (204, 107, 0), (153, 51, 0), (204, 0, 0), (102, 0, 51),
)  # fmt: skip
#: Fonts of the numbers; the thinnest are hard to read on a small tile.
FONTS = ("OpenSans-Regular.ttf", "DejaVuSans.ttf", "Roboto-Regular.ttf", "Lato-Regular.ttf", "OpenSans-Light.ttf",
         "OpenSans-Semibold.ttf", "Roboto-Light.ttf")  # fmt: skip
_Box = tuple[float, float, float, float]


@lru_cache(maxsize=256)
def _label_font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(pixels)


class _Page:
    """A white picture with a pen and a source of variation."""

    def __init__(self, width: int, height: int, rng: np.random.Generator | None) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (width, height), WHITE)
        self.pen = ImageDraw.Draw(self.image)
        self.width, self.height = width, height

    def vary(self, low: float, high: float, plain: float | None = None) -> float:
        """A uniform draw; ``plain``, or the middle, in a plain picture."""
        if self.rng is None:
            return (low + high) / 2 if plain is None else plain
        return float(self.rng.uniform(low, high))

    def pick(self, count: int) -> int:
        """One of ``count``; 0 in a plain picture."""
        return 0 if self.rng is None else int(self.rng.integers(count))

    def color(self, color: Color, by: int = 14) -> Color:
        """The color with each channel moved by up to ``by``."""
        if self.rng is None:
            return color
        r, g, b = np.clip(np.add(color, self.rng.integers(-by, by + 1, 3)), 0, 255).tolist()
        return r, g, b

    def line_width(self, low: float, high: float) -> int:
        return max(1, round(self.vary(low, high) * max(self.width, self.height) / 512))

    def square(self, rows: int, columns: int, low: float, high: float, plain: float) -> tuple[float, float, float]:
        """Left, top and cell side of a board with margins of ``low`` to ``high`` of the page, a little off centre."""
        margin = self.vary(low, high, plain)
        side = self.width * (1 - 2 * margin) / max(rows, columns)
        slack = self.width * margin * 0.4
        left = (self.width - columns * side) / 2 + self.vary(-slack, slack)
        top = (self.height - rows * side) / 2 + self.vary(-slack, slack)
        return left, top, side

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color) -> None:
        """A filled box up to, not including, (x1, y1); nothing where that is empty."""
        left, top, right, bottom = round(x0), round(y0), round(x1) - 1, round(y1) - 1
        if left <= right and top <= bottom:
            self.pen.rectangle((left, top, right, bottom), fill)

    def text(self, x: float, y: float, text: str, size: float, color: Color = BLACK) -> None:
        self.pen.text((x, y), text, color, _label_font(max(6, round(size))), anchor="mm")

    def stamp(self, kind: str, x: float, y: float, side: float, variant: int) -> None:
        """A sprite centred on a point."""
        image = sprites.scaled(kind, variant, max(4, round(side)))
        self.image.paste(image, (round(x - image.width / 2), round(y - image.height / 2)), image)


# ---- the eight families --------------------------------------------------------------------------
_Cells = list[list[str]]


def _number_slide(page: _Page, cells: _Cells) -> None:
    n = len(cells)
    left, top, side = page.square(n, n, 0.015, 0.07, 0.035)
    thin, end = page.line_width(1, 2), n * side
    page.pen.rounded_rectangle((left, top, left + end, top + end), 2, None, page.color((190, 60, 55), 40), thin)
    pad, ink = side * page.vary(0.025, 0.05), page.color((20, 20, 20), 20)
    edge, radius = page.color((90, 90, 90), 50), side * page.vary(0.02, 0.12)
    font = _font(FONTS[page.pick(len(FONTS))], max(6, round(side * page.vary(0.36, 0.5, 0.43))))
    line, down = page.line_width(0.8, 2), side * page.vary(-0.03, 0.05)
    aside = side * page.vary(-0.05, 0.05, 0.02), side * page.vary(-0.03, 0.03)  # of one digit, of two
    for y, row in enumerate(cells):
        for x, word in enumerate(row):
            if word == EMPTY:
                continue
            x0, y0 = left + x * side, top + y * side
            box = (x0 + pad, y0 + pad, x0 + side - pad, y0 + side - pad)
            page.pen.rounded_rectangle(box, radius, WHITE, edge, line)
            centre = x0 + side / 2 + aside[len(word) > 1], y0 + side / 2 + down
            page.pen.text(centre, word, ink, font, anchor="mm")


def _maze(page: _Page, cells: _Cells) -> None:
    rows, columns = len(cells), len(cells[0])
    left, top, side = page.square(rows, columns, 0.04, 0.14, 0.115)
    wall, rule = page.color((8, 8, 8), 8), page.color((236, 236, 236), 8)
    floor = page.pick(4) < 3
    for y, row in enumerate(cells):
        for x, word in enumerate(row):
            box = (left + x * side, top + y * side, left + (x + 1) * side, top + (y + 1) * side)
            if word == "#":
                page.box(*box, wall)
            elif floor:
                page.pen.rectangle([round(v) for v in box], None, rule)
    green, blue = page.color((0, 128, 0), 20), page.color((15, 15, 245), 15)
    for y, row in enumerate(cells):
        for x, word in enumerate(row):
            if word in ("entry", "exit"):
                inward = _inward(x, y, rows, columns)
                dx, dy = inward if word == "entry" else (-inward[0], -inward[1])
                _arrow(page, left + (x + 0.5) * side, top + (y + 0.5) * side, dx, dy, side,
                       green if word == "entry" else blue)  # fmt: skip


def _inward(x: int, y: int, rows: int, columns: int) -> tuple[int, int]:
    """The way from a border cell into the grid."""
    if x in (0, columns - 1):
        return (1, 0) if x == 0 else (-1, 0)
    return (0, 1) if y < rows / 2 else (0, -1)


def _arrow(page: _Page, x: float, y: float, dx: int, dy: int, side: float, color: Color) -> None:
    back, tip = page.vary(0.3, 0.5, 0.5) * side, page.vary(0.25, 0.5, 0.3) * side
    head, half = page.vary(0.25, 0.4) * side, page.vary(0.11, 0.19) * side
    x0, y0, x1, y1 = x - dx * back, y - dy * back, x + dx * tip, y + dy * tip
    neck = x1 - dx * head, y1 - dy * head
    page.pen.line((x0, y0, *neck), color, page.line_width(0.8, 2.4))
    page.pen.polygon(
        [(x1, y1), (neck[0] - dy * half, neck[1] + dx * half), (neck[0] + dy * half, neck[1] - dx * half)], color
    )


def _stamps(page: _Page, cells: _Cells, corner: tuple[float, float, float], sizes: dict[str, float]) -> None:
    """A sprite of ``sizes`` times the cell's side in each cell whose word has one; one variant of each a picture."""
    left, top, side = corner
    variants = {kind: page.pick(sprites.VARIANTS) for kind in sizes}
    for y, row in enumerate(cells):
        for x, word in enumerate(row):
            if word in sizes:
                page.stamp(word, left + (x + 0.5) * side, top + (y + 0.5) * side, sizes[word] * side, variants[word])


def _move_box(page: _Page, cells: _Cells) -> None:
    corner = page.square(len(cells), len(cells[0]), 0.02, 0.09, 0.055)
    thing = page.vary(0.84, 1.0, 0.94)
    sizes = {"#": page.vary(0.92, 1.0, 0.95), "box": thing, "player": thing, "flag": thing}
    _stamps(page, cells, corner, sizes)


def _n_queens(page: _Page, cells: _Cells) -> None:
    left, top, side = corner = page.square(len(cells), len(cells[0]), 0.0, 0.05, 0.015)
    colors = page.color((255, 230, 178), 16), page.color((254, 196, 58), 28)
    for y, row in enumerate(cells):
        for x in range(len(row)):
            box = (left + x * side, top + y * side, left + (x + 1) * side, top + (y + 1) * side)
            page.box(*box, colors[(x + y) % 2])
    _stamps(page, cells, corner, {"queen": page.vary(0.52, 0.78, 0.62)})


def _rotting_kiwi(page: _Page, cells: _Cells) -> None:
    n = len(cells)
    left, top, side = corner = page.square(n, n, 0.02, 0.09, 0.052)
    ink, line = page.color((30, 30, 30), 30), page.line_width(0.8, 2.4)
    for i in range(n + 1):
        x, y, end = left + i * side, top + i * side, n * side
        page.pen.line((x, top, x, top + end), ink, line)
        page.pen.line((left, y, left + end, y), ink, line)
    kiwi = page.vary(0.58, 0.82, 0.68)
    _stamps(page, cells, corner, {"fresh": kiwi, "rotten": kiwi * page.vary(0.95, 1.08)})


def _captions(page: _Page, ys: tuple[float, float], size: float) -> None:
    """The names of the two halves of a picture; some pictures go without."""
    if page.vary(0, 1, 0.5) < 0.9:
        for y, which in zip(ys, ("Starting", "Ending"), strict=True):
            page.text(page.width / 2, y, f"{which} Configuration", size)


def _checker_move(page: _Page, cells: _Cells) -> None:
    n = len(cells[0])
    left = page.width * page.vary(0.008, 0.03, 0.6 / n / 5)
    side = (page.width - left * page.vary(1.6, 2.4)) / n
    tall = page.height * page.vary(0.22, 0.26, 0.238)
    tops = page.height * page.vary(0.135, 0.155), page.height * page.vary(0.6, 0.63)
    ink, line = page.color((128, 128, 128), 35), page.line_width(0.8, 2.6)
    dot, fills = page.vary(0.36, 0.44, 0.41), {"green": page.color((0, 128, 0), 24), "red": page.color((252, 4, 4), 20)}
    for y0, row in zip(tops, cells, strict=True):
        for x, word in enumerate(row):
            x0 = left + x * side
            page.pen.rectangle((round(x0), round(y0), round(x0 + side), round(y0 + tall)), None, ink, line)
            if word != EMPTY:
                cx, cy, a, b = x0 + side / 2, y0 + tall / 2, dot * side, dot * tall
                page.image.paste(fills[word], (round(cx - a), round(cy - b)), _disc(round(2 * a), round(2 * b)))
    middle = round(page.height / 2)
    for x in range(round(left), page.width - round(left), 4):
        page.pen.line((x, middle, x + 1, middle), ink)
    _captions(page, (page.height * 0.06, page.height * 0.94), page.width * page.vary(0.1, 0.24) / n + 7)


@lru_cache(maxsize=512)
def _disc(width: int, height: int) -> Image.Image:
    """The mask of an ellipse with a soft edge."""
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).ellipse((0, 0, 4 * width - 1, 4 * height - 1), 255)
    return mask.reduce(4)


def _tower_of_hanoi(page: _Page, cells: _Cells) -> None:
    n = len(cells) // 2
    x0 = page.width * page.vary(0.005, 0.03, 0.01)
    across, wood = page.width - x0 * page.vary(1.6, 2.4), page.color((101, 67, 33), 16)
    rod = page.height * (0.121 + 0.03 * n) * page.vary(0.92, 1.08)
    level, widest = rod / (ROD * n), page.vary(0.25, 0.3, 0.271) * across
    thick, smallest = max(2, round(level * page.vary(0.26, 0.42))), page.vary(0.3, 0.7)
    thin, bases = (
        level * page.vary(0.5, 0.68),
        (page.height * page.vary(0.39, 0.42), page.height * page.vary(0.84, 0.87)),
    )
    disks = [page.color(c, 10) for c in DISKS]
    for base, part in zip(bases, (cells[:n], cells[n:]), strict=True):
        base = round(base)
        page.box(x0, base, x0 + across, base + thick, wood)
        for x, share in enumerate(np.linspace(0.161, 0.836, len(part[0])).tolist()):
            centre = x0 + share * across
            page.box(centre - thin / 2, base - rod, centre + thin / 2, base, wood)
            for up, word in enumerate(row[x] for row in reversed(part)):
                if word != EMPTY:
                    disk = int(word)
                    half = widest * (disk + smallest) / (n + smallest) / 2
                    color = disks[(disk - 1) % len(disks)]
                    page.box(centre - half, base - (up + 1) * level, centre + half, base - up * level, color)
    if page.pick(5) < 4:
        middle = sum(bases) / 2 - 0.35 * rod
        page.pen.line((x0, middle, x0 + across, middle), page.color((215, 215, 215), 12))
    _captions(page, (page.height * 0.055, page.height * 0.945), page.width * page.vary(0.022, 0.03))


def _water_jugs(page: _Page, cells: _Cells, scale: int, capacities: Sequence[int]) -> None:
    jugs, w, h = cells[0], page.width, page.height
    x0, x1 = round(w * page.vary(0.07, 0.12, 0.087)), round(w * page.vary(0.96, 0.99, 0.98))
    y0, y1 = round(h * page.vary(0.012, 0.05, 0.017)), round(h * page.vary(0.94, 0.975, 0.968))
    pitch, litre = (x1 - x0) / (len(jugs) + JUG_SLACK), (y1 - y0) / (scale + 1)
    size, faint = w * page.vary(0.022, 0.03, 0.026), page.color((240, 240, 240), 8)
    font, ruled = _font(FONTS[page.pick(len(FONTS))], max(6, round(size))), page.pick(4) < 3
    for tick in range(scale + 1):
        y = y1 - tick * litre
        if ruled:
            page.pen.line((x0, y, x1, y), faint)
        page.pen.line((x0 - 3, y, x0, y), BLACK)
        page.pen.text((x0 - 6, y), str(tick), BLACK, font, anchor="rm")
    water, wall = page.color((166, 166, 254), 24), page.line_width(1.6, 4)
    surface, half = (page.color((120, 120, 220)), water)[page.pick(2)], pitch * page.vary(0.36, 0.42, 0.4)
    named = page.pick(8) < 7
    for x, (word, capacity) in enumerate(zip(jugs, capacities, strict=True)):
        centre = x0 + (x + 0.5) * pitch
        left, right, level = centre - half, centre + half, y1 - int(word) * litre
        page.box(left, level, right, y1, water)
        page.pen.line((left, level, right, level), surface)
        page.pen.line((left, y1 - capacity * litre, left, y1), BLACK, wall)
        page.pen.line((right, y1 - capacity * litre, right, y1), BLACK, wall)
        page.box(left - wall / 2, y1 - wall, right + wall / 2, y1, BLACK)
        if named:
            page.text(centre, y1 - (scale + 0.55) * litre, f"Jug {x + 1}", size * 1.15)
    page.pen.rectangle((x0, y0, x1, y1), None, page.color((40, 40, 40), 40))
    if page.pick(8) < 7:
        page.image.paste(_axis_name(round(size * 1.1)), (round(w * 0.01), (y0 + y1) // 2 - round(3 * size)))


@lru_cache(maxsize=64)
def _axis_name(size: int) -> Image.Image:
    """The words beside the axis, bottom to top."""
    font = _label_font(size)
    text = Image.new("RGB", (9 * size, round(1.4 * size)), WHITE)
    ImageDraw.Draw(text).text((0, 0), "Quantity (litres)", BLACK, font)
    return text.transpose(Image.Transpose.ROTATE_90)


_DRAWINGS: dict[str, Callable[[_Page, _Cells], None]] = {
    "number_slide": _number_slide, "maze": _maze, "move_box": _move_box, "n_queens": _n_queens,
    "rotting_kiwi": _rotting_kiwi, "checker_move": _checker_move, "tower_of_hanoi": _tower_of_hanoi,
}  # fmt: skip


def draw(grid: Grid, cells: Sequence[str], rng: np.random.Generator | None, pixels: int = 384,
         capacities: Sequence[int] = ()) -> Image.Image:  # fmt: skip
    """Draw a planning puzzle.

    Args:
        grid: its family and size.
        cells: word of each cell, row by row.
        rng: source of the variation; None for the plain style.
        pixels: width of the picture; the height depends on the family and the grid.
        capacities: litres each jug holds, ``water_jugs`` only; without them all jugs hold ``grid.scale``.

    Returns:
        An RGB picture, the same for the same state of ``rng``.

    Raises:
        ValueError: ``cells``, ``capacities`` or ``pixels`` do not fit, or nothing draws the family.

    Example:
        >>> draw(Grid("rotting_kiwi", 2, 2), ["fresh", ".", "rotten", "."], None, pixels=64).size
        (64, 64)
    """
    if len(cells) != len(grid):
        raise ValueError(f"`cells` must be the {len(grid)} words of {grid}; got {len(cells)}")
    if pixels < 32:
        raise ValueError(f"`pixels` must be at least 32; got {pixels}")
    rows = [list(cells[i : i + grid.columns]) for i in range(0, len(cells), grid.columns)]
    page = _Page(pixels, round(pixels * _aspect(grid)), rng)
    if grid.family == "water_jugs":
        capacities = capacities or [grid.scale] * grid.columns
        if len(capacities) != grid.columns:
            raise ValueError(f"`capacities` must be {grid.columns} numbers of litres; got {list(capacities)}")
        _water_jugs(page, rows, grid.scale, capacities)
    elif grid.family in _DRAWINGS:
        _DRAWINGS[grid.family](page, rows)
    else:
        raise ValueError(f"`grid` must be of one of {[*_DRAWINGS, 'water_jugs']}; got {grid.family!r}")
    return page.image if rng is None else _spoil(page.image, rng)


def _aspect(grid: Grid) -> float:
    """Height of a picture over its width: more squares make flatter strips, more disks flatter towers."""
    if grid.family == "checker_move":
        return min(1.2, 4.4 / (grid.columns + 0.25))
    if grid.family == "tower_of_hanoi":
        return 0.998 - 0.0625 * grid.rows / 2
    return 1.0


def _spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """What happens to pictures on their way: shrunk and enlarged, noise, JPEG; nothing to half of them."""
    shrunk, noisy, coded = rng.random(3) < (0.15, 0.15, 0.3)
    if shrunk:
        share, size = rng.uniform(0.5, 0.9), image.size
        image = image.resize((round(size[0] * share), round(size[1] * share)), Image.Resampling.BILINEAR)
        image = image.resize(size, Image.Resampling.BILINEAR)
    if noisy:  # the same in the three channels, which is a third of the work
        array = np.asarray(image, np.float32)
        array = array + rng.standard_normal((*array.shape[:2], 1), np.float32) * rng.uniform(1, 6)
        image = Image.fromarray(np.clip(array, 0, 255).astype(np.uint8))
    if coded:
        memory = io.BytesIO()
        image.save(memory, "JPEG", quality=int(rng.integers(35, 95)))
        image = Image.open(memory).convert("RGB")
    return image
