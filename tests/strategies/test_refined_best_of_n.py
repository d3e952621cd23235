from dataclasses import replace

import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import BestOfN, Candidate, Question, Scoring
from svip_search.strategies.refined_best_of_n import RefinedBestOfN, first_collapse
from svip_search.testing import HashPolicy, HashReward, TableReward, hash_int, play

quick = settings(max_examples=25, deadline=None)
QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [
    RefinedBestOfN(n=3),
    RefinedBestOfN(n=2, rounds=4, drop=0.1, floor=0.5, select="weighted", scoring=Scoring(veto=True)),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["plain", "eager"])


class Scripted:
    """Continues each prefix with the next of its continuations; remembers what it was asked."""

    def __init__(self, script):
        self.script = {prefix: list(texts) for prefix, texts in script.items()}
        self.asked = []

    def propose(self, requests):
        return [[self._one(r.prefix) for _ in range(r.n)] for r in requests]

    def _one(self, prefix):
        self.asked.append(prefix)
        steps = [Candidate(text) for text in self.script[prefix].pop(0).split()]
        return (*steps[:-1], replace(steps[-1], finish_reason="stop"))


def texts(search):
    return [" ".join(search.tree.texts(f.node)) for f in search.result().trajectories]


# --- where a trajectory is cut --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([0.9, 0.8, 0.4, 0.1], 2),  # a drop of 0.4
        ([0.9, 0.65, 0.4, 0.15], 3),  # below the floor
        ([0.1, 0.9, 0.9], 0),
        ([0.9, 0.65, 0.4], None),
        ([0.3, 0.9, 0.95], None),  # a rise is no collapse
        ([0.25], None),
        ([0.9, np.nan, 0.1], None),
    ],
)
def test_the_first_collapse(values, step):
    assert first_collapse(np.array(values), floor=0.2, drop=0.3) == step


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1), st.floats(0, 1))
def test_the_first_collapse_is_that_of_a_loop(values, floor, drop):
    found = [t for t, v in enumerate(values) if v < floor or (t and values[t - 1] - v > drop)]
    assert first_collapse(np.array(values), floor, drop) == (found[0] if found else None)


@pytest.mark.parametrize(("scoring", "cut"), [(Scoring(), ()), (Scoring(weights=(1, 0, 0)), ("a",))])
def test_the_value_of_a_step_is_what_the_scoring_makes_of_it(scoring, cut):
    reward = TableReward({("a",): [0.6, 0.0, 0.0], ("a", "b"): [0.1, 1.0, 1.0]}, default=0.9)
    policy = Scripted({(): ["a b", "c"], ("a",): ["c"]})
    play(RefinedBestOfN(n=1, rounds=1, floor=0.3, drop=0.8, scoring=scoring).start(Question("?")), policy, reward)
    assert policy.asked == [(), cut]


# --- by hand --------------------------------------------------------------------------------------------


def test_each_trajectory_is_cut_before_its_collapse_and_drawn_anew():
    policy = Scripted({(): ["a b c", "d e", "f g"], ("a",): ["h i", "j"], ("d",): ["k"], ("a", "h"): ["l"]})
    table = {
        **{("a",): 0.9, ("a", "b"): 0.3, ("a", "b", "c"): 0.9},  # collapses at b
        **{("d",): 0.5, ("d", "e"): 0.1},  # collapses at e, below the floor
        **{("f",): 0.6, ("f", "g"): 0.6},  # stays as it is
        **{("a", "h"): 0.9, ("a", "h", "i"): 0.5},  # the repaired first one collapses again, at i
        **{("d", "k"): 0.4, ("a", "h", "l"): 0.7},
    }
    search = play(RefinedBestOfN(n=3).start(Question("?")), policy, TableReward(table))
    assert policy.asked == [()] * 3 + [("a",), ("d",), ("a", "h")]
    assert texts(search) == ["a b c", "d e", "f g", "a h i", "d k", "a h l"]
    result = search.result()
    assert " ".join(s.text for s in result.trajectory.steps) == "a h l"
    assert (result.usage.policy_calls, result.usage.reward_calls) == (4, 6)


def test_a_trajectory_whose_first_step_collapses_is_drawn_from_the_root():
    policy = Scripted({(): ["a b", "c d", "e f"]})
    search = play(RefinedBestOfN(n=1).start(Question("?")), policy, TableReward({("e",): 0.9, ("e", "f"): 0.9}))
    assert texts(search) == ["a b", "c d", "e f"]


def test_a_repair_that_says_the_same_again_is_repaired_again():
    policy = Scripted({(): ["a b"], ("a",): ["b", "c"]})
    search = play(RefinedBestOfN(n=1).start(Question("?")), policy, TableReward({("a",): 0.9, ("a", "c"): 0.9}))
    assert texts(search) == ["a b", "a b", "a c"]
    assert search.usage.reward_calls == 2


