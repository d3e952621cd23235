"""ProgramReward: what visual programs find on the picture votes for or against the answer of a path."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._budget import Usage
from .._errors import ImageError, RewardError, SvipSearchError
from .._question_key import question_key
from .._types import Prefix, Question, Vote
from .._vote import match_option
from ..rewards.rules import meaning, stated_answer
from ._types import BlockRun, Program, Run, Scene
from .generate import ProgramGenerator, grow
from .sandbox import Sandbox
from .vision import Vision

#: How often a program is run whose worker died, which need not be its own doing; one that took too long is not given
#: as much again.
TRIES = 2
_PASSING = ("crash", "unavailable")


class ProgramReward:
    """A reward model that executes: the share of programs that find the answer which a path states.

    ::

        once a question:  programs = grow(generator, question),  scene = vision.look(picture)
                          votes    = answers of the programs on the scene, run in the sandbox
        reward(path)    = votes for the path's answer / all votes

    Args:
        generator: writes the programs.
        vision: looks at the picture; its scene answers what programs ask.
        sandbox: runs the programs; its context must have been entered, and outlives this object's use.
        programs: how many to write a question, >= 1.
        width: sub-nodes a step of their tree; None draws them independently.
        depth: longest program, in blocks.
        unanswered: reward of a path that states no answer.
        seed: of the programs and of their random numbers.
        cache_size: questions whose votes are kept, least recently used first to go.

    Attributes:
        kind: ``"orm"``: what programs hold against an answer says nothing of single steps.

    Raises:
        TypeError: an argument is none of these.
        ValueError: ``sandbox`` has not been entered, or a number is out of range.

    Notes:
        What a program does, however hostile, is at worst a vote that is not cast or a wrong one: see `Sandbox`.
        Programs that fail, or whose answer is none of the options, do not vote.  A question on which none votes gives
        a RewardError, not a reward of 0, and is not tried again before it is forgotten.  Deterministic
        for a fixed seed and a deterministic generator.  Cost: one call of the generator for each node of the
        tree and a run a program, once a question, however many paths are scored.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> from svip_search.programs import ClassicalVision, PuzzleProgramGenerator, Sandbox
        >>> puzzle = generate_puzzle(10_000, 0, families=["venn"])
        >>> with Sandbox() as sandbox:
        ...     reward = ProgramReward(PuzzleProgramGenerator(0.0), ClassicalVision(), sandbox, programs=2)
        ...     paths = [(f"answer : {option}",) for option in puzzle.question.options]
        ...     found = dict(zip(puzzle.question.options, reward.evaluate(puzzle.question, paths)))
        >>> float(found[puzzle.answer]), sum(map(float, found.values()))
        (1.0, 1.0)
    """

    kind: Literal["prm", "orm"] = "orm"

    def __init__(
        self,
        generator: ProgramGenerator,
        vision: Vision,
        sandbox: Sandbox,
        *,
        programs: int = 8,
        width: int | None = None,
        depth: int = 16,
        unanswered: float = 0.0,
        seed: int = 0,
        cache_size: int = 256,
    ) -> None:
        _check_parts(generator, vision, sandbox)
        width = programs if width is None else width
        _check_positive(programs=programs, width=width, depth=depth, cache_size=cache_size)
        if not 0 <= unanswered <= 1:
            raise ValueError(f"`unanswered` must lie in [0, 1]; got {unanswered}.")
        self.generator, self.vision, self.sandbox = generator, vision, sandbox
        self.programs, self.width, self.depth = programs, width, depth
        self.unanswered, self.seed, self.cache_size = unanswered, seed, cache_size
        self.usage = Usage()
        self._known: OrderedDict[str, tuple[Vote, ...] | RewardError] = OrderedDict()
        self._lock = threading.RLock()

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the reward of each path, float32 [] in [0, 1].

        Raises:
            ImageError: the question has not exactly one picture, or it cannot be read.
            RewardError: no program could be written, run or brought to an answer.
        """
        if not paths:
            return []
        votes = self.votes(question)
        total = sum(vote.weight for vote in votes)
        shares = {meaning(vote.answer, question.options): vote.weight / total for vote in votes}
        return [np.asarray(self._reward(question, path, shares), np.float32) for path in paths]

    def votes(self, question: Question) -> tuple[Vote, ...]:
        """Return what the programs answer, most votes first; of equals, the answer that was found first.

        Raises:
            ImageError, RewardError: as ``evaluate``.
        """
        key = question_key(question)
        with self._lock:  # one sandbox and one generator, which need not bear several threads
            if key not in self._known:
                self._known[key] = self._ask(question)
            self._known.move_to_end(key)
            while len(self._known) > self.cache_size:
                self._known.popitem(last=False)
            found = self._known[key]
        if isinstance(found, RewardError):
            raise RewardError(str(found))  # a new one: a traceback would grow with every raise
        return found

    def forget(self, question: Question) -> None:
        """Drop the votes on a question."""
        with self._lock:
            self._known.pop(question_key(question), None)

    def clear(self) -> None:
        """Drop the votes on all questions."""
        with self._lock:
            self._known.clear()

    def _reward(self, question: Question, path: Prefix, shares: dict[str, float]) -> float:
        answer = stated_answer(question, path)
        return self.unanswered if answer is None else shares.get(meaning(answer, question.options), 0.0)

    def _ask(self, question: Question) -> tuple[Vote, ...] | RewardError:
        """Write programs, run them and return their votes, or the error that says why there are none."""
        picture = _picture(question)
        try:
            programs = self._write(question, picture)
            scene = self.vision.look(picture)
            runs = [(self._run(program, scene), count) for program, count in programs.items()]
        except ImageError:
            raise
        except Exception as error:  # of generator or vision, which are user code, or of a sandbox that was left
            raise RewardError(f"Programs cannot be had: {_described(error)}") from error
        if runs and all(run.blocks and run.blocks[-1].error == "unavailable" for run, _ in runs):
            message = runs[0][0].blocks[-1].message
            raise RewardError(f"The sandbox cannot run programs: {message or 'it does not say why'}.")
        return _counted(question, runs) or RewardError(_silence(runs))

    def _write(self, question: Question, picture: object) -> dict[Program, int]:
        """Return distinct programs, and how often each was drawn."""
        blind, width, leaves = replace(question, answer=None), self.width, self.programs
        tree = grow(self.generator, blind, picture, width=width, leaves=leaves, seed=self.seed, depth=self.depth)
        drawn: Counter[Program] = Counter()
        for leaf in tree.leaves:
            drawn[tree.path(leaf)] += tree.nodes[leaf].count
        drawn.pop((), None)  # the root of a tree in which nothing was written
        return dict(drawn)

    def _run(self, program: Program, scene: Scene) -> Run:
        for _ in range(TRIES):
            run = self.sandbox.run(program, scene, seed=self.seed)
            if not run.blocks or run.blocks[-1].error not in _PASSING:
                break
        return run


