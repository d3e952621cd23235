"""Recipes of the families that ask for a number."""

from __future__ import annotations

from ._colors import BAR_LOOK, BAR_MISSING, BAR_PATTERN, bars
from ._recipe import Edit, Recipe, Stage

_PAIRS = (("first", ":2"), ("second", "2:4"), ("third", "4:"))

CIRCLE_SIZE_NUMBER = Recipe(
    "circle_size_number",
    # How much larger a circle of the next size is differs from picture to picture: what a size is called is
    # the number that circles of this size carry.
    look="""around = ring(image.find("object"))[::-1]  # clockwise
circles = around[1:] + around[:1]  # from the right
names = {circle.size(): circle.number() for circle in circles if circle.number() != "?"}""",
    read=tuple(
        (name, f"[[circle.number(), names[circle.size()]] for circle in circles[{cut}]]") for name, cut in _PAIRS
    ),
    pattern=Stage(
        """
# Circles of one size have one number.
pairs = first + second + third
size = [size for number, size in pairs if number == "?"][0]
numbers = {size: number for number, size in pairs if number != "?"}
others = [other for number, other in pairs if other != size]
[[other, numbers[other]] for other in dict.fromkeys(others)]""",
        "pattern : size {} has {} and size {} has {} so same size has same number",
        (
            Edit('if number == "?"][0]', 'if number != "?"][0]'),
            Edit("{size: number for number, size in pairs", "{size: first[1][0] for number, size in pairs"),
            Edit("first + second + third", "first + second"),
        ),
    ),
    missing=Stage(
        """
# The number of the circles as large as the missing one.
result = numbers[size]
[size, result]""",
        "missing circle : size {} has {}",
        (
            Edit("numbers[size]", "numbers[size] + 1"),
            Edit("numbers[size]", "max(numbers.values())"),
            Edit("numbers[size]", "numbers[others[0]]"),
        ),
    ),
    guess="first[0][0]",
    slips=("str(result + 1)", "str(result - 1)"),
)

COLOR_NUMBER_HEXAGON = Recipe(
    "color_number_hexagon",
    look='parts = ring(image.find("object"))',
    read=tuple((name, f"[[part.color(), part.number()] for part in parts[{cut}]]") for name, cut in _PAIRS),
    pattern=Stage(
        """
# The two numbers of a colour have the same sum.
groups = {}
for color, number in first + second + third:
    groups[color] = groups.get(color, []) + [number]
known = [color for color in groups if "?" not in groups[color]]
total = sum(groups[known[0]])
[[color, *groups[color], sum(groups[color])] for color in known]""",
        "pattern : {} {} + {} = {} and {} {} + {} = {} so same color has same sum",
        (
            Edit(
                "sum(groups[known[0]])\n[[color, *groups[color], sum(groups[color])]",
                "groups[known[0]][0] * groups[known[0]][1]\n"
                "[[color, *groups[color], groups[color][0] * groups[color][1]]",
                "pattern : {} {} x {} = {} and {} {} x {} = {} so same color has same product",
            ),
            Edit("sum(groups[known[0]])", "max(groups[known[0]])"),
            Edit("first + second + third", "first + second"),
        ),
    ),
    missing=Stage(
        """
# What the colour of the question mark lacks of the sum.
color = [color for color in groups if "?" in groups[color]][0]
partner = [number for number in groups[color] if number != "?"][0]
result = total - partner
[color, total, partner, result]""",
        "missing {} part : {} - {} = {}",
        (
            Edit("total - partner", "total + partner", "missing {} part : {} + {} = {}"),
            Edit("total - partner", "total - partner - 1"),
            Edit('[number for number in groups[color] if number != "?"][0]', "groups[known[0]][0]"),
        ),
    ),
    guess="first[0][1]",
    slips=("str(result + 1)", "str(partner)"),
)

