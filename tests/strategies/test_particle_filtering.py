from collections import Counter
from random import Random

import checks
import numpy as np
import pytest
from checks import Scripted, candidates_by_depth
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Budget, Question, Scoring, solve
from svip_search.strategies.particle_filtering import ParticleFiltering, importance, systematic
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [
    ParticleFiltering(particles=5),
    ParticleFiltering(particles=4, resampling="multinomial", select="weighted"),
    ParticleFiltering(particles=1),
]
quick = settings(max_examples=40, deadline=None)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
WEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda w: sum(w) > 1e-3)


@quick
@given(WEIGHTS, st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_systematic_resampling_copies_floor_or_ceil_of_the_expected_number(weights, count, u):
    weights = np.array(weights) / sum(weights)
    indices = systematic(weights, count, u)
    assert len(indices) == count
    assert indices == sorted(indices)
    copies = np.bincount(indices, minlength=len(weights))
    assert (copies >= np.floor(count * weights - 1e-9)).all()
    assert (copies <= np.ceil(count * weights + 1e-9)).all()


@quick
@given(WEIGHTS, st.integers(1, 8))
def test_systematic_resampling_is_unbiased(weights, count):
    weights = np.array(weights) / sum(weights)
    grid = (np.arange(2000) + 0.5) / 2000
    copies = np.bincount(np.concatenate([systematic(weights, count, u) for u in grid]), minlength=len(weights))
    assert copies / len(grid) == pytest.approx(count * weights, abs=2e-3)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.1, 10))
def test_importance_is_the_odds(values, temperature):
    weights = importance(values, temperature)
    assert weights.sum() == pytest.approx(1)
    assert (np.diff(weights[np.argsort(values)]) >= 0).all()
    v = np.clip(values, 1e-6, 1 - 1e-6)
    odds = (v / (1 - v)) ** (1 / temperature)
    assert weights == pytest.approx(odds / odds.sum(), rel=1e-6)


def test_limits_of_the_weight_temperature():
    assert importance([0.2, 1.0, 0.0], 5e-324).tolist() == [0, 1, 0]
    assert importance([0.2, 1.0, 0.0], 1e300).tolist() == pytest.approx([1 / 3] * 3)


def test_systematic_resampling_at_the_edges():
    below_one = np.nextafter(1, 0)
    for u in (0.0, 0.5, below_one):
        assert systematic(np.array([0.0, 1.0, 0.0])[: 2 if u == below_one else 3], 3, u) == [1, 1, 1]
    assert systematic(np.array([0.5, 0.5]), 2, 0.0) == [0, 1]


@pytest.mark.parametrize("aggregate", ["mean", "sum_log", "mean_log_odds"])  # of one step, all have its value
@pytest.mark.parametrize("seed", range(5))
def test_particles_are_resampled_by_the_odds_of_their_values(seed, aggregate):
    policy = Scripted(root=["a", "b", "b", "c", "c", "c"])
    values = {"a": 0.9, "b": 0.6, "c": 0.2}
    reward = TableReward({(text,): v for text, v in values.items()})
    config = ParticleFiltering(particles=6, scoring=Scoring(aggregate=aggregate))
    asked, search = candidates_by_depth(config, policy, reward, seed)
    odds = np.array([9, 1.5, 1.5, 0.25, 0.25, 0.25])
    drawn = systematic(odds / odds.sum(), 6, Random(f"{seed}/1").random())
    assert asked == [{"": 6}, dict(Counter("abbccc"[i] for i in drawn))]
    assert asked[1]["a"] in (4, 5)  # 6 * 9 / 12.75 = 4.2
    assert search.finished == 6


def test_finished_particles_stay_in_the_population_and_are_not_extended():
    # Odds 3 : 1 : 1 : 1, so that two of four stay at the answer; then 3 : 3 : 3 : 3.
    policy = Scripted(root=["Answer: blue", "a", "a", "a"], a=["b", "b"])
    reward = TableReward({("Answer: blue",): 0.75, ("a",): 0.5, ("a", "b"): 1.0})
    asked, search = candidates_by_depth(ParticleFiltering(particles=4), policy, reward)
    assert asked == [{"": 4}, {"a": 2}, {"b": 2}]
    assert {v.answer: v.votes for v in search.result().votes} == {"blue": 1, "red": 2}


def test_a_finished_particle_that_outweighs_all_ends_the_search():
    policy = Scripted(root=["Answer: blue", "a", "a", "a"])
    reward = TableReward({("Answer: blue",): 1.0, ("a",): 0.1})
    asked, search = candidates_by_depth(ParticleFiltering(particles=4), policy, reward)
    assert asked == [{"": 4}]
    assert search.result().answer == "blue"


