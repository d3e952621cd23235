"""Records of labelled trajectories: what is written comes back, and what is wrong is named."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svip_search.datasets import _drawn, svip
from svip_search.datasets.planning import generate_plan
from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.puzzles.labels import label_steps
from svip_search.datasets.svip import (
    RecordError,
    SvipRecord,
    generator_version,
    is_correct,
    read_svip,
    record_of_chain,
    write_svip,
)

NAN = math.nan
FORMATS = ("jsonl", "parquet")


def record(index: int = 0, **changes: Any) -> SvipRecord:
    puzzle = generate_puzzle(12_345, index, pixels=32)
    blocks = len(puzzle.steps)
    made = SvipRecord(
        id=f"{puzzle.question.id}#0", family=puzzle.family, question=puzzle.question.text,
        options=tuple(puzzle.question.options), answer=puzzle.answer,
        images=({"puzzle": [12_345, index], "pixels": 32},),
        program=tuple(f"x{i} = {i}" for i in range(blocks)), results=tuple(range(blocks)), errors=("",) * blocks,
        steps=puzzle.steps, labels=label_steps(puzzle, puzzle.steps), outcome=1, source="program", seed=3,
        generator=generator_version(), sandbox="monty+bwrap",
    )  # fmt: skip
    return replace(made, **changes)


def same(a: SvipRecord, b: SvipRecord) -> bool:
    return json.dumps(a.to_json(), sort_keys=True) == json.dumps(b.to_json(), sort_keys=True)


finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.text() | finite,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
labels = st.lists(st.sampled_from([0.0, 0.25, 0.3333, 1.0, NAN]), min_size=3, max_size=3)


@st.composite
def records(draw: st.DrawFn) -> SvipRecord:
    size = draw(st.integers(1, 4))
    text = st.text(max_size=20)
    blocks = draw(st.sampled_from([0, size]))

    def many(of: st.SearchStrategy[Any], n: int) -> tuple[Any, ...]:
        return tuple(draw(st.lists(of, min_size=n, max_size=n)))

    return record(
        program=many(text, blocks), results=many(json_values, blocks), errors=many(text, blocks),
        steps=many(text, size), labels=np.array(many(labels, size), np.float32), outcome=draw(st.integers(0, 1)),
        extra={f"x-{k}": v for k, v in draw(st.dictionaries(text, json_values, max_size=2)).items()},
        options=(), answer=draw(st.none() | text),
    )  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
@given(found=st.lists(records(), max_size=4))
@settings(max_examples=40, deadline=None)
def test_what_is_written_comes_back(
    kind: str, found: list[SvipRecord], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("pyarrow" if kind == "parquet" else "json")
    if kind == "parquet":  # Arrow holds Unicode texts only: half a surrogate pair is none
        found = [r for r in found if "\\ud" not in json.dumps(r.to_json())]
    path = tmp_path_factory.mktemp("records") / f"data.{kind}"
    assert write_svip(found, path) == len(found)
    again = list(read_svip(path))
    assert len(again) == len(found)
    assert all(map(same, found, again))
    for a, b in zip(found, again, strict=True):
        np.testing.assert_allclose(a.labels, b.labels, atol=1e-4)


def test_the_picture_is_drawn_again(tmp_path: Path) -> None:
    write_svip([record(5)], tmp_path / "a.jsonl")
    [found] = read_svip(tmp_path)
    puzzle = found.puzzle()
    assert puzzle is not None
    assert puzzle.steps == found.steps
    question = found.to_question()
    assert question.options == found.options
    np.testing.assert_array_equal(question.images[0], generate_puzzle(12_345, 5, pixels=32).image)


def test_pictures_of_another_generator_are_refused() -> None:
    with pytest.raises(RecordError, match=r"`generator` must be 'puzzles-.*got 'puzzles-old'"):
        record(generator="puzzles-old").puzzle()


def test_picture_files_are_found_beside_the_records(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (3, 2), "red").save(tmp_path / "images" / "a.png")
    write_svip([record(images=("images/a.png",))], tmp_path / "a.jsonl")
    [found] = read_svip(tmp_path)
    assert found.puzzle() is None
    with Image.open(found.to_question().images[0]) as picture:
        assert picture.size == (3, 2)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(RecordError, match=r"a\.jsonl, line 1: `images\[0\]`: there is no picture"):
        list(read_svip(tmp_path))
    assert len(list(read_svip(tmp_path, check_images=False))) == 1


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"version": 2}, "`version` must be 1; got 2"),
    "no version": ({"version": None}, "`version` must be 1"),
    "a label above 1": ({"labels": [[1, 1.5, 1]]}, r"`labels\[0\]` must be null or three numbers"),
    "a negative label": ({"labels": [[-0.1, 1, 1]]}, r"`labels\[0\]`"),
    "a label that is true": ({"labels": [[True, 1, 1]]}, r"`labels\[0\]`"),
    "two labels": ({"labels": [[1, 1]]}, r"`labels\[0\]`"),
    "labels for another step": ({"labels": [[1, 1, 1]] * 2}, "`labels` must be as long as `steps`, 1; got 2"),
    "no steps": ({"steps": [], "labels": [], "program": [], "results": [], "errors": []}, "`steps`"),
    "a step that is no text": ({"steps": [1]}, "`steps`"),
    "a result too many": ({"results": [1, 2]}, "`results` must be as long as `program`"),
    "a program of another length": (
        {"program": ["a", "b"], "results": [1, 2], "errors": ["", ""]}, "`program` must be empty or as long"),
    "an outcome of 2": ({"outcome": 2}, "`outcome` must be 0 or 1; got 2"),
    "an outcome of true": ({"outcome": True}, "`outcome`"),
    "an answer that is no option": ({"options": ["a"], "answer": "b"}, "`answer` must be one of"),
    "a picture outside": ({"images": ["../a.png"]}, r"`images\[0\]` must be a path below"),
    "a picture at an absolute path": ({"images": ["/a.png"]}, r"`images\[0\]`"),
    "a puzzle without numbers": ({"images": [{"puzzle": [1]}]}, r"`images\[0\]`"),
    "a puzzle of a negative index": ({"images": [{"puzzle": [1, -1], "pixels": 8}]}, r"`images\[0\]`"),
    "a puzzle of a million pixels": ({"images": [{"puzzle": [1, 1], "pixels": 10**6}]}, r"`images\[0\]`"),
    "an empty id": ({"id": " "}, "`id`"),
    "a seed that is a text": ({"seed": "1"}, "`seed` must be a whole number; got '1'"),
}  # fmt: skip


def small(**changes: Any) -> dict[str, Any]:
    plain = record(steps=("s",), labels=np.ones((1, 3), np.float32), program=("a",), results=(1,), errors=("",))
    return plain.to_json() | changes


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    changes, message = BROKEN[name]
    lines = [small(), small(**changes), small(id="last")]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    with pytest.raises(RecordError, match=rf"data\.jsonl, line 2: {message}"):
        list(read_svip(path))
    problems: list[RecordError] = []
    found = list(read_svip(path, on_error=problems.append))
    assert [r.id for r in found] == [small()["id"], "last"]
    assert len(problems) == 1


@pytest.mark.parametrize("field", sorted(set(small()) - {"version"}))
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(RecordError, match=f"`{field}` is missing"):
        SvipRecord.from_json({name: value for name, value in small().items() if name != field})


@pytest.mark.parametrize("line", [b"[]", b"7", b'"x"', b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"labels": NaN}'])
def test_a_line_that_is_no_record(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(line + b"\n")
    with pytest.raises(RecordError, match=r"a\.jsonl, line 1: "):
        list(read_svip(tmp_path))


@pytest.mark.parametrize("cut", range(1, 2000, 97))
def test_a_cut_file_loses_its_last_record_only(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_svip([record(i) for i in range(3)], path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    problems: list[RecordError] = []
    found = list(read_svip(path, on_error=problems.append))
    ends = whole[:-cut].count(b"\n") + (cut == 1)  # without its line end the last one is still whole
    assert len(found) == ends
    assert len(problems) == (not whole[:-cut].endswith(b"\n") and cut > 1)
    if problems:
        assert "The line is cut." in str(problems[0])


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(small(mood="good", depth={"a": [1]})) + "\n\n")
    [found] = read_svip(path)
    assert found.extra == {"mood": "good", "depth": {"a": [1]}}
    for kind in FORMATS:
        write_svip([found], tmp_path / f"again.{kind}")
        [again] = read_svip(tmp_path / f"again.{kind}")
        assert again.extra == found.extra


def test_nothing_to_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(ValueError, match="`path` must"):
            list(read_svip(path))
    with pytest.raises(ValueError, match=r"must end in \.jsonl or \.parquet"):
        write_svip([], tmp_path / "a.csv")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_broken_parquet_file(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(RecordError, match=r"a\.parquet, as a whole: not a readable Parquet file"):
        list(read_svip(tmp_path))


def test_a_parquet_file_of_something_else(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(RecordError, match="row 1: not a row of this format"):
        list(read_svip(tmp_path))


def test_a_failing_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    write_svip([record(0)], path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(svip.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_svip([record(1)], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_full_disk(tmp_path: Path) -> None:
    """The real thing, where a small file system may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        write_svip([record(0)], place / "a.jsonl")
        with pytest.raises(OSError, match="No space left"):
            write_svip([record(i % 50) for i in range(200)], place / "b.jsonl")
        assert os.listdir(place) == ["a.jsonl"]
    finally:
        subprocess.run(["umount", place], check=True)


