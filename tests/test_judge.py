"""Benchmarks of reward models: figures known by hand, runs that continue, and one line for whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svip_search import Question, RewardError
from svip_search._aggregate import Scoring
from svip_search._errors import ImageError
from svip_search._types import DIMENSIONS, Prefix
from svip_search.cli import main
from svip_search.cli.judge import BENCHMARKS as NAMES
from svip_search.datasets.reward_benchmarks import RecordError
from svip_search.datasets.svip import generator_version, is_correct
from svip_search.evaluation.judge import BENCHMARKS, judge
from svip_search.evaluation.metrics import auroc, calibration_error, f1
from svip_search.evaluation.reliability_figure import reliability_figure
from svip_search.models import zoo
from svip_search.testing import FaultyReward, HashReward, RewardFault

HAVE_MODELS = "svip-tiny" in {model.name for model in zoo.list_models()}


class WordReward:
    """Rewards a step by its last word: ``0.9/0.1/0.5``, or one number for all dimensions."""

    kind = "prm"

    def __init__(self, scoring: Scoring | None = None) -> None:
        self.scoring = scoring
        self.calls: list[tuple[Prefix, ...]] = []

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        self.calls.append(tuple(paths))
        return [np.array([self.step(step) for step in path], np.float32) for path in paths]

    @staticmethod
    def step(text: str) -> list[float]:
        numbers = [float(n) for n in text.split()[-1].split("/")]
        return numbers * 3 if len(numbers) == 1 else numbers


class Constant(WordReward):
    """Says the same of everything."""

    @staticmethod
    def step(text: str) -> list[float]:
        return [0.5, 0.5, 0.5]


class WholePaths(WordReward):
    """The same as one number a path: that of its last step."""

    kind = "orm"

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[Any]:
        self.calls.append(tuple(paths))
        return [np.float32(np.mean(self.step(path[-1]))) for path in paths]


def write(file: Path, records: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def value(report: Any, table: str, row: str, column: str) -> Any:
    return report.to_dict()["tables"][table][row][column]["value"]


# ---- SVIP-Test -----------------------------------------------------------------------------------


def chain(i: int, steps: Sequence[str], labels: Sequence[Any], outcome: int, **change: Any) -> dict[str, Any]:
    return {
        "version": 1, "id": f"f/{i}", "family": "f", "question": f"q{i // 10}?", "options": [], "answer": "1",
        "images": [{"puzzle": [1, i // 10], "pixels": 64}], "program": [], "results": [], "errors": [],
        "steps": list(steps), "labels": list(labels), "outcome": outcome, "source": "program", "seed": 1,
        "generator": generator_version(), "sandbox": "",
    } | change  # fmt: skip


CHAINS = [
    chain(0, ["a 0.9/0.8/0.9", "b 0.7/0.9/0.6"], [[1, 1, 1], [1, 0.75, None]], 1),
    chain(1, ["a 0.9/0.8/0.9", "c 0.2/0.6/0.4"], [[1, 1, 1], [0, 0, 1]], 0),
    chain(2, ["d 0.6/0.1/0.3"], [[1, 0, 0.25]], 0),
    chain(10, ["e 0.8/0.7/0.9"], [[0.5, 1, None]], 1, source="policy:p"),
    chain(11, ["g 0.3/0.9/0.9"], [None], 0, source="policy:p"),
]


@pytest.fixture
def svip(tmp_path: Path) -> Path:
    return write(tmp_path / "data" / "test-00000.jsonl", CHAINS).parent


def test_svip_figures_are_those_of_the_definitions(svip: Path) -> None:
    report = judge("svip-test", svip, WordReward())
    scores = np.array([WordReward.step(step) for c in CHAINS for step in c["steps"]])
    labels = np.array([row or [None] * 3 for c in CHAINS for row in c["labels"]], float)
    for c, name in enumerate(DIMENSIONS):
        known = ~np.isnan(labels[:, c])
        right = is_correct(labels)[:, c]
        assert value(report, "dimensions", name, "AUROC") == pytest.approx(auroc(scores[:, c], right))
        wanted = calibration_error(scores[:, c], labels[:, c])
        assert value(report, "dimensions", name, "calibration error") == pytest.approx(wanted, abs=1e-6)
        assert value(report, "dimensions", name, "F1 right") == pytest.approx(f1(scores[:, c] > 0.5, right))
        assert report.to_dict()["tables"]["dimensions"][name]["steps"] == known.sum()
        for h, head in enumerate(DIMENSIONS):
            found = value(report, "AUROC of every head", head, f"{name} labels")
            assert found == pytest.approx(auroc(scores[:, h], right))
    assert report.to_dict()["reliability"]["logic"]["counts"][-1] == 0


def test_svip_first_errors_and_pairs_by_hand(svip: Path) -> None:
    report = judge("svip-test", svip, WordReward())
    # labelled: none, step 1, step 0, step 0 (relevance 1/2 is wrong), the fifth has no label; said: none, 1, 0, none
    assert report.to_dict()["tables"]["first error"]["any"]["chains"] == 4
    assert value(report, "first error", "any", "accuracy") == 0.75
    assert value(report, "first error", "any", "erroneous") == pytest.approx(2 / 3)
    assert value(report, "first error", "any", "correct") == 1.0
    # q0: the right chain .8 against .63 and .33; q1: .8 against .7
    pairs = report.to_dict()["tables"]["right against wrong chains"]["score (mean of steps)"]
    assert (pairs["pairs"], pairs["questions"], pairs["accuracy"]["value"]) == (3, 2, 1.0)
    assert set(report.to_dict()["tables"]["AUROC by source"]) == {"program", "policy:p"}


def test_svip_thresholds_are_the_models_own_unless_given(svip: Path) -> None:
    class Own(WordReward):
        thresholds = (0.65, 0.5, 0.95)

    own, given = judge("svip-test", svip, Own()), judge("svip-test", svip, Own(), threshold=0.5)
    assert own.to_dict()["threshold"] == [0.65, 0.5, 0.95]
    assert given.to_dict()["threshold"] == [0.5, 0.5, 0.5]
    # relevance 0.6 of the third chain is right by its label, and held to be right at one half only
    assert value(own, "dimensions", "relevance", "F1 right") < value(given, "dimensions", "relevance", "F1 right")


def test_svip_asks_once_a_question_and_several_folders_are_one(svip: Path, tmp_path: Path) -> None:
    reward = WordReward()
    report = judge("svip-test", svip, reward)
    assert [len(paths) for paths in reward.calls] == [3, 2]
    other = write(tmp_path / "more" / "x.jsonl", [chain(30, ["a 0.9"], [[1, 1, 1]], 1)])
    both = judge("svip-test", [svip, other], reward).to_dict()
    assert (both["n_questions"], both["n_chains"]) == (3, 6)
    assert report.to_dict()["n_questions"] == 2


def test_svip_says_which_head_is_best(tmp_path: Path) -> None:
    steps = [("a 0.9/0.1/0.9", [1, 1, 1]), ("b 0.1/0.9/0.9", [0, 0, 1]), ("c 0.9/0.1/0.1", [1, 1, 0])]
    file = write(tmp_path / "t.jsonl", [chain(10 * i, [s], [lab], 1) for i, (s, lab) in enumerate(steps)])
    report = judge("svip-test", file, WordReward()).to_dict()
    assert report["own_head_best"] == {"relevance": True, "logic": False, "attribute": True}
    flat = judge("svip-test", file, Constant()).to_dict()["tables"]["AUROC of every head"]
    assert all(cell["value"] == 0.5 for row in flat.values() for cell in row.values())


def test_the_figure_is_drawn_and_the_same_again(svip: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = judge("svip-test", svip, WordReward()).to_dict()
    for ending in ("png", "svg"):
        path = reliability_figure(report, tmp_path / f"f.{ending}")
        first = path.read_bytes()
        assert len(first) > 5_000
        reliability_figure(report, path)
        assert path.read_bytes() == first
    assert "relevance" in (tmp_path / "f.svg").read_text()
    with pytest.raises(ValueError, match=r"`figure` must end in \.png, \.svg or \.pdf; got 'f\.txt'"):
        reliability_figure(report, "f.txt")
    with pytest.raises(ValueError, match="unless the benchmark is svip-test; got 'vlrmbench'"):
        reliability_figure({"benchmark": "vlrmbench"}, tmp_path / "f.png")


# ---- step benchmarks -----------------------------------------------------------------------------


def vpb(index: int, steps: Sequence[str], labels: Sequence[int], source: str = "MMMU") -> dict[str, Any]:
    response = {"steps": list(steps), "process_correctness": list(labels)}
    return {"image": [], "question": "q?", "answer": "1", "data_source": source, "response": response}


def test_vpb_macro_f1_leaves_neutral_steps_out_and_counts_every_error(tmp_path: Path) -> None:
    records = [vpb(0, ["a 0.9", "b 0.2", "n 0.1", "c 0.3"], [1, -1, 0, -1]), vpb(1, ["d 0.8"], [-1], "WeMath")]
    report = judge("visualprocessbench", write(tmp_path / "test.jsonl", records), WordReward())
    # right: a (said right); wrong: b c (said wrong), d (said right).  F1 right 2/3, F1 wrong 4/5
    assert report.to_dict()["tables"]["steps"]["all"]["steps"] == 4
    assert value(report, "steps", "all", "macro F1") == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert value(report, "steps", "MMMU", "macro F1") == 1.0
    assert value(report, "steps", "WeMath", "macro F1") == 0.0
    assert value(report, "steps", "mean of sources", "macro F1") == 0.5
    assert value(report, "steps", "all", "AUROC") == 1.0
    strict = judge("visualprocessbench", tmp_path, WordReward(), threshold=0.85)
    assert value(strict, "steps", "all", "macro F1") == 1.0


def vlrm(task: str, index: int, steps: Sequence[str], truth: Any, **change: Any) -> dict[str, Any]:
    text = "\n".join(f"STEP{t}: {step}" for t, step in enumerate(steps, 1))
    return {"id": str(index), "image": [], "question": "q?", "reasoning_error": text, "task_gt": truth} | change


def test_vlrm_tasks_are_judged_by_their_dimension(tmp_path: Path) -> None:
    steps = ["a 0.9/0.1/0.1", "b 0.1/0.9/0.9"]
    for task in ("redundant_det", "step_correctness", "attribute_hallucination", "location_error"):
        write(tmp_path / f"{task}.jsonl", [vlrm(task, 0, steps, [0, 1])])
    report = judge("vlrmbench", tmp_path, WordReward())
    by = {task: row["by"] for task, row in report.to_dict()["tables"]["step tasks"].items() if "by" in row}
    assert by == {"step_correctness": "logic", "redundant_det": "relevance", "attribute_hallucination": "attribute",
                  "location_error": "value"}  # fmt: skip
    assert value(report, "step tasks", "redundant_det", "F1_w") == 1.0
    assert value(report, "step tasks", "step_correctness", "F1_w") == 0.0
    assert value(report, "AUROC of each score", "step_correctness", "relevance") == 1.0
    # pooled: the errors said by redundant_det alone are right; location_error's values are .37 and .63
    assert report.to_dict()["tables"]["step tasks"]["all steps"]["steps"] == 8
    assert value(report, "step tasks", "mean of tasks", "F1_w") == 0.25
    some = judge("vlrmbench", tmp_path, WordReward(), tasks=["redundant_det"])
    assert list(some.to_dict()["tables"]["step tasks"]) == ["redundant_det", "all steps", "mean of tasks"]


def test_vlrm_outcome_tasks_by_hand(tmp_path: Path) -> None:
    better = {"step_list": ["STEP1: x 0.9"]}
    pairs = [vlrm("", 0, ["y 0.1"], None, **better), vlrm("", 1, ["y 0.9"], None, **better)]  # an equal pair is wrong
    write(tmp_path / "multi_solution.jsonl", pairs)
    prefixes = [(["a 0.9"], True), (["a 0.2"], True), (["a 0.1"], False)]
    write(tmp_path / "foresight.jsonl", [vlrm("", i, s, truth) for i, (s, truth) in enumerate(prefixes)])
    report = judge("vlrmbench", tmp_path, WordReward())
    assert value(report, "outcome tasks", "multi_solution", "accuracy") == 0.5
    assert value(report, "outcome tasks", "foresight", "accuracy") == pytest.approx(2 / 3)
    assert value(report, "outcome tasks", "foresight", "AUROC") == 1.0


# ---- pairs and candidates ------------------------------------------------------------------------


def pair(index: int, first: str, second: str, ranks: Sequence[int], name: str = "RLHF-V") -> dict[str, Any]:
    return {
        "id": f"{name}-{index}",
        "image": None,
        "query": "q?",
        "response": [first, second],
        "human_ranking": list(ranks),
    }


def test_vlr_accuracies_by_group_and_macro(tmp_path: Path) -> None:
    records = [
        pair(0, "a 0.9", "b 0.1", [0, 1]), pair(1, "a 0.9", "b 0.1", [1, 0]), pair(2, "a 0.9", "b 0.1", [0, 1]),
        pair(3, "a 0.1", "b 0.9", [1, 0], "mmmu"), pair(4, "a 0.1", "b 0.9", [0, 1], "other"),
    ]  # fmt: skip
    report = judge("vl-rewardbench", write(tmp_path / "data.jsonl", records), WordReward())
    assert value(report, "pairs", "hallucination", "accuracy") == pytest.approx(2 / 3)
    assert value(report, "pairs", "overall", "accuracy") == pytest.approx(3 / 5)
    assert value(report, "pairs", "macro", "accuracy") == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_vlr_a_judge_that_cannot_tell_gets_half_although_the_first_is_always_better(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", [pair(i, "a 0.9", "b 0.9", [0, 1]) for i in range(400)])
    reward = Constant()
    report = judge("vl-rewardbench", file, reward)
    assert 0.4 < value(report, "pairs", "overall", "accuracy") < 0.6
    assert report.to_dict()["tables"]["pairs"]["overall"]["equal"] == 400
    shown = {paths[0] for paths in reward.calls}
    assert shown == {("a 0.9",), ("b 0.9",)}  # both orders occur
    again = judge("vl-rewardbench", file, Constant())
    assert value(again, "pairs", "overall", "accuracy") == value(report, "pairs", "overall", "accuracy")
    other = judge("vl-rewardbench", file, Constant(), seed=1)
    assert value(other, "pairs", "overall", "accuracy") != value(report, "pairs", "overall", "accuracy")


class Moody(WordReward):
    """Right in two judgements of three."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = -1

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        self.turn += 1
        rewards = super().evaluate(question, paths)
        return [1 - r for r in rewards] if self.turn % 3 == 1 else rewards


