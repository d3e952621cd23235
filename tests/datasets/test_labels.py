"""Labels of steps: hand-written cases where the three dimensions disagree, and what always holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search.datasets.puzzles import FAMILIES, generate_puzzle
from svip_search.datasets.puzzles._family import Inconsistent
from svip_search.datasets.puzzles.labels import corrupt, is_right, label_steps

NAN = float("nan")


@pytest.fixture
def venn():
    """Circles 2, 9, ? with overlaps 11 and 17: the answer is 8."""
    for index in range(20_000):
        puzzle = generate_puzzle(0, index, pixels=8, families=["venn"])
        if puzzle.facts == ("2", "9", "?", "11", "17"):
            return puzzle
    raise AssertionError("the puzzle is not among the first 20,000")


CASES = {
    "right": (
        ["circles : 2 9 ?", "overlaps : 11 17", "pattern : 9 + 2 = 11 so overlap is the sum",
         "missing circle : 17 - 9 = 8", "answer : 8"],
        [[1, 1, 1], [1, 1, 1], [1, 1, NAN], [1, 1, NAN], [1, 1, NAN]],
    ),
    "misread, then reasoned soundly": (
        ["circles : 2 9 ?", "overlaps : 11 16", "pattern : 9 + 2 = 11 so overlap is the sum",
         "missing circle : 16 - 9 = 7", "answer : 7"],
        [[1, 1, 1], [1, 1, 0.5], [1, 1, NAN], [1, 1, NAN], [1, 1, NAN]],
    ),
    "read well, reasoned badly": (
        ["circles : 2 9 ?", "overlaps : 11 17", "pattern : 9 + 2 = 11 so overlap is the sum",
         "missing circle : 17 - 9 = 6", "answer : 6"],
        [[1, 1, 1], [1, 1, 1], [1, 1, NAN], [1, 0, NAN], [1, 0, NAN]],
    ),
    "true, but said twice": (
        ["circles : 2 9 ?", "circles : 2 9 ?", "overlaps : 11 17"],
        [[1, 1, 1], [0.5, 1, 1], [1, 1, 1]],
    ),
    "beside the point": (
        ["circles : 2 9 ?", "row 1 : red red blue"],
        [[1, 1, 1], [0, 0, NAN]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_written_cases(venn, name):
    steps, expected = CASES[name]
    np.testing.assert_array_equal(label_steps(venn, steps), np.array(expected, np.float32))


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_right_chain_has_no_blemish(index):
    puzzle = generate_puzzle(3, index, pixels=8)
    assert np.nanmin(label_steps(puzzle, puzzle.steps)) == 1
    assert is_right(puzzle, puzzle.steps)


@given(st.integers(0, 10_000), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_labels_of_corrupted_chains(index, seed):
    puzzle = generate_puzzle(3, index, pixels=8)
    steps = corrupt(puzzle, np.random.default_rng(seed))
    labels = label_steps(puzzle, steps)
    assert labels.shape == (len(steps), 3)
    known = labels[~np.isnan(labels)]
    assert ((known >= 0) & (known <= 1)).all()
    assert not np.isnan(labels[:, :2]).any()
    if not is_right(puzzle, steps) and steps[-1].startswith("answer"):
        assert np.nanmin(labels) < 1  # a wrong answer never comes without a flawed step
    # causal: a later step never changes the label of an earlier one
    np.testing.assert_array_equal(label_steps(puzzle, steps[:2]), labels[:2])


@given(st.text(max_size=80), st.integers(0, 40))
@settings(max_examples=100, deadline=None)
def test_any_text_gets_labels(text, index):
    puzzle = generate_puzzle(3, index, pixels=8)
    labels = label_steps(puzzle, [text, *puzzle.steps])
    assert labels.shape == (1 + len(puzzle.steps), 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_contradictory_facts_are_noticed(name):
    family = FAMILIES[name]
    instance = family.sample(np.random.default_rng(0))
    with pytest.raises(Inconsistent):
        family.reason(tuple("x" for _ in instance.facts), instance.question)


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match="sudoku"):
        generate_puzzle(0, 0, families=["sudoku"])
    with pytest.raises(ValueError, match="index"):
        generate_puzzle(0, -1)
