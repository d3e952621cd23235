"""The policy behind an OpenAI-compatible server: what is sent, what is read, and servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import math
import pickle
import random
from collections import Counter

import numpy as np
import pytest
from fault_server_async import MODES, FaultServer, ok, reply, within
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svip_search import (
    MCTS,
    Beam,
    BestOfN,
    CallableReward,
    ProposeRequest,
    Question,
    Schedule,
    asolve,
    solve,
    solve_many,
)
from svip_search._errors import ImageError, PolicyError
from svip_search.policies._chat import read_answer, read_models, server_seed
from svip_search.policies._chat_steps import Boundary, Reader, without_thoughts
from svip_search.policies.openai_policy import OpenAIPolicy
from svip_search.testing import HashReward, hash_int

QUESTION = Question("What is 6 times 7?", answer="SECRET-42")
DEPTH = 3
BEAM = Beam(width=2, expand=2)


@pytest.fixture(autouse=True)
def deadline():
    """No test may hang, whatever a server does."""
    with within(60):
        yield


def so_far(request):
    last = request["messages"][-1]
    return last["content"] if last["role"] == "assistant" else ""


def lines(request, index, depth=DEPTH):
    """Return the steps that are missing, drawn by the request's seed."""
    done = so_far(request).count("\n")
    draw = (request["seed"], index) if request["temperature"] else ()
    steps = [f"Look at part {hash_int(so_far(request), draw, i) % 1000}." for i in range(done, depth - 1)]
    return [*steps, "Answer: 42"]


def choice(request, index, text=None, *, stop_reason=True, echo=False, **further):
    text = "\n".join(lines(request, index)) if text is None else text
    stopped = [s for s in request.get("stop", ()) if s in text]
    message = {"role": "assistant", "content": echo * so_far(request) + text.split(*stopped)[0] if stopped else text}
    if echo and not stopped:
        message["content"] = so_far(request) + text
    told = {"stop_reason": stopped[0] if stopped else None} if stop_reason else {}
    return {"index": index, "message": message, "finish_reason": "stop"} | told | further


def answer(request, texts=None, usage=True, **options):
    choices = [
        choice(request, i, None if texts is None else texts[i % len(texts)], **options) for i in range(request["n"])
    ]
    spent = {"prompt_tokens": 20, "completion_tokens": 10 * len(choices), "prompt_tokens_details": {"cached_tokens": 5}}
    return {"choices": choices} | ({"usage": spent} if usage else {})


def texts(*found, **options):
    """Return what answers with these texts."""
    return lambda request: answer(request, found, **options)


def ask(policy, prefix=(), n=1, seed=0, temperature=1.0, whole=False, question=QUESTION):
    return policy.propose([ProposeRequest(question, prefix, n, seed, temperature, whole)])[0]


def words(continuations):
    return [[c.text for c in steps] for steps in continuations]


@pytest.fixture
def policy_of():
    """Return what makes policies that are closed at the end."""
    made = []

    def make(server, model="some-model", **options):
        url = server.url if isinstance(server, FaultServer) else server
        made.append(OpenAIPolicy(url, model, **{"timeout": 10, "retries": 2} | options))
        return made[-1]

    yield make
    for policy in made:
        policy.close()
    gc.collect()  # what was left open warns here, not in another test


# -- what is sent ---------------------------------------------------------------------------------


def test_a_step_is_one_request_with_everything_the_search_wants(policy_of):
    with FaultServer(answer=answer) as server:
        policy = policy_of(server, system="Be brief.", extra_body={"top_p": 0.5}, max_step_tokens=50)
        found = ask(policy, n=3, seed=7)
        body = server.requests[0].body
        assert [len(steps) for steps in found] == [1, 1, 1]
        assert len(set(map(str, words(found)))) == 3
        assert len(server.requests) == 1
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["messages"][1]["content"].startswith("What is 6 times 7?\nThink step by step.")
    assert len(body["messages"]) == 2
    assert (body["n"], body["temperature"], body["max_tokens"], body["stop"]) == (3, 1.0, 50, ["\n"])
    assert (body["top_p"], body["model"]) == (0.5, "some-model")
    assert 0 <= body["seed"] < 2**31
    assert "logprobs" not in body and "continue_final_message" not in body
    assert policy.usage.policy_tokens == 30
    assert (policy.usage.prompt_tokens, policy.usage.cached_policy_tokens, policy.usage.policy_calls) == (20, 5, 1)
    assert [steps[0].tokens for steps in found] == [10, 10, 10]


def test_a_trajectory_is_asked_for_without_a_stop_text(policy_of):
    with FaultServer(answer=answer) as server:
        policy = policy_of(server, max_tokens=99)
        ((*steps,),) = ask(policy, ("Look.",), whole=True)
        body = server.requests[0].body
    assert [c.finish_reason for c in steps] == ["step", "stop"]
    assert steps[-1].text == "Answer: 42"
    assert sum(c.tokens for c in steps) == 10
    assert body["max_tokens"] == 99 and "stop" not in body
    assert body["messages"][-1] == {"role": "assistant", "content": "Look.\n"}
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False


