"""RemoteReward: the same rewards as the model behind the server, over real HTTP."""

from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from svip_search import (
    MCTS,
    Beam,
    BestOfN,
    CallableReward,
    ImageError,
    Question,
    RewardError,
    Scoring,
    Usage,
    asolve,
    solve,
    solve_many,
)
from svip_search._types import RewardModel
from svip_search._video import Frame, Video
from svip_search.rewards._remote_protocol import as_reward
from svip_search.rewards.remote_reward import RemoteReward
from svip_search.serving import Limits, reward_app, running
from svip_search.serving._app import make_app
from svip_search.testing import HashPolicy, HashReward

QUESTION = Question("Which?", options=["red", "blue"])
PATHS = [("a",), ("a", "b"), ("c",), ("a",)]


class Noting(HashReward):
    """Notes what it is asked and what pictures it sees."""

    def __init__(self, kind: Any = "prm") -> None:
        super().__init__(kind=kind)
        self.usage = Usage()
        self.asked: list[tuple[Question, list[Any]]] = []

    def evaluate(self, question: Question, paths: Any) -> list[Any]:
        self.asked.append((question, list(paths)))
        self.usage.reward_tokens += 10 * len(paths)
        self.usage.cached_reward_tokens += len(paths)
        return super().evaluate(question, paths)


