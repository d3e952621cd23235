"""Figures: pieces put together as a viewer would, with the shape that the whole has."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from ...datasets.puzzles._family import SIDES
from ._glyphs import Array, Reading
from ._outline import Outline, trace
from ._segment import Piece, Segments, joined, same_fill
from ._writing import inner_ink

#: Shapes that an outline alone can tell.
PLAIN = (*SIDES, "rectangle", "circle")
#: Area of a piece over that of its hull from which it counts as convex.
CONVEX = 0.9
_PART_BORDER = 0.35  # share of the rays of a part that meet another piece
_PART_FILL = 0.8  # share of its narrowest triangle that a part fills
_GAP = 0.05  # size of what is left between pieces, over the largest of them
_FOREIGN = 0.04  # share of the hull of a piece that another one may take and not count


@dataclass(eq=False)
class Figure:
    """A piece with what is known of it on the way to a thing."""

    piece: Piece
    outline: Outline
    shape: str
    reading: Reading | None = None
    radius: float = 0.0
    #: Parts that lie on it or beside it.
    parts: list[Piece] = field(default_factory=list)


def figures_of(segments: Segments) -> list[Figure]:
    found = [_figure(segments, piece) for piece in segments.pieces]
    by_label = {figure.piece.label: figure for figure in found}
    found = _rejoined(segments, [figure for figure in found if not _is_gap(figure, by_label)])
    by_label = {figure.piece.label: figure for figure in found}
    for figure in found:
        if _is_part(figure, by_label):
            figure.shape, figure.radius = "part", 0.0
    for figure in found:
        around = [*_neighbors(figure, by_label), *_within(segments, figure, by_label)]
        figure.parts = list({f.piece.label: f.piece for f in around if f.shape == "part"}.values())
        if figure.shape in ("", "morph"):
            _complete(segments, figure)
        if any(f.piece not in (*figure.parts, *figure.piece.inside) for f in _within(segments, figure, by_label)):
            figure.shape, figure.radius = "", 0.0  # what bites into it does not lie on it
    return found


def _figure(segments: Segments, piece: Piece, touched: bool = False) -> Figure:
    outline = trace(segments, piece.hull, touched=touched or piece.convexity < CONVEX)
    return Figure(piece, outline, outline.shape, radius=outline.radius)


def _within(segments: Segments, figure: Figure, by_label: dict[int, Figure]) -> list[Figure]:
    """Return the figures that take a share of the hull of a piece that is not convex."""
    if figure.piece.convexity >= CONVEX:
        return []
    counts = np.bincount(_hull_labels(segments, figure.piece))
    least = _FOREIGN * cv2.contourArea(figure.piece.hull)
    return [by_label[i] for i in np.flatnonzero(counts > least).tolist() if i in by_label and i != figure.piece.label]


def _hull_labels(segments: Segments, piece: Piece) -> Array:
    x, y, w, h = cv2.boundingRect(piece.hull)
    mask = np.zeros((h, w), np.uint8)
    cv2.fillPoly(mask, [piece.hull], 1, offset=(-x, -y))
    return segments.labels[y : y + h, x : x + w][mask > 0]


def _rejoined(segments: Segments, figures: list[Figure]) -> list[Figure]:
    """Put back what writing has cut off: smaller pieces of the same fill, with no writing of theirs."""
    by_label = {figure.piece.label: figure for figure in figures}
    for figure in figures:  # largest first
        if figure.piece.label not in by_label:
            continue
        cut = [f for f in _neighbors(figure, by_label) if _may_be_cut_off(segments, figure, f)]
        if not cut:
            continue
        whole = _figure(segments, joined([figure.piece, *(f.piece for f in cut)]), touched=True)
        if whole.shape in PLAIN and _paper_share(segments, whole.piece) < _FOREIGN:
            by_label = {label: f for label, f in by_label.items() if f not in cut}
            by_label[figure.piece.label] = whole
    return list(by_label.values())


def _may_be_cut_off(segments: Segments, figure: Figure, other: Figure) -> bool:
    smaller = other.piece.filled < 0.5 * figure.piece.filled
    irregular = figure.shape not in PLAIN or other.shape not in PLAIN
    return (
        other.piece.filled <= figure.piece.filled
        and (smaller or irregular)
        and same_fill(figure.piece.color, other.piece.color)
        and not _holds_ink(segments, other.piece)
    )


def _paper_share(segments: Segments, piece: Piece) -> float:
    """Return the share of the hull of a piece that is neither ink nor of its fill."""
    labels = _hull_labels(segments, piece)
    return float((labels == segments.paper_label).mean()) if len(labels) else 0.0


def _holds_ink(segments: Segments, piece: Piece) -> bool:
    """Return whether something is written within the border of a piece."""
    return bool(inner_ink(segments, piece.contour, []).max(initial=0) > 0.3)


def _neighbors(figure: Figure, by_label: dict[int, Figure]) -> list[Figure]:
    labels = set(figure.outline.beyond.tolist()) - {figure.piece.label}
    return [by_label[label] for label in sorted(labels) if label in by_label]


def _is_gap(figure: Figure, by_label: dict[int, Figure]) -> bool:
    """Return whether a piece is what is left of the paper between much larger ones."""
    around = _neighbors(figure, by_label)
    largest = max((f.piece.filled for f in around), default=0.0)
    meets = np.isin(figure.outline.beyond, [f.piece.label for f in around])
    return len(around) > 1 and figure.piece.filled < _GAP * largest and float(meets.mean()) > 0.5


def _is_part(figure: Figure, by_label: dict[int, Figure]) -> bool:
    touching = np.isin(figure.outline.beyond, [label for label in by_label if label != figure.piece.label])
    if touching.mean() < _PART_BORDER or figure.piece.convexity < CONVEX:
        return False
    if figure.shape == "triangle":
        return True
    area, _ = cv2.minEnclosingTriangle(figure.piece.hull)
    return figure.shape not in ("square", "rectangle", "circle") and bool(
        area and cv2.contourArea(figure.piece.hull) > _PART_FILL * area
    )


def _complete(segments: Segments, figure: Figure) -> None:
    """Judge a piece that parts lie on by the hull of them all."""
    if not figure.parts:
        return
    whole = trace(segments, cv2.convexHull(np.concatenate([p.contour for p in (figure.piece, *figure.parts)])))
    if whole.shape not in ("", "morph"):
        figure.shape, figure.radius = whole.shape, whole.radius


def border(figure: Figure) -> Array:
    """Return the border within which something may be written on a figure."""
    whole = figure.piece.convexity > CONVEX or figure.parts or figure.shape in PLAIN
    return figure.piece.hull if whole else figure.piece.contour
