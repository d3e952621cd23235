"""Several reward models of one kind as one: the weighted mean of their rewards."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._budget import Usage
from .._errors import RewardError
from .._types import DIMENSIONS, Prefix, Question, RewardModel

Item = tuple[Question, Sequence[Prefix]]
#: For each item, for each path, the rewards or the exception that stands for them.
Found = list[list[Any]]


class WeightedReward:
    """A reward model whose rewards are the weighted mean of those of others.

    ::

        reward(path) = sum_i weight_i * reward_i(path) / sum_i weight_i

    Args:
        models: pairs of a reward model and its weight, or a mapping from models to weights.  All are of one kind:
            numbers for a whole path cannot be averaged with rewards of its steps (`HybridReward` holds one
            model of each kind side by side).
        skip_failing: whether a model that fails on a path is left out of the mean of that path; else the path has
            no reward, and the error names the model.
        scoring: how strategies should fold the rewards of steps into a score; default: what the models recommend,
            where those that recommend anything agree.

    Attributes:
        kind: that of the models.
        models: those given, each once.
        weights: theirs, with sum 1.

    Raises:
        TypeError: a model is no reward model.
        ValueError: there is none, a weight is negative or not finite, all are 0, or the kinds differ.

    Notes:
        The order of the models and the scale of the weights change nothing beyond rounding.  A model of weight 0 is
        not asked.  Where any model has ``aevaluate_many`` so has this one: those are awaited together,
        the others answer in a thread, one call at a time each.

    Example:
        >>> from svip_search import CallableReward, Question
        >>> short = CallableReward(lambda question, path: 1 / len(path))
        >>> polite = CallableReward(lambda question, path: float("please" in path[-1]))
        >>> reward = WeightedReward([(short, 3), (polite, 1)])
        >>> [float(r) for r in reward.evaluate(Question("Which?"), [("please",), ("look", "answer")])]
        [1.0, 0.375]
    """

    def __init__(
        self,
        models: Mapping[RewardModel, float] | Sequence[tuple[RewardModel, float]],
        *,
        skip_failing: bool = False,
        scoring: Scoring | None = None,
    ) -> None:
        pairs = _pairs(models)
        largest = max(weight for _, weight in pairs)  # first, or a sum of huge weights would overflow
        total = math.fsum(weight / largest for _, weight in pairs)
        self.models = tuple(model for model, _ in pairs)
        self.weights = tuple(weight / largest / total for _, weight in pairs)
        self.kind: Literal["prm", "orm"] = self.models[0].kind
        self.skip_failing = skip_failing
        self._scoring = scoring
        asked = [(i, model) for i, model in enumerate(self.models) if self.weights[i] > 0]
        self._members = [_Member(model, self.weights[i], _name(i, model)) for i, model in asked]

    @property
    def scoring(self) -> Scoring | None:
        """How strategies should fold the rewards of steps into a score, where it is known."""
        if self._scoring is not None:
            return self._scoring
        known = {s for m in self._members if isinstance(s := getattr(m.model, "scoring", None), Scoring)}
        return known.pop() if len(known) == 1 else None

    @property
    def usage(self) -> Usage:
        """What the models report, added up, each model once; one that reports nothing counts nothing."""
        reports = (getattr(model, "usage", None) for model in self.models)
        return sum((usage for usage in reports if isinstance(usage, Usage)), Usage())

    @property
    def concurrent_calls(self) -> int:
        """How many calls may be under way at once: as many as every model with coroutines allows."""
        declared = [getattr(m.model, "concurrent_calls", 1) for m in self._members if m.asynchronous]
        return min(declared, default=1)

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[Any]:
        """Return the mean rewards of each path, float32 [T, 3] or []; an exception stands for a path without any.

        Raises:
            RewardError: a model failed on all paths together; it names the model.
        """
        (found,) = self.evaluate_many([(question, paths)])
        return found

    def evaluate_many(self, items: Sequence[Item]) -> Found:
        """Return what ``evaluate`` returns for each of several questions; models with such a method get all at once.

        Raises:
            RewardError: as ``evaluate``.
        """
        return self._mixed(items, [member.answers(items, self.skip_failing) for member in self._members])

    @property
    def aevaluate_many(self) -> Callable[[Sequence[Item]], Any]:
        """``evaluate_many`` as a coroutine; absent where no model has one."""
        if not any(member.asynchronous for member in self._members):
            raise AttributeError("aevaluate_many")
        return self._aevaluate_many

    async def _aevaluate_many(self, items: Sequence[Item]) -> Found:
        import asyncio

        tasks = [asyncio.create_task(member.aanswers(items, self.skip_failing)) for member in self._members]
        try:
            return self._mixed(items, await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # of the others where one has failed
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self, question: Question) -> None:
        """Make the models drop what they keep for a question, those that can."""
        self._tell("forget", question)

    def clear(self) -> None:
        """Make the models drop everything they keep, those that can."""
        self._tell("clear")

    def close(self) -> None:
        """Make the models close what they hold open, those that can."""
        self._tell("close")

    async def arelease(self) -> None:
        """Make the models close what they have opened in the running event loop, those that can."""
        for model in self.models:
            if callable(method := getattr(model, "arelease", None)):
                await method()

    def _tell(self, name: str, *arguments: Any) -> None:
        for model in self.models:
            if callable(method := getattr(model, name, None)):
                method(*arguments)

    def _mixed(self, items: Sequence[Item], answers: Sequence[Found]) -> Found:
        """Return the mean of what the models answered."""
        return [
            [self._mean([found[i][j] for found in answers], len(path)) for j, path in enumerate(paths)]
            for i, (_, paths) in enumerate(items)
        ]

    def _mean(self, outcomes: Sequence[Any], steps: int) -> Any:
        """Return the mean rewards of one path."""
        wanted = (steps, len(DIMENSIONS)) if self.kind == "prm" else ()
        pairs = zip(self._members, outcomes, strict=True)
        checked = [(member, member.checked(outcome, wanted)) for member, outcome in pairs]
        failed = [found for _, found in checked if isinstance(found, RewardError)]
        usable = [(m.weight, found) for m, found in checked if not isinstance(found, RewardError)]
        if failed and (not usable or not self.skip_failing):
            return failed[0]
        total = math.fsum(weight for weight, _ in usable)
        parts = np.stack([found * (weight / total) for weight, found in usable])
        # Sorted, so that the order of the models changes no bit.
        return np.asarray(np.clip(np.sort(parts, axis=0).sum(axis=0), 0, 1), dtype=np.float32)


@dataclass
class _Member:
    """One model of the mean."""

    model: Any
    weight: float
    name: str
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def asynchronous(self) -> bool:
        return callable(getattr(self.model, "aevaluate_many", None))

    def answers(self, items: Sequence[Item], patient: bool) -> Found:
        """Return what the model says, or raise a RewardError that names it; never the latter if ``patient``."""
        try:
            with self.lock:  # calls may come from several threads, and the model need not bear that
                return self._complete(self._asked(items), items)
        except Exception as error:
            if not patient:
                raise self.failure(error) from error
            parts = _parts(items)
            if len(parts) == 1:
                return [[error] if paths else [] for _, paths in items]
        return _together(items, [self.answers([part], True)[0][0] for part in parts])

    async def aanswers(self, items: Sequence[Item], patient: bool) -> Found:
        """Return what ``answers`` does, without blocking the event loop."""
        if not self.asynchronous:
            import asyncio

            return await asyncio.to_thread(self.answers, items, patient)
        try:
            return self._complete(await self.model.aevaluate_many(items), items)
        except Exception as error:
            if not patient:
                raise self.failure(error) from error
            parts = _parts(items)
            if len(parts) == 1:
                return [[error] if paths else [] for _, paths in items]
        return _together(items, [(await self.aanswers([part], True))[0][0] for part in parts])

    def failure(self, error: BaseException | str) -> RewardError:
        """Return the error that names the model."""
        told = error if isinstance(error, str) else " ".join(f"{type(error).__name__}: {error}".split())
        return RewardError(f"{self.name}: {told}")

    def checked(self, outcome: Any, wanted: tuple[int, ...]) -> NDArray[np.float64] | RewardError:
        """Return the rewards of one path, or the error that stands for them."""
        if isinstance(outcome, BaseException):
            return self.failure(outcome)
        try:
            array = np.asarray(outcome, dtype=np.float64)
        except (TypeError, ValueError):
            return self.failure(f"rewards must be numbers; got {type(outcome).__name__}")
        if array.shape != wanted:
            return self.failure(f"rewards must have shape {list(wanted)}; got {list(array.shape)}")
        if not ((array >= 0) & (array <= 1)).all():
            return self.failure("rewards must lie in [0, 1]")
        return array

    def _asked(self, items: Sequence[Item]) -> Any:
        if len(items) > 1 and callable(many := getattr(self.model, "evaluate_many", None)):
            return many(items)
        return [self.model.evaluate(question, paths) for question, paths in items]

    def _complete(self, found: Any, items: Sequence[Item]) -> Found:
        counts = [len(paths) for _, paths in items]
        if len(found) != len(items) or [len(one) for one in found] != counts:
            raise RewardError(f"it must return {sum(counts)} entries, one a path")
        return [list(one) for one in found]


def _parts(items: Sequence[Item]) -> list[Item]:
    """Return the items with one path each."""
    return [(question, [path]) for question, paths in items for path in paths]


def _together(items: Sequence[Item], outcomes: Sequence[Any]) -> Found:
    """Return the outcomes of the parts, item by item."""
    left = iter(outcomes)
    return [[next(left) for _ in paths] for _, paths in items]


def _pairs(models: Any) -> list[tuple[Any, float]]:
    given = list(models.items()) if isinstance(models, Mapping) else list(models)
    if not given:
        raise ValueError("`models` must hold at least one pair of a reward model and its weight; got none.")
    for pair in given:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"`models` must hold pairs of a reward model and its weight; got {pair!r:.80}.")
        _check_model(pair[0])
        _check_weight(pair[1])
    if not any(weight > 0 for _, weight in given):
        raise ValueError("`models` must have a weight above 0; got none.")
    kinds = {model.kind for model, _ in given}
    if len(kinds) > 1:
        raise ValueError("`models` must be of one kind, 'prm' or 'orm'; for one of each see HybridReward.")
    merged: dict[int, tuple[Any, float]] = {}
    for model, weight in given:  # one that is named twice is asked once
        merged[id(model)] = (model, float(weight) + merged.get(id(model), (model, 0.0))[1])
    return list(merged.values())


def _check_model(model: Any) -> None:
    if isinstance(model, type) or not callable(getattr(model, "evaluate", None)):
        got = repr(model) if isinstance(model, type) else type(model).__name__
        raise TypeError(f"`models` must be reward models with a method `evaluate`; got {got}.")
    if (kind := getattr(model, "kind", None)) not in ("prm", "orm"):
        raise TypeError(f"`models` must be of kind 'prm' or 'orm'; got {type(model).__name__} of kind {kind!r}.")


def _check_weight(weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
        raise ValueError(f"`models` must have finite weights >= 0; got {weight!r}.")


def _name(index: int, model: Any) -> str:
    return f"reward model {index + 1} ({type(model).__name__})"
