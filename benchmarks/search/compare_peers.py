"""Time of one new node in this library and in others from PyPI, in the same run with the same work.

Every library grows a tree of branching 6 and depth 16 to the same size, with models that cost nothing
and a value drawn at random for each new node.  A library that is not installed is skipped.

``pip install treequest fastmcts``, then ``python benchmarks/search/compare_peers.py``.  fastmcts wants
numpy < 2, so use an environment of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from workloads import BRANCHING, DEPTH, mcts, measure, run, version, write_record

SIZES = (1_000, 10_000)
#: treequest looks at every node in every step: larger trees take minutes.
SMALLER = {"treequest": (300, 1_000)}


def svip_search(parallel: int) -> Callable[[int], int]:
    """Return this library's run with that many leaves a round."""
    return lambda nodes: len(run(mcts(nodes, parallel)).tree)


def treequest(nodes: int) -> int:
    """Grow treequest's StandardMCTS in place; one step adds one node."""
    from treequest import StandardMCTS

    rng = random.Random(0)
    algorithm = StandardMCTS(samples_per_action=BRANCHING)
    state = algorithm.init_tree()
    generate = {"step": lambda parent: ((parent or 0) + 1, rng.random())}
    for _ in range(nodes):
        state = algorithm.step(state, generate, inplace=True)
    return nodes


class _Game:
    """Six moves, sixteen deep; what fastmcts asks of a state."""

    next_to_move = 0

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth

    def is_game_over(self) -> bool:
        return self.depth >= DEPTH

    def get_legal_actions(self) -> list[int]:
        return list(range(BRANCHING))

    def move(self, action: int) -> _Game:
        return _Game(self.depth + 1)


def fastmcts(nodes: int) -> int:
    """Grow fastmcts without rollouts; one simulation adds one node."""
    from fastmcts.tree import nodes as module
    from fastmcts.tree.search import MonteCarloTreeSearch

    rng = random.Random(0)

    class Node(module.TwoPlayersGameMonteCarloTreeSearchNode):  # type: ignore[misc]
        def rollout(self) -> int:
            return rng.choice((-1, 1))

        def expand(self) -> Any:
            self.children.append(Node(self.state.move(self.untried_actions.pop()), parent=self))
            return self.children[-1]

    MonteCarloTreeSearch(Node(_Game()), num_processes=1).best_action(simulations_number=nodes)
    return nodes


PEERS: dict[str, Callable[[int], int]] = {
    "svip-search, parallel=64": svip_search(64),
    "svip-search, parallel=1": svip_search(1),
    "treequest": treequest,
    "fastmcts": fastmcts,
}
#: Why others are not here.
LEFT_OUT = {
    "gumbel-mcts": "needs torch, numba and a simulator",
    "mctx": "needs jax",
}


def main() -> None:
    """Print and write the record."""
    figures: dict[str, Any] = {"unit": "a new node, branching 6, depth 16", "left out": LEFT_OUT}
    for name, grow in PEERS.items():
        package = name.split(",")[0]
        try:
            figures[name] = {
                f"nodes={n}": measure(lambda n=n, grow=grow: grow(n), rounds=3) for n in SMALLER.get(package, SIZES)
            } | {"version": version(package)}
        except ImportError as error:
            figures[name] = f"skipped: {error}"
        print(name, figures[name], flush=True)
    write_record("search_peers", figures)


if __name__ == "__main__":
    main()
