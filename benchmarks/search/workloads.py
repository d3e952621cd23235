"""The searches that are timed: models that cost almost nothing, so that the search itself remains."""

from __future__ import annotations

import sys
from pathlib import Path

from svip_search import MCTS, Beam, Evaluate, Question, Search, Strategy
from svip_search.testing import InstantPolicy, InstantReward

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from timing import measure, version, write_record

__all__ = ["BRANCHING", "DEPTH", "QUESTION", "beam", "mcts", "measure", "run", "version", "write_record"]

QUESTION = Question("Which?")
BRANCHING, DEPTH = 6, 16


def run(strategy: Strategy, depth: int = DEPTH, branching: int = BRANCHING, limit: int = 4096) -> Search:
    """Play a search against instant models, which are given depths in place of texts."""
    policy, reward = InstantPolicy(branching, depth), InstantReward()
    search = strategy.start(QUESTION)
    while not search.done:
        for request in search.ask(limit):
            depths = search.tree.arena.depth[list(request.nodes)].tolist()
            if isinstance(request, Evaluate):
                search.tell(request.id, reward.rewards(depths))
            else:
                search.tell(request.id, [policy.last if d + 1 >= depth else policy.steps for d in depths])
    return search


def mcts(nodes: int, parallel: int) -> MCTS:
    """Return an MCTS that grows to about this many nodes."""
    return MCTS(iterations=nodes // BRANCHING, expand=BRANCHING, parallel=parallel, wave=parallel)


def beam(width: int, expand: int) -> Beam:
    """Return a beam of this size."""
    return Beam(width=width, expand=expand)