def test_repairs_do_not_wait_for_each_other():
    """One trajectory has had both repairs while the other still waits for the answer to its first."""
    config = RefinedBestOfN(n=2, floor=1.0, drop=1.0, relaxed=True)
    search = config.start(Question("?"))
    policy, reward = HashPolicy(answers=["red"]), HashReward()
    asked = search.ask()
    held = None
    while asked:
        for request in asked:
            if held is None and hasattr(request, "n") and request.n == 1:
                held = request  # never answered
                continue
            model = policy.propose(search.requests_for(request)) if hasattr(request, "n") else None
            search.tell(request.id, model or reward.evaluate(search.question, search.paths(request)))
        asked = search.ask()
    assert not search.done
    assert search.finished == 4


# --- what it is good for ----------------------------------------------------------------------------------


class Fallible:
    """Every step is a slip with some probability; an answer is right where there was none."""

    def __init__(self, depth=6, slip=0.3):
        self.depth, self.slip = depth, slip

    def propose(self, requests):
        return [[self._one(r, i) for i in range(r.n)] for r in requests]

    def _one(self, r, i):
        steps = []
        for t in range(len(r.prefix), self.depth):
            slip = hash_int(r.seed, i, t) % 1000 < 1000 * self.slip
            steps.append(f"{'slip' if slip else 'fine'} {hash_int(r.seed, i, t, 'name') % 10**6}")
        right = not any("slip" in text for text in (*r.prefix, *steps))
        answer = "right" if right else "wrong"
        return (*map(Candidate, steps), Candidate(f"Answer: {answer}", finish_reason="stop"))


class Noticing:
    """Sees a slip when it happens, and is a little less sure of all that follows it."""

    kind = "prm"

    def evaluate(self, question, paths):
        return [np.array([[self._step(p[: t + 1])] * 3 for t in range(len(p))], np.float32) for p in paths]

    def _step(self, prefix):
        if "slip" in prefix[-1]:
            return 0.1
        return 0.75 if any("slip" in text for text in prefix) else 0.8


def accuracy(config, seeds=60):
    found = [play(config.start(Question("?"), seed), Fallible(), Noticing()).result() for seed in range(seeds)]
    return np.mean([r.answer == "right" for r in found]), np.mean([len(r.trajectories) for r in found])


def test_repairs_beat_as_many_trajectories_drawn_afresh():
    refined, trajectories = accuracy(RefinedBestOfN(n=2, rounds=3))
    fresh, _ = accuracy(BestOfN(n=8))
    assert trajectories <= 8
    assert refined > fresh + 0.1


@quick
@given(seed=st.integers(0, 1000), n=st.integers(1, 5), floor=st.floats(0, 1), drop=st.floats(0, 1))
def test_repairs_never_lower_the_best_score(seed, n, floor, drop):
    plain = play(BestOfN(n=n).start(QUESTION, seed), HashPolicy(), HashReward()).result()
    search = play(RefinedBestOfN(n=n, floor=floor, drop=drop).start(QUESTION, seed), HashPolicy(), HashReward())
    refined = search.result()
    assert refined.trajectories[:n] == plain.trajectories
    assert refined.trajectory.score >= plain.trajectory.score
    assert n <= len(refined.trajectories) <= 3 * n


# --- limits -------------------------------------------------------------------------------------------------


@quick
@given(seed=st.integers(0, 1000))
def test_without_a_threshold_it_is_best_of_n(seed):
    plain = play(BestOfN(n=5).start(QUESTION, seed), HashPolicy(), HashReward())
    search = play(RefinedBestOfN(n=5, floor=0, drop=1).start(QUESTION, seed), HashPolicy(), HashReward())
    assert search.tree.to_json() == plain.tree.to_json()
    assert search.result().answer == plain.result().answer


def test_one_number_a_trajectory_shows_no_collapse():
    search = play(RefinedBestOfN(n=4, floor=1).start(QUESTION), HashPolicy(), HashReward(kind="orm"))
    assert search.finished == 4


def test_a_saved_tree_is_repaired():
    first = play(BestOfN(n=3).start(QUESTION), HashPolicy(), HashReward())
    search = RefinedBestOfN(n=3, rounds=1, floor=1).start(QUESTION, tree=first.tree)
    play(search, HashPolicy(), HashReward())
    assert search.finished == 6
    assert search.tree.text[: len(first.tree)] == first.tree.text


# --- protocol -----------------------------------------------------------------------------------------------


@every_config
def test_protocol(config):
    checks.check_protocol(config)


def test_golden():
    check_golden("refined_best_of_n", RefinedBestOfN(n=4))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"n": 0}, ValueError, "`n` must be at least 1; got 0"),
        ({"rounds": 0}, ValueError, "`rounds` must be at least 1; got 0"),
        ({"floor": 1.5}, ValueError, "`floor` must be a number >= 0 and at most 1; got 1.5"),
        ({"drop": -0.1}, ValueError, "`drop` must be a number >= 0 and at most 1; got -0.1"),
        ({"drop": "much"}, TypeError, "`drop` must be a number; got 'much'"),
        ({"select": "majority"}, ValueError, "`select` must be one of max, weighted; got 'majority'"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        RefinedBestOfN(**settings)
