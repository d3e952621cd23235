# ruff: noqa: E402 (torch and transformers are optional)
"""TransformersPolicy against transformers' own ``generate`` with the same noise."""

from __future__ import annotations

import importlib.util
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from svip_search._errors import ImageError, ModelFileError, PolicyError
from svip_search._question_key import question_key
from svip_search._types import Candidate, Policy, ProposeRequest, Question
from svip_search._video import Video
from svip_search.models.prompt import build_inputs, encode_step
from svip_search.policies.transformers_policy import GumbelStream, TransformersPolicy, nucleus

_SPEC = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny_models.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
tiny_models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tiny_models)

FAMILIES = sorted(tiny_models.FAMILIES)
CACHE = [0, 100_000]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Any:
    return tiny_models.build(request.param)


@pytest.fixture(scope="module")
def llava() -> Any:
    return tiny_models.build("llava")


def picture(seed: int = 0, height: int = 40, width: int = 48) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def a_question(seed: int = 0) -> Question:
    return Question("what is the circle ?", images=[picture(seed)])


QUESTIONS = (
    a_question(),
    Question("what ?", images=[picture(1, 64, 32)], options=["4", "red"]),
    Question("is the circle red ?", images=[picture(2, 32, 64), picture(3)]),
    Question("what is 4 ?"),
    Question("what is red ?", images=[picture(4), Video([picture(i, 32, 32) for i in (5, 6, 7)]), picture(8)]),
)
LIMIT = 16
_known: dict[Any, Any] = {}


class AddNoise(LogitsProcessor):
    """Adds the noise of one candidate, so that a greedy choice is a sample."""

    def __init__(self, start: int, seed: int, index: int) -> None:
        self.start, self.seed, self.index = start, seed, index

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        at = input_ids.shape[1] - self.start
        return scores + GumbelStream(self.seed, self.index, scores.shape[1]).draw(at + 1)[at]