def test_the_majority_of_k_judgements_decides(tmp_path: Path) -> None:
    file = write(tmp_path / "data.jsonl", [pair(i, "a 0.9", "b 0.1", [0, 1]) for i in range(10)])
    assert value(judge("vl-rewardbench", file, Moody()), "pairs", "overall", "accuracy") == 0.7
    assert value(judge("vl-rewardbench", file, Moody(), k=3), "pairs", "overall", "accuracy") == 1.0
    divided = judge("vl-rewardbench", file, Moody(), k=2).to_dict()["tables"]["pairs"]["overall"]
    assert divided["divided"] == 7  # left out, as the published script does
    assert divided["accuracy"]["value"] == 1.0


def test_rlhf_acc_counts_pairs_and_acc_plus_ids(tmp_path: Path) -> None:
    rows = [("1", 0.9, 0.1), ("1", 0.9, 0.95), ("2", 0.8, 0.1), ("3", 0.5, 0.5)]  # an equal pair is wrong
    records = [
        {
            "id": i,
            "image": f"{'mcq' if i == '1' else 'long'}/x.png",
            "prompt": "q?",
            "chosen": f"a {a}",
            "rejected": f"b {b}",
        }
        for i, a, b in rows
    ]
    (tmp_path / "mcq").mkdir()
    (tmp_path / "long").mkdir()
    for name in ("mcq", "long"):
        (tmp_path / name / "x.png").write_bytes(b"never opened here")
    report = judge("mm-rlhf-rewardbench", write(tmp_path / "mm_reward_bench.jsonl", records), WordReward())
    assert value(report, "pairs", "overall", "ACC") == 0.5
    assert value(report, "pairs", "overall", "ACC+") == pytest.approx(1 / 3)
    assert value(report, "pairs", "mcq", "ACC+") == 0.0
    assert value(report, "pairs", "long", "ACC+") == 0.5


