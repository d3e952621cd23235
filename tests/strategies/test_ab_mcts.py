import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Candidate, Question, Scoring, Status
from svip_search.strategies.ab_mcts import ABMCTS, ABMCTSSearch
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [ABMCTS(iterations=12), ABMCTS(iterations=12, parallel=4, prior=(1.0, 2.0), select="max")]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["serial", "parallel"])
quick = settings(max_examples=15, deadline=None)


class Lettered:
    """Gives "a", "b", ... after each prefix, one after another."""

    def __init__(self, depth=9):
        self.depth = depth
        self.given = {}

    def propose(self, requests):
        return [[self._next(r.prefix) for _ in range(r.n)] for r in requests]

    def _next(self, prefix):
        count = self.given[prefix] = self.given.get(prefix, -1) + 1
        last = len(prefix) + 1 == self.depth
        return (Candidate(chr(ord("a") + count), finish_reason="stop" if last else "step"),)


class Certain(ABMCTS):
    """Takes the mean of a posterior instead of a draw."""

    class search(ABMCTSSearch):
        def _sample(self, known, rng):
            a, b = self.config.prior
            return a / (a + b) if known is None else (a + known.total) / (a + b + known.count)


def test_goes_where_the_posterior_says():
    table = {("a",): 0.8, ("b",): 0.2, ("c",): 0.1, ("a", "a"): 0.9, ("a", "b"): 0.0, ("a", "a", "a"): 0.5}
    config = Certain(iterations=6, prior=(1, 1), scoring=Scoring(aggregate="last"))
    search = play(config.start(QUESTION), Lettered(), TableReward(table))
    # GEN and CONT at the root:         (none), .6 >= .5, .5 >= .5, .42 < .5 and a = .6 > b, c;
    # then .42 < .63, a: .63 >= .5; then .42 < .475, a: .475 < .5, and below it aa = .63 > ab = .33.
    assert search.tree.arena.parent[:7].tolist() == [-1, 0, 0, 0, 1, 1, 4]
    assert [search.tree.texts(node) for node in range(1, 7)] == list(table)
    known = search._generated[0], search._continued[0], search._reached[1]
    assert [(k.count, pytest.approx(k.total)) for k in known] == [(3, 1.1), (3, 1.4), (4, 2.2)]
    assert search.tree.arena.visits[0] == 6


@pytest.mark.parametrize("deep", [False, True])
def test_goes_wider_or_deeper_as_the_rewards_say(deep):
    class Reward(TableReward):
        def _step(self, prefix):
            return np.full(3, 0.9 if (len(prefix) > 1) == deep else 0.1, np.float32)

    config = ABMCTS(iterations=40, scoring=Scoring(aggregate="last"))
    search = play(config.start(QUESTION), HashPolicy(10**6, 20), Reward({}))
    wide = len(search.tree.children(0))
    assert wide < 10 if deep else wide > 20


def arm_of(prefix):
    return int(prefix[0].split(".")[0].rsplit(" ", 1)[-1])


def found(config, best, seed):
    """The share of the tree that lies below the best arm."""

    class Reward(TableReward):
        def _step(self, prefix):
            return np.full(3, 0.9 if arm_of(prefix) == best else 0.3, np.float32)

    search = play(config.start(QUESTION, seed), HashPolicy(4, 8), Reward({}))
    below = [arm_of(search.tree.texts(node)) == best for node in range(1, len(search.tree))]
    return sum(below) / len(below)


@pytest.mark.parametrize("best", [0, 3])
def test_finds_the_best_arm_and_beats_the_toss_of_a_coin(best):
    chosen = [found(ABMCTS(iterations=60), best, seed) for seed in range(5)]
    tossed = [found(ABMCTS(iterations=60, prior=(1e9, 1e9)), best, seed) for seed in range(5)]
    assert np.mean(chosen) > 0.5
    assert np.mean(chosen) > np.mean(tossed) + 0.1


def test_another_seed_draws_otherwise():
    trees = {play(ABMCTS().start(QUESTION, s), Lettered(), HashReward()).tree.to_json() for s in range(4)}
    assert len(trees) == 4


def test_a_repeated_step_is_one_more_observation_of_generating():
    search = play(ABMCTS(iterations=5).start(QUESTION), HashPolicy(branching=1, depth=1), HashReward())
    assert search.usage.policy_calls == 5
    assert len(search.tree) == 2
    assert search._generated[0].count == 5
    assert search._reached[1].count == search.tree.arena.visits[0] == 1


def test_a_node_that_failed_once_may_have_children_later():
    search = ABMCTS(iterations=2, parallel=2).start(QUESTION)
    first, second = search.ask()
    search.tell(first.id, [RuntimeError("down")])
    assert search.tree.arena.status[0] == Status.FAILED
    search.tell(second.id, [[(Candidate("a"),)]])
    assert search.tree.arena.status[0] == Status.EXPANDED
    assert search.tree.text == ["", "a"]


@quick
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 5))
def test_each_iteration_generates_and_backs_up_once(iterations, parallel, seed):
    config = ABMCTS(iterations=iterations, parallel=parallel)
    search = play(config.start(QUESTION, seed), HashPolicy(10**6), HashReward())
    completed = search._completed
    assert search.usage.policy_calls == iterations + completed
    assert search.tree.arena.visits[0] == iterations
    assert search._generated[0].count + (search._continued[0].count if 0 in search._continued else 0) == iterations


def test_a_saved_tree_is_known_again():
    first = play(ABMCTS(iterations=30).start(QUESTION), HashPolicy(10**6, depth=2), HashReward())
    again = ABMCTS(iterations=30).start(QUESTION, seed=1, tree=first.tree)
    for name in ("_generated", "_continued", "_reached"):
        known, before = getattr(again, name), getattr(first, name)
        assert {n: k.count for n, k in known.items()} == {n: k.count for n, k in before.items()}
        for node in known:
            assert known[node].total == pytest.approx(before[node].total, rel=1e-6)
    play(again, HashPolicy(10**6, depth=2), HashReward())
    assert again.usage.nodes == 30


@every_config
def test_protocol(config):
    checks.check_protocol(config)


def test_tree_is_the_golden_one():
    check_golden("ab_mcts", ABMCTS(iterations=14, parallel=2))


@pytest.mark.parametrize("prior", [(0, 1), (1.0,), (1, float("inf")), "ab", (True, 1), 3])
def test_a_prior_is_two_positive_numbers(prior):
    with pytest.raises(ValueError, match="`prior` must be two finite numbers > 0"):
        ABMCTS(prior=prior)


def test_bad_settings():
    for setting in ({"iterations": 0}, {"parallel": 0}, {"select": "last"}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            ABMCTS(**setting)
