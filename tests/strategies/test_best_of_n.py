"""Best of n and the weighted vote with draws in chunks; the rest is in test_sampling.py."""

import math

import checks
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import BestOfN, Candidate, Question, WeightedVote
from svip_search.testing import HashPolicy, HashReward, TableReward, play

quick = settings(max_examples=25, deadline=None)
QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [BestOfN(n=7, chunk=2, patience=3), WeightedVote(n=7, chunk=3, patience=3)]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["best-of-n", "weighted"])
both = pytest.mark.parametrize("cls", [BestOfN, WeightedVote])


class Scripted:
    def __init__(self, *texts):
        self.texts = list(texts)

    def propose(self, requests):
        return [[(Candidate(self.texts.pop(0), finish_reason="stop"),) for _ in range(r.n)] for r in requests]


def scripted(config, said):
    """Play with answers and their rewards, given as [("a", 0.5), ...]."""
    texts = [f"Try {i}. Answer: {answer}" for i, (answer, _) in enumerate(said)]
    reward = TableReward({(text,): value for text, (_, value) in zip(texts, said, strict=True)})
    return play(config.start(Question("?")), Scripted(*texts), reward)


@pytest.mark.parametrize(
    ("config", "draws", "answer"),
    [
        (BestOfN(n=9, chunk=1, patience=3), 7, "c"),  # b, then c leads; three in a row change nothing
        (BestOfN(n=9, chunk=1, patience=2), 3, "b"),
        (BestOfN(n=9, chunk=1), 9, "a"),
        (BestOfN(n=9, patience=1), 9, "a"),
        (WeightedVote(n=9, chunk=1, patience=3), 9, "a"),  # b, c, b, and at last a
        (WeightedVote(n=9, chunk=1, patience=2), 3, "b"),
    ],
)
def test_patience_ends_the_draws(config, draws, answer):
    said = [("b", 0.5), ("a", 0.3), ("b", 0.1), ("c", 0.7), ("a", 0.1), ("b", 0.2), ("b", 0.1), ("d", 0.1), ("a", 0.9)]
    search = scripted(config, said)
    assert (search.finished, search.result().answer) == (draws, answer)
    assert search.result().stopped_by == ("finished" if draws == 9 else "converged")


@both
@quick
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 9), patience=st.integers(1, 6))
def test_what_is_drawn_is_scored(cls, seed, chunk, patience):
    search = play(cls(n=20, chunk=chunk, patience=patience).start(QUESTION, seed), HashPolicy(), HashReward())
    assert not any(math.isnan(t.score) for t in search.result().trajectories)


@both
@quick
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 9), patience=st.integers(1, 6))
def test_patience_leaves_a_beginning_of_the_draws(cls, seed, chunk, patience):
    def trajectories(config):
        return play(config.start(QUESTION, seed), HashPolicy(), HashReward()).result().trajectories

    full = trajectories(cls(n=20, chunk=chunk))
    early = trajectories(cls(n=20, chunk=chunk, patience=patience))
    assert len(full) == 20
    assert [t.text for t in early] == [t.text for t in full[: len(early)]]


@both
def test_one_chunk_is_all_at_once(cls):
    plain, chunked = (play(c.start(QUESTION), HashPolicy(), HashReward()) for c in (cls(n=6), cls(n=6, chunk=6)))
    assert chunked.tree.to_json() == plain.tree.to_json()
    assert chunked.usage.policy_calls == 1
    assert play(cls(n=6, chunk=4).start(QUESTION), HashPolicy(), HashReward()).usage.policy_calls == 2


def test_patience_saves_draws_where_the_answer_is_plain():
    policy = HashPolicy(answers=["red"])
    for config in (BestOfN(n=64, chunk=4, patience=8), WeightedVote(n=64, chunk=4, patience=8)):
        assert play(config.start(Question("?")), policy, HashReward()).finished == 12


@every_config
def test_protocol(config):
    checks.check_protocol(config)


@pytest.mark.parametrize(("name", "config"), [("best_of_n_chunks", CONFIGS[0]), ("weighted_chunks", CONFIGS[1])])
def test_golden(name, config):
    check_golden(name, config)


@both
def test_bad_settings(cls):
    with pytest.raises(ValueError, match="`chunk` must be at least 1; got 0"):
        cls(chunk=0)
