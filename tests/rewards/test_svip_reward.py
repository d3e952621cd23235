"""TriAttCoT against the kernel's reference, and SvipReward against scoring every path in one piece."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import tiny_models
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from svip_search import kernels
from svip_search._errors import ImageError, ModelFileError, RewardError
from svip_search._question_key import question_key
from svip_search._types import Question, RewardModel
from svip_search._video import Video
from svip_search.kernels.triatt import KVTree, triatt
from svip_search.models.embedded import new_model, new_processor
from svip_search.models.prompt import build_inputs, encode_step
from svip_search.rewards._reading import PROMPTS
from svip_search.rewards._triatt_cot import IMAGE, PADDING, PROMPT, QUESTION, STEP, TriAttCoT
from svip_search.rewards.svip_reward import SvipReward, image_token

WORDS = (
    *("what", "is", "missing", "the", "first", "second", "shape", "color", "red", "blue", "circle", "square"),
    *("so", "answer", ":", "1", "2", "3", "?"),
)

VARIANTS = [
    {"n_kv_heads": heads, "query": query, "segment_bias": bias, "head": head}
    for heads, query, bias, head in [
        (3, "conditioned", True, "linear"),
        (1, "conditioned", True, "mlp"),
        (3, "constant", True, "mlp"),
        (1, "constant", False, "linear"),
    ]
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Return a random LLaVA of a few thousand weights with its processor."""
    vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "<image>", "\n", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    layers = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = CLIPVisionConfig(hidden_size=16, image_size=16, patch_size=8, **layers)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_key_value_heads=2,
        max_position_embeddings=256,
        **layers,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=2)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
                               image_token="<image>", num_additional_image_tokens=1)  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


def puzzle():
    processor = new_processor()
    return new_model("puzzle-nano", processor), processor


class QwenProcessor:
    """What a Qwen2-VL processor returns for one 8 x 8 grid of patches; a word is one token."""

    chat_template = None

    @property
    def tokenizer(self) -> QwenProcessor:
        return self

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [10 + len(word) for word in text.split(" ")]

    def __call__(self, images, text, return_tensors):
        pixels = np.resize(np.asarray(images[0]) / 255, (64, 96)).astype(np.float32)
        ids = torch.tensor([[7, 5, *[3] * 16, 6, 8, 9]])
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == 3).int(),
            "pixel_values": torch.from_numpy(pixels),
            "image_grid_thw": torch.tensor([[1, 8, 8]]),
        }


def qwen() -> tuple[Qwen2VLForConditionalGeneration, QwenProcessor]:
    """Return a random Qwen2-VL, whose positions are three-dimensional at the picture."""
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "rope_parameters": rope, **layers,
            "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256}  # fmt: skip
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=3, video_token_id=4,
                           vision_start_token_id=5, vision_end_token_id=6)  # fmt: skip
    model = Qwen2VLForConditionalGeneration(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, 0, 0.2)
    return model, QwenProcessor()


def make_head(width: int, **variant) -> TriAttCoT:
    """Return a head whose scores differ clearly from token to token."""
    head = TriAttCoT(width, 8, **variant)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(0, 0.5)
    return head


def make_reward(make=llava, variant=VARIANTS[0], **options) -> SvipReward:
    torch.manual_seed(1)
    model, processor = make()
    width = model.config.get_text_config().hidden_size
    return SvipReward(model, processor, make_head(width, **variant), **options)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)


QUESTIONS = [Question("what is missing ?", images=[picture(i)], options=["1", "2"]) for i in range(3)]
A, B, C_, D = "the first shape is red", "the second shape is blue", "so the answer is 1", "circle"
PATHS = [(A,), (A, B), (A, C_), (A, B, C_), (D, D, D), (B,), (A, B, D), (D,), (C_, B, A, D)]


