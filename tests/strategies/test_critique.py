from dataclasses import replace

import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import BestOfN, Candidate, Question
from svip_search._tree import Status
from svip_search.strategies.critique import CritiqueRewrite, reward_critic
from svip_search.testing import HashPolicy, HashReward, TableReward, hash_int, play

quick = settings(max_examples=25, deadline=None)
QUESTION = Question("Which?", images=["a.png"], options=["red", "green", "blue"], id="q")
BAD = "Step 1 looks wrong: "
CONFIGS = [CritiqueRewrite(n=3), CritiqueRewrite(n=2, rounds=2), CritiqueRewrite(n=3, rounds=2, critic=reward_critic)]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["policy", "two-rounds", "reward"])


def is_critique(request):
    return "What is wrong" in request.question.text


def is_rewrite(request):
    return "Answer the question anew" in request.question.text


class Scripted:
    """Gives attempts, critiques and rewrites, each from its own list; remembers what it was asked."""

    def __init__(self, attempts=(), critiques=(), rewrites=()):
        self.attempts, self.critiques, self.rewrites = list(attempts), list(critiques), list(rewrites)
        self.asked = []

    def propose(self, requests):
        self.asked += requests
        return [[self._steps(self._next(r)) for _ in range(r.n)] for r in requests]

    def _next(self, r):
        said = (self.critiques if is_critique(r) else self.rewrites if is_rewrite(r) else self.attempts).pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def _steps(self, text):
        steps = [Candidate(line) for line in text.split("/")]
        return (*steps[:-1], replace(steps[-1], finish_reason="stop"))


def texts(search):
    return ["/".join(search.tree.texts(f.node)) for f in search.result().trajectories]


# --- by hand ----------------------------------------------------------------------------------------------


def test_attempts_are_criticised_and_rewritten():
    policy = Scripted(
        ["Look./Answer: red", "Answer: blue"], ["Step 1\nis vague.", "No look."], ["Answer: green", "Hm."]
    )
    search = play(CritiqueRewrite(n=2).start(QUESTION), policy, TableReward({("Answer: green",): 0.9}, default=0.2))
    assert texts(search) == ["Look./Answer: red", "Answer: blue", "Answer: green", "Hm."]
    assert search.result().answer == "green"
    first, critique, other, rewrite, last = policy.asked
    assert first.question == QUESTION
    assert critique.question.text == (
        "Which?\n\nThis is an attempt at the question:\n1. Look.\n2. Answer: red\n\n"
        "What is wrong with this attempt? Say which of its steps are mistaken, and why. Do not answer the question."
    )
    assert rewrite.question.text == (
        "Which?\n\nThis is an earlier attempt at the question:\n1. Look.\n2. Answer: red\n\n"
        "This was said about it:\nStep 1\nis vague.\n\n"
        "Answer the question anew, step by step, without the mistakes of the attempt."
    )
    assert is_critique(other)
    assert is_rewrite(last)
    for request in (critique, other, rewrite, last):
        assert (request.question.images, request.question.options) == (QUESTION.images, QUESTION.options)
        assert (request.prefix, request.n, request.whole, request.temperature) == ((), 1, True, 1.0)
    assert len({r.seed for r in policy.asked}) == 5
    assert search.usage.policy_calls == 5


def test_a_critique_is_no_part_of_a_solution():
    policy = Scripted(["Answer: red"], ["Answer: green"], ["Answer: blue"])
    search = play(CritiqueRewrite(n=1).start(QUESTION), policy, HashReward())
    assert search.tree.text[1:] == ["Answer: red", "Answer: blue"]
    assert {v.answer for v in search.result().votes} == {"red", "blue"}


def test_rewrites_are_criticised_in_their_turn():
    policy = Scripted(["one"], ["bad one", "bad two"], ["two", "three"])
    search = play(CritiqueRewrite(n=1, rounds=2).start(Question("{?}")), policy, HashReward())
    assert texts(search) == ["one", "two", "three"]
    assert "1. two" in policy.asked[3].question.text
    assert "bad two" in policy.asked[4].question.text
    assert "bad one" not in policy.asked[4].question.text


