import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import BestOfN, Candidate, Question, Scoring
from svip_search.rewards.hybrid_reward import HybridReward
from svip_search.strategies.hybrid import Hybrid, score_of_value
from svip_search.testing import HashPolicy, HashReward, TableReward, hash_int, play

quick = settings(max_examples=25, deadline=None)
QUESTION = Question("Which?", options=["red", "green", "blue"])
PAIR = HybridReward(HashReward(seed=1), HashReward(seed=2, kind="orm"))
CONFIGS = [
    Hybrid(n=5),
    Hybrid(n=5, outcome="model"),
    Hybrid(n=6, outcome="model", shortlist=2, select="weighted", scoring=Scoring(aggregate="sum_log")),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["last", "model", "shortlist"])


class Scripted:
    def __init__(self, *texts):
        self.texts = texts

    def propose(self, requests):
        return [[self._steps(text) for text in self.texts[: r.n]] for r in requests]

    def _steps(self, text):
        return tuple(Candidate(t, finish_reason="stop" if t == text[-1] else "step") for t in text)


class Outcomes:
    """One number for each last step; an exception where there is none."""

    kind = "orm"

    def __init__(self, table):
        self.table, self.asked = table, []

    def evaluate(self, question, paths):
        self.asked += [p[-1] for p in paths]
        return [self.table.get(p[-1], ValueError("no outcome")) for p in paths]


def scores(search):
    return [t.score for t in search.result().trajectories]


STEPS = TableReward({("a",): 0.4, ("a", "b"): 0.8, ("c",): 0.9, ("d",): 0.2})
POLICY = Scripted("ab", "c", "d")


# --- by hand ----------------------------------------------------------------------------------------------


def test_process_and_outcome_are_mixed():
    pair = HybridReward(STEPS, outcomes := Outcomes({"b": 0.5, "c": 0.1, "d": 1.0}))
    config = Hybrid(n=3, weight=0.25).scored_by(pair)
    search = play(config.start(Question("?")), POLICY, pair)
    assert scores(search) == pytest.approx([0.75 * 0.6 + 0.125, 0.75 * 0.9 + 0.025, 0.75 * 0.2 + 0.25])
    assert outcomes.asked == ["c", "b", "d"]  # best first
    assert search.usage.reward_calls == 6


def test_only_the_short_list_is_judged_and_wins():
    pair = HybridReward(STEPS, outcomes := Outcomes({"b": 0.0, "c": 0.0, "d": 1.0}))
    config = Hybrid(n=3, shortlist=2).scored_by(pair)
    search = play(config.start(Question("?")), POLICY, pair)
    assert outcomes.asked == ["c", "b"]
    assert scores(search) == pytest.approx([0.3, 0.45, 0.1])
    assert search.usage.reward_calls == 5


def test_a_failed_outcome_leaves_the_process_score():
    pair = HybridReward(STEPS, Outcomes({"b": 1.0}))
    search = play(Hybrid(n=3).scored_by(pair).start(Question("?")), POLICY, pair)
    assert scores(search) == pytest.approx([0.8, 0.9, 0.2])
    assert len(search.degraded) == 2
    assert all(t.answer is None for t in search.result().trajectories)


def test_the_last_step_stands_in_for_an_outcome_model():
    search = play(Hybrid(n=3, weight=0.25).start(Question("?")), POLICY, STEPS)
    assert scores(search) == pytest.approx([0.75 * 0.6 + 0.25 * 0.8, 0.9, 0.2])
    assert search.usage.reward_calls == 3


def test_the_reward_model_settles_where_the_outcome_comes_from():
    assert Hybrid().scored_by(PAIR).outcome == "model"
    assert Hybrid().scored_by(PAIR).scored_by(None).outcome == "model"
    assert Hybrid().scored_by(HashReward()).outcome == "last"
    assert Hybrid(outcome="last", scoring=Scoring()).scored_by(PAIR).outcome == "last"
    assert Hybrid().scored_by(None).outcome is None
    with pytest.raises(ValueError, match="`outcome` must be 'last' or None for a reward model without"):
        Hybrid(outcome="model").scored_by(HashReward())


@pytest.mark.parametrize("aggregate", ["mean", "product", "sum_log", "mean_log_odds"])
@quick
@given(value=st.floats(1e-5, 1 - 1e-5))
def test_scores_have_the_mixed_value(aggregate, value):
    scoring = Scoring(aggregate=aggregate)
    assert scoring.value(score_of_value(scoring, np.array([value]))) == pytest.approx([value])


