"""The embedded models behind servers: a search over HTTP, with pictures, is the search that it is here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("aiohttp")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
from serving_checks import ask, chat

from svip_search import Beam, Budget, Greedy, ProposeRequest, Question, SelfConsistency, generate_puzzle, solve
from svip_search import solve_many as solve_all
from svip_search._http import data_url
from svip_search.models.prompt import question_text
from svip_search.models.zoo import list_models, load_policy, load_reward
from svip_search.policies.openai_policy import OpenAIPolicy
from svip_search.rewards.remote_reward import RemoteReward
from svip_search.serving import policy_app, reward_app, running

pytestmark = pytest.mark.skipif(
    not {"puzzle-nano", "svip-tiny"} <= {m.name for m in list_models()}, reason="the embedded weights are not there"
)

PUZZLES = [generate_puzzle(seed=3, index=i).question for i in range(4)]


@pytest.fixture(scope="module")
def policy_url() -> Iterator[str]:
    with running(policy_app(load_policy("puzzle-nano"), name="puzzle-nano")) as url:
        yield url


@pytest.fixture(scope="module")
def reward_url() -> Iterator[str]:
    with running(reward_app(load_reward("svip-tiny"), name="svip-tiny")) as url:
        yield url


def texts(result: Any) -> list[str]:
    return [trajectory.text for trajectory in result.trajectories]


def test_greedy_steps_through_the_server_are_those_here(policy_url: str) -> None:
    local = load_policy("puzzle-nano")
    with OpenAIPolicy(policy_url, "puzzle-nano", log_probs=True) as far:
        far.check()
        for question in PUZZLES:
            here, there = (solve(question, policy, strategy=Greedy()) for policy in (local, far))
            assert there.degraded == ()
            assert texts(there) == texts(here)
            assert here.answer is not None
            # A client shares the tokens of a trajectory among its steps by their length.
            apart = ({**result.tree.to_dict(), "tokens": []} for result in (here, there))
            assert next(apart) == next(apart)
    assert far.usage.policy_tokens == local.usage.policy_tokens
    assert far.usage.prompt_tokens == local.usage.prompt_tokens


@pytest.mark.parametrize("instructions", [True, False])
def test_the_same_seed_gives_the_same_draws(policy_url: str, instructions: bool) -> None:
    question = PUZZLES[0]
    words = question_text(question, instructions)
    picture = {"type": "image_url", "image_url": {"url": data_url(question.images[0])}}
    content: Any = [picture, {"type": "text", "text": words}]
    local = load_policy("puzzle-nano")
    prefix: tuple[str, ...] = ()
    for turn in range(3):
        request = ProposeRequest(question, prefix, 6, seed=turn, temperature=0.9, whole=turn == 2)
        (wanted,) = local.propose([request])
        so_far = "".join(step + "\n" for step in prefix) or None
        fields = {} if request.whole else {"stop": ["\n"]}
        body = chat(content, so_far, n=6, seed=turn, temperature=0.9, **fields)
        status, answer = ask(policy_url, "/v1/chat/completions", body)
        assert status == 200
        found = [choice["message"]["content"] for choice in answer["choices"]]
        assert found == ["\n".join(step.text for step in steps) for steps in wanted] + [""] * (6 - len(wanted))
        prefix += (wanted[0][0].text,)


def test_whole_trajectories_come_in_one_request(policy_url: str) -> None:
    with OpenAIPolicy(policy_url, "puzzle-nano") as far:
        result = solve(PUZZLES[1], far, strategy=SelfConsistency(n=8), seed=1)
        assert result.degraded == ()
        assert len(result.trajectories) == 8
        assert result.answer in PUZZLES[1].options
        assert far.usage.policy_calls == 1


def test_text_that_would_stand_for_a_picture_is_refused(policy_url: str) -> None:
    for body in (chat("Which <image> is it?"), chat("Which?", "It is <image>\n")):
        status, answer = ask(policy_url, "/v1/chat/completions", body)
        assert (status, answer["error"]["message"]) == (
            400,
            "A text must not hold '<image>', which stands for a picture.",
        )


def test_more_pictures_than_the_model_takes_are_refused(policy_url: str) -> None:
    picture = {"type": "image_url", "image_url": {"url": data_url(PUZZLES[0].images[0])}}
    status, answer = ask(policy_url, "/v1/chat/completions", chat([picture] * 2 + [{"type": "text", "text": "Which?"}]))  # type: ignore[arg-type]
    assert status == 400
    assert "1 picture" in answer["error"]["message"]


def test_rewards_through_the_server_are_those_here(reward_url: str) -> None:
    local = load_reward("svip-tiny")
    with RemoteReward(reward_url) as far:
        assert far.kind == "prm"
        assert far.scoring == local.scoring
        for question in PUZZLES:
            steps = generate_puzzle(seed=3, index=0).steps
            paths = [tuple(steps[:i]) for i in range(1, len(steps) + 1)]
            for wanted, found in zip(local.evaluate(question, paths), far.evaluate(question, paths), strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_a_beam_search_over_remote_rewards_grows_the_same_tree() -> None:
    policy = load_policy("puzzle-nano")
    strategy = Beam(width=3, expand=3)
    here = solve(PUZZLES[2], policy, load_reward("svip-tiny"), strategy, seed=5)
    # A model of its own: what another has in its cache makes other batches, which round otherwise in the last bit.
    with running(reward_app(load_reward("svip-tiny"))) as url, RemoteReward(url) as far:
        there = solve(PUZZLES[2], policy, far, strategy, seed=5)
    assert there.degraded == ()
    assert there.tree.to_json() == here.tree.to_json()
    assert there.usage.reward_calls == here.usage.reward_calls
    assert far.usage.reward_tokens > 0


def test_searches_with_both_models_far_away(policy_url: str, reward_url: str) -> None:
    questions = [*PUZZLES, Question("What is missing?", images=PUZZLES[0].images, options=["1", "2"])]
    with OpenAIPolicy(policy_url, "puzzle-nano") as policy, RemoteReward(reward_url) as reward:
        results = dict(solve_all(questions, policy, reward, Beam(width=2, expand=2), Budget(policy_calls=24)))
        assert 0 < policy.usage.cached_policy_tokens < policy.usage.prompt_tokens
    assert sorted(results) == list(range(5))
    assert sum(result.answer in result.question.options for result in results.values()) >= 3
    for result in results.values():
        # The model may end at once where it should go on, here as there.
        assert all(line.endswith("policy returned no candidates") for line in result.degraded)
        assert all(s.reward is not None for t in result.trajectories for s in t.steps)
