"""A vision module that errs at a known rate: what labels are tested with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...datasets.puzzles._family import COLORS, MISSING, SIDES, SIZES
from .._types import Json, Region, Scene
from ._things import SHADES, SHAPES

#: Digits that are easily taken for each other.
_ALIKE = {"0": "86", "1": "74", "2": "7", "3": "85", "4": "91", "5": "63", "6": "58", "7": "12", "8": "30", "9": "47"}


class Vision(Protocol):
    """Whatever makes scenes."""

    def look(self, picture: Any) -> Scene:
        """Return the scene of a picture, or of whatever else this module looks at."""


@runtime_checkable
class _Mistaken(Protocol):
    """A scene that tells what its answers are taken for."""

    def mistaken(self, method: str, region: Region, true: Json, rng: np.random.Generator) -> Json:
        """Return a plausible answer other than the true one."""


class NoisyVision:
    """Scenes of another module with a share of the answers replaced by plausible wrong ones.

    Which answers err depends on (``seed``, call, true answer) alone: the same call gives the same answer always.
    A misread digit is one of similar form, a misread shape has a side more or less, ``find`` misses an object.  A
    scene that knows better what its answers are taken for says so: ``mistaken(method, region, true, rng)``.

    Args:
        inner: the module whose answers are changed.
        rate: share of the calls that err, 0 to 1.
        seed: which calls those are.

    Raises:
        ValueError: ``rate`` is not within 0..1.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> from svip_search.programs.vision import TruthVision
        >>> scene = NoisyVision(TruthVision(), rate=1.0, seed=0).look(generate_puzzle(1, 0, families=["venn"]))
        >>> len(scene.call("find", Region(), ["number"]))
        4
    """

    def __init__(self, inner: Vision, rate: float, seed: int = 0) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"`rate` must be within 0..1; got {rate}.")
        self.inner, self.rate, self.seed = inner, rate, seed

    def look(self, picture: Any) -> Scene:
        """Return the scene of a picture, its answers spoiled."""
        return _NoisyScene(self.inner.look(picture), self.rate, self.seed)


class _NoisyScene:
    def __init__(self, inner: Scene, rate: float, seed: int) -> None:
        self.inner, self.rate, self.seed = inner, rate, seed

    def call(self, method: str, region: Region, arguments: Sequence[Json]) -> Json:
        true = self.inner.call(method, region, arguments)
        key = repr((self.seed, method, region, tuple(arguments), true)).encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little"))
        if rng.random() >= self.rate:
            return true
        if isinstance(self.inner, _Mistaken):
            return self.inner.mistaken(method, region, true, rng)
        return wrong_answer(method, true, rng)


def wrong_answer(method: str, true: Json, rng: np.random.Generator) -> Json:
    """Return a plausible answer to ``method`` that differs from the true one.

    Example:
        >>> wrong_answer("sides", 4, np.random.default_rng(0)) in (3, 5)
        True
    """
    if method == "exists":
        return not true
    if method == "find":
        return _without_one(true, rng)
    return _WRONG.get(method, _wrong_word)(true, rng)


def _without_one(regions: list[Region], rng: np.random.Generator) -> list[Region]:
    if not regions:  # something where there is nothing
        return [Region(0.4, 0.4, 0.6, 0.6)]
    gone = int(rng.integers(len(regions)))
    return [region for i, region in enumerate(regions) if i != gone]


def _wrong_number(true: Json, rng: np.random.Generator) -> Json:
    if true == MISSING:
        return 7
    if true == "":
        return int(rng.integers(1, 10))
    digits = str(true)
    i = int(rng.integers(len(digits)))
    return int(digits[:i] + _other(tuple(_ALIKE.get(digits[i], "7")), digits[i], rng) + digits[i + 1 :])


def _wrong_sides(true: Json, rng: np.random.Generator) -> Json:
    return int(rng.integers(3, 10)) if true == 0 else true + (1 if true == 3 or rng.random() < 0.5 else -1)


def _wrong_shape(true: Json, rng: np.random.Generator) -> Json:
    if true not in SIDES:
        return _other(tuple(SIDES), str(true), rng)
    names, i = tuple(SIDES), tuple(SIDES).index(true)
    return _other(names[max(0, i - 1) : i + 2], true, rng)


def _wrong_word(true: Json, rng: np.random.Generator) -> Json:
    """Return another word of the kind that the true answer is of."""
    text = str(true)
    if text.isdigit() or text == MISSING:
        return str(_wrong_number(int(text) if text.isdigit() else text, rng))
    kinds: tuple[tuple[str, ...], ...] = (COLORS, SIZES, SHADES, SHAPES)
    return _other(next((kind for kind in kinds if text in kind), COLORS), text, rng)


def _other(words: Sequence[str], true: str, rng: np.random.Generator) -> str:
    others = [w for w in words if w != true]
    return others[int(rng.integers(len(others)))]


def _wrong_of(words: Sequence[str]) -> Callable[[Json, np.random.Generator], Json]:
    return lambda true, rng: _other(words, true, rng)


_WRONG: dict[str, Callable[[Json, np.random.Generator], Json]] = {
    "color": _wrong_of(COLORS),
    "size": _wrong_of(SIZES),
    "number": _wrong_number,
    "sides": _wrong_sides,
    "shape": _wrong_shape,
}
