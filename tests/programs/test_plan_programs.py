"""Programs of planning puzzles: right ones are right and told as chains are, wrong ones get the labels they should."""

from __future__ import annotations

import numpy as np
import pytest

from svip_search import Question
from svip_search.datasets.planning import FAMILIES, Grid, generate_plan, label_steps
from svip_search.programs import BlockRun, Region
from svip_search.programs.assess import answer_test, assess
from svip_search.programs.generate import ProgramGenerator, grow
from svip_search.programs.label import label_programs
from svip_search.programs.narrate import LONGEST
from svip_search.programs.planning import MISTAKES, RECIPES, PlanProgramGenerator, narrate_plan
from svip_search.programs.vision import CellScene, CellVision, NoisyVision, same_answer

SEED = 10_000  # no seed below is looked at, so that models can be trained and measured on those
families = pytest.mark.parametrize("family", FAMILIES)
#: Families whose every slip shows in the answer; a wrong tile or queen may be one that is not asked for.
PLANNED = ("checker_move", "maze", "move_box", "rotting_kiwi", "tower_of_hanoi", "water_jugs")


def plan_of(family, index=0, **settings):
    return generate_plan(SEED, index, **{"families": [family], "pixels": 32} | settings)


def writer_of(plan, error_rate=0.0):
    return PlanProgramGenerator(error_rate, cells=plan.cells)


def finished(plan, blocks=()):
    """Return some blocks and the right ones that follow, with no way back."""
    writer, blocks = writer_of(plan), list(blocks)
    while found := writer.proposals(plan.question, blocks):
        blocks.append(found[0].block)
    return tuple(blocks)


def wrong(plan, kind):
    """Return the beginnings of a right program with a wrong block of a kind at their ends."""
    right, writer = finished(plan), writer_of(plan, 0.5)
    return [
        (*right[:i], found.block)
        for i in range(len(right))
        for found in writer.proposals(plan.question, right[:i])
        if found.kind == kind
    ]


@pytest.fixture(scope="module")
def sandbox():
    pytest.importorskip("pydantic_monty")
    from svip_search.programs.sandbox import Sandbox

    with Sandbox() as opened:
        yield opened


def labels_of(sandbox, plan, program, scene=None):
    """Return the assessment of a program; logic looks at what follows if no more mistakes are made."""
    writer, truth = writer_of(plan), CellVision().look(plan)

    def complete(prefix):
        tree = grow(writer, plan.question, None, width=4, leaves=4, blocks=prefix, depth=60)
        return [(tree.path(leaf), tree.nodes[leaf].count) for leaf in tree.leaves]

    [found] = assess([program], sandbox.run, scene or truth, truth, answer_test(plan.answer), None, complete)
    return found


# ---- right programs ---------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("index", range(4))
def test_right_programs_give_the_answer_and_read_as_right_chains(sandbox, family, index):
    plan = plan_of(family, index)
    program = finished(plan)
    run = sandbox.run(program, CellVision().look(plan))
    assert run.answer == plan.answer, run.blocks[-1].message
    steps = [narrate_plan(block, done) for block, done in zip(program, run.blocks, strict=True)]
    assert len(steps) == len(plan.steps)
    assert [s.partition(" : ")[0] for s in steps[:2]] == [s.partition(" : ")[0] for s in plan.steps[:2]]
    assert np.nan_to_num(label_steps(plan, steps), nan=1).min() == 1


@families
def test_every_block_of_a_right_program_is_needed(sandbox, family):
    plan = plan_of(family, 7)
    found = labels_of(sandbox, plan, finished(plan))
    assert found.right
    assert np.nan_to_num(found.labels, nan=1).tolist() == [[1, 1, 1]] * len(found.program)


def test_long_plans_fit_into_the_sandbox(sandbox):
    plan = plan_of("tower_of_hanoi", moves=(40, 45))
    assert sandbox.run(finished(plan), CellVision().look(plan)).answer == plan.answer


# ---- mistakes ---------------------------------------------------------------------------------------


