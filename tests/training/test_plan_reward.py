"""Reward models of planning puzzles: the same trainer, with as many visual tokens as a picture has cells."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from svip_data import plan_records, records

from svip_search import TrainingError
from svip_search.datasets.svip import write_svip
from svip_search.evaluation.value_by_depth import chains_of, value_by_depth
from svip_search.models.embedded import new_model, new_processor
from svip_search.models.zoo import load_reward
from svip_search.rewards._triatt_cot import TriAttCoT
from svip_search.training.hidden_states import HiddenStateCache
from svip_search.training.puzzle_scorer import PlanScorer, pack, visible
from svip_search.training.reward import TrainRewardConfig, train_reward
from svip_search.training.step_trees import step_trees


@pytest.fixture(scope="module")
def scorer():
    torch.manual_seed(0)
    processor = new_processor("plan-nano")
    return PlanScorer(new_model("plan-nano", processor), processor, TriAttCoT(96, 16, surprise=True)).eval()


@pytest.fixture(scope="module")
def trees():
    return step_trees(plan_records(5))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    write_svip(plan_records(30), folder / "train-00000.jsonl")
    return folder


def settings(data, out, **changes):
    return TrainRewardConfig(**{"data": (str(data),), "out": str(out), "size": "plan-nano", "samples": 16,
                                "batch_size": 4, "validate_every": 8, "validation": 2, "threads": 1, "head_dim": 16,
                                **changes})  # fmt: skip


def test_nodes_of_packed_trees_score_as_the_reward_model_scores_their_paths(scorer, trees):
    with torch.inference_mode():
        logits, own = scorer(trees)
    reward, start = scorer.reward_model(), 0
    assert torch.isfinite(own)
    assert len({len(tree.drawn().grid) for tree in trees}) > 1
    for tree in trees:
        paths = [tree.path(node) for node in range(len(tree))]
        alone = np.stack([rewards[-1] for rewards in reward.evaluate(tree.question(), paths)])
        np.testing.assert_allclose(logits[start : start + len(tree)].sigmoid().numpy(), alone, atol=1e-5)
        start += len(tree)


def test_every_cell_is_a_token_that_all_steps_see(scorer, trees):
    shown = [len(tree.drawn().grid) for tree in trees]
    rows = pack(trees, scorer.processor)
    image = scorer.backbone.config.image_token_id
    assert (rows.ids == image).sum(1).tolist() == shown
    seen = visible(rows)[:, 0]
    for b, count in enumerate(shown):
        steps = rows.node[b] >= 0
        assert seen[b][steps][:, :count].all()


def test_kept_hidden_states_are_those_of_the_packed_trees(scorer, trees, tmp_path):
    cache = HiddenStateCache(tmp_path, scorer.reward_model(), "float32")
    assert cache.fill(trees) == len(trees)
    states = cache.read(trees[0])
    assert int((states.segment == 1).sum()) == len(trees[0].drawn().grid)


@pytest.mark.parametrize("tune", ["full", "frozen"])
def test_a_model_is_trained_saved_and_loaded(data, tmp_path, tune):
    out = train_reward(settings(data, tmp_path / tune, tune=tune))
    last = json.loads((out / "training.jsonl").read_text().splitlines()[-1])
    assert last["seen"] >= 16
    assert np.isfinite(last["held_out_loss"])
    reward, found = load_reward(str(out)), chains_of(plan_records(2, seed=9))
    assert reward.scoring is not None
    plan, chains = found[0]
    rewards = reward.evaluate(plan.question, chains)
    assert [len(r) for r in rewards] == [len(c) for c in chains]
    assert value_by_depth(reward, found)[0].depth == 0


def test_pattern_puzzles_are_refused_with_what_to_do(scorer):
    with pytest.raises(TrainingError, match=r"planning puzzles here.*is none \(train the head alone"):
        scorer(step_trees(records(1)))


def test_pictures_of_files_are_refused_with_what_to_do(scorer, trees):
    own = replace(trees[0], record=replace(trees[0].record, images=("cat.png",)))
    with pytest.raises(TrainingError, match=r"has a picture of its own"):
        scorer([own])
