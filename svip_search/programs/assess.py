"""The three labels of every block of a program: does it matter, does it lead there, does it see right.

* **relevance**: 1 if what the block computes reaches the answer (the backward data-flow slice from ``answer``),
  else 0; halved where an earlier block holds all of its values already.
* **logic**: the share of the programs that continue the prefix up to the block and reach the right answer *when
  the verifier answers every visual question*; so 0 where the block itself does not parse or run.
* **attribute**: the share of the answers of the vision modules in the block that the verifier confirms.

The three are kept apart: a misread picture never lowers logic, and what is true but beside the point never lowers
attribute.  A label is NaN where it says nothing: attribute without a visual question, relevance where no answer was
reached.  In a program that ended without an answer, the relevance of a block is what it is on average in the
programs that go on from it to an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .._vote import match_option, normalise
from ._dataflow import parse, reaching, repetitions, stores
from ._types import BlockRun, Call, Json, Program, Region, Run, Scene
from .vision import same_answer

#: Runs a program on a scene, as ``Sandbox.run`` does.
Runner = Callable[[Program, Scene], Run]
#: Gives programs that begin with a prefix, and how often each counts.
Completer = Callable[[Program], Sequence[tuple[Program, int]]]

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Assessment:
    """What a program did and what its blocks are worth.

    Args:
        program: its blocks as far as they were reached: up to the first that failed.
        run: what they did on the scene that was looked at.
        labels: float32 [T, 3] (relevance, logic, attribute) in [0, 1], NaN where there is none.
        right: whether the run ended in the right answer.
        verified_right: whether the program does when the verifier answers.
    """

    program: Program
    run: Run
    labels: NDArray[np.float32]
    right: bool
    verified_right: bool


def assess(
    programs: Sequence[Program],
    runner: Runner,
    scene: Scene,
    verifier: Scene,
    is_right: Callable[[str | None], bool],
    counts: Sequence[int] | None = None,
    complete: Completer | None = None,
) -> list[Assessment]:
    """Return the assessment of each program of a tree.

    Args:
        programs: the root-to-leaf paths of a tree of programs.
        runner: runs a program on a scene; it must not raise for what the program does.
        scene: the picture as the modules under assessment see it.
        verifier: the picture as it is, or as an independent module sees it.
        is_right: whether an answer is right; None is no answer.
        counts: how often each program was drawn, 1 by default.
        complete: gives programs that begin with a prefix, each with a count: the Monte-Carlo continuations that
            logic is the share of.  By default the given programs serve, which costs no run more.

    Returns:
        One assessment a program, in order.

    Raises:
        ValueError: ``counts`` does not fit ``programs``.
        RuntimeError: the sandbox is unavailable, so that nothing can be said of the programs.

    Notes:
        At most two runs a program, and one for each further continuation.  What fails runs once for all that
        begin with it, and a program whose every visual answer the verifier gives too is not run again.

    Example:
        A picture that holds 7 and is read as 1, in a world of one module and no sandbox:

        >>> from svip_search.programs import Region
        >>> class Saw:
        ...     def __init__(self, number): self.number = number
        ...     def call(self, method, region, arguments): return self.number
        >>> def runner(program, scene):
        ...     seen = scene.call("number", Region(), ())
        ...     call = Call("number", Region(), (), seen)
        ...     return Run((BlockRun(seen, calls=(call,)), BlockRun(str(seen + 1))), answer=str(seen + 1))
        >>> program = ("n = image.number()", "answer = str(n + 1)")
        >>> [found] = assess([program], runner, Saw(1), Saw(7), lambda answer: answer == "8")
        >>> found.labels.tolist(), found.right, found.verified_right
        ([[1.0, 1.0, 0.0], [1.0, 1.0, nan]], False, True)
    """
    weights = [1] * len(programs) if counts is None else list(counts)
    if len(weights) != len(programs):
        raise ValueError(f"`counts` must have one entry a program, {len(programs)}; got {len(weights)}.")
    judge = _Judge(verifier)
    own, verified = _Runs(runner, scene), _Runs(runner, verifier)
    for program in programs:
        run = own.of(program)
        if judge.confirms(run):
            verified.note(program, run)
    ahead = _Ahead(verified, is_right, complete or _among(programs, weights))
    return [
        Assessment(
            program=program[: len(own.of(program).blocks)],
            run=own.of(program),
            labels=_labels(program, own.of(program), ahead, judge),
            right=is_right(own.of(program).answer),
            verified_right=is_right(verified.of(program).answer),
        )
        for program in programs
    ]


def _among(programs: Sequence[Program], counts: Sequence[int]) -> Completer:
    """Return the completer that knows these programs."""
    below: dict[Program, dict[Program, int]] = {}
    for program, count in zip(programs, counts, strict=True):
        for length in range(1, len(program) + 1):
            there = below.setdefault(program[:length], {})
            there[program] = there.get(program, 0) + count
    return lambda prefix: list(below[prefix].items())


def answer_test(answer: str, options: Sequence[str] = ()) -> Callable[[str | None], bool]:
    """Return the test whether an answer means the same as ``answer``, among the options if there are any.

    Example:
        >>> test = answer_test("7", ["3", "7"])
        >>> test("7.0"), test("(b)"), test("3"), test(None)
        (True, True, False, False)
    """

    def meaning(text: str) -> str:
        return normalise((match_option(text, options) if options else None) or text)

    truth = meaning(answer)
    return lambda given: given is not None and meaning(given) == truth


def relevance(program: Program, run: Run | None = None, target: str = "answer") -> list[float]:
    """Return the relevance of each block: 1 in the slice from ``target``, else 0; half where it repeats.

    Args:
        program: the whole program, also what was not reached.
        run: what it did; two blocks that asked the same and hold the same then count as repetition, too.
        target: the name at the end; NaN for every block where none sets it.

    Example:
        >>> relevance(("a = image.number()", "b = image.color()", "c = image.number()", "answer = str(a)"))
        [1.0, 0.0, 0.0, 1.0]
        >>> relevance(("a = image.number()", "a = image.number()", "answer = str(a)"))
        [1.0, 0.5, 1.0]
    """
    return list(_relevance(program, tuple(_asked_again(run.blocks if run else ())), target))


@lru_cache(maxsize=4096)
def _relevance(program: Program, asked_again: tuple[int, ...], target: str) -> tuple[float, ...]:
    ends = {i for i, block in enumerate(program) if _sets(block, target)}
    if not ends:
        return (NAN,) * len(program)
    again = {i: frozenset[str]() for i in asked_again if i not in ends} | repetitions(program, target)
    found = reaching(program, target, again)
    return tuple(float(hit) / (2 if index in again else 1) for index, hit in enumerate(found))


def _sets(block: str, target: str) -> bool:
    tree = parse(block)
    return tree is not None and any(target in stores(statement) for statement in tree.body)


def _asked_again(blocks: Sequence[BlockRun]) -> list[int]:
    """Return the blocks that asked what one earlier block asked, and that hold what it holds."""
    seen: dict[frozenset[_Question], list[Json]] = {}
    found = []
    for index, block in enumerate(blocks):
        asked = frozenset(map(_question, block.calls))
        if not asked or not block.ok:
            continue
        if block.value is not None and block.value in seen.get(asked, []):
            found.append(index)
        seen.setdefault(asked, []).extend([block.value, *block.names.values()])
    return found


_Question = tuple[str, Region, str]


def _question(call: Call) -> _Question:
    return call.method, call.region, repr(call.arguments)


class _Runs:
    """Runs programs on one scene, each once; what fails counts for all programs that begin with it."""

    def __init__(self, runner: Runner, scene: Scene) -> None:
        self.runner, self.scene = runner, scene
        self.known: dict[Program, Run] = {}

    def of(self, program: Program) -> Run:
        prefixes = (program[:length] for length in range(len(program), 0, -1))
        found = next((p for p in prefixes if p in self.known), ())
        if found and (found == program or not self.known[found].blocks[-1].ok):
            return self.known[found]
        return self.note(program, self.runner(program, self.scene))

    def note(self, program: Program, run: Run) -> Run:
        """Remember what a program does here."""
        last = run.blocks[-1] if run.blocks else BlockRun()
        if last.error == "unavailable":
            raise RuntimeError(f"The sandbox cannot run programs: {last.message or 'it does not say why'}.")
        self.known[program if last.ok else program[: len(run.blocks)]] = run
        return run


class _Ahead:
    """What comes of a prefix: the programs that continue it, run under the verifier."""

    def __init__(self, verified: _Runs, is_right: Callable[[str | None], bool], complete: Completer) -> None:
        self.verified, self.is_right, self.complete = verified, is_right, complete
        self.found: dict[Program, tuple[float, float]] = {}

    def __call__(self, prefix: Program) -> tuple[float, float]:
        """Return the share of right continuations, and the relevance of the last block in those with an answer."""
        if prefix not in self.found:
            self.found[prefix] = self._look(prefix)
        return self.found[prefix]

    def _look(self, prefix: Program) -> tuple[float, float]:
        total = right = answered = relevant = 0.0
        for program, count in self.complete(prefix):
            run = self.verified.of(program)
            total += count
            right += count * self.is_right(run.answer)
            if run.answer is not None:
                answered += count
                relevant += count * relevance(program, run)[len(prefix) - 1]
        return (right / total if total else 0.0), (relevant / answered if answered else NAN)


class _Judge:
    """Asks the verifier what programs asked, each question once."""

    def __init__(self, verifier: Scene) -> None:
        self.verifier = verifier
        self.answers: dict[_Question, Json] = {}

    def answer(self, call: Call) -> Json:
        """Return the verifier's answer; None, which no module gives, where it has none."""
        key = _question(call)
        if key not in self.answers:
            try:
                self.answers[key] = self.verifier.call(call.method, call.region, call.arguments)
            except ValueError:
                self.answers[key] = None
        return self.answers[key]

    def share(self, block: BlockRun) -> float:
        """Return the share of a block's visual answers that are confirmed; asking twice counts once."""
        calls = {_question(call): call for call in block.calls}
        told = [(call, self.answer(call)) for call in calls.values()]
        confirmed = [truth is not None and same_answer(call.method, call.value, truth) for call, truth in told]
        return sum(confirmed) / len(confirmed) if confirmed else NAN

    def confirms(self, run: Run) -> bool:
        """Whether the verifier would have given every answer of a run, patches in the same order."""
        calls = itertools.chain.from_iterable(block.calls for block in run.blocks)
        return all(_identical(call, self.answer(call)) for call in calls)


def _identical(call: Call, truth: Json) -> bool:
    if call.method != "find":
        return type(call.value) is type(truth) and call.value == truth
    if truth is None or len(call.value) != len(truth):
        return False
    return all(same_answer("find", [a], [b]) for a, b in zip(call.value, truth, strict=True))


def _labels(program: Program, run: Run, ahead: _Ahead, judge: _Judge) -> NDArray[np.float32]:
    """Return the labels of the blocks that were reached."""
    seen = [ahead(program[: index + 1]) for index in range(len(run.blocks))]
    known = relevance(program, run) if run.answer is not None else [mean for _, mean in seen]
    rows = [(known[i], share, judge.share(run.blocks[i])) for i, (share, _) in enumerate(seen)]
    return np.array(rows, np.float32).reshape(len(rows), 3)
