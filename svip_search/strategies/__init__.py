"""Search strategies: one file each, all built on the same cycle (`_base.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ._base import Evaluate, Expand, Request, Rollout, Round, Search, Strategy
from ._retrieval import EmbeddingRetriever, Example, Retriever
from .ab_mcts import ABMCTS
from .annealed_beam import AnnealedBeam
from .beam import Beam
from .best_of_n import BestOfN
from .critique import CritiqueRewrite, reward_critic
from .dvts import DVTS
from .greedy import Greedy
from .guided_greedy import GuidedGreedy
from .hybrid import Hybrid
from .lookahead import Lookahead
from .mcts import MCTS
from .particle_filtering import ParticleFiltering
from .rebase import Rebase
from .refined_best_of_n import RefinedBestOfN
from .reflective_mcts import Action, ReflectiveMCTS
from .retrieval_mcts import RetrievalMCTS
from .self_consistency import SelfConsistency
from .uct import UCT
from .weighted_vote import WeightedVote

#: Every strategy by its name: whole trajectories first, then step by step, then trees.
STRATEGIES: dict[str, type[Strategy]] = {
    cls.name: cls
    for cls in (
        Greedy,
        BestOfN,
        SelfConsistency,
        WeightedVote,
        Hybrid,
        RefinedBestOfN,
        CritiqueRewrite,
        GuidedGreedy,
        Beam,
        AnnealedBeam,
        Lookahead,
        DVTS,
        Rebase,
        ParticleFiltering,
        MCTS,
        UCT,
        ABMCTS,
        ReflectiveMCTS,
        RetrievalMCTS,
    )
}


def make(name: str, n: int = 16, **settings: Any) -> Strategy:
    """Return the strategy called ``name``, sized to about ``n`` candidates or iterations.

    Args:
        name: one of `STRATEGIES`.
        n: trajectories, particles or iterations; what grows a frontier gets width = expand = sqrt(n),
            rounded; what improves trajectories begins with n / 2; AB-MCTS, which adds one step at a
            time, gets 4 n.  Ignored by greedy.
        settings: further settings of that strategy; they come before ``n``.

    Raises:
        ValueError: an unknown name, or ``n`` below 1.

    Example:
        >>> make("beam", n=16)
        Beam(temperature=1.0, max_depth=32, ..., relaxed=False, rules=None, width=4, expand=4, select='max')
        >>> make("mcts", n=8, c=2.0).iterations
        8
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {', '.join(STRATEGIES)}; got {name!r}.")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"`n` must be a positive integer; got {n!r}.")
    return STRATEGIES[name](**(_sizes(name, n) | settings))


def _sizes(name: str, n: int) -> dict[str, int]:
    """Return the settings that give a strategy about ``n`` candidates or iterations."""
    side = max(1, round(math.sqrt(n)))
    if name == "greedy":
        return {}
    if name in ("beam", "lookahead"):
        return {"width": side, "expand": side}
    if name == "annealed-beam":
        return {"width": 2 * side, "expand": side}
    if name == "dvts":
        return {"trees": side, "expand": side}
    if name in ("mcts", "uct", "reflective-mcts", "retrieval-mcts"):
        return {"iterations": n}
    if name == "ab-mcts":
        return {"iterations": 4 * n}  # one step each
    if name in ("refined-best-of-n", "critique-rewrite"):
        return {"n": max(1, n // 2)}
    return {{"guided-greedy": "expand", "particle-filtering": "particles"}.get(name, "n"): n}


def advance_all(searches: Iterable[Search]) -> None:
    """Let searches that were told outcomes act on them: `Search.advance` for many."""
    kinds: dict[type[Search], list[Search]] = {}
    for search in searches:
        kinds.setdefault(type(search), []).append(search)
    for kind, members in kinds.items():
        kind.advance_together(members)


__all__ = [
    "ABMCTS",
    "DVTS",
    "MCTS",
    "STRATEGIES",
    "UCT",
    "Action",
    "AnnealedBeam",
    "Beam",
    "BestOfN",
    "CritiqueRewrite",
    "EmbeddingRetriever",
    "Evaluate",
    "Example",
    "Expand",
    "Greedy",
    "GuidedGreedy",
    "Hybrid",
    "Lookahead",
    "ParticleFiltering",
    "Rebase",
    "RefinedBestOfN",
    "ReflectiveMCTS",
    "Request",
    "RetrievalMCTS",
    "Retriever",
    "Rollout",
    "Round",
    "Search",
    "SelfConsistency",
    "Strategy",
    "WeightedVote",
    "advance_all",
    "make",
    "reward_critic",
]
