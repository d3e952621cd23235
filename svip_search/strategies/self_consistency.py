"""Self-consistency: sample whole trajectories, the most frequent answer wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._vote import normalise
from ._base import Strategy
from .best_of_n import SamplingSearch


class SelfConsistencySearch(SamplingSearch):
    """Stops as soon as the remaining draws cannot change the winner, or are unlikely to."""

    how = "majority"

    @property
    def _chunk(self) -> int | None:
        if self.config.stop == "window":
            return int(self.config.window)
        return self.config.chunk or (1 if self.config.stop == "beta" else None)

    def _decided(self, left: int) -> bool:
        answers = self._answers()
        votes: dict[str, int] = {}  # in order of first appearance, which settles ties
        for answer in answers:
            if answer is not None:
                votes[answer] = votes.get(answer, 0) + 1
        if not votes:
            return False
        if _is_certain(votes, left):
            return True
        if self.config.stop == "beta":
            first, second = sorted([0, *votes.values()])[:-3:-1]
            return bool(majority_confidence(first, second) > self.config.confidence)
        last = answers[-self.config.window :]
        agreed = len(last) == self.config.window and last[0] is not None and len(set(last)) == 1
        return self.config.stop == "window" and agreed

    def _answers(self) -> list[str | None]:
        """Return the answer of each trajectory in the form in which answers are compared."""
        return [None if f.answer is None else normalise(f.answer) or f.answer for f in self._finished]


def _is_certain(votes: dict[str, int], left: int) -> bool:
    """Whether ``left`` further votes cannot change the winner."""
    leader = max(votes, key=lambda answer: votes[answer])  # the earliest of equals
    earlier = list(votes)[: list(votes).index(leader)]
    overtaken = any(votes[a] + left >= votes[leader] for a in earlier)
    later = max((v for a, v in votes.items() if a != leader and a not in earlier), default=0)
    return not overtaken and later + left <= votes[leader]


def majority_confidence(first: int, second: int) -> float:
    """Return the probability that an answer with ``first`` votes is more likely than one with ``second``.

    ::

        P(p > 1/2),  p ~ Beta(first + 1, second + 1)
            = P(k <= first),  k ~ Binomial(m, 1/2),  m = first + second + 1

    where p is the share of the one among the draws that give either, uniform before the votes.  The
    binomial sum is one of whole numbers, and so exact.

    Example:
        >>> majority_confidence(3, 0), majority_confidence(2, 2)
        (0.9375, 0.5)
    """
    m = first + second + 1
    total, term = 0, 1  # term: m over k
    for k in range(first + 1):
        total += term
        term = term * (m - k) // (k + 1)
    return total / (1 << m)


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Strategy):
    """Returns the most frequent answer of ``n`` trajectories; needs no reward model.

    ::

        answer = argmax over a of votes(a),  votes(a) = #{i : answer(trajectory_i) = a}

        stop early, where v1 >= v2 are the most votes, if
            "certain"   the draws that are left cannot change the answer
            "beta"      P(p > 1/2) > confidence,  p ~ Beta(v1 + 1, v2 + 1)
            "window"    the last `window` trajectories have the same answer

    Args:
        n: trajectories to draw.
        chunk: draw this many at a time and see whether to stop; None draws all at once, or one by one
            where ``stop`` is "beta".
        stop: when to stop before all are drawn.  "certain" gives the answer that all would give;
            the others save more and may change it, and stop where "certain" does as well.
        confidence: for "beta": how probable it must be that the leading answer is ahead of the next.
        window: for "window": draw this many at a time, and stop once such a window agrees.

    Notes:
        Ties go to the answer that appeared first.  One policy call for each chunk.

    Reference:
        X. Wang et al., "Self-consistency improves chain of thought reasoning", arXiv 2203.11171.
        "beta": P. Aggarwal et al., "Let's sample step by step: adaptive-consistency for efficient
        reasoning and coding with LLMs", arXiv 2305.11860.
        "window": Y. Li et al., "Escape sky-high cost: early-stopping self-consistency for multi-step
        reasoning", arXiv 2401.10480.

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
    stop: Literal["certain", "beta", "window"] = "certain"
    confidence: float = 0.95
    window: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("stop", ("certain", "beta", "window"))
        self._check_number("confidence", 0.5, 1)
        if self.stop == "window" and self.chunk is not None:
            raise ValueError(f"`chunk` must be None where `stop` is 'window': that many are drawn; got {self.chunk}.")
