"""Search strategies: one file each, all built on the same cycle (`_base.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ._base import Evaluate, Expand, Request, Rollout, Search, Strategy
from .beam import Beam
from .best_of_n import BestOfN
from .greedy import Greedy
from .mcts import MCTS
from .self_consistency import SelfConsistency
from .weighted_vote import WeightedVote

#: Every strategy by its name.
STRATEGIES: dict[str, type[Strategy]] = {
    cls.name: cls for cls in (Greedy, BestOfN, SelfConsistency, WeightedVote, Beam, MCTS)
}


def make(name: str, n: int = 16, **settings: Any) -> Strategy:
    """Return the strategy called ``name``, sized to about ``n`` candidates or iterations.

    Args:
        name: one of `STRATEGIES`.
        n: trajectories for sampling strategies, iterations for MCTS; a beam gets
            width = expand = sqrt(n), rounded.  Ignored by greedy.
        settings: further settings of that strategy; they come before ``n``.

    Raises:
        ValueError: an unknown name, or ``n`` below 1.

    Example:
        >>> make("beam", n=16)
        Beam(temperature=1.0, max_depth=32, scoring=..., width=4, expand=4, select='max')
        >>> make("mcts", n=8, c=2.0).iterations
        8
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {', '.join(STRATEGIES)}; got {name!r}.")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"`n` must be a positive integer; got {n!r}.")
    side = max(1, round(math.sqrt(n)))
    sized: dict[str, dict[str, Any]] = {
        "greedy": {},
        "beam": {"width": side, "expand": side},
        "mcts": {"iterations": n},
    }
    return STRATEGIES[name](**(sized.get(name, {"n": n}) | settings))


def advance_all(searches: Iterable[Search]) -> None:
    """Let searches that were told outcomes act on them: `Search.advance` for many."""
    for search in searches:
        search.advance()


__all__ = [
    "MCTS",
    "STRATEGIES",
    "Beam",
    "BestOfN",
    "Evaluate",
    "Expand",
    "Greedy",
    "Request",
    "Rollout",
    "Search",
    "SelfConsistency",
    "Strategy",
    "WeightedVote",
    "advance_all",
    "make",
]
