"""Recipes of the families that ask for a colour."""

from __future__ import annotations

from ._recipe import Edit, Recipe, Stage

COLOR_GRID = Recipe(
    "color_grid",
    look='cells = rows(image.find("object"))',
    read=tuple((f"row{i + 1}", f"[cell.color() or cell.number() for cell in cells[{i}]]") for i in range(3)),
    pattern=Stage(
        """
# Corners share a colour and so do edges.
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
[place, result]""",
        "missing part : {} so {}",
        (
            Edit('"?" in corners', '"?" not in corners'),
            Edit('("edge", edge)', '("edge", corner)'),
            Edit('("corner", corner)', '("corner", row2[1])'),
        ),
    ),
    guess="row1[0]",
    slips=("row2[1]", "row1[1]"),
)

COLOR_HEXAGON = Recipe(
    "color_hexagon",
    look='parts = ring(image.find("object"))',
    read=(
        ("first", "[part.color() or part.number() for part in parts[:3]]"),
        ("second", "[part.color() or part.number() for part in parts[3:]]"),
    ),
    pattern=Stage(
        """
# Parts that face each other have the same colour.
around = first + second
facing = [around[(i + 3) % 6] for i in range(6)]
[[around[i], facing[i]] for i in range(3) if "?" not in (around[i], facing[i])]""",
        "pattern : {} is opposite {} and {} is opposite {} so opposite parts are the same",
        (
            Edit("first + second", "first + second[::-1]"),
            Edit("(i + 3) % 6", "(i + 1) % 6"),
            Edit("(i + 3) % 6", "5 - i"),
        ),
    ),
    missing=Stage(
        """
# The colour that faces the question mark.
result = facing[around.index("?")]
[result]""",
        "missing part : opposite {}",
        (
            Edit('facing[around.index("?")]', 'around[around.index("?") - 1]'),
            Edit('facing[around.index("?")]', 'facing[around.index("?") - 1]'),
            Edit('facing[around.index("?")]', "facing[0]"),
        ),
    ),
    guess="first[0]",
    slips=("first[1]", "second[0]"),
)

COLOR_OVERLAP_SQUARES = Recipe(
    "color_overlap_squares",
    look='parts = sorted(image.find("object"), key=lambda part: part.x)',
    read=(
        ("squares", "[part.color() or part.number() for part in parts[::2]]"),
        ("overlaps", "[part.color() or part.number() for part in parts[1::2]]"),
    ),
    pattern=Stage(
        """
# Where two known squares overlap their colours mix.
mixes = {"red yellow": "orange", "blue red": "purple", "blue yellow": "green"}
middle = squares[1]
if squares[0] == "?":
    known, mixed, target = squares[2], overlaps[1], overlaps[0]
else:
    known, mixed, target = squares[0], overlaps[0], overlaps[1]
[middle, known, mixes.get(" ".join(sorted([middle, known])), mixed)]""",
        "pattern : {} + {} = {} so overlap is the mix",
        (
            Edit('squares[0] == "?"', 'squares[2] == "?"'),
            Edit("middle = squares[1]", "middle = overlaps[0]"),
            Edit('"blue red": "purple", "blue yellow": "green"', '"blue red": "green", "blue yellow": "purple"'),
        ),
    ),
    missing=Stage(
        """
# The colour that mixes with the middle one to the other overlap.
fits = [color for color in ("red", "yellow", "blue") if mixes.get(" ".join(sorted([middle, color]))) == target]
result = fits[0]
[middle, result, target]""",
        "missing square : {} + {} = {}",
        (
            Edit("== target", "== mixed"),
            Edit("== target", "!= target"),
            Edit("fits[0]", "target"),
        ),
    ),
    guess="squares[1]",
    slips=("target", "mixed"),
)

COLOR_SIZE_CIRCLE = Recipe(
    "color_size_circle",
    look='circles = sorted(image.find("object"), key=lambda circle: -circle.x)  # from the outside',
    read=(
        *(
            (f"circle{i + 1}", f'[circles[{i}].query("what shade is it?"), circles[{i}].color()]')
            for i in range(3)
        ),
        ("center", "[circles[3].color() or circles[3].number()]"),
    ),
    pattern=Stage(
        """
# The shade moves by one level a circle.
scale = ["lightest", "light", "dark", "darkest"]
shades = [circle1[0], circle2[0], circle3[0]]
move = scale.index(shades[1]) - scale.index(shades[0])
trend = "darker" if move > 0 else "lighter"
[shades, trend]""",
        "pattern : {} {} {} so each circle is {}",
        (
            Edit("move > 0", "move < 0"),
            Edit("scale.index(shades[1]) - scale.index(shades[0])", "scale.index(shades[0]) - scale.index(shades[1])"),
            Edit("[circle1[0], circle2[0], circle3[0]]", "[circle3[0], circle2[0], circle1[0]]"),
        ),
    ),
    missing=Stage(
        """
# One level on from the third circle.
shade = scale[scale.index(shades[2]) + (1 if trend == "darker" else -1)]
[shade, circle3[1]]""",
        "missing circle : {} {}",
        (
            Edit("shades[2]", "shades[0]"),
            Edit("else -1", "else 1"),
            Edit('trend == "darker"', 'trend == "lighter"'),
        ),
    ),
    guess='circle1[0] + " " + circle1[1]',
    answer='{"lightest": "light", "darkest": "dark"}.get(shade, shade) + " " + circle3[1]',
    slips=(
        '{"lightest": "dark", "darkest": "light"}.get(shade, shade) + " " + circle3[1]',
        'shade + " " + circle3[1]',
    ),
)  # fmt: skip

