"""What holds for every strategy: determinism, the protocol, and faults that never end a search."""

import math
import pickle
from dataclasses import fields, replace
from random import Random

import checks
import pytest
from checks import QUESTION, outcome_of
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import (
    MCTS,
    STRATEGIES,
    Beam,
    BestOfN,
    Budget,
    CallablePolicy,
    Candidate,
    EmbeddingRetriever,
    Evaluate,
    Example,
    Expand,
    Greedy,
    ParticleFiltering,
    Question,
    SelfConsistency,
    Tree,
    WeightedVote,
    solve,
)
from svip_search.strategies._base import Round
from svip_search.testing import HashPolicy, HashReward, answer_request, play

quick = settings(max_examples=15, deadline=None)
CONFIGS = [
    Greedy(),
    BestOfN(n=6),
    SelfConsistency(n=7, chunk=3),
    WeightedVote(n=5),
    Beam(width=3, expand=3),
    MCTS(iterations=9, expand=3),
    MCTS(iterations=9, expand=3, parallel=4, wave=2, prior="policy", rule="uct", select="max"),
    MCTS(iterations=5, expand=2, rollout=True, parallel=2),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.name}{CONFIGS.index(c)}")


@every_config
@quick
@given(limit=st.integers(1, 9), order=st.integers(0, 1000), copy=st.booleans(), seed=st.integers(0, 2))
def test_batching_order_and_pickling_do_not_change_the_tree(config, limit, order, copy, seed):
    plain = play(config.start(QUESTION, seed), HashPolicy(), HashReward(), limit=1000)
    other = config.start(QUESTION, seed)
    other = play(other, HashPolicy(), HashReward(), limit=limit, rng=Random(order), copy=copy)
    assert outcome_of(other) == outcome_of(plain)


@every_config
def test_faults_degrade_a_search_the_same_way_in_any_order(config):
    checks.check_policy_faults(config)
    checks.check_reward_faults(config)


@every_config
def test_result_is_valid_after_every_tell(config):
    search = config.start(QUESTION)
    while not search.done:
        for request in search.ask(2):
            search.tell(request.id, answer_request(search, request, HashPolicy(), HashReward()))
            result = search.result()
            assert result.answer is None or result.answer in QUESTION.options
            assert result.stopped_by == ("finished" if search.done else "interrupted")
    assert result.answer in QUESTION.options
    assert result.trajectory in result.trajectories
    assert all(t.steps[-1].node in (t.node, -1) for t in result.trajectories)


@every_config
def test_ask_never_exceeds_the_limit_and_tell_is_idempotent(config):
    search = config.start(QUESTION)
    told = []
    while not search.done:
        requests = search.ask(2)
        assert sum(len(r.nodes) for r in requests) <= 2
        assert search.ask(2) == [] or sum(len(r.nodes) for r in requests) < 2
        for request in requests:
            outcome = answer_request(search, request, HashPolicy(), HashReward())
            search.tell(request.id, outcome)
            search.tell(request.id, [ValueError()] * len(request.nodes))
            told.append(request.id)
    assert not search.degraded
    search.tell(told[0], "ignored")
    with pytest.raises(KeyError, match="`id`"):
        search.tell(told[-1] + 1, [])


@every_config
def test_a_stopped_search_keeps_what_it_was_told_and_can_be_completed(config):
    checks.check_stop_anywhere(config)


@every_config
def test_depth_limit_ends_trajectories(config):
    checks.check_depth_limit(config)


@every_config
def test_outcome_models_are_taken_as_well(config):
    search = play(config.start(QUESTION), HashPolicy(), HashReward(kind="orm"))
    assert not search.degraded
    assert search.result().answer in QUESTION.options


@every_config
def test_any_outcome_is_survived(config):
    checks.check_any_outcome(config)


def test_exceptions_inside_an_outcome_fail_their_node_alone():
    search = Beam(width=2, expand=2).start(QUESTION)
    policy = HashPolicy(distinct=True)
    for request in search.ask():
        search.tell(request.id, answer_request(search, request, policy, None))
    (request,) = search.ask()
    assert isinstance(request, Evaluate)
    rewards = answer_request(search, request, policy, HashReward())
    search.tell(request.id, [RuntimeError("lost"), *rewards[1:]])
    assert search.degraded == ["node 1: reward model failed: RuntimeError: lost"]
    assert search.wants() is not None


def test_duplicate_steps_are_merged_in_one_place():
    class Repeating(HashPolicy):
        def _step(self, request, prefix, i):
            step = super()._step(request, prefix, 0)
            return Candidate("same", finish_reason=step.finish_reason)

    search = play(Beam(width=2, expand=4).start(QUESTION), Repeating(depth=3), HashReward())
    assert len(search.tree) == 4
    drawn = play(BestOfN(n=5).start(QUESTION), Repeating(depth=3), HashReward())
    assert len(drawn.tree) == 4
    assert drawn.finished == 5
    assert drawn.usage.reward_calls == 1


def test_seeds_differ_between_nodes_and_draws_but_not_between_searches():
    search = MCTS(parallel=3, iterations=9).start(QUESTION, seed=5)
    seeds = []
    twin = MCTS(parallel=2, iterations=9).start(QUESTION, seed=5)
    assert search.requests_for(*search.ask())[0].seed == twin.requests_for(*twin.ask())[0].seed
    search = SelfConsistency(n=6, chunk=2).start(QUESTION, seed=5)
    while not search.done:
        for request in search.ask():
            seeds += [r.seed for r in search.requests_for(request)]
            search.tell(request.id, answer_request(search, request, HashPolicy(), None))
    assert len(set(seeds)) == len(seeds) > 1


