"""Greedy: the policy's own single answer, the baseline of everything else."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Strategy
from .best_of_n import SamplingSearch


class GreedySearch(SamplingSearch):
    """Draws one trajectory."""

    how = "last"


@dataclass(frozen=True, kw_only=True)
class Greedy(Strategy):
    """Returns the answer of one trajectory at temperature 0; needs no reward model.

    Example:
        >>> from svip_search.testing import HashPolicy
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(), strategy=Greedy())
        >>> len(result.trajectories), result.usage.policy_calls
        (1, 1)
    """

    name = "greedy"
    needs_reward = False
    search = GreedySearch
    n = 1

    temperature: float = 0.0