def _check_parts(generator: object, vision: object, sandbox: object) -> None:
    if not callable(getattr(generator, "next_blocks", None)):
        raise TypeError(f"`generator` must have a method `next_blocks`; got {type(generator).__name__}.")
    if not callable(getattr(vision, "look", None)):
        raise TypeError(f"`vision` must have a method `look`; got {type(vision).__name__}.")
    if not isinstance(sandbox, Sandbox):
        raise TypeError(f"`sandbox` must be a Sandbox; got {type(sandbox).__name__}.")
    if not sandbox.kind:
        raise ValueError("`sandbox` must have been entered: `with Sandbox() as sandbox`.")


def _check_positive(**named: int) -> None:
    for name, value in named.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1; got {value}.")


def _picture(question: Question) -> object:
    """Return the one picture of a question."""
    from .._video import pictures

    found = pictures(question)
    if len(found) != 1:
        raise ImageError(f"Programs look at one picture; the question has {len(found)}.")
    return found[0].image


def _counted(question: Question, runs: Sequence[tuple[Run, int]]) -> tuple[Vote, ...]:
    """Return the votes of some runs."""
    options = question.options
    votes: Counter[str] = Counter()
    words: dict[str, str] = {}
    for run, count in runs:
        named = match_option(run.answer, options) if run.answer and options else run.answer
        if named is not None and named.strip():
            key = meaning(named, options)
            votes[key] += count
            words.setdefault(key, named.strip())
    return tuple(Vote(words[key], count, float(count)) for key, count in votes.most_common())


def _silence(runs: Sequence[tuple[Run, int]]) -> str:
    """Return why there is no vote."""
    errors: Counter[str] = Counter()
    for run, count in runs:
        last = run.blocks[-1] if run.blocks else BlockRun()
        errors[last.error or "without an answer"] += count
    told = ", ".join(f"{count} {error}" for error, count in errors.most_common())
    return f"No program gave an answer: {told}." if told else "No program was written."


def _described(error: Exception) -> str:
    told = " ".join(str(error).split())[:200]
    return told if isinstance(error, SvipSearchError) else f"{type(error).__name__}: {told}"
