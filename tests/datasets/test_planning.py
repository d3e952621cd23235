"""Planning puzzles: what holds for all of them, and labels of chains that are written by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from plan_cases import TEMPLATES, by_hand, each_family, labels, plan

from svip_search.datasets.planning import (
    CELL_WORDS,
    FAMILIES,
    Follower,
    Unreadable,
    generate_plan,
    grid_of,
    is_right,
    label_steps,
    phrases,
    vocabulary,
)  # fmt: skip
from svip_search.models.puzzle_processor import make_tokenizer

NO = -1  # what `labels` writes for NaN

# ---- puzzles -------------------------------------------------------------------------------------------


@each_family
def test_puzzles_are_sound(family: str) -> None:
    for index in range(20):
        puzzle = plan(family, index)
        question = puzzle.question
        assert (puzzle.family, puzzle.seed, puzzle.index, puzzle.grid.family) == (family, 23, index, family)
        assert puzzle.grid == grid_of(question.text) == grid_of(f"USER: <image> {question.text.upper()} Options: 1, 2")
        assert len(puzzle.cells) == len(puzzle.grid)
        assert set(puzzle.cells) <= set(CELL_WORDS)
        assert len(set(question.options)) == len(question.options) == 4
        assert puzzle.answer in question.options
        assert puzzle.image.mode == "RGB"
        low, high = FAMILIES[family].usual
        assert low <= puzzle.length <= high
        assert puzzle.length == puzzle.plans.length
        moves = [s for s in puzzle.steps if re.match(r"\d+ : ", s)]
        assert [int(s.split()[0]) for s in moves] == list(range(1, puzzle.length + 1))


@each_family
def test_right_chains_have_no_blemish(family: str) -> None:
    for index in range(20):
        puzzle, follower = plan(family, index), Follower(plan(family, index))
        readings = len(FAMILIES[family].readings(puzzle.task))
        for i, step in enumerate(puzzle.steps):
            assert follower.read(step)[:2] == (1, 1), step
            assert follower.hopeful
            assert follower.depth == min(max(i + 1 - readings, 0), puzzle.length)
        found = label_steps(puzzle, puzzle.steps)
        assert found.dtype == np.float32
        assert np.isnan(found[:, 2]).tolist() == [i >= readings for i in range(len(puzzle.steps))]
        assert np.nanmin(found) == 1
        assert puzzle.steps[-1] == f"answer : {puzzle.answer}"
        assert is_right(puzzle, puzzle.steps)
        assert not is_right(puzzle, puzzle.steps[:-1])
        assert not is_right(puzzle, [])


@each_family
def test_states_are_read_as_they_are_shown(family: str) -> None:
    """What is read from the words of a state is that state; a maze's words do not tell the direction."""
    rules = FAMILIES[family]
    for index in range(10):
        task, state, depth = plan(family, index).task, plan(family, index).task.start, 0
        while True:
            shown = rules.show(task, state)
            read = rules.parse(task, shown, depth)
            assert (read[:2] + read[3:] == state[:2] + state[3:]) if family == "maze" else read == state
            assert rules.show(task, read) == shown
            after = list(rules.moves(task, state))
            assert len({action for action, _ in after}) == len(after)
            if not after or depth == 4:
                break
            state, depth = after[index % len(after)][1], depth + 1
        if rules.shows_goal:
            assert rules.parse_goal(task, rules.show_goal(task)) == task.goal


def test_the_same_arguments_give_the_same_puzzle() -> None:
    for index in range(16):
        one, other = generate_plan(7, index, pixels=64), generate_plan(7, index, pixels=64)
        assert one.image.tobytes() == other.image.tobytes()
        assert (one.steps, one.cells, one.question.text, one.question.options, one.question.id) == (
            other.steps, other.cells, other.question.text, other.question.options, other.question.id
        )  # fmt: skip
    several = {generate_plan(seed, i, pixels=64).cells for seed in (7, 8) for i in range(16)}
    assert len(several) >= 31  # jugs could be alike by chance


def test_families_pixels_and_plain_are_kept() -> None:
    drawn = [generate_plan(1, i, families=["maze", "water_jugs"], pixels=64, plain=True) for i in range(12)]
    assert {p.family for p in drawn} == {"maze", "water_jugs"}
    assert all(max(p.image.size) == 64 for p in drawn)
    assert {generate_plan(1, i, pixels=64).family for i in range(60)} == set(FAMILIES)


@each_family
def test_moves_are_kept_where_there_are_such_plans(family: str) -> None:
    low = 3 if family == "maze" else 2
    lengths = [plan(family, i, (low, low)).length for i in range(3)]
    assert lengths == [low] * 3


