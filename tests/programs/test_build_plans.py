"""Data sets of planning puzzles: built like those of pattern puzzles, with exact labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from svip_search.cli.app import main
from svip_search.datasets.planning import label_steps
from svip_search.datasets.svip import generator_version, read_svip
from svip_search.models.embedded import new_model, new_processor
from svip_search.programs.build import BuildConfig, build
from svip_search.programs.card import data_card

SMALL = BuildConfig(
    domain="planning", n=40, shard=20, pixels=64, leaves=3, per_puzzle=5, test_share=0.25,
    families=("tower_of_hanoi", "water_jugs", "rotting_kiwi"), moves=(2, 3),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(replace(SMALL, out=str(tmp_path_factory.mktemp("plans") / "set")))


def test_records_say_what_is_true_of_their_puzzles(whole: Path) -> None:
    records = list(read_svip(whole))
    assert len(records) == len({r.id for r in records}) == SMALL.n
    assert {r.source for r in records} == {"trace", "corrupt", "program"}
    for record in records:
        plan = record.plan()
        assert plan is not None
        assert (plan.question.text, plan.answer, plan.family) == (record.question, record.answer, record.family)
        np.testing.assert_allclose(record.labels, label_steps(plan, record.steps), atol=1e-4)
        assert record.outcome == (record.steps[-1] == f"answer : {plan.answer}")
        assert bool(record.program) == (record.source == "program")
        assert record.generator == generator_version("planning")


def test_the_same_settings_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    again = build(replace(SMALL, out=str(tmp_path), jobs=2))
    for path in whole.glob("*.jsonl"):
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_the_card_counts_them_and_no_scene_is_in_both_splits(whole: Path) -> None:
    card = data_card(whole)
    assert card["shared_scenes"] == card["unusable"] == 0
    assert card["settings"]["domain"] == "planning"
    assert set(card["families"]) <= set(SMALL.families)
    assert card["agreement"]["attribute"]["same_verdict"] in (None, 1.0)


def test_samples_of_a_policy_are_labelled_too(tmp_path: Path) -> None:
    processor = new_processor("plan-nano")
    new_model("plan-nano", processor).save_pretrained(tmp_path / "blank")
    processor.save_pretrained(tmp_path / "blank")
    config = replace(
        SMALL, out=str(tmp_path / "set"), n=6, per_puzzle=2, leaves=1, test_share=0.0, policy=str(tmp_path / "blank"),
        policy_chains=1,
    )  # fmt: skip
    found = [r for r in read_svip(build(config)) if r.source == "policy:blank"]
    assert found
    assert all(r.outcome == 0 for r in found)  # it was never trained


def test_the_command_builds_them(tmp_path: Path) -> None:
    flags = "--domain planning --n 4 --pixels 48 --per-puzzle 2 --leaves 1 --moves 2,3 --families rotting_kiwi --quiet"
    words = ["data", "build", "--out", str(tmp_path / "set"), *flags.split()]
    assert main(words) == 0
    assert {r.family for r in read_svip(tmp_path / "set")} == {"rotting_kiwi"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain": "chess"}, "`domain` must be one of puzzles, planning; got 'chess'"),
        ({"families": ("venn",)}, "`families` must be among checker_move"),
        ({"moves": (3, 2)}, "`moves` must be least,most"),
        ({"moves": (3,)}, "`moves` must be least,most"),
        ({"vision": "classical"}, "`vision` must be one of noisy, truth; got 'classical'"),
        ({"domain": "puzzles", "families": ()}, "`moves` must be least,most"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def test_pictures_have_the_size_of_their_domain() -> None:
    assert (BuildConfig().pixels, BuildConfig(domain="planning").pixels) == (128, 384)
