"""Recipes of the families that ask for a shape or a size."""

from __future__ import annotations

from ._recipe import Edit, Recipe, Stage

SHAPE_MORPH = Recipe(
    "shape_morph",
    look='cells = rows(image.find("object"))',
    read=(
        ("start", "[part.shape() or part.number() for part in cells[0][:1]]"),
        ("end", "[part.shape() or part.number() for part in cells[2][2:]]"),
        ("after_start", "[part.shape() or part.number() for part in cells[0][1:2]]"),
        ("before_end", "[part.shape() or part.number() for part in cells[2][1:2]]"),
    ),
    pattern=Stage(
        """
# The shapes turn from one end into the other; neighbours of an end look like it.
ends = start + end
beside = after_start + before_end
gone = ends.index("?")
known = ends[1 - gone]
other = beside[gone]
[known, beside[1 - gone], known, other]""",
        "pattern : {} next to {} like so shapes morph from {} to {}",
        (
            Edit('gone = ends.index("?")', 'gone = 1 - ends.index("?")'),
            Edit("other = beside[gone]", "other = beside[1 - gone]"),
            Edit("after_start + before_end", "before_end + after_start"),
        ),
    ),
    missing=Stage(
        """
# The neighbour of the missing end looks like it.
where = ["top left", "bottom right"][gone]
result = other
[where, result, result]""",
        "missing part is {} , next to {} like so {}",
        (
            Edit("result = other", "result = known"),
            Edit("[gone]\nresult = other", "[1 - gone]\nresult = known"),
            Edit("result = other", "result = beside[0]"),
        ),
    ),
    guess="start[0]",
    slips=("known", "after_start[0]"),
)

SHAPE_REFLECT = Recipe(
    "shape_reflect",
    look='lines = rows(image.find("object"))',
    read=(
        ("top", "[part.shape() or part.number() for part in lines[0]]"),
        ("bottom", "[part.shape() or part.number() for part in lines[1]]"),
    ),
    pattern=Stage(
        """
# Each shape stands again on the other side of the line.
pairs = [[top[i], bottom[i]] for i in range(3)]
[pair for pair in pairs if "?" not in pair]""",
        "pattern : {} same as {} , {} same as {} so rows are same",
        (
            Edit("bottom[i]]", "bottom[2 - i]]"),
            Edit("bottom[i]]", "top[i]]"),
            Edit("bottom[i]]", "bottom[i - 1]]"),
        ),
    ),
    missing=Stage(
        """
# The shape across the line from the question mark.
pair = [pair for pair in pairs if "?" in pair][0]
row, other = ("top", "bottom") if pair[0] == "?" else ("bottom", "top")
result = pair[1] if pair[0] == "?" else pair[0]
[row, result, other]""",
        "missing part in {} row is same as {} in {} row",
        (
            Edit('if "?" in pair][0]', 'if "?" not in pair][0]'),
            Edit('if "?" in pair][0]', 'if "?" not in pair][1]'),
            Edit('pair[1] if pair[0] == "?" else pair[0]', "bottom[0]"),
        ),
    ),
    guess="top[0]",
    slips=("top[1]", "bottom[0]"),
)

SHAPE_SIZE_GRID = Recipe(
    "shape_size_grid",
    look="""cells = rows(image.find("object"))
shapes = [[part.shape() for part in row] for row in cells]
kind = "row" if all(len({shape for shape in row if shape}) == 1 for row in shapes) else "column"
names = [[shape for shape in line if shape][0] for line in (shapes if kind == "row" else zip(*shapes))]""",
    read=(
        ("same", "[kind, *names]"),
        *((f"row{i + 1}", f"[part.size() or part.number() for part in cells[{i}]]") for i in range(3)),
    ),
    pattern=Stage(
        """
# The sizes of two lines of equal shapes go alike.
grid = [row1, row2, row3]
lines = grid if kind == "row" else [[row[i] for row in grid] for i in range(3)]
known = [i for i in range(3) if "?" not in lines[i]]
sizes = lines[known[0]]
[kind, known[0] + 1, kind, known[1] + 1, sizes]""",
        "pattern : {} {} same as {} {} : {} {} {}",
        (
            Edit('grid if kind == "row"', 'grid if kind == "column"'),
            Edit("sizes = lines[known[0]]", "sizes = lines[known[0]][::-1]"),
            Edit("sizes = lines[known[0]]", "sizes = lines[known[0]][1:] + lines[known[0]][:1]"),
        ),
    ),
    missing=Stage(
        """
# The size that the other lines have at this place.
line = [i for i in range(3) if "?" in lines[i]][0]
result = sizes[lines[line].index("?")]
[kind, line + 1, lines[line], names[line], result]""",
        "{} {} is {} {} {} so missing {} is {}",
        (
            Edit('[lines[line].index("?")]', '[lines[line].index("?") - 1]'),
            Edit('[lines[line].index("?")]', '[2 - lines[line].index("?")]'),
            Edit('[lines[line].index("?")]', "[line]"),
        ),
    ),
    guess="row1[0]",
    slips=("row1[1]", "row3[2]"),
)

