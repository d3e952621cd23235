import math

import checks
import numpy as np
import pytest
from checks import Scripted, candidates_by_depth
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Question, Scoring
from svip_search.strategies.rebase import Rebase, allot
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [Rebase(n=6), Rebase(n=9, balance=0.05, select="max"), Rebase(n=1)]
quick = settings(max_examples=40, deadline=None)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@quick
@given(VALUES, st.integers(0, 50), st.floats(0.01, 5))
def test_all_of_the_budget_is_allotted_and_more_to_the_better(values, budget, balance):
    shares = allot(values, budget, balance)
    assert shares.sum() == budget
    assert (shares >= 0).all()
    ranked = shares[np.argsort(-np.array(values), kind="stable")].tolist()
    assert ranked == sorted(ranked, reverse=True)
    weights = np.exp((np.array(values) - max(values)) / balance)
    assert (shares <= np.ceil(budget * weights / weights.sum() + 1e-9)).all()


@quick
@given(st.integers(1, 12), st.integers(1, 8), st.floats(0, 1))
def test_equal_values_share_equally(count, each, value):
    assert allot([value] * count, count * each, 0.2).tolist() == [each] * count


def test_limits_of_the_balance():
    values = [0.2, 0.9, 0.5]
    assert allot(values, 9, 1e-6).tolist() == allot(values, 9, 5e-324).tolist() == [0, 9, 0]
    assert allot(values, 9, 1e12).tolist() == [3, 3, 3]
    # Weights exp(-1.75), 1, exp(-1): ceil(9 * 0.648) = 6, then ceil(3 * 0.679) = 3, and nothing is left.
    assert allot(values, 9, 0.4).tolist() == [0, 6, 3]


@pytest.mark.parametrize("aggregate", ["mean", "sum_log", "mean_log_odds"])  # of one step, all have its value
def test_children_are_allotted_by_the_softmax_of_the_values(aggregate):
    # exp(0) : exp(-1) : exp(-1): ceil(8 * 0.576) = 5, ceil(3 / 2) = 2, 1.
    policy = Scripted(root=["a", "b", "c"], a=["d", "Answer: red", "e"], b=["f"], c=["g"])
    table = {("a",): 0.5, ("b",): 0.9, ("c",): 0.5, ("b", "f"): 0.9, ("a", "Answer: red"): 0.3}
    config = Rebase(n=8, balance=0.4, scoring=Scoring(aggregate=aggregate))
    asked, _ = candidates_by_depth(config, policy, TableReward(table, 0.5))
    assert asked[:2] == [{"": 8}, {"b": 5, "a": 2, "c": 1}]


def test_candidates_that_finish_leave_the_budget_and_repeats_count_as_drawn():
    # Of 8: "a" was drawn four times, "b" once, and one of two answers twice.
    policy = Scripted(root=[*"aaaab", "Answer: blue", "Answer: green", "Answer: blue"], a=["c"] * 8, b=["d"] * 8)
    config = Rebase(n=8, balance=1e12)
    asked, search = candidates_by_depth(config, policy, TableReward({}, 0.5))
    assert asked == [{"": 8}, {"a": 4, "b": 1}, {"c": 4, "d": 1}]
    votes = {v.answer: v.votes for v in search.result().votes}
    assert votes == {"red": 5, "blue": 2, "green": 1}


def test_the_share_of_a_node_that_gave_nothing_goes_to_the_others():
    policy = Scripted(root=["a", "b"], a=[], b=["c", "d"])
    asked, search = candidates_by_depth(Rebase(n=4, balance=1e12), policy, TableReward({}, 0.5))
    assert asked == [{"": 4}, {"a": 2, "b": 2}, {"c": 2, "d": 2}]
    assert search.finished == 4


@quick
@given(st.integers(1, 12), st.integers(0, 50), st.floats(0.01, 2))
def test_ends_with_n_trajectories_after_at_most_n_candidates_a_depth(n, seed, balance):
    asked, search = candidates_by_depth(Rebase(n=n, balance=balance), HashPolicy(), HashReward(seed), seed)
    assert [sum(widths.values()) for widths in asked] == [n] * 4
    assert search.finished == n


@quick
@given(st.integers(1, 6), st.integers(0, 50))
def test_a_tiny_balance_makes_a_beam_of_width_one(n, seed):
    trees = [
        play(config.start(QUESTION, seed), HashPolicy(), HashReward(seed)).tree.to_json()
        for config in (Beam(width=1, expand=n), Rebase(n=n, balance=1e-9))
    ]
    assert trees[0] == trees[1]


def test_rewards_lead_to_better_trajectories_than_an_even_share():
    def mean_score(balance):
        searches = [
            play(Rebase(n=8, balance=balance, select="max").start(QUESTION, s), HashPolicy(4, 5), HashReward())
            for s in range(12)
        ]
        return np.mean([s.result().trajectory.score for s in searches])

    assert mean_score(0.1) > mean_score(1e6) + 0.02


def test_finds_a_planted_path():
    planted = tuple(f"step {d}, branch 3" for d in range(1, 5))
    table = {planted[: d + 1]: 0.9 for d in range(4)}
    policy = HashPolicy(4, 5, distinct=True)
    search = play(Rebase(n=12, select="max").start(QUESTION), policy, TableReward(table, 0.3))
    assert tuple(s.text for s in search.result().trajectory.steps[:4]) == planted


def test_votes_are_weighted_by_value():
    result = play(Rebase(n=7).start(QUESTION), HashPolicy(), HashReward()).result()
    sums = {}
    for t in result.trajectories:
        sums[t.answer] = sums.get(t.answer, 0) + t.score
    assert result.answer == max(sums, key=sums.get)
    assert result.votes[0].weight == pytest.approx(max(sums.values()))
    assert not any(math.isnan(t.score) for t in result.trajectories)


@every_config
@pytest.mark.parametrize("check", [getattr(checks, c) for c in dir(checks) if c.startswith("check_")])
def test_protocol(check, config):
    check(config)


def test_golden_tree():
    check_golden("rebase", Rebase(n=6))


def test_bad_settings():
    for setting in ({"n": 0}, {"balance": 0}, {"balance": -1.0}, {"select": "last"}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            Rebase(**setting)
