import checks
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Candidate, Question, Scoring
from svip_search.strategies.guided_greedy import MOST_REPEATS, GuidedGreedy
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [
    GuidedGreedy(expand=3),
    GuidedGreedy(expand=2, threshold=0.9, retries=3),
    GuidedGreedy(expand=1, threshold=0, retries=0),
]
quick = settings(max_examples=20, deadline=None)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


class Scripted:
    """Returns these texts for the root, one list a draw, and one answer after every step."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def propose(self, requests):
        return [self._one(r) for r in requests]

    def _one(self, request):
        if request.prefix:
            return [(Candidate("Answer: red", finish_reason="stop"),)] * request.n
        return [(Candidate(text),) for text in self.draws.pop(0)]


def first_step(config, policy, table, seed=0):
    search = play(config.start(QUESTION, seed), policy, TableReward(table))
    return search.result().trajectory.steps[0].text, search.usage.policy_calls


@pytest.mark.parametrize(
    ("threshold", "retries", "taken", "calls"),
    [
        (0.4, 3, "b", 1),
        (0.5, 0, "b", 1),  # the least bad
        (0.5, 1, "b", 2),  # the least bad of both draws, drawn first
        (0.5, 2, "d", 3),
        (0.9, 3, "d", 4),
    ],
)
def test_draws_until_a_step_is_good_enough_or_takes_the_least_bad(threshold, retries, taken, calls):
    policy = Scripted(["a", "b"], ["c", "a"], ["d", "a"], ["a", "b"])
    table = {("a",): 0.1, ("b",): 0.4, ("c",): 0.3, ("d",): 0.6}
    table |= {(first, "Answer: red"): 1.0 for first in "abcd"}
    config = GuidedGreedy(expand=2, threshold=threshold, retries=retries)
    assert first_step(config, policy, table) == (taken, calls + 1)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_value_equal_to_the_threshold_is_good_enough(value):
    config = GuidedGreedy(expand=1, threshold=value, retries=1)
    table = {("a",): value, ("a", "Answer: red"): 1.0}
    assert first_step(config, Scripted(["a"], ["b"]), table) == ("a", 2)


def test_a_policy_that_gave_nothing_is_not_asked_again():
    policy = Scripted([], ["a"])
    search = play(GuidedGreedy(expand=1, retries=3).start(QUESTION), policy, HashReward())
    assert search.usage.policy_calls == 1
    assert search.result().answer is None


def test_a_step_is_judged_alone_and_folded_over_the_dimensions():
    # As a path, the first two steps together stay above the threshold; the second step does not.
    policy = HashPolicy(2, 3, distinct=True)
    table = {("step 1, branch 0",): 1.0, ("step 1, branch 0", "step 2, branch 1"): [0.9, 0.2, 0.0]}
    for scoring, calls in ((Scoring(), 2), (Scoring(weights=(1, 0, 0)), 1), (Scoring(veto=True), 2)):
        search = GuidedGreedy(expand=2, threshold=0.4, retries=1, scoring=scoring).start(QUESTION)
        play(search, policy, TableReward(table))
        assert search._asked[1] == 2 * calls


@quick
@given(st.integers(1, 5), st.integers(0, 50), st.integers(0, 3))
def test_without_a_threshold_it_is_a_beam_of_width_one(expand, seed, retries):
    trees = [
        play(config.start(QUESTION, seed), HashPolicy(), HashReward(seed)).tree.to_json()
        for config in (Beam(width=1, expand=expand), GuidedGreedy(expand=expand, threshold=0, retries=retries))
    ]
    assert trees[0] == trees[1]


@quick
@given(st.integers(1, 3), st.integers(0, 50))
def test_further_draws_never_make_the_first_step_worse(expand, seed):
    values = []
    for retries in range(4):
        config = GuidedGreedy(expand=expand, threshold=1, retries=retries, max_depth=1)
        search = play(config.start(QUESTION, seed), HashPolicy(branching=9), HashReward(seed))
        values.append(search.result().trajectory.score)
    assert values == sorted(values)


def test_retries_find_the_planted_path_that_single_draws_miss():
    planted = tuple(f"step {d}, branch 3" for d in range(1, 5))
    table = {planted[: d + 1]: 0.95 for d in range(4)}
    policy = HashPolicy(branching=5, depth=5)

    def found(retries):
        config = GuidedGreedy(expand=2, threshold=0.9, retries=retries)
        searches = [play(config.start(QUESTION, seed), policy, TableReward(table, 0.2)) for seed in range(12)]
        return sum(s.tree.texts(s._node)[:4] == planted for s in searches)

    assert found(0) < 4
    assert found(25) == 12


def test_a_policy_that_repeats_itself_is_not_asked_for_ever():
    config = GuidedGreedy(expand=2, threshold=1, retries=500, temperature=0)
    search = play(config.start(QUESTION), HashPolicy(), HashReward())
    assert search.result().stopped_by == "finished"
    assert search.usage.policy_calls <= 4 * (1 + MOST_REPEATS)


def test_a_policy_that_gives_nothing_ends_the_path_and_the_rest_is_completed():
    class Stuck(HashPolicy):
        def _one(self, request):
            return [] if len(request.prefix) == 1 and not request.whole else super()._one(request)

    search = play(GuidedGreedy(expand=3, retries=5).start(QUESTION), Stuck(), HashReward())
    assert search.result().stopped_by == "finished"
    assert search.result().answer in QUESTION.options


@every_config
@pytest.mark.parametrize("check", [getattr(checks, c) for c in dir(checks) if c.startswith("check_")])
def test_protocol(check, config):
    check(config)


def test_golden_tree():
    check_golden("guided_greedy", GuidedGreedy(expand=2, threshold=0.7, retries=2))


@pytest.mark.parametrize("retries", [-1, 1.0, True])
def test_bad_retries(retries):
    with pytest.raises((TypeError, ValueError), match="`retries`"):
        GuidedGreedy(retries=retries)


def test_bad_settings():
    for setting in ({"expand": 0}, {"threshold": -0.1}, {"threshold": 1.1}, {"threshold": float("nan")}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            GuidedGreedy(**setting)
