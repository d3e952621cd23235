"""Noise errs at its rate, plausibly and repeatably; views of a picture vote."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.puzzles._family import COLORS, SIZES
from svip_search.programs import Region
from svip_search.programs.vision import (
    SHAPES,
    AugmentedScene,
    AugmentedVision,
    NoisyVision,
    Thing,
    ThingScene,
    TruthVision,
    View,
    wrong_answer,
)
from svip_search.programs.vision._things import box
from svip_search.programs.vision.augmented import render

WHOLE = Region()


def calls(scene, truth):
    for patch in truth.call("find", WHOLE, ["object"]):
        for method in ("color", "number", "shape", "size", "sides", "text"):
            yield scene.call(method, patch, []), truth.call(method, patch, [])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 1.0])
def test_the_share_of_wrong_answers_is_the_rate(rate):
    wrong = []
    for index in range(60):
        puzzle = generate_puzzle(13_000, index)
        scene, truth = NoisyVision(TruthVision(), rate, seed=3).look(puzzle), TruthVision().look(puzzle)
        wrong += [a != b for a, b in calls(scene, truth)]
    assert np.mean(wrong) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(wrong)) ** 0.5)


def test_noise_is_a_function_of_seed_and_call():
    puzzle = generate_puzzle(13_000, 1)
    truth = TruthVision().look(puzzle)
    first, again, other = (NoisyVision(TruthVision(), 0.5, seed).look(puzzle) for seed in (1, 1, 2))
    assert list(calls(first, truth)) == list(calls(again, truth))
    assert list(calls(first, truth)) == list(calls(first, truth))
    assert list(calls(first, truth)) != list(calls(other, truth))


@given(st.integers(0, 2**32), st.sampled_from([*COLORS, ""]), st.sampled_from(SIZES), st.sampled_from(SHAPES))
def test_wrong_answers_are_wrong_and_of_the_same_kind(seed, color, size, shape):
    rng = np.random.default_rng(seed)
    assert wrong_answer("color", color, rng) in set(COLORS) - {color}
    assert wrong_answer("size", size, rng) in set(SIZES) - {size}
    assert wrong_answer("shape", shape, rng) in set(SHAPES) - {shape}
    for number in (int(rng.integers(0, 100)), "?", ""):
        assert wrong_answer("number", number, rng) not in (number, "")
    for sides in (0, 3, 7):
        found = wrong_answer("sides", sides, rng)
        assert found != sides
        assert found >= 3
    assert wrong_answer("exists", True, rng) is False
    patches = [box(x, 0.5, 0.1, 0.1) for x in (0.2, 0.5, 0.8)]
    assert len(wrong_answer("find", patches, rng)) == 2
    assert len(wrong_answer("find", [], rng)) == 1
    assert wrong_answer("query", color or "red", rng) in set(COLORS) - {color or "red"}


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="`rate`"):
        NoisyVision(TruthVision(), rate)


def scene_of(color, x=0.5):
    return ThingScene([Thing(box(x, 0.5, 0.2, 0.2), "circle", color=color)])


def test_most_views_win_and_their_share_is_the_agreement():
    votes = AugmentedScene([(View(), scene_of("red")), (View(), scene_of("blue")), (View(), scene_of("blue"))])
    assert votes.call("color", WHOLE, []) == "blue"
    assert votes.agreement("color", WHOLE, []) == pytest.approx(2 / 3)
    tie = AugmentedScene([(View(), scene_of("red")), (View(), scene_of("blue"))])
    assert tie.call("color", WHOLE, []) == "red"


def test_patches_of_a_view_come_back_to_the_picture():
    view = View(scale=0.8, dx=0.1)
    votes = AugmentedScene([(view, ThingScene([Thing(view.there(box(0.3, 0.5, 0.2, 0.2)), "circle")]))])
    (patch,) = votes.call("find", WHOLE, ["circle"])
    assert (patch.x, patch.y) == (pytest.approx(0.3), pytest.approx(0.5))
    assert votes.call("shape", patch, []) == "circle"


@given(st.floats(0.7, 1.3), st.floats(-0.2, 0.2), st.floats(-0.2, 0.2), st.floats(0.3, 0.7), st.floats(0.3, 0.7))
def test_there_and_back_is_the_same_place(scale, dx, dy, x, y):
    view, region = View(scale=scale, dx=dx, dy=dy), box(x, y, 0.02, 0.02)
    there = view.there(region)
    if 0 < there.left < there.right < 1 and 0 < there.top < there.bottom < 1:
        back = view.back(there)
        assert (back.x, back.y) == (pytest.approx(x), pytest.approx(y))


def test_a_view_shows_a_place_where_it_says():
    picture = Image.new("RGB", (100, 100), "white")
    picture.paste((255, 0, 0), (28, 48, 33, 53))
    view = View(scale=0.8, dx=0.1, dy=-0.05)
    shown = np.asarray(render(picture, view))
    place = view.there(box(0.305, 0.505, 0.0, 0.0))
    assert shown[round(100 * place.y - 0.5), round(100 * place.x - 0.5), 1] < 80
    assert (shown[-3:] == 255).all()
    assert render(picture, View()) is picture
    assert (np.asarray(render(picture, View(noise=5.0), 1)) != np.asarray(picture)).any()


def test_views_of_a_puzzle_agree():
    pytest.importorskip("cv2", reason="needs the extra `vision`")
    from svip_search.programs.vision import ClassicalVision

    puzzle = generate_puzzle(13_001, 0, families=["grid_number_color"], pixels=192, plain=True)
    truth, scene = TruthVision().look(puzzle), AugmentedVision(ClassicalVision()).look(puzzle.image)
    assert scene.agreement("find", WHOLE, ["object"]) >= 0.8
    for patch in truth.call("find", WHOLE, ["object"]):
        assert scene.call("number", patch, []) == truth.call("number", patch, [])
        assert scene.agreement("number", patch, []) >= 0.6


def test_views_must_be_given():
    with pytest.raises(ValueError, match="`views`"):
        AugmentedVision(TruthVision(), views=())