def reference(
    model: Any, processor: Any, request: ProposeRequest, index: int, prefix: list[int], top_p: float = 1.0
) -> Any:
    """Return the ids that ``generate`` continues with, and their log-probabilities at temperature 1."""
    place = (id(model), request.question, request.seed, request.temperature, index, tuple(prefix), top_p)
    if (known := _known.get(tuple(id(p) if isinstance(p, Question) else p for p in place))) is not None:
        return known[1]
    inputs = build_inputs(processor, request.question)
    ids = torch.cat([inputs["input_ids"], torch.tensor([prefix], dtype=torch.int64)], 1)
    inputs.update(input_ids=ids, attention_mask=torch.ones_like(ids))
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        inputs["mm_token_type_ids"][:, ids.shape[1] - len(prefix) :] = 0
    chain = []
    if request.temperature:
        chain = [lambda _, s: s / request.temperature]
        chain += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        chain += [AddNoise(ids.shape[1], request.seed, index)]
    out = model.generate(
        **inputs,
        do_sample=False,
        logits_processor=LogitsProcessorList(chain),
        max_new_tokens=LIMIT,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[0, ids.shape[1] :].tolist()
    log_probs = [float(s[0].log_softmax(-1)[t]) for s, t in zip(out.logits, tokens, strict=True)]
    key = tuple(id(p) if isinstance(p, Question) else p for p in place)
    _known[key] = (request.question, (tokens, log_probs))
    return tokens, log_probs


def split(tokenizer: Any, tokens: list[int], log_probs: list[float], whole: bool) -> tuple[Candidate, ...]:
    """Return the steps in a plain stretch of generated ids; the last may have been cut off."""
    newline, steps, start = tokenizer.encode("\n", add_special_tokens=False)[0], [], 0
    spans = []
    for i, token in enumerate(tokens):
        if token == newline:
            text = tokenizer.decode(tokens[start : i + 1], skip_special_tokens=True).strip()
            if not whole:
                return (Candidate(text, sum(log_probs[: i + 1]), i + 1, "step"),) if text else ()
            if text:
                spans.append((text, start, i + 1))
                start = i + 1
    text = tokenizer.decode(tokens[start:], skip_special_tokens=True).strip()
    spans += [(text, start, len(tokens))] if text else []
    reason = "stop" if tokens[-1] == tokenizer.eos_token_id else "length"
    for n, (text, a, b) in enumerate(spans):
        last = n == len(spans) - 1
        end = len(tokens) if last else b
        steps.append(Candidate(text, sum(log_probs[a:end]), end - a, reason if last else "step"))
    return tuple(steps)


def assert_same(got: tuple[Candidate, ...], expected: tuple[Candidate, ...]) -> None:
    assert [(c.text, c.tokens, c.finish_reason) for c in got] == [(c.text, c.tokens, c.finish_reason) for c in expected]
    for one, other in zip(got, expected, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)


def policy_for(pair: Any, **kw: Any) -> TransformersPolicy:
    return TransformersPolicy(*pair, **{"max_step_tokens": LIMIT, "max_tokens": LIMIT, **kw})


def expected_for(pair: Any, request: ProposeRequest, prefix: list[int] = [], **kw: Any) -> list[Any]:  # noqa: B006
    found = []
    for i in range(request.n):
        tokens, log_probs = reference(*pair, request, i, prefix, **kw)
        if steps := split(pair[1].tokenizer, tokens, log_probs, request.whole):
            found.append(steps)
    return found


@pytest.mark.parametrize("cache_tokens", CACHE)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_equals_generate(family: Any, temperature: float, whole: bool, cache_tokens: int) -> None:
    n = 1 if temperature == 0 else 2
    requests = [ProposeRequest(q, (), n, 11, temperature, whole) for q in QUESTIONS]
    expected = [expected_for(family, r) for r in requests]
    assert any(expected)
    policy = policy_for(family, cache_tokens=cache_tokens)
    for _ in range(2):  # the second time from the cache
        for got, wanted in zip(policy.propose(requests), expected, strict=True):
            assert len(got) == len(wanted)
            for one, other in zip(got, wanted, strict=True):
                assert_same(one, other)


@pytest.mark.parametrize("cache_tokens", CACHE)
def test_continues_with_the_ids_it_generated(family: Any, cache_tokens: int) -> None:
    policy, question = policy_for(family, cache_tokens=cache_tokens), QUESTIONS[2]
    prefix: tuple[str, ...] = ()
    ids: list[int] = []
    image = family[0].config.image_token_id  # `generate` would look for its picture
    for depth in range(3):
        following = None
        for seed in range(100):  # until one may be continued
            request = ProposeRequest(question, prefix, 2, 1000 * depth + seed, 1.0)
            (got,) = policy.propose([request])
            expected = expected_for(family, request, ids)
            assert len(got) == len(expected)
            for one, other in zip(got, expected, strict=True):
                assert_same(one, other)
            for i in range(request.n):
                tokens, log_probs = reference(*family, request, i, ids)
                steps = split(family[1].tokenizer, tokens, log_probs, False)
                if steps and not steps[0].finished and image not in tokens[: steps[0].tokens]:
                    following = following or (steps[0].text, tokens[: steps[0].tokens])
            if following:
                break
        assert following is not None
        prefix, ids = (*prefix, following[0]), ids + following[1]


@pytest.mark.parametrize("cache_tokens", CACHE)
def test_tokenises_an_unknown_prefix(family: Any, cache_tokens: int) -> None:
    prefix = ("the circle is red", "answer : 4")
    ids = [i for text in prefix for i in encode_step(family[1].tokenizer, text)]
    policy = policy_for(family, cache_tokens=cache_tokens)
    request = ProposeRequest(a_question(), prefix, 3, 5, 1.0, True)
    for got in (policy.propose([request])[0], policy.propose([request])[0]):
        for one, other in zip(got, expected_for(family, request, ids), strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("max_rows", [3, 256])
def test_a_candidate_does_not_depend_on_the_batch(family: Any, max_rows: int) -> None:
    requests = []
    for i, question in enumerate(QUESTIONS):
        for prefix in ((), ("the circle is red",), ("the circle is red", "answer : 4")):
            requests.append(ProposeRequest(question, prefix, 2, 40 + i, 0.5 * (i % 3), i % 2 == 1))
    together = policy_for(family, max_rows=max_rows)
    alone = [policy_for(family, cache_tokens=0).propose([r])[0] for r in requests]
    for _ in range(2):
        for got, expected in zip(together.propose(requests), alone, strict=True):
            assert len(got) == len(expected)
            for one, other in zip(got, expected, strict=True):
                assert_same(one, other)
    reversed_order = policy_for(family).propose(requests[::-1])[::-1]
    assert [[tuple(c.text for c in s) for s in r] for r in reversed_order] == [
        [tuple(c.text for c in s) for s in r] for r in alone
    ]


def test_a_small_cache_changes_nothing_but_time(llava: Any) -> None:
    requests = [
        ProposeRequest(q, p, 2, 9, 1.0, w)
        for q in QUESTIONS[:2]
        for p in ((), ("red",), ("red", "blue"))
        for w in (False, True)
    ]
    expected = policy_for(llava, max_tokens=8, max_step_tokens=8).propose(requests)
    for capacity in (1, 40, 90):
        policy = policy_for(llava, cache_tokens=capacity, max_tokens=8, max_step_tokens=8)
        for request, wanted in zip(requests * 2, expected * 2, strict=True):
            (got,) = policy.propose([request])
            assert [[c.text for c in s] for s in got] == [[c.text for c in s] for s in wanted]
            assert policy._trie.tokens <= capacity


def test_top_p_equals_transformers(llava: Any) -> None:
    request = ProposeRequest(a_question(), (), 3, 3, 0.8, True)
    (got,) = policy_for(llava, top_p=0.6).propose([request])
    for one, other in zip(got, expected_for(llava, request, top_p=0.6), strict=True):
        assert_same(one, other)


def test_nucleus_keeps_the_most_probable_word() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 0.0]])
    kept = nucleus(logits, 1e-9)
    assert kept.isfinite().sum(1).tolist() == [1, 1]
    assert kept.argmax(1).tolist() == [1, 0]


