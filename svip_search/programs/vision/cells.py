"""Pictures of planning puzzles as grids of cells: what programs ask of them, answered from the words in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ...datasets.planning import CELL_WORDS, Grid
from .._types import Json, Region
from ._things import check_call, holds

#: What ``find`` and ``exists`` take: every cell, or those that hold a word.
KINDS = ("object", *CELL_WORDS)
#: What a cell of a family may be misread as; for those with numbers see `CellScene.mistaken`.
_WORDS = {
    "maze": ("#", ".", "entry", "exit"),
    "move_box": ("#", ".", "box", "player", "flag"),
    "n_queens": ("queen", "."),
    "rotting_kiwi": ("fresh", "rotten", "."),
    "checker_move": ("green", "red", "."),
}
#: How far apart two patches are at least that `same_answer` keeps apart.
_APART = 0.09


class Celled(Protocol):
    """A picture whose cells are known, as a `Plan`."""

    @property
    def grid(self) -> Grid:
        """The cells of the picture."""

    @property
    def cells(self) -> tuple[str, ...]:
        """What is in them, row by row."""


class CellVision:
    """Scenes of planning puzzles from what is in their cells: of generated ones, every answer is true.

    ``find("object")`` gives all cells in reading order, ``find(word)`` those that hold it; ``text()`` is the word in
    a cell and ``number()`` its number.  Cells have no shapes, sizes and sides.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(1, 0, families=["rotting_kiwi"], pixels=32)
        >>> scene = CellVision().look(plan)
        >>> len(scene.call("find", Region(), ["object"])) == len(plan.cells)
        True
    """

    def look(self, picture: Celled) -> CellScene:
        """Return the scene of a puzzle."""
        return CellScene(picture.grid, picture.cells)


class CellScene:
    """A grid of words as a scene; a patch stands for the first cell whose centre it holds, or else that it lies in.

    Args:
        grid: the cells.
        words: what is in them, row by row, words of ``CELL_WORDS``: the true ones, or what an eye has read.

    Raises:
        ValueError: ``words`` are not one a cell.
    """

    def __init__(self, grid: Grid, words: Sequence[str]) -> None:
        if len(words) != len(grid):
            raise ValueError(f"`words` must be one a cell, {len(grid)}; got {len(words)}.")
        self.grid, self.words = grid, tuple(words)
        self.regions = [
            Region(c / grid.columns, r / grid.rows, (c + 1) / grid.columns, (r + 1) / grid.rows)
            for r in range(grid.rows) for c in range(grid.columns)
        ]  # fmt: skip

    def call(self, method: str, region: Region, arguments: Sequence[Json]) -> Json:
        """Answer as `Scene.call` says; what cells have not is "" (0 for ``sides``)."""
        check_call(method, arguments)
        if method in ("find", "exists"):
            found = [self.regions[i] for i in self._inside(region) if _kind(arguments[0]) in ("object", self.words[i])]
            return found if method == "find" else bool(found)
        word = self._word(region)
        if method == "number":
            return int(word) if word.isdecimal() else ""
        if method == "color":
            return word if word in ("green", "red") else ""
        return word if method in ("text", "query") else 0 if method == "sides" else ""

    def _inside(self, region: Region) -> list[int]:
        return [i for i, cell in enumerate(self.regions) if holds(region, cell.x, cell.y)]

    def _word(self, region: Region) -> str:
        around = (i for i, cell in enumerate(self.regions) if holds(cell, region.x, region.y))
        inside = self._inside(region) or list(around)
        return self.words[inside[0]]

    def mistaken(self, method: str, region: Region, true: Json, rng: np.random.Generator) -> Json:
        """Return what a noisy module takes the truth for: another word of the family, a cell nearby, one cell less."""
        if method == "exists":
            return not true
        if method != "find":
            words = [w for w in self._possible() if w != str(true) and (w.isdecimal() or method != "number")]
            word = words[int(rng.integers(len(words)))] if words else str(true)
            return int(word) if method == "number" and word.isdecimal() else word
        if len(true) > 1:
            gone = int(rng.integers(len(true)))
            return [cell for i, cell in enumerate(true) if i != gone]
        near = [self.regions[i] for i in self._inside(region)]
        near = [cell for cell in near if not true or (cell.y == true[0].y and abs(cell.x - true[0].x) >= _APART)]
        # One of the nearest two on either side: what is taken for another place is not far from it.
        near = sorted(near, key=lambda cell: abs(cell.x - true[0].x) if true else 0)[: 4 if true else None]
        return [near[int(rng.integers(len(near)))]] if near else []

    def _possible(self) -> tuple[str, ...]:
        if self.grid.family == "water_jugs":
            return tuple(map(str, range(self.grid.scale + 1)))
        if self.grid.family == "number_slide":
            return (".", *map(str, range(1, len(self.grid))))
        if self.grid.family == "tower_of_hanoi":
            return (".", *map(str, range(1, self.grid.rows // 2 + 1)))
        return _WORDS[self.grid.family]


def _kind(word: str) -> str:
    kind = word.strip().lower()
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}; got {word[:40]!r}.")
    return kind
