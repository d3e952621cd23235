"""The classical module sees what was drawn, and takes any picture without a crash."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

pytest.importorskip("cv2", reason="needs the extra `vision`")

from svip_search._errors import ImageError
from svip_search.datasets.puzzles import FAMILIES, generate_puzzle
from svip_search.datasets.puzzles._canvas import BLACK, PALETTE, Canvas, _font, font_names, regular_polygon
from svip_search.programs import METHODS, Region
from svip_search.programs.vision import KINDS, ClassicalVision, TruthVision, same_answer
from svip_search.programs.vision._colors import name_color
from svip_search.programs.vision._glyphs import GLYPHS, read

WHOLE = Region()
VISION = ClassicalVision()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_drawn_is_seen(family):
    asked = right = 0
    for index in range(30):
        puzzle = generate_puzzle(12_000, index, families=[family])
        scene, truth = VISION.look(puzzle.image), TruthVision().look(puzzle)
        patches = truth.call("find", WHOLE, ["object"])
        found = same_answer("find", scene.call("find", WHOLE, ["object"]), patches)
        for patch in patches:
            near = scene.at(patch)
            for method in ("color", "number", "shape", "size", "sides", "text"):
                asked += 1
                true = truth.call(method, patch, [])
                right += bool(found and near and same_answer(method, scene.call(method, near.region, []), true))
    assert right / asked >= 0.9


@pytest.mark.parametrize("pixels", [128, 224, 512])
def test_plain_pictures_are_seen_at_any_size(pixels):
    for index, family in enumerate(FAMILIES):
        puzzle = generate_puzzle(12_001, index, families=[family], pixels=pixels, plain=True)
        scene, truth = VISION.look(puzzle.image), TruthVision().look(puzzle)
        assert same_answer("find", scene.call("find", WHOLE, ["?"]), truth.call("find", WHOLE, ["?"])), family
        found = [len(s.call("find", WHOLE, ["object"])) for s in (scene, truth)]
        assert found[0] == found[1], family


@pytest.mark.parametrize("turn", [-90.0, 0.0, 17.0])
@pytest.mark.parametrize("sides", range(3, 10))
def test_sides_are_counted_at_any_turn(sides, turn):
    canvas = Canvas(160)
    canvas.polygon(regular_polygon(256, 256, 70, sides, turn), PALETTE["green"])
    scene = VISION.look(canvas.finish())
    (patch,) = scene.call("find", WHOLE, ["object"])
    assert scene.call("sides", patch, []) == sides
    assert scene.call("color", patch, []) == "green"


def test_sizes_are_relative_and_empty_where_all_are_equal():
    def scene(radii):
        canvas = Canvas(160)
        for x, radius in zip((110, 256, 402), radii, strict=True):
            canvas.circle(x, 256, radius, PALETTE["blue"])
        found = VISION.look(canvas.finish())
        return [found.call("size", p, []) for p in found.call("find", WHOLE, ["circle"])]

    assert scene((20, 60, 40)) == ["small", "large", "medium"]
    assert scene((40, 40, 60)) == ["small", "small", "large"]
    assert scene((40, 40, 40)) == ["", "", ""]


def test_rings_are_told_apart_by_their_patches():
    canvas = Canvas(160)
    for radius, color in ((200, "red"), (140, "yellow"), (80, "blue")):
        canvas.circle(256, 256, radius, PALETTE[color])
    scene = VISION.look(canvas.finish())
    patches = scene.call("find", WHOLE, ["circle"])
    assert [scene.call("color", p, []) for p in patches] == ["blue", "yellow", "red"]


@pytest.mark.parametrize("name", font_names())
@pytest.mark.parametrize("pixels", [10, 16, 60])
def test_every_glyph_of_every_font_is_read(name, pixels):
    for text in (*GLYPHS, "10", "27", "64"):
        sheet = Image.new("L", (400, 200), 255)
        ImageDraw.Draw(sheet).text((200, 100), text, 0, _font(name, 2 * pixels), anchor="mm")
        (found,) = read([1 - np.asarray(sheet.reduce(2), np.float32) / 255])
        assert found is not None
        assert found.text == text, found.fit


def test_what_is_no_number_is_not_read():
    line = np.zeros((20, 200), np.float32)
    line[8:12] = 1
    assert read([np.zeros((9, 9), np.float32), line]) == [None, None]


@pytest.mark.parametrize("name", PALETTE)
def test_colours_have_names(name):
    assert name_color(np.array(PALETTE[name], np.float32)) == (name, "dark")
    assert name_color(np.array((238, 238, 238), np.float32)) == ("", "")


def circle():
    return generate_puzzle(12_002, 0, families=["color_grid"], plain=True).image


def test_the_mode_and_the_container_of_a_picture_do_not_matter(tmp_path):
    picture = circle()
    clear = picture.convert("RGBA")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    picture.save(tmp_path / "a.png")
    expected = [t.color for t in VISION.look(picture).things]
    for same in (clear, picture.quantize(64), buffer.getvalue(), tmp_path / "a.png", np.asarray(picture)):
        assert [t.color for t in VISION.look(same).things] == expected


def test_greys_have_shapes_but_no_colour():
    for grey in (circle().convert("L"), circle().convert("I;16")):
        things = VISION.look(grey).things
        assert {t.color for t in things} == {""}
    large = generate_puzzle(12_002, 0, families=["color_grid"], plain=True, pixels=256).image
    assert sum(t.shape == "circle" for t in VISION.look(large.convert("L")).things) == 8


def random(*shape):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))


ODD = {
    "blank": lambda: Image.new("RGB", (128, 128), "white"),
    "black": lambda: Image.new("RGB", (128, 128), BLACK),
    "one pixel": lambda: Image.new("RGB", (1, 1), "red"),
    "narrow": lambda: Image.new("RGB", (3, 4000), "red"),
    "33 megapixels": lambda: Image.new("RGB", (7680, 4320), "white"),
    "noise": lambda: random(200, 300),
    "smooth": lambda: random(8, 8).resize((256, 256), Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("name", ODD)
def test_pictures_that_hold_no_figures_give_few_things_and_no_crash(name):
    scene = VISION.look(ODD[name]())
    assert scene.call("find", WHOLE, ["number"]) == []
    if name not in ("noise", "smooth"):
        assert scene.things == ()
    assert len(scene.things) <= 200
    assert scene.call("color", WHOLE, []) in ("", *PALETTE)


@pytest.mark.parametrize("bad", [b"", b"\x89PNG\r\n\x1a\n broken", "nowhere.png", np.zeros((3, 3), np.float64)])
def test_what_is_no_picture_is_an_image_error(bad):
    with pytest.raises(ImageError):
        VISION.look(bad)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**31), st.integers(1, 40), st.sampled_from(KINDS))
def test_any_picture_is_looked_at(width, height, seed, shapes, kind):
    """Random overlapping figures, thin and thick, inside and across the border."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (2 * width, 2 * height), tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(shapes):
        corners = rng.integers(-20, 180, (int(rng.integers(3, 6)), 2))
        fill, line = (tuple(rng.integers(0, 256, 3).tolist()) for _ in range(2))
        pen.polygon([tuple(c) for c in corners.tolist()], fill, line, int(rng.integers(1, 6)))
    scene = VISION.look(image)
    for region in scene.call("find", WHOLE, [kind]):
        for method in ("color", "number", "shape", "size", "sides", "text"):
            assert isinstance(scene.call(method, region, []), int | str)


def test_looking_is_deterministic():
    puzzle = generate_puzzle(12_003, 5)
    assert VISION.look(puzzle.image).things == VISION.look(puzzle.image).things


def test_every_method_is_answered():
    scene = VISION.look(circle())
    for name, method in METHODS.items():
        assert scene.call(name, WHOLE, ["circle"] * len(method.arguments)) is not None