class Spy:
    """Counts the forward passes of a model."""

    def __init__(self, model: Any) -> None:
        self.widths: list[int] = []
        self.pictures = 0
        self.handle = model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, _: Any, __: Any, kwargs: dict[str, Any]) -> None:
        self.widths.append(kwargs["input_ids"].shape[1])
        self.pictures += kwargs.get("pixel_values") is not None


def test_encodes_a_picture_once_and_shares_the_steps(llava: Any) -> None:
    policy, spy = policy_for(llava), Spy(llava[0])
    try:
        question, prefix = a_question(), ("the circle is red",)
        prompt = build_inputs(llava[1], question)["input_ids"].shape[1]
        step = len(encode_step(llava[1].tokenizer, prefix[0]))
        policy.propose([ProposeRequest(question, (), 8, 0), ProposeRequest(question, prefix, 8, 0)])
        assert spy.pictures == 1
        assert spy.widths[:2] == [prompt, step]
        assert set(spy.widths[2:]) == {1}
        assert policy.usage.prompt_tokens == 2 * prompt + step
        assert policy.usage.cached_policy_tokens == prompt - 1
        before = len(spy.widths)
        policy.propose([ProposeRequest(question, prefix, 8, 1)])
        assert set(spy.widths[before:]) == {1}
        assert policy.usage.cached_policy_tokens == 2 * (prompt - 1) + step
        assert policy.usage.policy_calls == 3
        equal = Question(question.text, images=[picture()])
        policy.propose([ProposeRequest(equal, (), 1, 1)])
        assert spy.pictures == 1
        policy.clear()
        policy.propose([ProposeRequest(question, (), 1, 1)])
        assert spy.pictures == 2
    finally:
        spy.handle.remove()


def test_a_call_encodes_a_picture_once_without_any_cache(llava: Any) -> None:
    policy, spy = policy_for(llava, cache_tokens=0), Spy(llava[0])
    requests = [ProposeRequest(q, p, 2, 0) for p in ((), ("red",), ("red", "blue")) for q in QUESTIONS[:2]]
    try:
        found = policy.propose(requests)
    finally:
        spy.handle.remove()
    assert spy.pictures == 2
    assert policy._trie.tokens == 0
    for request, got in zip(requests, found, strict=True):
        (alone,) = policy.propose([request])
        assert [[c.text for c in steps] for steps in got] == [[c.text for c in steps] for steps in alone]


def changed() -> list[Question]:
    """The question with pictures and a video, with one picture after the other replaced, and in other orders."""
    text, (first, video, last) = QUESTIONS[4].text, QUESTIONS[4].images
    frames = list(video.source)
    films = [[*frames[:i], picture(50 + i, 32, 32), *frames[i + 1 :]] for i in range(3)]
    films += [frames[::-1], [frames[0], frames[2], frames[1]], frames[:2]]
    shown = [[first, Video(film), last] for film in films]
    shown += [[picture(60), video, last], [first, video, picture(61)], [last, video, first], [video, first, last]]
    return [Question(text, images=images) for images in (*shown, [first, *frames, last])]


