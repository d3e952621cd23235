"""Heads on cached states: the logits are those of the exported model, and only the head learns."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from any_backbone import FAMILIES, evaluated, file_records, puzzle_trees, tiny

from svip_search.models.embedded import new_processor
from svip_search.rewards.svip_reward import SvipReward
from svip_search.training.frozen_scorer import FrozenScorer
from svip_search.training.step_trees import step_trees

VARIANTS = [{"surprise": True}, {"n_kv_heads": 1, "query": "constant", "head": "mlp"}]


def trees_of(family, folder):
    return puzzle_trees(2) if family == "puzzle" else step_trees(file_records(folder))


@pytest.mark.parametrize("family", [*FAMILIES, "idefics3", "puzzle"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_logits_are_those_of_evaluation(family, variant, tmp_path):
    trees = trees_of(family, tmp_path)
    scorer = FrozenScorer(*tiny(family, **variant), cache=tmp_path / "states", dtype="float32")
    scorer.prepare(trees)
    logits, own = scorer(trees)
    assert own == 0
    wanted = evaluated(scorer.reward_model(), trees)
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(logits.sigmoid().detach(), wanted, atol=1e-5)
    halves = torch.cat([scorer(trees[1:])[0], scorer(trees[:1])[0]])
    torch.testing.assert_close(torch.cat([halves[len(trees[1]) :], halves[: len(trees[1])]]), logits)


def test_half_precision_costs_less_than_a_thousandth(tmp_path):
    trees = trees_of("qwen2_5_vl", tmp_path)
    scorer = FrozenScorer(*tiny("qwen2_5_vl", surprise=True), cache=tmp_path / "states")
    wanted = evaluated(scorer.reward_model(), trees)
    np.testing.assert_allclose(scorer(trees)[0].sigmoid().detach(), wanted, atol=1e-3)


def test_only_the_head_learns(tmp_path):
    trees = trees_of("llava", tmp_path)
    scorer = FrozenScorer(*tiny("llava", surprise=True), cache=tmp_path / "states").train()
    assert not scorer.backbone.training
    assert {n.split(".")[0] for n, p in scorer.named_parameters() if p.requires_grad} == {"head"}
    before = {n: p.clone() for n, p in scorer.named_parameters()}
    (optimizer,) = scorer.make_optimizers(0.01, 0.01)
    targets = torch.from_numpy(np.concatenate([t.labels for t in trees])).nan_to_num()
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scorer(trees)[0], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    changed = {n.split(".")[0] for n, p in scorer.named_parameters() if not torch.equal(before[n], p)}
    assert changed == {"head"}


def test_the_trained_model_is_saved_as_any_other(tmp_path):
    trees = trees_of("puzzle", tmp_path)
    scorer = FrozenScorer(*tiny("puzzle", surprise=True), cache=tmp_path / "states", dtype="float32")
    with torch.no_grad():
        scorer.head.head_u.add_(1.0)
    assert isinstance(scorer.processor, type(new_processor()))
    scorer.reward_model().save(tmp_path / "model")
    found = evaluated(SvipReward.load(tmp_path / "model"), trees)
    np.testing.assert_allclose(scorer(trees)[0].sigmoid().detach(), found, atol=1e-4)
