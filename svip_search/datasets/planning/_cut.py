"""The picture of a planning puzzle cut into the cells of its grid.

Nothing is assumed of the margins: the content is found first (the outer frame, the lines of the strips, the bases
of the rods), then divided.  Where a picture does not look like its family at all, its content box is divided
equally, so any picture gives patches, right or wrong.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svip_search.datasets.planning._grid import Grid

#: Litres from the bottom to the top of a jug's patch: an amount stands equally high in every picture.
JUG_LEVELS = 16
#: Height of a rod over the height of its whole stack of disks.
ROD = 1.3
#: Width of the jugs' axes, in distances between jugs, beyond the number of jugs.
JUG_SLACK = 0.12
_LARGEST_SIDE = 1024
# Shades of grey that something counts as darker than: than paper, than the rules of axes, than the wood's surroundings.
_WHITE, _PALE, _DARK = 242, 210, 170
# A numbered tile is cut without its edge, this share of the tile on each side: the number is small and alone in it.
_TILE_EDGE = 0.15

Patches = NDArray[np.uint8]
_Grey = NDArray[np.uint8]
_Box = tuple[float, float, float, float]


def cut(image: Image.Image, grid: Grid, side: int = 32) -> Patches:
    """Cut a picture into one patch a cell, row by row.

    A patch of ``tower_of_hanoi`` shows the whole width that belongs to a rod at one level.  A patch of
    ``water_jugs`` shows a jug from the level 0 at its bottom to ``JUG_LEVELS`` litres at its top, white above the
    largest capacity.

    Args:
        image: of any size and mode; of any content, too.
        grid: the cells to look for; more than zero rows and columns.
        side: height and width of a patch in pixels.

    Returns:
        Array [rows * columns, side, side, 3] of bytes.

    Raises:
        ValueError: ``side`` or the grid is empty.

    Example:
        >>> board = Image.new("RGB", (100, 100), "white")
        >>> board.paste((0, 0, 0), (10, 10, 90, 90))
        >>> board.paste((200, 0, 0), (50, 50, 90, 90))
        >>> [tuple(map(int, patch[4, 4])) for patch in cut(board, Grid("n_queens", 2, 2), side=8)]
        [(0, 0, 0), (0, 0, 0), (0, 0, 0), (200, 0, 0)]
    """
    if min(side, grid.rows, grid.columns) < 1:
        raise ValueError(f"`side` and the rows and columns of `grid` must be positive; got {side} and {grid}")
    if 0 in image.size:
        return np.full((len(grid), side, side, 3), 255, np.uint8)
    picture = _on_white(image)
    grey = np.asarray(picture.convert("L"))
    if grid.family == "water_jugs" and grid.rows == 1:
        return _jugs(picture, grey, grid, side)
    if grid.family == "checker_move" and grid.rows == 2:
        parts = _strips(grey)
    elif grid.family == "tower_of_hanoi" and grid.rows % 2 == 0:
        parts = _stacks(grey, grid.rows // 2)
    else:
        parts = [_content(grey)]
    if grid.family == "number_slide":
        edge = round(side * _TILE_EDGE / (1 - 2 * _TILE_EDGE))
        patches = _divide(picture, parts[0], grid.rows, grid.columns, side + 2 * edge)
        return patches[:, edge : edge + side, edge : edge + side].copy()
    rows = grid.rows // len(parts)
    return np.concatenate([_divide(picture, box, rows, grid.columns, side) for box in parts])


def _on_white(image: Image.Image) -> Image.Image:
    """An RGB picture of bounded size, transparency over white."""
    factor = max(image.size) // _LARGEST_SIDE
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        image = white
    image = image.convert("RGB")
    return image.reduce(factor) if factor > 1 else image


def _divide(picture: Image.Image, box: _Box, rows: int, columns: int, side: int) -> Patches:
    """Patches [rows * columns, side, side, 3] of the equal cells of a part of the picture."""
    small = picture.resize((columns * side, rows * side), Image.Resampling.BILINEAR, box=_inside(box, picture.size))
    cells = np.asarray(small).reshape(rows, side, columns, side, 3)
    return cells.transpose(0, 2, 1, 3, 4).reshape(rows * columns, side, side, 3)


def _inside(box: _Box, size: tuple[int, int]) -> _Box:
    """The part of a box that lies in the picture; the whole picture where too little of it does."""
    width, height = size
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else (0.0, 0.0, width, height)


def _content(grey: _Grey) -> _Box:
    """The box of the rows and columns that hold more than specks on white."""
    ink = grey < _WHITE
    x0, x1 = _span(ink.mean(0) > 0.05)
    y0, y1 = _span(ink.mean(1) > 0.05)
    return x0, y0, x1, y1


def _span(marks: NDArray[np.bool_]) -> tuple[int, int]:
    """First mark and one past the last; everything where there is none."""
    found = np.flatnonzero(marks)
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(marks))


def _runs(marks: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of consecutive marks, each as its first and one past its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _long_rows(ink: NDArray[np.bool_], share: float) -> list[tuple[int, int]]:
    """Stretches of rows of which more than ``share`` of the widest row's length is ink."""
    filled = ink.mean(1)
    return _runs(filled > share * max(float(filled.max()), 0.5))