def test_bon_by_hand(tmp_path: Path) -> None:
    def record(*labels: int) -> dict[str, Any]:
        splits = [["a 0.9", "b 0.1"], ["c 0.4", "d 0.4"], []]
        return {"question": "q?", "image_path": None, "solutions_splits": splits, "labels": list(labels)}

    file = tmp_path / "bon.json"
    file.write_text(json.dumps([record(1, 0, 0), record(0, 1, 0)]))
    report = judge("mmprm-bon", file, WordReward(Scoring(aggregate="min")))
    rows = report.to_dict()["tables"]["best of N"]
    assert rows["best of N, min (the model's)"]["accuracy"]["value"] == 0.5
    assert rows["one at random"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert rows["pass@2"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert rows["pass@4"]["accuracy"]["value"] == 1.0
    file.write_text(json.dumps([record(1, 0, 0)] * 2))
    assert (
        value(judge("mmprm-bon", file, WordReward()), "best of N", "best of N, mean (the model's)", "accuracy") == 1.0
    )
    assert value(judge("mmprm-bon", file, WordReward()), "best of N", "best of N, min", "accuracy") == 0.0


def test_models_of_whole_paths_are_asked_about_prefixes_where_steps_matter(tmp_path: Path) -> None:
    reward = WholePaths()
    report = judge("visualprocessbench", write(tmp_path / "t.jsonl", [vpb(0, ["a 0.9", "b 0.2"], [1, -1])]), reward)
    assert reward.calls == [(("a 0.9",), ("a 0.9", "b 0.2"))]
    assert value(report, "steps", "all", "macro F1") == 1.0
    reward = WholePaths()
    judge("vl-rewardbench", write(tmp_path / "d.jsonl", [pair(0, "a 0.9\n\nb 0.2", "c 0.1", [0, 1])]), reward)
    assert sorted(reward.calls[0]) == [("a 0.9", "b 0.2"), ("c 0.1",)]


# ---- runs that continue, and what is wrong -------------------------------------------------------


class Interrupted(WordReward):
    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        if len(self.calls) == 3:
            raise KeyboardInterrupt
        return super().evaluate(question, paths)


def without_run(report: Any) -> dict[str, Any]:
    return {k: v for k, v in report.to_dict().items() if k not in ("run", "reward")}


def test_an_interrupted_run_reports_and_continues(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [vpb(i, [f"a 0.{i + 1}23456789"], [1 if i % 3 else -1]) for i in range(8)])
    records, same = tmp_path / "records.jsonl", {"reward": "m"}
    part = judge("visualprocessbench", file, Interrupted(), records=records, labels=same, batch=2)
    assert (part.to_dict()["complete"], part.to_dict()["n_questions"]) == (False, 3)
    records.write_bytes(records.read_bytes()[:-7])  # killed in the middle of a line
    reward = WordReward()
    seen: list[tuple[int, int]] = []
    whole = judge(
        "visualprocessbench", file, reward, records=records, labels=same, progress=lambda d, n, _: seen.append((d, n))
    )
    assert len(reward.calls) == 6
    assert (seen[0], seen[-1]) == ((2, 8), (8, 8))
    fresh = judge("visualprocessbench", file, WordReward(), labels=same)
    assert without_run(whole) == without_run(fresh)
    again = WordReward()
    judge("visualprocessbench", file, again, records=records, labels=same)
    assert again.calls == []
    at_once = Interrupted()
    at_once.calls = [()] * 3
    with pytest.raises(KeyboardInterrupt):  # nothing to report
        judge("visualprocessbench", file, at_once)


def test_records_of_other_data_or_another_run_do_not_count(tmp_path: Path) -> None:
    file, records = write(tmp_path / "t.jsonl", [vpb(0, ["a 0.9"], [1]), vpb(1, ["b 0.9"], [1])]), tmp_path / "r.jsonl"
    judge("visualprocessbench", file, WordReward(), records=records)
    write(file, [vpb(0, ["a 0.9"], [1]), vpb(1, ["changed 0.1"], [1])])
    reward = WordReward()
    report = judge("visualprocessbench", file, reward, records=records)
    assert reward.calls == [(("changed 0.1",),)]
    assert value(report, "steps", "all", "F1 right") == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"`records` must come from the same settings; .* has k = 1, this run 3"):
        judge("visualprocessbench", file, WordReward(), records=records, k=3)
    with pytest.raises(ValueError, match="`records` must be a file that an evaluation wrote"):
        judge("visualprocessbench", file, WordReward(), records=file)


def test_bad_records_stop_before_the_model_is_asked_or_are_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [vpb(0, ["a 0.9"], [1]), vpb(1, ["b 0.1"], [7])])
    reward = WordReward()
    with pytest.raises(RecordError, match=r"t\.jsonl, line 2: `process_correctness` must be 1, 0 or -1; got 7"):
        judge("visualprocessbench", file, reward)
    assert reward.calls == []
    report = judge("visualprocessbench", file, reward, skip_unusable=True).to_dict()
    assert (report["skipped"]["count"], report["n_questions"]) == (1, 1)
    assert "got 7" in report["skipped"]["first"][0]
    with pytest.raises(
        ValueError, match=r"`data` must hold at least one record to judge; .* has none \(1 were left out"
    ):
        judge("visualprocessbench", write(file, [7]), reward, skip_unusable=True)


