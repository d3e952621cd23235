"""Cuts a picture into pieces of even fill that ink separates, and the ink that stands alone on the paper.

Ink is what a morphological closing would fill: strokes that are darker than what lies on both sides of them.
That finds outlines and writing on pale and on dark fills alike, with no threshold of absolute brightness.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from ._glyphs import EDGE, Array

#: Side of the picture in pixels over the width of the broadest stroke that is still ink.
STROKE = 20
MAX_PIECES = 200
_PAPER = 5.0  # how far a fill may be from the paper, in levels of any channel, and still be paper
_BRIGHT, _VIVID = 150, 35  # brightness and range of the channels of what may be a fill, not a shade of grey
_STEP = 14  # difference of neighbours from which they are not of one fill
_SHADED = 0.08  # darkness from which a pixel does not show the fill alone
_CAST = 0.06  # how far the channels of a shaded fill may be from being equally darker
_HOLE = 0.1  # the hole of a glyph has at most this share of the piece around it


@dataclass(eq=False)
class Piece:
    """A connected area of one fill: its colour, its border and what surrounds it."""

    label: int
    color: Array
    area: float
    contour: Array
    hull: Array
    #: Area within the border, holes counted.
    filled: float
    convexity: float
    #: Pieces of other fills that lie within this one.
    inside: list[Piece] = field(default_factory=list)


@dataclass
class Segments:
    """What a picture consists of."""

    darkness: Array
    ink: Array
    labels: Array
    paper_label: int
    pieces: list[Piece]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.darkness.shape[0], self.darkness.shape[1]


def segment(rgb: Array) -> Segments:
    """Return the pieces of a picture, largest first.

    Args:
        rgb: uint8 [height, width, 3].
    """
    darkness, ink = find_ink(rgb)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - ink, connectivity=4, ltype=cv2.CV_32S)
    colors = _mean_colors(rgb, darkness, labels, count)
    paper_label = _paper_label(labels, stats)
    paper = colors[paper_label]
    floor = max(2.0, 5e-5 * labels.size)
    order = [
        i
        for i in np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable")
        if i and stats[i, cv2.CC_STAT_AREA] >= floor and np.abs(colors[i] - paper).max() > _PAPER
    ]
    if len(order) > MAX_PIECES:  # a photograph, or noise: nothing that is drawn with outlines
        order = []
    pieces = [_piece(labels, stats[i], int(i), colors[i]) for i in order]
    return Segments(darkness, ink, labels, paper_label, _nested([p for p in pieces if p.filled > 0]))


def find_ink(rgb: Array) -> tuple[Array, Array]:
    """Return how dark each pixel is beside its surroundings (0..1), and where that makes it ink (0 or 1)."""
    bright = cv2.max(cv2.max(rgb[:, :, 0], rgb[:, :, 1]), rgb[:, :, 2])
    side = max(5, round(max(bright.shape) / STROKE)) | 1
    around = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    darkness = 1 - cv2.divide(bright, around, dtype=cv2.CV_32F)
    darkness[around == 0] = 0
    ink = darkness > EDGE
    chroma = bright - cv2.min(cv2.min(rgb[:, :, 0], rgb[:, :, 1]), rgb[:, :, 2])
    vivid = (bright > _BRIGHT) & (chroma > _VIVID)
    if (ink & vivid).any():
        ink = _without_tips(rgb, ink, vivid, side // 2)
        darkness = np.where(ink, darkness, np.minimum(darkness, EDGE))
    return darkness, ink.astype(np.uint8)


def _without_tips(rgb: Array, ink: Array, vivid: Array, steps: int) -> Array:
    """Return ink without the narrow tips of fills: vivid pixels of the colour of the fill that they touch."""
    alike_down = (cv2.absdiff(rgb[1:], rgb[:-1]).max(axis=2) < _STEP) & vivid[1:] & vivid[:-1]
    alike_right = (cv2.absdiff(rgb[:, 1:], rgb[:, :-1]).max(axis=2) < _STEP) & vivid[:, 1:] & vivid[:, :-1]
    clear = ~ink
    for _ in range(steps):
        grown = clear.copy()
        grown[1:] |= clear[:-1] & alike_down
        grown[:-1] |= clear[1:] & alike_down
        grown[:, 1:] |= clear[:, :-1] & alike_right
        grown[:, :-1] |= clear[:, 1:] & alike_right
        if (grown == clear).all():
            break
        clear = grown
    return ~clear


def _mean_colors(rgb: Array, darkness: Array, labels: Array, count: int) -> Array:
    """Return the mean colour of each label, of its pixels that no ink shades as far as there are any."""
    flat = labels.ravel()
    clear = (darkness.ravel() < _SHADED) + 1e-3
    sizes = np.maximum(np.bincount(flat, clear, minlength=count), 1e-6)
    sums = [np.bincount(flat, clear * rgb[:, :, c].ravel(), minlength=count) for c in range(3)]
    return (np.stack(sums, axis=1) / sizes[:, None]).astype(np.float32)


def _paper_label(labels: Array, stats: Array) -> int:
    """Return the label that holds most of the picture's border."""
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    counts = np.bincount(border, minlength=len(stats))
    counts[0] = 0
    return int(counts.argmax())


def _piece(labels: Array, stats: Array, label: int, color: Array) -> Piece:
    x, y, w, h, area = (int(v) for v in stats)
    mask = np.zeros((h + 2, w + 2), np.uint8)
    mask[1:-1, 1:-1] = labels[y : y + h, x : x + w] == label
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(x - 1, y - 1))
    contour = max(contours, key=len)
    hull = cv2.convexHull(contour)
    filled, whole = cv2.contourArea(contour), cv2.contourArea(hull)
    return Piece(label, color, area, contour, hull, filled, filled / whole if whole else 0.0)


def joined(pieces: list[Piece]) -> Piece:
    """Return the piece that several make up together, under the label of the first."""
    hull = cv2.convexHull(np.concatenate([p.contour for p in pieces]))
    area = float(sum(p.area for p in pieces))
    return replace(pieces[0], contour=hull, hull=hull, area=area, filled=cv2.contourArea(hull), convexity=1.0)


def _nested(pieces: list[Piece]) -> list[Piece]:
    """Drop the holes of glyphs, which look like pieces, and note which pieces lie within which."""
    kept: list[Piece] = []
    for piece in pieces:
        middle = piece.contour.reshape(-1, 2).mean(axis=0)
        point = (float(middle[0]), float(middle[1]))
        around = [p for p in kept if cv2.pointPolygonTest(p.hull, point, False) > 0]
        if any(piece.area < _HOLE * p.filled and same_fill(p.color, piece.color) for p in around):
            continue
        for outer in around:
            if cv2.pointPolygonTest(outer.contour, point, False) > 0:
                outer.inside.append(piece)
        kept.append(piece)
    return kept


def same_fill(fill: Array, other: Array) -> bool:
    """Return whether one colour is the other one, or that in the shade of ink nearby."""
    ratio = (other + 1) / (fill + 1)
    return bool(np.ptp(ratio) < _CAST and 0.8 < ratio.mean() < 1.05)
