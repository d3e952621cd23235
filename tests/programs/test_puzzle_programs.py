"""Programs of the embedded domain: the right ones are right, the wrong ones wrong at the stated rate."""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from pathlib import Path

import pytest

from svip_search import Question
from svip_search.datasets.puzzles import FAMILIES, generate_puzzle
from svip_search.programs.generate import ProgramGenerator, assigned, ends, grow
from svip_search.programs.narrate import narrate
from svip_search.programs.puzzles import MISTAKES, RECIPES, PuzzleProgramGenerator, templates
from svip_search.programs.puzzles._recipe import fill
from svip_search.programs.vision import TruthVision

_SPEC = importlib.util.spec_from_file_location("in_process", Path(__file__).with_name("in_process.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
in_process = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(in_process)

FIRST = 10_000  # no seed below is looked at, so that models can be trained and measured on those
families = pytest.mark.parametrize("family", FAMILIES)


def puzzle_of(family, index, **settings):
    return generate_puzzle(FIRST, index, **{"families": [family], "pixels": 16} | settings)


def right_program(puzzle):
    generator, blocks = PuzzleProgramGenerator(0.0, family=puzzle.family), []
    while found := generator.next_blocks(puzzle.question, None, blocks, 1):
        blocks += found
    return blocks


def finish(session, generator, question, blocks):
    """Return the answer that follows if only right blocks come from here, None after an error."""
    while found := generator.next_blocks(question, None, blocks, 1):
        blocks = [*blocks, *found]
        if session.run(blocks[-1]).error:
            return None
    return session.state.get("answer")


@pytest.fixture(scope="module")
def sandbox():
    pytest.importorskip("pydantic_monty")
    from svip_search.programs.sandbox import Sandbox

    with Sandbox() as opened:
        yield opened


# ---- right programs ---------------------------------------------------------------------------------


@families
def test_right_programs_find_the_answer_and_tell_the_chain_of_thought(family):
    for index in range(200):
        puzzle = puzzle_of(family, index, plain=index % 2 == 0)
        session = in_process.Session(TruthVision().look(puzzle))
        steps = [narrate(block, session.run(block)) for block in right_program(puzzle)]
        assert (session.state.get("answer"), steps) == (puzzle.answer, list(puzzle.steps)), f"puzzle {index}"


@families
def test_right_programs_run_in_the_sandbox(family, sandbox):
    for index in range(25):
        puzzle = puzzle_of(family, index, plain=index % 2 == 0)
        blocks = right_program(puzzle)
        run = sandbox.run(blocks, TruthVision().look(puzzle))
        assert all(block.ok for block in run.blocks), f"puzzle {index}: {run.blocks[-1]}"
        steps = [narrate(block, done) for block, done in zip(blocks, run.blocks, strict=True)]
        assert (run.answer, steps) == (puzzle.answer, list(puzzle.steps)), f"puzzle {index}"


@families
def test_a_program_is_the_same_for_all_puzzles_of_a_family(family):
    """So no answer can be hidden in it: what differs comes from the picture, or is told by the question."""
    programs: dict[str, set[str]] = {}
    answers: dict[str, set[str]] = {}
    for index in range(60):
        puzzle = puzzle_of(family, index)
        told = RECIPES[family].told(puzzle.question.text)
        programs.setdefault(told, set()).add("\n".join(right_program(puzzle)))
        answers.setdefault(told, set()).add(puzzle.answer)
    assert all(len(found) == 1 for found in programs.values())
    assert max(len(found) for found in answers.values()) > 1


@families
def test_a_block_for_every_step(family):
    recipe = RECIPES[family]
    puzzle = puzzle_of(family, 0)
    assert len(recipe.right) == len(puzzle.steps)
    assert [p.says for p in recipe.right[: len(FAMILIES[family].perceive)]] == list(FAMILIES[family].perceive)
    assert all(recipe.sets), "every block must set something that tells that it is there"
    assert all("." in block.block and "image" not in block.block for block in recipe.right[1 : len(recipe.read)])


def test_texts_of_blocks_tell_their_step():
    """A block means the same in every family that has it, so that its step follows from its text."""
    from svip_search.programs.puzzles.generator import _texts

    for family in RECIPES:
        for block, says in _texts(family).items():
            assert templates()[block] == says, f"{family}: {block}"


# ---- wrong blocks -----------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_the_share_of_wrong_blocks_is_exact(family, rate):
    generator, puzzle = PuzzleProgramGenerator(rate, family=family), puzzle_of(family, 1)
    blocks = right_program(puzzle)
    for stage in range(len(blocks)):
        found = dict(generator.exhaustive(puzzle.question, blocks[:stage]))
        assert sum(found.values()) == pytest.approx(1)
        assert found.get(blocks[stage], 0) == pytest.approx(1 - rate)


def test_draws_follow_the_exact_distribution():
    generator, puzzle = PuzzleProgramGenerator(0.4, family="triangle"), puzzle_of("triangle", 2)
    blocks, n = right_program(puzzle)[:3], 20_000
    drawn = Counter(generator.next_blocks(puzzle.question, None, blocks, n, seed=5))
    expected = dict(generator.exhaustive(puzzle.question, blocks))
    assert set(drawn) <= set(expected)
    distance = sum((drawn[block] - n * p) ** 2 / (n * p) for block, p in expected.items())
    freedom = len(expected) - 1
    assert distance < freedom + 5 * (2 * freedom) ** 0.5  # chi-square: mean k, variance 2k


def test_draws_are_those_of_the_seed():
    generator, puzzle = PuzzleProgramGenerator(0.5, family="venn"), puzzle_of("venn", 0)
    draws = [generator.next_blocks(puzzle.question, None, (), 12, seed=seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert generator.next_blocks(puzzle.question, None, (), 5, seed=1) == draws[0][:5]


@families
def test_wrong_blocks_are_what_their_kind_says(family):
    """Broken blocks never run, repeated and stray ones change nothing, and every kind occurs."""
    generator, kinds = PuzzleProgramGenerator(0.0, family=family), set()
    outcomes: dict[str, set[bool]] = {}
    for index in range(12):
        puzzle = puzzle_of(family, index)
        session, blocks = in_process.Session(TruthVision().look(puzzle)), right_program(puzzle)
        told = RECIPES[family].told(puzzle.question.text)
        for stage, right in enumerate(blocks):
            for wrong in generator.proposals(puzzle.question, blocks[:stage])[1:]:
                fork = session.fork()
                run = fork.run(wrong.block)
                kinds.add(wrong.kind)
                assert wrong.block != right
                assert wrong.kind != "broken" or run.error
                answer = None if run.error else finish(fork, generator, puzzle.question, [*blocks[:stage], wrong.block])
                if wrong.kind in ("stray", "repeat"):
                    assert answer == puzzle.answer
                if wrong.kind == "reasoning":
                    place = [p for p in RECIPES[family].wrong[stage] if fill(p, told) == wrong]
                    outcomes.setdefault(place[0].block, set()).add(answer == puzzle.answer)
            session.run(right)
    assert kinds == set(MISTAKES)
    assert [block for block, seen in outcomes.items() if seen == {True}] == [], "a mistake of reasoning must matter"


@families
def test_a_program_goes_on_after_a_mistake(family):
    """From any run of mistakes the generator still comes to an answer, and never writes beyond it."""
    for seed in range(30):
        puzzle, generator = puzzle_of(family, seed), PuzzleProgramGenerator(0.7, family=family)
        blocks: list[str] = []
        while found := generator.next_blocks(puzzle.question, None, blocks, 1, seed=seed):
            blocks += found
            assert len(blocks) <= 20
        assert ends(blocks[-1])
        assert generator.exhaustive(puzzle.question, blocks) == []


def test_repetition_and_stray_blocks_stay_rare():
    """At most one of each in a program: what can follow a prefix stays enumerable."""
    generator = PuzzleProgramGenerator(1.0, family="venn")
    question = puzzle_of("venn", 0).question
    for seed in range(200):
        blocks: list[str] = []
        rng = random.Random(seed)
        while options := generator.proposals(question, blocks):
            blocks.append(rng.choice(options).block)
        again = Counter(blocks)
        assert sum(n - 1 for n in again.values()) <= 1
        assert sum("circles_seen" in b or "first_size" in b for b in blocks) <= 2


# ---- what a prefix is worth -------------------------------------------------------------------------


def worth(generator, question, answer, session, blocks):
    """Return the exact chance that the generator goes on from ``blocks`` to the right answer."""
    total = 0.0
    for block, chance in generator.exhaustive(question, blocks):
        fork = session.fork()
        if fork.run(block).error:
            continue
        if ends(block):
            total += chance * (fork.state["answer"] == answer)
        else:
            total += chance * worth(generator, question, answer, fork, [*blocks, block])
    return total


@pytest.mark.parametrize("family", ["venn", "shape_reflect"])
@pytest.mark.parametrize("kind", ["right", "reasoning"])
def test_grown_programs_estimate_the_worth_of_a_prefix(family, kind):
    """The share of right programs below a prefix agrees with the enumeration of all that can follow."""
    puzzle, generator = puzzle_of(family, 4), PuzzleProgramGenerator(0.3, family=family)
    blocks = right_program(puzzle)[:2]
    blocks.append(next(p.block for p in generator.proposals(puzzle.question, blocks) if p.kind == kind))
    session = in_process.Session(TruthVision().look(puzzle))
    assert not any(session.run(block).error for block in blocks)
    exact = worth(generator, puzzle.question, puzzle.answer, session, blocks)
    leaves = 3000
    tree = grow(generator, puzzle.question, None, width=leaves, leaves=leaves, seed=1, blocks=blocks)
    hits = 0
    for leaf in tree.leaves:
        fork, path = session.fork(), tree.path(leaf)[len(blocks) :]
        ran = all(not fork.run(block).error for block in path)
        hits += tree.nodes[leaf].count * (ran and fork.state.get("answer") == puzzle.answer)
    assert abs(hits / leaves - exact) < 4 * (max(exact * (1 - exact), 1e-3) / leaves) ** 0.5
    assert exact > 0.45 or kind == "reasoning"


# ---- which family -----------------------------------------------------------------------------------


class Eye:
    """Looks at generated puzzles by their pictures: scene truth in the place of a vision module."""

    def __init__(self, *puzzles):
        self.puzzles, self.looks = puzzles, 0

    def look(self, picture):
        self.looks += 1
        return TruthVision().look(next(p for p in self.puzzles if p.image is picture))


@families
def test_the_family_is_found_by_wording_and_layout(family):
    puzzles = [puzzle_of(family, index) for index in range(8)]
    eye = Eye(*puzzles)
    generator = PuzzleProgramGenerator(vision=eye)
    for puzzle in puzzles:
        assert generator.recognise(puzzle.question, puzzle.image) == family
        assert generator.recognise(puzzle.question, puzzle.image) == family
    assert eye.looks <= len(puzzles), "a picture is looked at once"


@families
def test_the_family_is_found_by_what_is_written(family):
    puzzle = puzzle_of(family, 0)
    blocks = right_program(puzzle)
    generator = PuzzleProgramGenerator(0.0)
    assert generator.next_blocks(puzzle.question, None, blocks[:1], 1) == blocks[1:2]


@families
def test_the_family_is_found_by_looking_at_pixels(family):
    pytest.importorskip("cv2")
    generator = PuzzleProgramGenerator()
    puzzles = [puzzle_of(family, index, pixels=128) for index in range(6)]
    assert [generator.recognise(p.question, p.image) for p in puzzles] == [family] * 6


def test_what_cannot_be_written_is_refused():
    puzzle = puzzle_of("venn", 0)
    with pytest.raises(ValueError, match=r"`image` or `family` must be given: .*triangle, venn ask"):
        PuzzleProgramGenerator().next_blocks(puzzle.question, None, (), 1)
    with pytest.raises(ValueError, match="`question` must be that of a generated puzzle"):
        PuzzleProgramGenerator().next_blocks(Question("How many dogs?"), None, (), 1)
    with pytest.raises(ValueError, match="`question` must tell what the missing part of a shape_size_hexagon is"):
        PuzzleProgramGenerator(family="shape_size_hexagon").next_blocks(puzzle.question, None, (), 1)
    with pytest.raises(ValueError, match=r"`error_rate` must lie in \[0, 1\]; got 1.5"):
        PuzzleProgramGenerator(1.5)
    with pytest.raises(ValueError, match="`family` must be one of circle_size_number"):
        PuzzleProgramGenerator(family="sudoku")
    assert isinstance(PuzzleProgramGenerator(), ProgramGenerator)


def test_blocks_of_others_are_built_upon():
    """A prefix that some other generator wrote counts by the names that it sets."""
    puzzle = puzzle_of("grid_number", 0)
    other = [
        'cells = rows(image.find("object"))\nrow1, row2, row3 = [[c.number() for c in r] for r in cells]',
        "total = 12  # a guess",
    ]
    generator = PuzzleProgramGenerator(0.0, family="grid_number")
    (block,) = generator.next_blocks(puzzle.question, None, other, 1)
    assert assigned(block) == {"grid", "known", "total"}
    session = in_process.Session(TruthVision().look(puzzle))
    assert not any(session.run(b).error for b in other)
    assert finish(session, generator, puzzle.question, other) == puzzle.answer
