"""What the two embedded domains have in common: a drawn puzzle has a recipe, a scene and the truth of any chain.

================ ================================================== ==========================
domain           recipe                                             puzzles
================ ================================================== ==========================
``puzzles``      ``{"puzzle": [seed, index], "pixels": n}``         `svip_search.datasets.puzzles`
``planning``     ``{"plan": [seed, index], "pixels": n}``, and      `svip_search.datasets.planning`
                 ``"families"``, ``"moves"`` where they were given
================ ================================================== ==========================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import planning, puzzles
from .planning import Plan, generate_plan
from .puzzles import Puzzle, generate_puzzle
from .puzzles import labels as puzzle_labels

Drawn = Puzzle | Plan
DOMAINS = ("puzzles", "planning")


def recipe(drawn: Drawn) -> dict[str, Any]:
    """Return what a record says of a picture that can be drawn again."""
    place, pixels = [drawn.seed, drawn.index], max(drawn.image.size)
    if isinstance(drawn, Puzzle):
        return {"puzzle": place, "pixels": pixels}
    found: dict[str, Any] = {"plan": place, "pixels": pixels}
    if drawn.families is not None:
        found["families"] = list(drawn.families)
    if drawn.moves is not None:
        found["moves"] = list(drawn.moves)
    return found


def domain_of(image: Mapping[str, Any]) -> str:
    """Return the domain of a recipe."""
    return "planning" if "plan" in image else "puzzles"


def draw_again(image: Mapping[str, Any]) -> Drawn:
    """Return what a recipe describes."""
    return _draw_again(json.dumps(image, sort_keys=True))


@lru_cache(maxsize=64)  # the trajectories of a puzzle stand together
def _draw_again(text: str) -> Drawn:
    image = json.loads(text)
    if domain_of(image) == "puzzles":
        return generate_puzzle(*image["puzzle"], pixels=image["pixels"])
    moves = image.get("moves")
    return generate_plan(
        *image["plan"], pixels=image["pixels"], families=image.get("families"), moves=moves and (moves[0], moves[1])
    )


def label_steps(drawn: Drawn, steps: Sequence[str]) -> NDArray[np.float32]:
    """Return the labels [T, 3] that the truth of a puzzle gives a chain about it, NaN where it says nothing."""
    return planning.label_steps(drawn, steps) if isinstance(drawn, Plan) else puzzle_labels.label_steps(drawn, steps)


def is_right(drawn: Drawn, steps: Sequence[str]) -> bool:
    """Return whether a chain ends in the true answer."""
    return bool(steps) and steps[-1] == f"answer : {drawn.answer}"


def scene_of(drawn: Drawn) -> str:
    """Return a name for what a puzzle asks and shows, however it is drawn: 16 hexadecimal digits."""
    shown = drawn.cells if isinstance(drawn, Plan) else drawn.facts
    key = json.dumps([drawn.family, drawn.question.text, shown])
    return blake2b(key.encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=2)
def generator_version(domain: str = "puzzles") -> str:
    """Return a name for what the generator of a domain draws: it changes when a seed no longer means the same scene.

    Args:
        domain: ``puzzles`` or ``planning``.

    Example:
        >>> generator_version().startswith("puzzles-"), generator_version("planning").startswith("plans-")
        (True, True)
    """
    digest = blake2b(digest_size=5)
    parts = _pattern_scenes() if domain == "puzzles" else _plan_scenes()
    for part in parts:
        digest.update(repr(part).encode())
    return f"{'puzzles' if domain == 'puzzles' else 'plans'}-{digest.hexdigest()}"


def _pattern_scenes() -> list[Any]:
    found = []
    for family in puzzles.FAMILIES:
        puzzle = generate_puzzle(0, 0, pixels=8, families=[family])
        asked = puzzle.question
        objects = [(round(o.x, 3), round(o.y, 3), o.shape, o.color, o.number, o.size) for o in puzzle.objects]
        found.append((asked.text, asked.options, asked.answer, puzzle.facts, puzzle.steps, objects))
    return found


def _plan_scenes() -> list[Any]:
    """Of the chains the readings: which of the shortest plans they tell depends on how the picture is drawn."""
    drawn = [
        generate_plan(0, 0, pixels=32, families=[family], moves=moves, plain=True)
        for family in planning.FAMILIES for moves in (None, (3, 5))
    ]  # fmt: skip
    told = [planning.FAMILIES[p.family].readings(p.task) for p in drawn]
    return [(p.question.text, p.question.options, p.answer, p.cells, t) for p, t in zip(drawn, told, strict=True)]