def _strips(grey: _Grey) -> list[_Box]:
    """The two strips of a game of checkers: the first and the last pair of long lines."""
    ink = grey < _WHITE
    lines = _long_rows(ink, 0.88)
    if len(lines) < 4:
        x0, y0, x1, y1 = _content(grey)
        third = (y1 - y0) / 3
        return [(x0, y0, x1, y0 + third), (x0, y1 - third, x1, y1)]
    pairs = (lines[0], lines[1]), (lines[-2], lines[-1])
    x0, x1 = _span(ink[lines[0][0] : lines[1][1]].mean(0) > 0.8)  # the strip's own ends; text may reach further
    return [(x0, top[0], x1, bottom[1]) for top, bottom in pairs]


def _stacks(grey: _Grey, disks: int) -> list[_Box]:
    """The disks' levels above the two bases of a tower of Hanoi, of the height that the rods tell."""
    dark = grey < _DARK
    bases = _long_rows(dark, 0.9)
    if len(bases) < 2:
        x0, y0, x1, y1 = _content(grey)
        middle = (y0 + y1) / 2
        return [(x0, y0, x1, middle), (x0, middle, x1, y1)]
    x0, x1 = _span(dark[bases[0][0] : bases[0][1]].mean(0) > 0.5)
    boxes: list[_Box] = []
    for (_, above), (bottom, _) in pairwise([(0, 0), bases[0], bases[-1]]):
        height = _rod_height(dark[above:bottom, x0:x1]) / ROD
        boxes.append((x0, bottom - height, x1, bottom))
    return boxes


def _rod_height(dark: NDArray[np.bool_]) -> float:
    """Rows from the top of the outer rods to the base; the text that stands over the middle rod is not looked at."""
    width = dark.shape[1]
    tops = []
    for at in (0.161, 0.836):
        rod = dark[:, round(at * width) : round(at * width) + 1]
        tops.append(int(np.argmax(rod.any(1))) if rod.any() else 0)
    return float(max(1, len(dark) - min(tops)))


def _jugs(picture: Image.Image, grey: _Grey, grid: Grid, side: int) -> Patches:
    """Patches [jugs, side, side, 3] in litres: the axes end one litre above the largest capacity."""
    ink = grey < _PALE
    x0, x1 = _span(ink.mean(0) > 0.6)
    y0, y1 = _span(ink.mean(1) > 0.6)
    scale = max(1, grid.scale)
    litre, pitch = (y1 - 1 - y0) / (scale + 1), (x1 - x0) / (grid.columns + JUG_SLACK)
    shown = min(scale, JUG_LEVELS)
    height = max(1, round(side * shown / JUG_LEVELS))
    box = _inside((x0, y1 - 1 - shown * litre, x0 + pitch * grid.columns, y1 - 1), picture.size)
    small = picture.resize((grid.columns * side, height), Image.Resampling.BILINEAR, box=box)
    patches = np.full((side, grid.columns, side, 3), 255, np.uint8)
    patches[side - height :] = np.asarray(small).reshape(height, grid.columns, side, 3)
    return patches.transpose(1, 0, 2, 3).copy()
