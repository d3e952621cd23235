"""Two reward models in one: the steps are judged by one, the outcome by another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._budget import Usage
from .._types import Prefix, Question, RewardModel


class HybridReward:
    """A process reward model that brings an outcome reward model along.

    To whoever asks for rewards it is the process reward model; a strategy that also judges finished
    trajectories finds the model for that in ``outcome``.  Each is called in its own way, with or without coroutines.

    Args:
        process: judges steps; its ``kind`` is ``"prm"``.
        outcome: judges finished trajectories; an ``"orm"`` gives one number, of a ``"prm"`` the rewards of
            the last step count.

    Attributes:
        kind: ``"prm"``.
        process: as given.
        outcome: as given.

    Raises:
        TypeError: an argument is no reward model of such a kind.

    Example:
        >>> from svip_search._types import Question
        >>> from svip_search.rewards import CallableReward
        >>> from svip_search.testing import HashReward
        >>> reward = HybridReward(HashReward(), CallableReward(lambda question, path: 1 / len(path)))
        >>> paths = [("a clue",), ("a clue", "answer : red")]
        >>> [r.shape for r in reward.evaluate(Question("Which?"), paths)]
        [(1, 3), (2, 3)]
        >>> reward.outcome.evaluate(Question("Which?"), paths)
        [1.0, 0.5]
    """

    kind: Literal["prm", "orm"] = "prm"

    def __init__(self, process: RewardModel, outcome: RewardModel) -> None:
        _check("process", process, ("prm",))
        _check("outcome", outcome, ("orm", "prm"))
        self.process, self.outcome = process, outcome

    @property
    def scoring(self) -> Scoring | None:
        """How strategies should fold the rewards of steps into a score, where ``process`` recommends it."""
        scoring: Scoring | None = getattr(self.process, "scoring", None)
        return scoring

    @property
    def usage(self) -> Usage:
        """What both models report, added up; a model that reports nothing counts nothing."""
        reports = (getattr(model, "usage", None) for model in self._models())
        return sum((usage for usage in reports if isinstance(usage, Usage)), Usage())

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return what ``process`` says of each path, [T, 3] in [0, 1]; raises what it raises."""
        return self.process.evaluate(question, paths)

    @property
    def evaluate_many(self) -> Callable[..., list[list[NDArray[np.float32]]]]:
        """The method of ``process``: ``evaluate`` for several (question, paths); absent where it has none."""
        many: Callable[..., list[list[NDArray[np.float32]]]] = self.process.evaluate_many  # type: ignore[attr-defined]
        return many

    @property
    def aevaluate_many(self) -> Callable[..., Any]:
        """The coroutine of ``process``; absent where it has none."""
        many: Callable[..., Any] = self.process.aevaluate_many  # type: ignore[attr-defined]
        return many

    @property
    def concurrent_calls(self) -> int:
        """How many calls may be under way at once: as many as each model with coroutines allows."""
        models = [model for model in self._models() if callable(getattr(model, "aevaluate_many", None))]
        return min((getattr(model, "concurrent_calls", 1) for model in models), default=1)

    def forget(self, question: Question) -> None:
        """Make both models drop what they keep for a question, those that can."""
        self._tell("forget", question)

    def clear(self) -> None:
        """Make both models drop everything they keep, those that can."""
        self._tell("clear")

    def close(self) -> None:
        """Make both models close what they hold open, those that can."""
        self._tell("close")

    async def arelease(self) -> None:
        """Make both models close what they have opened in the running event loop, those that can."""
        for model in self._models():
            if callable(method := getattr(model, "arelease", None)):
                await method()

    def _models(self) -> list[RewardModel]:
        return [self.process] if self.outcome is self.process else [self.process, self.outcome]

    def _tell(self, name: str, *arguments: Any) -> None:
        for model in self._models():
            if callable(method := getattr(model, name, None)):
                method(*arguments)


def _check(name: str, model: Any, kinds: tuple[str, ...]) -> None:
    wanted = " or ".join(map(repr, kinds))
    if isinstance(model, type) or not callable(getattr(model, "evaluate", None)):
        got = repr(model) if isinstance(model, type) else type(model).__name__
        raise TypeError(f"`{name}` must be a reward model with a method `evaluate`; got {got}.")
    if (kind := getattr(model, "kind", None)) not in kinds:
        raise TypeError(
            f"`{name}` must be a reward model of kind {wanted}; got {type(model).__name__} of kind {kind!r}."
        )
