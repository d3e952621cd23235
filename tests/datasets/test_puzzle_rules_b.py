"""Ten puzzle families: polygons, rectangles, morphs, reflections and sizes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svip_search.datasets.puzzles._canvas import Canvas
from svip_search.datasets.puzzles._family import MISSING, Family, Inconsistent
from svip_search.datasets.puzzles.polygon_sides_color import PolygonSidesColor
from svip_search.datasets.puzzles.polygon_sides_number import PolygonSidesNumber
from svip_search.datasets.puzzles.rectangle_height_color import RectangleHeightColor
from svip_search.datasets.puzzles.rectangle_height_number import RectangleHeightNumber
from svip_search.datasets.puzzles.shape_morph import ShapeMorph
from svip_search.datasets.puzzles.shape_reflect import ShapeReflect
from svip_search.datasets.puzzles.shape_size_grid import ShapeSizeGrid
from svip_search.datasets.puzzles.shape_size_hexagon import ShapeSizeHexagon
from svip_search.datasets.puzzles.size_cycle import SizeCycle
from svip_search.datasets.puzzles.size_grid import SizeGrid

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/puzzlevqa"
FAMILIES: tuple[Family, ...] = (
    PolygonSidesColor(), PolygonSidesNumber(), RectangleHeightColor(), RectangleHeightNumber(), ShapeMorph(),
    ShapeReflect(), ShapeSizeGrid(), ShapeSizeHexagon(), SizeCycle(), SizeGrid(),
)  # fmt: skip
Facts = tuple[str, ...]


def name_of(family: Family) -> str:
    return family.name


def picture(family: Family, facts: Facts, seed: int, pixels: int = 64) -> tuple[bytes, Canvas]:
    canvas = Canvas(pixels, np.random.default_rng(seed))
    family.draw(canvas, facts)
    return canvas.finish().tobytes(), canvas


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_sampled_puzzles_hold_together(family: Family) -> None:
    for seed in range(200):
        puzzle = family.sample(np.random.default_rng(seed))
        steps = family.steps(puzzle.facts, puzzle.question)
        assert steps[-1] == f"answer : {puzzle.answer}"
        assert puzzle.answer in puzzle.options and len(set(puzzle.options)) == len(puzzle.options)
        assert puzzle.facts.count(MISSING) == 1
        assert 4 <= len(steps) <= 8 and len(" ".join(steps).split(" ")) <= 62
        parsed = [family.parse(i, s) for i, s in enumerate(steps[: len(family.perceive)])]
        assert tuple(f for p in parsed if p is not None for f in p) == puzzle.facts
        data, canvas = picture(family, puzzle.facts, seed)
        assert data == picture(family, puzzle.facts, seed)[0]
        assert all(0 <= o.x <= 1 and 0 <= o.y <= 1 for o in canvas.objects)
        assert sum(o.number == MISSING for o in canvas.objects) == 1


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_one_misread_fact_never_raises_anything_else(family: Family) -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        puzzle = family.sample(rng)
        for word in ("red", "small", "long", "triangle", "7", "row", MISSING):
            facts = list(puzzle.facts)
            facts[int(rng.integers(len(facts)))] = word
            with contextlib.suppress(Inconsistent):
                assert family.reason(tuple(facts), puzzle.question)[-1].startswith("answer : ")


# ---- facts from the captions of the published pictures --------------------------------------
def lists(caption: str) -> list[list[str]]:
    """Return the bracketed lists of a caption."""
    return [g.replace("'", "").split(", ") for g in re.findall(r"\[([^]]*)\]", caption)]


def pairs(first: list[str], second: list[str]) -> Facts:
    return tuple(w for pair in zip(first, second, strict=True) for w in pair)


def polygon_color(item: dict[str, Any]) -> Facts:
    """The caption has no sides: two sorts come from the explanation, the asked one from the deduction."""
    colors = [w for row in lists(item["caption"]) for w in row]
    told = {c: s for s, c in re.findall(r"with (\d) sides is (\w+) in color", item["explanation"])}
    asked = re.findall(r"part with (\d) sides", item["deduction"])[0]
    return pairs([told.get(c, asked) for c in colors], colors)


def polygon_number(item: dict[str, Any]) -> Facts:
    """The caption has no sides: they come from the explanation and the deduction."""
    numbers = [w for row in lists(item["caption"]) for w in row]
    told = {n: s for s, n in re.findall(r"with (\d) sides has the number (\d)", item["explanation"])}
    asked = re.findall(r"polygon with (\d) sides", item["deduction"])[0]
    return pairs([asked if n == MISSING else told[n] for n in numbers], numbers)


def rectangles(item: dict[str, Any]) -> Facts:
    first, second = lists(item["caption"])
    return pairs(*((first, second) if first[0] in ("short", "medium", "long") else (second, first)))


def shape_morph(item: dict[str, Any]) -> Facts:
    """The caption has the ends only: what their neighbours look like comes from the explanation."""
    ends = re.findall(r"shape is a ([\w?]+)", item["caption"])
    known, other = re.findall(r"like a (\w+)", item["explanation"])
    return (*ends, *((known, other) if ends[1] == MISSING else (other, known)))


def in_order(item: dict[str, Any]) -> Facts:
    return tuple(w for row in lists(item["caption"]) for w in row)


def shape_size_grid(item: dict[str, Any]) -> Facts:
    """The caption has neither the missing shape nor the direction: both come from the explanation."""
    sizes = [w.split()[0] for row in lists(item["caption"]) for w in row]
    kind, names = re.findall(r"the (row|column)s contain (\w+s, \w+s, and \w+s) resp", item["explanation"])[0]
    return (kind, *(w.removesuffix("s") for w in re.findall(r"\w+s\b", names)), *sizes)


def shape_size_hexagon(item: dict[str, Any]) -> Facts:
    """The caption goes around the center from the right part on; reading order is perceived."""
    shapes, sizes = lists(item["caption"])
    facts = [w for i in (4, 5, 3, 0, 2, 1) for w in (sizes[i], shapes[i])]
    return (*facts[:6], MISSING, *facts[6:])


READERS: dict[str, Callable[[dict[str, Any]], Facts]] = {
    "polygon_sides_color": polygon_color, "polygon_sides_number": polygon_number,
    "rectangle_height_color": rectangles, "rectangle_height_number": rectangles,
    "shape_morph": shape_morph, "shape_size_grid": shape_size_grid, "shape_size_hexagon": shape_size_hexagon,
}  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason="the published pictures are not here")
@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_rules_solve_the_published_puzzles(family: Family) -> None:
    items = [json.loads(line) for line in (REAL / f"{family.name}.jsonl").read_text().splitlines()]
    asked = {family.sample(np.random.default_rng(seed)).question for seed in range(100)}
    assert len(items) == 50 and {item["question"] for item in items} <= asked
    for item in items:
        facts = READERS.get(family.name, in_order)(item)
        assert family.reason(facts, item["question"])[-1] == f"answer : {item['answer']}", item["image"]
        sampled = family.sample(np.random.default_rng(0))
        assert len(facts) == len(sampled.facts) and len(item["options"]) == len(sampled.options)
