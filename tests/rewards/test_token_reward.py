"""TokenClassificationReward against the published way of Qwen2.5-Math-PRM: the whole text of one path, one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_rewards import OTHER, PATHS, QUESTION, close, config, llava, model, picture, tokenizer
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForTokenClassification,
    Qwen2ForCausalLM,
    Qwen2ForTokenClassification,
    Qwen2Model,
)

from svip_search import Beam, BestOfN, Budget, ImageError, ModelFileError, Question, RewardError, Scoring, solve
from svip_search.models.prompt import question_text
from svip_search.rewards._step_layout import StepFormat
from svip_search.rewards.token_reward import QWEN_MATH_PRM, TokenClassificationReward
from svip_search.testing import HashPolicy


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def two_layers(width=32, classes=2, seed=3):
    """The head of Qwen2.5-Math-PRM."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def reward(**options):
    words = tokenizer()
    net = model(Qwen2ForTokenClassification, config(len(words), num_labels=options.pop("num_labels", 2)))
    return TokenClassificationReward(net, words, **options)


def published(net, words, question, path, head=None):
    """Softmax of the class logits at every separator, of the conversation in one piece."""
    talk = [
        {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
        {"role": "user", "content": question_text(question, instructions=False).rstrip("\n")},
        {"role": "assistant", "content": "<extra_0>".join(path) + "<extra_0>"},
    ]
    ids = torch.tensor([words.encode(words.apply_chat_template(talk, tokenize=False))])
    with torch.no_grad():
        out = net(input_ids=ids)
        logits = (out.logits if head is None else head(out.last_hidden_state))[0]
    logits = logits[ids[0] == words.convert_tokens_to_ids("<extra_0>")]
    return (logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(-1)[:, 1]).numpy()


def tripled(numbers):
    return np.repeat(np.asarray(numbers)[:, None], 3, 1)


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize(
    "kind", [(Qwen2ForTokenClassification, {}), (LlamaForTokenClassification, {"kind": LlamaConfig})]
)
def test_rewards_are_those_of_the_published_way(kind, labels):
    words = tokenizer()
    net = model(kind[0], config(len(words), num_labels=labels, **kind[1]))
    rm = TokenClassificationReward(net, words)
    for question in (QUESTION, OTHER):
        wanted = [tripled(published(net, words, question, p)) for p in PATHS]
        close(rm.evaluate(question, PATHS), wanted)
    assert np.ptp(np.concatenate(wanted)) > 0.005


def test_a_decoder_with_a_head_of_its_own():
    words, head = tokenizer(), two_layers()
    net = model(Qwen2Model, config(len(words)))
    rm = TokenClassificationReward(net, words, head=head)
    close(rm.evaluate(QUESTION, PATHS), [tripled(published(net, words, QUESTION, p, head)) for p in PATHS])
    other = TokenClassificationReward(net, words, head=head, positive_class=0)
    close(other.evaluate(QUESTION, PATHS), [1 - r for r in rm.evaluate(QUESTION, PATHS)])


def test_a_later_step_company_order_and_cache_change_nothing():
    alone = reward(cache_tokens=0, batch_size=1)
    whole = alone.evaluate(QUESTION, [PATHS[0]])[0]
    for i in range(3):
        close(alone.evaluate(QUESTION, [PATHS[0][: i + 1]]), [whole[: i + 1]])
    items = [(QUESTION, PATHS), (OTHER, PATHS[::-1]), (QUESTION, [PATHS[1], ()])]
    for rm in (reward(cache_tokens=0), reward(batch_size=2), reward(cache_tokens=64)):
        for _ in range(2):
            for found, (question, paths) in zip(rm.evaluate_many(items), items, strict=True):
                close(found, [alone.evaluate(question, [p])[0] for p in paths])


def test_another_separator_and_the_text_of_separators():
    words = tokenizer()
    net = model(Qwen2ForTokenClassification, config(len(words), num_labels=2))
    rm = TokenClassificationReward(net, words, separator="<prm>")
    assert rm.evaluate(QUESTION, [("a<prm>b", "<prm><prm>", "c<extra_0>")])[0].shape == (3, 3)
    rows = rm.text.path_ids(rm.text.layout(QUESTION), ("a<prm>b", "<prm><prm>", "c<|im_end|>"))
    assert [row.count(rm.text.marker_id) for row in rows] == [1, 1, 1]
    assert not set(rows[2]) & set(words.convert_tokens_to_ids(["<|im_end|>", "<extra_0>"]))


def test_recommended_scoring_and_thresholds():
    rm = reward(threshold=0.4, dimensions=["relevance"])
    assert rm.scoring == Scoring(aggregate="product", weights=(1, 0, 0))
    assert rm.thresholds == (0.4, 0.4, 0.4)
    (found,) = rm.evaluate(QUESTION, [PATHS[0]])
    assert rm.scoring.score(found) == pytest.approx(float(found[:, 0].prod()), rel=1e-6)
    assert reward(scoring=Scoring(aggregate="min")).scoring == Scoring(aggregate="min")


@pytest.mark.parametrize("strategy", [Beam(width=2, expand=2), BestOfN(n=3)])
def test_a_search_is_guided_by_it(strategy):
    result = solve(QUESTION, HashPolicy(depth=3), reward(), strategy, Budget(nodes=30))
    assert not result.degraded
    assert result.trajectory.score > 0


@pytest.mark.parametrize("form", ["class", "two layers", "one layer"])
def test_saved_and_loaded(tmp_path, form):
    words = tokenizer()
    if form == "class":
        rm = reward(threshold=0.3, positive_class=0)
    else:
        head = two_layers() if form == "two layers" else nn.Linear(32, 1, bias=False)
        rm = TokenClassificationReward(model(Qwen2Model, config(len(words))), words, head=head, threshold=0.3)
    wanted = rm.evaluate(QUESTION, PATHS)
    rm.save(tmp_path)
    again = TokenClassificationReward.load(tmp_path, local_files_only=True)
    close(again.evaluate(QUESTION, PATHS), wanted, 1e-6)
    assert (again.style, again.thresholds, again.head.positive) == (rm.style, rm.thresholds, rm.head.positive)


def test_a_folder_is_saved_to_again(tmp_path):
    apart = TokenClassificationReward(model(Qwen2Model, config(len(tokenizer()))), tokenizer(), head=two_layers())
    apart.save(tmp_path)
    rm = reward()
    rm.save(tmp_path)
    close(TokenClassificationReward.load(tmp_path).evaluate(QUESTION, PATHS), rm.evaluate(QUESTION, PATHS), 1e-6)


def test_a_published_checkpoint_needs_none_of_its_own_code(tmp_path):
    """Qwen2.5-Math-PRM: two layers called score.0 and score.2, and a class that transformers does not have."""
    from safetensors.torch import save_file

    words, head = tokenizer(), two_layers()
    net = model(Qwen2ForCausalLM, config(len(words), architectures=["Qwen2ForProcessRewardModel"]))
    net.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    weights = {f"model.{k}": v.contiguous() for k, v in net.model.state_dict().items()}
    save_file(weights | {f"score.{k}": v for k, v in head.state_dict().items()}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    rm = TokenClassificationReward.load(tmp_path)
    assert isinstance(rm.head.module, nn.Sequential)
    close(rm.evaluate(QUESTION, PATHS), [tripled(published(net.model, words, QUESTION, p, head)) for p in PATHS])
    named = TokenClassificationReward.load(tmp_path, head="score", activation="silu")
    assert isinstance(named.head.module[1], nn.SiLU)
    with pytest.raises(ModelFileError, match="hold no head; looked for value"):
        TokenClassificationReward.load(tmp_path, head="value")
    with pytest.raises(ValueError, match="`activation` must be one of"):
        TokenClassificationReward.load(tmp_path, activation="step")
    save_file(weights | {"score.0.weight": torch.zeros(4, 32), "score.2.weight": torch.zeros(2, 5)},
              tmp_path / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(ModelFileError, match="linear layers that follow one another"):
        TokenClassificationReward.load(tmp_path)


def test_parts_of_a_large_checkpoint(tmp_path):
    rm = reward()
    wanted = rm.evaluate(QUESTION, PATHS)
    rm.model.save_pretrained(tmp_path, max_shard_size="50KB")
    rm.processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    close(TokenClassificationReward.load(tmp_path).evaluate(QUESTION, PATHS), wanted, 1e-6)


def test_arguments_that_cannot_be(tmp_path):
    words = tokenizer()
    net = model(Qwen2Model, config(len(words)))
    for options, message in [
        ({}, "`head` must be given"),
        ({"head": nn.Linear(8, 2)}, "`head` must take hidden states of width 32"),
        ({"head": nn.Linear(32, 2), "positive_class": 2}, "`positive_class` must be one of the head's 2; got 2"),
        ({"head": nn.Linear(32, 2), "separator": "two words"}, "`marker` must be a single token"),
        ({"head": nn.Linear(32, 2), "style": StepFormat(chat="turns")}, "`style` must have"),
        ({"head": nn.Linear(32, 2), "style": StepFormat()}, "`style` must have"),
    ]:
        with pytest.raises(ValueError, match=message):
            TokenClassificationReward(net, words, **options)
    odd = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 2))
    with pytest.raises(ValueError, match="linear layers to be saved"):
        TokenClassificationReward(net, words, head=odd).save(tmp_path)
    with torch.no_grad():
        odd[1].weight.fill_(torch.inf)
    with pytest.raises(RewardError, match="not a number"):
        TokenClassificationReward(net, words, head=odd).evaluate(QUESTION, PATHS)


def test_training_mode_of_model_and_head_comes_back():
    words = tokenizer()
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(32, 2))
    rm = TokenClassificationReward(model(Qwen2Model, config(len(words))), words, head=head, cache_tokens=0)
    first = rm.evaluate(QUESTION, PATHS)
    head.train()
    rm.model.train()
    close(rm.evaluate(QUESTION, PATHS), first)
    assert head.training
    assert rm.model.training
    assert rm.to("cpu") is rm
    assert rm.device.type == "cpu"


def test_a_model_with_eyes_and_a_head():
    torch.manual_seed(1)
    head = nn.Linear(32, 2)
    net, processor = llava()
    rm = TokenClassificationReward(net, processor, head=head)
    seen = Question("what is missing ?", images=[picture(1)])
    (found,) = rm.evaluate(seen, [PATHS[0]])
    talk = [
        {"role": "system", "content": [{"type": "text", "text": QWEN_MATH_PRM.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": seen.text}]},
        {"role": "assistant", "content": [{"type": "text", "text": "".join(f"{s}<extra_0>" for s in PATHS[0])}]},
    ]
    text = processor.apply_chat_template(talk, tokenize=False)
    inputs = processor(images=list(seen.images), text=text, return_tensors="pt")
    at = inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids("<extra_0>")
    with torch.no_grad():
        wanted = head(net.model(**inputs).last_hidden_state[0, at]).softmax(-1)[:, 1]
    close([found], [tripled(wanted.numpy())])
    assert abs(rm.evaluate(Question(seen.text, images=[picture(2)]), [PATHS[0]])[0] - found).max() > 1e-4
    with pytest.raises(ImageError, match="reads text alone"):
        reward().evaluate(seen, PATHS)
