"""The parts of the study `when_search_pays`: records that survive a kill, bins, comparisons, and one small run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "benchmarks" / name) for name in ("search", "")]

import when_search_pays  # noqa: E402
from pays import analysis, cells, models, pool  # noqa: E402
from pays.questions import BIN_NAMES, Item, Questions, Sizes, bin_of, chosen, generated, mixed  # noqa: E402
from pays.store import Store  # noqa: E402

from svip_search import Question  # noqa: E402
from svip_search._types import Candidate  # noqa: E402
from svip_search.datasets.planning import FAMILIES, generate_plan, label_steps, trace  # noqa: E402

# ---- records -----------------------------------------------------------------------------------------


def test_records_outlive_a_kill_in_the_middle_of_a_line(tmp_path):
    store = Store(tmp_path, "a", {"seed": 1})
    store.add("x", {"right": 1})
    store.add("y", {"right": 0})
    whole = store.path.read_bytes()
    for cut in range(len(whole)):
        store.path.write_bytes(whole[:cut])
        known = Store(tmp_path, "a", {"seed": 1}).known
        assert set(known) <= {"x", "y"}
        assert len(known) == max(0, whole[:cut].count(b"\n") - 1)
        again = Store(tmp_path, "a", {"seed": 1})
        again.add("z", {"right": 1})
        assert Store(tmp_path, "a", {"seed": 1}).known == known | {"z": {"right": 1}}


def test_parts_see_each_other_and_leave_each_other_alone(tmp_path):
    first, second = (Store(tmp_path, "a", {}, part) for part in ("0-2", "1-2"))
    first.add("x", {"n": 1})
    with first.path.open("a") as stream:
        stream.write('{"key": "half')  # being written by the other process
    before = first.path.read_bytes()
    second = Store(tmp_path, "a", {}, "1-2")
    assert second.known == {"x": {"n": 1}}
    assert first.path.read_bytes() == before
    Store(tmp_path, "a-b", {"other": 1}).add("y", {})  # a longer name is another kind
    assert set(analysis.rows(tmp_path, "a")) == {"x"}


def test_other_settings_and_damage_are_refused(tmp_path):
    Store(tmp_path, "a", {"seed": 1}).add("x", {})
    with pytest.raises(ValueError, match="seed = 1, this run 2"):
        Store(tmp_path, "a", {"seed": 2})
    (tmp_path / "a.0-1.jsonl").write_text('{"settings": {"seed": 1}}\n{oops\n{"key": "x"}\n')
    with pytest.raises(ValueError, match="is damaged"):
        Store(tmp_path, "a", {"seed": 1})


# ---- questions ---------------------------------------------------------------------------------------


def test_every_length_has_one_bin():
    assert [BIN_NAMES[bin_of(n)] for n in (0, 1, 3, 4, 7, 8, 11, 12, 40)] == [
        "1-3", "1-3", "1-3", "4-7", "4-7", "8-11", "8-11", "12+", "12+",
    ]  # fmt: skip


def test_any_beginning_has_some_of_each():
    items = [Item(f"{f}/{i}", f, length, i) for f in "ab" for i, length in enumerate([2] * 9 + [5] * 9 + [9, 13])]
    order = mixed(items)
    assert sorted(order, key=lambda i: i.id) == sorted(items, key=lambda i: i.id)
    assert {(i.bin, i.family) for i in order[:8]} == {(b, f) for b in range(4) for f in "ab"}
    core = chosen(items, (2, 3, 1, 9))
    assert [sum(i.bin == b for i in core) for b in range(4)] == [2, 3, 1, 2]


def test_questions_are_the_same_when_a_run_goes_on(tmp_path):
    sizes = Sizes(usual=6, long=3, core=(1, 1, 1, 1))
    first, core = generated(tmp_path, sizes)
    again, same = generated(tmp_path, sizes)
    assert (first.items, core) == (again.items, same)
    assert [i.id for i in first.items[: len(core)]] == [i.id for i in core]
    for item in first.items:
        plan = first.plan(item)
        assert (plan.question.id, plan.length) == (item.id, item.length)


# ---- pools -------------------------------------------------------------------------------------------


def test_a_pool_keeps_equal_chains_once():
    def chain(*steps):
        return tuple(Candidate(text, tokens=2) for text in steps)

    question = Question("?", options=["1", "2"], answer="2", id="a/0")
    one, two, none = chain("s", "answer : 1"), chain("s", "t", "answer : 2"), chain("s", "t")
    record = pool.packed(question, [one, two, (), one, none], [two])
    assert record["samples"] == [0, 1, 0, 2]
    assert (record["greedy"], record["answers"], record["right"]) == (1, ["1", "2", None], [0, 1, 0])
    assert record["tokens"] == [4, 6, 4]
    assert cells.budget_of(record, 8) == 8 * 18 // 4
    assert json.loads(json.dumps(record)) == record


def test_rewards_come_back_chain_by_chain():
    rewards = [np.random.default_rng(i).random((t, 3), np.float32) for i, t in enumerate((1, 4, 2))]
    again = pool.unsqueezed(pool.squeezed(rewards), [1, 4, 2])
    for one, other in zip(rewards, again, strict=True):
        assert other == pytest.approx(one, abs=1e-3)
    assert pool.unsqueezed(pool.squeezed([]), []) == []


def test_batches_hold_all_in_order_and_no_more_than_fit():
    items = [Item(str(i), "a", 1, i) for i in range(7)]
    groups = list(pool.batches(items, lambda item: 200 if item.index == 2 else 100))
    assert [i for group in groups for i in group] == items
    assert [len(g) for g in groups] == [2, 1, 2, 2]


# ---- worth of a prefix -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_likes_right_chains_and_no_others(family):
    for index in range(6):
        plan = generate_plan(11, index, families=[family], pixels=64)
        assert (models.worth(plan, plan.steps) == 1).all()
        for seed in range(4):
            steps = trace(plan, np.random.default_rng(seed), slips=0.5)
            values = models.worth(plan, steps)
            if steps[-1] == plan.steps[-1] and (label_steps(plan, steps)[:, 1] == 1).all():
                assert values[-1] == 1
            if steps[-1] != plan.steps[-1]:
                assert values[-1] == 0
        wrong = next(o for o in plan.question.options if o != plan.answer)
        assert models.worth(plan, [*plan.steps[:-1], f"answer : {wrong}"])[-1] == 0


def test_depths_are_those_that_steps_state():
    steps = ["start : 1", "1 : a : 2", "2 : b : 3", "back to 1 : 2", "2 : c : 4", "2 + 1 = 3", "answer : 3"]
    assert analysis.depths(steps) == [0, 1, 2, 1, 2, 2, 2]


# ---- comparisons -------------------------------------------------------------------------------------


def test_a_search_is_compared_with_as_many_tokens_as_it_took():
    items = [Item(f"a/{i}", "a", 2, i) for i in range(40)]
    curve = np.array([0.25, 0.5, 0.75, 1.0])
    curves = {i.id: {"best-of-n learned": curve, "tokens": 100.0} for i in items}
    table = {i.id: {"right": 1, "policy_tokens": 250} for i in items}
    found = analysis.versus(items, table, curves, "best-of-n learned")["all"]
    assert found["n"] == pytest.approx(2.5)
    assert found["mean"] == pytest.approx(1 - 0.625)
    assert found["ci95"] == pytest.approx([0.375, 0.375])  # paired: questions that differ alike add no doubt
    assert not found["beyond"]
    for row in table.values():
        row["policy_tokens"] = 900
    beyond = analysis.versus(items, table, curves, "best-of-n learned")["all"]
    assert (beyond["mean"], beyond["beyond"]) == (0.0, True)
    assert analysis.versus(items, table, curves, "weighted learned") is None


def test_intervals_of_a_difference_are_paired_and_cover_it():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    gaps = (rng.random(400) < hard) * 1.0 - hard
    found = analysis.mean_of(gaps)
    low, high = found["ci95"]
    assert low < found["mean"] < high
    assert high - low == pytest.approx(2 * 1.96 * gaps.std() / 20, rel=0.1)


def test_shuffled_rewards_are_worth_nothing():
    rng = np.random.default_rng(1)
    right = rng.random(64) < 0.4
    answers = np.where(right, 0, rng.integers(1, 4, 64))
    found = analysis.shuffled(answers, right, right + rng.random(64))
    assert found["best-of-n shuffled"][:8] == pytest.approx(right.mean(), abs=0.1)


def test_variants_are_compared_with_what_they_change():
    for name in ("beam", "mcts"):
        for variant in cells.ablations():
            assert analysis.baseline(f"{name} + {variant}") == (name if variant == "rules" else f"{name} + rules")
        for variant in cells.FOLDS:
            assert analysis.baseline(f"{name} + {variant}") == name


def test_every_planned_search_can_be_made():
    planned = cells.planned(["learned", "oracle", "shuffled"], cells.NS)
    assert len({cell.name for cell in planned}) == len(planned)
    for cell in planned:
        assert "|" not in cell.strategy
        assert cells.strategy_of(cell.strategy, cell.n).max_depth == cells.MAX_DEPTH


# ---- all of it ---------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(when_search_pays, "QUICK", Sizes(usual=6, long=2, core=(1, 2, 2, 1)))
    monkeypatch.setattr(when_search_pays, "QUICK_POOLS", (8, 4, 4))
    monkeypatch.setattr(analysis, "RESAMPLES", 50)
    monkeypatch.setattr(analysis, "FEW_RESAMPLES", 5)
    words = ["--policies", "slips:0.3", "--reward", "oracle:0.2", "--quick", "--strategies", "beam;beam + rules"]
    return lambda out, *more: when_search_pays.main(["--out", str(out), *words, *more])


def test_a_run_that_was_killed_ends_like_one_that_was_not(small, tmp_path, monkeypatch):
    small(tmp_path / "whole")

    class Killed(Exception):
        pass

    add, left = Store.add, iter(range(10**6))

    def dying(store, key, record):
        if next(left) % 13 == 12:
            raise Killed
        add(store, key, record)

    monkeypatch.setattr(Store, "add", dying)
    for _ in range(50):
        try:
            small(tmp_path / "killed")
            break
        except Killed:
            continue
    else:
        pytest.fail("it never came to an end")
    timed = {"seconds", "greedy_seconds"}
    for path in (tmp_path / "whole").iterdir():
        name = path.name.partition(".")[0]
        one, other = (analysis.rows(tmp_path / folder, name) for folder in ("whole", "killed"))
        for rows in (one, other):
            for row in rows.values():
                for key in timed:
                    row.pop(key, None)
        assert one == other, name


def test_a_report_of_what_is_there(small, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    small(tmp_path / "out")
    with (tmp_path / "out" / "plans-searches-slips_0p3-learned.0-1.jsonl").open("a") as stream:
        stream.write('{"key": "half a li')
    capsys.readouterr()
    small(tmp_path / "out", "--report", "--record", "", "--plots", str(tmp_path / "plots"))
    text = capsys.readouterr().out
    for word in ("best-of-n learned", "beam, 4, oracle", "beam + rules, 4, learned", "AUROC", "pass@n"):
        assert word in text
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2


def test_a_cell_says_how_many_questions_it_covers(small, tmp_path, capsys):
    small(tmp_path / "out", "--minutes", "1e-9")
    assert "\n  0 of 4 questions\n" in capsys.readouterr().out


def test_questions_without_a_pool_are_not_searched(tmp_path):
    questions = Questions([Item("a/0", "a", 1, 0)])
    store = Store(tmp_path, "s", {})
    model = models.Model("m", object(), "m")
    cell = cells.Cell("beam", 4, "learned")
    assert cells.run_cell(cell, model, model, questions, questions.items, Store(tmp_path, "p", {}), store, bool) == 0
