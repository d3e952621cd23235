"""Growing programs: what a tree holds, where it ends, and that its programs are fair draws."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Question
from svip_search.programs.generate import ProgramGenerator, ProgramTree, assigned, ends, grow

QUESTION = Question("How many?")


class Dice:
    """Writes block after block by the throw of a die: `a`, `b` or the answer."""

    def __init__(self, weights=(5, 3, 2), short=0):
        self.weights, self.short, self.asked = weights, short, []

    def next_blocks(self, question, image, blocks, n, *, seed=0):
        self.asked.append((tuple(blocks), n))
        choices = ["a = 1", "b = 2", "answer = '3'"]
        return random.Random(seed).choices(choices, self.weights, k=max(0, n - self.short))


def programs(tree: ProgramTree):
    return {tree.path(leaf): tree.nodes[leaf].count for leaf in tree.leaves}


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 6), leaves=st.integers(1, 40), seed=st.integers(0, 2**32), short=st.integers(0, 1))
def test_a_tree_hands_its_programs_down(width, leaves, seed, short):
    generator = Dice(short=min(short, width - 1))
    tree = grow(generator, QUESTION, None, width=width, leaves=leaves, seed=seed, depth=5)
    assert sum(programs(tree).values()) == leaves
    for i, children in enumerate(tree.children):
        assert all(tree.nodes[child].parent == i < child for child in children)
        assert len({tree.nodes[child].block for child in children}) == len(children) <= width
        if children:
            assert sum(tree.nodes[child].count for child in children) == tree.nodes[i].count
    for leaf in tree.leaves:
        path = tree.path(leaf)
        assert short or len(path) == 5 or ends(path[-1])
        assert not any(ends(block) for block in path[:-1])
    assert all(n <= width for _, n in generator.asked)


def test_the_seed_decides():
    trees = [grow(Dice(), QUESTION, None, width=3, leaves=12, seed=seed) for seed in (1, 1, 2)]
    assert trees[0] == trees[1] != trees[2]


def test_a_prefix_is_continued():
    tree = grow(Dice(), QUESTION, None, width=3, leaves=9, seed=4, blocks=["x = 0", "y = x"])
    assert all(path[:2] == ("x = 0", "y = x") for path in programs(tree))
    assert sum(programs(tree).values()) == 9
    assert tree.below(2) == tree.leaves
    first = tree.children[2][0]
    assert set(tree.below(first)) == {leaf for leaf in tree.leaves if first in tree.ancestors(leaf)}


def test_nothing_follows_an_answer_or_what_does_not_parse():
    assert programs(grow(Dice(), QUESTION, None, leaves=3, blocks=["answer = '1'"])) == {("answer = '1'",): 3}
    broken = grow(Dice((0, 0, 1)), QUESTION, None, leaves=3, blocks=["a = ("])
    assert programs(broken) == {("a = (",): 3}


def test_a_generator_without_an_idea_leaves_a_leaf():
    tree = grow(Dice(short=9), QUESTION, None, leaves=4)
    assert programs(tree) == {(): 4}


def test_every_program_is_a_fair_draw():
    """The share of programs whose second block is `b` is its probability, however draws are shared out."""
    trials, weight = 600, 0.0
    for seed in range(trials):
        found = programs(grow(Dice(), QUESTION, None, width=3, leaves=7, seed=seed, depth=2))
        weight += sum(n for path, n in found.items() if path[1:] == ("b = 2",)) / 7
    expected = 0.8 * 0.3
    assert abs(weight / trials - expected) < 4 * (expected * (1 - expected) / trials) ** 0.5


@pytest.mark.parametrize("name", ["width", "leaves", "depth"])
def test_sizes_start_at_one(name):
    with pytest.raises(ValueError, match=f"`{name}` must be >= 1; got 0"):
        grow(Dice(), QUESTION, None, **{name: 0})


def test_what_writes_blocks_is_a_generator():
    assert isinstance(Dice(), ProgramGenerator)
    assert not isinstance(object(), ProgramGenerator)


@pytest.mark.parametrize(
    ("block", "names"),
    [
        ("a = b = 1", {"a", "b"}),
        ("a, (b, *c) = f()", {"a", "b", "c"}),
        ("for i in x:\n    if i:\n        y = i", {"i", "y"}),
        ("n: int = 2\nn += 1", {"n"}),
        ("[x for x in y]\nf = lambda z: z", {"f"}),
        ("def f():\n    answer = 1", {"f"}),
        ("print('answer = 1')", set()),
        ("answer.x = 1\nd['answer'] = 2", set()),
        ("if (m := 3):\n    pass", {"m"}),
        ("with a as b:\n    pass", {"b"}),
        ("[(answer := x) for x in y]", {"answer"}),
        ("import math as m", {"m"}),
    ],
)
def test_names_that_a_block_sets(block, names):
    assert assigned(block) == names


@pytest.mark.parametrize("block", ["a = (", "a\0", "(" * 5000, "\udc80 = 1", "  x = 1\n y = 2"])
def test_what_does_not_parse_ends_a_program(block):
    assert assigned(block) is None
    assert ends(block)


@given(st.text(max_size=200))
def test_any_text_is_a_block(text):
    assert ends(text) in (True, False)
