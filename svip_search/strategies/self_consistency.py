"""Self-consistency: sample whole trajectories, the most frequent answer wins."""

from __future__ import annotations

from dataclasses import dataclass

from .._vote import normalise
from ._base import Strategy
from .best_of_n import SamplingSearch


class SelfConsistencySearch(SamplingSearch):
    """Stops as soon as the remaining draws cannot change the winner."""

    how = "majority"

    def _decided(self, left: int) -> bool:
        votes: dict[str, int] = {}  # in order of first appearance, which settles ties
        for finished in self._finished:
            if finished.answer is not None:
                key = normalise(finished.answer) or finished.answer
                votes[key] = votes.get(key, 0) + 1
        if not votes:
            return False
        leader = max(votes, key=lambda answer: votes[answer])  # the earliest of equals
        earlier = list(votes)[: list(votes).index(leader)]
        overtaken = any(votes[a] + left >= votes[leader] for a in earlier)
        later = max((v for a, v in votes.items() if a != leader and a not in earlier), default=0)
        return not overtaken and later + left <= votes[leader]


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Strategy):
    """Returns the most frequent answer of ``n`` trajectories; needs no reward model.

    ::

        answer = argmax over a of #{i : answer(trajectory_i) = a},  trajectory_i ~ policy

    Args:
        n: trajectories to draw.
        chunk: draw this many at a time and stop once the rest cannot change the winner; None draws
            all at once.

    Notes:
        Ties go to the answer that appeared first.

    Reference:
        X. Wang et al., "Self-consistency improves chain of thought reasoning", arXiv 2203.11171.

    Example:
        >>> from svip_search.testing import HashPolicy
        >>> from svip_search import Question, solve
        >>> question = Question("Which?", options=["red", "blue"])
        >>> result = solve(question, HashPolicy(), strategy=SelfConsistency(n=9, chunk=1))
        >>> result.votes[0].answer == result.answer and len(result.trajectories) <= 9
        True
    """

    name = "self-consistency"
    needs_reward = False
    search = SelfConsistencySearch

    n: int = 16
    chunk: int | None = None
