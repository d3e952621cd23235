"""Ablations: one thing changes a variant, a finished one is not trained again, and the table says what was measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from svip_data import records, write_data

from svip_search import Scoring
from svip_search.training.ablations import VARIANTS, AblationConfig, ablation_table, judge_nodes, train_ablations
from svip_search.training.reward import TrainRewardConfig
from svip_search.training.step_trees import step_trees


def test_every_variant_is_a_valid_setting_and_differs_from_the_first():
    base = TrainRewardConfig(data=("x",))
    for name, changes in VARIANTS.items():
        changed = TrainRewardConfig(data=("x",), **changes)
        assert (changed == base) == (name == "conditioned queries")


def test_two_variants_share_hidden_states_and_end_in_a_table(tmp_path):
    data = write_data(tmp_path / "data", n=40, chains=3)
    config = AblationConfig(data=(str(data),), out=str(tmp_path / "out"), backbone="puzzle-nano", samples=24,
                            variants=("constant queries", "without logic"), seeds=2, threads=1)  # fmt: skip
    told = []
    folder = train_ablations(config, lambda done, total, text: told.append((done, total)))
    found = json.loads((folder / "ablations.json").read_text())["variants"]
    assert list(found) == ["constant queries", "without logic"]
    assert [len(runs) for runs in found.values()] == [2, 2]
    assert found["constant queries"][0] != found["constant queries"][1]  # seeds differ
    assert json.loads((folder / "constant-queries-0" / "config.json").read_text())["head"]["query"] == "constant"
    assert len(list(folder.glob("hidden-states"))) == 1
    assert (folder / "ablations.md").read_text().count("\n| ") == 3
    assert max(done for done, _ in told) <= 4 * 24 + 24
    before = (folder / "without-logic-1" / "head.safetensors").stat().st_mtime_ns
    train_ablations(config)
    assert (folder / "without-logic-1" / "head.safetensors").stat().st_mtime_ns == before


def test_a_judge_that_knows_the_labels_is_right():
    trees = step_trees(records(12, chains=4))
    labels = np.concatenate([tree.labels for tree in trees])
    logits = torch.from_numpy(np.where(np.isnan(labels), 0, labels * 20 - 15)).float()
    found = judge_nodes(logits, trees, Scoring(aggregate="min", veto=True))
    assert found["auroc_relevance"] == found["auroc_logic"] == found["auroc_attribute"] == 1.0
    assert found["calibration_error_logic"] < 0.02


def test_a_dimension_that_was_left_out_is_not_shown():
    figures = {f"auroc_{d}": 0.9 for d in ("relevance", "logic", "attribute")}
    row = ablation_table({"without logic": [figures]}).splitlines()[-1]
    assert row == "| without logic | 0.900 | – | 0.900 | – | – |"


@pytest.mark.parametrize(
    ("name", "changes"), [("data", {"data": ()}), ("variants", {"variants": ("no such",)}), ("seeds", {"seeds": 0})]
)
def test_bad_settings_are_named(name, changes):
    with pytest.raises(ValueError, match=f"`{name}`"):
        AblationConfig(**{"data": ("x",), **changes})
