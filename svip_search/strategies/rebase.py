"""REBASE: reward balanced search, which shares out each depth's candidates by reward."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._tree import Status
from ._base import Expand, Round, Scores, Search, Strategy


class StepSamplingSearch(Search):
    """Draws steps as samples: a step drawn twice is one node and two samples, and votes twice at an end."""

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        self._reached = self.children_reached(round)
        drawn = self._times_drawn()
        for finished in list(round.ended):
            self._finished += [replace(finished) for _ in range(drawn[finished.node] - 1)]
        return super()._grown(round, ends)

    def _times_drawn(self) -> Counter[int]:
        """Return how often each child was drawn in the last expansion."""
        return Counter(chain.from_iterable(self._reached))


class RebaseSearch(StepSamplingSearch):
    """Expands one depth after another."""

    def _setup(self) -> None:
        self.how = self.config.select
        self._left: int = self.config.n
        self._expansion: Round | None = Round(Expand, [0], self._left)

    def _choose(self) -> Round | None:
        chosen, self._expansion = self._expansion, None
        return chosen

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        drawn = self._times_drawn()
        self._left -= sum(drawn[f.node] for f in round.ended)
        opened = np.flatnonzero(self.tree.arena.status[nodes] == Status.OPEN)
        if not len(opened) or self._left < 1:
            return
        values = self.scoring.value(scores[opened])
        repeats = np.array([drawn[nodes[i]] for i in opened.tolist()])
        shares = allot(np.repeat(values, repeats), self._left, self.config.balance)
        widths = np.add.reduceat(shares, np.cumsum(repeats) - repeats)
        best = [i for i in np.argsort(-values, kind="stable").tolist() if widths[i]]
        self._expansion = Round(Expand, [nodes[opened[i]] for i in best], widths[best].tolist())


def allot(values: ArrayLike, budget: int, balance: float) -> NDArray[np.int64]:
    """Return how many of ``budget`` children each candidate gets, about in proportion to exp(value / balance).

    ::

        for j from the best to the worst:               # ties: the earlier one
            W_j = ceil(budget * w_j / sum of w_k over k from j on),   w = exp(value / balance)
            budget -= W_j

    Args:
        values: [N], at least one.
        budget: children to share out.
        balance: temperature, above 0.

    Returns:
        int64 [N] with sum ``budget``.

    Example:
        >>> allot([0.9, 0.5, 0.5], 10, 0.4).tolist()
        [6, 2, 2]
    """
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    with np.errstate(over="ignore"):  # a tiny balance leaves the best alone
        weights = np.exp((values[order] - values.max()) / balance)
    rest = np.cumsum(weights[::-1])[::-1]
    shares = np.zeros(len(values), np.int64)
    for j, weight, total in zip(order.tolist(), weights.tolist(), rest.tolist(), strict=True):
        if budget < 1:
            break
        # A share that is whole but for rounding errors is not rounded up.
        shares[j] = min(budget, math.ceil(budget * (weight / total) - 1e-9))
        budget -= int(shares[j])
    return shares


@dataclass(frozen=True, kw_only=True)
class Rebase(Strategy):
    """Returns the answer of a reward balanced search (REBASE).

    ::

        B = `n`; expand the root with B candidates
        repeat until B = 0 or nothing is open:
            B -= number of candidates that finished
            W_j = B * softmax(value_j / `balance`), made whole by `allot`, for each open candidate j
            expand each j with W_j candidates

    Args:
        n: candidates of the first depth, and trajectories in the end.
        balance: temperature of the softmax over values in [0, 1].  Small: only the best go on;
            large: all alike.
        select: how the finished trajectories answer: "weighted" or "max".

    Notes:
        At most n candidates a depth, each with at most one reward call.  A step that was drawn
        several times is one node, which has the shares and, where it is the last one, the votes of
        all these draws.  Candidates that cannot be scored lose their share to the others.

    Reference:
        Y. Wu et al., "Inference scaling laws: an empirical analysis of compute-optimal inference for
        LLM problem-solving", arXiv 2408.00724, "Reward balanced search (REBASE)".  There W_j is
        rounded, which need not sum to B; `allot` serves the best first with what is left, which does.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), Rebase(n=6))
        >>> len(result.trajectories), result.answer == result.votes[0].answer
        (6, True)
    """

    name = "rebase"
    search = RebaseSearch

    n: int = 16
    balance: float = 0.2
    select: Literal["weighted", "max"] = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("balance", above=True)
        self._check_choice("select", ("weighted", "max"))