def picture(seed: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@contextmanager
def remote(reward: Any, *, app: dict[str, Any] | None = None, **options: Any) -> Iterator[RemoteReward]:
    """A reward model behind a server."""
    with running(reward_app(reward, **(app or {}))) as url, RemoteReward(url, **options) as found:
        yield found


@contextmanager
def scripted(answers: Callable[[dict[str, Any]], Any], about: Any = None) -> Iterator[str]:
    """A server that gives what a function makes of the request."""

    async def rewards(request: Request) -> Response:
        found = answers(await request.json())
        return found if isinstance(found, Response) else JSONResponse(found)

    async def describe(request: Request) -> Response:
        return JSONResponse({"kind": "prm"} if about is None else about)

    async def nothing() -> None:
        pass

    routes = [Route("/v1/rewards", rewards, methods=["POST"]), Route("/v1/reward", describe)]
    with running(make_app(routes, token=None, limits=Limits(), closing=nothing)) as url:
        yield url


def same(found: Any, wanted: Any) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


# ---- the same as the model ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prm", "orm"])
def test_rewards_are_those_of_the_model(kind: Any) -> None:
    model = HashReward(kind=kind)
    with remote(HashReward(kind=kind)) as reward:
        assert isinstance(reward, RewardModel)
        assert reward.kind == kind
        assert same(reward.evaluate(QUESTION, PATHS), model.evaluate(QUESTION, PATHS))
        items = [(QUESTION, PATHS), (Question("What?"), PATHS[:2]), (QUESTION, [])]
        for found, (question, paths) in zip(reward.evaluate_many(items), items, strict=True):
            assert same(found, model.evaluate(question, paths))
        again = asyncio.run(_released(reward, items))
        assert all(same(a, b) for a, b in zip(again, reward.evaluate_many(items), strict=True))


async def _released(reward: RemoteReward, items: Any) -> Any:
    try:
        return await reward.aevaluate_many(items)
    finally:
        await reward.arelease()


@pytest.mark.parametrize("strategy", [Beam(width=3, expand=3), MCTS(iterations=24), BestOfN(n=8)])
def test_a_search_is_the_same_search(strategy: Any) -> None:
    local = solve(QUESTION, HashPolicy(), HashReward(), strategy, seed=3)
    with remote(HashReward()) as reward:
        far = solve(QUESTION, HashPolicy(), reward, strategy, seed=3)
        awaited = asyncio.run(asolve(QUESTION, HashPolicy(), reward, strategy, seed=3))
    assert far.degraded == awaited.degraded == ()
    assert far.tree.to_json() == awaited.tree.to_json() == local.tree.to_json()
    assert far.usage.reward_calls == local.usage.reward_calls


def test_many_searches_share_requests() -> None:
    questions = [Question(f"Which is {i}?", options=["red", "blue"]) for i in range(12)]
    local = {i: r.tree.to_json() for i, r in solve_many(questions, HashPolicy(), HashReward(), Beam())}
    model = Noting()
    with remote(model) as reward:
        run = solve_many(questions, HashPolicy(), reward, Beam())
        assert {i: r.tree.to_json() for i, r in run} == local
        assert run.stats().usage.reward_tokens == model.usage.reward_tokens == reward.usage.reward_tokens > 0
        assert reward.usage.cached_reward_tokens == model.usage.cached_reward_tokens


def test_the_recommended_scoring_comes_along() -> None:
    model = HashReward()
    model.scoring = Scoring(aggregate="min", veto=True)  # type: ignore[attr-defined]
    with remote(model) as reward:
        assert reward.scoring == model.scoring  # type: ignore[attr-defined]
        assert solve(QUESTION, HashPolicy(), reward, Beam()).tree.to_json() == (
            solve(QUESTION, HashPolicy(), model, Beam()).tree.to_json()
        )
    with remote(HashReward()) as reward:
        assert reward.scoring is None


def test_several_servers_are_one_model_and_a_question_stays_with_its_server() -> None:
    models = [Noting(), Noting()]
    questions = [Question(f"Question {i}?") for i in range(20)]
    with (
        running(reward_app(models[0])) as one,
        running(reward_app(models[1])) as two,
        RemoteReward([one, two], cache_size=0) as reward,
    ):
        for _ in range(2):
            found = reward.evaluate_many([(q, PATHS) for q in questions])
            assert all(same(f, HashReward().evaluate(QUESTION, PATHS)) for f in found)
    served = [{q.text for q, _ in model.asked} for model in models]
    assert served[0] | served[1] == {q.text for q in questions}
    assert not served[0] & served[1]
    assert served[0]
    assert served[1]


def test_large_requests_are_split() -> None:
    model = Noting()
    paths = [(f"step {i}",) for i in range(25)]
    with remote(model, batch=4) as reward:
        assert same(reward.evaluate(QUESTION, paths), HashReward().evaluate(QUESTION, paths))
    assert sorted(len(paths) for _, paths in model.asked) == [1, 4, 4, 4, 4, 4, 4]
    model = Noting()
    with remote(model, batch=4) as reward:
        items = [(Question(f"{i}?"), paths[:3]) for i in range(4)]
        for found in reward.evaluate_many(items):
            assert same(found, HashReward().evaluate(QUESTION, paths[:3]))
    assert sorted(len(paths) for _, paths in model.asked) == [1, 1, 2, 2, 3, 3]


# ---- pictures -----------------------------------------------------------------------------------


def test_pictures_are_sent_once() -> None:
    model = Noting()
    film = Video([Frame(picture(1), 0.5), Frame(picture(2), 1.25)])
    question = Question("Which?", images=[picture(0), film])
    bodies: list[int] = []
    with running(reward_app(model)) as url, RemoteReward(url) as reward:
        for i in range(3):
            reward.evaluate(question, [(f"step {i}",)])
            bodies.append(reward._client.stats.sent)
    sizes = np.diff([0, *bodies])
    assert sizes[0] > 3 * 40 * 40 * 3 * 4 / 3
    assert sizes[1] < 1000
    assert sizes[2] < 1000
    for seen, _ in model.asked:
        plain, video = seen.images
        assert np.array_equal(np.asarray(plain), question.images[0])
        for arrived, sent in zip(video.read(), film.source, strict=True):
            assert np.array_equal(np.asarray(arrived.image), sent.image)
            assert arrived.seconds == sent.seconds


def test_a_server_that_has_forgotten_a_picture_gets_it_again() -> None:
    model = Noting()
    question = Question("Which?", images=[picture(0)])
    app = reward_app(model)
    with running(app) as url, RemoteReward(url) as reward:
        reward.evaluate(question, [("a",)])
        app.state.server.pictures._known.clear()
        reward.evaluate(question, [("b",)])
        assert reward._client.stats.faults == {"status": 1}  # 409
    assert [paths for _, paths in model.asked] == [[("a",)], [("b",)]]


def test_a_picture_that_cannot_be_read_is_an_error_of_its_question_alone() -> None:
    broken = Question("Which?", images=["nowhere.png"])
    with remote(HashReward()) as reward:
        with pytest.raises(ImageError, match="there is no such file"):
            reward.evaluate(broken, PATHS)
        found = reward._client.run(reward.aevaluate_many([(broken, PATHS[:1]), (QUESTION, PATHS)]))
    assert isinstance(found[0][0], ImageError)
    assert same(found[1], HashReward().evaluate(QUESTION, PATHS))


# ---- what is kept -------------------------------------------------------------------------------


def test_a_path_is_asked_once_and_forgotten_with_its_question() -> None:
    model = Noting()
    other = Question("What?")
    with remote(model) as reward:
        for _ in range(2):
            reward.evaluate_many([(QUESTION, PATHS), (other, PATHS[:1]), (Question("What?"), PATHS[:1])])
        assert sum(len(paths) for _, paths in model.asked) == 4
        reward.forget(QUESTION)
        reward.forget(Question("never asked"))
        reward.evaluate(other, PATHS[:1])
        assert sum(len(paths) for _, paths in model.asked) == 4
        reward.evaluate(QUESTION, PATHS[:1])
        assert sum(len(paths) for _, paths in model.asked) == 5
        found = reward.evaluate(QUESTION, PATHS[:1])[0]
        found[:] = 0  # a caller's own
        assert same(reward.evaluate(QUESTION, PATHS[:1]), HashReward().evaluate(QUESTION, PATHS[:1]))


def test_beginnings_are_known_only_of_causal_models() -> None:
    for causal, calls in ((True, 1), (False, 2)):
        model = Noting()
        with remote(model, app={"causal": causal}) as reward:
            reward.evaluate(QUESTION, [("a", "b", "c")])
            assert same(reward.evaluate(QUESTION, [("a", "b")]), HashReward().evaluate(QUESTION, [("a", "b")]))
            assert len(model.asked) == calls


@pytest.mark.parametrize("causal", [True, False])
def test_no_more_is_kept_than_allowed(causal: bool) -> None:
    model = Noting()
    with remote(model, cache_size=6, app={"causal": causal}) as reward:
        for i in range(5):
            reward.evaluate(Question(f"{i}?"), [("a", "b"), ("c",)])
        scores = reward._scores
        assert scores._held == sum(map(len, scores._questions.values())) <= 6
        asked = len(model.asked)
        reward.evaluate(Question("4?"), [("a", "b"), ("c",)])
        assert len(model.asked) == asked
        reward.evaluate(Question("0?"), [("a", "b")])
        assert len(model.asked) == asked + 1
    with remote(Noting(), cache_size=0, app={"causal": causal}) as reward:
        reward.evaluate(QUESTION, PATHS)
        assert reward._scores._held == 0


# ---- what goes wrong ----------------------------------------------------------------------------


def test_nothing_is_asked_before_it_is_needed() -> None:
    reward = RemoteReward("http://127.0.0.1:9/v1", kind="prm", timeout=2, retries=0)
    assert reward.kind == "prm"
    for wrong in (lambda: reward.scoring, lambda: reward.evaluate(QUESTION, PATHS)):
        with pytest.raises(RewardError, match=r"The reward server at 127\.0\.0\.1:9 "):
            wrong()
    reward.close()


def test_a_server_that_is_away_is_asked_once_not_once_a_path() -> None:
    with RemoteReward("http://127.0.0.1:9/v1", kind="prm", timeout=2, retries=0) as reward:
        found = reward._client.run(reward.aevaluate_many([(QUESTION, PATHS), (QUESTION, [])]))
        assert [len(one) for one in found] == [len(PATHS), 0]
        assert all(isinstance(outcome, RewardError) for outcome in found[0])
        assert reward._client.stats.requests == 1


def test_another_kind_than_was_said_is_an_error_that_names_both() -> None:
    with remote(HashReward(kind="orm"), kind="prm") as reward:
        for wrong in (lambda: reward.scoring, lambda: reward.evaluate(QUESTION, PATHS)):
            with pytest.raises(RewardError, match=r"`kind` is 'prm', but .* has a model of kind 'orm'"):
                wrong()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[0.5, 0.5]], r"must have shape \[1, 3\]; got \[1, 2\]"),
        ([[0.5] * 3] * 2, r"must have shape \[1, 3\]; got \[2, 3\]"),
        (0.5, r"must have shape \[1, 3\]; got \[\]"),
        ([[0.5, 0.5, 1.5]], r"must lie in \[0, 1\]"),
        ([[0.5, 0.5, -1e-9]], r"must lie in \[0, 1\]"),
        ([[0.5, 0.5, None]], r"must lie in \[0, 1\]"),
        ([[0.5, 0.5, 1e300]], r"must lie in \[0, 1\]"),
        ([["x", 0.5, 0.5]], "must be numbers"),
        (None, r"must have shape \[1, 3\]"),
        ({"error": "no\nreason"}, "has no rewards for a path: no reason"),
    ],
)
def test_rewards_that_cannot_be_used_are_errors_of_their_path(value: Any, message: str) -> None:
    good = [[0.25, 0.5, 1]]
    with scripted(lambda body: {"rewards": [[good, value, good]]}) as url, RemoteReward(url, cache_size=0) as reward:
        with pytest.raises(RewardError, match=message):
            reward.evaluate(QUESTION, [("a",), ("b",), ("c",)])
        found = reward._client.run(reward.aevaluate_many([(QUESTION, [("a",), ("b",), ("c",)])]))[0]
    assert [isinstance(one, RewardError) for one in found] == [False, True, False]
    assert found[0].tolist() == good  # type: ignore[union-attr]
    assert url.removeprefix("http://").removesuffix("/v1") in str(found[1])


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"rewards": None},
        {"rewards": []},
        {"rewards": [[]]},
        {"rewards": [[[[0.5] * 3]] * 2]},
        JSONResponse({"error": {"message": "no", "type": "x", "param": None}}, 400),
        JSONResponse({}, 500),
    ],
)
def test_another_form_is_an_error_that_names_the_server(answer: Any) -> None:
    with scripted(lambda body: answer) as url, RemoteReward(url, retries=0) as reward:
        with pytest.raises(RewardError, match=r"The reward server at 127\.0\.0\.1:"):
            reward.evaluate(QUESTION, [("a",)])
        result = solve(QUESTION, HashPolicy(), reward, Beam(width=2, expand=2))
    assert any("The reward server at" in line for line in result.degraded)


