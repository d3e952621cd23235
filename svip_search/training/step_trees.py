"""Labelled chains of thought as trees: what all trainers of reward models read.

All chains of one question make one tree in which equal beginnings stand once, as they do in a search, so
a step is read, judged and differentiated once, however many chains lead through it::

    record  = one chain, its labels [T, 3] and whether it ended in the right answer
    tree    = the records of one question; a node is a prefix of steps
    label   = mean over the chains through the node, missing ones counting for nothing
    outcome = share of the chains through the node that end right
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._types import Question
from ..datasets._drawn import Drawn
from ..datasets.svip import RecordError, SvipRecord, is_correct, read_svip, record_of_chain

__all__ = [
    "HELD_OUT", "Labels", "StepTree", "hold_out", "question_of", "read_step_trees", "record_of_chain", "step_trees",
]  # fmt: skip

Labels = Literal["soft", "hard", "outcome"]
#: Share of the questions of a training set that is held out for early stopping and calibration.
HELD_OUT = 0.03


@dataclass(frozen=True, eq=False)
class StepTree:
    """The labelled chains of thought of one question.

    Attributes:
        record: one of its records, without program: question, pictures, answer and where they come from.
        steps: text of each node, parents before children.
        parent: int32 [N]; -1 where a step follows the question.
        labels: float32 [N, 3], NaN where a label is missing.
        outcome: float32 [N], share of the chains through a node that end in the right answer.
        chains: node indices of each chain, in the order of the records.
        right: int8 [chains], whether each ends in the right answer.
        sources: who wrote each chain.
    """

    record: SvipRecord
    steps: tuple[str, ...]
    parent: NDArray[np.int32]
    labels: NDArray[np.float32]
    outcome: NDArray[np.float32]
    chains: tuple[tuple[int, ...], ...]
    right: NDArray[np.int8]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def domain(self) -> str:
        """What the question belongs to: its field ``domain`` if it has one, else its family."""
        return str(self.record.extra.get("domain", self.record.family))

    def question(self) -> Question:
        """Return the question with its pictures."""
        return self.record.to_question()

    def drawn(self) -> Drawn | None:
        """Return the generated puzzle that the question is, None if its pictures are files."""
        return self.record.drawn()

    def path(self, node: int) -> tuple[str, ...]:
        """Return the steps from the question to a node."""
        steps: list[str] = []
        while node >= 0:
            steps.append(self.steps[node])
            node = int(self.parent[node])
        return tuple(reversed(steps))

    @property
    def faultless(self) -> NDArray[np.bool_]:
        """Which nodes have no wrong step on their path, themselves included, bool [N], as far as labels are known."""
        right = is_correct(self.labels)
        found = np.asarray((np.isnan(right) | (right > 0)).all(1))
        for node, up in enumerate(self.parent):
            found[node] &= up < 0 or found[up]
        return found

    def targets(self, labels: Labels = "soft") -> NDArray[np.float32]:
        """Return what a model is trained towards, float32 [N, 3], NaN where nothing is known.

        ``soft`` are the labels as they are; ``hard`` is 1 where they exceed one half, else 0; ``outcome``
        is the same for all three dimensions: the share of chains that end right, as outcome rewards have it.
        """
        if labels == "hard":
            return np.where(np.isnan(self.labels), np.nan, self.labels > 0.5).astype(np.float32)
        if labels == "outcome":
            return np.repeat(self.outcome[:, None], 3, 1)
        return self.labels


@dataclass
class _Growing:
    """A tree while its records are read."""

    record: SvipRecord
    index: dict[tuple[int, str], int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    labels: list[list[NDArray[np.float32]]] = field(default_factory=list)
    outcomes: list[list[int]] = field(default_factory=list)
    chains: list[tuple[int, ...]] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def add(self, record: SvipRecord) -> None:
        node, chain = -1, []
        for text, label in zip(record.steps, record.labels, strict=True):
            key = (node, text)
            if key not in self.index:
                self.index[key] = len(self.steps)
                self.steps.append(text)
                self.parent.append(node)
                self.labels.append([])
                self.outcomes.append([])
            node = self.index[key]
            self.labels[node].append(label)
            self.outcomes[node].append(record.outcome)
            chain.append(node)
        self.chains.append(tuple(chain))
        self.right.append(record.outcome)
        self.sources.append(record.source)

    def grown(self) -> StepTree:
        return StepTree(
            self.record, tuple(self.steps), np.array(self.parent, np.int32),
            np.stack([_mean(known) for known in self.labels]),
            np.array([np.mean(o) for o in self.outcomes], np.float32),
            tuple(self.chains), np.array(self.right, np.int8), tuple(self.sources),
        )  # fmt: skip


def _mean(labels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    stacked = np.stack(labels)
    counts = (~np.isnan(stacked)).sum(0)
    return np.where(counts > 0, np.nansum(stacked, 0) / np.maximum(counts, 1), np.nan).astype(np.float32)


def step_trees(records: Iterable[SvipRecord]) -> list[StepTree]:
    """Return one tree a question, in the order in which the questions first occur.

    Args:
        records: chains with labels; those of one question need not stand together.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> from svip_search.training.step_trees import record_of_chain
        >>> puzzle = generate_puzzle(1, 0, families=["venn"])
        >>> right = list(puzzle.steps)
        >>> trees = step_trees(record_of_chain(puzzle, c) for c in (right, [*right[:-1], "answer : 0"]))
        >>> len(trees), len(trees[0]), trees[0].outcome.tolist()
        (1, 6, [0.5, 0.5, 0.5, 0.5, 1.0, 0.0])
    """
    growing: dict[str, _Growing] = {}
    for record in records:
        key = question_of(record)
        if key not in growing:
            growing[key] = _Growing(_slim(record))
        growing[key].add(record)
    return [g.grown() for g in growing.values()]


def read_step_trees(
    paths: Sequence[str | PathLike[str]],
    keep: Callable[[SvipRecord], bool] | None = None,
    skipped: Counter[str] | None = None,
) -> list[StepTree]:
    """Return the trees of data sets, as `svip_search.datasets.svip` writes them.

    Args:
        paths: files, or folders of which the files of SVIP-Train are read (all, where none is named so).
        keep: which records count; all by default.
        skipped: counts the records that cannot be used, by reason, instead of raising.

    Raises:
        RecordError: a record cannot be used and ``skipped`` is None.
        ValueError: there is no such file, or nothing is left.
    """

    def note(error: RecordError) -> None:
        assert skipped is not None
        skipped[str(error).split(": ", 1)[-1]] += 1

    def records() -> Iterable[SvipRecord]:
        for path in paths:
            for file in _training_files(Path(path)):
                for record in read_svip(file, None if skipped is None else note):
                    if keep is None or keep(record):
                        yield record

    trees = step_trees(records())
    if not trees:
        named = ", ".join(str(p) for p in paths)
        raise ValueError(f"`data` must hold usable records; '{named}' has none.")
    return trees


def hold_out(trees: Sequence[StepTree]) -> tuple[list[StepTree], list[StepTree]]:
    """Return the trees to train on, and those that are held out.

    A question is held out by what it asks and shows, whatever it stands beside: about `HELD_OUT` of all, and at
    least one.

    Raises:
        ValueError: there is one question only.
    """
    if len(trees) < 2:
        raise ValueError(f"`data` must hold at least 2 questions, one of them to validate on; got {len(trees)}.")
    places = [_place(tree.record) for tree in trees]
    bound = max(HELD_OUT, min(places))
    kept = [tree for tree, place in zip(trees, places, strict=True) if place > bound]
    return kept, [tree for tree, place in zip(trees, places, strict=True) if place <= bound]


def _place(record: SvipRecord) -> float:
    """Return a number in 0..1 that depends on question and pictures alone, evenly spread."""
    key = repr((record.question, record.options, record.images)).encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") / 2**64


def _training_files(path: Path) -> list[Path]:
    found = sorted(path.glob("train-*.jsonl")) or sorted(path.glob("train-*.parquet")) if path.is_dir() else []
    return found or [path]


def question_of(record: SvipRecord) -> str:
    """Return a name for the question of a record: equal for equal words and pictures."""
    digest = blake2b(digest_size=12)
    digest.update(repr((record.question, record.options, record.images, str(record.folder))).encode())
    return digest.hexdigest()


def _slim(record: SvipRecord) -> SvipRecord:
    """Return the record without what only its own chain has; trees of a whole data set stay in memory."""
    no_labels = np.zeros((0, 3), np.float32)
    return replace(record, program=(), results=(), errors=(), steps=(), labels=no_labels)