SHAPE_SIZE_HEXAGON = Recipe(
    "shape_size_hexagon",
    look='lines = rows(image.find("object"))',
    read=(
        ("top", "[[part.size(), part.shape()] for part in lines[0]]"),
        ("middle", "[[part.size(), part.shape()] if part.shape() else [part.number()] for part in lines[1]]"),
        ("bottom", "[[part.size(), part.shape()] for part in lines[2]]"),
    ),
    pattern=Stage(
        """
# Each shape has one size.
parts = [part for part in top + middle + bottom if "?" not in part]
sizes = {shape: size for size, shape in parts}
[[shape, sizes[shape]] for shape in sizes if shape != "ASKED"]""",
        "pattern : both {} is {} , both {} is {} so same shape same size",
        (
            Edit("shape: size for size, shape in parts", "shape: top[0][0] for size, shape in parts"),
            Edit("top + middle + bottom", "top + bottom"),
            Edit("{shape: size for size, shape in parts}", "{shape: size for shape, size in parts}"),
        ),
    ),
    missing=Stage(
        """
# The size of the shape that the question gives.
result = sizes["ASKED"]
["ASKED", "ASKED", result]""",
        "missing part is {} , both {} is {}",
        (
            Edit('sizes["ASKED"]', "top[0][0]"),
            Edit('sizes["ASKED"]', "top[1][0]"),
            Edit('sizes["ASKED"]', '[sizes[shape] for shape in sizes if shape != "ASKED"][0]'),
        ),
    ),
    guess="top[0][0]",
    slips=("top[1][0]", "bottom[0][0]"),
    asked=(r"if it is an? (\w+)\?", ("triangle", "square", "pentagon", "hexagon")),
)

SIZE_CYCLE = Recipe(
    "size_cycle",
    look="""import math
circles = image.find("object")
x, y = sum(c.x for c in circles) / 9, sum(c.y for c in circles) / 9
near = sorted(circles, key=lambda c: (c.x - x) ** 2 + (c.y - y) ** 2)
# Outer circles clockwise from the top; in each arm the next circle inwards is the nearest one.
outer = sorted(near[6:], key=lambda c: math.atan2(c.x - x, y - c.y) % (2 * math.pi))
between = [nearest(near[3:6], c.x, c.y) for c in outer]
arms = [[nearest(near[:3], b.x, b.y), b, c] for b, c in zip(between, outer)]""",
    read=tuple((f"arm{i + 1}", f"[c.size() or c.number() for c in arms[{i}]]") for i in range(3)),
    pattern=Stage(
        """
# The arms without a question mark go alike.
cycle = [arm1, arm2, arm3]
known = [i for i in range(3) if "?" not in cycle[i]]
sizes = cycle[known[0]]
[known[0] + 1, known[1] + 1, sizes]""",
        "pattern : arm {} same as arm {} : {} {} {}",
        (
            Edit("sizes = cycle[known[0]]", "sizes = cycle[0]"),
            Edit("sizes = cycle[known[0]]", "sizes = cycle[known[0]][::-1]"),
            Edit("sizes = cycle[known[0]]", "sizes = cycle[known[0]][1:] + cycle[known[0]][:1]"),
        ),
    ),
    missing=Stage(
        """
# The size that another arm has at this place.
arm = [i for i in range(3) if "?" in cycle[i]][0]
result = sizes[cycle[arm].index("?")]
[arm + 1, cycle[arm], result]""",
        "arm {} is {} {} {} so missing part is {}",
        (
            Edit('[cycle[arm].index("?")]', '[2 - cycle[arm].index("?")]'),
            Edit('[cycle[arm].index("?")]', '[cycle[arm].index("?") - 1]'),
            Edit('[cycle[arm].index("?")]', "[arm]"),
        ),
    ),
    guess="arm1[0]",
    slips=("arm2[1]", "arm3[2]"),
)

SIZE_GRID = Recipe(
    "size_grid",
    look='cells = rows(image.find("object"))',
    read=tuple((f"row{i + 1}", f"[part.size() or part.number() for part in cells[{i}]]") for i in range(3)),
    pattern=Stage(
        """
# Corners have one size and so have edges.
corners = [row1[0], row1[2], row3[0], row3[2]]
edges = [row1[1], row2[0], row2[2], row3[1]]
corner = [c for c in corners if c != "?"][0]
edge = [e for e in edges if e != "?"][0]
[corner, edge, row2[1]]""",
        "pattern : each corner is {} , each edge is {} , center is {}",
        (
            Edit('[e for e in edges if e != "?"][0]', "row2[1]"),
            Edit('[c for c in corners if c != "?"][0]', "edges[0]"),
            Edit("[corner, edge,", "corner, edge = edge, corner\n[corner, edge,"),
        ),
    ),
    missing=Stage(
        """
# The question mark stands at a corner or at an edge.
place, result = ("corner", corner) if "?" in corners else ("edge", edge)
[place, place, result]""",
        "missing part is {} , same as each {} : {}",
        (
            Edit('"?" in corners', '"?" not in corners'),
            Edit('("edge", edge)', '("edge", corner)'),
            Edit('("corner", corner)', '("corner", row2[1])'),
        ),
    ),
    guess="row1[0]",
    slips=("row2[1]", "row1[1]"),
)

RECIPES = (
    SHAPE_MORPH, SHAPE_REFLECT, SHAPE_SIZE_GRID, SHAPE_SIZE_HEXAGON, SIZE_CYCLE, SIZE_GRID,
)  # fmt: skip