# ---- planning puzzles --------------------------------------------------------------------------------


def test_a_planning_puzzle_is_drawn_again_as_it_was(tmp_path: Path) -> None:
    plans = [
        generate_plan(5, 2, pixels=64),
        generate_plan(5, 2, pixels=64, moves=(3, 4)),
        generate_plan(5, 2, pixels=64, families=["maze", "water_jugs"], moves=(2, 2)),
    ]
    write_svip([record_of_chain(plan, plan.steps) for plan in plans], tmp_path / "plans.jsonl")
    for plan, found in zip(plans, read_svip(tmp_path), strict=True):
        again = found.plan()
        assert again is not None
        assert (again.cells, again.question.text, again.steps) == (plan.cells, plan.question.text, plan.steps)
        assert found.outcome == 1
        assert found.puzzle() is None
        np.testing.assert_array_equal(found.to_question().images[0], plan.image)


def test_the_domains_have_versions_of_their_own() -> None:
    plan, puzzle = generate_plan(5, 2, pixels=64), generate_puzzle(5, 2)
    assert record_of_chain(puzzle, puzzle.steps).generator == generator_version()
    found = record_of_chain(plan, plan.steps)
    assert found.generator == generator_version("planning") != generator_version()
    with pytest.raises(RecordError, match="`generator` must be 'plans-"):
        replace(found, generator=generator_version()).plan()


