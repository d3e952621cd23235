"""How far the labels of visual programs agree with what they stand for, on generated trajectories.

* attribute: against scene truth, by the facts that each step states (`label_steps`), and, with the verifier
  replaced by the classical vision module, against the labels that scene truth gives;
* relevance: against ablation: leave the block (and its later repetitions) out and run what is left;
* logic: against all continuations that the completer may write, weighted by their probability.

``python benchmarks/programs/label_agreement.py [--trajectories N]`` prints the figures and writes the record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from shares import wilson
from timing import write_record

from svip_search.datasets.puzzles import Puzzle, generate_puzzle
from svip_search.datasets.puzzles.labels import label_steps
from svip_search.programs import Program, Scene
from svip_search.programs._dataflow import repetitions
from svip_search.programs.assess import Assessment, _Judge, answer_test
from svip_search.programs.build import BuildConfig
from svip_search.programs.label import label_programs
from svip_search.programs.puzzles import PuzzleProgramGenerator
from svip_search.programs.sandbox import Sandbox
from svip_search.programs.vision import NoisyVision, TruthVision
from svip_search.programs.vision.classical import ClassicalVision

SEED = 40_000
CONFIG = BuildConfig()
PRUNE = 5e-4  # continuations less likely than this are left out; the share of what is left is taken


class Agreement:
    """Pairs of (label, what it stands for), for each question asked."""

    def __init__(self) -> None:
        self.pairs: dict[str, list[tuple[float, float]]] = {}
        self.apart: dict[str, Counter[str]] = {}

    def add(self, name: str, ours: float, theirs: float, right: float, kind: str) -> None:
        """Note one block; ``right`` is the least label that counts as right."""
        self.pairs.setdefault(name, []).append((ours, theirs))
        verdict = self.apart.setdefault(name, Counter())
        same = (ours >= right) == (theirs >= right)
        verdict[f"{'same' if same else 'apart'} {kind}"] += 1

    def figures(self) -> dict[str, Any]:
        """Return the shares of equal verdicts, the mean differences, and where verdicts part."""
        found = {}
        for name, pairs in self.pairs.items():
            counts = self.apart[name]
            same = sum(n for key, n in counts.items() if key.startswith("same"))
            difference = float(np.mean([abs(a - b) for a, b in pairs]))
            low, high = wilson(same, len(pairs))
            found[name] = {
                "blocks": len(pairs), "agreement": round(same / len(pairs), 4),
                "interval": [round(low, 4), round(high, 4)], "mean_difference": round(difference, 4),
                "apart": {k.removeprefix("apart "): n for k, n in counts.most_common() if k.startswith("apart")},
                "same": {k.removeprefix("same "): n for k, n in counts.most_common() if k.startswith("same")},
            }  # fmt: skip
        return found


class Exhaustive:
    """The probability that a prefix is completed to the right answer, over all that the completer may write."""

    def __init__(self, puzzle: Puzzle, sandbox: Sandbox, truth: Scene) -> None:
        self.question, self.sandbox, self.truth = puzzle.question, sandbox, truth
        self.writer = PuzzleProgramGenerator(CONFIG.completion_error_rate, family=puzzle.family)
        self.right = answer_test(puzzle.answer, puzzle.question.options)
        self.answers: dict[Program, bool] = {}

    def __call__(self, prefix: Program) -> float:
        """Return the share of right continuations."""
        hits = total = 0.0
        for program, share in self.programs(prefix, 1.0):
            total += share
            hits += share * self.is_right(program)
        return hits / total if total else 0.0

    def programs(self, prefix: Program, share: float) -> Iterator[tuple[Program, float]]:
        """Yield whole programs with their probabilities."""
        following = self.writer.exhaustive(self.question, prefix) if len(prefix) < 16 else []
        if not following:
            yield prefix, share
        for block, chance in following:
            if share * chance >= PRUNE:
                yield from self.programs((*prefix, block), share * chance)

    def is_right(self, program: Program) -> bool:
        """Run a program once; what begins with one that failed has failed."""
        for length in range(1, len(program) + 1):
            if program[:length] in self.answers:
                return self.answers[program[:length]]
        run = self.sandbox.run(program, self.truth)
        key = program if run.blocks and run.blocks[-1].ok else program[: len(run.blocks)]
        self.answers[key] = self.right(run.answer)
        return self.answers[key]


def needed(program: Program, index: int, answer: str | None, sandbox: Sandbox, scene: Scene) -> bool:
    """Return whether a program answers otherwise, or not at all, without a block and what repeats it.

    A block that cannot do without the one that is left out goes, too: the answer may do without both.
    """
    again = {i for i in repetitions(program) if i > index and program[i] == program[index]}
    rest = [block for i, block in enumerate(program) if i != index and i not in again]
    while rest:
        run = sandbox.run(rest, scene)
        if run.answer is not None or not run.blocks or run.blocks[-1].ok:
            return run.answer != answer
        del rest[len(run.blocks) - 1]
    return True


def kind_of(puzzle: Puzzle, program: Sequence[str], index: int) -> str:
    """Return which kind of mistake a block is, ``right`` if none."""
    writer = PuzzleProgramGenerator(family=puzzle.family)
    proposals = writer.proposals(puzzle.question, program[:index])
    return next((p.kind for p in proposals if p.block == program[index]), "other")


def compare(found: Assessment, steps: Sequence[str], puzzle: Puzzle, sandbox: Sandbox, scene: Scene,
            classical: _Judge, exhaustive: Exhaustive | None, agreement: Agreement) -> None:  # fmt: skip
    """Note all that can be compared in one trajectory."""
    stated = label_steps(puzzle, steps)[:, 2]
    program, labels = found.program, found.labels.astype(float)
    for i, block in enumerate(found.run.blocks):
        kind = kind_of(puzzle, program, i)
        relevance, logic, attribute = labels[i]
        if not np.isnan(attribute):
            if not np.isnan(stated[i]):
                agreement.add("attribute, scene truth of what is stated", attribute, stated[i], 1, kind)
            agreement.add("attribute, classical verifier", classical.share(block), attribute, 1, kind)
        if found.run.answer is not None:
            matters = needed(program, i, found.run.answer, sandbox, scene)
            agreement.add("relevance, ablation", relevance, float(matters), 0.75, kind)
        if exhaustive is not None:
            agreement.add("logic, exhaustive continuation", logic, exhaustive(program[: i + 1]), 0.5, kind)


def main() -> None:
    """Compare, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=2000)
    parser.add_argument("--logic", type=int, default=2000, help="trajectories whose logic is compared")
    parser.add_argument("--no-record", action="store_true")
    arguments = parser.parse_args()
    agreement, done, index = Agreement(), 0, 0
    with Sandbox() as sandbox:
        while done < arguments.trajectories:
            puzzle = generate_puzzle(SEED, index)
            truth = TruthVision().look(puzzle)
            scene = NoisyVision(TruthVision(), CONFIG.noise, index).look(puzzle)
            writers = [PuzzleProgramGenerator(e, family=puzzle.family)
                       for e in (CONFIG.error_rate, CONFIG.completion_error_rate)]  # fmt: skip
            found = label_programs(puzzle.question, writers[0], sandbox.run, scene, truth, completer=writers[1],
                                   completions=CONFIG.completions, leaves=CONFIG.leaves, seed=index)  # fmt: skip
            exhaustive = Exhaustive(puzzle, sandbox, truth) if done < arguments.logic else None
            classical = _Judge(ClassicalVision().look(puzzle.image))
            for assessment, steps in found:
                compare(assessment, steps, puzzle, sandbox, scene, classical, exhaustive, agreement)
            done, index = done + len(found), index + 1
    settings = {"error_rate": CONFIG.error_rate, "noise": CONFIG.noise, "completions": CONFIG.completions}
    figures = {"trajectories": done, "puzzles": index, "settings": settings, **agreement.figures()}
    print(json.dumps(figures, indent=1))
    if not arguments.no_record:
        write_record("label_agreement", figures)


if __name__ == "__main__":
    main()
