"""Pictures of planning puzzles: what is drawn into a cell is cut out of it again, in ours and in the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svip_search.datasets.planning._cut import JUG_LEVELS, cut
from svip_search.datasets.planning._draw import draw
from svip_search.datasets.planning._draw_sprites import VARIANTS, scaled
from svip_search.datasets.planning._grid import Grid, grid_of

REAL = Path(__file__).resolve().parents[2].parent / "shared/data/algopuzzlevqa"
SIDE = 32
#: Kinds of cells that a look at the mean colour tells apart.
PLAIN: dict[str, tuple[str, ...]] = {
    "maze": ("#", ".", "entry", "exit"), "move_box": ("#", "."), "n_queens": ("queen", "."),
    "rotting_kiwi": ("fresh", "rotten", "."), "checker_move": ("green", "red", "."), "number_slide": (".",),
}  # fmt: skip
Item = tuple[Grid, list[str], tuple[int, ...]]


def _item(family: str, rng: np.random.Generator) -> Item:
    """A picture's content that need not be a sound puzzle."""
    if family == "tower_of_hanoi":
        disks = int(rng.integers(2, 8))
        return Grid(family, 2 * disks, 3), [w for _ in range(2) for w in _tower(rng.integers(0, 3, disks))], ()
    if family == "water_jugs":
        capacities = sorted((int(c) for c in rng.integers(1, 15, rng.integers(2, 6))), reverse=True)
        return (
            Grid(family, 1, len(capacities), capacities[0]),
            [str(rng.integers(0, c + 1)) for c in capacities],
            tuple(capacities),
        )
    n = int(rng.integers(3, 6) if family == "number_slide" else rng.integers(5, 12))
    grid = Grid(family, 2 if family == "checker_move" else n, n)
    if family == "number_slide":
        return grid, [str(i) if i else "." for i in rng.permutation(n * n)], ()
    words = list(rng.choice([w for w in PLAIN[family] if w not in ("entry", "exit")], len(grid)))
    if family in ("maze", "move_box"):  # the wall around them is what their cells are found by
        words = ["#" if i // n in (0, n - 1) or i % n in (0, n - 1) else w for i, w in enumerate(words)]
    if family == "maze":
        words[n], words[-n - 1] = "entry", "exit"
    return grid, [str(w) for w in words], ()


def _tower(rods: Sequence[int]) -> list[str]:
    """Words of the levels, top first, of disks that stand on these rods, the smallest disk first."""
    stacks: list[list[str]] = [[], [], []]
    for disk in range(len(rods), 0, -1):
        stacks[int(rods[disk - 1])].append(str(disk))
    return [stack[level] if level < len(stack) else "." for level in range(len(rods) - 1, -1, -1) for stack in stacks]


def _seen(patch: np.ndarray[Any, np.dtype[np.uint8]], grid: Grid) -> str:
    """What a simple rule reads in a patch; "number" for all numbered tiles."""
    inner = patch[4:-4, 4:-4].astype(float)
    red, green, blue = inner.mean((0, 1))
    grey = inner.mean(2)
    if grid.family == "water_jugs":
        column = patch[:, SIDE // 4 : 3 * SIDE // 4].astype(float).mean(1)
        wet = np.count_nonzero(column[:-1, 2] - column[:-1, 0] > 35)  # not the bottom's black line
        return str(round((wet + 1) * JUG_LEVELS / SIDE) if wet else 0)
    if grid.family == "tower_of_hanoi":
        r, g, b = patch[10:22].astype(float).mean(0).T
        return "disk" if np.count_nonzero((r > 140) & (r - b > 55) | (g < 40)) > 1 else "."  # else the brown rod
    if grid.family == "checker_move":
        return "." if min(red, green) > 200 else "red" if red > green else "green"
    if grid.family == "maze":
        if max(red, green, blue) < 60:
            return "#"
        return "." if max(red, green, blue) - min(red, green, blue) < 4 else "entry" if green > blue else "exit"
    if grid.family == "rotting_kiwi":
        crossed = (inner[:, :, 0] - inner[:, :, 1] > 90).mean()
        return "." if blue > 220 else "rotten" if crossed > 0.05 else "fresh"
    if grid.family == "n_queens":
        return "queen" if grey.min() < 100 else "."
    if grid.family == "move_box":
        return "." if grey.mean() > 235 else "#" if red - green > 50 else "thing"
    return "." if grey.std() < 12 else "number"


def _expected(word: str, family: str) -> str:
    if word == "." or family not in ("number_slide", "tower_of_hanoi", "move_box"):
        return word
    return {"number_slide": "number", "tower_of_hanoi": "disk"}.get(family, "#" if word == "#" else "thing")


FAMILIES = (*PLAIN, "tower_of_hanoi", "water_jugs")
each_family = pytest.mark.parametrize("family", FAMILIES)


def _share_right(items: Iterator[tuple[Image.Image, Grid, list[str]]]) -> float:
    right = [_seen(patch, grid) == _expected(word, grid.family)
             for image, grid, words in items for patch, word in zip(cut(image, grid), words, strict=True)]  # fmt: skip
    return float(np.mean(right))


@each_family
@pytest.mark.parametrize("pixels", [256, 384, 640])
def test_what_is_drawn_into_a_cell_is_cut_out_of_it(family: str, pixels: int) -> None:
    def items() -> Iterator[tuple[Image.Image, Grid, list[str]]]:
        rng = np.random.default_rng(pixels)
        for _ in range(25):
            grid, words, capacities = _item(family, rng)
            yield draw(grid, words, rng, pixels, capacities), grid, words

    assert _share_right(items()) > 0.98  # some pictures are spoiled


@each_family
def test_plain_pictures_are_read_without_fault(family: str) -> None:
    grid, words, capacities = _item(family, np.random.default_rng(1))
    picture = draw(grid, words, None, capacities=capacities)
    assert picture.mode == "RGB" and picture.width == 384
    assert _share_right(iter([(picture, grid, words)])) == 1


@each_family
def test_the_same_rng_draws_the_same_picture(family: str) -> None:
    grid, words, capacities = _item(family, np.random.default_rng(2))
    one, two, other = (
        np.asarray(draw(grid, words, np.random.default_rng(s), 128, capacities)).tobytes() for s in (3, 3, 4)
    )
    assert one == two != other


@each_family
def test_the_margin_of_the_picture_does_not_matter(family: str) -> None:
    grid, words, capacities = _item(family, np.random.default_rng(3))
    picture = draw(grid, words, None, capacities=capacities)
    wide = Image.new("RGB", (picture.width + 60, picture.height + 45), "white")
    wide.paste(picture, (37, 12))
    difference = np.abs(cut(wide, grid).astype(int) - cut(picture, grid))
    assert difference.mean() < 1


@each_family
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 5), (300, 200), (0, 0), (0, 7)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16", "F"])
def test_any_picture_gives_patches(family: str, size: tuple[int, int], mode: str) -> None:
    grid = Grid(family, 1 if family == "water_jugs" else 2, 3, 5)
    for value in (0, 255):
        patches = cut(Image.new(mode, size, value if mode not in ("RGB", "RGBA", "LA", "CMYK") else 0), grid)
        assert patches.shape == (len(grid), SIDE, SIDE, 3) and patches.dtype == np.uint8


@each_family
def test_pictures_of_other_families_and_noise_give_patches(family: str) -> None:
    rng = np.random.default_rng(5)
    grid, _, _ = _item(family, rng)
    for other in FAMILIES:
        foreign, words, capacities = _item(other, rng)
        assert len(cut(draw(foreign, words, rng, 128, capacities), grid)) == len(grid)
    for _ in range(20):
        height, width = rng.integers(1, 60, 2)
        noise = rng.integers(0, 256, (int(height), int(width), 3), np.uint8)
        assert len(cut(Image.fromarray(noise), grid)) == len(grid)


def test_grids_that_a_family_does_not_have_are_divided_equally() -> None:
    image = Image.new("RGB", (30, 30), "black")
    for family in ("water_jugs", "checker_move", "tower_of_hanoi"):
        assert cut(image, Grid(family, 3, 2)).shape == (6, SIDE, SIDE, 3)


def test_huge_pictures_give_patches() -> None:
    for size in ((6000, 4000), (1, 50_000), (50_000, 2)):
        for family in FAMILIES:
            grid = Grid(family, 1 if family == "water_jugs" else 2, 3, 5)
            assert len(cut(Image.new("RGB", size), grid)) == len(grid)


def test_transparency_is_white() -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (10, 10, 30, 20))
    image.paste((200, 0, 0, 255), (10, 20, 30, 30))
    top, bottom = cut(image, Grid("maze", 2, 1), side=8)
    assert top[4, 4].max() == 0 and bottom[4, 4].tolist() == [200, 0, 0]
    assert cut(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), Grid("maze", 1, 1)).min() == 255