def test_the_seed_depends_on_the_request_alone():
    seeds = {
        server_seed(seed, prefix, i)
        for seed in range(20)
        for prefix in ((), ("a",), ("a", "b"), ("ab",))
        for i in (0, 1)
    }
    assert len(seeds) == 160
    assert max(seeds) < 2**31
    assert server_seed(1, ("a",), 0) == server_seed(1, ("a",), 0) != server_seed(1, ("a",), 0, again=1)


def test_greedy_candidates_are_asked_for_once(policy_of):
    with FaultServer(answer=answer) as server:
        found = ask(policy_of(server), n=4, temperature=0.0)
        assert [r.body["n"] for r in server.requests] == [1]
    assert len(found) == 4
    assert len({steps[0].text for steps in found}) == 1
    assert [steps[0].tokens for steps in found] == [10, 0, 0, 0]


def test_the_answer_is_never_sent(policy_of):
    with FaultServer(answer=answer) as server:
        for continuation in ("prefix", "assistant", "ask", "completions"):
            policy = policy_of(server, continuation=continuation)
            ask(policy, ("A.",), n=2) if continuation != "completions" else None
            policy.models()
        solve(QUESTION, policy_of(server), HashReward(), BEAM)
        assert len(server.requests) > 5
        assert not [r for r in server.requests if b"SECRET" in r.raw or "SECRET" in str(r.headers)]


def test_completions_take_a_text(policy_of):
    def complete(request):
        return {"choices": [{"index": 0, "text": " Four. ", "finish_reason": "stop", "stop_reason": "\n"}], "usage": {}}

    with FaultServer(answer=complete) as server:
        plain = policy_of(server, continuation="completions", system="Hello.")
        ((step,),) = ask(plain, ("One.",))
        ask(policy_of(server, continuation="completions", template=lambda q, steps: f"<{q.text}>{steps}"), ("One.",))
        assert [r.path for r in server.requests] == ["/v1/completions"] * 2
        prompts = [r.body["prompt"] for r in server.requests]
        with pytest.raises(ImageError, match="`continuation` 'completions' sends a text alone"):
            ask(plain, question=Question("What?", images=[np.zeros((2, 2, 3), np.uint8)]))
    assert step.text == "Four." and step.finish_reason == "step"
    assert prompts[0].startswith("Hello.\nWhat is 6 times 7?\n") and prompts[0].endswith("is the answer.\nOne.\n")
    assert prompts[1] == "<What is 6 times 7?>One.\n"


def test_a_key_of_the_environment_is_sent_and_not_pickled(policy_of, monkeypatch):
    monkeypatch.setenv("MODEL_KEY", "sk-of-the-environment")
    with FaultServer(answer=answer) as server:
        policy = policy_of(server, api_key_env="MODEL_KEY")
        ask(policy)
        assert server.requests[0].headers["authorization"] == "Bearer sk-of-the-environment"
    assert b"sk-of-the-environment" not in pickle.dumps(policy)
    assert "sk-of" not in repr(policy)


# -- how the steps so far reach the model ---------------------------------------------------------


def refusing(*fields):
    """Return what refuses requests with these fields, or, for "assistant", that end with the assistant's turn."""

    async def mode(exchange):
        body = exchange.request.body
        if set(fields) & set(body) or ("assistant" in fields and body["messages"][-1]["role"] == "assistant"):
            await reply({"error": {"message": "Unrecognized request argument"}}, "400 Bad Request")(exchange)
        else:
            await ok(exchange)

    return mode


@pytest.mark.parametrize(
    ("fields", "mode", "tries"),
    [
        ((), "prefix", 1),
        (("continue_final_message",), "assistant", 2),
        (("continue_final_message", "assistant"), "ask", 3),
    ],
)
def test_the_first_way_that_is_not_refused_is_kept_to(policy_of, fields, mode, tries):
    with FaultServer(refusing(*fields), answer=answer) as server:
        policy = policy_of(server)
        ask(policy)
        assert policy.notes == []  # nothing to continue: nothing found out
        ((step,),) = ask(policy, ("One.",))
        assert len(server.requests) == 1 + tries
        ask(policy, ("One.", "Two."))
        assert len(server.requests) == 2 + tries
        last = server.requests[-1].body["messages"]
    assert step.text
    assert policy.notes == [f"the steps so far are sent by continuation '{mode}'"]
    assert ("One.\nTwo." in last[-1]["content"]) and (last[-1]["role"] == ("user" if mode == "ask" else "assistant"))


def test_a_way_that_was_chosen_is_not_left(policy_of):
    with FaultServer(refusing("continue_final_message"), answer=answer) as server:
        policy = policy_of(server, continuation="prefix")
        with pytest.raises(PolicyError, match="400"):
            ask(policy, ("One.",), n=4)