@families
def test_the_proposals_of_a_rate_add_up(family):
    plan = plan_of(family)
    writer, right = writer_of(plan, 0.3), finished(plan)
    for i in range(len(right)):
        options = writer.exhaustive(plan.question, right[:i])
        kinds = {p.block: p.kind for p in writer.proposals(plan.question, right[:i])}
        assert sum(share for _, share in options) == pytest.approx(1)
        sound = sum(share for block, share in options if kinds[block] not in MISTAKES)
        assert sound == pytest.approx(0.7 if set(kinds.values()) & set(MISTAKES) else 1)
    assert writer.exhaustive(plan.question, right) == []


@families
def test_moves_against_the_rules_fail(sandbox, family):
    plan = plan_of(family, 1, moves=(2, 5))
    found = wrong(plan, "illegal")[:4]
    followed = family == "number_slide"  # moves in another order than the question's break no rule of the game
    for program in found if not followed else ():
        last = sandbox.run(program, CellVision().look(plan)).blocks[-1]
        assert last.error == "runtime" and "ValueError" in last.message
        assert narrate_plan(program[-1], last).endswith(" : failed")
        assert labels_of(sandbox, plan, program).labels[-1, 1] == 0


@pytest.mark.parametrize("family", PLANNED)
def test_slips_lead_to_wrong_answers(sandbox, family):
    plan = plan_of(family, 2, moves=(2, 4))
    found = wrong(plan, "slip")
    assert found
    for program in found[:: max(1, len(found) // 4)]:
        assert sandbox.run(finished(plan, program), CellVision().look(plan)).answer != plan.answer


@pytest.mark.parametrize("family", ["checker_move", "move_box", "tower_of_hanoi", "water_jugs"])
def test_detours_are_worth_what_is_left_of_the_plan(sandbox, family):
    plan = next(p for i in range(20) if wrong(p := plan_of(family, i, moves=(3, 4)), "detour"))
    program = wrong(plan, "detour")[0]
    writer = writer_of(plan)
    kept = labels_of(sandbox, plan, finished(plan, program))
    assert kept.labels[len(program) - 1, 1] <= 0.5 and not kept.right
    [back] = [p.block for p in writer.proposals(plan.question, program) if p.kind == "back"]
    options = dict(writer.exhaustive(plan.question, program))
    assert options[back] == pytest.approx(0.2)
    taken_back = labels_of(sandbox, plan, finished(plan, (*program, back)))
    assert taken_back.right
    relevance, logic, _ = taken_back.labels[len(program) - 1 :].T
    assert relevance[0] == 0 and relevance[1:].min() == 1 and logic[1:].min() == 1
    steps = [narrate_plan(*told) for told in zip(taken_back.program, taken_back.run.blocks, strict=True)]
    assert steps[len(program)].startswith("back to ")
    exact = label_steps(plan, steps)
    assert exact[len(program) - 1, 0] == 0 and exact[len(program) :, :2].min() == 1


@families
def test_what_is_beside_the_point_and_what_is_said_twice(sandbox, family):
    plan = plan_of(family, 3)
    for kind, relevance in (("stray", 0), ("repeat", 0.5)):
        program = wrong(plan, kind)[0]
        found = labels_of(sandbox, plan, finished(plan, program))
        assert found.right
        assert found.labels[len(program) - 1].tolist() == [relevance, 1, 1]


@pytest.mark.parametrize("family", ["checker_move", "move_box", "tower_of_hanoi", "water_jugs"])
def test_answers_too_early_are_wrong(sandbox, family):
    plan = plan_of(family, 4, moves=(3, 5))
    for program in wrong(plan, "premature"):
        assert labels_of(sandbox, plan, program).labels[-1, :2].tolist() == [1, 0]


@families
def test_a_misread_picture_is_no_bad_logic(sandbox, family):
    plan = plan_of(family, 5)
    scene = NoisyVision(CellVision(), 1.0, seed=1).look(plan)
    found = labels_of(sandbox, plan, finished(plan), scene)
    assert found.labels[0, 1] == 1 and found.labels[0, 2] == 0 and found.verified_right


def test_labels_of_the_pipeline_are_those_of_the_shortest_plans(sandbox):
    same = []
    for family in FAMILIES:
        plan = plan_of(family, 6, moves=(2, 4))
        truth = CellVision().look(plan)
        found = label_programs(
            plan.question, writer_of(plan, 0.2), sandbox.run, truth, truth,
            completer=writer_of(plan), narrator=narrate_plan, leaves=5, depth=24,
        )  # fmt: skip
        for made, steps in found:
            exact = label_steps(plan, steps)[:, :2]
            on = [not step.startswith("cells : ") for step in steps]
            both = np.isfinite(made.labels[:, :2]) & np.array(on)[:, None]
            same += ((made.labels[:, :2] > 0.5) == (exact > 0.5))[both].tolist()
    assert len(same) > 200 and np.mean(same) > 0.93


# ---- the generator ----------------------------------------------------------------------------------


def test_the_generator_is_one_and_draws_the_same_again():
    plan = plan_of("water_jugs")
    writer = writer_of(plan, 0.5)
    assert isinstance(writer, ProgramGenerator)
    assert set(RECIPES) == set(FAMILIES)
    blocks = finished(plan)[:1]
    drawn = writer.next_blocks(plan.question, None, blocks, 8, seed=3)
    assert drawn == writer.next_blocks(plan.question, None, blocks, 8, seed=3)
    assert len(set(drawn)) > 1


def test_what_does_not_fit_is_named():
    plan = plan_of("maze")
    with pytest.raises(ValueError, match="`error_rate` must lie in"):
        PlanProgramGenerator(1.5, cells=plan.cells)
    with pytest.raises(ValueError, match="`family` must be one of"):
        PlanProgramGenerator(0.1, cells=plan.cells, family="chess")
    with pytest.raises(ValueError, match="`question` must be of maze"):
        PlanProgramGenerator(0.1, cells=plan.cells, family="maze").next_blocks(Question("How many?"), None, (), 1)
    with pytest.raises(ValueError, match="`cells` must be one a cell"):
        PlanProgramGenerator(0.1, cells=plan.cells[1:]).next_blocks(plan.question, None, (), 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([[3, 2], [], [1]], "1 : go : 3 2 | . | 1"),
        ([["1", "."], ["2", "3"]], "1 : go : 1 . | 2 3"),
        (["box", 1, 2], "1 : go : box 1 2"),
        ([], "1 : go : ."),
        (None, "1 : go : none"),
        ("x" * 1000, ("1 : go : " + "x" * 1000)[:LONGEST]),
    ],
)
def test_values_are_told_as_states_are(value, text):
    assert narrate_plan("# 1 : go\nstate_1 = 0", BlockRun(value)) == text


# ---- vision -----------------------------------------------------------------------------------------


def test_cells_are_seen():
    words = ("green", "red", ".", "red", ".", "green")
    scene, left = CellScene(Grid("checker_move", 2, 3), words), Region(0, 0, 1 / 3, 0.5)
    assert len(scene.call("find", Region(), ["object"])) == 6
    assert [r.left for r in scene.call("find", Region(0, 0, 1, 0.5), ["red"])] == [pytest.approx(1 / 3)]
    assert scene.call("exists", left, ["red"]) is False
    assert [scene.call(m, left, []) for m in ("text", "color", "number", "sides")] == ["green", "green", "", 0]
    assert scene.call("query", left, ["what is it?"]) == "green"
    assert scene.call("text", Region(0.34, 0.1, 0.36, 0.12), []) == "red"  # no centre in it: the cell it lies in
    assert CellScene(Grid("water_jugs", 1, 2, 9), ("0", "7")).call("number", Region(0.5, 0, 1, 1), []) == 7
    with pytest.raises(ValueError, match="`kind` must be one of"):
        scene.call("find", Region(), ["dog"])
    with pytest.raises(ValueError, match="`words` must be one a cell, 6; got 5"):
        CellScene(Grid("checker_move", 2, 3), words[1:])


@families
def test_what_is_misread_is_another_word_or_place(family):
    plan = plan_of(family, 8)
    truth, noisy = CellVision().look(plan), NoisyVision(CellVision(), 1.0).look(plan)
    kinds = ("object", *set(plan.cells))
    calls = [("find", Region(), [kind]) for kind in kinds] + [("exists", Region(), [kind]) for kind in kinds]
    calls += [("text", region, []) for region in truth.regions]
    for method, region, arguments in calls:
        true, seen = truth.call(method, region, arguments), noisy.call(method, region, arguments)
        assert type(true) is type(seen)
        assert not same_answer(method, true, seen)
