"""A small drawing surface that remembers what stands where.

All coordinates are in *units*: the picture is 512 x 512 units whatever its pixel size, x to the
right and y down.  Drawing happens at twice the pixel size and is reduced at the end, which gives
anti-aliasing at a fraction of the cost of a vector renderer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from PIL import Image, ImageDraw, ImageFont

UNITS = 512
SUPERSAMPLE = 2
Point = tuple[float, float]
Color = tuple[int, int, int]

PALETTE: dict[str, Color] = {
    "red": (224, 102, 102),
    "orange": (246, 178, 107),
    "yellow": (255, 217, 102),
    "green": (147, 196, 125),
    "blue": (111, 168, 220),
    "purple": (142, 124, 195),
}
TINTS: tuple[Color, ...] = (
    (207, 226, 243), (217, 234, 211), (252, 229, 205), (244, 204, 204),
    (217, 210, 233), (255, 242, 204), (238, 238, 238),
)  # fmt: skip
GREY: Color = (238, 238, 238)
BLACK: Color = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing in the picture: where it stands (0..1) and what a viewer can tell of it.

    ``shape``, ``color``, ``number`` and ``size`` are words of the puzzle vocabulary, or "" where
    the attribute does not apply (a plain numeral has no colour).
    """

    x: float
    y: float
    shape: str = ""
    color: str = ""
    number: str = ""
    size: str = ""


@lru_cache(maxsize=1)
def font_names() -> tuple[str, ...]:
    """Return the names of the bundled fonts (digits and the question mark only), sorted."""
    folder = resources.files("svip_search.datasets.puzzles") / "fonts"
    return tuple(sorted(f.name for f in folder.iterdir() if f.name.endswith(".ttf")))


@lru_cache(maxsize=1024)
def _font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    path = resources.files("svip_search.datasets.puzzles") / "fonts" / name
    return ImageFont.truetype(str(path), pixels)


