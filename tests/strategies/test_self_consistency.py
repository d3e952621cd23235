import math

import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Candidate, Question
from svip_search.strategies.self_consistency import SelfConsistency, majority_confidence
from svip_search.testing import HashPolicy, hash_int, play

quick = settings(max_examples=40, deadline=None)
CONFIGS = [
    SelfConsistency(n=9, chunk=2),
    SelfConsistency(n=9, stop="beta", confidence=0.8),
    SelfConsistency(n=9, stop="beta", chunk=3),
    SelfConsistency(n=9, stop="window", window=3),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["certain", "beta", "beta-chunk", "window"])


class Scripted:
    """Gives these answers one after another; "-" is a trajectory without an answer."""

    def __init__(self, answers):
        self.answers = list(answers)

    def propose(self, requests):
        return [[self._one(self.answers.pop(0)) for _ in range(r.n)] for r in requests]

    def _one(self, answer):
        text = "Hm." if answer == "-" else f"Answer: {answer}"
        return (Candidate(text, finish_reason="stop"),)


class Drawing:
    """Draws each answer with its probability."""

    def __init__(self, *probabilities):
        self.steps = np.cumsum(probabilities)

    def propose(self, requests):
        return [[self._one(hash_int(r.seed, i) / 2**64) for i in range(r.n)] for r in requests]

    def _one(self, u):
        return (Candidate(f"Answer: {np.searchsorted(self.steps, u)}", finish_reason="stop"),)


def drawn(config, answers):
    search = play(config.start(Question("?")), Scripted(answers))
    return search.finished, search.result().answer


# --- the rules ------------------------------------------------------------------------------------------------


@quick
@given(first=st.integers(0, 40), second=st.integers(0, 40))
def test_confidence_equals_the_integral(first, second):
    p = (np.arange(20_000) + 0.5) / 20_000
    log_density = first * np.log(p) + second * np.log1p(-p)
    density = np.exp(log_density - log_density.max())
    expected = density[p > 0.5].sum() / density.sum()
    assert majority_confidence(first, second) == pytest.approx(expected, abs=1e-6)


@quick
@given(first=st.integers(0, 600), second=st.integers(0, 600))
def test_confidence_of_many_votes(first, second):
    found = majority_confidence(first, second)
    assert 0 <= found <= 1
    assert found + majority_confidence(second, first) == pytest.approx(1)
    assert found <= majority_confidence(first + 1, second)
    assert found >= majority_confidence(first, second + 1)
    exact = sum(math.comb(first + second + 1, k) for k in range(first + 1)) / 2 ** (first + second + 1)
    assert found == exact


@pytest.mark.parametrize(
    ("answers", "draws"),
    [
        ("aaaaaaaaaaaaaaaa", 4),  # 1 - 2**-5 = 0.969 > 0.95 after four votes, 0.9375 after three
        ("abaaaaaaaaaaaaaa", 7),  # (6, 1): 0.965; (5, 1): 0.938
        ("-aa--aaaaaaaaaaa", 7),  # no answer is no vote
        ("abababababababab", 15),  # the last vote cannot overtake: certain
        ("abcaaaaaaaaaaaaa", 8),  # against the next best only
    ],
)
def test_beta(answers, draws):
    config = SelfConsistency(n=16, stop="beta")
    assert drawn(config, answers) == (draws, "a")


@pytest.mark.parametrize(
    ("answers", "draws", "answer"),
    [
        ("aaaa", 4, "a"),
        ("abaaaabaaaaa", 12, "a"),  # four in a row, but in two windows
        ("abbbaaaa", 8, "a"),
        ("aabcbbbbaaaaaaaa", 8, "b"),
        ("----aaaa", 8, "a"),  # silence is no agreement
        ("abcdabcdabcdabcd", 16, "a"),
    ],
)
def test_window(answers, draws, answer):
    assert drawn(SelfConsistency(n=16, stop="window"), answers) == (draws, answer)


def test_window_votes_with_all_draws():
    assert drawn(SelfConsistency(n=12, stop="window", window=2), "abacaabb") == (6, "a")
    assert drawn(SelfConsistency(n=12, stop="window", window=2), "abcabb") == (6, "b")


