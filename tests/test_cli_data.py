"""The command line for data sets: what it builds, what it prints, one line for whatever is wrong."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from svip_search.cli import data
from svip_search.datasets.svip import read_svip


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    data.add_command(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["data", *map(str, words)])
    return int(arguments.run(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 20 trajectories, built by the command."""
    out = tmp_path_factory.mktemp("data") / "set"
    assert run("build", "--out", out, "--n", 20, "--pixels", 32, "--leaves", 5, "--families", "venn,triangle") == 0
    return out


def test_build_says_where_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "--out", folder, "--n", 20, "--pixels", 32, "--leaves", 5, "--families", "venn,triangle") == 0
    captured = capsys.readouterr()
    assert captured.out.replace("\n", "") == f"saved to {folder}"
    assert "trajectories 20/20" in captured.err
    assert {r.family for r in read_svip(folder)} <= {"venn", "triangle"}


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("build", "--help")
    shown = capsys.readouterr().out
    for flag in ("--n ", "--jobs ", "--seed ", "--error-rate ", "--noise ", "--policy ", "--parquet"):
        assert flag in shown


def test_card_is_made_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "README.md").read_text()
    (folder / "README.md").unlink()
    assert run("card", folder) == 0
    assert (folder / "README.md").read_text() == before
    assert capsys.readouterr().out == before


def test_show_prints_a_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = list(read_svip(folder))[3]
    assert run("show", folder, "--id", record.id) == 0
    shown = capsys.readouterr().out
    assert record.id in shown
    assert all(step in shown for step in record.steps)
    assert record.program[0].splitlines()[0] in shown


def test_show_writes_a_page_and_counts_what_it_skips(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "train-00000.jsonl").read_text()
    path = tmp_path / "data.jsonl"
    path.write_text('{"version": 7}\n' + lines + '{"version": 7}\n' + lines[:40])
    assert run("show", path, "--html", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert all(json.dumps(r.id)[1:-1] in page for r in read_svip(folder / "train-00000.jsonl"))
    err = " ".join(capsys.readouterr().err.split())
    assert "skipped 2" in err
    assert "`version` must be 1; got 7" in err


def test_a_record_that_is_not_there(folder: Path) -> None:
    with pytest.raises(data.UsageError, match="has no record named 'x'"):
        run("show", folder, "--id", "x")


def test_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`vision` must be one of"):
        run("build", "--out", tmp_path, "--vision", "x-ray")


def test_show_says_why_nothing_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text('{"version": 1, "id": "a', encoding="utf-8")
    with pytest.raises(data.UsageError, match=r"no record that can be used: .*cut.jsonl, line 1: not valid JSON"):
        run("show", path)