def test_a_refusal_of_one_node_does_not_change_the_way(policy_of):
    async def mode(exchange):
        long = "long" in exchange.request.raw.decode()
        await (reply({"error": {"message": "too long"}}, "400 Bad Request") if long else ok)(exchange)

    with FaultServer(mode, answer=answer) as server:
        policy = policy_of(server)
        ask(policy, ("One.",), n=4)
        before = len(server.requests)
        with pytest.raises(PolicyError, match="too long"):
            ask(policy, ("long",), n=4)
        assert len(server.requests) == before + 1  # neither another way nor fewer at a time


def test_asked_for_one_step_the_end_of_the_text_is_not_the_end(policy_of):
    with FaultServer(answer=texts("Two.", stop_reason=True)) as server:
        asked, continued = policy_of(server, continuation="ask"), policy_of(server, continuation="prefix")
        assert ask(asked, ("One.",))[0][0].finish_reason == "step"
        assert ask(continued, ("One.",))[0][0].finish_reason == "stop"
        assert "Write only the next step" in server.requests[0].body["messages"][-1]["content"]


@pytest.mark.parametrize("whole", [False, True])
def test_steps_that_the_server_repeats_are_taken_off(policy_of, whole):
    with FaultServer(answer=texts("Two.\nAnswer: 42", echo=True)) as server:
        found = ask(policy_of(server), ("One.", "More."), n=2, whole=whole)
    assert words(found) == [["Two.", "Answer: 42"] if whole else ["Two."]] * 2


# -- what is read ---------------------------------------------------------------------------------


def reader(separator="\n", pattern=None, tokens=0, whole=False, options=(), keep=False, done=""):
    return Reader(Boundary(separator, pattern, tokens), Question("What?", options=options), done, whole, False, keep)


def read(text, separator="\n", **fields):
    message = {"message": {"content": text, **fields.pop("message", {})}, "finish_reason": "stop"}
    return read_answer({"choices": [message | fields]}, separator).choices[0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"stop_reason": None}, "stop"),  # vLLM: the model ended
        ({"stop_reason": "\n"}, "step"),
        ({"stop_reason": 151645}, "stop"),  # vLLM: a stop token
        ({"matched_stop": 151645}, "stop"),  # SGLang
        ({"matched_stop": "\n"}, "step"),
        ({}, "step"),  # nobody knows
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "eos_token"}, "stop"),
        ({"finish_reason": None}, "step"),
        ({"finish_reason": []}, "step"),
    ],
)
def test_what_ends_a_step(fields, reason):
    assert reader().candidates(read("It is blue.", **fields))[0].finish_reason == reason


def test_a_step_that_states_an_answer_ends_the_trajectory_where_the_server_does_not_say():
    assert reader().candidates(read("Answer: B"))[0].finish_reason == "stop"
    assert reader(options=("red", "blue")).candidates(read("Answer: green"))[0].finish_reason == "step"
    assert reader().candidates(read("Answer: B", stop_reason="\n"))[0].finish_reason == "step"  # the search ends it


def test_steps_end_at_a_pattern():
    find = reader(pattern=r"\n(?=Step \d)")
    first = find.candidates(read("Step 1: a\nmore\nStep 2: b", separator=None))
    assert [(c.text, c.finish_reason) for c in first] == [("Step 1: a\nmore", "step")]
    whole = reader(pattern=r"\n(?=Step \d)", whole=True).candidates(read("Step 1: a\nmore\nStep 2: b", separator=None))
    assert [(c.text, c.finish_reason) for c in whole] == [("Step 1: a\nmore", "step"), ("Step 2: b", "stop")]


def test_steps_of_so_many_tokens_keep_their_blanks(policy_of):
    with FaultServer(answer=texts(" and so", finish_reason="length", stop_reason=False)) as server:
        policy = policy_of(server, step_tokens=2)
        ((step,),) = ask(policy, ("It is", " red"))
        body = server.requests[0].body
    assert (step.text, step.finish_reason) == (" and so", "step")
    assert body["messages"][-1]["content"] == "It is red"
    assert body["max_tokens"] == 2 and "stop" not in body


def test_empty_lines_are_no_steps():
    whole = reader(whole=True).candidates(read("\n\n One. \n\n\nTwo.\n", separator=None))
    assert [c.text for c in whole] == ["One.", "Two."]
    assert [c.text for c in reader("##", whole=True).candidates(read("####One##Two", separator=None))] == ["One", "Two"]
    assert reader(whole=True).candidates(read(" \n ", separator=None)) == ()


