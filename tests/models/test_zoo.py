"""Names and folders become models, or one-line errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from svip_search import ModelFileError, load_policy, load_reward
from svip_search.models.zoo import list_models, weights_folder


def test_every_embedded_model_says_how_it_was_trained():
    cards = list_models()
    assert [c.kind for c in cards] == ["policy"] * (len(cards) - 2) + ["reward"] * 2
    for card in cards:
        assert card.training["seen"] > 0
        assert card.training["seconds"] > 0
        assert (card.path / "training.jsonl").stat().st_size > 0
    size = sum(f.stat().st_size for f in weights_folder().rglob("*") if f.is_file())
    assert size <= 36e6  # of 40 MB for the whole package


def test_weights_of_another_size_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "model"
    shutil.copytree(weights_folder() / "puzzle-nano", folder)
    shutil.copy(weights_folder() / "puzzle-tiny" / "model.safetensors", folder)
    with pytest.raises(ModelFileError, match="shapes") as caught:
        load_policy(str(folder))
    assert "\n" not in str(caught.value)
    assert "MISMATCH" not in capsys.readouterr().err


def test_kinds_are_not_mixed_up():
    with pytest.raises(ModelFileError, match="is a reward"):
        load_policy("svip-tiny")
    with pytest.raises(ModelFileError, match="puzzle-nano"):
        load_policy("puzzle-huge")


def test_a_reward_model_recommends_its_scoring(tmp_path: Path):
    reward = load_reward("svip-tiny")
    assert reward.scoring is not None
    assert reward.scoring.aggregate == "product"
    folder = tmp_path / "again"
    reward.save(folder)
    assert load_reward(str(folder)).scoring == reward.scoring
    config = json.loads((folder / "config.json").read_text())
    config["scoring"]["aggregate"] = "sorcery"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="scoring"):
        load_reward(str(folder))
