"""Nine of the puzzle families: the synthetic puzzles are sound and the rules are the real ones."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svip_search.datasets.puzzles._canvas import Canvas
from svip_search.datasets.puzzles._family import Family, Inconsistent
from svip_search.datasets.puzzles.circle_size_number import CircleSizeNumber
from svip_search.datasets.puzzles.color_grid import ColorGrid
from svip_search.datasets.puzzles.color_hexagon import ColorHexagon
from svip_search.datasets.puzzles.color_number_hexagon import ColorNumberHexagon
from svip_search.datasets.puzzles.color_overlap_squares import ColorOverlapSquares
from svip_search.datasets.puzzles.color_size_circle import ColorSizeCircle
from svip_search.datasets.puzzles.grid_number import GridNumber
from svip_search.datasets.puzzles.grid_number_color import GridNumberColor
from svip_search.datasets.puzzles.triangle import Triangle

FAMILIES: tuple[Family, ...] = (
    CircleSizeNumber(), ColorGrid(), ColorHexagon(), ColorNumberHexagon(), ColorOverlapSquares(),
    ColorSizeCircle(), GridNumber(), GridNumberColor(), Triangle(),
)  # fmt: skip
REAL = Path(__file__).resolve().parents[2].parent / "shared/data/puzzlevqa"
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


@each_family
def test_synthetic_puzzles_are_sound(family: Family) -> None:
    for seed in range(200):
        item = family.sample(np.random.default_rng(seed))
        steps = family.steps(item.facts, item.question)
        assert steps[-1] == f"answer : {item.answer}"
        assert item.answer in item.options
        assert len(set(item.options)) == len(item.options) == 4
        assert item.facts.count("?") == 1
        assert 4 <= len(steps) <= 8
        assert sum(len(s.split()) for s in steps) <= 60
        assert all(s == " ".join(s.lower().split()) for s in steps)
        parsed = [family.parse(i, s) for i, s in enumerate(family.perception(item.facts))]
        assert sum((p or () for p in parsed), ()) == item.facts


@each_family
def test_pictures_are_reproducible_and_noted(family: Family) -> None:
    for seed in range(200):
        item = family.sample(np.random.default_rng(seed))
        canvases = [Canvas(64, np.random.default_rng(seed)) for _ in range(2)]
        for canvas in canvases:
            family.draw(canvas, item.facts)
        assert canvases[0].objects == canvases[1].objects
        assert canvases[0].finish().tobytes() == canvases[1].finish().tobytes()
        objects = canvases[0].objects
        assert all(0 < o.x < 1 and 0 < o.y < 1 for o in objects)
        words = sorted(w for o in objects for w in (o.color, o.number, o.size))
        assert [w for w in words if w] == sorted(item.facts)


@each_family
def test_most_misreadings_do_not_lead_to_the_same_answer(family: Family) -> None:
    same = total = 0
    for seed in range(50):
        item = family.sample(np.random.default_rng(seed))
        for i, fact in enumerate(item.facts):
            others = sorted({f for f in item.facts if f.isdigit() == fact.isdigit()} - {fact, "?"})
            for other in others if fact != "?" else ():
                changed = (*item.facts[:i], other, *item.facts[i + 1 :])
                total += 1
                try:
                    same += family.steps(changed, item.question)[-1] == f"answer : {item.answer}"
                except Inconsistent:
                    continue
    assert same <= 0.05 * total


# ---- the real captions -------------------------------------------------------------------------
def _lists(caption: str) -> list[list[Any]]:
    return [ast.literal_eval(x) for x in re.findall(r"\[.*?\]", caption)]


def _words(values: list[Any]) -> tuple[str, ...]:
    return tuple(str(v) for v in values)


def _flat(row: dict[str, Any]) -> tuple[str, ...]:
    return _words([w for part in _lists(row["caption"]) for w in part])


def _circle_size_number(row: dict[str, Any]) -> tuple[str, ...]:
    (numbers,) = _lists(row["caption"])
    return _words([w for n in numbers for w in (n, row["answer"] if n == "?" else n)])


def _color_number_hexagon(row: dict[str, Any]) -> tuple[str, ...]:
    colors, numbers = _lists(row["caption"])
    return _words([w for pair in zip(colors, numbers, strict=True) for w in pair])


def _color_overlap_squares(row: dict[str, Any]) -> tuple[str, ...]:
    return *_flat(row), *re.findall(r"overlap is (\w+)", row["caption"])


def _color_size_circle(row: dict[str, Any]) -> tuple[str, ...]:
    sizes, shades = _lists(row["caption"])
    by_size = dict(zip(sizes, shades, strict=True))
    medium = "light" if by_size["extra large"].startswith("very dark") else "dark"
    names = {"very dark": "darkest", "very light": "lightest", "medium": medium}
    facts: list[str] = []
    for size in ("extra large", "large", "medium"):
        shade, color = by_size[size].rsplit(" ", 1)
        facts += [names.get(shade, shade), color]
    return *facts, by_size["small"]


def _grid_number_color(row: dict[str, Any]) -> tuple[str, ...]:
    cells = [cell for part in _lists(row["caption"]) for cell in part]
    return _words([w for n, c in cells for w in (("?", "grey") if c == "?" else (n, c))])


READERS: dict[str, Callable[[dict[str, Any]], tuple[str, ...]]] = {
    "circle_size_number": _circle_size_number,
    "color_number_hexagon": _color_number_hexagon,
    "color_overlap_squares": _color_overlap_squares,
    "color_size_circle": _color_size_circle,
    "grid_number_color": _grid_number_color,
}


@pytest.mark.skipif(not REAL.is_dir(), reason="the real puzzles are not here")
@each_family
def test_rules_are_the_real_ones(family: Family) -> None:
    rows = [json.loads(line) for line in (REAL / f"{family.name}.jsonl").read_text().splitlines()]
    assert len(rows) == 50
    for row in rows:
        facts = READERS.get(family.name, _flat)(row)
        assert family.reason(facts, row["question"])[-1] == f"answer : {row['answer']}"
    ours = {family.sample(np.random.default_rng(s)).question for s in range(200)}
    assert {row["question"] for row in rows} <= ours
