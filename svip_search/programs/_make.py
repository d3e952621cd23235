"""The records of a data set, shard by shard: which puzzles are in a split, and what is made of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import count, islice
from pathlib import Path

import numpy as np

from .._types import Policy, ProposeRequest
from ..datasets.puzzles import FAMILIES, Puzzle, generate_puzzle
from ..datasets.puzzles.labels import is_right, label_steps
from ..datasets.svip import SvipRecord, generator_version
from ._types import Program, Run, Scene
from .assess import Assessment, Runner
from .label import label_programs

SPLITS = ("train", "test")
#: Share of all scenes that belong to SVIP-Test, in every build: a scene never changes sides.
TEST_SCENES = 0.1
VISIONS = ("noisy", "truth", "classical")
_TOGETHER = 16  # puzzles that a policy is asked about at once
_STRIDE = 10**6  # puzzles between the first ones of two shards


@dataclass(frozen=True)
class BuildConfig:
    """How a data set is built.

    Args:
        out: folder of the data set.
        n: trajectories in all.
        jobs: processes.
        seed: of the puzzles of SVIP-Train; SVIP-Test takes the next one.
        test_share: share of the trajectories that go to SVIP-Test.
        families: families to draw; empty means all.
        pixels: side of a picture.
        error_rate: share of wrong blocks that the generator writes.
        leaves: programs that are grown a puzzle.
        width: sub-nodes a step.
        completions: continuations of each prefix that logic is the share of.
        completion_error_rate: share of wrong blocks in these.
        vision: what the programs see with: noisy (the truth, some answers changed), truth or classical.
        noise: share of answers that noisy vision changes.
        per_puzzle: most trajectories that one puzzle gives.
        policy: name or folder of a policy whose own samples are labelled too; empty for none.
        policy_chains: samples a puzzle.
        shard: trajectories a file.
        parquet: write Parquet files beside the JSON lines.
    """

    out: str = "runs/svip-data"
    n: int = 10_000
    jobs: int = 1
    seed: int = 20_000
    test_share: float = 0.1
    families: tuple[str, ...] = ()
    pixels: int = 128
    error_rate: float = 0.2
    leaves: int = 12
    width: int = 3
    completions: int = 4
    completion_error_rate: float = 0.02
    vision: str = "noisy"
    noise: float = 0.1
    per_puzzle: int = 12
    policy: str = ""
    policy_chains: int = 2
    shard: int = 1000
    parquet: bool = False

    def __post_init__(self) -> None:
        for name in ("n", "jobs", "pixels", "leaves", "width", "completions", "per_puzzle", "shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("test_share", "error_rate", "completion_error_rate", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in 0..1; got {getattr(self, name)}.")
        for name in ("seed", "policy_chains"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0; got {getattr(self, name)}.")
        if self.vision not in VISIONS:
            raise ValueError(f"`vision` must be one of {', '.join(VISIONS)}; got {self.vision!r}.")
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown:
            raise ValueError(f"`families` must be among {', '.join(FAMILIES)}; got {unknown[0]!r}.")


def split_of(puzzle: Puzzle) -> str:
    """Return the split that a puzzle belongs to: it depends on family, question and scene, on no seed.

    Example:
        >>> split_of(generate_puzzle(1, 0, pixels=8)) == split_of(generate_puzzle(1, 0, pixels=64))
        True
    """
    return "test" if int(scene_of(puzzle), 16) < TEST_SCENES * 2**64 else "train"


def scene_of(puzzle: Puzzle) -> str:
    """Return a name for what a puzzle asks and shows, however it is drawn: 16 hexadecimal digits."""
    key = json.dumps([puzzle.family, puzzle.question.text, puzzle.facts])
    return blake2b(key.encode(), digest_size=8).hexdigest()


def puzzles(config: BuildConfig, split: str, number: int) -> Iterator[Puzzle]:
    """Yield the puzzles of a shard, without end."""
    seed = config.seed + SPLITS.index(split)
    for index in count(number * _STRIDE):
        puzzle = generate_puzzle(seed, index, pixels=config.pixels)
        if split_of(puzzle) == split and (not config.families or puzzle.family in config.families):
            yield puzzle


def _from_programs(config: BuildConfig, puzzle: Puzzle, runner: Runner) -> list[SvipRecord]:
    from .puzzles import PuzzleProgramGenerator
    from .vision import TruthVision

    found = label_programs(
        puzzle.question,
        PuzzleProgramGenerator(config.error_rate, family=puzzle.family),
        runner,
        _scene(config, puzzle),
        TruthVision().look(puzzle),
        completer=PuzzleProgramGenerator(config.completion_error_rate, family=puzzle.family),
        completions=config.completions,
        leaves=config.leaves,
        width=config.width,
        seed=puzzle.index,
    )
    rng = np.random.default_rng([puzzle.seed, puzzle.index, 1])
    chosen = sorted(rng.permutation(len(found))[: config.per_puzzle].tolist())
    return [_record(config, puzzle, *found[i]) for i in chosen]


def _scene(config: BuildConfig, puzzle: Puzzle) -> Scene:
    from .vision import NoisyVision, TruthVision

    if config.vision == "classical":
        from .vision import ClassicalVision

        return ClassicalVision().look(puzzle.image)
    if config.vision == "noisy":
        return NoisyVision(TruthVision(), config.noise, puzzle.index).look(puzzle)
    return TruthVision().look(puzzle)


def _record(config: BuildConfig, puzzle: Puzzle, assessment: Assessment, steps: list[str]) -> SvipRecord:
    run = assessment.run
    return replace(
        _blank(config, puzzle, steps),
        program=assessment.program,
        results=tuple(block.value for block in run.blocks),
        errors=tuple(f"{block.error}: {block.message}" if block.error else "" for block in run.blocks),
        labels=assessment.labels,
        outcome=int(assessment.right),
        sandbox=run.sandbox,
    )


def _blank(config: BuildConfig, puzzle: Puzzle, steps: Sequence[str]) -> SvipRecord:
    return SvipRecord(
        id="", family=puzzle.family, question=puzzle.question.text, options=tuple(puzzle.question.options),
        answer=puzzle.answer, images=({"puzzle": [puzzle.seed, puzzle.index], "pixels": config.pixels},),
        program=(), results=(), errors=(), steps=tuple(steps), labels=label_steps(puzzle, steps),
        outcome=int(is_right(puzzle, steps)), source="program", seed=puzzle.seed, generator=generator_version(),
        extra={"scene": scene_of(puzzle)},
    )  # fmt: skip


def _from_policy(config: BuildConfig, group: Sequence[Puzzle], policy: Policy) -> list[list[SvipRecord]]:
    """Return the policy's own chains for each puzzle; what they claim is checked against the scene."""
    requests = [ProposeRequest(p.question, (), config.policy_chains, p.index, whole=True) for p in group]
    source = f"policy:{Path(config.policy).name}"
    found = []
    for puzzle, chains in zip(group, policy.propose(requests), strict=True):
        texts = dict.fromkeys(tuple(step.text for step in chain) for chain in chains if chain)
        found.append([replace(_blank(config, puzzle, steps), source=source) for steps in texts])
    return found


