"""One puzzle by (seed, index): the entry to all families."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..._types import Question
from .._sequence import check_place, family_names
from ._canvas import Canvas, SceneObject
from ._family import COLORS, Family
from .circle_size_number import CircleSizeNumber
from .color_grid import ColorGrid
from .color_hexagon import ColorHexagon
from .color_number_hexagon import ColorNumberHexagon
from .color_overlap_squares import ColorOverlapSquares
from .color_size_circle import ColorSizeCircle
from .grid_number import GridNumber
from .grid_number_color import GridNumberColor
from .polygon_sides_color import PolygonSidesColor
from .polygon_sides_number import PolygonSidesNumber
from .rectangle_height_color import RectangleHeightColor
from .rectangle_height_number import RectangleHeightNumber
from .shape_morph import ShapeMorph
from .shape_reflect import ShapeReflect
from .shape_size_grid import ShapeSizeGrid
from .shape_size_hexagon import ShapeSizeHexagon
from .size_cycle import SizeCycle
from .size_grid import SizeGrid
from .triangle import Triangle
from .venn import Venn

if TYPE_CHECKING:
    from collections.abc import Sequence

FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        CircleSizeNumber(), ColorGrid(), ColorHexagon(), ColorNumberHexagon(), ColorOverlapSquares(),
        ColorSizeCircle(), GridNumber(), GridNumberColor(), PolygonSidesColor(), PolygonSidesNumber(),
        RectangleHeightColor(), RectangleHeightNumber(), ShapeMorph(), ShapeReflect(), ShapeSizeGrid(),
        ShapeSizeHexagon(), SizeCycle(), SizeGrid(), Triangle(), Venn(),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Puzzle:
    """A generated puzzle with everything that is true of it.

    ``facts`` are what a perfect eye reads off the picture, in the order of the perception steps;
    ``steps`` the right chain of thought; ``objects`` what stands where.
    """

    family: str
    seed: int
    index: int
    question: Question
    facts: tuple[str, ...]
    steps: tuple[str, ...]
    objects: tuple[SceneObject, ...]

    @property
    def image(self) -> Image.Image:
        """The picture."""
        picture: Image.Image = self.question.images[0]
        return picture

    @property
    def answer(self) -> str:
        """The true answer."""
        assert self.question.answer is not None
        return self.question.answer


def generate_puzzle(
    seed: int, index: int, *, pixels: int = 128, families: Sequence[str] | None = None, plain: bool = False
) -> Puzzle:
    """Return puzzle number ``index`` of the endless sequence ``seed``.

    Args:
        seed: which sequence, >= 0; training, validation and tests use different ones.
        index: position in it, >= 0; the same (seed, index, families) gives the same puzzle.
        pixels: side of the picture.
        families: names to draw from, uniformly; all twenty by default.
        plain: draw in the plain style, without shift, jitter or noise.

    Raises:
        ValueError: a family does not exist, or ``seed`` or ``index`` is negative.

    Notes:
        One to two milliseconds at 128 pixels on one core.

    Example:
        >>> puzzle = generate_puzzle(seed=1, index=0, families=["venn"])
        >>> puzzle.steps[-1] == f"answer : {puzzle.answer}"
        True
    """
    names = family_names(families, FAMILIES)
    check_place(seed, index)
    rng = np.random.default_rng([seed, index])
    family = FAMILIES[names[int(rng.integers(len(names)))]]
    instance = family.sample(rng)
    canvas = Canvas(pixels, None if plain else rng)
    family.draw(canvas, instance.facts)
    question = Question(
        instance.question,
        images=[canvas.finish()],
        options=instance.options,
        answer=instance.answer,
        id=f"{family.name}/{seed}-{index}",
    )
    steps = family.steps(instance.facts, instance.question)
    return Puzzle(family.name, seed, index, question, instance.facts, tuple(steps), tuple(canvas.objects))


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Return every word of the domain: numbers 0..100, colours, and what the families write.

    The words are collected from the families themselves, so a new family brings its own along.
    """
    found: set[str] = set()
    for family in FAMILIES.values():
        rng = np.random.default_rng(0)
        for _ in range(200):
            instance = family.sample(rng)
            texts = (instance.question, *instance.options, *family.steps(instance.facts, instance.question))
            for text in texts:
                found.update(re.findall(r"[^\W\d_]+|[^\w\s]", text.lower()))
    numbers = [str(n) for n in range(101)]
    return (*numbers, *COLORS, *sorted(found - set(COLORS) | {"options", ":", ","}))