GRID_NUMBER = Recipe(
    "grid_number",
    look='cells = rows(image.find("object"))',
    read=tuple((f"row{i + 1}", f"[cell.number() for cell in cells[{i}]]") for i in range(3)),
    pattern=Stage(
        """
# The known rows have the same sum.
grid = [row1, row2, row3]
known = [row for row in grid if "?" not in row]
total = sum(known[0])
[[*row, sum(row)] for row in known]""",
        "pattern : {} + {} + {} = {} and {} + {} + {} = {} so each row has same sum",
        (
            Edit(
                "sum(known[0])\n[[*row, sum(row)]",
                "known[0][0] * known[0][1] * known[0][2]\n[[*row, row[0] * row[1] * row[2]]",
                "pattern : {} x {} x {} = {} and {} x {} x {} = {} so each row has same product",
            ),
            Edit("sum(known[0])", "known[0][0] + known[0][1]"),
            Edit("[row1, row2, row3]", "[row1, row2]"),
        ),
    ),
    missing=Stage(
        """
# What the row of the question mark lacks of the sum.
place = [i for i in range(3) if "?" in grid[i]][0]
a, b = [number for number in grid[place] if number != "?"]
result = total - a - b
[place + 1, total, a, b, result]""",
        "row {} : {} - {} - {} = {}",
        (
            Edit("total - a - b", "total - a + b", "row {} : {} - {} + {} = {}"),
            Edit(
                "total - a - b\n[place + 1, total, a, b,", "total - a\n[place + 1, total, a,", "row {} : {} - {} = {}"
            ),
            Edit("total - a - b", "total - a - b + 1"),
        ),
    ),
    guess="row1[0]",
    slips=("str(result + 1)", "str(a)"),
)

POLYGON_SIDES_NUMBER = Recipe(
    "polygon_sides_number",
    look='lines = rows(image.find("object"))',
    read=(
        ("top", "[[part.sides(), part.number()] for part in lines[0]]"),
        ("middle", "[[part.sides(), part.number()] for part in lines[1]]"),
        ("bottom", "[[part.sides(), part.number()] for part in lines[2][:2]]"),
        ("right", "[[part.sides(), part.number()] for part in lines[2][2:]]"),
    ),
    pattern=Stage(
        """
# The number in a polygon is how many sides it has.
polygons = top + middle + bottom + right
known = [[sides, number] for sides, number in polygons if number != "?"]
more = known[0][1] - known[0][0]  # by how much the number exceeds the sides: not at all
known[:2]""",
        "pattern : {} sides has number {} and {} sides has number {} so number = sides",
        (
            Edit("known[0][1] - known[0][0]", "known[0][0] - 1"),
            Edit("known[0][1] - known[0][0]", "known[1][1] - known[0][0]"),
            Edit("[[sides, number] for", "[[sides, number + 1] for"),
        ),
    ),
    missing=Stage(
        """
# The polygon with the question mark.
sides = [sides for sides, number in polygons if number == "?"][0]
result = sides + more
[sides, result]""",
        "missing part has {} sides so number = {}",
        (
            Edit('if number == "?"][0]', 'if number != "?"][0]'),
            Edit("sides + more", "sides + 1"),
            Edit("sides + more", "known[0][1]"),
        ),
    ),
    guess="top[0][1]",
    slips=("str(result + 1)", "str(known[0][1])"),
)

RECTANGLE_HEIGHT_NUMBER = Recipe(
    "rectangle_height_number",
    look=BAR_LOOK,
    read=bars("bar.number()"),
    pattern=BAR_PATTERN,
    missing=BAR_MISSING,
    guess="bars12[0][1]",
    slips=("str(result + 1)", "bars34[0][1]"),
)

