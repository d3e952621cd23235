"""Names the fills of pieces: six hues in four shades, and grey."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from ...datasets.puzzles._canvas import GREY
from ...datasets.puzzles.color_size_circle import SHADES as SHADE_COLORS
from ._glyphs import Array
from ._segment import Piece
from ._things import SHADES

_ALIKE = 6.0  # largest difference of fills that count as one, in units of CIE Lab
_SMALL = 0.05  # pieces of this share of the largest are not asked for their exact fill


@lru_cache(maxsize=1)
def _palette() -> tuple[tuple[tuple[str, str], ...], Array]:
    """Return (colour, shade) and the place in CIE Lab of all that a fill can be called; grey is ("", "")."""
    named = {(color, SHADES[i]): rgb for color, shades in SHADE_COLORS.items() for i, rgb in enumerate(shades)}
    greys = (GREY, *((v, v, v) for v in range(0, 230, 25)))
    return (*named, *[("", "")] * len(greys)), _lab(np.array([*named.values(), *greys], np.float32))


def _lab(colors: Array) -> Array:
    found: Array = cv2.cvtColor(colors.reshape(1, -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[0]
    return found


def name_color(rgb: Array) -> tuple[str, str]:
    """Return colour and shade of a fill, both "" for grey.

    Example:
        >>> name_color(np.array([224, 102, 102], np.float32))
        ('red', 'dark')
    """
    names, places = _palette()
    return names[int(np.linalg.norm(places - _lab(rgb), axis=1).argmin())]


def tells(pieces: Sequence[Piece]) -> bool:
    """Return whether fills tell anything: not if all are the same pale one."""
    if not pieces:
        return False
    large = max(p.area for p in pieces)
    colors = _lab(np.stack([p.color for p in pieces if p.area > _SMALL * large]))
    alike = float(np.ptp(colors, axis=0).max()) < _ALIKE
    return not (alike and name_color(pieces[0].color)[1] in ("", "lightest"))
