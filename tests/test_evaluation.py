"""Figures that can be checked by hand, shared samples, equal budgets, and runs that continue."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svip_search import Candidate, ProposeRequest, Question
from svip_search._types import Prefix
from svip_search._vote import extract_answer
from svip_search.evaluation import ShuffledReward, evaluate
from svip_search.evaluation._bootstrap import gap_closed, interval, resampled_means
from svip_search.evaluation._records import Record
from svip_search.evaluation._report import build_report
from svip_search.evaluation._run import is_right
from svip_search.testing import FaultyReward, HashPolicy, HashReward, RewardFault

ALL = ("greedy", "self-consistency", "best-of-n", "weighted", "beam", "mcts")
COLORS = ("red", "green", "blue", "yellow")


def questions(count: int = 24) -> list[Question]:
    return [Question("Which?", options=COLORS, answer=COLORS[i % 4], id=f"{'ab'[i % 2]}/{i}") for i in range(count)]


class Oracle:
    """Rewards a path whose answer is right; steps before it say nothing."""

    kind = "prm"

    def __init__(self) -> None:
        self.calls = 0

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        self.calls += len(paths)
        found = []
        for path in paths:
            right = extract_answer(path[-1], question.options) == question.answer
            rewards = np.full((len(path), 3), 0.5, np.float32)
            rewards[-1] = 0.9 if right else 0.1
            found.append(rewards)
        return found


# ---- statistics ---------------------------------------------------------------------------------


def test_resamples_are_paired_seeded_and_chunked() -> None:
    values = np.random.default_rng(0).random((2, 37))
    means = resampled_means(values, 1200, seed=3)
    assert means.shape == (2, 1200)
    np.testing.assert_array_equal(means, resampled_means(values, 1200, seed=3))
    np.testing.assert_allclose(resampled_means(np.stack([values[0], values[0]]), 700)[0],
                               resampled_means(values[0], 700)[0])  # fmt: skip
    np.testing.assert_allclose(means.mean(1), values.mean(1), atol=0.01)
    np.testing.assert_allclose(means.std(1), values.std(1) / np.sqrt(37), rtol=0.1)


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        span = interval(resampled_means(rng.random(80) < 0.6, 500, seed=0)[0])
        assert span is not None
        covered += span[0] <= 0.6 <= span[1]
    assert 0.88 <= covered / 200 <= 0.99


def test_gap_closed_ignores_resamples_without_a_gap() -> None:
    closed = gap_closed(np.array([0.8, 0.7]), np.array([0.6, 0.7]), np.array([1.0, 0.7]))
    assert closed[0] == pytest.approx(0.5)
    assert np.isnan(closed[1])
    assert interval([np.nan]) is None
    with pytest.raises(ValueError, match="at least one question"):
        resampled_means(np.empty((1, 0)))


def test_report_figures_by_hand() -> None:
    def row(right: bool, ok: bool) -> dict[str, Any]:
        return {"right": right, "pass": ok, "policy_tokens": 10, "reward_tokens": 2, "seconds": 0.5}

    outcomes = [(True, True, True), (False, True, True), (False, False, True), (False, False, False)]
    records = [
        Record(
            f"f/{i}",
            "f" if i < 3 else "g",
            4,
            row(sc, ok),
            {"self-consistency": row(sc, ok), "mcts": row(m, ok)},
        )
        for i, (sc, m, ok) in enumerate(outcomes)
    ]
    data = build_report(records, {"n": 8, "seed": 0}).to_dict()
    mcts = data["strategies"]["mcts"]
    assert mcts["accuracy"] == 0.5
    assert mcts["pass_at_n"] == 0.75
    assert mcts["tokens_per_question"] == 12
    assert mcts["by_family"] == {"f": pytest.approx(2 / 3), "g": 0.0}
    assert mcts["vs_self_consistency"]["difference"] == 0.25
    assert mcts["gap_closed"]["value"] == pytest.approx(0.5)
    low, high = mcts["vs_self_consistency"]["ci95"]
    assert 0 <= low <= 0.25 <= high <= 1  # one question decides it, and never for the worse
    assert data["strategies"]["self-consistency"]["gap_closed"] is None
    assert data["chance"] == 0.25
    assert data["families"] == {"f": 3, "g": 1}


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [("4", "4.0", True), ("Blue", "blue", True), (None, "4", False), ("4", None, False), ("4", "8", False)],
)
def test_answers_are_compared_as_votes_are(answer: str | None, truth: str | None, right: bool) -> None:
    assert is_right(Question("?", options=["4", "8", "blue"], answer=truth), answer) is right


# ---- running ------------------------------------------------------------------------------------


def test_report_has_the_promised_keys() -> None:
    data = evaluate(questions(), HashPolicy(), HashReward(), ALL, n=4, seed=1).to_dict()
    json.dumps(data, allow_nan=False)
    assert data["n_questions"] == 24
    assert list(data["strategies"]) == list(ALL)
    promised = {"accuracy", "ci95", "pass_at_n", "tokens_per_question", "seconds_per_question", "by_family"}
    for row in data["strategies"].values():
        assert promised <= row.keys()
        assert row["ci95"][0] <= row["accuracy"] <= row["ci95"][1]
        assert row["by_family"].keys() == {"a", "b"}
    assert data["run"]["versions"]["numpy"]


def test_sampling_strategies_share_samples_and_searches_get_their_budget(tmp_path: Path) -> None:
    policy = HashPolicy(branching=4, depth=5)
    data = evaluate(questions(), policy, Oracle(), ALL, n=9, records=tmp_path / "r.jsonl").to_dict()
    rows = data["strategies"]
    assert len({rows[name]["pass_at_n"] for name in ("self-consistency", "best-of-n", "weighted")}) == 1
    assert len({rows[name]["policy_tokens_per_question"] for name in ("self-consistency", "weighted")}) == 1
    assert rows["best-of-n"]["accuracy"] == rows["best-of-n"]["pass_at_n"]  # the oracle closes the gap
    assert rows["best-of-n"]["gap_closed"]["value"] == pytest.approx(1)
    assert rows["greedy"]["pass_at_n"] == rows["greedy"]["accuracy"]
    for line in (tmp_path / "r.jsonl").read_text().splitlines()[1:]:
        found = json.loads(line)["strategies"]
        allowed = found["best-of-n"]["policy_tokens"]
        # What was in flight, and one completion, may come on top: a beam asks 4 nodes for 4 steps of 5
        # tokens, MCTS for 4 rollouts of 5 such steps.
        for name, in_flight in (("beam", 4 * 4 * 5), ("mcts", 4 * 5 * 5)):
            assert found[name]["policy_tokens"] <= allowed + in_flight + 5 * 5


def test_only_strategies_that_use_rewards_pay_for_them() -> None:
    reward = Oracle()
    evaluate(questions(4), HashPolicy(), reward, ["greedy", "self-consistency"], n=4)
    assert reward.calls == 0
    rows = evaluate(questions(4), HashPolicy(), reward, ["self-consistency", "weighted"], n=4).to_dict()
    assert reward.calls > 0
    seconds = {name: row["seconds_per_question"] for name, row in rows["strategies"].items()}
    assert seconds["self-consistency"] < seconds["weighted"]


def test_outcome_does_not_depend_on_batch_order_or_company(tmp_path: Path) -> None:
    def answers(some: list[Question], **settings: Any) -> dict[str, dict[str, str]]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        evaluate(some, HashPolicy(), HashReward(), ALL, n=4, seed=2, records=path, **settings)
        rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        return {r["id"]: {k: v["answer"] for k, v in r["strategies"].items()} for r in rows}

    everything = answers(questions(10))
    assert answers(questions(10)[::-1], batch=3) == everything
    assert answers(questions(10)[4:6], batch=1).items() <= everything.items()


def test_questions_differ_in_their_draws() -> None:
    same = [Question("Which?", options=COLORS, answer="red", id=str(i)) for i in range(200)]
    data = evaluate(same, HashPolicy(), strategies=["self-consistency"], n=1).to_dict()
    assert 0.1 < data["strategies"]["self-consistency"]["accuracy"] < 0.9


def test_progress_tells_accuracy_so_far() -> None:
    seen: list[tuple[int, int, dict[str, float]]] = []
    evaluate(questions(5), HashPolicy(), strategies=["greedy"], batch=2,
             progress=lambda done, total, shares: seen.append((done, total, dict(shares))))  # fmt: skip
    assert [done for done, _, _ in seen] == [0, 2, 4, 5]
    assert seen[0][2] == {}
    assert seen[-1][2].keys() == {"greedy"}


@pytest.mark.parametrize("fault", ["raises", "wrong_shape", "nan"])
def test_faults_are_counted_and_do_not_end_the_run(fault: RewardFault) -> None:
    data = evaluate(questions(4), HashPolicy(), FaultyReward(HashReward(), fault), ["best-of-n"], n=3).to_dict()
    assert data["strategies"]["best-of-n"]["degraded_questions"] == 4


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"questions": []}, "`questions` must hold"),
        ({"questions": [Question("?", id="a")]}, "must have answers; 'a'"),
        ({"questions": [Question("?", answer="1", id="a")] * 2}, "different ids; 'a'"),
        ({"strategies": ["guess"]}, "got 'guess'"),
        ({"strategies": []}, "at least one strategy"),
        ({"reward": None}, "`reward` must be given"),
        ({"n": 0}, "`n` must be a positive integer"),
        ({"batch": 0}, "`batch` must be a positive integer"),
    ],
)
def test_bad_arguments(settings: dict[str, Any], reason: str) -> None:
    arguments = {"questions": questions(2), "policy": HashPolicy(), "reward": HashReward()} | settings
    with pytest.raises(ValueError, match=reason):
        evaluate(**arguments)


# ---- the control --------------------------------------------------------------------------------


def test_shuffled_rewards_are_a_permutation_decided_by_the_seed() -> None:
    paths = [(f"step {i}",) * (1 + i % 3) for i in range(7)]
    question = Question("?")
    true = HashReward().evaluate(question, paths)
    shuffled = ShuffledReward(HashReward(), seed=5).evaluate(question, paths)
    assert [r.shape for r in shuffled] == [r.shape for r in true]
    assert any(not np.array_equal(a, b) for a, b in zip(shuffled, true, strict=True))
    again = ShuffledReward(HashReward(), seed=5).evaluate(question, paths)
    other = ShuffledReward(HashReward(), seed=6).evaluate(question, paths)
    assert all(np.array_equal(a, b) for a, b in zip(shuffled, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(shuffled, other, strict=True))


def test_shuffled_rewards_of_lone_paths_come_from_other_candidates() -> None:
    question = Question("?")
    model = ShuffledReward(HashReward(), seed=0)
    (first,) = model.evaluate(question, [("a",)])
    (second,) = model.evaluate(question, [("b",)])
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(first, HashReward().evaluate(question, [("a",)])[0])


def test_lift_vanishes_with_shuffled_rewards() -> None:
    policy = HashPolicy(branching=4, depth=3)
    many = [Question("Which?", options=COLORS, answer=COLORS[i % 4], id=str(i)) for i in range(100)]
    names = ["self-consistency", "best-of-n", "weighted"]
    true = evaluate(many, policy, Oracle(), names, n=8).to_dict()["strategies"]
    control = evaluate(many, policy, Oracle(), names, n=8, shuffled_reward=True).to_dict()["strategies"]
    assert true["best-of-n"]["gap_closed"]["value"] == pytest.approx(1)
    assert true["best-of-n"]["vs_self_consistency"]["ci95"][0] > 0.2
    assert control["best-of-n"]["vs_self_consistency"]["ci95"][0] < 0.05
    assert control["self-consistency"]["accuracy"] == true["self-consistency"]["accuracy"]


# ---- records ------------------------------------------------------------------------------------


class Stopping(HashPolicy):
    """Raises KeyboardInterrupt at a given call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().propose(requests)