class Opens(WordReward):
    """Opens the pictures, as a real model does."""

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        from svip_search._images import open_image

        for image in question.images:
            open_image(image)
        return super().evaluate(question, paths)


def test_damaged_pictures_are_named_and_what_is_done_is_kept(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG damaged")
    rows = [vpb(0, ["a 0.9"], [1]), vpb(1, ["b 0.1"], [-1]) | {"image": ["bad.png"]}]
    file, records = write(tmp_path / "t.jsonl", rows), tmp_path / "r.jsonl"
    with pytest.raises(ImageError, match=r"record 'MMMU/1': Cannot read image '.*bad\.png'"):
        judge("visualprocessbench", file, Opens(), records=records)
    assert len(records.read_text().splitlines()) == 2  # the settings and the first case
    report = judge("visualprocessbench", file, Opens(), records=records, skip_unusable=True).to_dict()
    assert (report["n_questions"], report["skipped"]["count"]) == (1, 1)
    (tmp_path / "bad.png").unlink()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "bad.png")
    assert judge("visualprocessbench", file, Opens(), records=records).to_dict()["n_questions"] == 2


@pytest.mark.parametrize("fault", ["raises", "wrong_shape", "out_of_range", "nan", "wrong_type", "wrong_length"])
def test_faulty_reward_models_are_named(fault: RewardFault, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [vpb(i, ["a", "b"], [1, -1]) for i in range(4)])
    with pytest.raises(RewardError, match="`reward`") as error:
        judge("visualprocessbench", file, FaultyReward(HashReward(), fault))
    assert "'MMMU/0'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": "imagenet"}, "`benchmark` must be one of svip-test, .*; got 'imagenet'"),
        ({"k": 0}, "`k` must be a positive integer; got 0"),
        ({"batch": True}, "`batch` must be a positive integer; got True"),
        ({"limit": 0}, "`limit` must be a positive integer; got 0"),
        ({"threshold": 1.5}, r"`threshold` must lie in 0\.\.1; got 1\.5"),
        ({"tasks": ["x"]}, "`tasks` must be left out unless the benchmark is one of vlrmbench; got"),
        ({"reward": object()}, "`reward` must be a reward model of kind 'prm' or 'orm'; got object"),
    ],
)
def test_bad_arguments_are_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"benchmark": "visualprocessbench", "data": tmp_path, "reward": HashReward()} | change
    with pytest.raises((ValueError, TypeError), match=message):
        judge(**arguments)