def test_lost_particles_are_replaced_by_copies_of_the_others():
    policy = Scripted(root=["a", "a", "b", "b"], a=[], b=["c", "d"])
    asked, search = candidates_by_depth(ParticleFiltering(particles=4), policy, TableReward({}, 0.5))
    assert asked == [{"": 4}, {"a": 2, "b": 2}, {"c": 2, "d": 2}]
    assert search.finished == 4


def test_particles_that_cannot_be_scored_are_lost():
    class Partial(TableReward):
        def _step(self, prefix):
            return super()._step(prefix) if prefix[0] != "a" else np.full(3, np.nan, np.float32)

    policy = Scripted(root=["a", "b", "a", "c"])
    asked, search = candidates_by_depth(ParticleFiltering(particles=4), policy, Partial({}, 0.5))
    assert asked == [{"": 4}, {"b": 2, "c": 2}]
    assert len(search.degraded) == 1


@pytest.mark.parametrize("fault", ["policy", "reward"])
def test_the_search_ends_where_all_particles_are_lost(fault):
    class Broken:
        kind = "prm"

        def propose(self, requests):
            return [[] for _ in requests]

        def evaluate(self, question, paths):
            raise RuntimeError("down")

    policy = Broken() if fault == "policy" else HashPolicy()
    reward = Broken() if fault == "reward" else HashReward()
    search = play(ParticleFiltering(particles=4).start(QUESTION), policy, reward)
    assert search.result().stopped_by == "finished"
    assert search.result().answer is None
    assert search.usage.policy_calls <= 2


@quick
@given(st.integers(1, 10), st.integers(0, 50))
def test_a_huge_weight_temperature_lets_every_particle_go_on(particles, seed):
    config = ParticleFiltering(particles=particles, weight_temperature=1e15)
    asked, search = candidates_by_depth(config, HashPolicy(6), HashReward(seed), seed)
    assert [sum(copies.values()) for copies in asked] == [particles] * 4
    assert search.finished == particles
    arena = search.tree.arena
    parents = set(arena.parent[1:].tolist())
    assert all(arena.depth[n] == 4 or n in parents for n in range(len(search.tree)))  # nothing was cut


@quick
@given(st.integers(0, 50), st.sampled_from(["systematic", "multinomial"]))
def test_one_particle_is_the_narrowest_beam(seed, resampling):
    trees = [
        play(config.start(QUESTION, seed), HashPolicy(), HashReward()).tree.to_json()
        for config in (Beam(width=1, expand=1), ParticleFiltering(particles=1, resampling=resampling))
    ]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
def test_rewards_lead_to_better_trajectories_than_none(resampling):
    def mean_score(temperature):
        config = ParticleFiltering(particles=8, resampling=resampling, weight_temperature=temperature)
        searches = [play(config.start(QUESTION, s), HashPolicy(4, 6), HashReward()) for s in range(15)]
        return np.mean([t.score for s in searches for t in s.result().trajectories])

    assert mean_score(0.3) > mean_score(1e6) + 0.05


def test_finds_a_planted_path():
    planted = tuple(f"step {d}, branch 3" for d in range(1, 5))
    table = {planted[: d + 1]: 0.95 for d in range(4)}
    policy = HashPolicy(4, 5, distinct=True)
    search = play(ParticleFiltering(particles=12).start(QUESTION), policy, TableReward(table, 0.2))
    assert tuple(s.text for s in search.result().trajectory.steps[:4]) == planted


def test_more_particles_than_nodes_are_refused():
    with pytest.raises(ValueError, match="`particles` must not exceed the budget's `nodes`, 7; got 8"):
        solve(QUESTION, HashPolicy(), HashReward(), ParticleFiltering(), Budget(nodes=7))
    assert solve(QUESTION, HashPolicy(), HashReward(), ParticleFiltering(), Budget(nodes=8)).answer


@every_config
@pytest.mark.parametrize("check", [getattr(checks, c) for c in dir(checks) if c.startswith("check_")])
def test_protocol(check, config):
    check(config)


def test_golden_tree():
    check_golden("particle_filtering", ParticleFiltering(particles=6))


def test_bad_settings():
    bad = [{"particles": 0}, {"resampling": "residual"}, {"weight_temperature": 0}, {"select": "last"}]
    for setting in bad:
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            ParticleFiltering(**setting)
