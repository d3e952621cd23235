"""Best of n: sample whole trajectories, score each, keep the best."""

from __future__ import annotations

from dataclasses import dataclass

from .._tree import Status
from ._base import Rollout, Round, Search, Strategy


class SamplingSearch(Search):
    """Draws trajectories from the root until there are ``n``, some at a time."""

    resumes = True

    def _setup(self) -> None:
        self._drawn = len(self._finished)

    def _choose(self) -> Round | None:
        left = self.config.n - self._drawn
        # A policy that gave nothing for the question itself would give nothing again.
        if self._rounds or left <= 0 or self.tree.arena.status[0] == Status.FAILED or self._decided(left):
            return None
        draws = min(left, self._chunk or left)
        self._drawn += draws
        return Round(Rollout, [0], draws)

    @property
    def _chunk(self) -> int | None:
        """How many trajectories to draw at a time; None draws all at once."""
        return getattr(self.config, "chunk", None)

    def _decided(self, left: int) -> bool:
        """Whether ``left`` further draws cannot change the answer."""
        return False


@dataclass(frozen=True, kw_only=True)
class BestOfN(Strategy):
    """Returns the answer of the best-scored of ``n`` independent trajectories.

    ::

        answer = argmax over i of score(trajectory_i),  trajectory_i ~ policy

    Args:
        n: trajectories to draw.
        chunk: draw and score this many at a time, so that ``patience`` can end the search before all
            are drawn; None draws all at once.

    Notes:
        One policy call for n candidates (one a chunk) and one reward call for each distinct trajectory.

    Reference:
        K. Cobbe et al., "Training verifiers to solve math word problems", arXiv 2110.14168.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> question = Question("Which?", options=["red", "blue"])
        >>> result = solve(question, HashPolicy(), HashReward(), BestOfN(n=8), seed=1)
        >>> best = max(result.trajectories, key=lambda t: t.score)
        >>> result.answer == best.answer
        True
    """

    name = "best-of-n"
    search = SamplingSearch

    n: int = 16
    chunk: int | None = None