def test_every_frame_and_the_order_of_frames_matter(family: Any) -> None:
    def logits(question: Question) -> Any:
        inputs = build_inputs(family[1], question)
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == family[0].config.image_token_id).int()
        with torch.no_grad():
            return family[0](**inputs).logits[0, -1]

    right = logits(QUESTIONS[4])
    assert torch.equal(logits(QUESTIONS[4]), right)
    for i, question in enumerate(changed()):
        assert (logits(question) - right).abs().max() > 1e-3, i


def test_a_question_with_another_frame_is_another_question(family: Any) -> None:
    together = policy_for(family)
    requests = [ProposeRequest(q, (), 1, 3, 0.0) for q in (QUESTIONS[4], *changed())]
    assert len({question_key(r.question) for r in requests}) == len(requests)
    for request in requests * 2:  # all their prompts are in the cache the second time
        (got,), (alone,) = together.propose([request]), policy_for(family, cache_tokens=0).propose([request])
        assert len(got) == len(alone)
        for one, other in zip(got, alone, strict=True):
            assert_same(one, other)


def test_forget(llava: Any) -> None:
    policy = policy_for(llava)
    requests = [ProposeRequest(q, p, 2, 0) for q in QUESTIONS[:2] for p in ((), ("red",))]
    before = policy.propose(requests)
    kept = {node for node in policy._trie if node.path()[0] is policy._trie.roots[question_key(QUESTIONS[1])]}
    policy.forget(QUESTIONS[2])  # unknown
    assert len(policy._trie) > len(kept)
    policy.forget(QUESTIONS[0])
    policy.forget(QUESTIONS[0])
    assert set(policy._trie) == kept
    assert policy._trie.tokens == sum(node.kv.length for node in kept if node.kv is not None) > 0
    spy = Spy(llava[0])
    try:
        after = policy.propose(requests)
    finally:
        spy.handle.remove()
    assert spy.pictures == 1  # of the question that was forgotten
    assert [[[c.text for c in s] for s in r] for r in after] == [[[c.text for c in s] for s in r] for r in before]


def test_usage_counts_every_token(llava: Any) -> None:
    policy = policy_for(llava)
    (got,) = policy.propose([ProposeRequest(a_question(), (), 8, 2, 1.0, True)])
    assert len(got) == 8
    assert policy.usage.policy_tokens == sum(c.tokens for steps in got for c in steps)
    assert all(c.log_prob < 0 for steps in got for c in steps)