@pytest.mark.parametrize("nothing", [" ", RuntimeError("down")])
def test_an_attempt_without_critique_is_left(nothing):
    policy = Scripted(["one", "two"], [nothing, "bad"], ["three"])
    search = play(CritiqueRewrite(n=2).start(QUESTION), policy, HashReward())
    assert texts(search) == ["one", "two", "three"]
    assert "1. two" in policy.asked[-1].question.text
    assert len(search.degraded) == isinstance(nothing, Exception)
    assert not (search.tree.arena.status == Status.FAILED).any()  # nothing has failed


# --- critics ------------------------------------------------------------------------------------------------


def test_a_critic_sees_question_steps_and_rewards():
    seen = []

    def critic(question, steps, rewards):
        seen.append((question, steps, rewards.tolist()))
        return "" if steps == ("b",) else "bad"

    policy = Scripted(["a/c", "b"], [], ["d"])
    reward = TableReward({("a",): [1.0, 0.5, 0.25]}, default=0.0)
    search = play(CritiqueRewrite(n=2, critic=critic).start(QUESTION), policy, reward)
    assert texts(search) == ["a/c", "b", "d"]
    assert seen == [(QUESTION, ("a", "c"), [[1, 0.5, 0.25], [0, 0, 0]]), (QUESTION, ("b",), [[0, 0, 0]])]
    assert search.usage.policy_calls == 2


def raising(question, steps, rewards):
    raise KeyError("no idea")


def silent(question, steps, rewards):
    return ""


@pytest.mark.parametrize(
    ("critic", "complaint"),
    [(raising, "critic failed: KeyError: 'no idea'"), (int, "critic failed: TypeError"), (silent, "")],
)
def test_a_critic_without_critique_leaves_best_of_n(critic, complaint):
    search = play(CritiqueRewrite(n=4, critic=critic).start(QUESTION, 3), HashPolicy(), HashReward())
    plain = play(BestOfN(n=4).start(QUESTION, 3), HashPolicy(), HashReward())
    assert search.tree.to_json() == plain.tree.to_json()
    assert len(search.degraded) == 4 * bool(complaint)
    assert all(complaint in entry for entry in search.degraded)


def test_a_critic_must_return_text():
    search = play(CritiqueRewrite(n=1, critic=lambda *_: 3).start(QUESTION), HashPolicy(), HashReward())
    assert search.degraded == ["node 4: critic must return text; got int"]


@pytest.mark.parametrize(
    ("rewards", "critique"),
    [
        ([[0.9, 0.12, 0.5]], "Step 1 looks wrong: logic 0.12."),
        ([[0.9, 0.9, 0.1], [0.1, 0.2, 0.9]], f"{BAD}attribute 0.10.\nStep 2 looks wrong: relevance 0.10, logic 0.20."),
        ([[0.9, 0.9, 0.9], [0.5, 0.6, 0.7]], ""),
        ([[np.nan] * 3, [0.25] * 3], "The attempt as a whole looks wrong: 0.25."),
        ([[np.nan] * 3, [0.75] * 3], ""),
        ([[np.nan] * 3] * 2, ""),
        ([[np.nan] * 3], ""),
    ],
)  # fmt: skip
def test_reward_critic(rewards, critique):
    assert reward_critic(QUESTION, ["step"] * len(rewards), np.array(rewards)) == critique


# --- what it is good for --------------------------------------------------------------------------------------


