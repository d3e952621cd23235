"""The policy server: what a request asks, what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
from serving_checks import HeldPolicy, ask, chat, picture_url, post_bytes, raw_socket, together, until, waiting

from svip_search import CallablePolicy, Candidate, ImageError, PolicyError, ProposeRequest, Question
from svip_search._images import open_image
from svip_search.models.prompt import question_text
from svip_search.serving import Limits, policy_app, running
from svip_search.serving._batcher import Batcher
from svip_search.serving._requests import take_apart
from svip_search.testing import HashPolicy

CHAT = "/v1/chat/completions"


class Watched(HashPolicy):
    """Notes the requests that it gets."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[ProposeRequest] = []

    def propose(self, requests: Any) -> Any:
        self.asked += requests
        return super().propose(requests)


class Scripted:
    """Gives the same continuations for every request, or raises."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def propose(self, requests: Any) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return [self.outcome for _ in requests]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Watched]]:
    policy = Watched(depth=3)
    with running(policy_app(policy, name="hash")) as url:
        yield url, policy


def ask_for(outcome: Any, **fields: Any) -> tuple[int, Any]:
    with running(policy_app(Scripted(outcome))) as url:
        return ask(url, CHAT, chat(**fields))


# ---- what a request asks ------------------------------------------------------------------------


def test_one_step_is_what_the_policy_proposes(served: tuple[str, Watched]) -> None:
    url, policy = served
    body = chat(
        "Which?", "step 1, branch 0\nstep 2, branch 1\n", n=3, seed=7, temperature=0.5, stop=["\n"], logprobs=True
    )
    status, answer = ask(url, CHAT, body)
    asked = policy.asked[-1]
    assert asked == ProposeRequest(Question("Which?"), ("step 1, branch 0", "step 2, branch 1"), 3, 7, 0.5, False)
    (wanted,) = HashPolicy(depth=3).propose([asked])
    assert status == 200
    assert (answer["object"], answer["model"]) == ("chat.completion", "hash")
    for i, (choice, (step,)) in enumerate(zip(answer["choices"], wanted, strict=True)):
        assert choice["index"] == i
        assert choice["message"] == {"role": "assistant", "content": step.text}
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
        entries = choice["logprobs"]["content"]
        assert sum(e["logprob"] for e in entries) == step.log_prob
        assert len(entries) == step.tokens
    assert answer["usage"]["completion_tokens"] == sum(s.tokens for (s,) in wanted)


def test_a_step_that_is_not_the_last_ends_at_the_separator(served: tuple[str, Watched]) -> None:
    status, answer = ask(served[0], CHAT, chat(stop="\n"))
    assert status == 200
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["stop_reason"], choice["logprobs"]) == ("stop", "\n", None)
    status, answer = ask(served[0], CHAT, chat(stop="\n", seed=1, include_stop_str_in_output=True))
    assert answer["choices"][0]["message"]["content"].endswith("\n")


def test_without_the_separator_whole_trajectories_come(served: tuple[str, Watched]) -> None:
    url, policy = served
    status, answer = ask(url, CHAT, chat(so_far="step 1, branch 0\n", seed=5, logprobs=True, n=2))
    assert status == 200
    assert policy.asked[-1].whole
    (wanted,) = HashPolicy(depth=3).propose([policy.asked[-1]])
    for choice, steps in zip(answer["choices"], wanted, strict=True):
        content = choice["message"]["content"]
        assert content == "\n".join(s.text for s in steps)
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
        entries = choice["logprobs"]["content"]
        assert "".join(e["token"] for e in entries) == content
        assert len(entries) == sum(s.tokens for s in steps)


def test_without_a_seed_draws_differ(served: tuple[str, Watched]) -> None:
    url, policy = served
    for _ in range(2):
        ask(url, CHAT, chat())
    assert policy.asked[-1].seed != policy.asked[-2].seed


def test_pictures_become_those_of_the_question(served: tuple[str, Watched]) -> None:
    url, policy = served
    urls = [picture_url(kind=kind, seed=i) for i, kind in enumerate(("PNG", "JPEG", "WEBP", "GIF", "BMP"))]
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": u, "detail": "auto"}} for u in urls]
    parts[1]["image_url"] = urls[1]
    status, _ = ask(url, CHAT, chat([{"type": "text", "text": "One."}, *parts, {"type": "text", "text": "Two?"}]))  # type: ignore[arg-type]
    assert status == 200
    question = policy.asked[-1].question
    assert question.text == "One.\nTwo?"
    wanted = [open_image(base64.b64decode(u.partition(",")[2])).tobytes() for u in urls]
    assert [image.tobytes() for image in question.images] == wanted


@pytest.mark.parametrize("options", [(), ("1", "4"), ("a, b", "c")])
@pytest.mark.parametrize("instructions", [True, False])
@pytest.mark.parametrize("text", ["Which?", "First.\n\nOptions: x, y\nWhich?", "Ends.\n"])
def test_a_question_in_the_words_of_the_library_is_the_same_again(
    text: str, options: tuple[str, ...], instructions: bool
) -> None:
    question = Question(text, options=options)
    words = question_text(question, instructions)
    again = take_apart(words.removesuffix("\n"))
    # With or without instructions, as whoever serves it wants: the prompt is the same.
    for wanted in (True, False):
        if options != ("a, b", "c") or not wanted:
            assert question_text(again, wanted) == question_text(question, wanted)


def test_completions_take_the_prompt_as_the_question(served: tuple[str, Watched]) -> None:
    url, policy = served
    status, answer = ask(url, "/v1/completions", {"prompt": "Which?\n", "seed": 3, "stop": ["\n"], "logprobs": 0})
    assert status == 200
    assert policy.asked[-1].question == Question("Which?")
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert choice["text"] == choice["logprobs"]["tokens"][0]
    assert len(choice["logprobs"]["token_logprobs"]) == answer["usage"]["completion_tokens"] == 5


def test_models_are_listed(served: tuple[str, Watched]) -> None:
    status, answer = ask(served[0], "/v1/models")
    assert status == 200
    assert [model["id"] for model in answer["data"]] == ["hash"]


# ---- what comes back ----------------------------------------------------------------------------


def steps(*texts: str, reason: Any = "stop", tokens: int = 4) -> list[tuple[Candidate, ...]]:
    last = len(texts) - 1
    return [tuple(Candidate(t, -1.5, tokens, reason if i == last else "step") for i, t in enumerate(texts))]


@pytest.mark.parametrize(
    ("outcome", "fields", "content", "reason", "stop", "tokens"),
    [
        (steps("a", "b"), {}, "a\nb", "stop", None, 8),
        (steps("a", "b", reason="length"), {}, "a\nb", "length", None, 8),
        (steps("a", "b", reason="step"), {}, "a\nb", "length", None, 8),  # a policy that gave up
        (steps("abcdefgh", reason="step"), {"stop": "\n", "max_tokens": 3}, "abcdef", "length", None, 3),
        (steps("a", "bcde"), {"max_tokens": 5}, "a\nb", "length", None, 5),
        (steps("a", "bcde"), {"max_tokens": 9, "max_completion_tokens": 4}, "a\n", "length", None, 4),
        (steps("a", "b c d"), {"stop": ["c", " c"]}, "a\nb", "stop", " c", 8),
        (steps("a c", "b"), {"stop": "c", "include_stop_str_in_output": True}, "a c", "stop", "c", 4),
        (steps("a c", reason="step"), {"stop": ["\n", " "]}, "a", "stop", " ", 4),
        (steps("half \ud800"), {}, "half ?", "stop", None, 4),
        ([], {}, "", "stop", None, 0),
        ([()], {}, "", "stop", None, 0),
    ],
)
def test_choices_end_where_they_should(
    outcome: Any, fields: dict[str, Any], content: str, reason: str, stop: str | None, tokens: int
) -> None:
    status, answer = ask_for(outcome, **fields)
    assert status == 200
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == content
    assert (choice["finish_reason"], choice["stop_reason"]) == (reason, stop)
    assert answer["usage"]["completion_tokens"] == tokens


def test_no_more_choices_than_were_asked_for() -> None:
    status, answer = ask_for(steps("a") * 5, n=2)
    assert status == 200
    assert len(answer["choices"]) == 2


@pytest.mark.parametrize("outcome", [RuntimeError("at /secret/path"), PolicyError("at /secret/path"), 3, SystemExit(1)])
def test_what_a_policy_says_when_it_fails_stays_here(outcome: Any) -> None:
    status, answer = ask_for(outcome)
    if outcome == 3:  # no list: there is no candidate
        assert status == 200
        return
    assert status == 500
    assert answer["error"]["message"] == f"The policy failed with {type(outcome).__name__}."
    assert "secret" not in json.dumps(answer)


def test_what_is_wrong_with_the_pictures_is_said() -> None:
    status, answer = ask_for(ImageError("It takes 1 picture; the question has 2."))
    assert (status, answer["error"]["message"]) == (400, "It takes 1 picture; the question has 2.")


def test_a_policy_of_the_user_is_served_like_any_other() -> None:
    policy = CallablePolicy(lambda question, prefix, n, seed: [f"Answer: {question.options[0]}"] * n)
    with running(policy_app(policy)) as url:
        status, answer = ask(url, CHAT, chat("Which?\nOptions: red, blue", stop="\n"))
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "Answer: red"


# ---- what is refused ----------------------------------------------------------------------------

USER = {"role": "user", "content": "Which?"}


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        (b"", 400, None, "must be JSON"),
        (b"{", 400, None, "must be JSON"),
        (b"[]", 400, None, "Expected `object`"),
        (b"\xff", 400, None, "must be JSON"),
        ({}, 400, None, "required field `messages`"),
        ({"messages": 3}, 400, "messages", "Expected `array`"),
        ({"messages": []}, 400, "messages", "got roles of none"),
        ({"messages": [{"role": 3}]}, 400, "messages[0].role", "Expected `str`"),
        ({"messages": [{"role": "system", "content": "Be brief."}, USER]}, 400, "messages", "got roles system, user"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}, USER]}, 400, "messages", "one message of the user"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages", "got roles assistant"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages", "got roles tool"),
        ({"messages": [USER] * 300}, 400, "messages", "at most 256 entries; got 300"),
        (chat(" \n"), 400, "messages", "must have words"),
        (chat(so_far="a\n" * 2000), 400, "messages", "at most 1024 steps"),
        (chat(n=0), 400, "n", "`n` must be between 1 and 128; got 0"),
        (chat(n=129), 400, "n", "got 129"),
        (chat(n="1"), 400, "n", "Expected `int | null`"),
        (chat(n=True), 400, "n", "Expected `int | null`"),
        (chat(temperature=-1), 400, "temperature", "got -1"),
        (chat(temperature=1e300), 400, "temperature", "between 0 and 100"),
        (chat(seed=2**64), 400, "seed", "64 bits"),
        (chat(max_tokens=0), 400, "max_tokens", "at least 1; got 0"),
        (chat(max_completion_tokens=-1), 400, "max_completion_tokens", "at least 1; got -1"),
        (chat(stop=""), 400, "stop", "non-empty"),
        (chat(stop=["a"] * 17), 400, "stop", "at most 16 texts"),
        (chat(stream=True), 400, "stream", "`stream` is not supported"),
        (chat(tools=[{"type": "function"}]), 400, "tools", "`tools` is not supported"),
        (chat(response_format={"type": "json_object"}), 400, "response_format", "not supported"),
        (chat(top_p=0.9), 400, "top_p", "not supported"),
        (chat(top_p=True), 400, "top_p", "not supported"),
        (chat(never_heard_of=1), 400, "never_heard_of", "not supported"),
        (chat(model="gpt"), 404, "model", "'gpt' does not exist"),
        (chat(continue_final_message=True), 400, "continue_final_message", "needs a last message"),
        (
            chat(so_far="a", continue_final_message=False, add_generation_prompt=True),
            400,
            "continue_final_message",
            "only continues",
        ),
        (chat([{"type": "input_audio"}]), 400, "messages[0].content[0]", "must be a text or an image_url"),  # type: ignore[arg-type]
        (chat([{"type": "text"}]), 400, "messages[0].content[0]", "got type 'text'"),  # type: ignore[arg-type]
        (
            {"messages": [USER, {"role": "assistant", "content": "a", "tool_calls": [1]}]},
            400,
            "messages[1].tool_calls",
            "not supported",
        ),
    ],
)
def test_wrong_requests_are_named(
    served: tuple[str, Watched], body: Any, status: int, param: str | None, message: str
) -> None:
    found, answer = ask(served[0], CHAT, body)
    assert found == status
    assert set(answer["error"]) == {"message", "type", "param"}
    assert answer["error"]["param"] == param
    assert message in answer["error"]["message"]


def test_fields_that_change_nothing_are_taken(served: tuple[str, Watched]) -> None:
    fields = {"user": "me", "metadata": {"a": "b"}, "stream": False, "top_p": 1, "tools": [], "logit_bias": None}
    fields |= {"response_format": {"type": "text"}, "model": "hash", "add_generation_prompt": True, "stop": None}
    assert ask(served[0], CHAT, chat(**fields))[0] == 200
    turns = [
        {"role": "system", "content": " "},
        USER,
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    ]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    assert ask(served[0], CHAT, {"messages": turns, **fields})[0] == 200
    assert served[1].asked[-1].prefix == ("a",)


def image(url: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}] * 1 + [
        {"type": "text", "text": "Which?"}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("http://127.0.0.1/picture.png", 400, "addresses are not fetched"),
        ("file:///etc/passwd", 400, "addresses are not fetched"),
        ("data:text/html;base64,AAAA", 400, "addresses are not fetched"),
        ("data:image/svg+xml;base64,AAAA", 400, "addresses are not fetched"),
        ("data:image/png;base64,@", 400, "base64 is damaged"),
        ("data:image/png;base64,\u20ac", 400, "base64 is damaged"),
        ("data:image/png;base64,AAAA", 400, "it is not a readable"),
        ("data:image/png;base64,", 400, "it is empty"),
        (picture_url(kind="TIFF").replace("tiff", "png"), 400, "it is not a readable"),
        (picture_url(64, 64)[:200], 400, "damaged"),
    ],
)
def test_wrong_pictures_are_named(served: tuple[str, Watched], url: str, status: int, message: str) -> None:
    found, answer = ask(served[0], CHAT, image(url))
    assert found == status
    assert message in answer["error"]["message"]
    assert answer["error"]["param"] == "messages[0].content[0].image_url.url"


def test_pictures_are_limited_in_number_and_size() -> None:
    part = {"type": "image_url", "image_url": {"url": picture_url(100, 100)}}
    words = {"type": "text", "text": "Which?"}
    bomb = base64.b64encode(_png_header(60_000, 60_000)).decode()
    with running(policy_app(HashPolicy(), limits=Limits(images=2, pixels=15_000))) as url:
        status, answer = ask(url, CHAT, chat([part] * 3 + [words]))  # type: ignore[arg-type]
        assert (status, answer["error"]["message"]) == (400, "`messages` must have at most 2 pictures; got 3.")
        # The same one twice is decoded once.
        assert ask(url, CHAT, chat([part] * 2 + [words]))[0] == 200  # type: ignore[arg-type]
        other = {"type": "image_url", "image_url": {"url": picture_url(100, 100, seed=1)}}
        status, answer = ask(url, CHAT, chat([part, other, words]))  # type: ignore[arg-type]
        assert (status, answer["error"]["message"]) == (413, "All pictures together must have at most 15000 pixels.")
        status, answer = ask(url, CHAT, image(f"data:image/png;base64,{bomb}"))
        assert status in (400, 413)


def _png_header(width: int, height: int) -> bytes:
    """Return the beginning of a PNG file that says it is that large."""
    import struct
    import zlib

    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    pieces = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


# ---- many at a time -----------------------------------------------------------------------------


def test_what_comes_together_is_asked_together_and_each_gets_its_own() -> None:
    policy = HeldPolicy()
    answers: dict[int, Any] = {}
    app = policy_app(policy)
    with running(app) as url:

        def one(i: int) -> None:
            answers[i] = ask(url, CHAT, chat(f"Question {i}?", seed=i, n=2, stop="\n"))

        together(app, policy.held, [partial(one, i) for i in range(9)])
    assert [len(call) for call in policy.calls] == [1, 8]  # the first is not kept waiting for company
    for i, (status, answer) in answers.items():
        (wanted,) = HashPolicy().propose([ProposeRequest(Question(f"Question {i}?"), (), 2, i)])
        assert status == 200
        assert [c["message"]["content"] for c in answer["choices"]] == [s.text for (s,) in wanted]


def test_a_client_that_leaves_is_not_worked_for() -> None:
    policy = HeldPolicy()
    app = policy_app(policy)
    with running(app) as url:
        first = raw_socket(url)
        first.sendall(post_bytes(CHAT, chat("First?")))
        policy.held.arrived()
        second = raw_socket(url)
        second.sendall(post_bytes(CHAT, chat("Second?")))
        until(lambda: waiting(app) == 1)
        second.close()
        until(lambda: all(job.answer.done() for job in app.state.server.batcher._waiting))
        policy.held.gate.set()
        assert b"200 OK" in first.recv(4096)
        assert ask(url, CHAT, chat("Third?"))[0] == 200
        first.close()
    assert [[r.question.text for r in call] for call in policy.calls] == [["First?"], ["Third?"]]


def test_a_batch_has_no_more_than_it_may() -> None:
    policy = HeldPolicy()
    app = policy_app(policy, batch=4)
    with running(app) as url:
        together(app, policy.held, [lambda: ask(url, CHAT, chat(n=2))] * 6)
        assert ask(url, CHAT, chat(n=100))[0] == 200  # alone, whatever it is
    assert [len(call) for call in policy.calls] == [1, 2, 2, 1, 1]


def test_a_model_is_told_to_forget_between_its_calls() -> None:
    policy = HeldPolicy()
    told: list[str] = []
    policy.forget = lambda question: told.append(threading.current_thread().name)  # type: ignore[attr-defined]

    async def run() -> None:
        batcher = Batcher(policy, policy.propose, None, 8)
        asked = asyncio.create_task(batcher.ask(ProposeRequest(Question("Which?"), (), 1, 0), 1))
        await asyncio.to_thread(policy.held.arrived)
        forgotten = asyncio.create_task(batcher.forget(Question("Which?")))
        await asyncio.sleep(0.02)
        assert not told  # the model is at work
        policy.held.gate.set()
        await asyncio.gather(asked, forgotten)
        await batcher.close()

    asyncio.run(run())
    assert len(told) == 1 and "svip-search-model" in told[0]


def test_one_failing_request_does_not_fail_its_neighbours() -> None:
    class Picky(HeldPolicy):
        def propose(self, requests: Any) -> Any:
            found = super().propose(requests)
            if any("bad" in r.question.text for r in requests):
                raise RuntimeError("no")
            return found

    policy = Picky()
    app = policy_app(policy)
    found: dict[str, int] = {}
    with running(app) as url:
        texts = ["first", "good", "bad", "fine"]
        calls = [lambda t=t: found.update({t: ask(url, CHAT, chat(t))[0]}) for t in texts]
        together(app, policy.held, calls)
    assert found == {"first": 200, "good": 200, "bad": 500, "fine": 200}


def test_an_asynchronous_policy_gets_its_requests_at_once() -> None:
    class Both(HashPolicy):
        def __init__(self) -> None:
            super().__init__()
            self.open, self.most, self.released = 0, 0, 0
            self.enough: asyncio.Event | None = None

        async def apropose(self, requests: Any) -> Any:
            self.enough = self.enough or asyncio.Event()
            self.open += 1
            self.most = max(self.most, self.open)
            if self.open == 3:
                self.enough.set()
            await self.enough.wait()
            self.open -= 1
            return self.propose(requests)

        async def arelease(self) -> None:
            self.released += 1

    policy = Both()
    with running(policy_app(policy)) as url:
        threads = [threading.Thread(target=ask, args=(url, CHAT, chat())) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert policy.most == 3
    assert policy.released == 1


def test_an_application_runs_again_after_its_end() -> None:
    app = policy_app(HashPolicy())
    for _ in range(2):
        with running(app) as url:
            assert ask(url, CHAT, chat())[0] == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": 3}, "`policy` must have a method `propose`; got int"),
        ({"batch": 0}, "`batch` must be at least 1; got 0"),
        ({"separator": ""}, "`separator` must be a non-empty text"),
        ({"token": ""}, "`token` must be a non-empty text"),
        ({"token": "a\nb"}, "`token` must be"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_app(**({"policy": HashPolicy()} | options))
