"""What may leave the sandbox: plain values within bounds, copied, whatever a program hands over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from ._types import Json, Region

NODES: Final = 10_000
DEPTH: Final = 20
CHARACTERS: Final = 64 * 2**10
BITS: Final = 256
#: Values of this many of the largest size may leave one program.
VALUES: Final = 8
_SMALL: Final = 2**63


class Unfit(ValueError):
    """A value that may not leave the sandbox."""


class Room:
    """What one program may still hand over, over all its values."""

    def __init__(self) -> None:
        self.nodes = NODES * VALUES
        self.characters = CHARACTERS * VALUES

    def take(self, value: Any) -> Json:
        """Return a plain copy of a value, paid for here.

        Raises:
            Unfit: it is not plain, too large, or the program has handed over too much already.
        """
        if value is None or (type(value) is int and -_SMALL < value < _SMALL) or type(value) is bool:
            return value
        walk = _Walk(min(NODES, self.nodes), min(CHARACTERS, self.characters))
        nodes, characters = walk.nodes, walk.characters
        try:
            return walk.copy(value, 0)
        finally:
            self.nodes -= nodes - max(walk.nodes, 0)
            self.characters -= characters - max(walk.characters, 0)


def plain(value: Any) -> Json:
    """Return a plain copy of a value.

    Args:
        value: None, bool, int, finite float, str; lists, tuples, sets and dicts of them; a patch or region.

    Returns:
        The same with tuples and sets (sorted) as lists, keys as text and patches as ``{"region": [...]}``.

    Raises:
        Unfit: it is something else, or of more than 10,000 parts, 20 levels, 64 KiB of text or 256 bits.

    Example:
        >>> plain({1: (2, 3.5)}), plain(Region())
        ({'1': [2, 3.5]}, {'region': [0.0, 0.0, 1.0, 1.0]})
    """
    return Room().take(value)


class _Walk:
    def __init__(self, nodes: int, characters: int) -> None:
        self.nodes = nodes
        self.characters = characters

    def copy(self, value: Any, depth: int) -> Json:
        """Count first, look after: a value may hold itself a thousand million times."""
        self.nodes -= 1
        if self.nodes < 0:
            raise Unfit(f"more than {NODES:,} parts")
        if depth > DEPTH:
            raise Unfit(f"more than {DEPTH} levels")
        copy = _COPIES.get(type(value))
        if copy is None:
            if type(value).__name__ == "MontyClassProxy":
                return patch(value)
            raise Unfit(f"a {type(value).__name__[:40]} cannot be handed over")
        return copy(self, value, depth)

    def text(self, value: str, _: int) -> str:
        self.characters -= len(value)
        if self.characters < 0:
            raise Unfit(f"more than {CHARACTERS:,} characters")
        return value

    def list(self, value: Iterable[Any], depth: int) -> Json:
        return [self.copy(item, depth + 1) for item in value]

    def set(self, value: Iterable[Any], depth: int) -> Json:
        items = self.list(value, depth)
        try:
            return sorted(items)  # its own order is another one in every process
        except TypeError:
            raise Unfit("a set of things that have no order") from None

    def dict(self, value: Any, depth: int) -> Json:
        return {self.key(key, depth): self.copy(item, depth + 1) for key, item in value.items()}

    def key(self, key: Any, depth: int) -> str:
        if type(key) not in _KEYS:
            raise Unfit("a key that is no text and no number")
        return str(self.copy(key, depth + 1))


def _same(walk: _Walk, value: Any, depth: int) -> Json:
    return value


def _int(walk: _Walk, value: int, depth: int) -> int:
    if value.bit_length() > BITS:
        raise Unfit(f"a number of more than {BITS} bits")
    return value


def _float(walk: _Walk, value: float, depth: int) -> float:
    if not math.isfinite(value):
        raise Unfit("a number that is not finite")
    return value


_COPIES: Final[dict[type, Callable[[_Walk, Any, int], Json]]] = {
    type(None): _same,
    bool: _same,
    int: _int,
    float: _float,
    str: _Walk.text,
    list: _Walk.list,
    tuple: _Walk.list,
    set: _Walk.set,
    frozenset: _Walk.set,
    dict: _Walk.dict,
    Region: lambda walk, value, depth: {"region": corners(value)},
}
_KEYS: Final = {str, int, float, bool, type(None)}


def corners(region: Region) -> list[float]:
    """Return a region as a list: left, top, right, bottom."""
    return [region.left, region.top, region.right, region.bottom]


def region_of(left: Any, top: Any, right: Any, bottom: Any) -> Region:
    """Return the region of four numbers that a program gave.

    Raises:
        Unfit: they are not numbers, or not within the picture.
    """
    for number in (left, top, right, bottom):
        if type(number) is not float and type(number) is not int:
            raise Unfit("a patch needs four numbers")
    return _region(left, top, right, bottom)


@lru_cache(maxsize=4096)
def _region(*numbers: float) -> Region:
    """Programs ask about the same patches again and again."""
    try:
        return Region(*map(float, numbers))
    except (ValueError, OverflowError):
        raise Unfit("a patch must lie within the picture") from None


def patch(proxy: Any) -> Json:
    """Return what a patch of the sandbox looks like outside.

    Raises:
        Unfit: it is an object of another class, or one that the program has spoilt.
    """
    if proxy.name != "Patch":
        raise Unfit("an object of a class cannot be handed over")
    try:
        sides = _sides(proxy.attributes)
    except Exception:  # one is not there, or none can be read
        raise Unfit("a patch that is spoilt") from None
    return {"region": corners(region_of(*sides))}


_sides = itemgetter("left", "top", "right", "bottom")