def test_a_passing_fault_is_tried_again() -> None:
    turns = iter([JSONResponse({}, 503), {"rewards": None}, {"rewards": [[[[0.5] * 3]]]}])
    with scripted(lambda body: next(turns)) as url, RemoteReward(url) as reward:
        assert reward.evaluate(QUESTION, [("a",)])[0].tolist() == [[0.5] * 3]


@pytest.mark.parametrize(
    "about",
    [[], {}, {"kind": "judge"}, {"kind": "prm", "dimensions": ["x"]}, {"kind": "prm", "scoring": {"what": 1}},
     {"kind": "prm", "scoring": {"aggregate": "median"}}, {"kind": "prm", "scoring": 3},
     {"kind": "prm", "dimensions": 5}, {"kind": "prm", "dimensions": None}],
)  # fmt: skip
def test_a_server_of_something_else_is_not_believed(about: Any) -> None:
    wrong = pytest.raises(RewardError, match="The reward server at")
    with scripted(lambda body: {}, about) as url, RemoteReward(url, retries=0) as reward, wrong:
        _ = reward.kind


def test_a_path_that_fails_there_is_a_line_here() -> None:
    def fn(question: Question, path: Any) -> Any:
        if len(path) == 2:
            raise RuntimeError("no")
        return np.full((len(path), 3), 0.5)

    with remote(CallableReward(fn, kind="prm")) as reward:
        result = solve(QUESTION, HashPolicy(depth=3), reward, BestOfN(n=4))
        with pytest.raises(RewardError, match="has no rewards for a path: the reward model failed with RuntimeError"):
            reward.evaluate(QUESTION, [("a",), ("a", "b")])
    assert result.answer is not None