def test_what_a_model_thinks_is_no_step():
    assert without_thoughts("<think>a\nb</think>\n\nOne.") == ("\n\nOne.", "a\nb")
    assert without_thoughts("a</think>One.") == ("One.", "a")
    assert without_thoughts("One. <think>a") == ("One. ", "a")
    assert without_thoughts("I think> so") == ("I think> so", "")
    apart = read("One.\nTwo.", separator=None, message={"reasoning_content": "Hm.\nSo."})
    assert [c.text for c in reader(whole=True).candidates(apart)] == ["One.", "Two."]
    kept = reader(whole=True, keep=True)
    assert [c.text for c in kept.candidates(apart)] == ["Hm.", "So.", "One.", "Two."]
    assert [c.text for c in kept.candidates(read("<think>Hm.</think>One.", separator=None))] == ["Hm.", "One."]
    assert reader().candidates(read(None, message={"reasoning": "Hm."})) == ()
    assert read(None, message={"reasoning": "Hm."}).text == ""  # thought to the end, not withheld


def log_probs(tokens, values):
    return {"content": [{"token": t, "logprob": p} for t, p in zip(tokens, values, strict=True)]}


def test_log_probabilities_are_summed_over_the_step():
    tokens, values = ["One", ".", "\n", "Two", "."], [-1.0, -0.5, -0.25, -4.0, -8.0]
    step = reader().candidates(read("One.\nTwo.", separator=None, logprobs=log_probs(tokens, values)))[0]
    assert (step.log_prob, step.tokens) == (-1.75, 5)  # all were generated, two are cut off
    whole = reader(whole=True).candidates(read("One.\nTwo.", separator=None, logprobs=log_probs(tokens, values)))
    assert [c.log_prob for c in whole] == [-1.75, -12.0]
    older = {"tokens": tokens, "token_logprobs": values}
    assert reader().candidates(read("One.\nTwo.", separator=None, logprobs=older))[0].log_prob == -1.75
    thinking = log_probs(["<think>", "a", "</think>", "One", "."], [-9.0, -9.0, -9.0, -1.0, -0.5])
    assert reader().candidates(read("<think>a</think>One.", logprobs=thinking))[0].log_prob == -1.5


@pytest.mark.parametrize("bad", [math.nan, 0.5, -math.inf, None, "-1", True])
def test_what_is_no_log_probability_is_none(bad):
    choice = read("One.", logprobs=log_probs(["One", "."], [-1.0, bad]))
    assert choice.log_probs is None
    assert reader().candidates(choice)[0].log_prob == 0.0


def test_bad_log_probabilities_are_counted(policy_of):
    given = {"logprobs": log_probs(["One."], [3.0])}
    with FaultServer(answer=texts("One.", **given)) as server:
        policy = policy_of(server, log_probs=True)
        ((step,), _) = ask(policy, n=2)
        assert server.requests[0].body["logprobs"] is True
    assert step.log_prob == 0.0
    assert policy.counters["no log-probabilities"] == 2
    assert policy.notes == ["the server gives no usable log-probabilities"]


def test_good_log_probabilities_reach_the_candidates(policy_of):
    given = {"logprobs": log_probs(["One", ".", "\n"], [-1.0, -2.0, -4.0])}
    with FaultServer(answer=texts("One.\nTwo.", **given)) as server:
        ((step,),) = ask(policy_of(server, log_probs=True))
    assert (step.log_prob, step.tokens) == (-3.0, 3)


def test_missing_usage_is_counted_and_estimated(policy_of):
    with FaultServer(answer=texts("x" * 41, usage=False)) as server:
        policy = policy_of(server)
        found = ask(policy, n=2)
    assert [steps[0].tokens for steps in found] == [10, 10]
    assert policy.usage.policy_tokens == policy.usage.prompt_tokens == 0
    assert policy.counters["no usage"] == 1
    assert policy.notes == ["the server does not report all tokens; those of candidates are estimated"]


def test_a_count_of_the_first_choice_alone_is_noticed(policy_of):
    def first_only(request):
        found = answer(request, ["x" * 19, "x" * 39])
        return found | {"timings": {}, "usage": {"completion_tokens": 5, "prompt_tokens": 1}}

    with FaultServer(answer=first_only) as server:
        policy = policy_of(server)
        found = ask(policy, n=2)
    assert [steps[0].tokens for steps in found] == [5, 10]
    assert policy.usage.policy_tokens == 15


def test_withheld_texts_are_left_out_and_counted(policy_of):
    def some(request):
        found = answer(request, ["One."])
        found["choices"][0]["message"]["content"] = None
        found["choices"][1]["finish_reason"] = "content_filter"
        return found

    with FaultServer(answer=some) as server:
        policy = policy_of(server)
        assert words(ask(policy, n=3)) == [["One."]]
        assert policy.counters["refused"] == 2
        with pytest.raises(PolicyError, match="withheld the text of all 2 candidates"):
            ask(policy, n=2)
        result = solve(QUESTION, policy, HashReward(), BestOfN(n=2))
        assert any("withheld" in line for line in result.degraded)
        assert len(server.requests) < 10


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        None,
        3,
        {"choices": None},
        {"choices": []},
        {"choices": [3]},
        {"choices": [{}]},
        {"choices": [{"text": 3}]},
    ],
)
def test_what_is_no_answer_is_told_from_one(wrong):
    with pytest.raises(ValueError, match="choice"):
        read_answer(wrong, "\n")


