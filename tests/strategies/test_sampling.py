import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import BestOfN, Candidate, Greedy, Question, SelfConsistency, WeightedVote, solve
from svip_search.testing import HashPolicy, HashReward

QUESTION = Question("Which?", options=["red", "green", "blue"])
quick = settings(max_examples=25, deadline=None)


class Scripted:
    """Draws the given answers one after another, across requests."""

    def __init__(self, answers):
        self.answers = list(answers)

    def propose(self, requests):
        drawn = []
        for r in requests:
            taken, self.answers = self.answers[: r.n], self.answers[r.n :]
            drawn.append([(Candidate(f"Answer: {a}" if a else "?", finish_reason="stop"),) for a in taken])
        return drawn


@quick
@given(st.integers(1, 20), st.integers(0, 50))
def test_best_of_n_is_the_argmax(n, seed):
    result = solve(QUESTION, HashPolicy(), HashReward(), BestOfN(n=n), seed=seed)
    assert len(result.trajectories) == n
    best = max(result.trajectories, key=lambda t: t.score)
    assert result.trajectory == best
    assert result.answer == best.answer


@quick
@given(st.integers(1, 20), st.integers(0, 50))
def test_weighted_vote_equals_brute_force(n, seed):
    result = solve(QUESTION, HashPolicy(), HashReward(), WeightedVote(n=n), seed=seed)
    sums = {}
    for t in result.trajectories:
        sums[t.answer] = sums.get(t.answer, 0) + t.score
    assert result.answer == max(sums, key=sums.get)


@quick
@given(st.lists(st.sampled_from(["red", "green", "blue", None]), min_size=1, max_size=12), st.integers(1, 5))
def test_early_stop_equals_the_full_vote(answers, chunk):
    n = len(answers)
    full = solve(QUESTION, Scripted(answers), strategy=SelfConsistency(n=n))
    early = solve(QUESTION, Scripted(answers), strategy=SelfConsistency(n=n, chunk=chunk))
    assert early.answer == full.answer
    assert len(early.trajectories) <= len(full.trajectories)


def test_early_stop_saves_draws():
    early = solve(QUESTION, Scripted(["red"] * 9), strategy=SelfConsistency(n=9, chunk=1))
    assert len(early.trajectories) == 5


def test_greedy_is_one_trajectory_at_temperature_zero():
    search = Greedy().start(QUESTION)
    (request,) = search.ask()
    (asked,) = search.requests_for(request)
    assert (asked.temperature, asked.whole, asked.n) == (0, True, 1)
    result = solve(QUESTION, HashPolicy(), strategy="greedy")
    assert math.isnan(result.trajectory.score)
    assert all("branch 0" in step.text for step in result.trajectory.steps)


def test_every_step_of_a_trajectory_carries_its_rewards():
    result = solve(QUESTION, HashPolicy(), HashReward(), BestOfN(n=4))
    for t in result.trajectories:
        rewards = [sum(step.reward) / 3 for step in t.steps]
        assert t.score == pytest.approx(sum(rewards) / len(rewards), rel=1e-5)


def test_a_trajectory_that_is_the_beginning_of_another_is_scored_too():
    class Prefixes:
        def propose(self, requests):
            long = (Candidate("Look."), Candidate("Think."), Candidate("Answer: red", finish_reason="stop"))
            short = (Candidate("Look."), Candidate("Think.", finish_reason="stop"))
            return [[long, short]]

    result = solve(QUESTION, Prefixes(), HashReward(), BestOfN(n=2))
    assert len(result.tree) == 4
    assert [t.answer for t in result.trajectories] == ["red", None]
    assert not any(math.isnan(t.score) for t in result.trajectories)


def test_steps_after_a_stated_answer_are_cut():
    class Talking:
        def propose(self, requests):
            return [[(Candidate("Answer: red"), Candidate("Answer: blue", finish_reason="stop"))]]

    assert solve(QUESTION, Talking(), strategy="greedy").answer == "red"


def test_a_last_step_that_is_an_option_answers():
    class Bare:
        def propose(self, requests):
            return [[(Candidate("(b)", finish_reason="stop"),)]]

    assert solve(QUESTION, Bare(), strategy="greedy").answer == "green"


@pytest.mark.parametrize("cls", [BestOfN, SelfConsistency, WeightedVote])
def test_bad_settings(cls):
    with pytest.raises(ValueError, match="`n`"):
        cls(n=0)
    with pytest.raises(TypeError, match="`n`"):
        cls(n=1.5)
    with pytest.raises(ValueError, match="`temperature`"):
        cls(temperature=-1)
