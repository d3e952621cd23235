"""Sees drawn figures from pixels alone: segmentation, outlines, colours and glyphs, no learning.

One algorithm for every picture:

1. Ink (outlines, writing) separates pieces of even fill; what has the colour of the paper is no piece.
2. The outline of each piece tells its shape.  A triangle that shares its border with other pieces is a ``part``
   of a whole; a piece that parts lie on is judged by what they and it make up together.
3. Writing is the ink inside of a piece, or on the paper by itself.  A piece of no regular shape that carries
   writing (a field of a Venn diagram) is not a thing: its writing is.
4. Sizes compare things with each other: small, medium, large where there are two or three distinct sizes.
5. A fill is a colour if it is one of six hues; a pale fill that all things share tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from ..._images import open_image
from ...datasets.puzzles._family import MISSING, SIZES
from .._types import Region
from ._colors import name_color, tells
from ._figures import CONVEX, Figure, border, figures_of
from ._glyphs import Array, Reading, read
from ._outline import Outline
from ._segment import Piece, Segments, segment
from ._things import Thing, ThingScene, box
from ._writing import Writing, best_near, free_writing, inner_ink

#: Larger pictures are reduced to this side: time is bounded, and figures of any use stay visible.
MAX_SIDE = 768
MIN_SIDE = 16
_GAPS = (0.035, 0.1, 0.25)  # least step between two sizes: among circles, among equal shapes, among different ones
_BLUR = 0.4  # least step between two sizes, in pixels
_FITS = (0.4, 0.75)  # least fit of a reading: inside of a piece, on the paper


class ClassicalVision:
    """Scenes of pictures of shapes, colours and digits, by classical means.

    Needs ``opencv-python-headless`` (extra ``programs``).  What it does not understand gives an empty scene: a
    blank picture, a photograph, noise.  It is exact and deterministic; it does not know what a puzzle is.

    Notes:
        About 6 ms for a picture of 128 x 128 pixels, 30 ms for 512 x 512, on one core; the glyphs of the bundled
        fonts are drawn once a process, 50 ms for each of a few heights.  Not seen are things smaller than a few
        pixels, fills within 5 levels of the paper, shapes without an outline, and dark grey fills whose outline
        is thinner than a pixel.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> scene = ClassicalVision().look(generate_puzzle(1, 0, families=["venn"]).image)
        >>> len(scene.call("find", Region(), ["number"]))
        5
    """

    def look(self, picture: Any) -> ThingScene:
        """Return the scene of a picture.

        Args:
            picture: whatever `open_image` takes: a path, bytes, a PIL image or a uint8 array.

        Raises:
            ImageError: it cannot be read.
        """
        rgb = _bounded(np.asarray(open_image(picture)))
        if min(rgb.shape[:2]) < MIN_SIDE:
            return ThingScene([])
        segments = segment(rgb)
        figures = figures_of(segments)
        free = free_writing(segments)
        _read_all(segments, figures, free)
        return ThingScene(_things(segments, figures, free))


def _bounded(rgb: Array) -> Array:
    height, width = rgb.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(rgb)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _read_all(segments: Segments, figures: list[Figure], free: list[Writing]) -> None:
    """Read everything at once: most of the time goes into one product of matrices."""
    plain = [f for f in figures if not f.piece.inside]
    inner = [inner_ink(segments, border(f), f.parts) for f in plain]
    targets: list[Figure | Writing] = [*plain, *free]
    for target, reading in zip(targets, read([*inner, *(w.darkness for w in free)]), strict=True):
        if reading and reading.fit >= _FITS[isinstance(target, Writing)]:
            target.reading = reading


# ---- things ---------------------------------------------------------------------------------------------------
def _things(segments: Segments, figures: list[Figure], free: list[Writing]) -> list[Thing]:
    kept = [f for f in figures if f.reading or f.shape not in ("", "morph") or f.piece.convexity > CONVEX]
    sizes = _sizes(kept)
    colored = tells([f.piece for f in kept])
    found = []
    for figure, size in zip(kept, sizes, strict=True):
        irregular = figure.shape in ("", "morph")
        number = _number(figure.reading)
        thing = Thing(_region(segments, figure), figure.shape, number=number, size=size)
        if irregular and figure.reading:
            thing = replace(thing, shape="")
        elif irregular:
            thing = replace(thing, shape="morph")
        if colored and not (irregular and figure.reading):
            thing = _with_color(thing, figure.piece.color)
        found.append(thing)
    height, width = segments.shape
    for w in best_near(free):
        middle = ((w.left + w.right) / 2 / width, (w.top + w.bottom) / 2 / height)
        region = box(*middle, (w.right - w.left) / width, (w.bottom - w.top) / height)
        found.append(Thing(region, number=_number(w.reading)))
    return found


def _number(reading: Reading | None) -> int | str:
    if reading is None:
        return ""
    return MISSING if reading.text == MISSING else int(reading.text)


def _region(segments: Segments, figure: Figure) -> Region:
    """Return the patch of a figure, around the middle of what is visible of it.

    For a ring that is its piece to the right of what lies inside; for a piece that is not convex the largest
    circle within it; for others the smallest box around the centre of the outline that holds them.
    """
    height, width = segments.shape
    outline, piece = figure.outline, figure.piece
    points = outline.points if len(outline.points) else piece.contour.reshape(-1, 2).astype(np.float32)
    if piece.inside:
        inner = max(float(p.contour[:, 0, 0].max()) for p in piece.inside)
        outer = float(points[:, 0].max())
        return box((inner + outer) / 2 / width, outline.y / height, (outer - inner) / width, (outer - inner) / height)
    if piece.convexity < CONVEX:
        x, y, reach = _pole(piece, outline)
        return box(x / width, y / height, 2 * reach / width, 2 * reach / height)
    dx, dy = np.abs(points - [outline.x, outline.y]).max(axis=0)
    return box((outline.x + 0.5) / width, (outline.y + 0.5) / height, 2 * float(dx) / width, 2 * float(dy) / height)


def _pole(piece: Piece, outline: Outline) -> tuple[float, float, float]:
    """Return the deepest point of a piece on the line from the middle of its hull through its centroid, and its depth.

    What is cut out of a figure pushes its centroid away from its middle: on that line it is symmetric.
    """
    x, y, w, h = cv2.boundingRect(piece.contour)
    mask = np.zeros((h + 2, w + 2), np.uint8)
    cv2.fillPoly(mask, [piece.contour], 1, offset=(1 - x, 1 - y))
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    moments = cv2.moments(piece.contour)
    start = np.array([outline.x, outline.y])
    way = np.array([moments["m10"], moments["m01"]]) / moments["m00"] - start
    length = max(float(np.linalg.norm(way)), 1e-6)
    steps = np.arange(0, max(w, h) if length > 0.03 * max(w, h) else 1)[:, None]
    line = start + way / length * steps - [x - 1, y - 1]
    inside = np.clip(np.rint(line).astype(int), 0, [w + 1, h + 1])
    depths = depth[inside[:, 1], inside[:, 0]]
    best = int(depths.argmax())
    return float(line[best, 0] + x - 1), float(line[best, 1] + y - 1), float(depths[best])


def _sizes(figures: Sequence[Figure]) -> list[str]:
    """Return small, medium or large for each figure of regular shape, "" where sizes do not tell figures apart."""
    if any(f.shape == "morph" and not f.reading for f in figures):  # where shapes flow, corners move
        return [""] * len(figures)
    measured = [i for i, f in enumerate(figures) if f.radius and f.shape not in ("", "morph", "part")]
    order = sorted(measured, key=lambda i: figures[i].radius)
    shapes = {figures[i].shape for i in order}
    gap = _GAPS[2 if len(shapes) > 1 else shapes != {"circle"}]
    radii = [figures[i].radius for i in order]
    steps = [b - a > max(gap * a, _BLUR) for a, b in pairwise(radii)]
    found = [""] * len(figures)
    names = {1: ("small", "large"), 2: SIZES}.get(sum(steps))
    if names:
        for i, rank in zip(order, np.cumsum([0, *steps]).tolist(), strict=True):
            found[i] = names[rank]
    return found


def _with_color(thing: Thing, rgb: Array) -> Thing:
    color, shade = name_color(rgb)
    if thing.number == MISSING and shade == "lightest":  # grey with a cast: the unknown part of a picture
        return thing
    return replace(thing, color=color, shade=shade)
