"""Telling blocks: what was found is told as found, what failed as failed, and anything can be told."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from svip_search.datasets.puzzles import FAMILIES, generate_puzzle
from svip_search.programs import ERROR_KINDS, BlockRun
from svip_search.programs.narrate import LONGEST, PolicyNarrator, narrate, words
from svip_search.programs.puzzles import RECIPES, PuzzleProgramGenerator, templates

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def right(family, stage):
    return RECIPES[family].right[stage].block


def wrong(family, stage, piece):
    return next(p.block for p in RECIPES[family].wrong[stage] if piece in p.block)


@pytest.mark.parametrize(
    ("block", "value", "step"),
    [
        (right("venn", 0), [3, "?", 5], "circles : 3 ? 5"),
        (right("color_grid", 1), ["red", "orange", "?"], "row 2 : red orange ?"),
        # Seen wrongly: the step states what was seen.
        (right("color_grid", 1), ["blue", "orange", "?"], "row 2 : blue orange ?"),
        # Another attribute and another row: the step says which row was read, and what was found there.
        (wrong("grid_number", 1, "[cell.number() for cell in cells[0]]"), [1, 2, 3], "row 1 : 1 2 3"),
        (wrong("color_grid", 1, ".sides()"), [0, "", "?"], "sides of row 2 : 0 none ?"),
        # A wrong sum is stated as computed, another operator as it was applied.
        (right("grid_number", 4), [2, 12, 3, 4, 6], "row 2 : 12 - 3 - 4 = 6"),
        (wrong("grid_number", 4, "total - a + b"), [2, 12, 3, 4, 13], "row 2 : 12 - 3 + 4 = 13"),
        (right("triangle", 4), [3, 12, "/", 4, 3], "group 3 : 12 / 4 = 3"),
        # More or fewer parts than there should be.
        (right("color_grid", 1), ["blue", "orange"], "row 2 : blue orange"),
        (right("color_number_hexagon", 3), [["red", 3, 4, 5, 12]], "pattern : red 3 4 5 12"),
        (right("shape_size_grid", 0), [], "same shape in each part : none"),
        (right("venn", 4), "7", "answer : 7"),
        (RECIPES["venn"].right[4].block.replace("str(result)", "str(circles[1])"), "?", "answer : ?"),
    ],
)
def test_blocks_of_the_embedded_domain(block, value, step):
    assert narrate(block, BlockRun(value)) == step


@pytest.mark.parametrize(
    ("block", "run", "step"),
    [
        (right("venn", 0), BlockRun(error="runtime"), "circles : failed , runtime error"),
        (right("grid_number", 4), BlockRun(error="calls"),
         "what the row of the question mark lacks of the sum : failed , calls error"),
        ("x = (", BlockRun(error="syntax"), "x : failed , syntax error"),
        ("", BlockRun(error="crash"), "step : failed , crash error"),
    ],
)  # fmt: skip
def test_what_failed_is_told_as_failed(block, run, step):
    assert narrate(block, run) == step


@pytest.mark.parametrize(
    ("block", "run", "step"),
    [
        ("# Find the dogs.\ndogs = image.find('dog')", BlockRun(names={"dogs": [{"region": [0, 0, 1, 1]}] * 2}),
         "find the dogs : part part"),
        ("left_dog = 3", BlockRun(names={"left_dog": 3}), "left dog : 3"),
        ("a, b = 1, 2", BlockRun(names={"a": 1, "b": 2}), "a , b : a is 1 , b is 2"),
        ("total = 3\ntotal > 2", BlockRun(True, names={"total": 3}), "total : yes"),
        ("answer = 'a cat'", BlockRun(names={"answer": "a cat"}), "answer : a cat"),
        ("# So it is.\nanswer = 'a cat'\nanswer", BlockRun("a cat"), "answer : a cat"),
        ("image.exists('dog')", BlockRun(False), "image exists dog : no"),
        ("for i in range(2):\n    pass", BlockRun(names={"i": 1}), "i : 1"),
        ("print('two dogs')", BlockRun(printed="two dogs\n"), "print two dogs : two dogs"),
        ("share = 0.123456", BlockRun(names={"share": 0.123456}), "share : 0.1235"),
    ],
)  # fmt: skip
def test_blocks_of_other_domains(block, run, step):
    assert narrate(block, run) == step


@settings(max_examples=300, deadline=None)
@given(
    block=st.text(max_size=300) | st.sampled_from(sorted(templates())),
    value=JSON,
    names=st.dictionaries(st.text(max_size=9), JSON, max_size=4),
    error=st.sampled_from(("", *ERROR_KINDS)),
    printed=st.text(max_size=2000),
)
@example(block="# " + "x" * 10_000, value=["y" * 100_000], names={}, error="", printed="")
@example(block="(" * 3000, value=None, names={}, error="syntax", printed="")
def test_anything_can_be_told(block, value, names, error, printed):
    step = narrate(block, BlockRun(value, error, names=names, printed=printed))
    assert 0 < len(step) <= LONGEST
    assert step == " ".join(step.split()), "one line"


@given(JSON)
def test_every_value_has_words(value):
    assert all(word and word == word.strip() for word in words(value))


@pytest.mark.parametrize("family", FAMILIES)
def test_misreadings_appear_in_the_step_of_their_block(family):
    """Whatever a right block has read stands in its step, in the form that the family's steps have."""
    puzzle = generate_puzzle(10_000, 5, families=[family], pixels=16)
    generator, blocks, start = PuzzleProgramGenerator(0.0, family=family), [], 0
    facts = ["purple" if fact != "?" else fact for fact in puzzle.facts]
    for index, slots in enumerate(FAMILIES[family].slots):
        blocks += generator.next_blocks(puzzle.question, None, blocks, 1)
        seen = tuple(facts[start : start + slots])
        step = narrate(blocks[-1], BlockRun(list(seen)))
        assert FAMILIES[family].parse(index, step) == seen
        start += slots


DOGS = "# Count the dogs.\ndogs = len(image.find('dog'))"


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("I count the dogs:\nthere are 2 of them.", "I count the dogs: there are 2 of them."),
        ("There are two of them.", "count the dogs : 2"),
        ("", "count the dogs : 2"),
        (None, "count the dogs : 2"),
        ("  \n\t", "count the dogs : 2"),
    ],
)
def test_a_text_model_rewrites_and_is_checked(text, step):
    prompts = []

    def rewrite(prompt):
        prompts.append(prompt)
        return text

    narrator = PolicyNarrator(rewrite)
    earlier = ("# Look.\nseen = 1", BlockRun(names={"seen": 1}))
    assert narrator(DOGS, BlockRun(names={"dogs": 2}), [earlier]) == step
    assert "look : 1" in prompts[0]
    assert DOGS in prompts[0]
    assert "count the dogs : 2" in prompts[0]


def test_a_long_text_is_cut_and_a_failure_is_not_dressed_up():
    long = PolicyNarrator(lambda prompt: "2 dogs " * 1000)(DOGS, BlockRun(names={"dogs": 2}))
    assert long.startswith("2 dogs 2 dogs")
    assert len(long) <= LONGEST

    def never(prompt):
        raise AssertionError("a failed block needs no model")

    failed = PolicyNarrator(never)(DOGS, BlockRun(error="timeout"))
    assert failed == "count the dogs : failed , timeout error"
