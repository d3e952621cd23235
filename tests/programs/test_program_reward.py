"""ProgramReward: programs run on the picture vote on the answer, and can do nothing else."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydantic_monty")
pytest.importorskip("cv2")

from svip_search import BestOfN, HybridReward, ImageError, Question, RewardError, Vote, solve
from svip_search._types import RewardModel
from svip_search.datasets.puzzles import FAMILIES, generate_puzzle
from svip_search.programs import BlockRun, NoisyVision, PuzzleProgramGenerator, Region, Run, Sandbox
from svip_search.programs.program_reward import ProgramReward
from svip_search.programs.vision import ClassicalVision, TruthVision
from svip_search.testing import HashPolicy, HashReward

FIRST = 10_000
PICTURE = Image.new("RGB", (32, 32), "white")
QUESTION = Question("How many dogs?", images=[PICTURE], options=["1", "2", "3"], answer="2")


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{name}_of_rewards", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


abuse = load("abuse")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as opened:
        yield opened


class Truth:
    """Sees the picture of a puzzle as it was drawn."""

    def __init__(self, puzzle: Any) -> None:
        self.scene = TruthVision().look(puzzle)

    def look(self, picture: Any) -> Any:
        return self.scene


class Dogs:
    """Sees as many dogs as it is told."""

    def __init__(self, count: int = 2) -> None:
        self.count, self.looks = count, 0

    def look(self, picture: Any) -> Any:
        self.looks += 1
        return self

    def call(self, method: str, region: Region, arguments: Sequence[Any]) -> Any:
        if arguments and arguments[0] in ("boom", "refused"):
            raise ValueError("a secret")
        return self.count if method == "number" else [Region()] * self.count


class Writes:
    """Writes given programs, one after another."""

    def __init__(self, *programs: Sequence[str]) -> None:
        self.programs, self.calls, self.told = programs, 0, [QUESTION]

    def next_blocks(self, question: Question, image: Any, blocks: Sequence[str], n: int, *, seed: int = 0) -> list[str]:
        self.calls += 1
        self.told.append(question)
        at = len(blocks)
        after = [p[at] for p in self.programs if len(p) > at and tuple(p[:at]) == tuple(blocks)]
        return after[:n]


def says(answer: str) -> tuple[str, str]:
    return ("dogs = image.find('dog')", f"answer = {answer!r}")


COUNTS = ("dogs = image.find('dog')", "answer = str(len(dogs))")


def rewards_of(reward: ProgramReward, question: Question) -> dict[str, float]:
    options = question.options
    found = reward.evaluate(question, [("look", f"Answer: {option}") for option in options])
    assert all(f.shape == () and f.dtype == np.float32 for f in found)
    return {option: float(f) for option, f in zip(options, found, strict=True)}


# -- votes -----------------------------------------------------------------------------------------


def test_the_share_of_votes_is_the_reward(sandbox: Sandbox) -> None:
    reward = ProgramReward(Writes(COUNTS, says("3"), says("2"), says("(b)")), Dogs(), sandbox, programs=4)
    assert isinstance(reward, RewardModel)
    assert reward.votes(QUESTION) == (Vote("2", 3, 3.0), Vote("3", 1, 1.0))
    assert rewards_of(reward, QUESTION) == {"1": 0.0, "2": 0.75, "3": 0.25}
    paths = [("Answer: (b)",), ("the answer is 2.0.",), ("2",), ("no idea",), (), ("Answer: 3", "or not")]
    assert [float(f) for f in reward.evaluate(QUESTION, paths)] == [0.75, 0.75, 0.75, 0, 0, 0.25]
    assert reward.evaluate(QUESTION, []) == []


def test_draws_count_as_often_as_they_were_drawn(sandbox: Sandbox) -> None:
    class Twice(Writes):
        def next_blocks(self, *arguments: Any, **options: Any) -> list[str]:
            return [b for b in super().next_blocks(*arguments, **options) for _ in range(3)][: arguments[3]]

    reward = ProgramReward(Twice(says("1"), says("3")), Dogs(), sandbox, programs=4)
    assert rewards_of(reward, QUESTION) == {"1": 0.75, "2": 0.0, "3": 0.25}


def test_programs_without_an_admissible_answer_do_not_vote(sandbox: Sandbox) -> None:
    broken = ("dogs = image.find('dog')", "answer = str(1 / 0)")
    programs = (COUNTS, says("77"), broken, ("a = (",), ("a = 1",), ("answer = 2",), ("answer = ' '",))
    reward = ProgramReward(Writes(*programs), Dogs(), sandbox, programs=len(programs))
    assert reward.votes(QUESTION) == (Vote("2", 1, 1.0),)
    free = Question(QUESTION.text, images=[PICTURE])
    found = reward.votes(free)
    assert {vote.answer: vote.votes for vote in found} == {"2": 1, "77": 1}
    assert [float(f) for f in reward.evaluate(free, [("Answer: 77.0",), ("Answer: 1",)])] == [0.5, 0.0]


def test_unanswered_paths_have_their_own_reward(sandbox: Sandbox) -> None:
    reward = ProgramReward(Writes(COUNTS), Dogs(), sandbox, unanswered=0.5)
    assert [float(f) for f in reward.evaluate(QUESTION, [("look",), ("Answer: 2",)])] == [0.5, 1.0]


def test_programs_are_written_and_run_once_a_question(sandbox: Sandbox) -> None:
    writer, dogs = Writes(COUNTS, says("3")), Dogs()
    reward = ProgramReward(writer, dogs, sandbox, programs=2)
    first = rewards_of(reward, QUESTION)
    calls = writer.calls
    assert rewards_of(reward, Question(QUESTION.text, [PICTURE.copy()], QUESTION.options)) == first
    reward.forget(Question("Another?"))
    assert (writer.calls, dogs.looks) == (calls, 1)
    reward.forget(QUESTION)
    assert rewards_of(reward, QUESTION) == first
    reward.clear()
    assert rewards_of(reward, QUESTION) == first
    assert (writer.calls, dogs.looks) == (3 * calls, 3)


def test_the_cache_drops_the_question_that_was_not_asked_for_longest(sandbox: Sandbox) -> None:
    dogs = Dogs()
    reward = ProgramReward(Writes(COUNTS), dogs, sandbox, cache_size=2)
    for text in "abacab":
        reward.votes(Question(text, [PICTURE]))
    assert dogs.looks == 4


def test_the_true_answer_is_shown_to_nobody(sandbox: Sandbox) -> None:
    writer = Writes(COUNTS)
    ProgramReward(writer, Dogs(3), sandbox).votes(QUESTION)
    assert {question.answer for question in writer.told[1:]} == {None}
    told, untold = QUESTION, Question(QUESTION.text, QUESTION.images, QUESTION.options)
    for question in (told, untold):
        assert rewards_of(ProgramReward(writer, Dogs(3), sandbox), question) == {"1": 0, "2": 0, "3": 1}


# -- puzzles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_right_programs_and_classical_vision_find_the_answer(family: str, sandbox: Sandbox) -> None:
    reward = ProgramReward(PuzzleProgramGenerator(0.0), ClassicalVision(), sandbox, programs=1)
    for index in range(2):
        puzzle = generate_puzzle(FIRST, index, families=[family], pixels=256)
        found = rewards_of(reward, puzzle.question)
        assert found == {option: float(option == puzzle.answer) for option in puzzle.question.options}
        chain = reward.evaluate(puzzle.question, [tuple(puzzle.steps), tuple(puzzle.steps[:1])])
        assert [float(f) for f in chain] == [1.0, 0.0]


def test_erring_programs_outvote_each_other(sandbox: Sandbox) -> None:
    """Programs with wrong blocks under noisy vision: the vote of eight is right more often than a program is."""
    right, single, count = 0, 0.0, 60
    for index in range(count):
        puzzle = generate_puzzle(FIRST, index, pixels=16)
        writer = PuzzleProgramGenerator(0.15, family=puzzle.family)
        vision = NoisyVision(Truth(puzzle), 0.02, seed=index)
        reward = ProgramReward(writer, vision, sandbox, programs=8, seed=index)
        try:
            found = rewards_of(reward, puzzle.question)
        except RewardError:
            continue
        assert sum(found.values()) == pytest.approx(1)
        single += found[puzzle.answer]
        right += max(found, key=lambda option: found[option]) == puzzle.answer
    assert right / count > single / count > 1 / 4


def test_the_same_seed_gives_the_same_votes(sandbox: Sandbox) -> None:
    puzzle = generate_puzzle(FIRST, 3, pixels=16)
    writer = PuzzleProgramGenerator(0.2, family=puzzle.family)
    votes = [ProgramReward(writer, Truth(puzzle), sandbox, seed=seed).votes(puzzle.question) for seed in (1, 1, 2)]
    assert votes[0] == votes[1]
    assert sum(vote.votes for vote in votes[0]) <= 8
    assert votes[2] != votes[0]


def test_searches_take_it(sandbox: Sandbox) -> None:
    puzzle = generate_puzzle(FIRST, 0, families=["venn"])
    reward = ProgramReward(PuzzleProgramGenerator(0.0), ClassicalVision(), sandbox, programs=2)
    alone = solve(puzzle.question, HashPolicy(), reward, BestOfN(n=24), seed=1)
    assert (alone.answer, alone.degraded) == (puzzle.answer, ())
    assert {t.answer for t in alone.trajectories} > {puzzle.answer}
    beside = solve(puzzle.question, HashPolicy(), HybridReward(HashReward(), reward), "hybrid", seed=1)
    assert beside.answer == puzzle.answer
    assert beside.degraded == ()


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", abuse.HOSTILE[::6], ids=lambda case: case.name)
def test_a_hostile_program_is_a_vote_that_is_not_cast(case: Any, sandbox: Sandbox, tmp_path: Path) -> None:
    blocks = [block.replace("MARKER", str(tmp_path / "marker")).replace("PORT", "9") for block in case.blocks]
    reward = ProgramReward(Writes(COUNTS, [*blocks, "answer = '3'"]), Dogs(), sandbox, programs=2, depth=64)
    found = rewards_of(reward, QUESTION)
    # One that did no harm may go on to its answer like any other.
    assert found["2"] == 1.0 or ("" in case.kinds and found == {"1": 0.0, "2": 0.5, "3": 0.5})
    assert not (tmp_path / "marker").exists()


def test_hostile_answers_are_no_votes(sandbox: Sandbox) -> None:
    programs = [("answer = 'x' * 10**6",), ("answer = ['2']",), ("answer = 2",), ("answer = '2' if False else ''",)]
    reward = ProgramReward(Writes(*programs, COUNTS), Dogs(), sandbox, programs=5)
    assert reward.votes(QUESTION) == (Vote("2", 1, 1.0),)


def test_no_votes_are_an_error_that_is_found_out_once(sandbox: Sandbox) -> None:
    writer = Writes(("a = (",), ("b = 1 / 0",), ("c = 1",))
    reward = ProgramReward(writer, Dogs(), sandbox, programs=3)
    told = "No program gave an answer: 1 syntax, 1 runtime, 1 without an answer"
    for _ in range(2):
        with pytest.raises(RewardError, match=told):
            rewards_of(reward, QUESTION)
    calls = writer.calls
    with pytest.raises(RewardError, match=told):
        reward.votes(QUESTION)
    assert writer.calls == calls
    reward.forget(QUESTION)
    writer.programs = (COUNTS,)
    assert rewards_of(reward, QUESTION)["2"] == 1.0
    with pytest.raises(RewardError, match="No program was written"):
        ProgramReward(Writes(), Dogs(), sandbox).votes(QUESTION)


def test_a_search_goes_on_without_votes(sandbox: Sandbox) -> None:
    reward = ProgramReward(Writes(("a = (",)), Dogs(), sandbox)
    result = solve(QUESTION, HashPolicy(), reward, BestOfN(n=4), seed=1)
    assert result.answer in QUESTION.options
    assert "No program gave an answer: 8 syntax" in result.degraded[0]


class NoWorkers(Sandbox):
    """A sandbox whose workers do not start, as on a machine without memory."""

    runs = 0

    def run(self, blocks: Sequence[str], scene: Any, *, seed: int = 0) -> Run:
        self.runs += 1
        return Run((BlockRun(error="unavailable", message="no worker: OSError"),))


def test_a_sandbox_that_cannot_run_is_named_and_asked_again() -> None:
    with NoWorkers() as box:
        reward = ProgramReward(Writes(COUNTS), Dogs(), box, programs=1)
        for runs in (2, 4):
            with pytest.raises(RewardError, match="The sandbox cannot run programs: no worker: OSError"):
                reward.votes(QUESTION)
            assert box.runs == runs


def test_a_sandbox_that_was_left_is_named() -> None:
    with pytest.raises(ValueError, match="`sandbox` must have been entered"):
        ProgramReward(Writes(COUNTS), Dogs(), Sandbox())
    with Sandbox() as box:
        reward = ProgramReward(Writes(COUNTS), Dogs(), box)
    with pytest.raises(RewardError, match="Programs cannot be had: RuntimeError: a sandbox must be entered"):
        reward.votes(QUESTION)


def test_generators_and_modules_that_raise_are_named(sandbox: Sandbox) -> None:
    class Broken:
        def next_blocks(self, *arguments: Any, **options: Any) -> list[str]:
            raise ZeroDivisionError("by\nzero")

        look = next_blocks

    with pytest.raises(RewardError, match="Programs cannot be had: ZeroDivisionError: by zero"):
        ProgramReward(Broken(), Dogs(), sandbox).votes(QUESTION)
    with pytest.raises(RewardError, match="Programs cannot be had: ZeroDivisionError: by zero"):
        ProgramReward(Writes(COUNTS), Broken(), sandbox).votes(QUESTION)
    with pytest.raises(RewardError, match="Programs cannot be had: ValueError: `question` must be that of a generated"):
        ProgramReward(PuzzleProgramGenerator(), Dogs(), sandbox).votes(QUESTION)


def test_programs_look_at_one_picture(sandbox: Sandbox) -> None:
    reward = ProgramReward(Writes(COUNTS), Dogs(), sandbox)
    for images, message in (([], "the question has 0"), ([PICTURE] * 2, "the question has 2"), (["/no.png"], "no.png")):
        with pytest.raises(ImageError, match=message):
            reward.votes(Question("How many?", images))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"generator": None}, TypeError, "`generator` must have a method `next_blocks`; got NoneType"),
        ({"vision": 5}, TypeError, "`vision` must have a method `look`; got int"),
        ({"sandbox": object()}, TypeError, "`sandbox` must be a Sandbox; got object"),
        ({"programs": 0}, ValueError, "`programs` must be at least 1; got 0"),
        ({"width": 0}, ValueError, "`width` must be at least 1; got 0"),
        ({"depth": -1}, ValueError, "`depth` must be at least 1; got -1"),
        ({"cache_size": 0}, ValueError, "`cache_size` must be at least 1; got 0"),
        ({"unanswered": 2.0}, ValueError, r"`unanswered` must lie in \[0, 1\]; got 2.0"),
    ],
)
def test_wrong_settings(change: dict[str, Any], error: type[Exception], message: str, sandbox: Sandbox) -> None:
    with pytest.raises(error, match=message):
        ProgramReward(**{"generator": Writes(COUNTS), "vision": Dogs(), "sandbox": sandbox} | change)
