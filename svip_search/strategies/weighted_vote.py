"""Weighted vote: sample whole trajectories, each votes for its answer with its score."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Strategy
from .best_of_n import SamplingSearch


class WeightedVoteSearch(SamplingSearch):
    """Draws trajectories, whose scores are their votes."""

    how = "weighted"


@dataclass(frozen=True, kw_only=True)
class WeightedVote(Strategy):
    """Returns the answer with the largest summed score over ``n`` trajectories.

    ::

        answer = argmax over a of sum over {i : answer(trajectory_i) = a} of value(score_i)

    where value maps scores to [0, 1] (`Scoring.value`).

    Args:
        n: trajectories to draw.
        chunk: draw and score this many at a time, so that ``patience`` can end the search before all
            are drawn; None draws all at once.

    Notes:
        One policy call for n candidates (one a chunk) and one reward call for each distinct trajectory.

    Reference:
        Y. Li et al., "Making language models better reasoners with step-aware verifier",
        arXiv 2206.02336, section 3.2.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> question = Question("Which?", options=["red", "blue"])
        >>> result = solve(question, HashPolicy(), HashReward(), WeightedVote(n=8))
        >>> result.votes[0].weight >= result.votes[-1].weight
        True
    """

    name = "weighted"
    search = WeightedVoteSearch

    n: int = 16
    chunk: int | None = None
