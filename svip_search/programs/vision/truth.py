"""The verifier of the embedded domain: answers from what was drawn."""

from __future__ import annotations

from ...datasets.puzzles import Puzzle, SceneObject
from ...datasets.puzzles._canvas import UNITS
from ...datasets.puzzles._family import COLORS, SIZES
from .._types import Region
from ._things import SHADES, Thing, ThingScene, box

_BAR_HEIGHTS = {"short": 126, "medium": 252, "long": 378}
_RADII = {"small": 24, "medium": 42, "large": 62}
_RADIUS = 38


class TruthVision:
    """Scenes of generated puzzles whose every answer is true.

    ``find("object")`` gives exactly ``Puzzle.objects``.  Three of their words are put into those of the vision
    API: the length of a bar (short, medium, long) and the size of a numbered circle (1 to 6; three of them in a
    puzzle) become small, medium, large; a shade (lightest to darkest) is no size: ``query("what shade is it?")``
    gives it; and grey is no colour.  Where a puzzle notes no sizes, ``size()`` is "".

    Notes:
        A puzzle notes where its objects stand, not how far they reach: patches are boxes of nominal extent around
        the noted points.  Their widths and heights order objects of different size rightly, no more.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> scene = TruthVision().look(generate_puzzle(1, 0, families=["color_grid"]))
        >>> len(scene.call("find", Region(), ["object"])), len(scene.call("find", Region(), ["?"]))
        (9, 1)
    """

    def look(self, puzzle: Puzzle) -> ThingScene:
        """Return the scene of a generated puzzle."""
        numbered = sorted({o.size for o in puzzle.objects if o.size.isdigit()}, key=int)
        ranks = dict(zip(numbered, SIZES, strict=False)) | {"short": "small", "long": "large"}
        return ThingScene([_thing(o, ranks) for o in puzzle.objects])


def _thing(noted: SceneObject, ranks: dict[str, str]) -> Thing:
    size = ranks.get(noted.size, noted.size)
    return Thing(
        region=_extent(noted),
        shape=noted.shape,
        color=noted.color if noted.color in COLORS else "",
        shade=noted.size if noted.size in SHADES else "",
        number=int(noted.number) if noted.number.isdigit() else noted.number,
        size=size if size in SIZES else "",
    )


def _extent(noted: SceneObject) -> Region:
    if noted.shape == "rectangle":
        return box(noted.x, noted.y, 62 / UNITS, _BAR_HEIGHTS[noted.size] / UNITS)
    radius = 49 + 4 * int(noted.size) if noted.size.isdigit() else _RADII.get(noted.size, _RADIUS)
    return box(noted.x, noted.y, 2 * radius / UNITS, 2 * radius / UNITS)
