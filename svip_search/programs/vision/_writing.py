"""Finds writing: ink inside of a piece, and groups of ink on the paper by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ._glyphs import Array, Reading
from ._segment import Piece, Segments

Box = tuple[int, int, int, int, int]  # left, top, right, bottom and the label of a component of ink
_LEAST, _LIMIT = 0.038, 0.3  # least height and largest extent of writing, over those of the picture
_SPECK = 0.03  # size of what does not belong to the writing in a piece, over its largest component
_FAINT = 0.3  # darkness that the darkest pixel of writing has at least
_MAX_COMPONENTS = 500


@dataclass
class Writing:
    """Ink on the paper by itself: its box in pixels and what it says."""

    left: int
    top: int
    right: int
    bottom: int
    darkness: Array
    reading: Reading | None = None


def inner_ink(segments: Segments, border: Array, parts: Sequence[Piece]) -> Array:
    """Return the darkness of what is written inside of a border, but not near to the parts that lie on it."""
    x, y, w, h = cv2.boundingRect(border)
    mask: Array = np.zeros((h + 2, w + 2), np.uint8)
    cv2.fillPoly(mask, [border], 1, offset=(1 - x, 1 - y))
    for part in parts:
        cv2.fillPoly(mask, [part.hull], 0, offset=(1 - x, 1 - y))
        cv2.polylines(mask, [part.hull + np.array([1 - x, 1 - y])], True, 0, 2 * round(max(segments.shape) / 40) + 1)
    mask = cv2.erode(mask, np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    dark: Array = segments.darkness[y : y + h, x : x + w]
    inner = mask * segments.ink[y : y + h, x : x + w]
    if (dark * inner).max(initial=0) < _FAINT:  # noise
        return np.zeros_like(dark)
    return dark * _without_specks(inner)


def _without_specks(ink: Array) -> Array:
    """Drop components that are tiny beside the largest: noise, and the feet of the outline."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    if count <= 2:
        return ink
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    keep = areas >= _SPECK * areas.max()
    keep[0] = False
    found: Array = keep.astype(np.uint8)[labels]
    return found


def free_writing(segments: Segments) -> list[Writing]:
    """Return the groups of ink on the paper that touch no piece and have the size of writing."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(segments.ink, connectivity=8)
    wanted = np.zeros(int(segments.labels.max()) + 1, np.uint8)
    wanted[[p.label for p in segments.pieces]] = 1
    near = cv2.dilate(wanted[segments.labels], np.ones((3, 3), np.uint8))
    attached = np.bincount(labels[near > 0], minlength=len(stats)) > 0
    attached[0] = True
    height, width = segments.shape
    boxes = [
        (int(x), int(y), int(x + w), int(y + h), i)
        for i, (x, y, w, h, _) in enumerate(stats)
        if not attached[i] and w < _LIMIT * width and h < _LIMIT * height
    ]
    groups = _grouped(boxes, _LEAST * height) if len(boxes) <= _MAX_COMPONENTS else []
    return [_cut(segments, labels, group) for group in groups]


def _grouped(boxes: list[Box], least: float) -> list[list[Box]]:
    """Group boxes that are high enough with those that stand right below or beside them."""
    groups: list[list[Box]] = []
    for one in sorted(boxes, key=lambda b: b[1] - b[3]):  # highest first: dots find what they belong to
        above = next((g for g in groups if _is_dot(one, g[0])), None)
        if above:
            above.append(one)
        elif one[3] - one[1] >= least:
            groups.append([one])
    merged: list[list[Box]] = []
    for group in sorted(groups):
        last = merged[-1][-1] if merged else None
        first = group[0]
        gap = 0.35 * (first[3] - first[1])
        if last and 0 <= first[0] - last[2] < gap and abs(first[1] - last[1]) < gap and abs(first[3] - last[3]) < gap:
            merged[-1].extend(group)
        else:
            merged.append(group)
    return merged


def _is_dot(small: Box, mark: Box) -> bool:
    left, top, right, bottom, _ = mark
    height = bottom - top
    below = 0 <= small[1] - bottom < 0.4 * height and small[3] - small[1] < 0.5 * height
    return below and left <= (small[0] + small[2]) / 2 <= right


def _cut(segments: Segments, labels: Array, group: list[Box]) -> Writing:
    left, top = min(b[0] for b in group), min(b[1] for b in group)
    right, bottom = max(b[2] for b in group), max(b[3] for b in group)
    own = np.isin(labels[top:bottom, left:right], [b[4] for b in group])
    return Writing(left, top, right, bottom, segments.darkness[top:bottom, left:right] * own)


def best_near(free: list[Writing]) -> list[Writing]:
    """Drop what is nearer to better writing than twice its height: the strokes of a ring around it."""
    kept: list[Writing] = []
    for one in sorted((w for w in free if w.reading), key=lambda w: -w.reading.fit if w.reading else 0.0):
        if all(_distance(one, w) > 2 * (w.bottom - w.top) for w in kept):
            kept.append(one)
    return kept


def _distance(a: Writing, b: Writing) -> float:
    return float(np.hypot(a.left + a.right - b.left - b.right, a.top + a.bottom - b.top - b.bottom) / 2)
