"""Best of n with second thoughts: a trajectory is cut where its rewards collapse, and drawn anew from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._aggregate import step_value
from ._base import Rollout, Round, Scores, Strategy
from .best_of_n import SamplingSearch


def first_collapse(values: NDArray[np.float64], floor: float, drop: float) -> int | None:
    """Return the index of the first step that is worth less than ``floor``, or than the one before by over ``drop``.

    Args:
        values: [T], of the steps of a trajectory.  None is found where one of them is NaN.
        floor: see above.
        drop: see above.

    Example:
        >>> first_collapse(np.array([0.9, 0.8, 0.4, 0.1]), floor=0.2, drop=0.3)
        2
    """
    if np.isnan(values).any():
        return None
    collapsed = values < floor
    collapsed[1:] |= values[:-1] - values[1:] > drop
    return int(np.argmax(collapsed)) if collapsed.any() else None


class RefinedBestOfNSearch(SamplingSearch):
    """Draws trajectories and repairs each on its own.

    The tag of a round is how many repairs the trajectories in it may still have.
    """

    def _setup(self) -> None:
        super()._setup()
        self.how = self.config.select
        self._cuts: list[tuple[int, int]] = []  # nodes to go on from, and the repairs that are left then
        for finished in self._finished:
            self._inspect(finished.node, self.config.rounds)

    def _choose(self) -> Round | None:
        draws = super()._choose()
        if draws is not None or not self._cuts:
            return draws
        node, left = self._cuts.pop(0)
        return Round(Rollout, [node], tag=left)

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        left = self.config.rounds if round.tag is None else round.tag
        for finished in round.ended:
            self._inspect(finished.node, left)

    def _inspect(self, end: int, left: int) -> None:
        """Note where the trajectory that ends here must be cut, if it must and may."""
        path = self.tree.arena.path(end)
        rewards = self.tree.arena.reward[path[1:]]
        if not left or not len(rewards):
            return
        step = first_collapse(
            step_value(rewards, self.scoring.weights, self.scoring.veto), self.config.floor, self.config.drop
        )
        if step is not None:
            self._cuts.append((int(path[step]), left - 1))  # the path begins with the root: this is the step before


@dataclass(frozen=True, kw_only=True)
class RefinedBestOfN(Strategy):
    """Returns the best of ``n`` trajectories and of what becomes of them when they are repaired.

    ::

        for each of n trajectories from the policy, on its own, `rounds` times:
            v = value of each of its steps                              # fold its rewards
            t = first step with  v[t] < floor  or  v[t - 1] - v[t] > drop
            if there is none: leave it
            trajectory = steps before t + one rollout from there        # the old one stays a candidate
        answer = that of the best-scored of all trajectories

    Args:
        n: trajectories to draw.
        rounds: repairs that a trajectory may have.
        drop: a step that is worth less than the one before by more than this has collapsed.
        floor: so has a step that is worth less than this.
        select: how the trajectories answer: "max" or "weighted".

    Notes:
        One policy call for n candidates and at most n * rounds for one; at most n * (rounds + 1) reward
        calls.  A reward model with one number a trajectory shows no collapse, and nothing is repaired.

    Reference:
        Our own.  Close to Z. Wu et al., "Enhancing mathematical reasoning in LLMs by stepwise
        correction", arXiv 2410.12934, where a verifier finds the first wrong step of a single
        trajectory and the policy is prompted to revise it; here n trajectories are drawn anew from
        the step before, and the reward model chooses among old and new.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), RefinedBestOfN(n=4, rounds=1))
        >>> 4 < len(result.trajectories) <= 8
        True
        >>> result.trajectory.score == max(t.score for t in result.trajectories)
        True
    """

    name = "refined-best-of-n"
    search = RefinedBestOfNSearch

    n: int = 8
    rounds: int = 2
    drop: float = 0.3
    floor: float = 0.2
    select: Literal["max", "weighted"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("drop", 0, 1)
        self._check_number("floor", 0, 1)
        self._check_choice("select", ("max", "weighted"))