def test_choices_are_read_in_their_order_and_in_parts():
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    found = read_answer(
        {"choices": [{"index": 1, "message": {"content": parts}}, {"index": 0, "text": "a"}], "usage": None}, "\n"
    )
    assert [c.text for c in found.choices] == ["a", "bc"]


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
token = st.fixed_dictionaries({}, optional={"token": scalars, "logprob": scalars})
one_choice = st.fixed_dictionaries(
    {},
    optional={
        "index": scalars,
        "text": values,
        "message": st.fixed_dictionaries({}, optional={"content": values, "reasoning_content": values}) | values,
        "finish_reason": st.sampled_from(["stop", "length", None, "content_filter"]) | values,
        "stop_reason": values,
        "matched_stop": values,
        "logprobs": st.fixed_dictionaries({}, optional={"content": st.lists(token, max_size=4) | values}) | values,
    },
)
usages = st.fixed_dictionaries(
    {}, optional={"completion_tokens": values, "prompt_tokens": values, "prompt_tokens_details": values}
)
answers = st.fixed_dictionaries(
    {}, optional={"choices": st.lists(one_choice, max_size=4) | values, "usage": usages | values}
)


@given(answers | values, st.booleans(), st.booleans(), st.sampled_from(["\n", None]))
@settings(max_examples=300, deadline=None)
def test_whatever_a_server_answers_is_refused_or_usable(found, whole, keep, separator):
    try:
        read_it = read_answer(found, separator)
    except ValueError:
        return
    for one in read_it.choices:
        for c in reader(whole=whole, keep=keep, done="a\n").candidates(one):
            assert c.text.strip() and type(c.text) is str
            assert -math.inf < c.log_prob <= 0
            assert type(c.tokens) is int and c.tokens >= 0
            assert c.finish_reason in ("step", "stop", "length")


# -- how many ------------------------------------------------------------------------------------


