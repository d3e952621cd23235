"""The records of a data set, shard by shard: which puzzles are in a split, and what is made of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np

from .._types import Policy, ProposeRequest
from ..datasets import planning, puzzles
from ..datasets._drawn import DOMAINS, Drawn, scene_of
from ..datasets.planning import Plan, generate_plan
from ..datasets.puzzles import Puzzle, generate_puzzle
from ..datasets.svip import SvipRecord, record_of_chain
from ._types import Program, Run, Scene
from .assess import Assessment, Runner
from .label import label_programs

SPLITS = ("train", "test")
#: Share of all scenes that belong to SVIP-Test, in every build: a scene never changes sides.
TEST_SCENES = 0.1
VISIONS = ("noisy", "truth", "classical")
_TOGETHER = 16  # puzzles that a policy is asked about at once
_STRIDE = 10**6  # puzzles between the first ones of two shards
_PLAN_TOKENS = 512  # of the longest chains of a policy about planning puzzles
#: Sides of pictures by default.
_PIXELS = {"puzzles": 128, "planning": 384}


@dataclass(frozen=True)
class BuildConfig:
    """How a data set is built.

    Args:
        out: folder of the data set.
        domain: puzzles (pattern puzzles) or planning (planning puzzles).
        n: trajectories in all.
        jobs: processes.
        seed: of the puzzles of SVIP-Train; SVIP-Test takes the next one.
        test_share: share of the trajectories that go to SVIP-Test.
        families: families to draw; empty means all.
        moves: least and most moves of the shortest plans of planning puzzles; empty: as the families have them.
        pixels: side of a picture; 0: as the domain has it, 128 or, for planning puzzles, 384.
        error_rate: share of wrong blocks that the generator writes.
        leaves: programs that are grown a puzzle.
        width: sub-nodes a step.
        completions: continuations of each prefix that logic is the share of.
        completion_error_rate: share of wrong blocks in these.
        vision: what the programs see with: noisy (the truth, some answers changed), truth or, pattern puzzles only,
            classical.
        noise: share of answers that noisy vision changes.
        per_puzzle: most trajectories that one puzzle gives, samples of the policy not counted; of a planning puzzle,
            half of them are told from programs, the others by its generator, with and without wrong steps.
        policy: name or folder of a policy whose own samples are labelled too; empty for none.
        policy_chains: samples a puzzle.
        shard: trajectories a file.
        parquet: write Parquet files beside the JSON lines.
    """

    out: str = "runs/svip-data"
    domain: str = "puzzles"
    n: int = 10_000
    jobs: int = 1
    seed: int = 20_000
    test_share: float = 0.1
    families: tuple[str, ...] = ()
    moves: tuple[int, ...] = ()
    pixels: int = 0
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
        if self.domain not in DOMAINS:
            raise ValueError(f"`domain` must be one of {', '.join(DOMAINS)}; got {self.domain!r}.")
        if not self.pixels:
            object.__setattr__(self, "pixels", _PIXELS[self.domain])
        for name in ("n", "jobs", "pixels", "leaves", "width", "completions", "per_puzzle", "shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("test_share", "error_rate", "completion_error_rate", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in 0..1; got {getattr(self, name)}.")
        for name in ("seed", "policy_chains"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0; got {getattr(self, name)}.")
        visions = VISIONS if self.domain == "puzzles" else VISIONS[:2]
        if self.vision not in visions:
            raise ValueError(f"`vision` must be one of {', '.join(visions)}; got {self.vision!r}.")
        known = planning.FAMILIES if self.domain == "planning" else puzzles.FAMILIES
        unknown = [name for name in self.families if name not in known]
        if unknown:
            raise ValueError(f"`families` must be among {', '.join(known)}; got {unknown[0]!r}.")
        ranged = self.domain == "planning" and len(self.moves) == 2 and 1 <= self.moves[0] <= self.moves[1]
        if self.moves and not ranged:
            raise ValueError(f"`moves` must be least,most with 1 <= least <= most, of planning; got {self.moves}.")


def split_of(drawn: Drawn) -> str:
    """Return the split that a puzzle belongs to: it depends on family, question and scene, on no seed.

    Example:
        >>> split_of(generate_puzzle(1, 0, pixels=8)) == split_of(generate_puzzle(1, 0, pixels=64))
        True
    """
    return "test" if int(scene_of(drawn), 16) < TEST_SCENES * 2**64 else "train"


def drawn_of(config: BuildConfig, split: str, number: int) -> Iterator[Drawn]:
    """Yield the puzzles of a shard, without end."""
    seed = config.seed + SPLITS.index(split)
    draw = _plan if config.domain == "planning" else _puzzle
    for index in count(number * _STRIDE):
        drawn = draw(config, seed, index)
        if split_of(drawn) == split and (not config.families or drawn.family in config.families):
            yield drawn


def _puzzle(config: BuildConfig, seed: int, index: int) -> Puzzle:
    return generate_puzzle(seed, index, pixels=config.pixels)


def _plan(config: BuildConfig, seed: int, index: int) -> Plan:
    moves = (config.moves[0], config.moves[1]) if config.moves else None
    return generate_plan(seed, index, families=config.families or None, moves=moves, pixels=config.pixels)


def _of_puzzle(config: BuildConfig, puzzle: Puzzle, runner: Runner) -> list[SvipRecord]:
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
    record = with_program(blank(puzzle, steps, "program"), assessment)
    return replace(record, labels=assessment.labels, outcome=int(assessment.right))


def with_program(record: SvipRecord, assessment: Assessment) -> SvipRecord:
    """Return a record with the program that its steps were told from, and what that gave."""
    run = assessment.run
    return replace(
        record,
        program=assessment.program,
        results=tuple(block.value for block in run.blocks),
        errors=tuple(f"{block.error}: {block.message}" if block.error else "" for block in run.blocks),
        sandbox=run.sandbox,
    )


def blank(drawn: Drawn, steps: Sequence[str], source: str) -> SvipRecord:
    """Return the record of a chain that is labelled by the truth of its scene and has no name yet."""
    return replace(record_of_chain(drawn, steps, source), id="", extra={"scene": scene_of(drawn)})


def _of_policy(config: BuildConfig, group: Sequence[Drawn], policy: Policy) -> list[list[SvipRecord]]:
    """Return the policy's own chains for each puzzle; what they claim is checked against the scene."""
    requests = [ProposeRequest(p.question, (), config.policy_chains, p.index, whole=True) for p in group]
    source = f"policy:{Path(config.policy).name}"
    found = []
    for drawn, chains in zip(group, policy.propose(requests), strict=True):
        texts = dict.fromkeys(tuple(step.text for step in chain) for chain in chains if chain)
        found.append([blank(drawn, steps, source) for steps in texts])
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
        self.policy = _load_policy(config) if config.policy else None
        if config.vision == "classical":
            import cv2

            cv2.setNumThreads(1)  # a process a core; more threads would spin

    def shard(self, split: str, number: int, size: int) -> list[SvipRecord]:
        """Return the records of a shard: the first ``size`` that its puzzles give."""
        found = drawn_of(self.config, split, number)
        groups = iter(lambda: list(islice(found, _TOGETHER if self.policy is not None else 1)), [])
        made = (record for group in groups for records in self.records(group) for record in records)
        return list(islice(made, size))

    def records(self, group: Sequence[Drawn]) -> list[list[SvipRecord]]:
        """Return the records of each of some puzzles; the policy is asked once for all of them."""
        found = [self._own(drawn) for drawn in group]
        if self.policy is not None:
            sampled = _of_policy(self.config, group, self.policy)
            found = [ours + theirs for ours, theirs in zip(found, sampled, strict=True)]
        return [
            [replace(record, id=f"{drawn.question.id}#{i}") for i, record in enumerate(records)]
            for drawn, records in zip(group, found, strict=True)
        ]

    def _own(self, drawn: Drawn) -> list[SvipRecord]:
        if isinstance(drawn, Puzzle):
            return _of_puzzle(self.config, drawn, self.run)
        from ._make_plans import of_plan

        return of_plan(self.config, drawn, self.run)

    def run(self, program: Program, scene: Scene) -> Run:
        """Run a program; a worker that died or was starved of time gets two more chances."""
        for _ in range(3):
            run = self.sandbox.run(program, scene)
            if not run.blocks or run.blocks[-1].error not in ("crash", "timeout", "unavailable"):
                break
        return run


def _load_policy(config: BuildConfig) -> Policy:
    import torch

    from ..models import zoo

    torch.set_num_threads(1)  # a process a core
    longer: dict[str, int] = {"max_tokens": _PLAN_TOKENS} if config.domain == "planning" else {}
    return zoo.load_policy(config.policy, **longer)