def figures(data: dict[str, Any]) -> dict[str, Any]:
    timeless = {"seconds_per_question"}
    return {k: {a: b for a, b in v.items() if a not in timeless} for k, v in data["strategies"].items()}


def test_an_interrupted_run_reports_and_continues(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    settings: dict[str, Any] = {"strategies": ["greedy", "weighted"], "n": 4, "batch": 4, "records": path,
                                "labels": {"policy": "p"}}  # fmt: skip
    part = evaluate(questions(12), Stopping(5), HashReward(), **settings).to_dict()
    assert part["complete"] is False
    assert part["n_questions"] in (4, 8)
    with path.open("a") as stream:
        stream.write('{"id": "a/8", "fam')  # killed while writing
    policy = Stopping(1000)
    whole = evaluate(questions(12), policy, HashReward(), **settings).to_dict()
    assert whole["complete"] is True
    assert whole["n_questions"] == 12
    fresh = evaluate(questions(12), HashPolicy(), HashReward(), **settings | {"records": None}).to_dict()
    assert figures(whole) == figures(fresh)
    idle = Stopping(0)
    assert figures(evaluate(questions(12), idle, HashReward(), **settings).to_dict()) == figures(fresh)
    with pytest.raises(ValueError, match="n = 4, this run 5"):
        evaluate(questions(12), idle, HashReward(), **settings | {"n": 5})


def test_an_interrupt_before_the_first_batch_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(questions(4), Stopping(0), strategies=["greedy"])


@pytest.mark.parametrize("text", ["hello\n", "{}\n", '{"settings": {}}\n[1]\n'])
def test_other_files_are_refused_and_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match="`records` must"):
        evaluate(questions(2), HashPolicy(), strategies=["greedy"], records=path)
    assert path.read_text() == text


def test_tables(tmp_path: Path) -> None:
    report = evaluate(questions(), HashPolicy(), HashReward(), ["greedy", "weighted"], n=4)
    table = report.markdown(tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == table
    assert table.splitlines()[2].startswith("| greedy | ")
    assert {line.count("|") for line in table.splitlines()[:4]} == {len(report.heads) + 1}
    rows = list(csv.DictReader(io.StringIO(report.csv())))
    assert [r["strategy"] for r in rows] == ["greedy"] * 3 + ["weighted"] * 3
    assert [r["family"] for r in rows] == ["all", "a", "b"] * 2
    assert json.loads(report.to_json(tmp_path / "r.json")) == json.loads((tmp_path / "r.json").read_text())
