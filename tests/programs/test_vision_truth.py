"""The verifier answers what was drawn, and scenes reject what they do not know."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svip_search.datasets.puzzles import FAMILIES, generate_puzzle
from svip_search.programs import METHODS, Region
from svip_search.programs.vision import KINDS, Thing, ThingScene, TruthVision, same_answer
from svip_search.programs.vision._things import box

WHOLE = Region()
fractions = st.floats(0, 1)
regions = st.tuples(fractions, fractions, fractions, fractions).map(
    lambda v: Region(min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_noted_object_is_found_and_answers_for_itself(family):
    for index in range(20):
        puzzle = generate_puzzle(11_000, index, families=[family])
        scene = TruthVision().look(puzzle)
        patches = scene.call("find", WHOLE, ["object"])
        assert len(patches) == len(puzzle.objects)
        left = list(patches)
        for noted in puzzle.objects:
            patch = min(left, key=lambda r: abs(r.x - noted.x) + abs(r.y - noted.y))
            left.remove(patch)
            assert scene.call("shape", patch, []) == noted.shape
            assert str(scene.call("number", patch, [])) == noted.number
            assert scene.call("color", patch, []) == noted.color.replace("grey", "")


def test_words_of_size_become_those_of_the_api():
    bars = TruthVision().look(generate_puzzle(11_000, 0, families=["rectangle_height_number"]))
    words = {1: "small", 2: "medium", 3: "large"}
    for patch in bars.call("find", WHOLE, ["number"]):
        if bars.call("number", patch, []) != "?":
            assert bars.call("size", patch, []) == words[bars.call("number", patch, [])]
    rings = TruthVision().look(generate_puzzle(11_000, 0, families=["color_size_circle"]))
    shades = [rings.call("query", p, ["what shade is it?"]) for p in rings.call("find", WHOLE, ["circle"])]
    assert [rings.call("size", p, []) for p in rings.call("find", WHOLE, ["circle"])] == [""] * 4
    assert shades[1:] in (["light", "dark", "darkest"], ["dark", "light", "lightest"])


def test_equal_numbers_of_circles_have_equal_sizes_and_wider_patches_for_larger_ones():
    scene = TruthVision().look(generate_puzzle(11_000, 3, families=["circle_size_number"]))
    known = [p for p in scene.call("find", WHOLE, ["number"]) if scene.call("number", p, []) != "?"]
    for a in known:
        for b in known:
            number = [scene.call("number", p, []) for p in (a, b)]
            size = [scene.call("size", p, []) for p in (a, b)]
            assert (number[0] == number[1]) == (size[0] == size[1])
            assert (number[0] < number[1]) == (a.right - a.left < b.right - b.left - 1e-9)


RED = Thing(box(0.2, 0.2, 0.1, 0.1), "circle", color="red", number=12, size="small")
BLUE = Thing(box(0.7, 0.21, 0.1, 0.1), "hexagon", color="blue", shade="dark")
ASKED = Thing(box(0.3, 0.8, 0.1, 0.1), number="?")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What colour is this?", "red"), ("which number is written on it", "12"), ("How big is it?", "small"),
        ("how many sides does it have?", "0"), ("What shape is it?", "circle"), ("How many circles are there?", "1"),
        ("How many objects are there?", "3"), ("How many red objects?", "1"), ("How many numbers?", "2"),
        ("Who painted it?", ""),
    ],
)  # fmt: skip
def test_queries(question, answer):
    scene = ThingScene([ASKED, BLUE, RED])
    region = WHOLE if "many" in question and "sides" not in question else RED.region
    assert scene.call("query", region, [question]) == answer


def test_reading_order_kinds_and_nothing():
    scene = ThingScene([ASKED, BLUE, RED])
    assert scene.call("find", WHOLE, ["object"]) == [t.region for t in (RED, BLUE, ASKED)]
    assert scene.call("find", WHOLE, ["numbers"]) == [RED.region, ASKED.region]
    assert scene.call("find", Region(0, 0.5, 1, 1), ["object"]) == [ASKED.region]
    assert scene.call("exists", WHOLE, ["hexagons"])
    assert not scene.call("exists", WHOLE, ["triangle"])
    nowhere = Region(0.9, 0.9, 0.95, 0.95)
    assert [scene.call(m, nowhere, []) for m in ("color", "number", "sides", "text")] == ["", "", 0, ""]
    assert scene.call("color", box(0.7, 0.21, 0.02, 0.02), []) == "blue"


@pytest.mark.parametrize(
    ("method", "arguments", "named"),
    [("paint", [], "'paint'"), ("find", ["unicorn"], "'unicorn'"), ("find", [], "1 argument"), ("find", [3], "`kind`"),
     ("color", ["x"], "0 argument"), ("query", ["x" * 3000], "2000")],
)  # fmt: skip
def test_what_is_unknown_is_named(method, arguments, named):
    with pytest.raises(ValueError, match=named):
        ThingScene([RED]).call(method, WHOLE, arguments)


@given(regions, st.sampled_from(sorted(METHODS)), st.sampled_from(KINDS))
def test_any_call_is_answered_by_the_type_it_promises(region, method, kind):
    scene = ThingScene([RED, BLUE, ASKED])
    value = scene.call(method, region, [kind] * len(METHODS[method].arguments))
    kinds = {"find": list, "exists": bool, "number": (int, str), "sides": int}
    assert isinstance(value, kinds.get(method, str))


def test_same_answers():
    a, b = box(0.2, 0.2, 0.1, 0.1), box(0.8, 0.8, 0.1, 0.1)
    assert same_answer("find", [a, b], [[0.75, 0.75, 0.85, 0.85], {"region": [0.15, 0.15, 0.25, 0.25]}])
    assert not same_answer("find", [a, b], [a, a])
    assert not same_answer("find", [a], [a, b])
    assert same_answer("text", " Red", "red")
    assert not same_answer("number", 3, "?")


def test_without_opencv_the_others_work_and_one_says_what_is_missing():
    code = """if True:
        import sys
        sys.modules["cv2"] = None
        from svip_search.programs import NoisyVision, TruthVision, vision
        try:
            vision.ClassicalVision
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "`ClassicalVision` needs OpenCV: pip install svip-search[programs]\n"