def whole(reward: SvipReward, question: Question, path: tuple[str, ...]) -> np.ndarray:
    """Return the rewards of one path from one pass over all its tokens, without any cache."""
    inputs = build_inputs(reward.processor, question)
    prompt = inputs["input_ids"][0].tolist()
    ids, owner, separators = list(prompt), [PROMPT] * len(prompt), []
    for i, step in enumerate(path):
        tokens = encode_step(reward.processor.tokenizer, step)
        ids += tokens
        owner += [i] * len(tokens)
        separators.append(len(ids) - 1)
    image = image_token(reward.backbone.config)
    prompt_segments = [IMAGE if token == image else QUESTION for token in prompt]
    segments = prompt_segments + [STEP] * (len(ids) - len(prompt))
    assert IMAGE in segments
    inputs |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image).int()
    with torch.no_grad():
        hidden = reward.backbone.base_model(**inputs).last_hidden_state
        logits = reward.head(hidden, *(torch.tensor([x]) for x in (segments, owner, separators)))
    return logits.sigmoid()[0].numpy()


# -- the module ------------------------------------------------------------------------------------


def random_batch(head: TriAttCoT, lengths=((4, 3, 2, 5), (6, 1, 4), (3, 2)), dtype=torch.float64):
    """Return inputs of ``forward`` for paths given as (prompt, step, step, …) lengths."""
    size, steps = max(map(sum, lengths)), max(map(len, lengths)) - 1
    hidden = torch.randn(len(lengths), size, head.config.hidden_size, dtype=dtype)
    segments = torch.zeros(len(lengths), size, dtype=torch.int64)
    owner = torch.full((len(lengths), size), PADDING)
    separators = torch.full((len(lengths), steps), -1)
    for row, parts in enumerate(lengths):
        left = size - sum(parts) if row % 2 else 0  # both kinds of padding
        segments[row, left : left + parts[0] // 2] = IMAGE
        for i, n in enumerate(parts):
            owner[row, left : left + n] = i - 1
            if i:
                segments[row, left : left + n] = STEP
                separators[row, i - 1] = left + n - 1
            left += n
    return hidden, segments, owner, separators


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_training_path_equals_the_kernel_path_by_path(variant):
    head = make_head(12, **variant).double()
    hidden, segments, owner, separators = random_batch(head)
    logits = head(hidden, segments, owner, separators)
    assert logits.shape == (3, 3, 3)
    for row in range(3):
        real = owner[row] != PADDING
        k, v, _ = head.project(hidden[row, real])
        steps = int((separators[row] >= 0).sum())
        ptr = np.searchsorted(owner[row, real].numpy(), np.arange(-1, steps + 1))
        tree = KVTree(np.arange(-1, steps), ptr, segments[row, real], k, v)
        q = head.queries(hidden[row, separators[row, :steps]])
        out = triatt(tree, range(1, steps + 1), q, head.head_parameters(), bias=head.bias)
        torch.testing.assert_close(logits[row, :steps].sigmoid(), out.scores, atol=1e-12, rtol=0)
        assert not logits[row, steps:].any()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gradients(variant):
    head = TriAttCoT(3, 2, **variant).double()
    hidden, *rest = random_batch(head, ((2, 2, 1), (1, 1)))
    names, parameters = zip(*head.named_parameters(), strict=True)

    def logits(hidden, *values):
        return torch.func.functional_call(head, dict(zip(names, values, strict=True)), (hidden, *rest))

    leaves = [x.detach().clone().requires_grad_() for x in (hidden, *parameters)]
    assert torch.autograd.gradcheck(logits, leaves)


def test_later_steps_and_padding_change_nothing():
    head = make_head(12)
    hidden, segments, owner, separators = random_batch(head, dtype=torch.float32)
    before = head(hidden, segments, owner, separators)
    changed = torch.where(((owner == PADDING) | (owner >= 1))[..., None], 100.0, hidden)
    after = head(changed, segments, owner, separators)
    assert torch.equal(before[:, 0], after[:, 0])


def test_parameters_learn():
    head = TriAttCoT(12, 8)
    inputs = random_batch(head, dtype=torch.float32)
    target = torch.rand(3, 3, 3)
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(*inputs), target.round())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_size": 0}, "`hidden_size` must be a positive whole number; got 0"),
        ({"head_dim": 2.5}, "`head_dim` must be a positive whole number; got 2.5"),
        ({"n_kv_heads": 2}, r"`n_kv_heads` must be one of \[1, 3\]; got 2"),
        ({"n_kv_heads": True}, r"`n_kv_heads` must be one of \[1, 3\]; got True"),
        ({"query": "mean"}, "`query` must be one of .* got 'mean'"),
        ({"segment_bias": 1}, "`segment_bias` must be one of .* got 1"),
        ({"head": "deep"}, "`head` must be one of .* got 'deep'"),
    ],
)
def test_wrong_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TriAttCoT(**{"hidden_size": 8, **arguments})