def test_draws_come_in_chunks():
    def requested(config):
        search = config.start(Question("?"))
        return search.ask()[0].n

    assert requested(SelfConsistency(n=16)) == 16
    assert requested(SelfConsistency(n=16, chunk=3)) == 3
    assert requested(SelfConsistency(n=16, stop="beta")) == 1
    assert requested(SelfConsistency(n=16, stop="beta", chunk=5)) == 5
    assert requested(SelfConsistency(n=16, stop="window")) == 4
    assert requested(SelfConsistency(n=3, stop="window")) == 3


# --- what they are good for -------------------------------------------------------------------------------------


def saving(probabilities, questions=60, n=24, **settings):
    """Return the share of draws that are spared, and of questions whose answer is another one."""
    policy, draws, changed = Drawing(*probabilities), 0, 0
    for seed in range(questions):
        full = play(SelfConsistency(n=n, chunk=settings.get("window", 1)).start(Question("?"), seed), policy)
        early = play(SelfConsistency(n=n, **settings).start(Question("?"), seed), policy)
        draws += early.finished
        changed += early.result().answer != full.result().answer
    return 1 - draws / (questions * n), changed / questions


@pytest.mark.parametrize(
    ("probabilities", "settings", "saved", "changed"),
    [
        ((0.8, 0.1, 0.1), {"chunk": 1}, 0.35, 0.0),
        ((0.8, 0.1, 0.1), {"stop": "beta"}, 0.65, 0.0),
        ((0.8, 0.1, 0.1), {"stop": "window", "window": 4}, 0.55, 0.0),
        ((0.5, 0.3, 0.2), {"chunk": 1}, 0.1, 0.0),
        ((0.5, 0.3, 0.2), {"stop": "beta"}, 0.25, 0.01),
        ((0.5, 0.3, 0.2), {"stop": "beta", "confidence": 0.8}, 0.7, 0.25),
        ((0.5, 0.3, 0.2), {"stop": "window", "window": 4}, 0.2, 0.05),
    ],
)
def test_early_stops_save_draws_and_seldom_change_the_answer(probabilities, settings, saved, changed):
    found = saving(probabilities, **settings)
    assert found[0] >= saved
    assert found[1] <= changed


@quick
@given(st.text("abc-", min_size=1, max_size=14), st.sampled_from(["beta", "window"]))
def test_they_stop_at_the_latest_where_the_answer_is_certain(answers, stop):
    n = len(answers)
    chunk = 2 if stop == "window" else 1
    certain = drawn(SelfConsistency(n=n, chunk=chunk), answers)
    early = drawn(SelfConsistency(n=n, stop=stop, window=2), answers)
    assert early[0] <= certain[0]


@quick
@given(st.text("abc-", min_size=1, max_size=14))
def test_a_rule_that_never_applies_leaves_the_certain_one(answers):
    n = len(answers)
    certain = drawn(SelfConsistency(n=n, chunk=1), answers)
    assert drawn(SelfConsistency(n=n, stop="beta", confidence=1), answers) == certain
    assert drawn(SelfConsistency(n=n, stop="window", window=n), answers) == drawn(SelfConsistency(n=n), answers)


# --- protocol -----------------------------------------------------------------------------------------------


@every_config
def test_protocol(config):
    checks.check_protocol(config)


@pytest.mark.parametrize("stop", ["beta", "window"])
def test_a_policy_that_gives_fewer_than_asked_is_survived(stop):
    class Half(HashPolicy):
        def propose(self, requests):
            return [one[: max(1, r.n // 2)] for r, one in zip(requests, super().propose(requests), strict=True)]

    search = play(SelfConsistency(n=16, stop=stop).start(Question("?")), Half())
    assert 0 < search.finished <= 16


@pytest.mark.parametrize(
    ("name", "config"), [("self_consistency_beta", CONFIGS[1]), ("self_consistency_window", CONFIGS[3])]
)
def test_golden(name, config):
    check_golden(name, config)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"stop": "never"}, ValueError, "`stop` must be one of certain, beta, window; got 'never'"),
        ({"confidence": 0.4}, ValueError, "`confidence` must be a number >= 0.5 and at most 1; got 0.4"),
        ({"window": 0}, ValueError, "`window` must be at least 1; got 0"),
        ({"stop": "window", "chunk": 4}, ValueError, "`chunk` must be None where `stop` is 'window'"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        SelfConsistency(**settings)
