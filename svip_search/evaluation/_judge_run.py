"""Asks a reward model about the cases of a benchmark, once each, and keeps what it said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import ImageError, RewardError, SvipSearchError
from .._types import Prefix, Question, RewardModel
from ..datasets.svip import RecordError
from ._records import RecordFile

Rows = NDArray[np.float64]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Case:
    """One question and the paths that are judged.

    Args:
        id: unique in a run.
        group: what the benchmark reports apart.
        question: gives the question, its pictures opened.
        paths: what is judged; an empty one is never shown and has no rewards.
        every_step: whether the steps matter, so that a model of whole paths is asked about each prefix.
        swap: judgements in which the paths are shown the other way round.
    """

    id: str
    group: str
    question: Callable[[], Question]
    paths: tuple[Prefix, ...]
    every_step: bool = False
    swap: tuple[bool, ...] = ()

    @property
    def digest(self) -> str:
        """What the paths are, so that a record of other data is not taken for this one."""
        text = json.dumps([self.paths, self.every_step, self.swap])
        return blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class JudgeRecord:
    """What a reward model said about one case: ``rewards[judgement][path][step][dimension]``.

    ``failure`` is why it could not be asked, where such cases are left out.
    """

    id: str
    digest: str
    rewards: list[list[list[list[float]]]]
    failure: str = ""

    def judgement(self, index: int) -> list[Rows]:
        """Return the rewards of each path in one judgement, [T, 3]."""
        return [np.array(path, np.float64).reshape(-1, 3) for path in self.rewards[index]]

    def mean(self) -> list[Rows]:
        """Return the rewards of each path, averaged over the judgements."""
        return [np.mean(paths, axis=0) for paths in zip(*map(self.judgement, range(len(self.rewards))), strict=True)]


def run(
    cases: Sequence[Case],
    reward: RewardModel,
    file: RecordFile[JudgeRecord],
    k: int,
    batch: int,
    skip: bool,
    progress: Progress | None,
) -> tuple[dict[str, JudgeRecord], bool]:
    """Return the record of every case that was judged, and whether the run came to its end."""
    done = {c.id: file.known[c.id] for c in cases if c.id in file.known and file.known[c.id].digest == c.digest}
    done = {name: record for name, record in done.items() if not record.failure}  # the picture may be there now
    waiting = [case for case in cases if case.id not in done]
    try:
        for start in range(0, len(waiting), batch):
            if progress is not None:
                progress(len(done), len(cases), "")
            for record in _judged(waiting[start : start + batch], reward, k, skip):
                done[record.id] = record
                file.append(record)
    except KeyboardInterrupt:
        if not any(not record.failure for record in done.values()):
            raise
        return done, False
    if progress is not None:
        progress(len(done), len(cases), "")
    return done, True


def _judged(cases: Sequence[Case], reward: RewardModel, k: int, skip: bool) -> Iterator[JudgeRecord]:
    for case in cases:
        try:
            question = case.question()
            rewards = [_ask(case, question, reward, index) for index in range(k)]
        except (ImageError, RecordError) as error:
            if not skip:
                raise type(error)(f"record {case.id!r}: {error}") from None
            yield JudgeRecord(case.id, case.digest, [], str(error))
            continue
        yield JudgeRecord(case.id, case.digest, rewards)


def _ask(case: Case, question: Question, reward: RewardModel, index: int) -> list[list[list[float]]]:
    """Return ``rewards[path][step][dimension]`` of one judgement, in the order of the case."""
    if index and callable(clear := getattr(reward, "clear", None)):
        clear()  # a judgement is given anew, not remembered
    order = [i for i, path in enumerate(case.paths) if path]
    if index < len(case.swap) and case.swap[index]:
        order.reverse()
    found: list[list[list[float]]] = [[] for _ in case.paths]
    shown = [case.paths[i] for i in order]
    for i, rows in zip(order, _rewards(case, question, reward, shown), strict=True):
        # Rounded as they are written, so that a run that was continued says the same.
        found[i] = [[round(float(v), 6) for v in row] for row in rows]
    return found


def _rewards(case: Case, question: Question, reward: RewardModel, paths: Sequence[Prefix]) -> list[Rows]:
    if not paths:
        return []
    if reward.kind == "prm":
        return _called(case, question, reward, paths, [(len(path), 3) for path in paths])
    # A model of whole paths: asked about every prefix, its one number stands for all dimensions.
    asked = [p for path in paths for p in ([path[: t + 1] for t in range(len(path))] if case.every_step else [path])]
    numbers = _called(case, question, reward, asked, [()] * len(asked))
    lengths = [len(path) if case.every_step else 1 for path in paths]
    flat = np.array(numbers, np.float64)
    return [np.repeat(part[:, None], 3, axis=1) for part in np.split(flat, np.cumsum(lengths)[:-1])]


def _called(
    case: Case, question: Question, reward: RewardModel, paths: Sequence[Prefix], shapes: Sequence[tuple[int, ...]]
) -> list[Rows]:
    name = type(reward).__name__
    try:
        outcome: Any = reward.evaluate(question, paths)
    except SvipSearchError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        raise RewardError(f"`reward` {name} failed on {case.id!r}: {type(error).__name__}: {detail}") from error
    if not isinstance(outcome, (list, tuple)) or len(outcome) != len(paths):
        size = len(outcome) if isinstance(outcome, (list, tuple)) else type(outcome).__name__
        raise RewardError(f"`reward` must return one array a path, {len(paths)}, on {case.id!r}; got {size}.")
    found = []
    for value, shape in zip(outcome, shapes, strict=True):
        try:
            rows = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            rows = np.full((1, 1, 1), np.nan)
        if rows.shape != shape:
            got = list(rows.shape) if rows.ndim < 3 else type(value).__name__
            raise RewardError(f"`reward` must return shape {list(shape)} on {case.id!r}; got {got}.")
        if not ((rows >= 0) & (rows <= 1)).all():
            raise RewardError(f"`reward` must return numbers in 0..1 on {case.id!r}; got {_odd(rows)}.")
        found.append(rows)
    return found


def _odd(rows: Rows) -> float:
    return float(rows[~((rows >= 0) & (rows <= 1))].flat[0])
