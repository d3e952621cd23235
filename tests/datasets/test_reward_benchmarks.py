"""The public formats, a test for each of their traps, and whatever else a file may hold."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svip_search import Question
from svip_search._errors import ImageError
from svip_search.datasets.reward_benchmarks import (
    PairItem,
    PrefixItem,
    RecordError,
    StepsItem,
    load_mm_rlhf_rewardbench,
    load_mmprm_bon,
    load_svip_test,
    load_visualprocessbench,
    load_vl_rewardbench,
    load_vlrmbench,
)  # fmt: skip
from svip_search.datasets.svip import generator_version


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(stream, "PNG")
    return stream.getvalue()


def write(file: Path, *records: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png())
    return path


VLRM = {
    "id": "4d", "image": ["math/1.png"], "question": "Which?", "category": "location_error",
    "step_list": ["STEP1: See A.\n\n", "STEP2: It is above.\n\n", "STEP3: So A."],
    "reasoning_error": "STEP1: See A.\n\n\nSTEP2:  It is\nbelow.\nSTEP3: So A.\n\n\n", "task_gt": [0, 1, 0],
}  # fmt: skip
VPB = {
    "image": ["images/1.png"], "question": "<image>\nHow many?", "answer": "5", "policy_model": "m",
    "data_source": "MMMU", "response": {"steps": ["a", "b", "c"], "process_correctness": [1, 0, -1]},
}  # fmt: skip
VLR = {
    "id": "RLAIF-V-14", "image_path": "images/rlaif-v/14.png", "query": "What?", "response": ["A dog.", "A cat."],
    "human_ranking": [0, 1], "models": ["m", "m"], "judge": "human", "rationale": None, "query_source": "COCO",
    "meta": {},
}  # fmt: skip
RLHF = {
    "id": 7, "image": "mcq/7.png", "prompt": "<image>\nWhich?", "chosen": "B", "rejected": "A", "chosen_reason": "!",
    "rejected_reason": "!",
}  # fmt: skip
BON = {
    "question": "2 + 3?", "image_path": "1.png", "solutions_splits": [["6"], ["Add.", "5"], []], "labels": [0, 1, 0],
    "prm_scores": [[1.0], [0.0, 0.0], []],
}  # fmt: skip


# ---- VLRMBench -----------------------------------------------------------------------------------


@pytest.fixture
def vlrm(tmp_path: Path) -> Path:
    picture(tmp_path / "meta_data" / "Image" / "math" / "1.png")
    return tmp_path


def test_vlrm_judges_reasoning_error_and_not_the_original(vlrm: Path) -> None:
    write(vlrm / "benchmark_data" / "location_error.jsonl", VLRM)
    [item] = load_vlrmbench(vlrm)
    assert isinstance(item, StepsItem)
    assert item.steps == ("See A.", "It is below.", "So A.")
    assert item.right == (True, False, True)  # a 1 is an error
    assert Path(item.images[0]).is_file()
    assert (item.group, item.id) == ("location_error", "location_error/4d")


def test_vlrm_line_breaks_do_not_give_the_edited_step_away(vlrm: Path) -> None:
    write(vlrm / "benchmark_data" / "location_error.jsonl", VLRM)
    [item] = load_vlrmbench(vlrm)
    assert isinstance(item, StepsItem)
    assert all(step == " ".join(step.split()) for step in item.steps)


def test_vlrm_a_step_may_quote_a_mark(vlrm: Path) -> None:
    text = "STEP1: As STEP2: will show.\nSTEP2: It is so, see STEP1: above.\n"
    write(vlrm / "benchmark_data" / "detail_error.jsonl", VLRM | {"reasoning_error": text, "task_gt": [0, 1]})
    [item] = load_vlrmbench(vlrm)
    assert isinstance(item, StepsItem)
    assert item.steps == ("As STEP2: will show.", "It is so, see STEP1: above.")
    inline = "STEP1: One. STEP2: Two."  # other files have all in one line
    write(vlrm / "benchmark_data" / "detail_error.jsonl", VLRM | {"reasoning_error": inline, "task_gt": [0, 1]})
    assert load_vlrmbench(vlrm)[0].steps == ("One.", "Two.")  # type: ignore[attr-defined]


def test_vlrm_outcome_tasks(vlrm: Path) -> None:
    folder = vlrm / "benchmark_data"
    whole = {k: v for k, v in VLRM.items() if k != "reasoning_error"}
    write(folder / "foresight.jsonl", VLRM | {"task_gt": True}, whole | {"task_gt": "False", "id": "w"})
    write(folder / "multi_solution.jsonl", VLRM)
    items = {item.id: item for item in load_vlrmbench(vlrm)}
    first, second = items["foresight/4d"], items["foresight/w"]
    assert isinstance(first, PrefixItem)
    assert isinstance(second, PrefixItem)
    assert (first.steps[1], first.right) == ("It is below.", True)
    assert (second.steps[1], second.right) == ("It is above.", False)
    pair = items["multi_solution/4d"]
    assert isinstance(pair, PairItem)
    assert pair.responses[pair.better][1] == "It is above."


def test_vlrm_leaves_out_what_the_authors_left_out_and_what_asks_for_text(vlrm: Path) -> None:
    folder = vlrm / "benchmark_data"
    write(folder / "step_correctness.jsonl", VLRM | {"error_info": "x"}, VLRM)
    write(folder / "error_correction.jsonl", {"nothing": "like the rest"})
    assert [item.id for item in load_vlrmbench(vlrm)] == ["step_correctness/4d"]
    with pytest.raises(ValueError, match=r"`tasks` must be among .*got 'error_correction' \(its answers are texts\)"):
        load_vlrmbench(vlrm, ["error_correction"])
    write(folder / "foresight.jsonl")
    with pytest.raises(ValueError, match="has no redundant_det"):
        load_vlrmbench(vlrm, ["redundant_det"])


@pytest.mark.parametrize("folder", [".", "data", "v1/benchmark_data"])
def test_vlrm_in_a_slightly_different_layout(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / "Pictures" / "math" / "1.png")
    write(tmp_path / folder / "step_correctness.jsonl", VLRM)
    assert len(load_vlrmbench(tmp_path, images=tmp_path / "Pictures")) == 1
    renamed = write(tmp_path / "other" / "mine.jsonl", VLRM)  # then the category tells
    assert load_vlrmbench(renamed, images=tmp_path / "Pictures")[0].group == "location_error"


# ---- VisualProcessBench --------------------------------------------------------------------------


def test_vpb_zero_is_neutral_and_the_answer_stays_away(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.png")
    write(tmp_path / "test.jsonl", VPB)
    [item] = load_visualprocessbench(tmp_path)
    assert item.right == (True, None, False)
    assert item.group == "MMMU"
    question = item.to_question()
    assert isinstance(question, Question)
    assert (question.text, question.answer) == ("How many?", None)


@pytest.mark.parametrize(
    "change",
    [
        {"response": json.dumps(VPB["response"])},
        {"response": {"step_list": ["a", "b", "c"], "labels": ["correct", "neutral", "incorrect"]}},
        {"response": [{"step": s, "correctness": c} for s, c in zip("abc", (1, 0, -1), strict=True)]},
        {"response": ["a", "b", "c"], "process_correctness": [1.0, 0.0, -1.0]},
        {"response": None, "steps": ["a", "b", "c"], "process_correctness": ["1", "0", "-1"]},
    ],
)
def test_vpb_inner_names_may_differ(tmp_path: Path, change: dict[str, Any]) -> None:
    picture(tmp_path / "images" / "1.png")
    [item] = load_visualprocessbench(write(tmp_path / "test.jsonl", VPB | change))
    assert (item.steps, item.right) == (("a", "b", "c"), (True, None, False))


# ---- VL-RewardBench ------------------------------------------------------------------------------


def test_vlr_rank_0_is_the_better_one_and_ids_repeat(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "images" / "rlaif-v" / "14.png")
    write(tmp_path / "data" / "data.jsonl", VLR, VLR | {"human_ranking": [1, 0]})
    first, second = load_vl_rewardbench(tmp_path)
    assert first.responses[first.better] == ("A dog.",)
    assert second.responses[second.better] == ("A cat.",)
    assert (first.id, second.id) == ("RLAIF-V-14", "RLAIF-V-14#2")
    assert [i.id for i in load_vl_rewardbench(tmp_path / "data")] == ["RLAIF-V-14", "RLAIF-V-14#2"]


@pytest.mark.parametrize(
    ("record", "group"),
    [
        ({"image_path": "images/vlfeedback/x.png"}, "general"),
        ({"image_path": "images/wildvision-battle/x.png"}, "general"),
        ({"image_path": "images/povid/x.png"}, "hallucination"),
        ({"image_path": "images/reasoning_tasks/x.png"}, "reasoning"),
        ({"image_path": None, "id": "mathverse_12"}, "reasoning"),
        ({"image_path": None, "id": "mmmu-3"}, "reasoning"),
        ({"image_path": None, "id": "RLHF-V-3"}, "hallucination"),
        ({"image_path": None, "id": "hallucination_pair-3"}, "hallucination"),
        ({"image_path": None, "id": "wildvision-battle-3"}, "general"),
        ({"image_path": None, "id": "LRVInstruction-3"}, "general"),
    ],
)
def test_vlr_group_is_told_by_the_path_or_the_id(tmp_path: Path, record: dict[str, Any], group: str) -> None:
    file = write(tmp_path / "data.jsonl", VLR | record)
    assert load_vl_rewardbench(file, check_images=False)[0].group == group


def test_vlr_parquet_holds_the_pictures(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {k: v for k, v in VLR.items() if k not in ("image_path", "meta", "rationale")}
    row["image"] = {"bytes": png(), "path": None}
    (tmp_path / "data").mkdir()
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "data" / "test-00000-of-00001.parquet")
    [item] = load_vl_rewardbench(tmp_path)
    assert item.group == "hallucination"
    assert item.to_question().images[0].size == (40, 40)
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 but cut")
    with pytest.raises(RecordError, match="not a readable Parquet file"):
        load_vl_rewardbench(tmp_path)


def test_pictures_may_be_base64(tmp_path: Path) -> None:
    text = base64.b64encode(png()).decode()
    long = base64.b64encode(png() + bytes(400)).decode()  # what follows a PNG's end is not read
    file = write(tmp_path / "data.jsonl", VLR | {"image": f"data:image/png;base64,{text}"}, VLR | {"image": long})
    for item in load_vl_rewardbench(file):
        assert item.to_question().images[0].size == (40, 40)
    broken = load_vl_rewardbench(write(file, VLR | {"image": "data:image/png;base64,AAAA"}))[0]
    with pytest.raises(ImageError):
        broken.to_question()


# ---- MM-RLHF-RewardBench, MM-PRM -----------------------------------------------------------------


def test_rlhf_pairs_share_ids_and_the_path_tells_the_category(tmp_path: Path) -> None:
    picture(tmp_path / "mcq" / "7.png")
    write(tmp_path / "mm_reward_bench.jsonl", RLHF, RLHF | {"rejected": "C"})
    first, second = load_mm_rlhf_rewardbench(tmp_path)
    assert (first.id, second.id) == ("7", "7#2")
    assert first.question_id == second.question_id == "7"
    assert (first.group, first.better, first.responses) == ("mcq", 0, (("B",), ("A",)))
    assert "!" not in repr(first)  # the reasons tell the answer


def test_rlhf_films_are_folders_of_frames(tmp_path: Path) -> None:
    for i in range(50):
        picture(tmp_path / "video" / "f" / f"{i:03}.jpg")
    file = write(
        tmp_path / "mm_reward_bench.jsonl", {k: v for k, v in RLHF.items() if k != "image"} | {"video": "video/f"}
    )
    [item] = load_mm_rlhf_rewardbench(file, frames=8)
    assert item.group == "video"
    assert [Path(i).stem for i in item.images][::7] == ["000", "049"]
    assert len(item.images) == 8
    with pytest.raises(ValueError, match="`frames` must be a positive integer; got 0"):
        load_mm_rlhf_rewardbench(file, frames=0)
    write(file, {k: v for k, v in RLHF.items() if k != "image"} | {"video": "video/f/000.jpg"})
    with pytest.raises(RecordError, match="`video` must be a folder of frames"):
        load_mm_rlhf_rewardbench(file)


def test_bon_keeps_empty_solutions_in_their_place_and_reads_no_scores(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "1.png")
    (tmp_path / "k12.json").write_text(json.dumps([BON]))
    (tmp_path / "k12_score.json").write_text(json.dumps({"min": {"correct": 1}}))
    [item] = load_mmprm_bon(tmp_path, images=tmp_path / "pictures")
    assert item.solutions == (("6",), ("Add.", "5"), ())
    assert item.right == (False, True, False)
    assert "1.0" not in repr(item)


# ---- SVIP-Test -----------------------------------------------------------------------------------


def svip(name: str = "a", **change: Any) -> dict[str, Any]:
    return {
        "version": 1, "id": name, "family": "f", "question": "q?", "options": [], "answer": "1",
        "images": [{"puzzle": [1, 2], "pixels": 64}], "program": [], "results": [], "errors": [],
        "steps": ["x", "y"], "labels": [[1, 1, None], None], "outcome": 1, "source": "program", "seed": 1,
        "generator": generator_version(), "sandbox": "",
    } | change  # fmt: skip


def test_svip_reads_the_held_out_part_only(tmp_path: Path) -> None:
    write(tmp_path / "train-00000.jsonl", svip("t"))
    with pytest.raises(ValueError, match="has a training part alone, which is not for judging"):
        load_svip_test(tmp_path)
    write(tmp_path / "test-00000.jsonl", svip("a"), svip("b"))
    assert [r.id for r in load_svip_test(tmp_path)] == ["a", "b"]
    other = write(tmp_path / "own" / "mine.jsonl", svip("a"))
    assert [r.id for r in load_svip_test([tmp_path, other.parent])] == ["a", "b", "a#again2"]


def test_svip_refuses_puzzles_of_another_version(tmp_path: Path) -> None:
    file = write(tmp_path / "test-0.jsonl", svip("old", generator="puzzles-0"), svip("new"))
    with pytest.raises(RecordError, match="record 'old': `generator` must be 'puzzles-"):
        load_svip_test(file)
    problems: list[RecordError] = []
    assert [r.id for r in load_svip_test(file, on_error=problems.append)] == ["new"]
    assert len(problems) == 1


# ---- whatever a file may hold --------------------------------------------------------------------

LOADERS: dict[str, tuple[Callable[..., list[Any]], dict[str, Any], str]] = {
    "vlrmbench": (load_vlrmbench, VLRM, "location_error.jsonl"),
    "visualprocessbench": (load_visualprocessbench, VPB, "test.jsonl"),
    "vl-rewardbench": (load_vl_rewardbench, VLR, "data.jsonl"),
    "mm-rlhf-rewardbench": (load_mm_rlhf_rewardbench, RLHF, "mm_reward_bench.jsonl"),
    "mmprm-bon": (load_mmprm_bon, BON, "k12.jsonl"),
}
EACH = pytest.mark.parametrize("name", LOADERS)


@EACH
def test_a_cut_line_costs_that_line_alone(name: str, tmp_path: Path) -> None:
    load, record, file = LOADERS[name]
    path = write(tmp_path / file, record, record)
    whole = load(path, check_images=False)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordError, match=r"line 2: not valid JSON .*The line is cut\.") as error:
        load(path, check_images=False)
    assert str(path) in str(error.value)
    problems: list[RecordError] = []
    assert load(path, check_images=False, on_error=problems.append) == whole[:1]
    assert len(problems) == 1


@EACH
def test_a_json_list_will_do_for_lines(name: str, tmp_path: Path) -> None:
    load, record, file = LOADERS[name]
    lines = load(write(tmp_path / file, record, record), check_images=False)
    (tmp_path / file).write_text(json.dumps([record, record], indent=1))
    assert load(tmp_path / file, check_images=False) == lines
    assert load(tmp_path, check_images=False) == lines


@EACH
def test_missing_pictures_are_named(name: str, tmp_path: Path) -> None:
    load, record, file = LOADERS[name]
    with pytest.raises(RecordError, match=r"line 1: the image '.*\.png' does not exist"):
        load(write(tmp_path / file, record))


@EACH
def test_nothing_there_is_one_line(name: str, tmp_path: Path) -> None:
    load = LOADERS[name][0]
    with pytest.raises(ValueError, match=r"`data` must be a file or folder of .*there is no '"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"`data` must hold .* has none"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vlrmbench", {"task_gt": [0, 2, 0]}, "`task_gt` must be true or false, or 1 or 0; got 2"),
        ("vlrmbench", {"task_gt": [0, 1]}, "`task_gt` must have one entry a step of `reasoning_error`, 3; got 2"),
        ("vlrmbench", {"reasoning_error": None}, "`reasoning_error` is missing"),
        ("visualprocessbench", {"response": {"steps": ["a"], "process_correctness": [3]}}, "must be 1, 0 or -1; got 3"),
        ("visualprocessbench", {"response": {"steps": ["a"], "process_correctness": [1, 1]}}, "a step, 1; got 2"),
        ("visualprocessbench", {"response": {"steps": ["a"]}}, "`process_correctness` (or "),
        ("visualprocessbench", {"response": 3}, "`response` must be an object of `steps` and `process_correctness`"),
        ("vl-rewardbench", {"human_ranking": [1, 2]}, "`human_ranking` must be [0, 1] or [1, 0]"),
        ("vl-rewardbench", {"human_ranking": [0, 0]}, "`human_ranking` must be [0, 1] or [1, 0]"),
        ("vl-rewardbench", {"response": ["one"]}, "`response` must be two texts"),
        ("vl-rewardbench", {"query": " "}, "`query` must be a text that is not empty"),
        ("mm-rlhf-rewardbench", {"chosen": None}, "`chosen` is missing"),
        ("mmprm-bon", {"labels": [0]}, "`labels` must have one entry a solution, 3; got 1"),
        ("mmprm-bon", {"labels": [0, 0.5, 0]}, "`labels` must be true or false, or 1 or 0; got 0.5"),
    ],
)  # fmt: skip
def test_bad_records_are_one_line(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    load, record, file = LOADERS[name]
    with pytest.raises(RecordError) as error:
        load(write(tmp_path / file, record | change), check_images=False)
    assert message in str(error.value)
    assert "line 1: " in str(error.value)
    assert "\n" not in str(error.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(LOADERS)), data=st.data(), images=st.booleans())
def test_no_record_raises_anything_else(name: str, data: Any, images: bool, tmp_path: Path) -> None:
    load, record, file = LOADERS[name]
    inner = data.draw(st.sampled_from(["record", "response", "whole"]))
    if inner == "whole":
        changed = data.draw(VALUES)
    elif inner == "response" and isinstance(record.get("response"), dict):
        part = dict(record["response"])
        part[data.draw(st.sampled_from(sorted(part)))] = data.draw(VALUES)
        changed = record | {"response": part}
    else:
        changed = dict(record)
        changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(VALUES)
    path = tmp_path / file
    path.write_text(json.dumps(changed) + "\n")
    problems: list[RecordError] = []
    for item in load(path, check_images=images, on_error=problems.append):
        assert item.to_question().text.strip()
    assert all("\n" not in str(problem) for problem in problems)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(LOADERS)), content=st.binary(max_size=200), cut=st.integers(0, 400))
def test_no_bytes_raise_anything_else(name: str, content: bytes, cut: int, tmp_path: Path) -> None:
    load, record, file = LOADERS[name]
    path = tmp_path / file
    path.write_bytes(json.dumps(record).encode()[:cut] + content)
    load(path, check_images=False, on_error=lambda error: None)