class Worker:
    """Makes the records of shards; it keeps a sandbox and the policy from one to the next.

    Args:
        config: of the build.
        stack: closes the sandbox.
    """

    def __init__(self, config: BuildConfig, stack: ExitStack) -> None:
        from .sandbox import Sandbox

        self.config = config
        self.sandbox = stack.enter_context(Sandbox())
        self.policy = _load_policy(config.policy) if config.policy else None
        if config.vision == "classical":
            import cv2

            cv2.setNumThreads(1)  # a process a core; more threads would spin

    def shard(self, split: str, number: int, size: int) -> list[SvipRecord]:
        """Return the records of a shard: the first ``size`` that its puzzles give."""
        found = puzzles(self.config, split, number)
        groups = iter(lambda: list(islice(found, _TOGETHER if self.policy is not None else 1)), [])
        made = (record for group in groups for records in self.records(group) for record in records)
        return list(islice(made, size))

    def records(self, group: Sequence[Puzzle]) -> list[list[SvipRecord]]:
        """Return the records of each of some puzzles; the policy is asked once for all of them."""
        found = [_from_programs(self.config, puzzle, self.run) for puzzle in group]
        if self.policy is not None:
            sampled = _from_policy(self.config, group, self.policy)
            found = [ours + theirs for ours, theirs in zip(found, sampled, strict=True)]
        return [
            [replace(record, id=f"{puzzle.question.id}#{i}") for i, record in enumerate(records)]
            for puzzle, records in zip(group, found, strict=True)
        ]

    def run(self, program: Program, scene: Scene) -> Run:
        """Run a program; a worker that died or was starved of time gets two more chances."""
        for _ in range(3):
            run = self.sandbox.run(program, scene)
            if not run.blocks or run.blocks[-1].error not in ("crash", "timeout", "unavailable"):
                break
        return run


def _load_policy(name: str) -> Policy:
    import torch

    from ..models import zoo

    torch.set_num_threads(1)  # a process a core
    return zoo.load_policy(name)