def test_wrong_batches_are_named():
    head = TriAttCoT(12, 8)
    hidden, segments, owner, separators = random_batch(head, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"`hidden` must have shape \[B, L, 12\]"):
        head(hidden[..., :5], segments, owner, separators)
    with pytest.raises(ValueError, match="`segments` must have shape"):
        head(hidden, segments[:, 1:], owner, separators)
    with pytest.raises(ValueError, match="`step_index` must have shape"):
        head(hidden, segments, owner[0], separators)
    with pytest.raises(ValueError, match="`separators` must have shape"):
        head(hidden, segments, owner, separators[:2])


# -- the reward model ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [llava, puzzle, qwen])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_batched_scores_equal_whole_paths(make, variant):
    reward = make_reward(make, variant)
    assert isinstance(reward, RewardModel)
    reward.evaluate(QUESTIONS[0], PATHS[:3])
    found = reward.evaluate(QUESTIONS[0], PATHS)  # one batch below beginnings of different lengths
    assert np.std(np.concatenate(found)) > 0.01
    for path, rewards in zip(PATHS, found, strict=True):
        assert rewards.dtype == np.float32
        assert rewards.shape == (len(path), 3)
        np.testing.assert_allclose(rewards, whole(reward, QUESTIONS[0], path), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"cache_tokens": 0}, {"cache_tokens": 40}], ids=str)
def test_order_batching_and_eviction_do_not_matter(options):
    reward = make_reward(**options)
    expected = make_reward().evaluate(QUESTIONS[0], PATHS) + make_reward().evaluate(QUESTIONS[1], PATHS)
    jobs = [(q, i) for q in range(2) for i in range(len(PATHS))]
    for job in np.random.permutation(len(jobs)):
        q, i = jobs[job]
        (found,) = reward.evaluate(QUESTIONS[q], [PATHS[i]])
        np.testing.assert_allclose(found, expected[q * len(PATHS) + i], atol=1e-5)
    assert reward._trie.tokens <= options.get("cache_tokens", 32_768)


