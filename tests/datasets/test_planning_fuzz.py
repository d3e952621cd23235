"""Planning puzzles turned and mirrored, chains of mixed quality, and texts of any kind."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import TEMPLATES, each_family, plan, plans, solve

from svip_search.datasets.planning import (
    CELL_WORDS,
    FAMILIES,
    Follower,
    Plan,
    Unreadable,
    grid_of,
    is_right,
    label_steps,
    trace,
    vocabulary,
)
from svip_search.datasets.planning._grid import LARGEST

names, indexes = st.sampled_from(sorted(FAMILIES)), st.integers(0, 9)
fuzz = settings(max_examples=100, deadline=None)

# ---- what turns and mirrors must not change ------------------------------------------------------------


def board(puzzle: Plan) -> np.ndarray:
    return np.array(puzzle.cells, dtype=object).reshape(puzzle.grid.rows, puzzle.grid.columns)


def length(question: str, cells: np.ndarray) -> int | None:
    return plans(question, tuple(cells.ravel())).length


@pytest.mark.parametrize("index", range(6))
def test_the_order_of_rods_and_jugs_does_not_matter(index: int) -> None:
    rods = plan("tower_of_hanoi", index)
    assert length(rods.question.text, board(rods)[:, [2, 0, 1]]) == rods.length
    jugs = plan("water_jugs", index)
    full, goal = (", ".join(map(str, reversed(numbers))) for numbers in (jugs.task.ask, jugs.task.goal))
    question = TEMPLATES["water_jugs"][0].format(jugs.grid.columns, full, goal)
    assert length(question, board(jugs)[:, ::-1]) == jugs.length


@pytest.mark.parametrize("index", range(6))
def test_towers_and_back_are_as_far(index: int) -> None:
    puzzle = plan("tower_of_hanoi", index)
    assert length(puzzle.question.text, np.concatenate(np.split(board(puzzle), 2)[::-1])) == puzzle.length


@pytest.mark.parametrize("index", range(6))
def test_mirrored_checkers_of_the_other_color_move_as_far(index: int) -> None:
    puzzle = plan("checker_move", index)
    other = {"green": "red", "red": "green", ".": "."}
    mirrored = np.array([other[word] for word in board(puzzle)[:, ::-1].ravel()], dtype=object)
    assert length(puzzle.question.text, mirrored) == puzzle.length


@pytest.mark.parametrize("family", ["move_box", "rotting_kiwi"])
@pytest.mark.parametrize("turn", [np.transpose, np.fliplr, np.rot90])
def test_turned_pictures_are_as_far(family: str, turn) -> None:
    for index in range(4):
        puzzle = plan(family, index)
        assert length(puzzle.question.text, turn(board(puzzle))) == puzzle.length


@pytest.mark.parametrize("index", range(6))
def test_a_mirrored_maze_turns_to_the_other_side(index: int) -> None:
    puzzle = plan("maze", index)
    rows, columns = puzzle.grid.rows, puzzle.grid.columns
    questions = [q.format(rows, columns) for q in TEMPLATES["maze"]]  # of cells, left, right, and both turns

    def answers(picture: np.ndarray) -> list[str]:
        return [solve(q, tuple(picture.ravel()))[-1] for q in questions]

    straight, mirrored = answers(board(puzzle)), answers(np.fliplr(board(puzzle)))
    assert mirrored == [straight[0], straight[2], straight[1], straight[3]]


@pytest.mark.parametrize("index", range(6))
def test_mirrored_queens_are_as_far(index: int) -> None:
    puzzle = plan("n_queens", index)
    for turn in (np.fliplr, np.flipud):
        assert solve(puzzle.question.text, tuple(turn(board(puzzle)).ravel()))[-1] == puzzle.steps[-1]


# ---- chains of mixed quality ---------------------------------------------------------------------------


@given(names, indexes, st.integers(0, 10_000), st.sampled_from((0.0, 0.2, 0.7, 1.0)))
@fuzz
def test_traces_are_sound_and_their_labels_tell_how_they_end(name: str, index: int, seed: int, slips: float) -> None:
    puzzle = plan(name, index)
    steps = trace(puzzle, np.random.default_rng(seed), slips)
    assert steps == trace(puzzle, np.random.default_rng(seed), slips)
    assert steps[-1].startswith("answer : ")
    found = label_steps(puzzle, steps)
    readings = len(FAMILIES[name].readings(puzzle.task))
    assert (found[:readings] == 1).all()
    assert np.isnan(found[readings:, 2]).all()
    follower, closing = Follower(puzzle), False
    for step, (relevance, logic, _) in zip(steps, found, strict=True):
        value = follower.value()
        follower.read(step)
        assert follower.sound or step.startswith("answer : ") or closing
        after = follower.value()
        if step.startswith("back to"):
            assert relevance == 1  # only what is lost is taken back
            assert after == logic == 1 > value
        elif re.match(r"\d+ : ", step):
            assert 0 < logic <= 1
            assert logic == pytest.approx(after)
            assert relevance == (after >= value and follower.states[-1] not in follower.states[:-1])
        elif not step.startswith(("start", "goal")):
            closing = True
            assert relevance == 1
            assert logic == after
    assert closing
    if found[-1, 1] == 1:
        assert is_right(puzzle, steps)  # a plan that is as short as can be
    if slips == 0:
        assert is_right(puzzle, steps)
        assert np.nanmin(found) == 1
    if name not in ("maze", "n_queens", "number_slide"):  # there a longer way may give the same number
        assert is_right(puzzle, steps) == (found[-1, 1] == 1)


# ---- any text ------------------------------------------------------------------------------------------


@st.composite
def wild_steps(draw, name: str, index: int) -> list[str]:
    """Steps of some puzzles of the family, cut up and put together anew, and texts of any kind."""
    ways = [s for i in (index, 0, 1) for s in (*plan(name, i).steps, *trace(plan(name, i), np.random.default_rng(i)))]
    parts = sorted({part for step in ways for part in step.split(" : ")})
    some = st.sampled_from(parts)
    counts = st.integers(0, 12).map(str)
    mixed = st.one_of(
        st.sampled_from(ways),
        st.tuples(counts, some, some).map(" : ".join),
        st.tuples(st.sampled_from(("start", "goal", "answer")), some).map(" : ".join),
        st.tuples(counts.map("back to {}".format), some).map(" : ".join),
        st.lists(st.sampled_from(vocabulary()), max_size=12).map(" ".join),
        st.text(max_size=30),
        st.tuples(st.sampled_from(("start : ", "goal : ", "1 : ", "back to 1 : ")), st.text(max_size=30)).map("".join),
    )
    steps = draw(st.lists(mixed, max_size=10))
    kept = draw(st.integers(0, len(plan(name, index).steps)))
    return [*plan(name, index).steps[:kept], *steps]


def check(puzzle: Plan, steps: list[str]) -> None:
    found = label_steps(puzzle, steps)
    assert found.shape == (len(steps), 3)
    assert not np.isnan(found[:, :2]).any()
    known = found[~np.isnan(found)]
    assert ((known >= 0) & (known <= 1)).all()
    half = len(steps) // 2
    np.testing.assert_array_equal(label_steps(puzzle, steps[:half]), found[:half])  # what comes later changes nothing
    follower = Follower(puzzle)
    for step, logic in zip(steps, found[:, 1], strict=True):
        follower.read(step)
        assert step.startswith(("start", "goal")) or logic == pytest.approx(follower.value())
    assert isinstance(follower.hopeful, bool)


@each_family
@given(data=st.data())
@settings(max_examples=35, deadline=None)
def test_any_steps_get_labels(family: str, data) -> None:
    index = data.draw(indexes)
    check(plan(family, index), data.draw(wild_steps(family, index)))


LONG = ["9" * 5000, "1 " * 5000, "start : " + "9" * 5000, "goal : " + "9 " * 3000, "1 : a : " + "| " * 3000,
        "back to 1 : " + "8" * 5000, " : " * 4000, "start : " + "² ٣ ", "answer : " + "9" * 5000,
        "start : open 1 1 boards " + "9" * 5000, "\n", "start : \n", "1 : up : \x00"]  # fmt: skip


@each_family
def test_long_and_odd_texts_get_labels(family: str) -> None:
    rules = FAMILIES[family]
    for index in range(4):
        puzzle = plan(family, index)
        check(puzzle, [*LONG, *puzzle.steps])
        for text in LONG:
            for part in (text, text.partition(" : ")[2]):
                assert grid_of(part) is None
                assert rules.parse(puzzle.task, part, 1) is None
                rules.parse_goal(puzzle.task, part)


@given(names, indexes, st.text(max_size=60), st.integers(0, 9))
@fuzz
def test_any_text_is_parsed_or_not(name: str, index: int, text: str, depth: int) -> None:
    puzzle, rules = plan(name, index), FAMILIES[name]
    for words in (text, text.translate(str.maketrans("abcdefghijkl", "0123456789.|"))):
        for state in (rules.parse(puzzle.task, words, depth), rules.parse_goal(puzzle.task, words)):
            assert state is None or hash(state) is not None


@given(names, indexes, st.data())
@fuzz
def test_a_changed_question_or_picture_is_a_task_or_unreadable(name: str, index: int, data) -> None:
    """What is read wrongly is another task, which can be planned, or none."""
    puzzle, rules = plan(name, index), FAMILIES[name]
    question, cells = puzzle.question.text, list(puzzle.cells)
    for found in sorted(set(re.findall(r"\d+|minimum|maximum|left|right|How|row", question)))[:6]:
        if data.draw(st.integers(0, 3)) == 0:
            other = data.draw(st.sampled_from(("0", "1", "3", "8", "14", "17", "999", "9" * 5000, "left", "")))
            question = re.sub(rf"\b{found}\b", other, question)
    grid = grid_of(question)
    assert grid is None or max(grid.rows, grid.columns) <= LARGEST
    if grid is None or grid.family != name:
        grid = puzzle.grid
    cells = (cells * len(grid))[: len(grid)]
    for _ in range(data.draw(st.integers(0, 3))):
        cells[data.draw(st.integers(0, len(cells) - 1))] = data.draw(st.sampled_from((*CELL_WORDS, *puzzle.cells)))
    try:
        task = rules.task(grid, question, tuple(cells))
    except Unreadable:
        return
    found = plans(question, tuple(cells)) if grid_of(question) == grid else None
    assert found is None or found.length is None or found.length >= 0
    assert rules.show(task, task.start)
    assert all(rules.show(task, after) for _, after in rules.moves(task, task.start))


@given(st.text(max_size=200), names)
@fuzz
def test_any_question_has_a_grid_or_none(text: str, name: str) -> None:
    grid_of(text)
    template = TEMPLATES[name][0]
    middle = len(template) // 2
    for mutated in (template, template[:middle] + text + template[middle:], template.replace("{}", text[:3] or "4")):
        grid = grid_of(mutated)
        assert grid is None or (0 < grid.rows <= LARGEST and 0 < grid.columns <= LARGEST)


def test_a_question_that_repeats_itself_is_read_in_no_time() -> None:
    for start in (
        "storekeeper ",
        "checker game ",
        "given a 3 x 3 grid in which each cell ",
        "given 3 jugs of capacities ",
    ):
        assert grid_of(start * 20_000) is None
