"""Spoilt chains of planning puzzles: what was done to them shows in their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from svip_search.datasets.planning import FAMILIES, FAULTS, Plan, corrupt, generate_plan, is_right, label_steps

PLANS = [generate_plan(91, i, families=[f], pixels=32, plain=True) for f in FAMILIES for i in range(4)]


def spoilt(fault: str, plans: Sequence[Plan] = PLANS) -> list[tuple[Plan, list[str], NDArray[np.float32]]]:
    made = [(plan, corrupt(plan, np.random.default_rng(i), fault)) for i, plan in enumerate(plans)]
    return [(plan, steps, label_steps(plan, steps)) for plan, steps in made]


def labels_of(fault: str, family: str = "tower_of_hanoi") -> list[NDArray[np.float32]]:
    plans = [generate_plan(92, i, families=[family], moves=(3, 6), pixels=32, plain=True) for i in range(8)]
    return [labels for _, _, labels in spoilt(fault, plans)]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_chain_ends_in_an_answer_and_can_be_labelled(fault: str) -> None:
    for plan, steps, labels in spoilt(fault):
        assert steps[-1].startswith("answer : ")
        assert len(steps) <= 6 * plan.length + 24
        known = labels[~np.isnan(labels)]
        assert ((known >= 0) & (known <= 1)).all()


def test_the_same_numbers_give_the_same_chain() -> None:
    one, two = ([corrupt(plan, np.random.default_rng(3)) for plan in PLANS] for _ in range(2))
    assert one == two
    assert {tuple(steps) for steps in one} - {plan.steps for plan in PLANS}


def test_a_misread_picture_is_bad_perception_and_makes_what_follows_worthless() -> None:
    misread = [labels for labels in labels_of("misread_start") if labels[0, 2] < 1]
    assert len(misread) >= 6  # not every picture can be taken for another that makes sense
    assert all(labels[0, 1] == 1 and labels[-1, 1] == 0 for labels in misread)
    assert sum(labels[1, 2] < 1 for labels in labels_of("misread_goal", "move_box")) >= 6


@pytest.mark.parametrize("fault", ["illegal_move", "wrong_state", "wrong_number", "premature", "skipped"])
def test_what_does_not_follow_is_bad_logic(fault: str) -> None:
    spoilt_logic = [labels[:, 1].min() == 0 for labels in labels_of(fault)]
    assert np.mean(spoilt_logic) >= (0.6 if fault == "skipped" else 1)  # a reading can be skipped


@pytest.mark.parametrize("fault", ["needless_back", "detour"])
def test_what_is_not_needed_is_not_relevant(fault: str) -> None:
    assert all(labels[:, 0].min() == 0 for labels in labels_of(fault))


def test_another_option_is_a_wrong_answer_after_right_steps() -> None:
    for plan, steps, labels in spoilt("other_option"):
        assert not is_right(plan, steps)
        assert steps[-1].removeprefix("answer : ") in plan.question.options
        assert labels[-1, 1] == 0


def test_a_fault_must_exist() -> None:
    with pytest.raises(ValueError, match=r"`fault` must be one of misread_start.*got 'typo'"):
        corrupt(PLANS[0], np.random.default_rng(0), "typo")
