"""Data sets: the same bytes however they are built, nothing lost, nothing twice, nothing shared."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svip_search import ImageError, Question, Video
from svip_search._images import open_image
from svip_search.datasets import svip
from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.puzzles.labels import label_steps
from svip_search.datasets.svip import read_svip, write_svip
from svip_search.models import zoo
from svip_search.programs import Region
from svip_search.programs.build import BuildConfig, build, split_of
from svip_search.programs.card import card_markdown, data_card, write_card
from svip_search.programs.label import label_programs, record_of
from svip_search.programs.sandbox import Sandbox
from svip_search.programs.vision import Thing, ThingScene

SMALL = BuildConfig(n=60, shard=10, pixels=32, leaves=6, test_share=0.2, seed=30_000)
HAVE_MODELS = "puzzle-nano" in {m.name for m in zoo.list_models()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that was built without interruption."""
    return build(replace(SMALL, out=str(tmp_path_factory.mktemp("whole") / "set")))


def contents(folder: Path) -> dict[str, str]:
    """Return what is in the files of a data set, by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != ".lock"}


# ---- what is in a data set ---------------------------------------------------------------------------


def test_all_trajectories_are_there(whole: Path) -> None:
    records = list(read_svip(whole))
    assert len(records) == SMALL.n
    assert len({r.id for r in records}) == SMALL.n
    assert sum(len(list(read_svip(p))) for p in whole.glob("test-*.jsonl")) == 12
    for record in records:
        puzzle = record.puzzle()
        assert puzzle is not None
        assert (puzzle.question.text, puzzle.answer, puzzle.family) == (record.question, record.answer, record.family)
        assert len(record.program) == len(record.results) == len(record.steps) == len(record.labels)
        assert all(error == "" for error in record.errors[:-1])  # after an error there is nothing
        assert np.isnan(record.labels[:, 1]).sum() == 0
        assert record.sandbox.startswith("monty")


def test_right_and_wrong_are_both_there(whole: Path) -> None:
    records = list(read_svip(whole))
    assert 0 < sum(r.outcome for r in records) < len(records)
    labels = np.concatenate([r.labels for r in records])
    for column in labels.T:
        known = column[~np.isnan(column)]
        assert known.min() < 1
        assert known.max() == 1


def test_what_scene_truth_calls_right_is_labelled_right(whole: Path) -> None:
    """A chain that is the family's own, step for step, was seen and reasoned rightly."""
    found = 0
    for record in read_svip(whole):
        puzzle = record.puzzle()
        assert puzzle is not None
        if record.steps == puzzle.steps:
            found += 1
            assert record.outcome == 1
            np.testing.assert_array_equal(record.labels[:, 0], 1)
            assert record.labels[:, 1].min() >= 0.5
            np.testing.assert_array_equal(label_steps(puzzle, record.steps)[:, :2], 1)
    assert found


def test_the_splits_share_no_scene(whole: Path) -> None:
    scenes = {s: {r.extra["scene"] for p in whole.glob(f"{s}-*") for r in read_svip(p)} for s in ("train", "test")}
    assert scenes["train"]
    assert scenes["test"]
    assert not scenes["train"] & scenes["test"]
    assert data_card(whole)["shared_scenes"] == 0


def test_a_scene_belongs_to_one_split_however_it_is_drawn() -> None:
    puzzles = [generate_puzzle(seed, i, pixels=8, families=["shape_morph"]) for seed in (1, 2) for i in range(120)]
    splits: dict[Any, set[str]] = {}
    for puzzle in puzzles:
        splits.setdefault((puzzle.facts, puzzle.question.text), set()).add(split_of(puzzle))
    assert len(splits) < 60  # the same scenes come again and again
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "test"}


def test_only_the_families_that_are_asked_for(tmp_path: Path) -> None:
    config = replace(SMALL, out=str(tmp_path), n=10, families=("venn", "triangle"))
    assert {r.family for r in read_svip(build(config))} <= {"venn", "triangle"}