def test_tokens_are_sent_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "s3cret")
    with running(reward_app(HashReward(), token="s3cret")) as url:
        for options in ({"api_key": "s3cret"}, {"api_key_env": "A_TOKEN"}):
            with RemoteReward(url, **options) as reward:
                assert same(reward.evaluate(QUESTION, PATHS), HashReward().evaluate(QUESTION, PATHS))
                assert "s3cret" not in repr(reward)
        with RemoteReward(url, api_key="wr0ng") as reward, pytest.raises(RewardError, match="status 401") as caught:
            reward.evaluate(QUESTION, PATHS)
        assert "wr0ng" not in str(caught.value)


def test_a_pickle_holds_the_settings() -> None:
    with running(reward_app(HashReward())) as url, RemoteReward(url, batch=3, cache_size=5) as reward:
        reward.evaluate(QUESTION, PATHS)
        with pickle.loads(pickle.dumps(reward)) as again:
            assert (again.batch, again._scores.entries, again.usage) == (3, 5, Usage())
            assert same(again.evaluate(QUESTION, PATHS), HashReward().evaluate(QUESTION, PATHS))


def test_nothing_is_left_open() -> None:
    with running(reward_app(HashReward())) as url:
        reward = RemoteReward(url)
        reward.evaluate(QUESTION, PATHS)
        solve(QUESTION, HashPolicy(), reward, Beam())
        del reward
        gc.collect()  # warnings of what is open are errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "judge"}, "`kind` must be 'prm', 'orm' or None; got 'judge'"),
        ({"batch": 0}, "`batch` and `concurrent_calls` must be >= 1, `cache_size` >= 0; got 0, 4 and 65536"),
        ({"cache_size": -1}, "got 64, 4 and -1"),
        ({"base_url": "ftp://x"}, "`base_url` must be"),
        ({"api_key": "a", "api_key_env": "B"}, "exclude each other"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "must name an environment variable that is set"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RemoteReward(**({"base_url": "http://127.0.0.1:9/v1"} | options))


@pytest.mark.parametrize("path", ["a step", [1], 3])
def test_wrong_paths_are_named(path: Any) -> None:
    reward = RemoteReward("http://127.0.0.1:9/v1", kind="prm")
    with pytest.raises(TypeError):
        reward.evaluate(QUESTION, [path])
    reward.close()


def test_rewards_survive_json_bit_for_bit() -> None:
    import json

    values = np.random.default_rng(0).random((1000, 3), dtype=np.float32)
    values[:3] = np.array([[0, 1, np.finfo(np.float32).tiny]] * 3)
    assert same([as_reward(json.loads(json.dumps(values.tolist())), 1000, "prm")], [values])
