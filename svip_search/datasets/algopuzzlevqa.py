"""Reads AlgoPuzzleVQA as published: planning puzzles whose records also hold the true state.

The layout is that of `puzzlevqa`, and so are the questions.  The field ``solution`` of a record holds what the
picture shows and how the puzzle is solved.  A policy or reward model must never see it, so `load_algopuzzlevqa`
leaves it out; `load_true_plans` is for oracles and for checks, and for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._types import Question
from .planning import FAMILIES, Plan, grid_of
from .planning._grid import EMPTY
from .planning.generate import _solved
from .puzzlevqa import _files, _read


def load_algopuzzlevqa(folder: str | PathLike[str], families: Sequence[str] | None = None) -> list[Question]:
    """Return the questions of a folder (or of one ``.jsonl`` file), families in alphabetical order.

    Args:
        folder: the folder, or one file of it.
        families: stems of the files to read; by default those of the eight planning families.

    Returns:
        Questions whose ``id`` is ``"<family>/<index>"`` and whose ``images`` are file paths.

    Raises:
        ValueError: the folder is missing or holds no ``.jsonl`` file, a family is unknown, a line is not usable,
            or a question is no planning question; the message names the file and the line, or the question.

    Example:
        >>> import json, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> text = "This is maze having 5 * 5 cells. What is the total number of left turns?"
        >>> record = {"question": text, "images": [], "options": [1, 2], "answer": 2, "solution": {"maze": [[1]]}}
        >>> _ = (folder / "maze.jsonl").write_text(json.dumps(record))
        >>> load_algopuzzlevqa(folder)[0].id
        'maze/0'
    """
    return [question for path in _chosen(folder, families) for question in _questions(path)]


def load_true_plans(folder: str | PathLike[str], families: Sequence[str] | None = None) -> dict[str, Plan]:
    """Return what is true of every puzzle by the id of its question, shortest plans included.

    Only for what may know the truth: an oracle, a check, the length of the plan by which a table is ordered.

    Args:
        folder: see `load_algopuzzlevqa`.
        families: see there.

    Returns:
        Plans whose question is that of `load_algopuzzlevqa`; ``seed`` is -1 and ``index`` the place in the file.

    Raises:
        ValueError: as `load_algopuzzlevqa`, or a ``solution`` is missing or does not fit the question.
    """
    found = {}
    for path in _chosen(folder, families):
        questions = _questions(path)  # which also finds the lines that cannot be read
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        for index, question in enumerate(questions):
            try:
                found[question.id] = _plan(path.stem, index, question, records[index].get("solution"))
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise ValueError(
                    f"{path}, puzzle {index}: `solution` must describe the picture of the question; "
                    f"{type(error).__name__}: {error}."
                ) from None
    return found


def _chosen(folder: str | PathLike[str], families: Sequence[str] | None) -> list[Path]:
    """Return the files to read; other families may lie in the same folder."""
    files = _files(Path(folder), families)
    return files if families is not None or len(files) == 1 else [path for path in files if path.stem in FAMILIES]


def _questions(path: Path) -> list[Question]:
    questions = list(_read(path))
    for question in questions:
        if grid_of(question.text) is None:
            raise ValueError(f"{path}: `question` must be one of the planning families; {question.id!r} is not.")
    return questions


def _plan(family: str, index: int, question: Question, solution: dict[str, Any]) -> Plan:
    grid = grid_of(question.text)
    assert grid is not None
    cells = tuple(_CELLS[grid.family](solution))
    if len(cells) != len(grid):
        raise ValueError(f"{len(grid)} cells are expected; got {len(cells)}")
    task = FAMILIES[grid.family].task(grid, question.text, cells)
    steps, length = _solved(FAMILIES[grid.family], task, np.random.default_rng(0))
    return Plan(grid.family, -1, index, question, grid, cells, tuple(steps), length)


# ---- the cells of each family ------------------------------------------------------------------------


def _checkers(solution: dict[str, Any]) -> list[str]:
    words = {"G": "green", "R": "red", "_": EMPTY}
    return [words[c] for c in solution["start_position"] + solution["end_position"]]


def _maze(solution: dict[str, Any]) -> list[str]:
    words = [["#" if wall else EMPTY for wall in row] for row in solution["maze"]]
    (entry, *_, leave) = solution["optimal_path"]
    words[entry[0]][entry[1]], words[leave[0]][leave[1]] = "entry", "exit"
    return [word for row in words for word in row]


def _boxes(solution: dict[str, Any]) -> list[str]:
    words = {"#": "#", ".": EMPTY, "": EMPTY, "B": "box", "S": "player", "T": "flag"}
    return [words[cell] for row in solution["timestep"]["grid_0"] for cell in row]


def _queens(solution: dict[str, Any]) -> list[str]:
    queens = {tuple(place) for place in solution["given_queen_positions"]}
    places = ((row, column) for row in range(solution["rows"]) for column in range(solution["columns"]))
    return ["queen" if place in queens else EMPTY for place in places]


def _tiles(solution: dict[str, Any]) -> list[str]:
    return [str(tile) if tile else EMPTY for row in solution["starting_grid"] for tile in row]


def _kiwis(solution: dict[str, Any]) -> list[str]:
    return [(EMPTY, "fresh", "rotten")[cell] for row in solution["timestep"]["minute_0"] for cell in row]


def _towers(solution: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for rods in (solution["start_position"], solution["end_position"]):  # disks of a rod from below
        for level in reversed(range(sum(map(len, rods)))):
            words += [str(rod[level]) if level < len(rod) else EMPTY for rod in rods]
    return words


def _jugs(solution: dict[str, Any]) -> list[str]:
    return [str(amount) for amount in solution["start"]]


_CELLS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "checker_move": _checkers, "maze": _maze, "move_box": _boxes, "n_queens": _queens,
    "number_slide": _tiles, "rotting_kiwi": _kiwis, "tower_of_hanoi": _towers, "water_jugs": _jugs,
}  # fmt: skip