def test_paths_pil_and_arrays_are_the_same_picture(llava: Any, tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(picture())
    image.save(tmp_path / "a.png")
    asked = [ProposeRequest(Question("what ?", images=[i]), (), 3, 4) for i in (picture(), image, tmp_path / "a.png")]
    results = policy_for(llava).propose(asked)
    assert results[0]
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert_same(one, other)


def test_a_long_context_ends_with_length(llava: Any) -> None:
    most = llava[0].config.text_config.max_position_embeddings
    question = a_question()
    prompt = build_inputs(llava[1], question)["input_ids"].shape[1]
    policy = policy_for(llava, max_step_tokens=10_000, max_tokens=10_000)
    step = " ".join(["red"] * (most - prompt - 1 - 5))  # leaves room for five tokens
    first, second = policy.propose([ProposeRequest(question, (step,), 4, 0, 1.0, True)] * 2)
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    assert all(sum(c.tokens for c in steps) <= 5 for steps in first)
    assert "length" in {steps[-1].finish_reason for steps in first}
    assert policy.propose([ProposeRequest(question, (step, step), 4, 0)]) == [[]]
    assert policy.propose([ProposeRequest(Question("red " * 300), (), 4, 0)]) == [[]]
    assert policy.propose([ProposeRequest(question, (), 2, 0), ProposeRequest(question, (step, step), 4, 0)])[0]


def test_no_requests_and_no_candidates(llava: Any) -> None:
    policy = policy_for(llava)
    assert isinstance(policy, Policy)
    assert policy.propose([]) == []
    assert policy.propose([ProposeRequest(a_question(), (), 0, 0)]) == [[]]


def test_empty_steps_are_left_out(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = llava
    newline, word = processor.tokenizer.encode("\n red", add_special_tokens=False)
    eos = processor.tokenizer.eos_token_id
    policy = policy_for(llava)

    def script(*tokens: int) -> None:
        queue = iter(tokens)

        def logits(ids: Any, positions: Any, batch: Any) -> Any:
            original(ids, positions, batch)
            row = torch.full((len(ids), model.config.text_config.vocab_size), -50.0)
            row[:, next(queue)] = 0.0
            return row

        monkeypatch.setattr(policy, "_logits", logits)

    original = policy._logits
    step, whole = (ProposeRequest(a_question(), (), 1, 0, 0.0, w) for w in (False, True))
    script(newline)
    assert policy.propose([step]) == [[]]
    script(eos)
    assert policy.propose([step]) == [[]]
    script(newline, word, newline, newline, eos)
    ((steps,),) = policy.propose([whole])
    assert [(c.text, c.tokens, c.finish_reason) for c in steps] == [("red", 5, "stop")]
    script(word, newline, word, eos)
    ((steps,),) = policy.propose([whole])
    assert [(c.text, c.tokens, c.finish_reason) for c in steps] == [("red", 2, "step"), ("red", 2, "stop")]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_of_broken_logits_are_left_out(llava: Any, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, request = policy_for(llava), ProposeRequest(a_question(), (), 4, 3, 1.0, True)
    (whole,) = policy.propose([request])
    assert len(whole) == 4
    original, calls = policy._logits, [0]

    def logits(*args: Any) -> Any:
        out = original(*args)
        calls[0] += 1
        if calls[0] == 2:
            out[0] = value
        return out

    monkeypatch.setattr(policy, "_logits", logits)
    assert [c.text for steps in policy.propose([request])[0] for c in steps] == [
        c.text for steps in whole[1:] for c in steps
    ]


def test_a_model_that_raises_is_a_policy_error(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_for(llava)
    request = ProposeRequest(a_question(), (), 2, 0)
    expected = policy.propose([request])

    def explode(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory\nlong story")

    with monkeypatch.context() as patch:
        patch.setattr(llava[0], "forward", explode)
        with pytest.raises(PolicyError, match=r"LlavaForConditionalGeneration raised RuntimeError: out of memory$"):
            policy.propose([request])
    assert policy.propose([request]) == expected


def test_a_missing_picture_is_an_image_error(llava: Any) -> None:
    with pytest.raises(ImageError):
        policy_for(llava).propose([ProposeRequest(Question("what ?", images=["nowhere.png"]), (), 1, 0)])


def test_leaves_the_model_as_it_found_it() -> None:
    pair = tiny_models.build("qwen2_5_vl")
    model = pair[0]
    policy = policy_for(pair)
    expected = policy.propose([ProposeRequest(a_question(), (), 2, 0)])
    model.train()
    model.model.rope_deltas = marker = torch.zeros(1, 1, dtype=torch.int64)
    policy.clear()
    assert policy.propose([ProposeRequest(a_question(), (), 2, 0)]) == expected
    assert model.training
    assert model.model.rope_deltas is marker


def test_threads_take_turns(llava: Any) -> None:
    policy = policy_for(llava)
    requests = [ProposeRequest(q, (), 3, i, 1.0) for i, q in enumerate(QUESTIONS)]
    expected = [policy_for(llava).propose([r]) for r in requests]
    results: list[Any] = [None] * len(requests)

    def work(i: int) -> None:
        results[i] = policy.propose([requests[i]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_other_separators(llava: Any) -> None:
    policy = policy_for(llava, separator="is")
    request = ProposeRequest(a_question(), (), 8, 1, 1.0)
    (got,) = policy.propose([request])
    steps = [c for (c,) in got if c.finish_reason == "step"]
    assert steps
    assert all("is" not in c.text for c in steps)
    (deeper,) = policy.propose([ProposeRequest(a_question(), (steps[0].text,), 2, 1)])
    assert deeper
    two_words = policy_for(llava, separator="the circle", max_step_tokens=200)
    (got,) = two_words.propose([ProposeRequest(a_question(), (), 16, 1, 1.0)])
    assert all("the circle" not in c.text for (c,) in got)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_step_tokens", 0),
        ("max_tokens", -1),
        ("top_p", 0.0),
        ("top_p", math.nan),
        ("cache_tokens", -1),
        ("separator", ""),
        ("max_rows", 0),
    ],
)
def test_arguments_are_checked(llava: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must"):
        TransformersPolicy(*llava, **{name: value})


def test_requests_are_checked(llava: Any) -> None:
    policy = policy_for(llava)
    for n, temperature in ((-1, 1.0), (1, -1.0), (1, math.nan)):
        with pytest.raises(ValueError, match="`n` and `temperature`"):
            policy.propose([ProposeRequest(a_question(), (), n, 0, temperature)])


def test_models_that_cannot_be_cut_are_refused(llava: Any) -> None:
    def fake(forward: Any, **text: Any) -> Any:
        inner = SimpleNamespace(**text)
        config = SimpleNamespace(get_text_config=lambda: inner, is_encoder_decoder=False)
        return SimpleNamespace(config=config, forward=forward)

    def forward(input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any) -> None: ...

    with pytest.raises(ValueError, match="layers of type linear_attention"):
        TransformersPolicy(fake(forward, layer_types=["linear_attention", "full_attention"]), llava[1])
    with pytest.raises(ValueError, match="does not take"):
        TransformersPolicy(fake(lambda input_ids: None), llava[1])
    with pytest.raises(ValueError, match="`processor` must have"):
        TransformersPolicy(llava[0], object())


def test_load_gives_one_line_for_what_is_wrong(tmp_path: Path) -> None:
    cases = [tmp_path / "missing"]
    for name, config in (("empty", None), ("broken", "{"), ("foreign", '{"model_type": "no-such-model"}')):
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
        cases.append(tmp_path / name)
    for folder in cases:
        with pytest.raises(ModelFileError, match="Cannot load a model from") as caught:
            TransformersPolicy.load(str(folder), local_files_only=True)
        assert "\n" not in str(caught.value)


def puzzle() -> Any:
    from svip_search.models.embedded import new_model, new_processor

    processor = new_processor()
    torch.manual_seed(0)
    return new_model("puzzle-nano", processor).eval(), processor


def test_load_an_embedded_model(tmp_path: Path) -> None:
    model, processor = puzzle()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    request = ProposeRequest(a_question(), ("the circle is red",), 3, 0, 1.0, True)
    expected = policy_for((model, processor)).propose([request])
    assert policy_for((model, processor), cache_tokens=0).propose([request]) == expected
    assert TransformersPolicy.load(tmp_path, max_step_tokens=LIMIT, max_tokens=LIMIT).propose([request]) == expected
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="Cannot load a model from"):
        TransformersPolicy.load(tmp_path)


def test_the_embedded_model_equals_generate() -> None:
    pair = puzzle()
    for temperature, whole in ((0.0, True), (1.0, False), (1.0, True)):
        request = ProposeRequest(a_question(), (), 1 if temperature == 0 else 3, 8, temperature, whole)
        (got,) = policy_for(pair).propose([request])
        for one, other in zip(got, expected_for(pair, request), strict=True):
            assert_same(one, other)


def test_noise_is_gumbel_and_keyed() -> None:
    noise = GumbelStream(3, 0, 501).draw(200)
    assert noise.isfinite().all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert not torch.equal(noise, GumbelStream(3, 1, 501).draw(200))
    assert not torch.equal(noise, GumbelStream(4, 0, 501).draw(200))
    assert torch.equal(GumbelStream(-1, 0, 5).draw(1), GumbelStream(2**64 - 1, 0, 5).draw(1))


def test_samples_have_the_probabilities_of_the_model(llava: Any) -> None:
    policy = policy_for(llava, max_step_tokens=1, max_rows=4096)
    inputs = build_inputs(llava[1], a_question())
    with torch.no_grad():
        probs = llava[0](**inputs).logits[0, -1].softmax(-1)
    (got,) = policy.propose([ProposeRequest(a_question(), (), 4000, 12, 1.0)])
    for word in tiny_models.WORDS:
        index = llava[1].tokenizer.convert_tokens_to_ids(word)
        share = sum(c.text == word for (c,) in got) / 4000
        assert share == pytest.approx(float(probs[index]), abs=4 * math.sqrt(0.25 / 4000))