def test_no_plan_is_longer_than_the_family_has() -> None:
    assert plan("tower_of_hanoi", 0, (500, 900)).length == FAMILIES["tower_of_hanoi"].longest == 63
    assert plan("n_queens", 0, (1, 1)).length == 2  # one queen alone has no distance


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"families": ["sudoku", "maze"]}, r"`families` must name families of \[.*'maze'.*\]; got \['sudoku'\]"),
        ({"families": []}, r"`families` must name .*; got \[\]"),
        ({"index": -1}, "`index` must be >= 0; got -1"),
        ({"seed": -2}, "`seed` must be >= 0; got -2"),
        ({"moves": (0, 3)}, r"`moves` must be .* 1 <= least <= most; got \(0, 3\)"),
        ({"moves": (4, 3)}, r"`moves` must be .*; got \(4, 3\)"),
        ({"pixels": 8}, "`pixels` must be at least 32; got 8"),
    ],
)
def test_a_bad_argument_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_plan(**{"seed": 0, "index": 0, **given})


# ---- words ---------------------------------------------------------------------------------------------


def test_all_that_is_written_is_known_to_the_tokenizer() -> None:
    """But for the article before a board of 8 or 11 rows, which says nothing."""
    tokenizer = make_tokenizer(vocabulary(), phrases())
    for family in FAMILIES:
        for moves, index in [(None, i) for i in range(20)] + [((9, 12), i) for i in range(2)]:
            puzzle = plan(family, index, moves)
            asked = f"{puzzle.question.text} Options: {', '.join(puzzle.question.options)}"
            for text in (asked, "\n".join((*puzzle.steps, "back to 3 : "))):
                found = tokenizer(text, return_offsets_mapping=True)
                ids, places = found["input_ids"], found["offset_mapping"]
                unknown = {text[a:b] for i, (a, b) in zip(ids, places, strict=True) if i == tokenizer.unk_token_id}
                assert unknown <= ({"an"} if family == "n_queens" else set()), text
            assert len(tokenizer(asked)["input_ids"]) <= 60


def test_phrases_are_those_of_the_templates() -> None:
    longest_first = [len(p) for p in phrases()]
    assert longest_first == sorted(longest_first, reverse=True)
    assert all(any(p in t.lower() for ts in TEMPLATES.values() for t in ts) for p in phrases())
    assert all(p == p.strip().lower() for p in phrases())


# ---- questions that do not fit their pictures ----------------------------------------------------------