def test_a_search_runs_each_step_once_and_siblings_together(monkeypatch):
    reward = make_reward()
    batches = []
    forward = reward.backbone.model.language_model.forward

    def counting(*args, **kwargs):
        batches.append(tuple(kwargs["inputs_embeds"].shape[:2]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(reward.backbone.model.language_model, "forward", counting)
    prompt = build_inputs(reward.processor, QUESTIONS[0])["input_ids"].shape[1]
    siblings = [(s,) for s in (A, B, C_, D)]
    reward.evaluate(QUESTIONS[0], siblings)
    assert batches == [(1, prompt), (4, 6)]
    reward.evaluate(QUESTIONS[0], [*siblings, (A, B), (B, D)])
    assert batches[2:] == [(2, 6)]
    reward.evaluate(QUESTIONS[0], [*siblings, (A, B)])
    assert len(batches) == 3
    reward.evaluate(QUESTIONS[0], [(D, A, B, C_), (D, A, D), (C_, C_)])  # forks after (D, A)
    assert batches[3:] == [(2, 6), (2, 12)]


def test_usage():
    reward = make_reward()
    prompt = build_inputs(reward.processor, QUESTIONS[0])["input_ids"].shape[1]
    reward.evaluate(QUESTIONS[0], [(D,)])
    assert (reward.usage.reward_tokens, reward.usage.cached_reward_tokens) == (prompt + 2, 0)
    reward.evaluate(QUESTIONS[0], [(D,), (D, D)])
    assert reward.usage.reward_tokens == prompt + 2 + 2
    assert reward.usage.cached_reward_tokens == 2 * prompt + 2 + 2
    assert reward.usage.reward_calls == 3


def items_of_many_kinds():
    """Return items with prompts of equal and other lengths, a question twice, and paths of all kinds."""
    longer = Question("what is the first shape ?", images=[picture(7)])
    return [
        (QUESTIONS[0], PATHS[:4]),
        (QUESTIONS[1], [(A,), (), (A, B, D)]),
        (longer, [(D,), (C_, B, A, D), (C_, D)]),
        (QUESTIONS[2], []),
        (QUESTIONS[0], [(A, B), (D, D)]),
        (QUESTIONS[2], [(A, B), (A, C_)]),
        (Question("what ?", images=[picture(8)]), [()]),
    ]


@pytest.mark.parametrize("make", [llava, puzzle, qwen])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"cache_tokens": 0}, {"cache_tokens": 60}], ids=str)
def test_merged_calls_equal_separate_ones(make, options):
    merged, separate = make_reward(make, **options), make_reward(make)
    items = items_of_many_kinds()
    merged.evaluate_many(items[1:3])
    for some in (items, items[::-1]):
        found = merged.evaluate_many(some)
        for (question, paths), rewards in zip(some, found, strict=True):
            assert [r.shape for r in rewards] == [(len(p), 3) for p in paths]
            assert all(r.dtype == np.float32 for r in rewards)
            for a, b in zip(rewards, separate.evaluate(question, paths), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
        assert merged._trie.tokens <= options.get("cache_tokens", 32_768)


def test_merged_calls_count_what_separate_ones_would():
    merged, separate = make_reward(), make_reward()
    for items in (items_of_many_kinds(), items_of_many_kinds()[2:], [(QUESTIONS[0], [(B, B)])] * 2):
        merged.evaluate_many(items)
        for question, paths in items:
            separate.evaluate(question, paths)
        assert merged.usage == separate.usage
        assert len(merged._trie) == len(separate._trie)
        assert merged._trie.tokens == separate._trie.tokens


def test_questions_share_batches_and_scores(monkeypatch):
    reward = make_reward(backend="reference")
    batches, pictures = [], []
    language, vision = reward.backbone.model.language_model.forward, reward.backbone.model.vision_tower.forward

    def counting(*args, **kwargs):
        batches.append(tuple(kwargs["inputs_embeds"].shape[:2]))
        return language(*args, **kwargs)

    def looking(pixels, *args, **kwargs):
        pictures.append(len(pixels))
        return vision(pixels, *args, **kwargs)

    monkeypatch.setattr(reward.backbone.model.language_model, "forward", counting)
    monkeypatch.setattr(reward.backbone.model.vision_tower, "forward", looking)
    prompt = build_inputs(reward.processor, QUESTIONS[0])["input_ids"].shape[1]
    kernels.reset_counts()
    reward.evaluate_many([(q, [(A,), (B,)]) for q in QUESTIONS] + [(QUESTIONS[1], [(B,), (D, C_)])])
    assert batches == [(3, prompt), (7, 8)]  # a question that comes twice is read once
    assert kernels.counts() == {"triatt": {"reference": 1}}
    reward.evaluate_many([(q, [(A,), (B, B)]) for q in QUESTIONS])
    assert batches[2:] == [(3, 6)]
    reward.evaluate_many([(q, [(A,), (B, B)]) for q in QUESTIONS])
    assert len(batches) == 3
    assert pictures == [3]


def test_many_new_prompts_take_several_passes(monkeypatch):
    reward = make_reward()
    rows = []
    vision = reward.backbone.model.vision_tower.forward
    monkeypatch.setattr(
        reward.backbone.model.vision_tower, "forward", lambda p, *a, **k: rows.append(len(p)) or vision(p, *a, **k)
    )
    many = [Question("what is missing ?", images=[picture(i)]) for i in range(PROMPTS + 3)]
    two = Question("what is missing ?", images=[picture(0), picture(1)])  # no row of a batch
    reward.evaluate_many([(q, [(A,)]) for q in [*many, two]])
    assert rows == [PROMPTS, 3, 2]
    for question in (many[0], many[-1], two):
        np.testing.assert_allclose(reward.evaluate(question, [(A,)])[0], whole(reward, question, (A,)), atol=1e-5)


FRAMES = [picture(i) for i in range(11, 14)]
FILM = Question("what is missing ?", images=[picture(10), Video(FRAMES), picture(14)], options=["1", "2"])
OTHER_FILMS = [
    *([picture(10), Video([*FRAMES[:i], picture(20 + i), *FRAMES[i + 1 :]]), picture(14)] for i in range(3)),
    [picture(10), Video(FRAMES[::-1]), picture(14)],
    [picture(10), Video(FRAMES[:2]), picture(14)],
    [picture(30), Video(FRAMES), picture(14)],
    [picture(14), Video(FRAMES), picture(10)],
    [picture(10), *FRAMES, picture(14)],
]


@pytest.mark.parametrize("make", [llava, *(partial(tiny_models.build, name) for name in tiny_models.FAMILIES)])
def test_several_pictures_and_videos(make):
    reward = make_reward(make)
    questions = [FILM, *(Question(FILM.text, images=images, options=FILM.options) for images in OTHER_FILMS)]
    assert len({question_key(q) for q in questions}) == len(questions)
    paths = [(A,), (A, B), (A, C_), (A, B, D)]
    found = reward.evaluate_many([(q, paths) for q in questions])
    for question, rewards in zip(questions, found, strict=True):
        for path, one in zip(paths, rewards, strict=True):  # what was kept and shared is what one plain pass gives
            np.testing.assert_allclose(one, whole(reward, question, path), atol=3e-5)
    for rewards in found[1:]:  # every frame counts, and so does their order
        assert max(np.abs(a - b).max() for a, b in zip(rewards, found[0], strict=True)) > 1e-4
    passed = reward.usage.reward_tokens
    again = reward.evaluate(FILM, [(A, B, C_)])
    assert reward.usage.reward_tokens - passed == len(encode_step(reward.processor.tokenizer, C_))
    np.testing.assert_allclose(again[0], whole(reward, FILM, (A, B, C_)), atol=3e-5)


def test_a_model_of_one_picture_refuses_several():
    with pytest.raises(ImageError, match="A puzzle model takes 1 picture; the question has 5"):
        make_reward(puzzle).evaluate(FILM, [(A,)])


def test_degenerate_merged_calls():
    reward = make_reward()
    assert reward.evaluate_many([]) == []
    assert reward.evaluate_many([(QUESTIONS[0], [])]) == [[]]
    assert [[r.shape for r in one] for one in reward.evaluate_many([(QUESTIONS[0], [()]), (QUESTIONS[1], [])])] == [
        [(0, 3)],
        [],
    ]
    assert reward.usage.reward_calls == 0
    with pytest.raises(TypeError, match="`items` must hold pairs of a question and its paths; got "):
        reward.evaluate_many([QUESTIONS[0]])
    with pytest.raises(TypeError, match="`paths` must hold tuples of step texts; got 'red'"):
        reward.evaluate_many([(QUESTIONS[0], [(A,)]), (QUESTIONS[1], ["red"])])


def test_a_bad_item_fails_the_call_and_spoils_nothing():
    reward = make_reward()
    good = [(QUESTIONS[0], [(A,)]), (QUESTIONS[1], [(A, B)])]
    reward.evaluate_many(good[:1])
    usage = reward.usage + type(reward.usage)()
    with pytest.raises(ImageError):
        reward.evaluate_many([*good, (Question("what ?", images=["no-such-picture.png"]), [(A,)])])
    with pytest.raises(RewardError, match=r"a path of \d+ tokens does not fit the 256 positions"):
        reward.evaluate_many([*good, (QUESTIONS[2], [(A,) * 60])])
    assert reward.usage == usage
    assert len(reward._trie) == 2
    for (question, paths), (found,) in zip(good, reward.evaluate_many(good), strict=True):
        np.testing.assert_allclose(found, whole(reward, question, paths[0]), atol=1e-5)


def test_forget():
    reward = make_reward()
    reward.evaluate_many([(q, [(A, B), (D,)]) for q in QUESTIONS[:2]])
    before, size = reward.usage.reward_tokens, len(reward._trie)
    reward.forget(QUESTIONS[2])  # unknown
    assert len(reward._trie) == size
    reward.forget(QUESTIONS[0])
    reward.forget(QUESTIONS[0])
    assert len(reward._trie) == size // 2
    reward.evaluate(QUESTIONS[1], [(A, B)])
    assert reward.usage.reward_tokens == before
    (found,) = reward.evaluate(QUESTIONS[0], [(A, B)])
    assert reward.usage.reward_tokens > before
    np.testing.assert_allclose(found, whole(reward, QUESTIONS[0], (A, B)), atol=1e-5)


def test_degenerate_calls():
    reward = make_reward()
    assert reward.evaluate(QUESTIONS[0], []) == []
    assert [r.shape for r in reward.evaluate(QUESTIONS[0], [(), ()])] == [(0, 3), (0, 3)]
    empty, one = reward.evaluate(QUESTIONS[0], [(), ("",)])
    assert empty.shape == (0, 3)
    assert one.shape == (1, 3)
    a, b = reward.evaluate(QUESTIONS[0], [(A, B), (A, B)])
    assert np.array_equal(a, b)
    with pytest.raises(TypeError, match="`paths` must hold tuples of step texts"):
        reward.evaluate(QUESTIONS[0], [(1, 2)])
    with pytest.raises(TypeError, match="`paths` must hold tuples of step texts; got 'red'"):
        reward.evaluate(QUESTIONS[0], ["red"])
    with pytest.raises(ImageError):
        reward.evaluate(Question("what ?", images=["no-such-picture.png"]), [(A,)])
    with pytest.raises(RewardError, match=r"a path of \d+ tokens does not fit the 256 positions"):
        reward.evaluate(QUESTIONS[0], [(A,) * 60])
    assert np.array_equal(reward.evaluate(QUESTIONS[0], [(A, B)])[0], a)


def test_a_failing_backbone_leaves_nothing_behind(monkeypatch):
    reward = make_reward()
    expected = make_reward().evaluate(QUESTIONS[0], [(A, B), (A, C_)])
    reward.evaluate(QUESTIONS[0], [(A,)])
    with monkeypatch.context() as patch:
        patch.setattr(reward.head, "project", lambda hidden: 1 / 0)
        with pytest.raises(RewardError, match="LlavaForConditionalGeneration raised division by zero"):
            reward.evaluate(QUESTIONS[0], [(A, B)])
    found = reward.evaluate(QUESTIONS[0], [(A, B), (A, C_)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_questions_are_told_apart_by_their_pictures():
    reward = make_reward()
    pixels = picture(0)
    question = Question("what is missing ?", images=[pixels])
    (before,) = reward.evaluate(question, [(A,)])
    pixels[:] = 255 - pixels  # the same object, another picture
    (after,) = reward.evaluate(question, [(A,)])
    assert np.abs(before - after).max() > 1e-4
    np.testing.assert_allclose(after, whole(reward, question, (A,)), atol=1e-5)


def test_changed_weights_count_after_clear():
    reward = make_reward()
    (before,) = reward.evaluate(QUESTIONS[0], [(A,)])
    with torch.no_grad():
        reward.head.head_b += 1.0
    assert np.array_equal(reward.evaluate(QUESTIONS[0], [(A,)])[0], before)
    reward.clear()
    assert (reward.evaluate(QUESTIONS[0], [(A,)])[0] > before).all()


def test_training_mode_is_left_as_it_was():
    reward = make_reward()
    reward.backbone.train()
    reward.evaluate(QUESTIONS[0], [(A,)])
    assert reward.backbone.training


def test_the_kernel_ran():
    kernels.reset_counts()
    make_reward(backend="reference").evaluate(QUESTIONS[0], PATHS)
    assert kernels.counts() == {"triatt": {"reference": 1}}


@pytest.mark.parametrize("make", [llava, puzzle])
def test_saved_and_loaded(make, tmp_path):
    reward = make_reward(make, VARIANTS[1])
    reward.save(tmp_path / "model")
    loaded = SvipReward.load(tmp_path / "model", batch_size=4)
    assert loaded.batch_size == 4
    assert loaded.head.config == reward.head.config
    for a, b in zip(reward.evaluate(QUESTIONS[0], PATHS), loaded.evaluate(QUESTIONS[0], PATHS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    loaded.save(tmp_path / "head", backbone=str(tmp_path / "model" / "backbone"))
    assert not (tmp_path / "head" / "backbone").exists()
    assert len(SvipReward.load(tmp_path / "head").evaluate(QUESTIONS[0], PATHS)) == len(PATHS)


def overwrite(name, content=b"short"):
    return lambda folder: (folder / name).write_bytes(content)


def spoil_config(**change):
    def spoil(folder):
        data = json.loads((folder / "config.json").read_text())
        data["head"].update(change.pop("head", {}))
        (folder / "config.json").write_text(json.dumps({**data, **change}))

    return spoil


def spoil_head(**change):
    def spoil(folder):
        from safetensors.torch import load_file, save_file

        weights = {**load_file(folder / "head.safetensors"), **change}
        save_file({k: v for k, v in weights.items() if v is not None}, folder / "head.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (overwrite("config.json", b"{"), "config.json cannot be read"),
        (overwrite("config.json", b"\xff\xfe"), "config.json cannot be read"),
        (overwrite("config.json", b"[]"), "does not describe a reward model"),
        (spoil_config(format="other"), "does not describe a reward model"),
        (spoil_config(version=2), "has version 2; this library reads version 1"),
        (spoil_config(backbone=3), "must have an object `head` and a text `backbone`"),
        (spoil_config(head={"n_kv_heads": 2}), "has a wrong `head`: `n_kv_heads` must be"),
        (spoil_config(head={"wings": 2}), "has a wrong `head`: .*wings"),
        (spoil_config(head={"head_dim": 4}), r"`\w+.*` must have shape .* got"),
        (spoil_config(head={"head": "mlp"}), "must hold exactly the tensors"),
        (lambda f: (f / "head.safetensors").unlink(), "head.safetensors is missing"),
        (overwrite("head.safetensors"), "head.safetensors cannot be read"),
        (spoil_head(head_b=None), "'head_b' is missing or too many"),
        (spoil_head(head_b=torch.full((3,), torch.nan)), "`head_b` must hold finite"),
        (spoil_head(head_b=torch.zeros(3, dtype=torch.int64)), "`head_b` must hold finite floating-point"),
        (lambda f: (f / "backbone" / "config.json").unlink(), "does not hold a usable backbone"),
        (overwrite("backbone/model.safetensors"), "does not hold a usable backbone"),
        (overwrite("backbone/tokenizer.json", b"{"), "does not hold a usable backbone"),
    ],
)
def test_damaged_folders_are_one_line(spoil, message, tmp_path):
    make_reward().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelFileError, match=message) as info:
        SvipReward.load(tmp_path)
    assert "\n" not in str(info.value)


def test_backbones_without_all_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    make_reward().save(tmp_path)
    path = tmp_path / "backbone" / "model.safetensors"
    weights = load_file(path)
    weights.pop(next(k for k in weights if "q_proj" in k))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"lacks weights of its backbone: .*q_proj"):
        SvipReward.load(tmp_path)


def test_a_head_of_another_width_is_refused(tmp_path):
    model, processor = llava()
    with pytest.raises(ValueError, match="`head` must have the hidden_size of `backbone`, 24; got 12"):
        SvipReward(model, processor, TriAttCoT(12))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1; got 0"):
        make_reward(batch_size=0)
    make_reward().save(tmp_path / "a")
    make_reward(puzzle).save(tmp_path / "b")
    spoil_config(backbone=str(tmp_path / "b" / "backbone"))(tmp_path / "a")
    with pytest.raises(ModelFileError, match="does not fit its backbone"):
        SvipReward.load(tmp_path / "a")


def test_configuration_survives(tmp_path):
    for i, variant in enumerate(VARIANTS):
        make_reward(variant=variant).save(tmp_path / str(i))
        loaded = SvipReward.load(tmp_path / str(i))
        assert asdict(loaded.head.config) == asdict(make_head(24, **variant).config)
