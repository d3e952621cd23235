"""ScalarReward against a sequence classification model's own answer to the whole conversation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rewards import (
    OTHER,
    PATHS,
    QUESTION,
    SPECIAL,
    close,
    config,
    llava,
    model,
    picture,
    spaced_tokenizer,
    tokenizer,
)
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2ForSequenceClassification,
)

from svip_search import Beam, BestOfN, Budget, ImageError, ModelFileError, Question, RewardError, solve
from svip_search._types import RewardModel
from svip_search._video import Video, pictures
from svip_search.models.prompt import question_text
from svip_search.rewards._step_layout import StepFormat
from svip_search.rewards.scalar_reward import ScalarReward
from svip_search.testing import HashPolicy


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def network(labels=1, **more):
    return model(Qwen2ForSequenceClassification, config(len(tokenizer()), num_labels=labels, **more))


def reward(labels=1, **options):
    return ScalarReward(network(labels), tokenizer(), **options)


def published(net, words, question, path):
    """The logits of the whole conversation, as outcome models are asked."""
    asked = question_text(question, instructions=False).rstrip("\n")
    talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": "\n".join(path)}]
    ids = words.encode(words.apply_chat_template(talk, tokenize=False))
    with torch.no_grad():
        return net(input_ids=torch.tensor([ids])).logits[0]


def test_rewards_are_those_of_the_published_way():
    rm = reward(mean=0.2, scale=1.5)
    assert isinstance(rm, RewardModel)
    assert rm.kind == "orm"
    for question in (QUESTION, OTHER):
        raw = [float(published(rm.model, rm.processor, question, p)[0]) for p in PATHS]
        found = rm.evaluate(question, PATHS)
        close(found, [1 / (1 + math.exp(-(x - 0.2) / 1.5)) for x in raw])
        assert all(r.shape == () and r.dtype == np.float32 for r in found)
    assert np.ptp(raw) > 0.05


@pytest.mark.parametrize("positive", [0, 1])
def test_two_logits(positive):
    rm = reward(2, positive_class=positive)
    wanted = [float(published(rm.model, rm.processor, QUESTION, p).softmax(-1)[positive]) for p in PATHS]
    close(rm.evaluate(QUESTION, PATHS), wanted)


def test_plain_text_begins_as_the_tokenizer_begins_it():
    words = spaced_tokenizer()
    net = model(LlamaForSequenceClassification, config(len(words), LlamaConfig, num_labels=1))
    style = StepFormat(chat="none", user="{question}\n")
    found = ScalarReward(net, words, style=style).evaluate(OTHER, PATHS)
    for reward_of_path, path in zip(found, PATHS, strict=True):
        ids = words.encode(f"{OTHER.text}\n" + "\n".join(path))
        with torch.no_grad():
            close([reward_of_path], [net(input_ids=torch.tensor([ids])).logits[0, 0].sigmoid().numpy()])


def test_company_order_and_cache_change_nothing():
    alone = reward(cache_tokens=0, batch_size=1)
    items = [(QUESTION, PATHS), (OTHER, PATHS[::-1]), (QUESTION, [PATHS[1], (), PATHS[1]]), (OTHER, [])]
    wanted = [[alone.evaluate(q, [p])[0] for p in paths] for q, paths in items]
    for rm in (reward(cache_tokens=0), reward(batch_size=2), reward(cache_tokens=100)):
        for _ in range(2):
            for found, right in zip(rm.evaluate_many(items), wanted, strict=True):
                close(found, right)


def test_mean_and_scale_keep_the_order_and_the_ends_are_finite():
    for mean, scale in [(0.0, 1.0), (5.0, 0.3), (0.0, 1e-6), (1e6, 1.0), (-1e6, 1.0)]:
        rm = reward(mean=mean, scale=scale)
        found = np.array(rm.evaluate(QUESTION, PATHS))
        assert np.isfinite(found).all()
        assert ((found >= 0) & (found <= 1)).all()
        raw = [float(published(rm.model, rm.processor, QUESTION, p)[0]) for p in PATHS]
        assert (np.diff(found[np.argsort(raw)]) >= 0).all()
    assert (found == 1).all()  # far above the mean


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.text(max_size=6) | st.sampled_from([*SPECIAL, "\n"]), max_size=4).map("".join), max_size=3))
def test_odd_texts(steps):
    rm = _KEPT.setdefault("rm", reward())
    layout = rm.text.layout(QUESTION)
    row = rm.text.answer_ids(layout, "\n".join(steps))
    assert sum(i in rm.text.reserved for i in row) == 1  # the end of the turn
    (found,) = rm.evaluate(QUESTION, [tuple(steps)])
    assert 0 <= found <= 1
    rm.clear()
    close(rm.evaluate_many([(OTHER, PATHS), (QUESTION, [tuple(steps)])])[1], [found])


_KEPT: dict[str, ScalarReward] = {}


@pytest.mark.parametrize("strategy", [Beam(width=2, expand=2), BestOfN(n=3)])
def test_a_search_is_guided_by_it(strategy):
    rm = reward()
    result = solve(QUESTION, HashPolicy(depth=3), rm, strategy, Budget(nodes=30))
    assert not result.degraded
    path = tuple(step.text for step in result.trajectory.steps)
    assert result.trajectory.score == pytest.approx(float(rm.evaluate(QUESTION, [path])[0]), abs=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_saved_and_loaded(tmp_path, own):
    if own:
        rm = reward(mean=0.5, scale=2.0, separator="\n\n")
    else:
        torch.manual_seed(2)
        head = nn.Sequential(nn.Linear(32, 8), nn.SiLU(), nn.Linear(8, 1))
        rm = ScalarReward(network().model, tokenizer(), head=head, mean=0.5, scale=2.0, separator="\n\n")
    rm.save(tmp_path)
    again = ScalarReward.load(tmp_path, local_files_only=True)
    close(again.evaluate(QUESTION, PATHS), rm.evaluate(QUESTION, PATHS), 1e-6)
    assert (again.mean, again.scale, again.separator, again.style) == (0.5, 2.0, "\n\n", rm.style)
    assert ScalarReward.load(tmp_path, mean=0.0).mean == 0.0


def test_a_head_in_a_file_of_its_own(tmp_path):
    """Skywork-VL-Reward: a model that writes, and beside it value_head.safetensors with v_head.summary."""
    from safetensors.torch import save_file

    net, processor = llava()
    net.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="hold no head"):
        ScalarReward.load(tmp_path)
    torch.manual_seed(1)
    head = nn.Linear(32, 1)
    save_file({f"v_head.summary.{k}": v for k, v in head.state_dict().items()}, tmp_path / "value_head.safetensors")
    found = ScalarReward.load(tmp_path).evaluate(SEEN, PATHS)
    close(found, ScalarReward(net, processor, head=head).evaluate(SEEN, PATHS))


SEEN = Question("what is missing ?", images=[picture(1), Video([picture(2), picture(3)])])


def test_pictures_and_frames_are_seen():
    torch.manual_seed(1)
    head = nn.Linear(32, 1)
    net, processor = llava()
    rm = ScalarReward(net, processor, head=head)
    found = rm.evaluate(SEEN, PATHS)
    for reward_of_path, path in zip(found, PATHS, strict=True):
        shown = pictures(SEEN)
        assert len(shown) == 3
        labels = [f"\n{p.label}: " for p in shown[1:]]
        text = f"<image>{labels[0]}<image>{labels[1]}<image>\n{SEEN.text}"
        turns = [("user", text), ("assistant", "\n".join(path))]
        text = "".join(f"<|im_start|>{role}\n{words}<|im_end|>\n" for role, words in turns)
        inputs = processor(images=[p.image for p in shown], text=text, return_tensors="pt")
        with torch.no_grad():
            close([reward_of_path], [head(net.model(**inputs).last_hidden_state[0, -1]).sigmoid()[0].numpy()])
    other = Question(SEEN.text, images=[picture(1), Video([picture(3), picture(2)])])
    assert abs(np.array(rm.evaluate(other, PATHS)) - np.array(found)).max() > 1e-4
    with pytest.raises(ImageError, match=r"reads text alone.*3 pictures"):
        reward().evaluate(SEEN, PATHS)


def test_arguments_that_cannot_be():
    for options, message in [
        ({"scale": 0.0}, "`scale`"),
        ({"mean": math.nan}, "`mean`"),
        ({"style": StepFormat(chat="turns")}, "`style` must have the answer in one piece"),
    ]:
        with pytest.raises(ValueError, match=message):
            reward(**options)
    small = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForSequenceClassification(BertConfig(num_hidden_layers=1, **small))
    with pytest.raises(ValueError, match="tokens see those behind them"):
        ScalarReward(bert, tokenizer())
    rm = ScalarReward(network(max_position_embeddings=100), tokenizer())
    with pytest.raises(RewardError, match=r"\d{3} tokens does not fit the 100 positions"):
        rm.evaluate(QUESTION, [("so it is " * 100,)])