def test_limit_takes_from_all_groups(tmp_path: Path) -> None:
    rows = [vpb(i, ["a 0.9"], [1], "A" if i < 9 else "B") for i in range(10)]
    report = judge("visualprocessbench", write(tmp_path / "t.jsonl", rows), WordReward(), limit=2).to_dict()
    assert report["tables"]["steps"]["B"]["steps"] == 1
    assert report["n_questions"] == 2


# ---- command line --------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr(zoo, "load_reward", lambda name: WordReward())

    def call(*words: object) -> tuple[int, str, str]:
        code = main(["judge", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_cli_shows_tables_and_writes_files(run: Run, svip: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("r.json", "r.md", "r.jsonl")]
    words = ["--benchmark", "svip-test", svip, "--json", files[0], "--markdown", files[1], "--records", files[2]]
    code, out, err = run(*words, "--skip-unusable")
    assert (code, err.replace("cases 2/2", "").strip()) == (0, "")
    assert "svip-test  ·  svip-tiny  ·  2 questions" in out
    assert "AUROC of every head" in out
    assert json.loads(files[0].read_text())["benchmark"] == "svip-test"
    assert "| logic |" in files[1].read_text()
    assert len(files[2].read_text().splitlines()) == 3
    code, out, err = run(*words[:3], "--quiet")
    assert (code, out, err) == (0, "", "")
    code, out, _ = run(*words[:3], "--json", "-")
    assert json.loads(out)["n_chains"] == 5


def test_cli_draws_the_figure(run: Run, svip: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("--benchmark", "svip-test", svip, "--quiet", "--figure", tmp_path / "f.svg")[0] == 0
    assert (tmp_path / "f.svg").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "x", "."], "argument --benchmark: invalid choice: 'x'"),
        (["."], "the following arguments are required: --benchmark"),
        (["--benchmark", "vlrmbench", ".", "."], "argument DATA: must be one folder or file of vlrmbench"),
        (["--benchmark", "vlrmbench", ".", "--figure", "f.png"], "argument --figure: must be left out of vlrmbench"),
        (["--benchmark", "svip-test", ".", "--figure", "f.txt"], "`figure` must end in .png, .svg or .pdf"),
        (["--benchmark", "svip-test", "nowhere"], "there is no 'nowhere'"),
        (
            ["--benchmark", "svip-test", ".", "--threshold", "2"],
            "argument --threshold: must be a number in 0..1; got '2'",
        ),
    ],
)
def test_cli_mistakes_are_one_line(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_cli_knows_every_benchmark() -> None:
    assert tuple(BENCHMARKS) == NAMES


@pytest.mark.skipif(not HAVE_MODELS, reason="the embedded weights are not there")
def test_the_embedded_model_judges_what_it_knows(tmp_path: Path) -> None:
    from svip_search.datasets.puzzles import generate_puzzle
    from svip_search.datasets.puzzles.labels import corrupt, label_steps

    rows = []
    for i in range(4):
        puzzle = generate_puzzle(5, i, pixels=128)
        for j, steps in enumerate((list(puzzle.steps), corrupt(puzzle, np.random.default_rng(i)))):
            labels = [[None if np.isnan(v) else float(v) for v in row] for row in label_steps(puzzle, steps)]
            change = {"question": puzzle.question.text, "family": puzzle.family, "id": f"{i}#{j}",
                      "images": [{"puzzle": [5, i], "pixels": 128}]}  # fmt: skip
            rows.append(chain(i, steps, labels, 1 - j, **change))
    file = write(tmp_path / "t.jsonl", rows)
    report = judge("svip-test", file, zoo.load_reward("svip-tiny"))
    assert report.to_dict()["n_questions"] == 4
    [score] = [r for n, r in report.to_dict()["tables"]["right against wrong chains"].items() if n.startswith("score")]
    assert score["accuracy"]["value"] > 0.5
