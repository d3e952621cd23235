"""What the captions of the real PuzzleVQA pictures say about the things in them, and in which order.

A caption names things in an order, not at places.  Each family gives the facts of its things and the orders in
which a viewer's list of things may answer to them; where the caption leaves several (a ring has no beginning), the
one that fits best counts, the question mark fixing it where there is one.

What a caption does not determine is left out: the shape of grid cells and of what stands in the triangle family,
everything but the ends of ``shape_morph``, shades (the caption's are relative to each other).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any

Fact = dict[str, Any]
#: Things (anything with ``.region`` and ``.number``) -> the orders in which they may answer to the facts.
Order = Callable[[Sequence[Any]], Iterator[Sequence[Any]]]

SIDES = {3: "triangle", 4: "square", 5: "pentagon", 6: "hexagon", 7: "heptagon", 8: "octagon", 9: "nonagon"}
_LENGTHS = {"short": "small", "medium": "medium", "long": "large"}
_RINGS = {"small": 0, "medium": 1, "large": 2, "extra large": 3}


def facts(family: str, record: dict[str, Any]) -> tuple[list[Fact], Order]:
    """Return what is known of each thing of a picture, and how to put a list of things into the same order."""
    lists = [ast.literal_eval(text) for text in re.findall(r"\[.*?\]", record["caption"])]
    return _FAMILIES[family](record, lists)


def _fact(number: Any = None, color: str | None = None, **rest: Any) -> Fact:
    """Return a fact without what is not known; a question mark in place of a colour or shape is the number "?"."""
    if color == "?":
        number, color = "?", ""
    known = {"number": number, "color": color, **rest}
    return {name: value for name, value in known.items() if value is not None}


# ---- orders ---------------------------------------------------------------------------------------------------
def rows(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As they are read: scenes list their things so."""
    yield things