class Canvas:
    """Draws in units onto a white square and records the objects of the scene.

    A canvas carries the *style* of one picture: font, outline width, a small shift and scale of
    the whole drawing and a colour jitter, all drawn from ``rng``.

    Args:
        pixels: side of the finished picture.
        rng: source of the style; ``None`` gives the plain style (no shift, no jitter).
    """

    def __init__(self, pixels: int = 128, rng: np.random.Generator | None = None) -> None:
        side = pixels * SUPERSAMPLE
        self.pixels = pixels
        self.rng = rng
        self.image = Image.new("RGB", (side, side), (255, 255, 255))
        self.objects: list[SceneObject] = []
        self._pen = ImageDraw.Draw(self.image)
        self._pen.fontmode = "L"
        fonts = font_names()
        if rng is None:
            self.font, self.zoom, self.shift, self.outline = "OpenSans-Regular.ttf", 1.0, (0.0, 0.0), 2.0
        else:
            self.font = fonts[int(rng.integers(len(fonts)))]
            self.zoom = float(rng.uniform(0.94, 1.05))
            self.shift = (float(rng.uniform(-12, 12)), float(rng.uniform(-12, 12)))
            self.outline = float(rng.uniform(1.0, 4.5))
        self._k = side / UNITS

    def vary(self, low: float, high: float) -> float:
        """Return a uniform draw of the style, or the middle of the range in the plain style."""
        return (low + high) / 2 if self.rng is None else float(self.rng.uniform(low, high))

    def tint(self) -> Color:
        """Return one pale fill colour for a whole picture, jittered."""
        i = 0 if self.rng is None else int(self.rng.integers(len(TINTS)))
        return self.jitter(TINTS[i])

    def jitter(self, color: Color, amount: int = 8) -> Color:
        """Return ``color`` with each channel moved by up to ``amount``."""
        if self.rng is None:
            return color
        d = self.rng.integers(-amount, amount + 1, 3)
        r, g, b = (min(255, max(0, c + int(j))) for c, j in zip(color, d, strict=True))
        return r, g, b

    # ---- geometry: units -> supersampled pixels -------------------------------------------
    def _at(self, x: float, y: float) -> Point:
        c = UNITS / 2
        return (
            (c + (x - c) * self.zoom + self.shift[0]) * self._k,
            (c + (y - c) * self.zoom + self.shift[1]) * self._k,
        )

    def _width(self, width: float | None) -> int:
        return max(1, round((self.outline if width is None else width) * self._k))

    # ---- primitives ----------------------------------------------------------------------
    def circle(self, x: float, y: float, radius: float, fill: Color | None,
               *, width: float | None = None, dashed: bool = False) -> None:  # fmt: skip
        """Draw a disc of ``radius`` units with a black outline."""
        (cx, cy), r = self._at(x, y), radius * self.zoom * self._k
        box = (cx - r, cy - r, cx + r, cy + r)
        if dashed:
            if fill is not None:
                self._pen.ellipse(box, fill=fill)
            for start in range(0, 360, 20):
                self._pen.arc(box, start, start + 12, fill=BLACK, width=self._width(width))
        else:
            self._pen.ellipse(box, fill=fill, outline=BLACK, width=self._width(width))

    def polygon(self, points: Sequence[Point], fill: Color | None,
                *, width: float | None = None, outline: bool = True) -> None:  # fmt: skip
        """Draw a closed polygon with a black outline."""
        xy = [self._at(x, y) for x, y in points]
        if fill is not None:
            self._pen.polygon(xy, fill=fill)
        if outline:
            self._pen.line([*xy, xy[0], xy[1]], fill=BLACK, width=self._width(width), joint="curve")

    def rounded_box(self, x: float, y: float, w: float, h: float, radius: float,
                    fill: Color | None, *, width: float | None = None) -> None:  # fmt: skip
        """Draw a rounded rectangle centred on (x, y)."""
        (x0, y0), (x1, y1) = self._at(x - w / 2, y - h / 2), self._at(x + w / 2, y + h / 2)
        r = radius * self.zoom * self._k
        self._pen.rounded_rectangle((x0, y0, x1, y1), r, fill, BLACK, self._width(width))

    def line(self, points: Sequence[Point], *, width: float | None = None) -> None:
        """Draw an open black line."""
        self._pen.line([self._at(x, y) for x, y in points], BLACK, self._width(width))

    def text(self, x: float, y: float, text: str, size: float) -> None:
        """Draw black text centred on (x, y); ``size`` is the font size in units."""
        pixels = max(6, round(size * self.zoom * self._k))
        self._pen.text(self._at(x, y), text, BLACK, _font(self.font, pixels), anchor="mm")

    # ---- scene truth ---------------------------------------------------------------------
    def note(self, x: float, y: float, *, shape: str = "", color: str = "",
             number: str = "", size: str = "") -> None:  # fmt: skip
        """Record that an object with these attributes stands at (x, y) units."""
        px, py = self._at(x, y)
        side = self.image.width
        self.objects.append(SceneObject(px / side, py / side, shape, color, number, size))

    def finish(self) -> Image.Image:
        """Return the picture at its final size, with a little sensor noise in a styled one."""
        picture = self.image.reduce(SUPERSAMPLE)
        if self.rng is None or self.rng.random() < 0.5:
            return picture
        array = np.asarray(picture, np.float32)
        noise = self.rng.standard_normal(array.shape, np.float32) * self.rng.uniform(0, 5)
        return Image.fromarray(np.clip(array + noise, 0, 255).astype(np.uint8))


def regular_polygon(x: float, y: float, radius: float, sides: int, turn: float = -90.0) -> list[Point]:
    """Return the corners of a regular polygon; ``turn`` is the angle of the first, in degrees."""
    angles = [math.radians(turn + 360 * i / sides) for i in range(sides)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
