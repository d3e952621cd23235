import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import MCTS, Question, Status, make, solve
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
quick = settings(max_examples=15, deadline=None)


def bandit(best, arms=4, depth=6):
    """One branch of the first step is good, everything below it too."""
    policy = HashPolicy(arms, depth, distinct=True)

    class Reward(TableReward):
        def _step(self, prefix):
            arm = prefix[0].rsplit(" ", 1)[-1]
            return np.full(3, 0.9 if int(arm) == best else 0.4, np.float32)

    return policy, Reward({})


@pytest.mark.parametrize("rule", ["puct", "uct"])
@pytest.mark.parametrize("rollout", [False, True])
@pytest.mark.parametrize("best", [0, 3])
def test_finds_the_best_arm(rule, rollout, best):
    policy, reward = bandit(best)
    config = MCTS(iterations=60, expand=4, c=0.5, rule=rule, rollout=rollout)
    search = play(config.start(QUESTION), policy, reward)
    visits = search.tree.arena.visits[search.tree.children(0)]
    assert visits.argmax() == best
    assert visits[best] > 0.5 * visits.sum()


@quick
@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_bookkeeping(iterations, parallel, seed, rollout):
    config = MCTS(iterations=iterations, expand=3, parallel=parallel, rollout=rollout)
    search = play(config.start(QUESTION, seed), HashPolicy(), HashReward())
    arena, completed = search.tree.arena, search._completed
    assert arena.visits[0] == search.usage.reward_calls - completed  # every child backs up once
    if not completed:
        assert search.usage.reward_calls == len(search.tree) - 1
    assert (arena.virtual_visits == 0).all()
    assert 0 <= arena.value_sum[0] <= arena.visits[0]
    if not rollout:
        assert search.usage.policy_calls <= iterations + completed


@pytest.mark.parametrize("strategy", [MCTS(iterations=2), MCTS(iterations=1, rollout=True)])
def test_a_short_search_still_answers(strategy):
    result = solve(QUESTION, HashPolicy(depth=6), HashReward(), strategy)
    assert result.answer in QUESTION.options
    assert result.stopped_by == "finished"


def test_an_exhausted_tree_ends_the_search():
    search = play(MCTS(iterations=1000).start(QUESTION), HashPolicy(2, 3, distinct=True), HashReward())
    assert len(search.tree) == 1 + 2 + 4 + 8
    assert search.tree.arena.status[0] == Status.EXHAUSTED
    assert search.finished == 8


def test_value_is_the_score_of_the_path():
    search = play(MCTS(iterations=1).start(QUESTION), HashPolicy(), HashReward())
    for child in search.tree.children(0):
        mean = float(search.tree.arena.reward[child].mean())
        assert search.tree.value(child) == pytest.approx(mean, rel=1e-6)


def test_policy_prior_prefers_likely_steps():
    search = play(MCTS(iterations=1, prior="policy").start(QUESTION), HashPolicy(), HashReward())
    children = search.tree.children(0)
    log_probs = np.array([search.tree.log_prob[c] / search.tree.tokens[c] for c in children])
    expected = np.exp(log_probs) / np.exp(log_probs).sum()
    assert search.tree.arena.prior[children] == pytest.approx(expected, rel=1e-6)


def test_rollouts_count_as_trajectories_and_stay_out_of_the_tree():
    result = solve(QUESTION, HashPolicy(depth=5), HashReward(), MCTS(iterations=1, rollout=True, expand=3))
    assert len(result.tree) <= 4
    assert len(result.trajectories) == len(result.tree) - 1
    for t in result.trajectories:
        assert len(t.steps) == 5
        rewards = [sum(s.reward) / 3 for s in t.steps]
        assert t.score == pytest.approx(sum(rewards) / 5, rel=1e-5)


def test_log_scores_are_backed_up_as_values_in_the_unit_interval():
    from svip_search import Scoring

    for rule in ("sum_log", "mean_log_odds", "product"):
        config = MCTS(iterations=10, scoring=Scoring(aggregate=rule))
        search = play(config.start(QUESTION), HashPolicy(), HashReward())
        assert 0 <= search.tree.value(0) <= 1


def test_bad_settings():
    for setting in ({"rule": "ucb"}, {"prior": "x"}, {"select": "last"}, {"c": -1.0}, {"parallel": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            MCTS(**setting)
    assert make("mcts", n=8).iterations == 8
    with pytest.raises(ValueError, match="`name`"):
        make("tree")
    with pytest.raises(ValueError, match="`n`"):
        make("mcts", n=0)