UNREADABLE = {
    "checkers that change": ("checker_move", (3, 1, 1, 2, 2), "green . red red . red", "same checkers"),
    "a maze without an exit": ("maze", (3, 3), "# # # entry . # # # #", "one entry and one exit"),
    "a maze with a loop": ("maze", (3, 3), ". . # entry . exit . . .", "one way only"),
    "two boxes": ("move_box", (2, 2), "box box player flag", "one box, one player and one flag"),
    "queens in a row": ("n_queens", ("a", 2, 2, 2, 2), "queen queen . .", "no row can have two"),
    "queens that threaten": ("n_queens", ("a", 2, 2, 2, 2), "queen . . queen", "can threaten"),
    "a board that is no square": ("n_queens", ("a", 2, 3, 2, 2), ". . . . . .", "must be square"),
    "a board too large": ("n_queens", ("a", 12, 12, 12, 0), " ".join("." * 144), "at most 11 rows"),
    "a tile twice": ("number_slide", (2, 2, 3, 1, "", "up", "row"), "1 1 . 2", "1 to 3"),
    "a long board": ("number_slide", (1, 2, 1, 1, "", "left", "row"), "1 .", "must be square"),
    "a sequence too short": ("number_slide", (2, 2, 3, 2, "s", "up", "row"), "1 2 3 .", "2 directions"),
    "a sequence too long": ("number_slide", (2, 2, 3, 9, "s", "up", "row"), "1 2 3 .", "at most 8 moves"),
    "a green kiwi": ("rotting_kiwi", (1, 2), "green fresh", "empty, fresh or rotten"),
    "a disk on a smaller one": ("tower_of_hanoi", (3, 2), "2 . . 1 . . 1 . . 2 . .", "each on a larger"),
    "four rods": ("tower_of_hanoi", (4, 1), "1 . . . . 1 . .", "each on a larger"),
    "a jug too full": ("water_jugs", (2, "5, 3", "2, 3"), "6 0", "more than its capacity"),
    "a jug too few": ("water_jugs", (2, "5, 3", "2, 3, 1"), "5 0", "as many"),
    "jugs too large": ("water_jugs", (3, "900, 800, 700", "2, 3, 1"), "5 0 1", "more than 400000 states"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_pictures_that_do_not_fit_are_refused(name: str) -> None:
    family, said, cells, message = UNREADABLE[name]
    question = TEMPLATES[family][0].format(*said)
    grid, words = grid_of(question), tuple(cells.split())
    assert grid is not None
    assert len(grid) == len(words)
    with pytest.raises(Unreadable, match=message):
        FAMILIES[family].task(grid, question, words)


def test_boards_are_counted_after_few_moves_only() -> None:
    question = TEMPLATES["number_slide"][4].format(2, 2, 3, 6, "s")
    with pytest.raises(Unreadable, match="after at most 5 moves"):
        FAMILIES["number_slide"].task(grid_of(question), question, ("1", "2", "3", "."))


@pytest.mark.parametrize("size", ["0 * 5", "5 * 17", "999 * 999", "5 x 5", "5 * ", "1000 * 3"])
def test_no_grid_is_made_of_what_is_none(size: str) -> None:
    assert grid_of(f"This is maze having {size} cells.") is None


def test_the_case_of_a_question_does_not_change_what_a_maze_asks() -> None:
    puzzle = next(p for p in (plan("maze", i) for i in range(50)) if p.task.ask == "cells")
    assert FAMILIES["maze"].task(puzzle.grid, puzzle.question.text.lower(), puzzle.cells).ask == "cells"
    with pytest.raises(Unreadable, match="ask for cells or for turns"):
        FAMILIES["maze"].task(puzzle.grid, "This is maze having 5 * 5 cells.", puzzle.cells)


# ---- labels --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def towers():
    """Two disks from the first rod to the last: three moves."""
    return by_hand(TEMPLATES["tower_of_hanoi"][0].format(3, 2), "1 . . 2 . .  . . 1 . . 2")


TOWERS = {
    "right": (["1 : 1 > 2 : 2 3 | 1 3", "2 : 1 > 3 : 2 3 | 3 3", "3 : 2 > 3 : 3 3 | 3 3", "answer : 3"],
              [(1, 1, NO)] * 4),
    "a detour, then back": (["1 : 1 > 3 : 3 3 | 1 3", "back to 0 : 1 3 | 1 3", "1 : 1 > 2 : 2 3 | 1 3"],
                            [(0, 0.2, NO), (1, 1, NO), (1, 1, NO)]),
    "a detour that is kept": (["1 : 1 > 3 : 3 3 | 1 3", "2 : 3 > 2 : 2 3 | 1 3", "3 : 1 > 3 : 2 3 | 3 3",
                               "4 : 2 > 3 : 3 3 | 3 3", "answer : 4"],
                              [(0, 0.2, NO), (1, 0.2, NO), (1, 0.2, NO), (1, 0.2, NO), (1, 0, NO)]),
    "a loop": (["1 : 1 > 2 : 2 3 | 1 3", "2 : 2 > 1 : 1 3 | 1 3"], [(1, 1, NO), (0, 0.04, NO)]),
    "back for nothing": (["1 : 1 > 2 : 2 3 | 1 3", "back to 0 : 1 3 | 1 3"], [(1, 1, NO), (0, 1, NO)]),
    "back to where it was not": (["1 : 1 > 2 : 2 3 | 1 3", "back to 0 : 2 3 | 1 3"], [(1, 1, NO), (0, 0, NO)]),
    "back to what is yet to come": (["back to 1 : 2 3 | 1 3"], [(0, 0, NO)]),
    "a move that is illegal": (["1 : 1 > 2 : 2 3 | 1 3", "2 : 1 > 2 : 2 3 | 2 3", "3 : 2 > 3 : 2 3 | 3 3"],
                               [(1, 1, NO), (1, 0, NO), (1, 0, NO)]),
    "a state that does not follow": (["1 : 1 > 2 : 3 3 | 1 3", "2 : 3 > 2 : 2 3 | 1 3"], [(1, 0, NO), (1, 0, NO)]),
    "a leap to the goal": (["1 : 1 > 3 : 3 3 | 3 3", "answer : 1"], [(1, 0, NO), (1, 0, NO)]),
    "a leap to near the goal": (["1 : 1 > 3 : 2 3 | 3 3", "2 : 2 > 3 : 3 3 | 3 3", "answer : 2"],
                                [(1, 0, NO)] * 3),
    "a wrong move taken back": (["1 : 1 > 2 : 2 3 | 1 3", "2 : 1 > 2 : 2 3 | 2 3", "back to 1 : 2 3 | 1 3",
                                 "2 : 1 > 3 : 2 3 | 3 3"], [(1, 1, NO), (1, 0, NO), (1, 1, NO), (1, 1, NO)]),
    "a number too high": (["2 : 1 > 2 : 2 3 | 1 3"], [(1, 0, NO)]),
    "a number twice": (["1 : 1 > 2 : 2 3 | 1 3", "1 : 1 > 3 : 2 3 | 3 3"], [(1, 1, NO), (1, 0, NO)]),
    "an answer too early": (["answer : 3"], [(1, 0, NO)]),
    "a wrong answer": (["1 : 1 > 2 : 2 3 | 1 3", "2 : 1 > 3 : 2 3 | 3 3", "3 : 2 > 3 : 3 3 | 3 3", "answer : 4"],
                       [(1, 1, NO)] * 3 + [(1, 0, NO)]),
    "beside the point": (["the disks are round", "row 1 : red", ""], [(0, 1, NO)] * 3),
    "said twice": (["start : 1 3 | 1 3"], [(0.5, 1, 1)]),
    "a goal misread late": (["start : 1 2 | 1 3", "1 : 1 > 3 : 3 3 | 1 3"], [(0.5, 1, 0.8), (1, 0, NO)]),
}  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_labels_of_towers(towers, name: str) -> None:
    steps, expected = TOWERS[name]
    assert labels(towers, *steps) == expected


def test_from_a_misread_start_nothing_is_reached(towers) -> None:
    """The reading is a matter of attribute; what builds on it does not reach the goal of this puzzle."""
    steps = [
        "start : 1 3 | 2 3",
        "1 : 2 > 3 : 1 3 | 3 3",
        "2 : 1 > 3 : 3 3 | 3 3",
        "answer : 2",
    ]
    expected = np.array([[1, 1, 0.8], [1, 0, NO], [1, 0, NO], [1, 0, NO]], np.float32)
    np.testing.assert_array_equal(np.nan_to_num(label_steps(towers, steps), nan=NO), expected)
    assert not is_right(towers, steps)
    follower = Follower(towers)
    follower.read(steps[0])
    assert not follower.sound
    assert not follower.hopeful


@pytest.fixture(scope="module")
def corridor():
    """One corner, and a side way that leads nowhere."""
    cells = "# # # # #  entry . . . #  # # # . #  # . . . #  # # # exit #"
    return by_hand(TEMPLATES["maze"][0].format(5, 5), cells)


CORRIDOR = {
    "right": (["1 : right 3 : 2 4 cells 4 left 0 right 0", "2 : down 3 : 5 4 cells 7 left 0 right 1", "answer : 7"],
              [(1, 1, NO)] * 3),
    "lost, then back": (["1 : right 3 : 2 4 cells 4 left 0 right 0", "2 : down 2 : 4 4 cells 6 left 0 right 1",
                         "3 : right 2 : 4 2 cells 8 left 0 right 2", "back to 1 : 2 4 cells 4 left 0 right 0",
                         "2 : down 3 : 5 4 cells 7 left 0 right 1", "answer : 7"],
                        [(1, 1, NO), (0, 0.04, NO), (1, 0, NO), (1, 1, NO), (1, 1, NO), (1, 1, NO)]),
    "into the dead end": (["1 : right 3 : 2 4 cells 4 left 0 right 0", "2 : down 2 : 4 4 cells 6 left 0 right 1",
                           "3 : left 2 : 4 2 cells 8 left 0 right 2", "answer : 8"],
                          [(1, 1, NO), (0, 0.04, NO), (1, 0.04, NO), (1, 0, NO)]),
    "through a wall": (["1 : down 3 : 5 1 cells 4 left 0 right 0"], [(1, 0, NO)]),
    "a turn miscounted": (["1 : right 3 : 2 4 cells 4 left 0 right 0", "2 : down 3 : 5 4 cells 7 left 1 right 0"],
                          [(1, 1, NO), (1, 0, NO)]),
    "not where one can turn": (["1 : right 2 : 2 3 cells 3 left 0 right 0"], [(1, 0, NO)]),
    "too early": (["1 : right 3 : 2 4 cells 4 left 0 right 0", "answer : 4"], [(1, 1, NO), (1, 0, NO)]),
    "half of the start": (["start : 2 3 cells 1 left 0 right 0"], [(0.5, 1, 0.875)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRIDOR)
def test_labels_of_a_maze(corridor, name: str) -> None:
    steps, expected = CORRIDOR[name]
    assert labels(corridor, *steps) == expected


@pytest.fixture(scope="module")
def jugs():
    """8 and 5 and 3 litres; two pourings."""
    return by_hand(TEMPLATES["water_jugs"][0].format(3, "8, 5, 3", "3, 2, 3"), "8 0 0")


JUGS = {
    "right": (["1 : 1 > 2 : 3 8 3 | 5 5 2 | 0 3 3", "2 : 2 > 3 : 3 8 3 | 2 5 2 | 3 3 3", "answer : 2"],
              [(1, 1, NO)] * 3),
    "a longer way": (["1 : 1 > 3 : 5 8 3 | 0 5 2 | 3 3 3", "2 : 3 > 1 : 8 8 3 | 0 5 2 | 0 3 3",
                      "back to 0 : 8 8 3 | 0 5 2 | 0 3 3", "1 : 1 > 2 : 3 8 3 | 5 5 2 | 0 3 3"],
                     [(0, 0.04, NO), (0, 0.04, NO), (1, 1, NO), (1, 1, NO)]),
    "split water": (["1 : 1 > 2 : 4 8 3 | 4 5 2 | 0 3 3"], [(1, 0, NO)]),
    "too much": (["1 : 1 > 3 : 4 8 3 | 0 5 2 | 4 3 3", "answer : 1"], [(1, 0, NO), (1, 0, NO)]),
    "misread": (["start : 8 8 3 | 1 5 2 | 0 3 3"], [(0.5, 1, 0.9091)]),
    "from an empty jug": (["1 : 2 > 3 : 8 8 3 | 0 5 2 | 0 3 3"], [(1, 0, NO)]),
}  # fmt: skip


def test_a_goal_where_none_is_stated_is_beside_the_point() -> None:
    assert labels(plan("rotting_kiwi", 0), "goal : fresh") == [(0, 1, NO)]


@pytest.mark.parametrize("name", JUGS)
def test_labels_of_jugs(jugs, name: str) -> None:
    steps, expected = JUGS[name]
    assert labels(jugs, *steps) == expected


def test_labels_of_the_last_steps() -> None:
    """A sum that is wrong, an order that is wrong, and steps that are left out."""
    queens = by_hand(TEMPLATES["n_queens"][0].format("a", 4, 4, 4, 2), ". queen . .  . . . .  queen . . .  . . . .")
    placed = ["1 : row 2 column 4 : 2 4 1 .", "2 : row 4 column 3 : 2 4 1 3"]
    assert labels(queens, *placed, "distance 2 + 1 = 3", "answer : 3") == [(1, 1, NO)] * 4
    assert labels(queens, *placed, "distance 2 + 1 = 4", "answer : 4")[2:] == [(1, 0, NO)] * 2
    assert labels(queens, *placed, "answer : 3")[2:] == [(1, 0, NO)]
    assert labels(queens, *placed, "2 + 1 = 3")[2:] == [(0, 1, NO)]  # beside the point, and no harm done


@each_family
def test_a_plan_from_a_start_that_cannot_be_read(family: str) -> None:
    """What follows from nothing leads nowhere."""
    puzzle = plan(family, 1)
    readings = len(FAMILIES[family].readings(puzzle.task))
    found = label_steps(puzzle, ["start : nonsense", *puzzle.steps[1:]])
    assert found[0].tolist() == [1, 1, 0]
    assert (found[readings:, 1] == 0).all()


@pytest.mark.parametrize("index", range(4))
def test_a_leap_is_no_gain(index: int) -> None:
    """Moves that are left out are one wrong step; what follows from it is worth nothing."""
    puzzle = plan("tower_of_hanoi", index, (5, 5))
    leap, last = (re.sub(r"^\d+", n, puzzle.steps[i]) for n, i in (("1", 5), ("2", 6)))
    assert labels(puzzle, leap, last, "answer : 2") == [(1, 0, NO)] * 3


def test_labels_of_no_steps() -> None:
    assert label_steps(plan("maze", 0), []).shape == (0, 3)


def test_options_do_not_tell_the_answer() -> None:
    """Each rank among the options is as likely, where there is room: a policy learns any hint before it plans."""
    from svip_search.datasets.planning._family import choices

    rng = np.random.default_rng(0)
    ranks = np.zeros(4)
    for _ in range(4000):
        options = [int(o) for o in choices(rng, 9, 1, 3)]
        assert len(set(options)) == 4
        ranks[sorted(options).index(9)] += 1
    assert (abs(ranks / 4000 - 0.25) < 0.04).all()
    assert all(min(map(int, choices(rng, 1, 1, 3))) == 1 for _ in range(50))