def test_a_jug_stands_equally_high_whatever_the_scale() -> None:
    heights = {scale: _seen(cut(draw(Grid("water_jugs", 1, 2, scale), ["3", "0"], None),
                                Grid("water_jugs", 1, 2, scale))[0], Grid("water_jugs", 1, 2, scale))
               for scale in (3, 5, 9, 14)}  # fmt: skip
    assert set(heights.values()) == {"3"}
    tall = Grid("water_jugs", 1, 2, 40)  # more than a patch shows: its lower part
    assert cut(draw(tall, ["30", "0"], None), tall).shape == (2, SIDE, SIDE, 3)


@pytest.mark.parametrize("kind", ["fresh", "rotten", "box", "player", "flag", "#", "queen"])
def test_sprites_differ_and_lie_within_their_cell(kind: str) -> None:
    drawings = {scaled(kind, variant, 40).tobytes() for variant in range(VARIANTS)}
    assert len(drawings) == VARIANTS
    assert scaled(kind, 1, 40).size == (40, 40)


def test_arguments_are_checked() -> None:
    grid = Grid("maze", 3, 3)
    with pytest.raises(ValueError, match=r"`cells` must be the 9 words"):
        draw(grid, ["#"], None)
    with pytest.raises(ValueError, match=r"`pixels` must be at least 32; got 8"):
        draw(grid, ["#"] * 9, None, 8)
    with pytest.raises(ValueError, match=r"`grid` must be of one of .*; got 'chess'"):
        draw(Grid("chess", 1, 1), ["#"], None)
    with pytest.raises(ValueError, match=r"`capacities` must be 2 numbers"):
        draw(Grid("water_jugs", 1, 2, 5), ["1", "2"], None, capacities=(5,))
    with pytest.raises(ValueError, match=r"`side` and the rows and columns of `grid` must be positive"):
        cut(Image.new("RGB", (9, 9)), grid, side=0)