def test_a_search_is_small_when_pickled_and_goes_on_afterwards():
    search = MCTS(iterations=20).start(QUESTION)
    (request,) = search.ask()
    copy = pickle.loads(pickle.dumps(search))
    outcome = answer_request(search, request, HashPolicy(), None)
    copy.tell(request.id, outcome)
    assert len(search.tree) == 1 < len(copy.tree)


class Asking(Beam):
    """Asks for the same single candidate of the root again and again, which adds nothing."""

    name = "asking"

    class search(Beam.search):
        def _choose(self):
            return None if self._rounds else Round(Expand, [0], 1)


class Flooding(Asking):
    """Begins rounds without ever waiting."""

    class search(Beam.search):
        def _choose(self):
            return Round(Expand, [0], 1)


@pytest.mark.parametrize("config", [Asking(temperature=0), Flooding(temperature=0)])
def test_a_strategy_that_asks_for_ever_is_ended(config):
    search = play(config.start(QUESTION), HashPolicy(distinct=True), HashReward(), limit=8)
    assert search.result().stopped_by == "stalled"
    assert search.result().answer in QUESTION.options
    assert search.usage.policy_calls < 1200


@pytest.mark.parametrize("config", [SelfConsistency(n=40, chunk=1, patience=5), MCTS(iterations=200, patience=5)])
def test_patience_ends_a_search_whose_answer_does_not_change(config):
    sure = HashPolicy(answers=["red"], depth=2)
    search = play(config.start(Question("Which?")), sure, HashReward())
    assert search.result().stopped_by == "converged"
    assert search.finished < 12
    assert (search.tree.arena.virtual_visits == 0).all()


@pytest.mark.parametrize("config", [MCTS(iterations=30, parallel=6), MCTS(iterations=30, parallel=6, wave=3)])
def test_the_relaxed_mode_depends_on_timing_and_the_strict_one_does_not(config):
    def trees(config):
        return {
            play(config.start(QUESTION), HashPolicy(), HashReward(), limit=6, rng=Random(s)).tree.to_json()
            for s in range(6)
        }

    assert len(trees(config)) == 1
    relaxed = trees(replace(config, relaxed=True))
    assert len(relaxed) > 1
    for text in relaxed:
        assert (Tree.from_json(text).arena.virtual_visits == 0).all()


@pytest.mark.parametrize("config", [MCTS(iterations=6, expand=2), Beam(width=2, expand=2), BestOfN(n=9)])
def test_a_saved_tree_is_searched_further(config):
    first = play(MCTS(iterations=5, expand=4).start(QUESTION), HashPolicy(), HashReward())
    saved = Tree.from_json(first.tree.to_json())
    search = config.start(QUESTION, seed=1, tree=saved)
    assert search.result().trajectories == first.result().trajectories
    play(search, HashPolicy(), HashReward())
    assert len(search.tree) > len(saved)
    assert search.tree.text[: len(saved)] == saved.text
    assert search.usage.nodes == len(search.tree) - len(saved)
    assert len(first.tree) == len(saved), "the tree that was given has changed"


def test_a_strategy_that_cannot_go_on_from_a_tree_says_so():
    class Once(Beam):
        name = "once"

        class search(Beam.search):
            resumes = False

    with pytest.raises(ValueError, match="`tree` must be None for 'once'"):
        Once().start(QUESTION, tree=Tree())


@pytest.mark.parametrize("name", STRATEGIES)
def test_impossible_settings_are_refused_by_name(name):
    cls = STRATEGIES[name]
    settings = (
        {"retriever": EmbeddingRetriever([Example("How many?", ("Count.",), "4")])} if "retrieval" in name else {}
    )
    counts = [f.name for f in fields(cls) if f.type == "int" and f.name not in ("steps", "retries")]
    for setting in ("max_depth", "patience", *counts):
        for value in (0, -3, 1.5, True, "4"):
            with pytest.raises((ValueError, TypeError), match=f"`{setting}`"):
                cls(**settings, **{setting: value})
    for value in (-1, math.nan, math.inf, "hot", None):
        with pytest.raises((ValueError, TypeError), match="`temperature`"):
            cls(**settings, temperature=value)
    with pytest.raises(TypeError, match="`relaxed`"):
        cls(**settings, relaxed=1)
    if any(f.name == "select" for f in fields(cls)):
        with pytest.raises(ValueError, match="`select`"):
            cls(**settings, select="best")


def test_more_particles_than_the_budget_has_nodes_for_are_refused():
    with pytest.raises(ValueError, match="`particles` must not exceed the budget's `nodes`, 5; got 8"):
        ParticleFiltering(particles=8).start(QUESTION, budget=Budget(nodes=5))


def test_answers_outside_of_the_options_are_no_answer_and_said() -> None:
    policy = CallablePolicy(lambda question, prefix, n, seed: ["answer: 7"] * n)
    result = solve(Question("Which?", options=["1", "2"]), policy, HashReward(), BestOfN(n=3))
    assert result.answer is None
    assert result.degraded == ("no trajectory ended with one of the options",)