TRIANGLE = Recipe(
    "triangle",
    look="""circles = sorted(image.find("object"), key=lambda circle: circle.y)
above, right, below = circles[:3], circles[3:6], circles[6:]""",
    read=tuple(
        (f"group{i + 1}", f"[{name}[j].number() for j in (0, 2, 1)]")  # top, bottom, right
        for i, name in enumerate(("above", "below", "right"))
    ),
    pattern=Stage(
        """
# How the right number follows from the other two.
groups = [group1, group2, group3]
known = [group for group in groups if "?" not in group]
sign = "x" if all(a * b == c for a, b, c in known) else "+"
[[a, sign, b, a * b if sign == "x" else a + b] for a, b, c in known]""",
        "pattern : {} {} {} = {} and {} {} {} = {} so right is the product",
        (
            Edit("all(a * b == c", "all(a + b == c", "pattern : {} {} {} = {} and {} {} {} = {} so right is the sum"),
            Edit("all(a * b == c", "all(a * b < c", "pattern : {} {} {} = {} and {} {} {} = {} so right is the sum"),
            Edit("all(a * b == c", "all(a * c == b", "pattern : {} {} {} = {} and {} {} {} = {} so right is the sum"),
        ),
    ),
    missing=Stage(
        """
# Apply it for the right number, undo it for one of the others.
place = [i for i in range(3) if "?" in groups[i]][0]
a, b = [number for number in groups[place] if number != "?"]
if groups[place][2] == "?":
    apply = [a, "x", b, a * b] if sign == "x" else [a, "+", b, a + b]
else:
    apply = [b, "/", a, b // a] if sign == "x" else [b, "-", a, b - a]
result = apply[3]
[place + 1, *apply]""",
        "group {} : {} {} {} = {}",
        (
            Edit('if sign == "x"', 'if sign == "+"'),
            Edit('groups[place][2] == "?"', 'groups[place][2] != "?"'),
            Edit("a, b = [number for number in groups[place]", "a, b = [number for number in groups[place - 1][1:]"),
        ),
    ),
    guess="group1[0]",
    slips=("str(result + 1)", "str(b)"),
)

VENN = Recipe(
    "venn",
    look='spots = sorted(image.find("object"), key=lambda spot: spot.x)',
    read=(
        ("circles", "[spot.number() for spot in spots[::2]]"),
        ("overlaps", "[spot.number() for spot in spots[1::2]]"),
    ),
    pattern=Stage(
        """
# How an overlap follows from its two circles.
middle = circles[1]
if circles[0] == "?":
    known, both, total = circles[2], overlaps[1], overlaps[0]
else:
    known, both, total = circles[0], overlaps[0], overlaps[1]
sign = "+" if middle + known == both else "x"
[middle, sign, known, middle + known if sign == "+" else middle * known]""",
        "pattern : {} {} {} = {} so overlap is the sum",
        (
            Edit("middle + known == both", "middle == known", "pattern : {} {} {} = {} so overlap is the product"),
            Edit("known == both", "known == total", "pattern : {} {} {} = {} so overlap is the product"),
            Edit("middle = circles[1]", "middle = overlaps[0]"),
        ),
    ),
    missing=Stage(
        """
# What the other overlap holds beyond the middle circle.
apply = [total, "-", middle, total - middle] if sign == "+" else [total, "/", middle, total // middle]
result = apply[3]
apply""",
        "missing circle : {} {} {} = {}",
        (
            Edit('[total, "-", middle, total - middle]', '[total, "+", middle, total + middle]'),
            Edit('sign == "+"', 'sign == "x"'),
            Edit('[total, "-", middle, total - middle]', '[both, "-", middle, both - middle]'),
        ),
    ),
    guess="circles[1]",
    slips=("str(result + 1)", "str(known)"),
)

RECIPES = (
    CIRCLE_SIZE_NUMBER, COLOR_NUMBER_HEXAGON, GRID_NUMBER, POLYGON_SIDES_NUMBER, RECTANGLE_HEIGHT_NUMBER, TRIANGLE,
    VENN,
)  # fmt: skip
