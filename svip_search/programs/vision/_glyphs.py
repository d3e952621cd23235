"""Reads digits and question marks by comparing them with the bundled fonts.

A label is cut out tightly, stretched onto one small grid and compared with every glyph of every font, drawn at
about the same height, at several positions between the pixels.  Wide labels are cut into characters where that
reads best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...datasets.puzzles._canvas import _font, font_names

#: An array whose type and shape the docstrings say.
Array = NDArray[Any]

GLYPHS = "0123456789?"
#: Darkness from which a pixel belongs to a glyph; the same for what is read and what it is compared with.
EDGE = 0.14
MAX_CHARACTERS = 4
_GRID = (12, 16)  # width, height
_HEIGHTS = (4, 24)  # glyph heights in pixels between which there are templates; others are scaled
_STEP = 1.12
_ASPECT_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """What is written, and how well it fits (a correlation, at most 1)."""

    text: str
    fit: float


def read(labels: Sequence[Array]) -> list[Reading | None]:
    """Return what each label most likely says, None for what has not the size or the shape of a number.

    Args:
        labels: [height, width] each, 0 where there is paper, 1 where there is ink; nothing but the label.
    """
    cuts = [_cuts(label) for label in labels]
    fits = iter(_recognise([glyph for ways in cuts for way in ways for glyph in way]))
    readings = [[_joined([next(fits) for _ in way]) for way in ways] for ways in cuts]
    return [max(found, key=lambda r: r.fit, default=None) for found in readings]


def _joined(characters: list[Reading]) -> Reading:
    text = "".join(c.text for c in characters)
    if len(text) > 1 and "?" in text:
        return Reading("", 0.0)
    return Reading(text, sum(c.fit for c in characters) / len(characters))


def tight(darkness: Array) -> Array | None:
    """Return the part of a label that holds ink, or None where there is none."""
    ink = darkness > EDGE
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return None
    found: Array = darkness[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return found


def _cuts(label: Array) -> list[list[Array]]:
    """Return the ways to cut a label into characters: each a list of tight glyphs; none for what is no text."""
    found = tight(label)
    if found is None or found.shape[0] < 3:
        return []
    found = _shrunk(found)
    aspect = found.shape[1] / found.shape[0]
    counts = range(max(1, math.ceil(aspect / 1.05)), min(MAX_CHARACTERS, max(1, math.floor(aspect / 0.5))) + 1)
    return [way for count in counts for way in _ways(found, count)]


def _shrunk(label: Array) -> Array:
    if label.shape[0] <= _HEIGHTS[1]:
        return label
    size = (max(1, round(label.shape[1] * _HEIGHTS[1] / label.shape[0])), _HEIGHTS[1])
    found: Array = cv2.resize(label, size, interpolation=cv2.INTER_AREA)
    return found


def _ways(label: Array, count: int) -> list[list[Array]]:
    """Cut into ``count`` characters where there is least ink near equal parts; two are tried at three places."""
    if count == 1:
        return [[label]]
    width, ink = label.shape[1], label.sum(axis=0)
    reach = max(1, round(0.2 * width / count))
    places = [range(max(2, c - reach), min(width - 2, c + reach) + 1) for c in _equal(width, count)]
    ordered = [sorted(place, key=lambda c: float(ink[c])) for place in places]
    if not all(ordered):
        return []
    choices = [[c] for c in ordered[0][:3]] if count == 2 else [[place[0] for place in ordered]]
    ways = []
    for cut in choices:
        parts = [tight(label[:, a:b]) for a, b in pairwise([0, *cut, width])]
        if all(part is not None for part in parts):
            ways.append([part for part in parts if part is not None])
    return ways


def _equal(width: int, count: int) -> list[int]:
    return [round(width * i / count) for i in range(1, count)]


def _recognise(glyphs: list[Array]) -> list[Reading]:
    """Return the best single character for each cut-out."""
    groups: dict[int, list[int]] = {}
    for i, glyph in enumerate(glyphs):
        groups.setdefault(_group(glyph.shape[0]), []).append(i)
    found = [Reading("", 0.0)] * len(glyphs)
    for group, members in groups.items():
        texts, bank = _bank(group)
        fits = np.stack([features(glyphs[i]) for i in members]) @ bank
        for i, row, best in zip(members, fits, fits.argmax(axis=1), strict=True):
            found[i] = Reading(texts[best], float(row[best]))
    return found


def features(glyph: Array) -> Array:
    """Return a cut-out as a vector of length one, whose products are correlations."""
    grid = cv2.resize(np.ascontiguousarray(glyph), _GRID, interpolation=cv2.INTER_LINEAR).ravel()
    grid = grid - grid.mean()
    norm = float(np.linalg.norm(grid))
    aspect = _ASPECT_WEIGHT * math.log(glyph.shape[1] / glyph.shape[0])
    rest = (math.cos(aspect), math.sin(aspect))  # the aspect ratio as an angle keeps the length
    return np.concatenate([grid * (_SHARE / max(norm, 1e-6)), np.array(rest) * _REST]).astype(np.float32)


_SHARE, _REST = math.sqrt(0.75), math.sqrt(0.25)


def _group(height: int) -> int:
    low, high = _HEIGHTS
    return round(math.log(min(max(height, low), high)) / math.log(_STEP))


@lru_cache(maxsize=64)
def _bank(group: int) -> tuple[tuple[str, ...], Array]:
    """Return texts and vectors of all glyphs whose height in pixels is about ``_STEP ** group``."""
    target = _STEP**group
    texts, rows = [], []
    for factor in (1 / _STEP, 1.0, _STEP):
        for name in font_names():
            font = _font(name, max(6, round(2 * target * factor / 0.72)))
            for text in GLYPHS:
                for glyph in _renderings(font, text):
                    texts.append(text)
                    rows.append(features(glyph))
    return tuple(texts), np.ascontiguousarray(np.stack(rows).T)


def _renderings(font: Any, text: str) -> list[Array]:
    """Return a glyph as drawn at twice its size and reduced, at four positions between the pixels."""
    left, top, right, bottom = font.getbbox(text)
    size = (2 * math.ceil((right - left) / 2) + 8, 2 * math.ceil((bottom - top) / 2) + 8)
    found = []
    for dx, dy in ((3, 3), (4, 3), (3, 4), (4, 4)):
        sheet = Image.new("L", size, 0)
        ImageDraw.Draw(sheet).text((dx - left, dy - top), text, 255, font)
        drawn = np.asarray(sheet.reduce(2), np.float32) / 255
        found += [glyph for glyph in (tight(drawn), _without_dot(drawn) if text == "?" else None) if glyph is not None]
    return found


def _without_dot(drawn: Array) -> Array | None:
    """Return a question mark without its dot, which may be too faint to see."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((drawn > EDGE).astype(np.uint8), connectivity=8)
    hook = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else 0
    return tight(drawn * (labels == hook)) if hook else None
