"""The control: a reward model whose rewards have lost their meaning."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._types import Prefix, Question, RewardModel

Items = Sequence[tuple[Question, Sequence[Prefix]]]

#: Rewards remembered of a question, and questions of which some are.
_REMEMBERED, _QUESTIONS = 256, 1024


class ShuffledReward:
    """Returns the rewards of another model, permuted among the candidates of a question.

    Whatever a strategy gains over chance with this model cannot come from the rewards: their values
    keep their distribution and only their assignment to the candidates is lost.

    ::

        rewards  = model.evaluate(question, paths)
        order    = permutation(seed, question, paths)
        outcome  = [rewards[order[i]], stretched to the length of paths[i]]

    A path that is asked for alone gets the rewards of an earlier candidate of the same question, whatever
    other questions were asked about in between.

    Args:
        model: the reward model whose rewards are permuted, and so are those of its ``outcome``, where it has one.
        seed: the same seed permutes the same way.

    Example:
        >>> from svip_search.testing import HashReward
        >>> from svip_search import Question
        >>> paths = [("a",), ("b",), ("c",)]
        >>> true = HashReward().evaluate(Question("?"), paths)
        >>> shuffled = ShuffledReward(HashReward(), seed=1).evaluate(Question("?"), paths)
        >>> sorted(r.sum() for r in true) == sorted(r.sum() for r in shuffled)
        True
    """

    def __init__(self, model: RewardModel, seed: int = 0) -> None:
        self.model = model
        self.kind: Literal["prm", "orm"] = model.kind
        self.seed = seed
        # By identity: equal questions may be different searches.  Holding the question keeps its identity its own.
        self._seen: OrderedDict[int, tuple[Question, list[NDArray[np.float32]]]] = OrderedDict()
        if (outcome := getattr(model, "outcome", None)) is not None:
            self.outcome = ShuffledReward(outcome, seed)

    def __getattr__(self, name: str) -> Any:
        # The model is not yet there while unpickling; its coroutines would bring rewards that nobody permuted.
        if name == "model" or name.startswith("aevaluate"):
            raise AttributeError(name)
        return getattr(self.model, name)  # usage and the like are the model's own

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return permuted rewards, one [T, 3] array (or scalar array) a path."""
        return self._permuted(question, paths, self.model.evaluate(question, paths))

    @property
    def evaluate_many(self) -> Callable[[Items], list[list[NDArray[np.float32]]]]:
        """``evaluate`` for several (question, paths), in their order; absent where the model has no such method."""
        many = self.model.evaluate_many  # type: ignore[attr-defined]

        def permuted(items: Items) -> list[list[NDArray[np.float32]]]:
            found = many(items)
            if len(found) != len(items):
                return list(found)  # the caller refuses this anyway
            return [self._permuted(*item, rewards) for item, rewards in zip(items, found, strict=True)]

        return permuted

    def forget(self, question: Question) -> None:
        """Forget the candidates of a question; the model does, if it can."""
        self._seen.pop(id(question), None)
        self._pass_on("forget", question)

    def clear(self) -> None:
        """Forget all candidates; the model does, if it can."""
        self._seen.clear()
        self._pass_on("clear")

    def _pass_on(self, name: str, *arguments: Any) -> None:
        for model in (self.model, self.__dict__.get("outcome")):
            if callable(method := getattr(model, name, None)):
                method(*arguments)

    def _permuted(self, question: Question, paths: Sequence[Prefix], found: Sequence[Any]) -> list[NDArray[np.float32]]:
        rewards = [np.asarray(r) for r in found]
        if len(rewards) != len(paths):
            return rewards  # the caller refuses this anyway
        known, seen = self._seen.pop(id(question), (question, []))
        if known is not question:  # an identity from before pickling
            seen = []
        rng = np.random.default_rng(_digest(self.seed, question, paths))
        if len(rewards) > 1:
            donors = [rewards[i] for i in rng.permutation(len(rewards))]
        elif seen:
            donors = [seen[int(rng.integers(len(seen)))]] * len(rewards)
        else:
            donors = rewards
        self._seen[id(question)] = question, (seen + rewards)[-_REMEMBERED:]
        while len(self._seen) > _QUESTIONS:
            self._seen.popitem(last=False)
        return [_stretched(donor, own) for donor, own in zip(donors, rewards, strict=True)]


def _digest(seed: int, question: Question, paths: Sequence[Prefix]) -> int:
    """Return a number that depends on the seed, the question and the paths, not on the process."""
    text = repr((seed, question.id, question.text, question.options, list(paths)))
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _stretched(donor: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give ``donor`` as many steps as ``own`` by repeating or leaving out some."""
    if donor.ndim != 2 or own.ndim != 2 or 0 in (len(donor), len(own)):
        return donor if donor.shape == own.shape else own
    rows = np.rint(np.linspace(0, len(donor) - 1, len(own))).astype(int)
    stretched: NDArray[np.float32] = donor[rows]
    return stretched
