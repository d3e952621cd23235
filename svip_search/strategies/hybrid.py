"""Hybrid selection: the steps and the outcome of each trajectory are judged, the best of both wins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from .._aggregate import EPSILON, Scoring, step_value
from ._base import Evaluate, Round, Scores, Strategy
from .best_of_n import SamplingSearch


def score_of_value(scoring: Scoring, values: Scores) -> Scores:
    """Return the scores whose `Scoring.value` these values are, but for those too near to 0 and 1."""
    if scoring.aggregate == "sum_log":
        return np.log(np.maximum(values, np.finfo(np.float64).tiny))
    if scoring.aggregate == "mean_log_odds":
        values = np.clip(values, EPSILON, 1 - EPSILON)
        return np.log(values) - np.log1p(-values)
    return values


class HybridSearch(SamplingSearch):
    """Draws trajectories; scores them by their steps, then by their steps and their outcome."""

    def _setup(self) -> None:
        super()._setup()
        self.how = self.config.select
        self._listed: list[int] = []  # ends whose outcome is asked about
        self._judged = False
        if self.config.outcome != "model":
            self._mix_last(self._scored_ends())

    def _choose(self) -> Round | None:
        draws = super()._choose()
        if draws is not None or self._rounds or self._judged or self.config.outcome != "model":
            return draws
        self._judged = True
        ends = np.array(self._scored_ends(), np.int32)
        most = self.config.shortlist or len(ends)
        if len(ends):
            self._listed = self.tree.arena.top_k(ends, self.scores_of(ends), most).tolist()
        return Round(Evaluate, self._listed, model="outcome")

    def _scored_ends(self) -> list[int]:
        """Return where trajectories with a score end, each node once."""
        ends = list(dict.fromkeys(f.node for f in self._finished))
        return [end for end, score in zip(ends, self.scores_of(ends), strict=True) if not np.isnan(score)]

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        if round.model == "outcome":
            self._mix_model(dict(zip(nodes, scores.tolist(), strict=True)))
        elif self.config.outcome != "model":
            self._mix_last(nodes)

    def _mix_model(self, told: dict[int, float]) -> None:
        """Take in what the outcome model said.

        Where it failed, the outcome counts as being as good as the process.  What was not asked about
        counts as a bad outcome, so that it cannot overtake the short list.
        """
        ends = self._scored_ends()
        process = self._process(ends)
        outcome = np.zeros(len(ends))
        for i, end in enumerate(ends):
            if end in self._listed:
                outcome[i] = told.get(end, process[i])
        self._mix(ends, process, outcome)

    def _mix_last(self, ends: list[int]) -> None:
        """Take the value of the last step for the outcome."""
        if ends:
            rewards = self.tree.arena.reward[ends]
            self._mix(ends, self._process(ends), step_value(rewards, self.scoring.weights, self.scoring.veto))

    def _process(self, ends: list[int]) -> Scores:
        return self.scoring.value(self.scores_of(ends))

    def _mix(self, ends: list[int], process: Scores, outcome: Scores) -> None:
        weight = self.config.weight
        self._keep_scores(ends, score_of_value(self.scoring, (1 - weight) * process + weight * outcome))


@dataclass(frozen=True, kw_only=True)
class Hybrid(Strategy):
    """Returns the best of ``n`` trajectories, judged by their steps and by their outcome.

    ::

        process(i) = value(score(trajectory_i))                  # fold the rewards of its steps
        outcome(i) = what the outcome model says of trajectory_i
        answer     = argmax over i of  (1 - weight) * process(i) + weight * outcome(i)

    Args:
        n: trajectories to draw.
        weight: of the outcome; 0 is best of n by process, 1 by outcome.
        shortlist: ask the outcome model only about so many, the best by process; the others count as
            outcome 0, and so none of them comes before these.  None asks about all.
        outcome: "model" asks the second model of a `HybridReward`; "last" takes the value of the last
            step, which needs no second model; None is "model" where the reward model is such a pair,
            and "last" where it is not or is unknown.
        select: how the trajectories answer: "max" or "weighted".

    Notes:
        One policy call for n candidates, one call of the process model for each distinct trajectory,
        and as many of the outcome model, or ``shortlist``.  Trajectories get the mixed score; a failed
        outcome model leaves the process score.

    Reference:
        Our own: the linear mixture of the two kinds of verifiers compared by J. Uesato et al., "Solving
        math word problems with process- and outcome-based feedback", arXiv 2211.14275.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import BestOfN, Question, solve
        >>> both = [solve(Question("Which?"), HashPolicy(), HashReward(), s) for s in (Hybrid(n=8), BestOfN(n=8))]
        >>> both[0].tree.text == both[1].tree.text
        True
        >>> both[0].trajectory.score == max(t.score for t in both[0].trajectories)
        True
    """

    name = "hybrid"
    search = HybridSearch

    n: int = 16
    weight: float = 0.5
    shortlist: int | None = None
    outcome: Literal["model", "last"] | None = None
    select: Literal["max", "weighted"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("weight", 0, 1)
        self._check_choice("select", ("max", "weighted"))
        if self.outcome is not None:
            self._check_choice("outcome", ("model", "last"))

    def scored_by(self, reward: Any) -> Hybrid:
        """Return this strategy with its scoring settled, and whether there is an outcome model to ask."""
        settled = cast(Hybrid, super().scored_by(reward))
        if reward is None:
            return settled
        paired = callable(getattr(getattr(reward, "outcome", None), "evaluate", None))
        if self.outcome == "model" and not paired:
            raise ValueError(
                "`outcome` must be 'last' or None for a reward model without an outcome model; got 'model'."
            )
        return replace(settled, outcome=self.outcome or ("model" if paired else "last"))