def from_the_corner(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Of a 3 x 3 grid: the "rows" of ``color_grid`` and ``size_grid`` captions are columns, from the right, upwards."""
    line = sorted(things, key=lambda t: -t.region.x)
    yield [t for i in (0, 3, 6) for t in sorted(line[i : i + 3], key=lambda t: -t.region.y)]


def left_to_right(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    yield sorted(things, key=lambda t: t.region.x)


def ring(facts_: Sequence[Fact], clockwise: bool = False, center: bool = False) -> Order:
    def order(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
        x = sum(t.region.x for t in things) / len(things)
        y = sum(t.region.y for t in things) / len(things)
        around = sorted(things, key=lambda t: math.atan2(y - t.region.y, t.region.x - x), reverse=clockwise)
        middle = [min(things, key=lambda t: math.hypot(t.region.x - x, t.region.y - y))] if center else []
        around = [t for t in around if t not in middle]
        turns = [around[i:] + around[:i] for i in range(len(around))]
        asked = next((i for i, f in enumerate(facts_) if f.get("number") == "?"), len(around))
        fixed = [t for t in turns if asked < len(t) and t[asked].number == "?"]
        yield from ([*turn, *middle] for turn in fixed or turns)

    return order


def outward(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    x = sum(t.region.x for t in things) / len(things)
    y = sum(t.region.y for t in things) / len(things)
    yield sorted(things, key=lambda t: math.hypot(t.region.x - x, t.region.y - y))


def triples(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Three groups of things near to each other, each top, bottom, right; the groups in any order."""
    left, groups = list(things), []
    while left:
        first = min(left, key=lambda t: (round(t.region.x, 1), t.region.y))
        near = sorted(left, key=lambda t: math.hypot(t.region.x - first.region.x, t.region.y - first.region.y))[:3]
        tip = max(near, key=lambda t: t.region.x)
        groups.append([*sorted((t for t in near if t is not tip), key=lambda t: t.region.y), tip])
        left = [t for t in left if t not in near]
    for some in permutations(groups):
        yield [t for group in some for t in group]


def diagonal(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Along the diagonal, from either end."""
    line = sorted(things, key=lambda t: t.region.x - t.region.y)
    yield line
    yield line[::-1]


# ---- families -------------------------------------------------------------------------------------------------
def _circle_size_number(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    numbers = lists[0]
    sizes = [int(record["answer"]) if n == "?" else n for n in numbers]
    words = dict(zip(sorted(set(sizes)), ("small", "medium", "large"), strict=False))
    known = len(words) == 3  # two sizes alone have no medium
    found = [_fact(n, "", shape="circle", size=words[s] if known else None)
             for n, s in zip(numbers, sizes, strict=True)]  # fmt: skip
    return found, ring(found, clockwise=True)


def _color_grid(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    return [_fact(color=c, shape="" if c == "?" else "circle", size="") for row in lists for c in row], from_the_corner


def _color_hexagon(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    found = [_fact(color=c, shape="part", size="") for c in lists[0]]
    return found, ring(found)


def _color_number_hexagon(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    found = [_fact(n, c, shape="part", size="") for c, n in zip(*lists, strict=True)]
    return found, ring(found)


def _color_overlap_squares(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    a, b, c = (_fact(color=color, shape="square", size="") for color in lists[0])
    ab, bc = (_fact(color=color, shape="part", size="") for color in re.findall(r"overlap is (\w+)", record["caption"]))
    return [a, ab, b, bc, c], diagonal


def _color_size_circle(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    pairs = sorted(zip(*lists, strict=True), key=lambda pair: _RINGS[pair[0]])
    return [_fact(color=color.split()[-1], shape="circle", size="") for _, color in pairs], left_to_right


def _grid_number(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    return [_fact(n, "", size="") for row in lists for n in row], rows


def _grid_number_color(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    return [_fact("?" if c == "?" else n, c, size="") for row in lists for n, c in row], rows


def _polygon_sides_color(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    sides = {c: int(n) for n, c in re.findall(r"with (\d+) sides is (\w+)", record["explanation"])}
    last = re.search(r"part with (\d+) sides should be (\w+)", record["deduction"])
    sides |= {last[2]: int(last[1]), "?": int(last[1])} if last else {}
    return [_fact(color=c, shape=SIDES.get(sides.get(c, 0)), size="") for row in lists for c in row], rows


def _polygon_sides_number(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    numbers = [n for row in lists for n in row]
    sides = [int(record["answer"]) if n == "?" else n for n in numbers]
    return [_fact(n, "", shape=SIDES[s], size="") for n, s in zip(numbers, sides, strict=True)], rows


def _rectangles(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    lengths, values = lists if set(lists[0]) <= set(_LENGTHS) else lists[::-1]
    colored = any(isinstance(v, str) and v != "?" for v in values)
    found = [
        _fact(*((None, v) if colored else (v, "")), shape="rectangle", size=_LENGTHS[length])
        for v, length in zip(values, lengths, strict=True)
    ]
    return found, left_to_right


def _shape_morph(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    ends = re.search(r"top left shape is an? (\S+) and the bottom right shape is an? (\S+?)\.", record["caption"])
    first, last = (_fact("?") if word == "?" else _fact(shape=word) for word in (ends.groups() if ends else "??"))
    return [first, *({} for _ in range(6)), last], rows


def _shape_reflect(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    return [_fact("?" if s == "?" else None, "", shape="" if s == "?" else s, size="")
            for row in lists for s in row], rows  # fmt: skip


def _shape_size_grid(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    words = [text.split() for row in lists for text in row]
    return [_fact("?", "", shape="", size="") if w == ["?"] else _fact(None, "", shape=w[1], size=w[0])
            for w in words], rows  # fmt: skip


def _shape_size_hexagon(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    found = [_fact(None, "", shape=shape, size=size) for shape, size in zip(*lists, strict=True)]
    found.append(_fact("?", "", shape="", size=""))
    return found, ring(found[:6], clockwise=True, center=True)  # whatever the caption says


def _size_cycle(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    by_distance = [size for place in zip(*lists, strict=True) for size in place]
    found = [_sized(size) for size in by_distance]

    def order(things: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for line in outward(things):
            yield [t for i in (0, 3, 6) for t in _asked_first(line[i : i + 3], found[i : i + 3])]

    return found, order


def _asked_first(things: Sequence[Any], known: Sequence[Fact]) -> list[Any]:
    """Put the question mark among equally far things where the facts have it."""
    marks = [t for t in things if t.number == "?"]
    others = [t for t in things if t.number != "?"]
    place = next((i for i, f in enumerate(known) if f.get("number") == "?"), 0)
    return [*others[:place], *marks, *others[place:]]


def _size_grid(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    return [_sized(size) for row in lists for size in row], from_the_corner


def _sized(size: str) -> Fact:
    return _fact("?", "", shape="", size="") if size == "?" else _fact(None, "", shape="circle", size=size)


def _triangle(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    return [_fact(n, "", size="") for group in lists for n in group], triples


def _venn(record: dict[str, Any], lists: list[Any]) -> tuple[list[Fact], Order]:
    a, b, c = lists[0]
    ab, bc = (int(n) for n in re.findall(r"contains the number (\d+)", record["caption"]))
    return [_fact(n, "", shape="", size="") for n in (a, ab, b, bc, c)], left_to_right


_FAMILIES: dict[str, Callable[[dict[str, Any], list[Any]], tuple[list[Fact], Order]]] = {
    "circle_size_number": _circle_size_number,
    "color_grid": _color_grid,
    "color_hexagon": _color_hexagon,
    "color_number_hexagon": _color_number_hexagon,
    "color_overlap_squares": _color_overlap_squares,
    "color_size_circle": _color_size_circle,
    "grid_number": _grid_number,
    "grid_number_color": _grid_number_color,
    "polygon_sides_color": _polygon_sides_color,
    "polygon_sides_number": _polygon_sides_number,
    "rectangle_height_color": _rectangles,
    "rectangle_height_number": _rectangles,
    "shape_morph": _shape_morph,
    "shape_reflect": _shape_reflect,
    "shape_size_grid": _shape_size_grid,
    "shape_size_hexagon": _shape_size_hexagon,
    "size_cycle": _size_cycle,
    "size_grid": _size_grid,
    "triangle": _triangle,
    "venn": _venn,
}