def fewer(request):
    found = answer(request)
    return found | {"choices": found["choices"][: max(1, request["n"] // 3)]}


def test_missing_choices_are_asked_for_again_with_other_seeds(policy_of):
    with FaultServer(answer=fewer) as server:
        policy = policy_of(server)
        found = ask(policy, n=6, seed=3)
        asked = [(r.body["n"], r.body["seed"]) for r in server.requests]
    assert len(found) == 6
    assert Counter(n for n, _ in asked) == {6: 1, 1: 4}
    assert len({seed for _, seed in asked}) == 5
    assert policy.counters["fewer"] == 4


def test_what_came_is_kept_where_the_rest_does_not_come(policy_of):
    with FaultServer("ok", "401", answer=fewer) as server:
        policy = policy_of(server)
        assert len(ask(policy, n=6)) == 2
        assert len(server.requests) == 5
    assert any("did not come" in note and "401" in note for note in policy.notes)


def test_a_server_of_one_choice_may_be_asked_one_by_one(policy_of):
    with FaultServer(answer=lambda request: answer(request | {"n": 1})) as server:
        slow, quick = policy_of(server), policy_of(server, max_n=1)
        first = ask(slow, n=4)
        assert sorted(r.body["n"] for r in server.requests) == [1, 1, 1, 4]
        assert ask(quick, n=4) == first  # the same draws
        assert [r.body["n"] for r in server.requests[4:]] == [1] * 4
    assert quick.counters["fewer"] == 0


def test_a_server_that_refuses_so_many_is_asked_for_fewer_at_a_time(policy_of):
    async def at_most_two(exchange):
        many = exchange.request.body["n"] > 2
        await (reply({"error": {"message": "Field 'n': too many"}}, "400 Bad Request") if many else ok)(exchange)

    with FaultServer(at_most_two, answer=answer) as server:
        policy = policy_of(server)
        assert len(ask(policy, n=8)) == 8
        before = len(server.requests)
        assert len(ask(policy, ("One.",), n=8)) == 8
        assert sorted(r.body["n"] for r in server.requests[before:]) in ([2] * 4, [2] * 4 + [4])
        assert len(ask(policy, ("One.",), n=5)) == 5
    assert policy.notes.count("the server refuses so large an `n`; it is asked for fewer at a time") == 1


def test_one_slot_is_enough_for_all_that_is_asked_again(policy_of):
    with FaultServer(answer=lambda request: answer(request | {"n": 1})) as server:
        assert len(ask(policy_of(server, slots=1), n=6)) == 6
        assert server.most == 1


def test_more_choices_than_asked_for_are_dropped(policy_of):
    with FaultServer(answer=lambda request: answer(request | {"n": 5})) as server:
        assert len(ask(policy_of(server), n=2)) == 2


def test_a_step_behind_a_separator_is_found(policy_of):
    def paragraphs(request):
        return answer(request, ["\nTwo.\nThree."], stop_reason=False)

    with FaultServer(answer=paragraphs) as server:
        policy = policy_of(server)
        found = ask(policy, ("One.",), n=2)
        assert [r.body.get("stop") for r in server.requests] == [["\n"], None, None]
    assert words(found) == [["Two."], ["Two."]]
    assert [steps[0].finish_reason for steps in found] == ["step", "step"]
    assert [steps[0].tokens for steps in found] == [20, 20]  # what was spent on both tries


# -- searches ------------------------------------------------------------------------------------

STRATEGIES = [BestOfN(n=4), BEAM]
FAULTS = sorted(set(MODES) - {"ok", "gzip", "chunked", "stale"})
PASSING = (
    "close",
    "reset",
    "reset in body",
    "cut json",
    "cut length",
    "429 at once",
    "500",
    "502",
    "503",
    "html",
    "no object",
)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_survived_or_named(policy_of, fault, strategy):
    with FaultServer(fault, "ok", answer=answer) as server:
        # What cannot pass is waited for no longer than it has to be.
        policy = policy_of(server, timeout=10 if fault in PASSING else 1, retries=1)
        result = solve(QUESTION, policy, HashReward(), strategy, seed=1)
    if fault in PASSING:
        assert not result.degraded
    assert result.answer == "42" or any("policy" in line and "127.0.0.1" in line for line in result.degraded)


@pytest.mark.parametrize("fault", ["hang", "500", "401", "drip body", "html", "null choices"])
def test_a_server_that_never_answers_well_ends_the_search(policy_of, fault):
    with FaultServer(fault) as server:
        result = solve(QUESTION, policy_of(server, timeout=1, retries=1), HashReward(), BEAM)
        named = server.address
    assert result.answer is None
    assert any("policy failed: PolicyError" in line and named in line for line in result.degraded)


@pytest.mark.parametrize("mode", ["gzip", "chunked", "stale", "ok"])
def test_well_served_searches_find_the_answer(policy_of, mode):
    with FaultServer(mode, answer=answer) as server:
        for strategy in STRATEGIES:
            result = solve(QUESTION, policy_of(server), HashReward(), strategy)
            assert (result.answer, result.degraded) == ("42", ())
            assert result.usage.prompt_tokens > 0 and result.usage.policy_tokens > 0


async def jitter(exchange):
    await asyncio.sleep(random.random() * 0.02)
    await ok(exchange)


@pytest.mark.parametrize("strategy", [*STRATEGIES, MCTS(iterations=12)], ids=lambda s: s.name)
def test_the_tree_depends_on_the_seed_alone(policy_of, strategy):
    questions = [Question(f"What is 6 times {i}?") for i in range(4)]
    with FaultServer(jitter, answer=answer) as server:

        def trees(seed):
            policy = policy_of(server)
            run = solve_many(questions, policy, HashReward(), strategy=strategy, seed=seed)
            return [result.tree.to_json() for _, result in sorted(run, key=lambda pair: pair[0])]

        first = trees(5)
        assert trees(5) == first
        assert trees(6) != first


def test_no_more_candidates_are_in_flight_than_there_are_slots(policy_of):
    now, most = Counter(), [0]

    async def watched(exchange):
        body = exchange.request.body
        now["n"] += body["n"]
        most[0] = max(most[0], now["n"])
        await asyncio.sleep(0.01)
        now["n"] -= body["n"]
        await ok(exchange)

    with FaultServer(watched, answer=answer) as server:
        policy = policy_of(server, slots=6)
        questions = [Question(f"What is 6 times {i}?") for i in range(8)]
        results = dict(solve_many(questions, policy, HashReward(), strategy=BEAM))
    assert [results[i].answer for i in range(8)] == ["42"] * 8
    assert 4 <= most[0] <= 6


def test_a_server_may_die_in_the_middle(policy_of):
    with FaultServer(jitter, answer=answer) as first, FaultServer(jitter, answer=answer) as second:
        policy = policy_of([first.url, second.url])
        questions = [Question(f"What is 6 times {i}?") for i in range(12)]
        run = solve_many(questions, policy, HashReward(), strategy=BEAM, schedule=Schedule(searches=4))
        results = {}
        for index, result in run:
            results[index] = result
            if first.requests and second.requests:  # ports decide which of them is asked first
                first.down()
        assert first.requests and second.requests
        assert [results[i].answer for i in range(12)] == ["42"] * 12
        assert not [line for result in results.values() for line in result.degraded]


def test_a_question_keeps_to_its_server(policy_of):
    with FaultServer(answer=answer) as first, FaultServer(answer=answer) as second:
        policy = policy_of([first.url, second.url])
        for i in range(16):
            solve(Question(f"What is 6 times {i}?"), policy, HashReward(), BEAM)
        asked = [{r.body["messages"][0]["content"] for r in server.requests} for server in (first, second)]
    assert asked[0] and asked[1] and not asked[0] & asked[1]


@pytest.mark.parametrize("strategy", [BEAM, MCTS(iterations=50), BestOfN(n=2)], ids=lambda s: s.name)
def test_empty_continuations_end_a_search(policy_of, strategy):
    def nothing(request):
        return answer(request, [""] if so_far(request) else ["One.\nTwo."], stop_reason=False)

    with FaultServer(answer=nothing) as server:
        policy = policy_of(server)
        result = solve(QUESTION, policy, HashReward(), strategy)
        assert len(server.requests) < 400
    assert result.answer is None
    assert strategy.name == "best-of-n" or any("no candidates" in line for line in result.degraded)


def test_one_object_works_from_several_loops_and_threads(policy_of):
    with FaultServer(answer=answer) as server:
        policy = policy_of(server)

        async def search():
            result = await asolve(QUESTION, policy, HashReward(), BEAM, seed=1)
            return result.tree.to_json(), ask(policy, n=2)  # the synchronous facade beside a running loop

        first = asyncio.run(search())
        assert asyncio.run(search()) == first
        assert solve(QUESTION, policy, HashReward(), BEAM, seed=1).tree.to_json() == first[0]
        policy.close()
        assert ask(policy, n=2) == first[1]


def test_settings_are_pickled(policy_of):
    with FaultServer(answer=answer) as server:
        policy = policy_of(
            server, continuation="assistant", step_pattern=r"\.\s", extra_body={"top_k": 3}, log_probs=True
        )
        expected = ask(policy, ("One.",), n=2)
        twin = pickle.loads(pickle.dumps(policy))
        assert twin.usage.policy_calls == 0
        assert ask(twin, ("One.",), n=2) == expected
        assert server.requests[0].body == server.requests[1].body
        twin.close()


def test_nothing_is_left_open_by_an_object_that_is_dropped():
    with FaultServer(answer=answer) as server:
        policy = OpenAIPolicy(server.url, "some-model")
        ask(policy)
        del policy
        gc.collect()  # a ResourceWarning is an error here
        with OpenAIPolicy(server.url, "some-model") as policy:
            ask(policy)


# -- pictures ------------------------------------------------------------------------------------


def picture(seed=0, size=(5, 7, 3)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def shown(part):
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_pictures_arrive_as_they_are(policy_of, tmp_path):
    images = [picture(1), Image.fromarray(picture(2)), tmp_path / "c.png"]
    Image.fromarray(picture(3)).save(images[2])
    question = Question("Which?", images=images, options=["a", "b"])
    with FaultServer(answer=answer) as server:
        policy = policy_of(server)
        result = solve(question, policy, HashReward(), BEAM)
        bodies = [r.body for r in server.requests]
    assert result.tree is not None and len(bodies) > 2
    for body in bodies:
        *parts, text = body["messages"][0]["content"]
        assert [shown(p).tolist() for p in parts] == [picture(i).tolist() for i in (1, 2, 3)]
        assert text["text"].startswith("Which?\nOptions: a, b\n")
    assert policy._contents.made == 1


def test_pictures_are_shown_when_the_steps_are_asked_for(policy_of):
    question = Question("Which?", images=[picture()])
    with FaultServer(answer=answer) as server:
        ask(policy_of(server, continuation="ask"), ("One.",), question=question)
        image, text = server.requests[0].body["messages"][-1]["content"]
    assert shown(image).tolist() == picture().tolist()
    assert "The steps so far:\nOne.\nWrite only the next step" in text["text"]


def test_a_video_is_sent_as_frames_with_their_times(policy_of, tmp_path):
    from svip_search._video import Video, pictures

    frames = [Image.fromarray(picture(i, (16, 16, 3))) for i in range(3)]
    question = Question("What moves?", images=[picture(9), Video(frames, frames=3)])
    with FaultServer(answer=answer) as server:
        ask(policy_of(server), question=question)
        *parts, _ = server.requests[0].body["messages"][0]["content"]
        with pytest.raises(ImageError, match="`video` is 'error'"):
            ask(policy_of(server, video="error"), question=question)
        with pytest.raises(ImageError, match="`max_images` is 3; the question has 4 pictures"):
            ask(policy_of(server, max_images=3), question=question)
    labels = [p.label for p in pictures(question) if p.label]
    assert len(labels) == 3
    assert [p["type"] for p in parts] == ["image_url"] + ["text", "image_url"] * 3
    assert [p["text"] for p in parts if p["type"] == "text"] == labels
    assert [shown(p).tolist() for p in parts[2::2]] == [np.asarray(f).tolist() for f in frames]


def test_too_many_pictures_are_a_line_of_the_result(policy_of):
    with FaultServer(answer=answer) as server:
        policy = policy_of(server, max_images=1)
        result = solve(Question("Which?", images=[picture(), picture(1)]), policy, HashReward(), BestOfN(n=2))
        assert not server.requests
    assert any("ImageError: `max_images` is 1; the question has 2 pictures" in line for line in result.degraded)


def test_pictures_are_dropped_when_they_are_forgotten_or_too_many(policy_of, monkeypatch):
    monkeypatch.setattr("svip_search._http._encoded.KEPT_SIZE", 1000)
    questions = [Question(f"Which, {i}?", images=[picture(i, (20, 20, 3))]) for i in range(3)]
    with FaultServer(answer=answer) as server:
        policy = policy_of(server)
        for question in questions:
            ask(policy, question=question)
        contents = policy._contents
        assert len(contents._kept) == 1 and contents._size > 1000
        ask(policy, question=questions[-1])
        assert contents.made == 3
        policy.forget(questions[-1])
        assert (len(contents._kept), contents._size) == (0, 0)
        policy.forget(Question("Never seen?"))
        ask(policy, question=questions[-1])
        assert contents.made == 4


def test_an_unreadable_picture_is_an_image_error(policy_of):
    with FaultServer(answer=answer) as server, pytest.raises(ImageError, match="nowhere"):
        ask(policy_of(server), question=Question("Which?", images=["nowhere.png"]))


# -- what is served ------------------------------------------------------------------------------


def test_models_are_listed_and_checked(policy_of):
    with FaultServer() as server:
        policy = policy_of(server)
        assert policy.models() == ["some-model"]
        policy.check()
        with pytest.raises(PolicyError, match=r"`model` 'other' is not served at .*; served: 'some-model'"):
            policy_of(server, "other").check()
    assert read_models({"data": [{"id": "a", "aliases": ["b"]}]}) == ["a", "b"]
    for wrong in ({}, [], {"data": [{"name": "a"}]}):
        with pytest.raises(ValueError, match="no list of models"):
            read_models(wrong)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": ""}, ValueError, "`model`"),
        ({"separator": ""}, ValueError, "`separator`"),
        ({"system": 3}, TypeError, "`system`"),
        ({"step_pattern": "("}, ValueError, "`step_pattern` must be a regular expression; got '\\('"),
        ({"step_pattern": "a*"}, ValueError, "`step_pattern` must not match the empty text"),
        ({"step_pattern": "a", "step_tokens": 3}, ValueError, "`step_pattern` and `step_tokens`"),
        ({"step_tokens": 0}, ValueError, "`step_tokens` must be >= 1; got 0"),
        ({"max_step_tokens": 1.5}, TypeError, "`max_step_tokens`"),
        ({"max_tokens": 0}, ValueError, "`max_tokens`"),
        ({"max_n": 0}, ValueError, "`max_n`"),
        ({"max_images": -1}, ValueError, "`max_images` must be >= 0; got -1"),
        ({"slots": True}, TypeError, "`slots`"),
        ({"continuation": "guess"}, ValueError, "`continuation` must be one of auto, prefix"),
        ({"video": "native"}, ValueError, "`video`"),
        ({"token_field": "tokens"}, ValueError, "`token_field`"),
        ({"template": str}, ValueError, "`template`"),
        ({"extra_body": {"seed": 3}}, ValueError, "`extra_body` must not set what the policy sets; got 'seed'"),
        ({"extra_body": 3}, TypeError, "`extra_body`"),
        ({"api_key": "a", "api_key_env": "B"}, ValueError, "`api_key` and `api_key_env`"),
        (
            {"api_key_env": "NOT_SET_ANYWHERE"},
            ValueError,
            "`api_key_env` must name an environment variable that is set",
        ),
        ({"base_url": "ftp://somewhere"}, ValueError, "`base_url`"),
        ({"timeout": 0}, ValueError, "`timeout`"),
        ({"retries": -1}, ValueError, "`retries`"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        OpenAIPolicy(**{"base_url": "http://127.0.0.1:9/v1", "model": "some-model"} | options)


@pytest.mark.parametrize("fields", [{"n": -1}, {"temperature": -0.1}, {"temperature": math.nan}])
def test_bad_requests_are_named(policy_of, fields):
    with pytest.raises(ValueError, match="`n` and `temperature`"):
        ask(policy_of("http://127.0.0.1:9/v1"), **fields)


def test_nothing_is_asked_for_no_candidates(policy_of):
    assert ask(policy_of("http://127.0.0.1:9/v1"), n=0) == []


def test_rewards_of_any_kind_guide_it(policy_of):
    with FaultServer(answer=answer) as server:
        reward = CallableReward(lambda question, steps: len(steps[-1]) / 100)
        assert solve(QUESTION, policy_of(server), reward, BEAM).answer == "42"
        assert json.loads(server.requests[0].raw)["n"] == 2
