"""A picture as a list of things: what every vision module that finds whole objects answers from."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...datasets.puzzles._family import COLORS, MISSING, SIDES, SIZES
from .._types import METHODS, Json, Region

#: How dark a colour is drawn, from pale to deep.
SHADES = ("lightest", "light", "dark", "darkest")
#: Shape words: ``part`` is a piece of a divided whole, ``morph`` an outline that is no regular shape.
SHAPES = (*SIDES, "rectangle", "circle", "part", "morph")
#: What ``find`` and ``exists`` take: everything, what carries a number or "?", the missing one, or a shape.
KINDS = ("object", "number", MISSING, *SHAPES)

_SIDES = {**SIDES, "rectangle": 4}
_MAX_QUESTION = 2000
#: Which attribute a simple question is about; the first pattern that fits decides.
_ASKS = (
    ("shade", r"shade|how (dark|light|pale)|(dark|light)er"),
    ("sides", r"sides|corners|edges"),
    ("color", r"colou?r"),
    ("number", r"number|digit|value"),
    ("size", r"size|how (big|large|small|long|tall)"),
    ("text", r"text|written|say|read"),
    ("shape", r"shape|kind|what is (it|this)|figure"),
)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a picture: where it is and what can be told of it; "" where there is nothing to tell."""

    region: Region
    shape: str = ""
    color: str = ""
    shade: str = ""
    number: int | str = ""
    size: str = ""

    @property
    def sides(self) -> int:
        """How many sides its shape has, 0 for what is no polygon."""
        return _SIDES.get(self.shape, 0)

    @property
    def text(self) -> str:
        """What is written on it."""
        return str(self.number)

    def fits(self, kind: str) -> bool:
        """Return whether it is of one of ``KINDS``."""
        if kind in ("number", MISSING):
            return self.number == MISSING if kind == MISSING else self.number != ""
        return kind in ("object", self.shape)


class ThingScene:
    """A scene that knows its things.

    A patch stands for the thing whose centre is nearest to its own, among those whose centre it holds; a patch
    that holds no centre stands for the thing that it lies in, and for nothing where it lies in none.

    Args:
        things: in any order; answers come in reading order.
    """

    def __init__(self, things: Sequence[Thing]) -> None:
        self.things = reading_order(things)

    def call(self, method: str, region: Region, arguments: Sequence[Json]) -> Json:
        """Answer as `Scene.call` says; nothing there is "" (0 for ``sides``, an empty list for ``find``)."""
        check_call(method, arguments)
        if method in ("find", "exists"):
            kind = kind_of(arguments[0])
            found = [t.region for t in self.things if t.fits(kind) and holds(region, t.region.x, t.region.y)]
            return found if method == "find" else bool(found)
        if method == "query":
            return self._query(region, arguments[0])
        return getattr(self.at(region) or _NOTHING, method)

    def at(self, region: Region) -> Thing | None:
        """Return the thing that a patch stands for, if any."""
        inside = [t for t in self.things if holds(region, t.region.x, t.region.y)]
        around = [t for t in self.things if holds(t.region, region.x, region.y)]
        return min(
            inside or around, key=lambda t: math.hypot(t.region.x - region.x, t.region.y - region.y), default=None
        )

    def _query(self, region: Region, question: str) -> str:
        text = question.lower()
        if "how many" in text and not re.search(r"sides|corners|edges", text):
            return str(self._count(region, text))
        thing = self.at(region) or _NOTHING
        asked = next((name for name, pattern in _ASKS if re.search(pattern, text)), None)
        return str(getattr(thing, asked)) if asked else ""

    def _count(self, region: Region, text: str) -> int:
        words = {word.removesuffix("s") for word in re.findall(r"[a-z]+", text)}
        inside = [t for t in self.things if holds(region, t.region.x, t.region.y)]
        for attribute, known in (("color", COLORS), ("shape", SHAPES), ("size", SIZES)):
            named = words & set(known)
            inside = [t for t in inside if not named or getattr(t, attribute) in named]
        return len([t for t in inside if t.number != ""] if "number" in words else inside)


_NOTHING = Thing(Region())


def check_call(method: str, arguments: Sequence[Json]) -> None:
    """Raise ValueError unless there is such a method and the arguments fit it."""
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}; got {method!r}.")
    names = METHODS[method].arguments
    if len(arguments) != len(names):
        raise ValueError(f"`{method}` takes {len(names)} argument(s); got {len(arguments)}.")
    for name, value in zip(names, arguments, strict=True):
        if not isinstance(value, str) or len(value) > _MAX_QUESTION:
            raise ValueError(f"`{name}` of `{method}` must be a text of at most {_MAX_QUESTION} characters.")


def kind_of(word: str) -> str:
    """Return the member of ``KINDS`` that a word names, singular or plural; ValueError if none."""
    kind = word.strip().lower()
    for known in (kind, kind.removesuffix("s"), kind.removesuffix("es")):
        if known in KINDS:
            return known
    raise ValueError(f"`kind` must be one of {', '.join(KINDS)}; got {word[:40]!r}.")


def holds(region: Region, x: float, y: float) -> bool:
    """Return whether a point lies in a region."""
    return region.left <= x <= region.right and region.top <= y <= region.bottom


def box(x: float, y: float, width: float, height: float) -> Region:
    """Return the region of this size around a point, cut off at the borders of the picture."""
    sides = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Region(*(min(1.0, max(0.0, side)) for side in sides))


def reading_order(things: Sequence[Thing], same_row: float = 0.04) -> tuple[Thing, ...]:
    """Return things row by row, each left to right; a row's centres are at most ``same_row`` apart."""
    rows: list[list[Thing]] = []
    for thing in sorted(things, key=lambda t: (t.region.y, t.region.x)):
        if rows and thing.region.y - rows[-1][-1].region.y <= same_row:
            rows[-1].append(thing)
        else:
            rows.append([thing])
    return tuple(thing for row in rows for thing in sorted(row, key=lambda t: t.region.x))


def same_answer(method: str, a: Json, b: Json, tolerance: float = 0.08) -> bool:
    """Return whether two answers to one call say the same.

    Lists of patches do if there are as many and each has its partner, centres at most ``tolerance`` apart;
    numbers and texts do if they read alike.

    Example:
        >>> same_answer("number", 7, "7"), same_answer("find", [box(0.5, 0.5, 0.1, 0.1)], [])
        (True, False)
    """
    if method != "find":
        return str(a).strip().lower() == str(b).strip().lower()
    left = [box_of(region) for region in b]
    for region in map(box_of, a):
        near = min(left, key=lambda r: math.hypot(r.x - region.x, r.y - region.y), default=None)
        if near is None or math.hypot(near.x - region.x, near.y - region.y) > tolerance:
            return False
        left.remove(near)
    return not left


def box_of(value: Json) -> Region:
    """Return a patch in any of its forms as a Region: Region, four numbers, or a dict with ``region``."""
    if isinstance(value, Region):
        return value
    return Region(*(value["region"] if isinstance(value, dict) else value))
