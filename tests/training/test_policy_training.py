"""Training of the policies: reproducible, resumable, and it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svip_search.models.embedded import new_model, new_processor
from svip_search.models.plan_vlm import PlanVLMForConditionalGeneration
from svip_search.training.muon import orthogonalize
from svip_search.training.policy import TrainPolicyConfig, learning_rate, train_policy


def run(folder: Path, **changes):
    settings = {"samples": 64, "validate_every": 32, "threads": 1, "workers": 0, "validation_puzzles": 4,
                "chunk": 32,
                "batch_size": 8, "learning_rate": 0.02}  # fmt: skip
    return train_policy(TrainPolicyConfig(model="puzzle-nano", out=str(folder), **{**settings, **changes}))


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("finished"))


def test_same_seed_same_weights_even_when_interrupted(finished, tmp_path):
    class Stop(Exception):
        pass

    def stop(seen: int, samples: int, text: str) -> None:
        if seen > 32:
            raise Stop

    config = TrainPolicyConfig(model="puzzle-nano", out=str(tmp_path), samples=64, validate_every=32,
                               threads=1, workers=0, validation_puzzles=4, chunk=32,
                               batch_size=8, learning_rate=0.02)  # fmt: skip
    with pytest.raises(Stop):
        train_policy(config, stop)
    resumed = weights(train_policy(config))
    for name, value in weights(finished).items():
        assert torch.equal(value, resumed[name]), name


def test_loss_falls_and_is_logged(finished):
    log = [json.loads(line) for line in (finished / "training.jsonl").read_text().splitlines()]
    assert log[-1]["seen"] == 64
    assert log[-1]["step_loss"] < log[0]["step_loss"]
    facts = json.loads((finished / "training.json").read_text())
    assert facts["config"]["seed"] == 0
    assert facts["parameters"] > 0


def test_learning_rate_warms_up_stays_and_falls():
    config = TrainPolicyConfig(samples=100_000, batch_size=32, learning_rate=1.0, decay=0.3)
    assert learning_rate(0, config) < 0.01
    assert learning_rate(50_000, config) == 1.0
    assert learning_rate(85_000, config) == pytest.approx(0.5)
    assert learning_rate(100_000, config) == 0.0


def test_planning_puzzles_train_and_go_on_from_earlier_weights(tmp_path):
    settings = {"model": "plan-nano", "samples": 32, "validate_every": 16, "chunk": 16, "workers": 0, "threads": 1,
                "batch_tokens": 900, "families": ("rotting_kiwi",), "eye_samples": 8, "validation_puzzles": 2,
                "learning_rate": 0.02}  # fmt: skip
    first = train_policy(TrainPolicyConfig(out=str(tmp_path / "a"), bf16=True, **settings))
    assert json.loads((first / "training.json").read_text())["seen"] == 32
    assert train_policy(TrainPolicyConfig(out=str(first), **settings)) == first  # nothing is left to do
    later = train_policy(TrainPolicyConfig(out=str(tmp_path / "b"), start=str(first), moves=(1, 4), **settings))
    log = [json.loads(line) for line in (later / "training.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (first / "training.jsonl").read_text().splitlines()]
    assert log[-1]["step_loss"] < before[-1]["step_loss"]


def test_a_larger_model_begins_where_a_smaller_one_is(tmp_path):
    processor = new_processor("plan-nano")
    for name in ("plan-nano", "plan-small"):
        new_model(name, processor).save_pretrained(tmp_path / name)
    settings = {"samples": 4, "chunk": 4, "workers": 0, "threads": 1, "validation_puzzles": 1, "learning_rate": 1e-9,
                "out": str(tmp_path / "out"), "families": ("rotting_kiwi",)}  # fmt: skip
    folder = train_policy(TrainPolicyConfig(model="plan-small", start=str(tmp_path / "plan-nano"), **settings))
    load = PlanVLMForConditionalGeneration.from_pretrained
    small, large = load(tmp_path / "plan-nano").state_dict(), load(folder).state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    rows, columns = small[name].shape
    torch.testing.assert_close(large[name][:rows, :columns], small[name], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="`start` must hold a model of the same kind that is not larger"):
        train_policy(TrainPolicyConfig(model="plan-nano", start=str(folder), **settings | {"resume": False}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", 0), ("batch_size", -1), ("decay", 2.0), ("mixed", -0.1), ("batch_tokens", -1), ("moves", (3, 2))],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        TrainPolicyConfig(**{name: value})


def test_orthogonalized_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((8, 32), (32, 8), (16, 16)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.5
