"""Training of the reward model: packing changes nothing, masks hold, it learns, and a run survives."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from any_backbone import file_records
from svip_data import records, write_data

from svip_search import TrainingError
from svip_search.datasets.svip import write_svip
from svip_search.models.embedded import new_model, new_processor
from svip_search.models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from svip_search.rewards._triatt_cot import TriAttCoT
from svip_search.rewards.svip_reward import SvipReward
from svip_search.training import reward as training
from svip_search.training.puzzle_scorer import PuzzleScorer, pack, visible
from svip_search.training.reward import TrainRewardConfig, reward_loss, train_reward
from svip_search.training.step_trees import step_trees

NAN = float("nan")


@pytest.fixture(scope="module")
def scorer():
    torch.manual_seed(0)
    processor = new_processor()
    backbone = new_model("puzzle-nano", processor)
    return PuzzleScorer(backbone, processor, TriAttCoT(80, 16, surprise=True)).eval()


@pytest.fixture(scope="module")
def trees():
    return step_trees(records(4, chains=4))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), n=100, chains=3)


def small(data, out, **changes):
    return TrainRewardConfig(**{"data": (str(data),), "out": str(out), "size": "puzzle-nano", "samples": 64,
                                "batch_size": 8, "validate_every": 32, "validation": 8, "threads": 1,
                                "learning_rate": 3e-3, "head_dim": 16, **changes})  # fmt: skip


def log_of(folder):
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


# ---- one row a tree --------------------------------------------------------------------------


def test_nodes_of_a_packed_tree_score_as_the_reward_model_scores_their_paths(scorer, trees):
    with torch.inference_mode():
        logits, own = scorer(trees)
    reward, start = scorer.reward_model(), 0
    assert torch.isfinite(own)
    for tree in trees:
        for node in range(len(tree)):
            alone = reward.evaluate(tree.question(), [tree.path(node)])[0][-1]
            np.testing.assert_allclose(logits[start + node].sigmoid().numpy(), alone, atol=1e-5)
        start += len(tree)


def test_what_stands_beside_a_tree_does_not_matter(scorer, trees):
    with torch.inference_mode():
        together = scorer(trees)[0]
        alone = torch.cat([scorer([tree])[0] for tree in trees])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_token_sees_its_path_and_nothing_else(scorer, trees):
    rows = pack(trees, scorer.processor)
    mask = visible(rows)[:, 0]
    for b, tree in enumerate(trees):
        node = rows.node[b]
        for n in range(len(tree)):
            last = int((node == n).nonzero().max())
            seen = set(node[mask[b, last]].tolist())
            up, path = int(tree.parent[n]), {-1, n}
            while up >= 0:
                path.add(up)
                up = int(tree.parent[up])
            assert seen == path


def test_only_chains_without_a_fault_teach_the_language_model(scorer, trees):
    rows = pack(trees, scorer.processor)
    told = int((rows.expected >= 0).sum())
    wanted = 0
    for tree in trees:
        lengths = [len(scorer.processor.tokenizer.encode(s + "\n", add_special_tokens=False)) for s in tree.steps]
        wanted += sum(n for n, good in zip(lengths, tree.faultless, strict=True) if good)
    assert told == wanted > 0


def test_a_picture_of_ones_own_is_refused_with_what_to_do(scorer, trees, tmp_path):
    own = replace(trees[0], record=replace(trees[0].record, images=("cat.png",)))
    with pytest.raises(TrainingError, match=r"must hold generated puzzles.*--tune frozen"):
        scorer([own])


# ---- loss ------------------------------------------------------------------------------------


def test_missing_labels_have_no_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = reward_loss(logits, torch.tensor([[1.0, 0.0, NAN], [0.5, NAN, NAN]]))
    loss.backward()
    assert torch.isfinite(loss)
    grad = logits.grad
    assert grad[0, 2] == grad[1, 1] == grad[1, 2] == 0
    assert grad[1, 0] == 0  # a soft label of one half is met by a logit of zero
    assert grad[0, 0] < 0 < grad[0, 1]


def test_a_dimension_left_out_and_a_tree_of_no_weight_have_no_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    reward_loss(logits, torch.ones(2, 3), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0, 2.0])).backward()
    grad = logits.grad
    assert (grad[1] == 0).all()
    assert grad[0, 1] == 0
    assert grad[0, 2] == 2 * grad[0, 0] < 0


# ---- runs ------------------------------------------------------------------------------------


def test_it_learns_and_saves_a_model_that_loads(data, tmp_path):
    folder = train_reward(small(data, tmp_path / "out", samples=320, validate_every=160))
    log = log_of(folder)
    assert log[-1]["held_out_loss"] < 0.9 * 3 * np.log(2)
    assert {"auroc_logic", "calibration_error_attribute"} <= log[-1].keys()
    facts = json.loads((folder / "training.json").read_text())
    assert len(facts["temperatures"]) == 3
    assert facts["parameters"] > 380_000
    reward = SvipReward.load(folder)
    assert reward.scoring is not None
    record = next(records(1))
    assert reward.evaluate(record.to_question(), [record.steps])[0].shape == (len(record.steps), 3)


def test_an_interrupted_run_ends_as_an_unbroken_one(data, tmp_path):
    class Stop(Exception):
        pass

    def stop_at(seen, total, text):
        if seen >= 56:
            raise Stop

    whole = train_reward(small(data, tmp_path / "whole", samples=96))
    config = small(data, tmp_path / "cut", samples=96)
    with pytest.raises(Stop):
        train_reward(config, stop_at)
    cut = train_reward(config)
    for name in ("head.safetensors", "backbone/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    assert [r["held_out_loss"] for r in log_of(whole)] == [r["held_out_loss"] for r in log_of(cut)]


def test_a_finished_run_is_not_trained_on(data, tmp_path):
    config = small(data, tmp_path / "out")
    folder = train_reward(config)
    before = [(folder / name).read_bytes() for name in ("training.jsonl", "head.safetensors", "checkpoint.pt")]
    train_reward(config)
    assert [(folder / name).read_bytes() for name in ("training.jsonl", "head.safetensors", "checkpoint.pt")] == before


def test_a_loss_that_is_no_number_stops_the_run_and_loses_nothing(data, tmp_path, monkeypatch):
    config = small(data, tmp_path / "out", samples=96)
    real, calls = training.reward_loss, []

    def breaking(*args):
        calls.append(1)
        loss = real(*args)
        return loss * NAN if len(calls) > 6 else loss

    monkeypatch.setattr(training, "reward_loss", breaking)
    with pytest.raises(TrainingError, match=r"the loss is nan after \d+ questions; lower `learning_rate`"):
        train_reward(config)
    monkeypatch.setattr(training, "reward_loss", real)
    folder = train_reward(config)
    assert log_of(folder)[-1]["seen"] >= 96
    assert all(np.isfinite(r["loss"]) for r in log_of(folder))


@pytest.mark.parametrize("damage", ["cut", "rubbish", "empty"])
def test_a_damaged_checkpoint_is_refused_in_one_line(data, tmp_path, damage):
    config = small(data, tmp_path / "out", samples=32)
    folder = train_reward(config)
    file = folder / "checkpoint.pt"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "rubbish": b"\0" * 100, "empty": b""}[damage])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt' cannot be resumed from: .*--no-resume") as error:
        train_reward(config)
    assert "\n" not in str(error.value)
    train_reward(replace(config, resume=False))


def test_a_checkpoint_of_another_model_is_refused(data, tmp_path):
    train_reward(small(data, tmp_path / "out", samples=32))
    with pytest.raises(TrainingError, match="of another model"):
        train_reward(small(data, tmp_path / "out", samples=64, head_dim=24))


def test_training_ends_when_held_out_questions_stop_gaining(data, tmp_path):
    config = small(
        data, tmp_path / "out", samples=640, validate_every=16, patience=2, learning_rate=0.2, head_learning_rate=0.2
    )
    folder = train_reward(config)
    log, facts = log_of(folder), json.loads((folder / "training.json").read_text())
    best = min(log, key=lambda r: r["held_out_loss"])
    assert facts["best_seen"] == best["seen"]
    assert len(log) == log.index(best) + 1 + 2 < 40


def test_the_embedded_policy_can_be_the_start(data, tmp_path):
    folder = train_reward(small(data, tmp_path / "out", samples=8, backbone="puzzle-nano", learning_rate=1e-9))
    from svip_search.models.zoo import weights_folder

    trained = PuzzleVLMForConditionalGeneration.from_pretrained(folder / "backbone").state_dict()
    start = PuzzleVLMForConditionalGeneration.from_pretrained(weights_folder() / "puzzle-nano").state_dict()
    torch.testing.assert_close(trained, start, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("data", {"data": ()}),
        ("samples", {"samples": 0}),
        ("tune", {"tune": "all"}),
        ("labels", {"labels": "soft "}),
        ("dimensions", {"dimensions": ("colour",)}),
        ("dimension_weights", {"dimension_weights": (1.0,)}),
        ("sources", {"sources": "humans"}),
    ],
)
def test_bad_settings_are_named(name, changes):
    with pytest.raises(ValueError, match=f"`{name}`"):
        TrainRewardConfig(**{"data": ("x",), **changes})


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_the_same_command_trains_on_pictures_in_files(tmp_path, tune):
    if tune == "lora":
        pytest.importorskip("peft")
    (tmp_path / "data").mkdir()
    write_svip(file_records(tmp_path / "data", 6), tmp_path / "data" / "train-00000.jsonl")
    folder = train_reward(small(tmp_path / "data", tmp_path / "out", backbone="puzzle-nano", tune=tune,
                                samples=24, validate_every=12))  # fmt: skip
    record = file_records(tmp_path / "data", 1)[0]
    scores = SvipReward.load(folder).evaluate(record.to_question(), [record.steps])
    assert scores[0].shape == (len(record.steps), 3)
    assert log_of(folder)[-1]["seen"] >= 24


def test_domain_weights_are_learned_and_logged(data, tmp_path):
    folder = train_reward(small(data, tmp_path / "out", tune="frozen", domain_weights=True, meta_every=1,
                                meta=(str(data / "test-00000.jsonl"),)))  # fmt: skip
    weights = log_of(folder)[-1]["domain_weights"]
    assert np.mean(list(weights.values())) == pytest.approx(1, abs=1e-2)
    assert len(set(weights.values())) > 1


def test_a_data_set_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        train_reward(small(tmp_path / "none", tmp_path / "out"))
