"""Low-rank updates: gradients reach them alone, and what is saved is an ordinary model with them added."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from any_backbone import FAMILIES, evaluated, file_records, puzzle_trees, tiny

from svip_search._errors import ModelFileError
from svip_search.rewards.svip_reward import SvipReward
from svip_search.training.lora_scorer import LoraScorer
from svip_search.training.step_trees import step_trees

pytest.importorskip("peft", reason="peft is not installed: pip install 'svip-search[lora]'")


def trees_of(family, folder):
    return puzzle_trees(2) if family == "puzzle" else step_trees(file_records(folder))


def disturb(scorer):
    """Give the updates a size; they begin at zero."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in scorer.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)


@pytest.mark.parametrize("family", [*FAMILIES, "idefics3", "puzzle"])
def test_logits_are_those_of_evaluation(family, tmp_path):
    trees = trees_of(family, tmp_path)
    backbone, processor, head = tiny(family, surprise=True)
    plain = evaluated(SvipReward(backbone, processor, head), trees)
    scorer = LoraScorer(backbone, processor, head, rank=2)
    np.testing.assert_allclose(scorer(trees)[0].sigmoid().detach(), plain, atol=1e-4)
    disturb(scorer)
    logits, own = scorer(trees)
    assert own == 0
    wanted = evaluated(scorer.reward_model(), trees)
    assert np.abs(wanted - plain).max() > 1e-3
    np.testing.assert_allclose(logits.sigmoid().detach(), wanted, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_updates_and_head_learn(checkpointing, tmp_path):
    trees = trees_of("qwen2_5_vl", tmp_path)
    scorer = LoraScorer(*tiny("qwen2_5_vl"), rank=2, gradient_checkpointing=checkpointing)
    disturb(scorer)
    scorer.train()
    trained = {n: p for n, p in scorer.named_parameters() if p.requires_grad}
    assert all("lora_" in n and "language_model" in n for n in trained if not n.startswith("head."))
    assert {n.split(".")[-4] for n in trained if "lora_" in n} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    before = {n: p.clone() for n, p in scorer.named_parameters()}
    optimizers = scorer.make_optimizers(0.01, 0.01)
    scorer(trees)[0].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in trained.items() if "query" not in n)
    for optimizer in optimizers:
        optimizer.step()
    changed = {n for n, p in scorer.named_parameters() if not torch.equal(before[n], p)}
    assert changed <= set(trained)
    assert any("lora_A" in n for n in changed)


def test_layers_computed_again_give_the_same_gradient(tmp_path):
    trees, found = trees_of("llava", tmp_path), []
    for checkpointing in (False, True):
        scorer = LoraScorer(*tiny("llava"), rank=2, gradient_checkpointing=checkpointing)
        disturb(scorer)
        torch.manual_seed(5)
        for name, p in scorer.named_parameters():
            if "lora_A" in name:
                torch.nn.init.normal_(p, 0, 0.1)
        scorer.train()(trees)[0].sum().backward()
        found.append({n: p.grad for n, p in scorer.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=lambda m, name=name: f"{name}: {m}")


def test_the_updates_are_added_to_the_backbone_that_is_saved(tmp_path):
    trees = trees_of("puzzle", tmp_path)
    scorer = LoraScorer(*tiny("puzzle", surprise=True), rank=2)
    disturb(scorer)
    logits = scorer(trees)[0].sigmoid().detach()
    scorer.reward_model().save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["version"] == 1
    loaded = SvipReward.load(tmp_path / "model")
    assert not any("lora" in name for name, _ in loaded.backbone.named_parameters())
    np.testing.assert_allclose(logits, evaluated(loaded, trees), atol=1e-4)
    torch.testing.assert_close(scorer(trees)[0].sigmoid(), logits, atol=0, rtol=0)  # training may go on


def test_updates_alone_are_saved_beside_a_named_backbone(tmp_path):
    trees = trees_of("puzzle", tmp_path)
    backbone, processor, head = tiny("puzzle", surprise=True)
    SvipReward(backbone, processor, head).save(tmp_path / "before")
    source = str(tmp_path / "before" / "backbone")
    scorer = LoraScorer(backbone, processor, head, rank=2, source=source)
    disturb(scorer)
    scorer.reward_model().save(tmp_path / "model")
    assert not (tmp_path / "model" / "backbone").exists()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["version"] == 2
    found = evaluated(SvipReward.load(tmp_path / "model"), trees)
    np.testing.assert_allclose(scorer(trees)[0].sigmoid().detach(), found, atol=1e-4)
    (tmp_path / "model" / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelFileError, match="adapter does not hold a usable adapter"):
        SvipReward.load(tmp_path / "model")


def test_what_is_wrong_is_named(monkeypatch):
    parts = tiny("puzzle")
    with pytest.raises(ValueError, match="`rank` must be at least 1; got 0"):
        LoraScorer(*parts, rank=0)
    with pytest.raises(ValueError, match="`gradient_checkpointing` must be off for PuzzleVLM"):
        LoraScorer(*parts, gradient_checkpointing=True)
    real = builtins.__import__

    def without_peft(name, *args, **kwargs):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(ImportError, match=r"need peft: pip install 'svip-search\[lora\]'"):
        LoraScorer(*tiny("puzzle"))
