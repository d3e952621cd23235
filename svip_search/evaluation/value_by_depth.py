"""How well rewards tell which prefixes of a plan still reach a right answer, by the depth of the plan.

A search cuts prefixes long before there is an answer to look at, so what it needs of a reward model is a value of
prefixes.  Of planning puzzles the truth is known: a prefix is on its way where nothing in it is wrong and the plan
is one of the shortest so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._aggregate import Scoring
from .._types import Prefix, RewardModel
from ..datasets.planning import Follower, Plan
from ..datasets.svip import SvipRecord
from ._bootstrap import interval
from .metrics import NAN, auroc

#: The logic of the last step: what is left of the plan's worth, as far as the picture was read right.
LOGIC = Scoring(aggregate="last", weights=(0.0, 1.0, 0.0))
#: The least of logic and attribute so far: also what was misread, but a detour that was taken back counts for ever.
LEAST = Scoring(aggregate="min", weights=(0.0, 1.0, 1.0), veto=True)


@dataclass(frozen=True, slots=True)
class DepthValue:
    """Prefixes of one depth.

    Attributes:
        depth: moves of the plan at their ends.
        prefixes: how many, each once.
        reaching: share that still reaches a right answer, in 0..1.
        auroc: how often one that does has a higher value than one that does not; NaN where all or none do.
        low: lower end of its 95 % interval, puzzles resampled; NaN where there are too few.
        high: upper end.
    """

    depth: int
    prefixes: int
    reaching: float
    auroc: float
    low: float = NAN
    high: float = NAN


def reaching(plan: Plan, steps: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return of each prefix whether it still reaches a right answer as it is, bool [T], and its depth, int64 [T].

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["rotting_kiwi"], moves=(1, 1))
        >>> reaching(plan, [*plan.steps[:-1], "answer : 9"])
        (array([ True,  True, False]), array([0, 1, 1]))
    """
    follower, hopeful, depths = Follower(plan), [], []
    for step in steps:
        follower.read(step)
        hopeful.append(follower.hopeful)
        depths.append(follower.depth)
    return np.array(hopeful, bool), np.array(depths, np.int64)


def prefix_values(rewards: ArrayLike, scoring: Scoring = LOGIC) -> NDArray[np.float64]:
    """Return the value float64 [T] of each prefix of a chain with rewards [T, 3].

    Example:
        >>> prefix_values([[1, 0.5, 1], [1, 0.25, 1]]).tolist()
        [0.5, 0.25]
    """
    rows = np.asarray(rewards, np.float64)
    prefixes = [rows[: t + 1] for t in range(len(rows))]
    if not prefixes:
        return np.zeros(0)
    return scoring.score_many(np.concatenate(prefixes), [len(p) for p in prefixes])


def chains_of(records: Iterable[SvipRecord]) -> list[tuple[Plan, list[tuple[str, ...]]]]:
    """Return the planning puzzles that records are about, each with its chains, in the order of the records.

    Raises:
        RecordError: a puzzle was drawn by another version.
    """
    found: dict[str, tuple[Plan, list[tuple[str, ...]]]] = {}
    for record in records:
        key = repr(record.images)
        if key not in found and (plan := record.plan()) is not None:
            found[key] = plan, []
        if key in found:
            found[key][1].append(record.steps)
    return list(found.values())


def value_by_depth(
    reward: RewardModel, chains: Iterable[tuple[Plan, Sequence[Sequence[str]]]], scoring: Scoring = LOGIC,
    resamples: int = 200,
) -> list[DepthValue]:  # fmt: skip
    """Return how well a reward model's values tell prefixes apart, one entry a depth, shallow ones first.

    Args:
        reward: the model; of its kind ``"prm"``.
        chains: puzzles with some chains of thought each, as `chains_of` gives them; of a policy best: those are
            what a search meets.
        scoring: what makes a value of a prefix's rewards; the logic of its last step by default.
        resamples: draws of the bootstrap behind the intervals; 0 leaves them out.

    Raises:
        ValueError: ``reward`` scores whole chains only, or ``resamples`` is negative.

    Notes:
        A prefix that several chains of a puzzle share counts once; one that ends in an answer has been decided, and
        does not count.
    """
    if reward.kind != "prm":
        raise ValueError(f"`reward` must score steps, kind 'prm'; got {reward.kind!r}.")
    if resamples < 0:
        raise ValueError(f"`resamples` must be >= 0; got {resamples}.")
    found: dict[int, list[tuple[float, bool, int]]] = {}
    for index, (plan, own) in enumerate(chains):
        for depth, value, good in _prefixes(reward, plan, [tuple(steps) for steps in own if steps], scoring):
            found.setdefault(depth, []).append((value, good, index))
    return [_summary(depth, found[depth], resamples) for depth in sorted(found)]


def _prefixes(
    reward: RewardModel, plan: Plan, chains: Sequence[Prefix], scoring: Scoring
) -> Iterable[tuple[int, float, bool]]:
    seen: set[Prefix] = set()
    for steps, rewards in zip(chains, reward.evaluate(plan.question, chains), strict=True):
        hopeful, depths = reaching(plan, steps)
        for t, value in enumerate(prefix_values(rewards, scoring).tolist()):
            prefix = steps[: t + 1]
            if prefix not in seen and not steps[t].startswith("answer : "):
                seen.add(prefix)
                yield int(depths[t]), value, bool(hopeful[t])


def _summary(depth: int, found: Sequence[tuple[float, bool, int]], resamples: int) -> DepthValue:
    values, good, puzzle = map(np.array, zip(*found, strict=True))
    low, high = _interval(values, good, puzzle, resamples) or (NAN, NAN)
    return DepthValue(depth, len(found), float(np.mean(good)), auroc(values, good), low, high)


def _interval(
    values: NDArray[np.float64], good: NDArray[np.bool_], puzzle: NDArray[np.int64], resamples: int
) -> list[float] | None:
    """Return the interval of the area; prefixes of one puzzle are alike, so whole puzzles are drawn."""
    rng = np.random.default_rng(0)
    own = [np.flatnonzero(puzzle == p) for p in np.unique(puzzle)]
    drawn = (np.concatenate([own[i] for i in rng.integers(len(own), size=len(own))]) for _ in range(resamples))
    return interval([auroc(values[rows], good[rows]) for rows in drawn])