def test_parquet_holds_the_same(tmp_path: Path, whole: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = build(replace(SMALL, out=str(tmp_path), parquet=True))
    for path in sorted(folder.glob("*.parquet")):
        ours = [r.to_json() for r in read_svip(path)]
        theirs = [r.to_json() for r in read_svip(whole / f"{path.stem}.jsonl")]
        assert ours == theirs


@pytest.mark.skipif(not HAVE_MODELS, reason="the embedded weights are not there")
def test_samples_of_a_policy_are_labelled_too(tmp_path: Path) -> None:
    config = replace(SMALL, out=str(tmp_path), n=8, shard=8, pixels=128, leaves=2, test_share=0.0, policy="puzzle-nano")
    records = list(read_svip(build(config)))
    sampled = [r for r in records if r.source == "policy:puzzle-nano"]
    assert sampled
    assert len(sampled) < len(records)
    for record in sampled:
        puzzle = record.puzzle()
        assert puzzle is not None
        assert record.program == ()
        np.testing.assert_allclose(record.labels, label_steps(puzzle, record.steps), atol=1e-4)


# ---- the same bytes ----------------------------------------------------------------------------------


def test_processes_change_nothing(whole: Path, tmp_path: Path) -> None:
    assert contents(build(replace(SMALL, out=str(tmp_path / "two"), jobs=2))) == contents(whole)


def test_a_missing_shard_is_made_again(whole: Path, tmp_path: Path) -> None:
    config = replace(SMALL, out=str(tmp_path / "set"))
    folder = build(config)
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.jsonl")}
    (folder / "train-00001.jsonl").unlink()
    (folder / ".train-00001.jsonl.1.tmp").write_text("half a line")
    seen: list[int] = []
    build(config, lambda done, total, text: seen.append(done))
    assert contents(folder) == contents(whole)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.jsonl")}
    assert {n for n in before if before[n] != after[n]} == {"train-00001.jsonl"}
    assert seen == [50, 60]


def test_kill_and_resume(whole: Path, tmp_path: Path) -> None:
    """kill -9 after each shard in turn: nothing is lost, nothing is there twice, no process stays."""
    folder = tmp_path / "set"
    code = (
        "from svip_search.programs.build import *\n"
        f"if __name__ == '__main__': build(BuildConfig(**{vars(replace(SMALL, out=str(folder), jobs=2))!r}))\n"
    )
    script = tmp_path / "build_it.py"
    script.write_text(code)
    kills = 0
    for wanted in (0, 1, 2, 4):
        child = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
        while len(list(folder.glob("*.jsonl"))) < wanted or not (folder / "settings.json").exists():
            assert child.poll() in (None, 0)
            time.sleep(0.005)
        kills += child.poll() is None
        child.kill()
        child.wait()
        wait_until(lambda group=child.pid: not alive(group), 10)
    assert kills >= 2
    assert contents(build(replace(SMALL, out=str(folder)))) == contents(whole)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def test_interrupted_builds_leave_no_half_file(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    words = ["--out", folder, "--n", 100_000, "--shard", 20, "--pixels", 32, "--leaves", 4]
    code = "from svip_search.programs.build import *; import sys; build(BuildConfig(out=sys.argv[2], n=9999, shard=10))"
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE)
    wait_until(lambda: folder.exists() and len(list(folder.glob("*.jsonl"))) >= 1, 60)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert not list(folder.glob(".*.tmp"))
    assert all(len(list(read_svip(p))) == 10 for p in folder.glob("*.jsonl"))


# ---- what goes wrong ---------------------------------------------------------------------------------


def test_other_settings_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    config = replace(SMALL, out=str(tmp_path), n=10)
    build(config)
    there = json.loads((tmp_path / "settings.json").read_text())["fingerprint"]
    with pytest.raises(ValueError, match=rf"fingerprint {there}, this build \w+: error_rate 0.2 there and 0.5 here"):
        build(replace(config, error_rate=0.5))
    build(replace(config, jobs=2))  # how it is built is no setting


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="`out` must be a folder of this command"):
        build(replace(SMALL, out=str(tmp_path)))


