"""A reward model that knows the truth of planning puzzles, for studies of search: the best there can be, or worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..._types import Prefix, Question
from ._family import Plans, Task
from .generate import Plan
from .labels import label_steps


class Solved(Protocol):
    """A puzzle whose truth is known: a `Plan`, or anything else with these."""

    @property
    def family(self) -> str:
        """Which of ``FAMILIES``."""
        ...

    @property
    def task(self) -> Task:
        """What is asked, as it is."""
        ...

    @property
    def plans(self) -> Plans:
        """Its shortest plans."""
        ...


class PlanOracle:
    """A reward model whose rewards are the labels of `label_steps`; never for use beyond studies.

    Args:
        plans: puzzles by the ``id`` of their question.
        error: share of steps in [0, 1] whose rewards are random numbers instead, the same ones whenever the same
            steps are asked about; 1 is a model that knows nothing.
        seed: of these random numbers.

    Raises:
        ValueError: ``error`` lies outside of [0, 1].

    Notes:
        Where a dimension says nothing about a step, nothing is wrong: 1.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["water_jugs"], moves=(2, 2))
        >>> PlanOracle({plan.question.id: plan}).evaluate(plan.question, [plan.steps])[0].min()
        np.float32(1.0)
    """

    kind: Literal["prm", "orm"] = "prm"

    def __init__(self, plans: Mapping[str, Solved], *, error: float = 0.0, seed: int = 0) -> None:
        if not 0 <= error <= 1:
            raise ValueError(f"`error` must lie in [0, 1]; got {error!r}.")
        self.plans = dict(plans)
        self.error = error
        self.seed = seed

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two of them alike, for the settings of runs."""
        return {"class": type(self).__name__, "error": self.error, "seed": self.seed}

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path, float32 [T, 3] in [0, 1].

        Raises:
            KeyError: the question is none of the puzzles.
        """
        if question.id not in self.plans:
            raise KeyError(f"`question` must be one of {len(self.plans)} puzzles; got the id {question.id!r}.")
        plan = cast(Plan, self.plans[question.id])
        return [self._spoilt(question.id, path, np.nan_to_num(label_steps(plan, path), nan=1.0)) for path in paths]

    def _spoilt(self, name: str, path: Prefix, rewards: NDArray[np.float32]) -> NDArray[np.float32]:
        """Replace rewards by chance; what happens to a step depends on it and the steps before it."""
        if not self.error:
            return rewards
        chain = blake2b(f"{self.seed}/{name}".encode("utf-8", "surrogatepass"))
        for t, step in enumerate(path):
            chain.update(step.encode("utf-8", "surrogatepass") + b"\n")
            drawn = np.frombuffer(chain.digest()[:16], np.uint32) / np.float32(2**32)
            if drawn[0] < self.error:
                rewards[t] = np.minimum(drawn[1:], 1)
        return rewards