# ---- the real pictures ---------------------------------------------------------------------------
def _truth(family: str, truth: dict[str, Any]) -> list[str]:
    """The words of a real picture's cells."""
    if family == "number_slide":
        return [str(n) if n else "." for row in truth["starting_grid"] for n in row]
    if family == "maze":
        rows = [["#" if cell else "." for cell in row] for row in truth["maze"]]
        for (y, x), word in ((truth["optimal_path"][0], "entry"), (truth["optimal_path"][-1], "exit")):
            rows[y][x] = word
        return [word for row in rows for word in row]
    if family == "move_box":
        words = {"#": "#", "B": "box", "S": "player", "T": "flag"}
        return [words.get(cell, ".") for row in truth["timestep"]["grid_0"] for cell in row]
    if family == "n_queens":
        queens = {tuple(at) for at in truth["given_queen_positions"]}
        return ["queen" if (y, x) in queens else "." for y in range(truth["rows"]) for x in range(truth["columns"])]
    if family == "rotting_kiwi":
        return [(".", "fresh", "rotten")[cell] for row in truth["timestep"]["minute_0"] for cell in row]
    if family == "checker_move":
        words = {"G": "green", "R": "red", "_": "."}
        return [words[cell] for cell in truth["start_position"] + truth["end_position"]]
    if family == "water_jugs":
        return [str(n) for n in truth["start"]]
    parts = truth["start_position"], truth["end_position"]
    disks = sum(len(rod) for rod in parts[0])
    return [str(rod[level]) if level < len(rod) else "."
            for part in parts for level in range(disks - 1, -1, -1) for rod in part]  # fmt: skip


@each_family
@pytest.mark.skipif(not REAL.exists(), reason="the real puzzles are not here")
def test_the_cells_of_the_real_pictures_are_found(family: str) -> None:
    def items() -> Iterator[tuple[Image.Image, Grid, list[str]]]:
        for line in (REAL / f"{family}.jsonl").read_text().splitlines():
            item = json.loads(line)
            grid = grid_of(item["question"])
            assert grid is not None and grid.family == family
            yield Image.open(REAL / item["image"]), grid, _truth(family, item["solution"])

    assert _share_right(items()) > 0.99
