"""Tells a shape from its outline: rays from the middle, and the harmonics of their lengths.

The outline is met at the middle of its stroke, between the pixels.  A regular polygon of n corners shows as the
n-th harmonic of the distance by angle (and multiples of n), whatever its turn; a circle as none.  The nearest
regular shape wins; an outline about equally far from two is none of them (``morph``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ...datasets.puzzles._family import SIDES
from ._glyphs import EDGE, Array
from ._segment import Segments

RAYS = 96
HARMONICS = 20
#: Distance to the nearest regular shape over that to the second one, from which an outline is neither.
BETWEEN = 0.82
_NOISE = 0.012  # how far a regular outline may be from its ideal (root of mean square over mean radius)
_BOX = 0.905  # share of its upright or turned box that a square fills, rounded corners counted
_LONG = 0.15  # how much longer than wide a square may be, and a pixel more
_BAR, _BAR_FILL = 0.25, 0.89  # the same for rectangles, at least
_TRIANGLE = 0.86  # share of its narrowest triangle that a triangle with worn tips fills
_WHOLE = 0.9  # share of the rays that meet ink from which an outline is whole
_COARSE = 5  # circle to hexagon: what an outline may be between; there is no telling with more corners
_FINE = 11.0  # mean radius in pixels below which more than six corners cannot be seen
_TINY = 4.1  # and the same for six
_BLUR = 0.22  # the same in pixels
_BLURRED = 7.6  # mean radius in pixels below which an outline is taken for the nearest regular shape
_ANGLES = np.arange(RAYS) * (2 * math.pi / RAYS)
_COS, _SIN = np.cos(_ANGLES).astype(np.float32), np.sin(_ANGLES).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Outline:
    """The outline of a piece.

    ``points`` [n, 2] lie on the middle of the stroke, ``beyond`` are the labels of what each ray meets behind it
    (0 for nothing), ``seen`` is the share of the rays that met ink.
    """

    x: float
    y: float
    points: Array
    seen: float
    beyond: Array
    shape: str
    radius: float


def trace(segments: Segments, hull: Array, touched: bool = False) -> Outline:
    """Return the outline around a convex hull: what lies on top of a piece then does not matter.

    Args:
        segments: the picture.
        hull: int32 [n, 1, 2], pixels just inside of the outline, as `cv2.convexHull` gives them.
        touched: writing touches the outline, so that a circle may look dented.
    """
    x, y = _middle(hull)
    lengths = _hull_lengths(hull, x, y)
    height, width = segments.shape
    step = max(0.5, max(height, width) / 512)
    offsets = np.arange(-1, 16, dtype=np.float32) * step
    reach = lengths[:, None] + offsets[None, :]
    dark = _sampled(segments.darkness, x + reach * _COS[:, None], y + reach * _SIN[:, None])
    start, weights = _first_run(dark)
    run = (weights > 0).sum(axis=1)
    met = (run > 0) & (run <= 2.0 * np.median(run) + 2)  # a longer one follows a line that leads away
    radii = (reach * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-6)
    points = np.stack([x + radii * _COS, y + radii * _SIN], axis=1)
    met &= ((points > 0) & (points < [width - 1, height - 1])).all(axis=1)
    beyond = _labels_beyond(segments, x, y, reach, start, weights)
    seen = float(met.mean())
    if seen < 0.5:
        return Outline(x, y, points[met], seen, beyond, "", 0.0)
    radii = np.interp(_ANGLES, _ANGLES[met], radii[met], period=2 * math.pi)
    shape, radius = classify(points[met].astype(np.float32), radii, seen, hull)
    if shape == "circle" or (touched and shape in ("", "morph") and _is_about_round(points[met])):
        shape = "circle"
        x, y, radius = fit_circle(points[met])
    return Outline(x, y, points[met], seen, beyond, shape, radius)


def _middle(hull: Array) -> tuple[float, float]:
    moments = cv2.moments(hull)
    if not moments["m00"]:
        x, y = hull.reshape(-1, 2).mean(axis=0)
        return float(x), float(y)
    return moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]


def _hull_lengths(hull: Array, x: float, y: float) -> Array:
    """Return how far the hull reaches from (x, y) along each ray."""
    corners = hull.reshape(-1, 2).astype(np.float32) - np.array([x, y], np.float32)
    ends = np.roll(corners, -1, axis=0)
    normal = np.stack([ends[:, 1] - corners[:, 1], corners[:, 0] - ends[:, 0]], axis=1)
    distance = (normal * corners).sum(axis=1)
    along = normal[:, :1] * _COS + normal[:, 1:] * _SIN
    sign = np.sign(distance)[:, None]
    lengths = np.where(along * sign > 1e-6, np.abs(distance)[:, None] / np.maximum(along * sign, 1e-6), np.inf)
    found: Array = lengths.min(axis=0).astype(np.float32)
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def _sampled(values: Array, x: Array, y: Array) -> Array:
    found: Array = cv2.remap(
        values, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return found


def _first_run(dark: Array) -> tuple[Array, Array]:
    """Return where the first stroke along each ray starts, and its darkness, 0 elsewhere."""
    ink = dark > EDGE  # a small pale fill is itself a little darker than the paper around
    start = np.where(ink.any(axis=1), ink.argmax(axis=1), dark.shape[1])
    columns = np.arange(dark.shape[1])
    after = columns >= start[:, None]
    ended = np.cumsum(after & ~ink, axis=1) > 0
    return start, np.where(after & ~ended, dark, 0).astype(np.float32)


def _labels_beyond(segments: Segments, x: float, y: float, reach: Array, start: Array, weights: Array) -> Array:
    height, width = segments.shape
    end = np.minimum(start + (weights > 0).sum(axis=1), reach.shape[1] - 1)
    found = np.zeros(RAYS, np.int32)
    for step in range(4):  # the first pixel that is not ink
        column = np.minimum(end + step, reach.shape[1] - 1)
        length = reach[np.arange(RAYS), column]
        px = np.clip(np.rint(x + length * _COS), 0, width - 1).astype(int)
        py = np.clip(np.rint(y + length * _SIN), 0, height - 1).astype(int)
        found = np.where(found == 0, segments.labels[py, px], found)
    return found


def classify(points: Array, radii: Array, seen: float, hull: Array) -> tuple[str, float]:
    """Return the name of an outline ("morph" for no regular one, "" for a gap in it) and its radius.

    The radius is that of the circle through the corners; for a rectangle half its long side.
    """
    (_, (w, h), _), area = cv2.minAreaRect(hull), cv2.contourArea(hull)
    long, short = max(w, h), min(w, h)
    if long - short > 1 + _BAR * short and area > _BAR_FILL * long * short:
        return "rectangle", long / 2 + 1
    around = points if seen >= _WHOLE else hull.reshape(-1, 2).astype(np.float32)
    (_, (w, h), _) = cv2.minAreaRect(around)
    if cv2.contourArea(cv2.convexHull(around)) > _BOX * w * h and abs(w - h) < 1 + _LONG * min(w, h):
        return "square", math.sqrt((long + 2) * (short + 2) / 2)
    if seen >= _WHOLE:
        found = _nearest(radii)
        triangle, _ = cv2.minEnclosingTriangle(hull) if found[0] == "morph" else (0.0, None)
        return ("triangle", float(radii.max())) if area > _TRIANGLE * triangle > 0 else found
    x, y, radius = fit_circle(points)
    off = np.hypot(points[:, 0] - x, points[:, 1] - y) / radius - 1
    return ("circle", radius) if float(np.sqrt((off**2).mean())) < max(3 * _NOISE, 0.35 / radius) else ("", 0.0)


def _nearest(radii: Array) -> tuple[str, float]:
    mean = float(radii.mean())
    harmonics = np.fft.rfft(radii / mean)[1 : HARMONICS + 1] / RAYS * math.sqrt(2)
    names, ideal, corner = _regular()
    turned = _turned(harmonics, ideal)
    if mean < _FINE:  # at this size many corners look like none
        few = _COARSE - (mean < _TINY)
        names, ideal, turned = names[:few], ideal[:few], turned[:few]
    distances = np.sqrt((np.abs(harmonics[None, 1:] - turned[:, 1:]) ** 2).sum(axis=1))  # the first is a shift
    order = np.argsort(distances)
    first, second = np.sort(distances[:_COARSE])[:2].tolist()
    if order[0] < _COARSE and first > max(_NOISE, _BLUR / mean) and mean > _BLURRED and first > BETWEEN * second:
        return "morph", mean
    i = int(order[0])
    return names[i], mean * corner[i]


def _turned(harmonics: Array, ideal: Array) -> Array:
    """Turn each ideal shape so that its first harmonic has the phase of what is seen."""
    sides = np.array(list(SIDES.values()))
    angles = (np.angle(harmonics[sides - 1]) - np.angle(ideal[np.arange(len(sides)) + 1, sides - 1])) / sides
    turned = ideal.copy()
    turned[1:] *= np.exp(1j * angles[:, None] * np.arange(1, HARMONICS + 1))
    return turned


@lru_cache(maxsize=1)
def _regular() -> tuple[tuple[str, ...], Array, tuple[float, ...]]:
    """Return names, harmonics (over the mean radius) and corner radius over mean radius of the regular shapes."""
    names, rows, corners = ["circle"], [np.zeros(HARMONICS, complex)], [1.0]
    for name, n in SIDES.items():
        fine = np.arange(256 * n) * (2 * math.pi / (256 * n))
        radii = math.cos(math.pi / n) / np.cos(np.mod(fine, 2 * math.pi / n) - math.pi / n)
        mean = float(radii.mean())
        names.append(name)
        rows.append(np.fft.rfft(radii / mean)[1 : HARMONICS + 1] / len(fine) * math.sqrt(2))
        corners.append(1 / mean)
    return tuple(names), np.stack(rows), tuple(corners)


def _is_about_round(points: Array) -> bool:
    """Return whether most points lie on a circle."""
    x, y, radius = fit_circle(points)
    off = np.abs(np.hypot(points[:, 0] - x, points[:, 1] - y) / radius - 1)
    return float(np.median(off)) < max(2 * _NOISE, 0.25 / radius)


def fit_circle(points: Array) -> tuple[float, float, float]:
    """Return centre and radius of the circle nearest to points (least squares of Kasa)."""
    middle = points.mean(axis=0)
    p = (points - middle).astype(np.float64)
    design = np.column_stack([2 * p, np.ones(len(p))])
    (a, b, c), *_ = np.linalg.lstsq(design, (p**2).sum(axis=1), rcond=None)
    return float(a + middle[0]), float(b + middle[1]), math.sqrt(max(c + a * a + b * b, 1e-9))