class Careless:
    """Takes a wrong turn at most steps; in a rewrite not at those that the critique names."""

    def __init__(self, depth=4, slip=0.6):
        self.depth, self.slip = depth, slip

    def propose(self, requests):
        return [[self._one(r, i) for i in range(r.n)] for r in requests]

    def _one(self, r, i):
        said = r.question.text
        steps = [
            self._step(r, i, t, f"Step {t + 1} looks wrong" in said, f"{t + 1}. fine" in said)
            for t in range(self.depth)
        ]
        answer = "right" if all("fine" in s for s in steps) else "wrong"
        return (*map(Candidate, steps), Candidate(f"Answer: {answer}", finish_reason="stop"))

    def _step(self, r, i, t, warned, kept):
        slips = hash_int(r.seed, i, t) % 1000 < 1000 * self.slip and not warned and not kept
        return f"{'slip' if slips else 'fine'} {hash_int(r.seed, i, t, 'name') % 100}"


class Seeing:
    kind = "prm"

    def evaluate(self, question, paths):
        return [np.array([[0.1 if "slip" in s or "wrong" in s else 0.8] * 3 for s in p], np.float32) for p in paths]


def share_right(config, seeds=40):
    search = [play(config.start(Question("?"), seed), Careless(), Seeing()) for seed in range(seeds)]
    return np.mean([s.result().answer == "right" for s in search])


def test_a_critique_that_helps_beats_as_many_trajectories_drawn_afresh():
    rewritten = share_right(CritiqueRewrite(n=3, critic=reward_critic))
    fresh = share_right(BestOfN(n=6))
    assert rewritten == 1
    assert fresh < 0.5


@quick
@given(seed=st.integers(0, 1000), n=st.integers(1, 4), rounds=st.integers(1, 3))
def test_rewrites_never_lower_the_best_score(seed, n, rounds):
    plain = play(BestOfN(n=n).start(QUESTION, seed), HashPolicy(), HashReward()).result()
    search = play(CritiqueRewrite(n=n, rounds=rounds).start(QUESTION, seed), HashPolicy(), HashReward())
    result = search.result()
    assert result.trajectories[:n] == plain.trajectories
    assert result.trajectory.score >= plain.trajectory.score
    assert len(result.trajectories) == n * (rounds + 1)
    assert result.usage.policy_calls == 1 + 2 * n * rounds


def test_many_critiques_in_a_row_are_no_stall():
    search = play(CritiqueRewrite(n=200).start(QUESTION), HashPolicy(depth=8), HashReward(), limit=1)
    assert search.result().stopped_by == "finished"
    assert search.finished == 400


def test_attempts_do_not_wait_for_each_other():
    search = CritiqueRewrite(n=2, relaxed=True).start(QUESTION)
    policy, reward = HashPolicy(), HashReward()
    held, asked = None, search.ask()
    while asked:
        for request in asked:
            text = hasattr(request, "n") and is_critique(search.requests_for(request)[0])
            if text and held is None:
                held = request  # never answered
            elif hasattr(request, "n"):
                search.tell(request.id, policy.propose(search.requests_for(request)))
            else:
                search.tell(request.id, reward.evaluate(search.question, search.paths(request)))
        asked = search.ask()
    assert not search.done
    assert search.finished == 3


def test_a_saved_tree_is_criticised():
    first = play(BestOfN(n=2).start(QUESTION), HashPolicy(), HashReward())
    search = play(CritiqueRewrite(n=2).start(QUESTION, tree=first.tree), HashPolicy(), HashReward())
    assert search.finished == 4
    assert search.usage.policy_calls == 4


# --- protocol -----------------------------------------------------------------------------------------------


@every_config
def test_protocol(config):
    checks.check_protocol(config)


def test_golden():
    check_golden("critique_rewrite", CritiqueRewrite(n=3))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"n": 0}, ValueError, "`n` must be at least 1; got 0"),
        ({"rounds": 1.5}, TypeError, "`rounds` must be an integer; got 1.5"),
        ({"critic": "me"}, TypeError, "`critic` must be a callable or None; got str"),
    ],
)
def test_bad_settings(settings, error, match):
    with pytest.raises(error, match=match):
        CritiqueRewrite(**settings)
