"""The loader keeps the solution from solvers, and true plans are what the records say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from svip_search.datasets.algopuzzlevqa import load_algopuzzlevqa, load_true_plans
from svip_search.datasets.planning import FAMILIES, generate_plan

TEXT = "This is maze having 3 * 3 cells. How many cells do you need to visit in this optimal path?"
MAZE = {"maze": [[1, 1, 1], [0, 0, 0], [1, 1, 1]], "optimal_path": [[1, 0], [1, 1], [1, 2]]}
GOOD: dict[str, Any] = {"question": TEXT, "image": "a.jpg", "options": ["2", "3"], "answer": "3", "solution": MAZE}


def write(folder: Path, *records: Any, name: str = "maze") -> Path:
    (folder / "a.jpg").touch()
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder


def solution_of(family: str, cells: tuple[str, ...], rows: int, columns: int) -> dict[str, Any]:
    """The published form of the cells."""
    grid = [list(cells[i * columns : (i + 1) * columns]) for i in range(rows)]
    if family == "checker_move":
        text = ["".join({"green": "G", "red": "R", ".": "_"}[c] for c in row) for row in grid]
        return {"start_position": text[0], "end_position": text[1]}
    if family == "maze":
        ends = [list(divmod(cells.index(word), columns)) for word in ("entry", "exit")]
        return {"maze": [[int(c == "#") for c in row] for row in grid], "optimal_path": ends}
    if family == "move_box":
        words = {"box": "B", "player": "S", "flag": "T"}
        return {"timestep": {"grid_0": [[words.get(c, c) for c in row] for row in grid]}}
    if family == "n_queens":
        queens = [[r, c] for r in range(rows) for c in range(columns) if grid[r][c] == "queen"]
        return {"rows": rows, "columns": columns, "given_queen_positions": queens}
    if family == "number_slide":
        return {"starting_grid": [[0 if c == "." else int(c) for c in row] for row in grid]}
    if family == "rotting_kiwi":
        return {"timestep": {"minute_0": [[[".", "fresh", "rotten"].index(c) for c in row] for row in grid]}}
    if family == "tower_of_hanoi":
        half = rows // 2
        rods = [[[int(row[k]) for row in reversed(part) if row[k] != "."] for k in range(columns)]
                for part in (grid[:half], grid[half:])]  # fmt: skip
        return {"start_position": rods[0], "end_position": rods[1]}
    return {"start": [int(c) for c in cells]}


@pytest.mark.parametrize("family", FAMILIES)
def test_true_plans_are_those_of_the_cells(tmp_path: Path, family: str) -> None:
    plan = generate_plan(7, 3, families=[family], pixels=64)
    solution = solution_of(family, plan.cells, plan.grid.rows, plan.grid.columns)
    record = {"question": plan.question.text, "image": "a.jpg", "options": list(plan.question.options),
              "answer": plan.answer, "solution": solution}  # fmt: skip
    folder = write(tmp_path, record, name=family)
    (question,) = load_algopuzzlevqa(folder)
    found = load_true_plans(folder)[question.id]
    assert (found.cells, found.length, found.answer) == (plan.cells, plan.length, plan.answer)
    assert found.question == question
    assert found.steps[-1] == f"answer : {plan.answer}"


def test_the_solution_stays_behind(tmp_path: Path) -> None:
    (question,) = load_algopuzzlevqa(write(tmp_path, GOOD))
    assert "optimal_path" not in repr(question)
    assert question.id == "maze/0"


def test_other_families_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, GOOD | {"question": "Which colour?"}, name="colours")
    assert [q.id for q in load_algopuzzlevqa(write(tmp_path, GOOD))] == ["maze/0"]
    with pytest.raises(ValueError, match="one of the planning families; 'colours/0' is not"):
        load_algopuzzlevqa(tmp_path, ["colours"])


@pytest.mark.parametrize(
    "solution",
    [
        None,
        {},
        [],
        {"maze": [[1]], "optimal_path": [[0, 0], [0, 0]]},
        MAZE | {"optimal_path": [[9, 9], [0, 0]]},
        MAZE | {"optimal_path": [[1, 0]]},
        {"maze": [[1, 1, 1], [0, 1, 0], [1, 1, 1]], "optimal_path": [[1, 0], [1, 2]]},
    ],
)
def test_a_solution_that_does_not_fit_is_named(tmp_path: Path, solution: Any) -> None:
    folder = write(tmp_path, GOOD | {"solution": solution})
    assert len(load_algopuzzlevqa(folder)) == 1
    with pytest.raises(ValueError, match=r"maze\.jsonl, puzzle 0: `solution` must describe"):
        load_true_plans(folder)


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with (tmp_path / "maze.jsonl").open("a") as file:
        file.write("\n{")
    for load in (load_algopuzzlevqa, load_true_plans):
        with pytest.raises(ValueError, match=r"maze\.jsonl, line 2: not valid JSON"):
            load(tmp_path)