def test_two_builds_in_one_folder(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another build is at work"):
            build(replace(SMALL, out=str(tmp_path)))


def test_a_full_disk_is_one_line_and_the_build_goes_on(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, out=str(tmp_path / "set"))
    sync, count = os.fsync, 0

    def fills_up(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(svip.os, "fsync", fills_up)
    with pytest.raises(OSError, match=r"No space left on device while writing train-\d+; the same command") as caught:
        build(config)
    assert "\n" not in str(caught.value)
    assert not list(Path(config.out).glob(".*.tmp"))
    monkeypatch.undo()
    assert contents(build(config)) == contents(whole)


@pytest.mark.parametrize("changes", [
    {"n": 0}, {"jobs": 0}, {"noise": 1.5}, {"error_rate": -0.1}, {"vision": "x-ray"}, {"families": ("sudoku",)},
    {"seed": -1}, {"shard": 0}, {"test_share": float("nan")},
])  # fmt: skip
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` must"):
        BuildConfig(**changes)


# ---- other pictures, other generators ----------------------------------------------------------------


class Recorded:
    """A generator of one program, as a language model wrote it."""

    def next_blocks(self, question: Question, image: Any, blocks: Any, n: int, *, seed: int = 0) -> list[str]:
        program = ("dogs = image.find('circle')", "n = len(dogs)", "answer = str(n)")
        return [program[len(blocks)]] * n


def test_any_question_can_be_labelled() -> None:
    places = [Region(0.1 + 0.3 * i, 0.4, 0.2 + 0.3 * i, 0.6) for i in range(3)]
    truth, seen = (ThingScene([Thing(p, "circle") for p in places[:n]]) for n in (3, 2))
    with Sandbox() as sandbox:
        question = Question("How many circles?", answer="3")
        [(found, steps)] = label_programs(question, Recorded(), sandbox.run, seen, truth, leaves=4)
        np.testing.assert_array_equal(found.labels, [[1, 1, 0], [1, 1, np.nan], [1, 1, np.nan]])
        assert not found.right
        assert len(steps) == 3
        with pytest.raises(ValueError, match="must have its true answer"):
            label_programs(Question("How many?"), Recorded(), sandbox.run, seen, truth)
        grey = np.zeros((4, 4, 3), np.uint8)
        for images in ([grey, grey], [Video([grey])]):
            with pytest.raises(ImageError, match="must have one picture at most"):
                label_programs(Question("How many?", images, answer="3"), Recorded(), sandbox.run, seen, truth)


def test_records_of_other_pictures_bring_them_along(tmp_path: Path) -> None:
    picture = np.full((6, 5, 3), 200, np.uint8)
    question = Question("How many circles?", [picture], answer="3", id="dogs/1")
    truth = ThingScene([Thing(Region(0.3 * i, 0.4, 0.3 * i + 0.2, 0.6), "circle") for i in range(3)])
    with Sandbox() as sandbox:
        [(found, steps)] = label_programs(question, Recorded(), sandbox.run, truth, truth, leaves=4)
    made = [record_of(question, found, steps, tmp_path, id=f"dogs/1#{i}", generator="by hand") for i in range(2)]
    write_svip(made, tmp_path / "train-0.jsonl")
    again = list(read_svip(tmp_path))
    assert [r.to_json() for r in again] == [r.to_json() for r in made]
    assert len(list((tmp_path / "images").iterdir())) == 1
    np.testing.assert_array_equal(open_image(again[1].to_question().images[0]), picture)
    assert (again[0].family, again[0].outcome, again[0].puzzle()) == ("dogs", 1, None)


# ---- the card ----------------------------------------------------------------------------------------


def test_the_card_counts_what_is_there(whole: Path) -> None:
    card = json.loads((whole / "card.json").read_text())
    records = list(read_svip(whole))
    assert card["counts"]["train"]["trajectories"] + card["counts"]["test"]["trajectories"] == len(records)
    assert sum(c["steps"] for c in card["counts"].values()) == sum(len(r.steps) for r in records)
    assert card["families"] == {f: sum(r.family == f for r in records) for f in card["families"]}
    for histogram in card["labels"].values():
        assert sum(histogram["bins"]) + histogram["missing"] == sum(len(r.steps) for r in records)
    assert card["unusable"] == 0
    assert card["agreement"]["trajectories"] == len(records)
    assert card["agreement"]["attribute"]["same_verdict"] > 0.8
    ids = {r.id for r in records}
    assert all(c["example"] in ids for c in card["combinations"].values())
    text = (whole / "README.md").read_text()
    assert text == card_markdown(card)
    assert card["fingerprint"] in text


def test_the_card_of_a_damaged_set(tmp_path: Path, whole: Path) -> None:
    lines = (whole / "train-00000.jsonl").read_text()
    (tmp_path / "train-00000.jsonl").write_text(lines + '{"version": 1, "id"')
    card = write_card(tmp_path)
    assert card["unusable"] == 1
    assert card["counts"]["train"]["trajectories"] == 10
    with pytest.raises(ValueError, match="`folder` must hold"):
        data_card(tmp_path / "gone")