@pytest.mark.parametrize("aggregate", ["sum_log", "mean_log_odds"])
def test_values_without_a_score_are_clamped(aggregate):
    scoring = Scoring(aggregate=aggregate)
    found = score_of_value(scoring, np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(found).all()
    assert scoring.value(found) == pytest.approx([0, 0.5, 1], abs=1e-5)


# --- what it is good for --------------------------------------------------------------------------------------


class Noisy:
    """Sees whether an answer is right, through noise of its own."""

    def __init__(self, kind, seed):
        self.kind, self.seed = kind, seed

    def evaluate(self, question, paths):
        found = [self._value(p) for p in paths]
        if self.kind == "orm":
            return found
        return [np.full((len(p), 3), value, np.float32) for p, value in zip(paths, found, strict=True)]

    def _value(self, path):
        noise = sum(hash_int(self.seed, path, i) / 2**64 for i in range(3)) / 3 - 0.5
        return 0.3 + 0.2 * ("right" in path[-1]) + 0.8 * max(noise, -0.3)


class Guessing:
    def propose(self, requests):
        return [[self._one(r.seed, i) for i in range(r.n)] for r in requests]

    def _one(self, seed, i):
        answer = "right" if hash_int(seed, i) % 4 == 0 else f"wrong {hash_int(seed, i, 'which') % 1000}"
        return Candidate(f"try {hash_int(seed, i, 'name')}"), Candidate(f"Answer: {answer}", finish_reason="stop")


def share_right(weight, seeds=300, **settings):
    pair = HybridReward(Noisy("prm", 1), Noisy("orm", 2))
    config = Hybrid(n=8, weight=weight, outcome="model", **settings)
    answers = [play(config.start(Question("?"), s), Guessing(), pair).result().answer for s in range(seeds)]
    return np.mean([a == "right" for a in answers])


def test_two_models_with_noise_of_their_own_are_better_than_either():
    mixed, process, outcome = share_right(0.5), share_right(0), share_right(1)
    assert mixed > max(process, outcome) + 0.04
    assert share_right(0.5, shortlist=4) > max(process, outcome)


# --- limits -------------------------------------------------------------------------------------------------


@quick
@given(seed=st.integers(0, 1000), select=st.sampled_from(["max", "weighted"]))
def test_weight_0_is_best_of_n_by_process_and_weight_1_by_outcome(seed, select):
    def result(config, reward):
        return play(config.start(QUESTION, seed), HashPolicy(), reward).result()

    by_process = result(Hybrid(n=6, weight=0, outcome="model"), PAIR)
    by_outcome = result(Hybrid(n=6, weight=1, outcome="model"), PAIR)
    assert by_process.answer == result(BestOfN(n=6), PAIR.process).answer
    assert by_outcome.answer == result(BestOfN(n=6), PAIR.outcome).answer
    assert by_process.tree.to_json() == result(BestOfN(n=6), PAIR.process).tree.to_json()
    long = result(Hybrid(n=6, outcome="model", select=select, shortlist=100), PAIR)
    assert long.votes == result(Hybrid(n=6, outcome="model", select=select), PAIR).votes


@quick
@given(seed=st.integers(0, 1000), shortlist=st.integers(1, 6), weight=st.floats(0, 0.99))
def test_the_winner_is_on_the_short_list(seed, shortlist, weight):
    config = Hybrid(n=6, outcome="model", weight=weight, shortlist=shortlist)
    search = play(config.start(QUESTION, seed), HashPolicy(), PAIR)
    plain = play(BestOfN(n=6).start(QUESTION, seed), HashPolicy(), PAIR.process).result()
    best = sorted({t.node: t.score for t in plain.trajectories}.values(), reverse=True)[:shortlist]
    winner = search.result().trajectory
    assert next(t.score for t in plain.trajectories if t.node == winner.node) in best


@pytest.mark.parametrize("outcome", ["model", "last"])
def test_a_saved_tree_is_judged(outcome):
    first = play(BestOfN(n=5).start(QUESTION), HashPolicy(), PAIR)
    search = play(Hybrid(n=5, outcome=outcome).start(QUESTION, tree=first.tree), HashPolicy(), PAIR)
    fresh = play(Hybrid(n=5, outcome=outcome).start(QUESTION), HashPolicy(), PAIR)
    assert search.usage.policy_calls == 0
    best = {t.node: t.score for t in search.result().trajectories}
    assert best == pytest.approx({t.node: t.score for t in fresh.result().trajectories}, rel=1e-6)


def test_a_search_that_is_stopped_before_the_outcome_is_known_answers_by_process():
    config = Hybrid(n=3, outcome="model")
    search = config.start(Question("?"))
    (request,) = search.ask()
    search.tell(request.id, POLICY.propose(search.requests_for(request)))
    (request,) = search.ask()
    search.tell(request.id, STEPS.evaluate(search.question, search.paths(request)))
    (request,) = search.ask()
    assert request.model == "outcome"
    search.stop("seconds")
    assert scores(search) == pytest.approx([0.6, 0.9, 0.2])


# --- protocol -----------------------------------------------------------------------------------------------


@every_config
def test_protocol(config):
    checks.check_protocol(config)


@pytest.mark.parametrize(("name", "config"), [("hybrid", CONFIGS[0]), ("hybrid_model", CONFIGS[2])])
def test_golden(name, config):
    check_golden(name, config)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"n": 0}, ValueError, "`n` must be at least 1; got 0"),
        ({"shortlist": 0}, ValueError, "`shortlist` must be at least 1; got 0"),
        ({"weight": 1.5}, ValueError, "`weight` must be a number >= 0 and at most 1; got 1.5"),
        ({"weight": None}, TypeError, "`weight` must be a number; got None"),
        ({"outcome": "first"}, ValueError, "`outcome` must be one of model, last; got 'first'"),
        ({"select": "majority"}, ValueError, "`select` must be one of max, weighted; got 'majority'"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        Hybrid(**settings)
