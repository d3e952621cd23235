"""The golden trees of the first strategies; later ones check theirs in their own tests."""

import pytest
from golden import check_golden

from svip_search import MCTS, Beam, BestOfN, Greedy, SelfConsistency, WeightedVote

GOLDEN = {
    "greedy": Greedy(),
    "best_of_n": BestOfN(n=5),
    "self_consistency": SelfConsistency(n=6, chunk=2),
    "weighted_vote": WeightedVote(n=5),
    "beam": Beam(width=3, expand=3),
    "mcts_puct": MCTS(iterations=10, expand=3, prior="policy"),
    "mcts_uct_parallel": MCTS(iterations=10, expand=3, rule="uct", parallel=4),
    "mcts_rollout": MCTS(iterations=6, expand=2, rollout=True),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_tree_is_the_golden_one(name):
    check_golden(name, GOLDEN[name])