@pytest.mark.parametrize(
    "image",
    [
        {"plan": [1], "pixels": 8},
        {"plan": [1, -1], "pixels": 8},
        {"plan": [1, 1], "pixels": 8, "moves": [4, 3]},
        {"plan": [1, 1], "pixels": 8, "moves": 3},
        {"plan": [1, 1], "pixels": 8, "families": []},
        {"plan": [1, 1], "pixels": 8, "families": ["venn"]},
    ],
)
def test_a_bad_recipe_of_a_plan_names_its_place(image: dict[str, Any]) -> None:
    plan = generate_plan(5, 2, pixels=64)
    data = record_of_chain(plan, plan.steps).to_json() | {"images": [image]}
    with pytest.raises(RecordError, match=r"`images\[0\]`"):
        SvipRecord.from_json(data)


# ---- scenes and steps ---------------------------------------------------------------------------------


def test_which_steps_are_right_keeps_what_is_unknown() -> None:
    labels = np.array([[0.5, 0.51, 0.98], [1.0, NAN, 1.0]], np.float32)
    np.testing.assert_array_equal(is_correct(labels), [[0, 1, 0], [1, NAN, 1]])


def test_the_generator_version_tells_scenes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = generator_version()
    made = _drawn.generate_puzzle
    monkeypatch.setattr(_drawn, "generate_puzzle", lambda seed, index, **more: made(seed, index + 1, **more))
    generator_version.cache_clear()
    try:
        assert generator_version() != before
    finally:
        generator_version.cache_clear()
