"""Particle filtering: a population of paths, resampled by reward after every step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._aggregate import EPSILON
from .._budget import Budget
from .._tree import Status
from ._base import Expand, Round, Scores, Strategy
from .rebase import StepSamplingSearch


class ParticleFilteringSearch(StepSamplingSearch):
    """Moves all particles by one step, then resamples them; a particle is the node at which it is."""

    def _setup(self) -> None:
        self.how = self.config.select
        self._particles = [0] * self.config.particles
        self._resamplings = 0

    def _choose(self) -> Round | None:
        if self._rounds:
            return None
        status = self.tree.arena.status
        copies = Counter(p for p in self._particles if status[p] == Status.OPEN)
        return Round(Expand, list(copies), list(copies.values())) if copies else None

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        follow = super()._grown(round, ends)
        steps = {node: iter(reached) for node, reached in zip(round.nodes, self._reached, strict=True)}
        moved = [next(steps[p], None) if p in steps else p for p in self._particles]
        self._particles = [p for p in moved if p is not None]
        return follow

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        particles, score = np.array(self._particles, np.int32), self.scores_of(self._particles)
        scored = ~np.isnan(score)  # a particle that could not be evaluated is lost
        particles, score = particles[scored], score[scored]
        if (self.tree.arena.status[particles] == Status.OPEN).any():
            weights = importance(self.scoring.value(score), self.config.weight_temperature)
            particles = particles[self._resample(weights)]
        self._particles = particles.tolist()

    def _resample(self, weights: NDArray[np.float64]) -> list[int]:
        """Return the indices of the particles that go on; repeats are copies."""
        self._resamplings += 1
        rng = Random(f"{self.seed}/{self._resamplings}")
        count = self.config.particles
        if self.config.resampling == "multinomial":
            return rng.choices(range(len(weights)), weights.tolist(), k=count)
        return systematic(weights, count, rng.random())


def importance(values: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return weights with sum 1 in proportion to (value / (1 - value))^(1 / temperature).

    Values are kept 1e-6 away from 0 and 1.

    Example:
        >>> importance([0.5, 0.75]).round(6).tolist()
        [0.25, 0.75]
    """
    v = np.clip(np.asarray(values, dtype=np.float64), EPSILON, 1 - EPSILON)
    logits = np.log(v) - np.log1p(-v)
    with np.errstate(over="ignore"):  # a tiny temperature leaves the best alone
        weights = np.exp((logits - logits.max()) / temperature)
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def systematic(weights: NDArray[np.float64], count: int, u: float) -> list[int]:
    """Return ``count`` indices, each i floor or ceil of count * weights[i] times: systematic resampling.

    ::

        the indices at which the cumulative weights pass (u + k) / count,  k = 0 ... count - 1

    Args:
        weights: [N] with sum 1.
        count: indices to draw.
        u: uniform in [0, 1), the only random number.

    Returns:
        Indices in ascending order.

    Example:
        >>> import numpy as np
        >>> systematic(np.array([0.25, 0.5, 0.25]), 4, 0.3)
        [0, 1, 1, 2]
    """
    cumulative = np.cumsum(weights)
    points = (u + np.arange(count)) * (cumulative[-1] / count)
    indices: list[int] = np.searchsorted(cumulative[:-1], points, side="right").tolist()
    return indices


@dataclass(frozen=True, kw_only=True)
class ParticleFiltering(Strategy):
    """Returns the answer of a particle filter over steps.

    ::

        `particles` copies of the root
        while a particle is unfinished:
            each unfinished particle draws a step; m copies of a node draw m
            w_i = (value_i / (1 - value_i))^(1 / `weight_temperature`)     # finished ones as well
            resample `particles` of all particles in proportion to w

    Args:
        particles: size of the population.
        resampling: "systematic", by which i is copied floor or ceil of particles * w_i / sum(w) times,
            or "multinomial", independent draws.
        weight_temperature: above 0; small: only the best go on, large: all alike.
        select: how the finished trajectories answer: "max" or "weighted".

    Notes:
        At most `particles` candidates and as many reward calls a step.  A particle whose step cannot
        be drawn or scored is lost, and the others are copied in its place.  Every trajectory that
        finished counts in the end, once for each particle that drew it, resampled away or not.

    Reference:
        I. Puri et al., "A probabilistic inference approach to inference-time scaling of LLMs using
        particle-based Monte Carlo methods", arXiv 2502.01618; systematic resampling: R. Douc,
        O. Cappé, E. Moulines, "Comparison of resampling schemes for particle filtering", ISPA 2005.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), ParticleFiltering(particles=5))
        >>> len(result.trajectories)
        5
    """

    name = "particle-filtering"
    search = ParticleFilteringSearch

    particles: int = 8
    resampling: Literal["systematic", "multinomial"] = "systematic"
    weight_temperature: float = 1.0
    select: Literal["max", "weighted"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("resampling", ("systematic", "multinomial"))
        self._check_number("weight_temperature", above=True)
        self._check_choice("select", ("max", "weighted"))

    def check_budget(self, budget: Budget) -> None:
        """Refuse a budget of fewer nodes than particles."""
        self._check_affordable("particles", budget)