GRID_NUMBER_COLOR = Recipe(
    "grid_number_color",
    look='cells = rows(image.find("object"))',
    read=tuple((f"row{i + 1}", f'[[cell.number(), cell.color() or "grey"] for cell in cells[{i}]]') for i in range(3)),
    pattern=Stage(
        """
# Each number has one colour.
colors = {}
for number, color in row1 + row2 + row3:
    if number != "?":
        colors[number] = color
others = [number for number in colors if number != ASKED]
[[number, colors[number]] for number in others[:2]]""",
        "pattern : {} is {} and {} is {} so same number has same color",
        (
            Edit('number != "?"', 'number == "?"'),
            Edit("row1 + row2 + row3", "row1 + row2"),
            Edit("colors[number] = color", "colors[number] = row1[0][1]"),
        ),
    ),
    missing=Stage(
        """
# The colour of the number that the question gives.
result = colors[ASKED]
[ASKED, result]""",
        "missing part : {} is {}",
        (
            Edit("colors[ASKED]", "colors[others[0]]"),
            Edit("colors[ASKED]\n[ASKED,", "colors[others[-1]]\n[others[-1],"),
            Edit("colors[ASKED]", 'colors["?"]'),
        ),
    ),
    guess="row1[0][1]",
    slips=("colors[others[0]]", "row2[1][1]"),
    asked=(r"number (\d+)\?", tuple(str(n) for n in range(1, 10))),
)

POLYGON_SIDES_COLOR = Recipe(
    "polygon_sides_color",
    look='lines = rows(image.find("object"))',
    read=(
        ("top", "[[part.sides(), part.color() or part.number()] for part in lines[0]]"),
        ("middle", "[[part.sides(), part.color() or part.number()] for part in lines[1]]"),
        ("bottom", "[[part.sides(), part.color() or part.number()] for part in lines[2][:2]]"),
        ("right", "[[part.sides(), part.color() or part.number()] for part in lines[2][2:]]"),
    ),
    pattern=Stage(
        """
# Each number of sides has one colour.
polygons = top + middle + bottom + right
same = [sides for sides, color in polygons if color == "?"][0]
colors = {}
for sides, color in polygons:
    if color != "?":
        colors[sides] = color
[[sides, "sides", colors[sides]] for sides in colors if sides != same]""",
        "pattern : both {} {} {} , both {} {} {} so same sides same color",
        (
            Edit('if color == "?"][0]', 'if color != "?"][0]'),
            Edit("top + middle + bottom + right", "top + middle + bottom"),
            Edit("colors[sides] = color", "colors[sides] = top[0][1]"),
        ),
    ),
    missing=Stage(
        """
# The colour of the other polygon with as many sides.
result = colors[same]
[same, same, result]""",
        "missing part has {} sides , other {} sides is {}",
        (
            Edit("colors[same]", "colors[bottom[0][0]]"),
            Edit("colors[same]", "[colors[sides] for sides in colors if sides != same][0]"),
            Edit("colors[same]", "colors[top[0][0]]"),
        ),
    ),
    guess="top[0][1]",
    slips=("top[0][1]", "middle[0][1]"),
)

BAR_LOOK = """bars = sorted(image.find("object"), key=lambda bar: bar.x)
lengths = {"small": "short", "medium": "medium", "large": "long"}"""


def bars(value: str) -> tuple[tuple[str, str], ...]:
    """Return how length and value of seven bars are read, two at a time."""
    slices = (("bars12", ":2"), ("bars34", "2:4"), ("bars56", "4:6"), ("bar7", "6:"))
    return tuple((name, f"[[lengths[bar.size()], {value}] for bar in bars[{cut}]]") for name, cut in slices)


BAR_PATTERN = Stage(
    """
# Each length has one value.
values = {}
for length, value in bars12 + bars34 + bars56:
    values[length] = value
same = bar7[0][0]
[[length, values[length]] for length in ("short", "medium", "long") if length != same]""",
    "pattern : both {} is {} , both {} is {}",
    (
        Edit("same = bar7[0][0]", "same = bars56[0][0]"),
        Edit("values[length] = value", "values[length] = bars12[0][1]"),
        Edit("same = bar7[0][0]", 'same = "medium"'),
    ),
)
BAR_MISSING = Stage(
    """
# The first bar that is as long as the last one.
before = [length for length, value in bars12 + bars34 + bars56]
result = values[same]
[same, before.index(same) + 1, result]""",
    "missing part is {} same as part {} : {}",
    (
        Edit("values[same]", "bars56[-1][1]"),
        Edit("values[same]", "[values[length] for length in before if length != same][0]"),
        Edit("values[same]\n[same,", 'values["medium"]\n["medium",'),
    ),
)

RECTANGLE_HEIGHT_COLOR = Recipe(
    "rectangle_height_color",
    look=BAR_LOOK,
    read=bars("bar.color() or bar.number()"),
    pattern=BAR_PATTERN,
    missing=BAR_MISSING,
    guess="bars12[0][1]",
    slips=("bars56[1][1]", "bars34[0][1]"),
)

RECIPES = (
    COLOR_GRID, COLOR_HEXAGON, COLOR_OVERLAP_SQUARES, COLOR_SIZE_CIRCLE, GRID_NUMBER_COLOR, POLYGON_SIDES_COLOR,
    RECTANGLE_HEIGHT_COLOR,
)  # fmt: skip
