"""The control: a reward model whose rewards have lost their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._types import Prefix, Question, RewardModel

_REMEMBERED = 256


class ShuffledReward:
    """Returns the rewards of another model, permuted among the candidates of a question.

    Whatever a strategy gains over chance with this model cannot come from the rewards: their values
    keep their distribution and only their assignment to the candidates is lost.

    ::

        rewards  = model.evaluate(question, paths)
        order    = permutation(seed, question, paths)
        outcome  = [rewards[order[i]], stretched to the length of paths[i]]

    A path that is asked for alone gets the rewards of an earlier candidate of the same question.

    Args:
        model: the reward model whose rewards are permuted.
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
        self._question: Question | None = None
        self._seen: list[NDArray[np.float32]] = []

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # not yet there while unpickling
            raise AttributeError(name)
        return getattr(self.model, name)  # usage and the like are the model's own

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return permuted rewards, one [T, 3] array (or scalar array) a path."""
        rewards = [np.asarray(r) for r in self.model.evaluate(question, paths)]
        if len(rewards) != len(paths):
            return rewards  # the caller refuses this anyway
        if question is not self._question:
            self._question, self._seen = question, []
        rng = np.random.default_rng(_digest(self.seed, question, paths))
        if len(rewards) > 1:
            donors = [rewards[i] for i in rng.permutation(len(rewards))]
        elif self._seen:
            donors = [self._seen[int(rng.integers(len(self._seen)))]] * len(rewards)
        else:
            donors = rewards
        self._seen = (self._seen + rewards)[-_REMEMBERED:]
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
