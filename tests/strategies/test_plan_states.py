"""What the words of a plan say of where it stands: against the labels that know the truth, and on any text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Question, Standing
from svip_search.datasets.planning import (
    FAMILIES,
    Follower,
    PlanOracle,
    generate_plan,
    label_steps,
    state_of,
    trace,
)

PLANS = [generate_plan(9, i, families=[name], pixels=64) for name in FAMILIES for i in range(2)]
HANOI = generate_plan(1, 0, families=["tower_of_hanoi"], moves=(4, 4), pixels=64)


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.question.id)
def test_right_plans_have_no_fault_and_all_prefixes_differ(plan):
    found = [state_of(plan.question, plan.steps[:k]) for k in range(1, len(plan.steps) + 1)]
    assert len({s.key for s in found}) == len(found)
    assert not any(s.loop or s.back or s.fault or s.doubt for s in found)
    assert found[-1].length == plan.length


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.question.id)
def test_loops_and_lengths_are_those_of_the_truth(plan):
    for seed in range(3):
        follower = Follower(plan)
        steps = trace(plan, np.random.default_rng(seed), slips=0.6)
        for k, step in enumerate(steps):
            before = list(follower.states)
            follower.read(step)
            found = state_of(plan.question, steps[: k + 1])
            assert found.length == follower.depth
            assert found.back == step.startswith("back to")
            assert not found.doubt
            moved = len(follower.states) > len(before)
            if moved and plan.family not in ("maze", "number_slide") and follower.states[-1] in before:
                assert found.loop


def test_two_ways_to_a_state_are_one_key_and_going_back_is_another():
    start, *moves = HANOI.steps
    shown = [m.split(" : ")[2] for m in moves[:2]]
    ways = [[start, f"1 : {action} : {shown[0]}"] for action in ("1 > 2", "1 > 3")]
    keys = [state_of(HANOI.question, way).key for way in ways]
    assert keys[0] == keys[1]
    back = [*ways[0], f"back to 0 : {start[8:]}"]
    standing = state_of(HANOI.question, back)
    assert standing.back
    assert not standing.loop
    assert standing.length == 0
    assert standing.key != state_of(HANOI.question, [start]).key
    assert state_of(HANOI.question, [*back, ways[0][-1]]).loop  # what was left is entered again
    assert state_of(HANOI.question, [*back, f"back to 0 : {start[8:]}"]).loop  # nothing to go back from


def test_plans_longer_than_the_options_are_faults():
    most = max(map(int, HANOI.question.options))
    start, move = HANOI.steps[:2]
    action, shown = move.split(" : ")[1:]
    assert not state_of(HANOI.question, [start, f"{most} : {action} : {shown}"]).fault
    too_long = [start, f"{most + 1} : {action} : {shown}"]
    assert state_of(HANOI.question, too_long).fault == f"more than {most} moves"
    assert not state_of(Question(HANOI.question.text), too_long).fault


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        (["start : 9 1 | 9 1"], "a start that is none"),
        ([HANOI.steps[0], "1 : 1 > 2 : hm"], "a state that is none"),
        ([HANOI.steps[0], HANOI.steps[1].replace("1 : ", "3 : ", 1)], "move 3 after move 0"),
        ([HANOI.steps[0], HANOI.steps[1], "back to 0 : hm"], "going back to 0, where it was not"),
    ],
)
def test_what_is_wrong_is_a_doubt(steps, what):
    assert state_of(HANOI.question, steps).doubt == what


def test_a_goal_that_is_none_is_a_doubt():
    box = generate_plan(1, 0, families=["move_box"], pixels=64)
    assert state_of(box.question, [box.steps[0], "goal : hm"]).doubt == "a goal that is none"
    assert not state_of(box.question, box.steps[:2]).doubt


def test_answers_must_be_options():
    standing = state_of(HANOI.question, [*HANOI.steps[:-1], "answer : 777"])
    assert standing.fault == "an answer that is none of the options"
    assert not state_of(HANOI.question, HANOI.steps).fault


def test_other_questions_are_unknown():
    assert state_of(Question("Which?"), ("start : 1",)) is None


PIECES = ["start : ", "goal : ", "back to 0 : ", "back to 7 : ", "1 : 1 > 2 : ", "2 : up : ", "answer : ", " : ", "|"]
STEP = st.one_of(
    st.text(max_size=30),
    st.lists(st.one_of(st.sampled_from(PIECES), st.sampled_from([s for p in PLANS for s in p.steps])), max_size=4).map(
        "".join
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PLANS), st.lists(STEP, max_size=8))
def test_no_text_makes_it_raise(plan, steps):
    found = state_of(plan.question, steps)
    assert isinstance(found, Standing)
    assert hash(found) == hash(state_of(plan.question, list(steps)))


@pytest.mark.parametrize("step", ["1 : " * 10**5, "start : " + "9" * 10**6, "1 : a : " + "| " * 10**6])
def test_long_texts_cost_little(step):
    assert isinstance(state_of(HANOI.question, [step] * 50), Standing)


def test_a_foreign_question_with_the_words_of_a_family_is_no_error():
    for text in ("A sliding puzzle of 3 * 4 tile, perform exactly 999 moves", "given 2 jugs of capacities 9, 9 litres"):
        assert state_of(Question(text), ("start : 1",)) is None


def test_the_oracle_gives_the_labels_and_errors_at_their_rate():
    plans = {p.question.id: p for p in PLANS}
    clean = [PlanOracle(plans).evaluate(p.question, [p.steps])[0] for p in PLANS]
    for plan, rewards in zip(PLANS, clean, strict=True):
        labels = label_steps(plan, plan.steps)
        assert rewards.dtype == np.float32
        assert np.array_equal(rewards, np.where(np.isnan(labels), 1, labels))
    noisy = PlanOracle(plans, error=0.3, seed=1)
    spoilt = [noisy.evaluate(p.question, [p.steps])[0] for p in PLANS]
    differ = np.concatenate([(a != b).any(axis=1) for a, b in zip(clean, spoilt, strict=True)])
    assert 0.15 < differ.mean() < 0.45
    prefix = noisy.evaluate(PLANS[0].question, [PLANS[0].steps[:2]])[0]
    assert np.array_equal(prefix, spoilt[0][:2])
    assert all(((r >= 0) & (r <= 1)).all() for r in spoilt)
    with pytest.raises(KeyError, match="`question` must be"):
        noisy.evaluate(Question("?"), [("a",)])
    with pytest.raises(ValueError, match="`error` must lie"):
        PlanOracle(plans, error=2)
