"""Training of the reward model: packing changes nothing, masks hold, and it learns."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.puzzles.labels import corrupt, label_steps
from svip_search.models.embedded import new_model, new_processor
from svip_search.rewards._triatt_cot import TriAttCoT
from svip_search.rewards.svip_reward import SvipReward
from svip_search.training.data import encode
from svip_search.training.reward import (
    LabelledChunk,
    TrainRewardConfig,
    _Model,
    auroc,
    pack,
    reward_loss,
    train_reward,
)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    processor = new_processor()
    backbone = new_model("puzzle-nano", processor).eval()
    head = TriAttCoT(backbone.config.text_config.hidden_size, 16, surprise=True).eval()
    rng = np.random.default_rng(0)
    puzzles = [generate_puzzle(4, i) for i in range(3)]
    chains = [[list(p.steps), corrupt(p, rng), corrupt(p, rng)] for p in puzzles]
    labels = [[label_steps(p, c) for c in cs] for p, cs in zip(puzzles, chains, strict=True)]
    return processor, backbone, head, LabelledChunk(puzzles, encode(puzzles, processor), chains, labels)


def test_packed_chains_score_as_the_reward_model_scores_them_alone(parts):
    processor, backbone, head, data = parts
    batch = pack(data, np.arange(3), processor)
    with torch.inference_mode():
        logits, _, _ = _Model(backbone, head)(data.tensors.pixels, batch)
    reward = SvipReward(backbone, processor, head)
    for i, puzzle in enumerate(data.puzzles):
        for k, chain in enumerate(data.chains[i]):
            alone = reward.evaluate(puzzle.question, [tuple(chain)])[0]
            packed = logits[3 * i + k].sigmoid()[: len(alone)].numpy()
            np.testing.assert_allclose(packed, alone, atol=1e-5)


def test_missing_labels_have_no_gradient():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    labels = torch.tensor([[[1.0, 0.0, float("nan")], [0.5, float("nan"), float("nan")]]])
    loss = reward_loss(logits, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert logits.grad[0, 0, 2] == logits.grad[0, 1, 1] == logits.grad[0, 1, 2] == 0
    assert logits.grad[0, 1, 0] == 0  # a soft label of one half is met by a logit of zero
    assert logits.grad[0, 0, 0] < 0 < logits.grad[0, 0, 1]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
@settings(deadline=None)
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    scores, positive = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    good, bad = scores[positive], scores[~positive]
    if not len(good) or not len(bad):
        assert np.isnan(auroc(scores, positive))
        return
    wins = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    assert auroc(scores, positive) == pytest.approx(wins)


def test_it_learns_and_saves_a_model_that_loads(tmp_path):
    config = TrainRewardConfig(out=str(tmp_path), samples=64, chunk=32, batch_size=8, validate_every=32,
                               validation_puzzles=4, threads=1, learning_rate=5e-3, size="puzzle-nano")  # fmt: skip
    folder = train_reward(config)
    log = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    puzzle = generate_puzzle(4, 0)
    scores = SvipReward.load(folder).evaluate(puzzle.question, [tuple(puzzle.steps)])[0]
    assert scores.shape == (len(puzzle.steps), 3)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="chains"):
        TrainRewardConfig(chains=1)
