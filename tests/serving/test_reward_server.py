"""The reward server: what comes back, what is merged, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_checks import CountingReward, Held, ask, picture_url, together

from svip_search import CallableReward, ImageError, Question, RewardError, Scoring
from svip_search._video import Video
from svip_search.rewards._remote_items import picture_digest
from svip_search.serving import Limits, reward_app, running
from svip_search.serving._limits import Refusal
from svip_search.testing import FaultyReward, HashReward

REWARDS = "/v1/rewards"


def item(*paths: list[str], text: str = "Which?", **question: Any) -> dict[str, Any]:
    return {"question": {"text": text, **question}, "paths": list(paths)}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, CountingReward]]:
    reward = CountingReward()
    with running(reward_app(reward, name="hash")) as url:
        yield url, reward


def test_rewards_are_those_of_the_model(served: tuple[str, CountingReward]) -> None:
    paths = [["a"], ["a", "b"], []]
    status, answer = ask(served[0], REWARDS, {"items": [item(*paths), item(["c"], text="What?", options=["x", "y"])]})
    assert status == 200
    wanted = HashReward().evaluate(Question("?"), [("a",), ("a", "b"), ("c",)])
    found = [np.array(r, np.float32) for r in (*answer["rewards"][0][:2], answer["rewards"][1][0])]
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert answer["rewards"][0][2] == []
    assert answer["usage"] == {"reward_calls": 4, "reward_tokens": 4, "cached_reward_tokens": 0}
    assert [question for question, _ in served[1].calls[-1]] == [
        Question("Which?"),
        Question("What?", options=["x", "y"]),
    ]


def test_an_outcome_model_gives_numbers() -> None:
    with running(reward_app(HashReward(kind="orm"))) as url:
        status, answer = ask(url, REWARDS, {"items": [item(["a"], ["b"])]})
    assert status == 200
    assert np.float32(answer["rewards"][0][1]) == HashReward(kind="orm").evaluate(Question("?"), [("b",)])[0]


def test_the_model_is_described() -> None:
    reward = CountingReward()
    reward.scoring = Scoring(aggregate="min")  # type: ignore[attr-defined]
    with running(reward_app(reward, name="hash", causal=True)) as url:
        status, answer = ask(url, "/v1/reward")
    assert status == 200
    assert (answer["kind"], answer["name"], answer["causal"]) == ("prm", "hash", True)
    assert answer["dimensions"] == ["relevance", "logic", "attribute"]
    assert Scoring(**answer["scoring"]) == reward.scoring  # type: ignore[attr-defined]


def test_what_comes_together_is_asked_together_and_each_gets_its_own() -> None:
    class Slow(CountingReward):
        def __init__(self) -> None:
            super().__init__()
            self.held = Held()

        def evaluate_many(self, items: Any) -> list[Any]:
            self.held.wait()
            return super().evaluate_many(items)

        def evaluate(self, question: Question, paths: Any) -> list[Any]:
            self.held.wait()
            return super().evaluate(question, paths)

    reward = Slow()
    app = reward_app(reward)
    found: dict[int, Any] = {}
    with running(app) as url:

        def one(i: int) -> None:
            found[i] = ask(url, REWARDS, {"items": [item([f"step {i}"], text=f"Question {i}?")]})

        together(app, reward.held, [partial(one, i) for i in range(8)])
    assert [len(call) for call in reward.calls] == [7]  # the first was alone: no call for many
    for i, (status, answer) in found.items():
        (wanted,) = HashReward().evaluate(Question("?"), [(f"step {i}",)])
        assert status == 200
        assert np.array_equal(np.array(answer["rewards"][0][0], np.float32), wanted)
        assert answer["usage"]["reward_calls"] == answer["usage"]["reward_tokens"] == 1


def failing(error: Exception) -> CallableReward:
    def fn(question: Question, path: Any) -> Any:
        if path == ("bad",):
            raise error
        return np.full((len(path), 3), 0.5)

    return CallableReward(fn, kind="prm")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (failing(RuntimeError("at /secret/path")), "the reward model failed with RuntimeError"),
        (failing(RewardError("at /secret/path")), "the reward model failed with RewardError"),
        (failing(ImageError("It takes 1 picture; the question has 2.")), "It takes 1 picture; the question has 2."),
        (CallableReward(lambda q, p: [[2.0] * 3] if p == ("bad",) else [[0.5] * 3], kind="prm"), "must lie in [0, 1]"),
        (CallableReward(lambda q, p: [[np.nan] * 3] if p == ("bad",) else [[0.5] * 3], kind="prm"), "lie in [0, 1]"),
        (CallableReward(lambda q, p: 0.5 if p == ("bad",) else [[0.5] * 3], kind="prm"), "must have shape [1, 3]"),
        (CallableReward(lambda q, p: "x" if p == ("bad",) else [[0.5] * 3], kind="prm"), "must be numbers"),
    ],
)
def test_a_path_that_fails_fails_alone(reward: Any, message: str) -> None:
    with running(reward_app(reward)) as url:
        status, answer = ask(url, REWARDS, {"items": [item(["good"], ["bad"], ["good"])]})
    assert status == 200
    good, bad, again = answer["rewards"][0]
    assert good == again == [[0.5] * 3]
    assert message in bad["error"]
    assert "secret" not in json.dumps(answer)


def test_a_model_that_always_raises_is_no_end_of_the_server() -> None:
    with running(reward_app(FaultyReward(HashReward(), "raises"))) as url:
        for _ in range(2):
            status, answer = ask(url, REWARDS, {"items": [item(["a"])]})
            assert status == 200
            assert answer["rewards"][0][0] == {"error": "the reward model failed with RuntimeError"}


def test_pictures_and_videos_arrive() -> None:
    reward = CountingReward()
    one, two = picture_url(seed=1), picture_url(seed=2)
    with running(reward_app(reward)) as url:
        status, _ = ask(url, REWARDS, {"items": [item(["a"], images=[one, {"frames": [two, one]}])]})
        assert status == 200
        refs = [{"digest": picture_digest(one)}, {"frames": [two, {"digest": picture_digest(one)}]}]
        assert ask(url, REWARDS, {"items": [item(["a"], images=refs), item(["a"], text="x")]})[0] == 200
        status, answer = ask(url, REWARDS, {"items": [item(["a"], images=[{"digest": "0" * 32}])]})
        assert (status, answer["error"]["param"]) == (409, "items[0].question.images")
    ((again, _), _) = reward.calls[-1]
    plain, video = again.images
    assert plain.size == (8, 8)
    assert isinstance(video, Video)
    assert [frame.image.tobytes() for frame in video.read()][1] == plain.tobytes()


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"{", None, "must be JSON"),
        ({}, None, "required field `items`"),
        ({"items": [], "more": 1}, None, "unknown field `more`"),
        ({"items": [item(["a"]) | {"n": 1}]}, "items[0]", "unknown field `n`"),
        ({"items": [item(["a"])] * 300}, "items", "at most 256 entries; got 300"),
        ({"items": [item(*[["a"]] * 5000)]}, "items", "at most 4096 paths; got 5000"),
        ({"items": [item(["a"] * 2000)]}, "items[0].paths", "at most 1024 steps a path; got 2000"),
        ({"items": [item("a")]}, "items[0].paths[0]", "Expected `array`"),  # type: ignore[arg-type]
        ({"items": [item([1])]}, "items[0].paths[0][0]", "Expected `str`"),  # type: ignore[list-item]
        ({"items": [item(["a"], text=" ")]}, "items[0].question", "`text` must be a non-empty question"),
        ({"items": [item(["a"], options=["x", "x"])]}, "items[0].question", "`options` must be distinct"),
        ({"items": [item(["a"], images=["http://x"])]}, "items[0].question.images", "not fetched"),
        ({"items": [item(["a"], images=[{"frames": []}])]}, "items[0].question", "at least one frame"),
        ({"items": [item(["a"], images=[{}])]}, "items[0].question.images", "must hold addresses"),
        (
            {"items": [item(["a"], images=[{"frames": [picture_url()], "seconds": []}])]},
            "items[0].question",
            "one a frame",
        ),
        ({"items": [item(["a"], images=[{"frames": [{"frames": []}]}])]}, "items[0].question.images", "must hold"),
        ({"items": [item(["a"], images=[picture_url()] * 17)]}, "items[0].question.images", "at most 16 pictures"),
    ],
)
def test_wrong_requests_are_named(
    served: tuple[str, CountingReward], body: Any, param: str | None, message: str
) -> None:
    status, answer = ask(served[0], REWARDS, body)
    assert status == 400
    assert answer["error"]["param"] == param
    assert message in answer["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PICTURE = st.fixed_dictionaries({}, optional={"digest": st.text() | JSON, "frames": st.lists(st.text()) | JSON})
QUESTION = st.fixed_dictionaries(
    {"text": st.text()}, optional={"images": st.lists(PICTURE | st.text(), max_size=3), "options": st.lists(st.text())}
)
ITEM = st.fixed_dictionaries({"question": QUESTION | JSON, "paths": st.lists(st.lists(st.text())) | JSON})


@settings(max_examples=400, deadline=None)
@given(st.fixed_dictionaries({"items": st.lists(ITEM, max_size=3)}) | JSON)
def test_any_request_is_read_or_refused(value: Any) -> None:
    server = reward_app(HashReward()).state.server
    try:
        server._read(json.dumps(value).encode())
    except Refusal as found:
        refusal = found
    else:
        return
    assert 400 <= refusal.status < 500
    json.loads(refusal.body())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": 3}, "`reward` must have a method `evaluate`; got int"),
        ({"reward": HashReward(kind="judge")}, "`reward` must be of kind 'prm' or 'orm'; got 'judge'"),  # type: ignore[arg-type]
        ({"batch": 0}, "`batch` must be at least 1; got 0"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward_app(**({"reward": HashReward()} | options))


def test_limits_are_those_given() -> None:
    with running(reward_app(HashReward(), limits=Limits(paths=2))) as url:
        assert ask(url, REWARDS, {"items": [item(["a"], ["b"])]})[0] == 200
        assert ask(url, REWARDS, {"items": [item(["a"], ["b"]), item(["c"])]})[0] == 400
