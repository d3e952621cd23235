"""Labels of blocks: hand-written programs in which the three dimensions part, and what always holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search.programs import BlockRun, Call, Program, Region, Run, Scene
from svip_search.programs._dataflow import reaching, repetitions
from svip_search.programs.assess import Assessment, Runner, answer_test, assess, relevance
from svip_search.programs.sandbox import Sandbox
from svip_search.programs.vision import Thing, ThingScene

NAN = float("nan")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Sandbox() as sandbox:
        yield sandbox.run


def row(*numbers: int, colors: str = "red red blue") -> ThingScene:
    """Numbered, coloured circles side by side."""
    places = [Region(0.1 + 0.3 * i, 0.4, 0.2 + 0.3 * i, 0.6) for i in range(len(numbers))]
    words = colors.split()
    return ThingScene([Thing(p, "circle", w, number=n) for p, w, n in zip(places, words, numbers, strict=True)])


TRUTH = row(4, 2, 6)  # the sum of the first two is the third: 6
NUMBERS = "numbers = [t.number() for t in image.find('object')]"
COLORS = "colors = [t.color() for t in image.find('object')]"
SUM = "total = numbers[0] + numbers[1]"
PRODUCT = "total = numbers[0] * numbers[1]"
ANSWER = "answer = str(total)"


def labels(
    runner: Runner, program: Sequence[str], scene: Scene = TRUTH, *others: Sequence[str], answer: str = "6"
) -> Assessment:
    """Assess one program; ``others`` are further leaves of its tree."""
    return assess([tuple(program), *map(tuple, others)], runner, scene, TRUTH, answer_test(answer))[0]


MISREAD = row(4, 3, 6)
# program, scene as it is seen, other leaves of the tree, labels, whether its own answer is right
CASES = {
    "right": ([NUMBERS, SUM, ANSWER], TRUTH, [], [[1, 1, 1], [1, 1, NAN], [1, 1, NAN]], True),
    "logical, but wrong about the picture": (
        [NUMBERS, SUM, ANSWER], MISREAD, [],
        [[1, 1, 0.75], [1, 1, NAN], [1, 1, NAN]], False,
    ),
    "right about the picture, but beside the point": (
        [NUMBERS, COLORS, SUM, ANSWER], TRUTH, [],
        [[1, 1, 1], [0, 1, 1], [1, 1, NAN], [1, 1, NAN]], True,
    ),
    "beside the point and wrong about the picture": (
        [NUMBERS, COLORS, SUM, ANSWER], row(4, 2, 6, colors="red red red"), [],
        [[1, 1, 1], [0, 1, 0.75], [1, 1, NAN], [1, 1, NAN]], True,
    ),
    "right about the picture, but illogical": (
        [NUMBERS, PRODUCT, ANSWER], TRUTH, [[NUMBERS, SUM, ANSWER]],
        [[1, 0.5, 1], [1, 0, NAN], [1, 0, NAN]], False,
    ),
    "redundant: the same again under another name": (
        [NUMBERS, "again = [x.number() for x in image.find('object')]", SUM, ANSWER], TRUTH, [],
        [[1, 1, 1], [0, 1, 1], [1, 1, NAN], [1, 1, NAN]], True,
    ),
    "redundant: the same again, and it is what the answer is made of": (
        [NUMBERS, NUMBERS, SUM, ANSWER], TRUTH, [],
        [[1, 1, 1], [0.5, 1, 1], [1, 1, NAN], [1, 1, NAN]], True,
    ),
    "redundant in other words": (
        [NUMBERS, "numbers = []\nfor t in image.find('object'):\n    numbers.append(t.number())\nnumbers",
         SUM, ANSWER], TRUTH, [],
        [[1, 1, 1], [0.5, 1, 1], [1, 1, NAN], [1, 1, NAN]], True,
    ),
    "right by luck: the wrong operator on misread numbers": (
        [NUMBERS, PRODUCT, ANSWER], row(3, 2, 6), [],
        [[1, 0, 0.75], [1, 0, NAN], [1, 0, NAN]], True,
    ),
    "right by luck: two misreadings that cancel": (
        [NUMBERS, SUM, ANSWER], row(5, 1, 6), [],
        [[1, 1, 0.5], [1, 1, NAN], [1, 1, NAN]], True,
    ),
    "an error masked by a later error": (
        [NUMBERS, PRODUCT, "answer = totals"], TRUTH, [[NUMBERS, SUM, ANSWER], [NUMBERS, SUM, ANSWER]],
        [[1, 2 / 3, 1], [NAN, 0, NAN], [NAN, 0, NAN]], False,
    ),
    "nothing comes after an error": (
        [NUMBERS, "total = numbers[9]", "answer = totals"], TRUTH, [[NUMBERS, SUM, ANSWER]],
        [[1, 0.5, 1], [NAN, 0, NAN]], False,
    ),
    "an error that only the misreading brings about is no fault of logic": (
        [NUMBERS, "place = numbers.index(2)", "total = numbers[0] + numbers[place]", ANSWER], MISREAD, [],
        [[1, 1, 0.75], [1, 1, NAN]], False,
    ),
    "a block that does not parse": (
        [NUMBERS, "total = (", ANSWER], TRUTH, [[NUMBERS, SUM, ANSWER]],
        [[1, 0.5, 1], [NAN, 0, NAN]], False,
    ),
    "an answer that is no text": (
        [NUMBERS, SUM, "answer = total"], TRUTH, [[NUMBERS, SUM, ANSWER]],
        [[1, 0.5, 1], [1, 0.5, NAN], [NAN, 0, NAN]], False,
    ),
    "a guess: what was seen does not matter": (
        [NUMBERS, "answer = '6'"], TRUTH, [], [[0, 1, 1], [1, 1, NAN]], True,
    ),
    "cut before the answer": ([NUMBERS, SUM], TRUTH, [], [[NAN, 0, 1], [NAN, 0, NAN]], False),
    "a decision in another block decides the value": (
        [COLORS, NUMBERS, "same = colors[0] == colors[1]", "if same:\n    answer = str(sum(numbers[:2]))"],
        TRUTH, [], [[1, 1, 1], [1, 1, 1], [1, 1, NAN], [1, 1, NAN]], True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hand_written_cases(name: str, runner: Runner) -> None:
    program, scene, others, expected, right = CASES[name]
    found = labels(runner, program, scene, *others)
    np.testing.assert_allclose(found.labels, np.array(expected, np.float32), atol=1e-6)
    assert found.right is right
    assert len(found.program) == len(found.run.blocks) == len(expected)


# ---- relevance: what reaches the answer --------------------------------------------------------------

FLOWS = {
    "tuple targets": (["a, b = 1, 2", "c = 5", "answer = str(b)"], "1 0 1"),
    "a starred target": (["a, *b = [1, 2, 3]", "answer = str(b)"], "1 1"),
    "an overwritten value": (["x = 1", "x = 2", "answer = str(x)"], "0 1 1"),
    "an addition in place": (["x = 1", "y = 2", "x += y", "answer = str(x)"], "1 1 1 1"),
    "an addition to a copy": (["x = 1", "y = x", "y += 1", "answer = str(x)"], "1 0 0 1"),
    "a list changed under another name": (["x = [1]", "y = x", "y.append(2)", "answer = str(x)"], "1 1 1 1"),
    "a list extended in place": (["x = [1]", "y = x", "y += [2]", "answer = str(x)"], "1 1 1 1"),
    "an item set": (["d = {}", "d['k'] = 1", "z = d['k']", "answer = str(d)"], "1 1 0 1"),
    "an item of an item": (["d = [[0]]", "row = d[0]", "row[0] = 5", "answer = str(d)"], "1 1 1 1"),
    "an object set on": (["p = image", "p.name = 1", "answer = str(p)"], "1 1 1"),
    "grouped": (["g = {}", "for i in range(3):\n    g.setdefault(i, []).append(i)", "answer = str(g)"], "1 1 1"),
    "popped elsewhere": (["x = [1, 2]", "y = x.pop()", "answer = str(x)"], "1 1 1"),
    "only looked at": (["x = [1, 2]", "y = x.index(2)", "answer = str(x)"], "1 0 1"),
    "a name of a comprehension": (["t = 3", "a = [t for t in range(3)]", "answer = str(a)"], "0 1 1"),
    "the first source of a comprehension": (["t = [3]", "a = [t for t in t]", "answer = str(a)"], "1 1 1"),
    "a walrus": (["p = 1", "if (q := p) > 0:\n    pass", "answer = str(q)"], "1 1 1"),
    "a walrus in a comprehension": (["a = [w := v for v in [1, 2]]", "answer = str(w)"], "1 1"),
    "a function": (["def f(v):\n    return v + k", "k = 2", "answer = str(f(1))"], "1 1 1"),
    "a function handed on": (["def f(v):\n    return -v", "answer = str(max([1, 2], key=f))"], "1 1"),
    "a function that is not called": (["def f():\n    return 1", "answer = '1'"], "0 1"),
    "a parameter of the same name": (["v = 1", "def f(v):\n    return v", "answer = str(f(2))"], "0 1 1"),
    "a global": (["n = 0", "def f():\n    global n\n    n += 1", "f()", "answer = str(n)"], "1 1 1 1"),
    "an argument changed by a function": (
        ["x = [3, 1]", "def f(v):\n    v.sort()", "f(x)", "answer = str(x)"], "1 1 1 1"),
    "a lambda": (["k = 2", "f = lambda v: v + k", "answer = str(f(1))"], "1 1 1"),
    "a condition": (["a = 1", "b = 2", "if a:\n    answer = 'x'\nelse:\n    answer = 'y'"], "1 0 1"),
    "a branch that sets nothing of it": (["a = 1", "x = '1'", "if a:\n    y = 2", "answer = x"], "0 1 0 1"),
    "both branches set it": (["x = 1", "c = 2", "if c:\n    x = 3\nelse:\n    x = 4", "answer = str(x)"], "0 1 1 1"),
    "a loop": (["n = 0", "s = 5", "for i in range(3):\n    n += i", "answer = str(n)"], "1 0 1 1"),
    "a loop that may not run": (["x = 1", "for x in []:\n    pass", "answer = str(x)"], "1 1 1"),
    "a loop that stops early": (
        ["q = 2", "for x in [1, 2, 3]:\n    if x == q:\n        break", "answer = str(x)"], "1 1 1"),
    "round a loop": (
        ["a = 1", "b = 2", "c = 0", "while c < 9:\n    c = b\n    b = a + b", "answer = str(c)"], "1 1 1 1 1"),
    "tried": (["try:\n    v = 1\nexcept ValueError:\n    v = 2", "w = 0", "answer = str(v)"], "1 0 1"),
    "a deleted bystander": (["x = 1", "y = 2", "del y", "answer = str(x)"], "1 0 0 1"),
    "an f-string": (["a = 1", "b = 2", "answer = f'{a}'"], "1 0 1"),
    "a check": (["a = 1", "assert a == 1", "answer = '1'"], "0 0 1"),
    "answered twice": (["answer = 'x'", "answer = 'y'"], "0 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOWS)
def test_what_reaches_the_answer(name: str) -> None:
    program, expected = FLOWS[name]
    assert [int(hit) for hit in reaching(program)] == [int(word) for word in expected.split()]


AGAIN = {
    "renamed": (["a = ring(image.find('object'))[0]", "b = ring(image.find('object'))[0]"], [1]),
    "through another name": (["a = f(1)", "b = g(a)", "c = f(1)\nd = g(c)"], [2]),
    "only partly": (["a = f(1)", "c = f(1)\nd = h(c)"], []),
    "of a changed list": (["x = f(1)", "n = len(x)", "x.append(3)", "m = len(x)"], []),
    "a loop with other names": (
        ["s = 0\nfor t in image.find('object'):\n    s += t.number()",
         "z = 0\nfor w in image.find('object'):\n    z += w.number()"], [1]),
    "a loop over something else": (
        ["s = 0\nfor t in image.find('object'):\n    s += t.number()",
         "z = 0\nfor w in image.find('number'):\n    z += w.number()"], []),
    "nested comprehensions": (
        ["a = [[c for c in r] for r in rows(image.find('object'))]",
         "b = [[y for y in x] for x in rows(image.find('object'))]"], [1]),
    "swapped names are not the same": (["a = [(x, y) for x, y in f(1)]", "b = [(x, y) for y, x in f(1)]"], []),
    "a copy": (["a = f(1)", "b = a"], []),
    "with an import": (["import math\na = math.floor(f(1))", "import math\na = math.floor(f(1))"], [1]),
    "with a decision": (["x = f(1)", *["if x:\n    a, b = x, 1\nelse:\n    a, b = g(x), 2"] * 2], [2]),
    "a decision that keeps the old value": (["a = f(1)", *["if g(a):\n    a = h(a)"] * 2], []),
    "one more in place": (["a = f(1)", "a += g(1)", "a += g(1)"], []),
    "one more round": (["a = f(1)", *["for i in range(3):\n    a = a + i"] * 2], []),
    "a loop that starts anew": ([*["n = 0\nfor t in image.find('object'):\n    n += t.number()"] * 2], [1]),
    "a constant": (["a = 1", "b = 1"], []),
    "shown again": (["a = f(1)", "f(1)"], [1]),
    "unpacked": (["a, b = f(1)", "c, d = f(1)"], [1]),
    "other unpacking": (["a, b = f(1)", "c = g(a)", "d = g(b)"], []),
    "the answer": (["a = f(1)", "answer = f(1)"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAIN)
def test_what_repeats(name: str) -> None:
    program, expected = AGAIN[name]
    assert sorted(repetitions(program)) == expected


def test_a_repetition_takes_nothing_from_the_first() -> None:
    program = ("a = f(1)", "b = f(1)", "answer = g(b)")
    assert relevance(program) == [1.0, 0.5, 1.0]
    assert relevance(("a = f(1)", "b = f(1)", "answer = g(a)")) == [1.0, 0.0, 1.0]


def test_equal_values_by_chance_are_no_repetition() -> None:
    calls = [Call("number", Region(0, 0, right, 1), (), 4) for right in (0.2, 0.4)]
    run = Run((*(BlockRun(4, calls=(call,)) for call in calls), BlockRun("8")))
    program = ("a = p.number()", "b = q.number()", "answer = str(a + b)")
    assert relevance(program, run) == [1.0, 1.0, 1.0]


@st.composite
def straight_programs(draw: st.DrawFn) -> list[str]:
    """Blocks that set one of a few names from others, now and then under a condition or in a loop."""
    names = "abcd"
    blocks = [f"{n} = {i + 2}" for i, n in enumerate(names)]
    for _ in range(draw(st.integers(1, 8))):
        x, y, z = (draw(st.sampled_from(names)) for _ in range(3))
        k = draw(st.integers(1, 3))
        form = draw(st.sampled_from([
            "{x} = {y} * 3 + {z}", "{x} = {y}", "{x} += {y} + {k}", "{x}, {y} = {y} + {k}, {z}",
            "if {y} % 2:\n    {x} = {z} + {k}\nelse:\n    {z} = {x} - {k}",
            "for i in range({k}):\n    {x} = {x} + {y}\n    if {x} % 7 == 0:\n        break",
            "{x} = sum([{y} + j for j in range({k})])", "box = [{x}, {y}]\nbox[0] += {k}\n{z} = box[0]",
        ]))  # fmt: skip
        blocks.append(form.format(x=x, y=y, z=z, k=k))
    return [*blocks, f"answer = str({draw(st.sampled_from(names))})"]


def answer_of(blocks: Sequence[str]) -> object:
    world: dict[str, object] = {}
    for block in blocks:
        exec(block, world)
    return world["answer"]


@given(straight_programs())
@settings(max_examples=300, deadline=None)
def test_what_is_outside_the_slice_can_be_left_out(blocks: list[str]) -> None:
    kept = [b for b, hit in zip(blocks, reaching(blocks), strict=True) if hit]
    assert answer_of(kept) == answer_of(blocks)


@given(straight_programs())
@settings(max_examples=200, deadline=None)
def test_a_repeated_block_holds_nothing_new(blocks: list[str]) -> None:
    for index in repetitions(blocks):
        world: dict[str, object] = {}
        for block in blocks[:index]:
            exec(block, world)
        before = [v for k, v in world.items() if not k.startswith("__")]
        exec(blocks[index], world)
        assert all(world[n] in before for n in "abcd")


@given(st.lists(st.text(max_size=60), max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_text_is_analysed(blocks: list[str]) -> None:
    found = relevance(tuple(blocks))
    assert len(found) == len(blocks)
    assert all(np.isnan(v) or v in (0.0, 0.5, 1.0) for v in found)


@pytest.mark.parametrize("block", ["answer = " + "(" * 10_000, "answer = " + "+".join("1" * 10_000), "x" * 1_000_000])
def test_nesting_beyond_reason_costs_nothing(block: str) -> None:
    found = relevance((block, "answer = '1'"))
    assert found == [0.0, 1.0]


# ---- logic and attribute -----------------------------------------------------------------------------


def test_shares_are_weighted_by_counts(runner: Runner) -> None:
    programs = [(NUMBERS, SUM, ANSWER), (NUMBERS, PRODUCT, ANSWER), ("total = 6", ANSWER)]
    found = assess(programs, runner, TRUTH, TRUTH, answer_test("6"), counts=[3, 1, 5])
    assert [f.labels[:, 1].tolist() for f in found] == [[0.75, 1, 1], [0.75, 0, 0], [1, 1]]


@given(st.lists(st.tuples(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), st.booleans()), min_size=1))
def test_logic_is_the_mean_of_what_follows(leaves: list[tuple[list[str], bool]]) -> None:
    good = {tuple(path): right for path, right in leaves}

    def runner(program: Program, scene: Scene) -> Run:
        return Run(tuple(BlockRun() for _ in program), answer="yes" if good[program] else "no")

    programs = [tuple(path) for path, _ in leaves]
    for found in assess(programs, runner, TRUTH, TRUTH, answer_test("yes")):
        for length, share in enumerate(found.labels[:, 1], 1):
            below = [good[p] for p in programs if p[:length] == found.program[:length]]
            assert share == pytest.approx(sum(below) / len(below))


def test_continuations_may_come_from_elsewhere(runner: Runner) -> None:
    asked = []

    def complete(prefix: Program) -> list[tuple[Program, int]]:
        asked.append(prefix)
        rest = (NUMBERS, SUM, ANSWER)[len(prefix) :]
        return [((*prefix, *rest), 3), ((*prefix, *rest[:-1], "answer = 'no'") if rest else prefix, 1)]

    programs = [(NUMBERS, PRODUCT, ANSWER), (NUMBERS, "total = (")]
    found = assess(programs, runner, MISREAD, TRUTH, answer_test("6"), complete=complete)
    np.testing.assert_allclose(found[0].labels, [[1, 0.75, 0.75], [1, 0, NAN], [1, 0, NAN]])
    # what reached no answer is as relevant as it is in the continuations: none in those that guess
    np.testing.assert_allclose(found[1].labels, [[0.75, 0.75, 0.75], [NAN, 0, NAN]])
    assert len(asked) == len(set(asked)) == 4  # each prefix once


class Counting:
    """A runner that counts what it is asked to run."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.seen: list[tuple[Program, Scene]] = []

    def __call__(self, program: Program, scene: Scene) -> Run:
        self.seen.append((program, scene))
        return self.runner(program, scene)


def test_no_run_is_made_twice(runner: Runner) -> None:
    programs = [(NUMBERS, SUM, ANSWER), (NUMBERS, PRODUCT, ANSWER), ("x = (", SUM), ("x = (", PRODUCT, ANSWER)]
    counting = Counting(runner)
    assess(programs, counting, TRUTH, TRUTH, answer_test("6"))
    assert len(counting.seen) == 3  # the verifier agrees everywhere; what fails is run once
    counting = Counting(runner)
    assess(programs, counting, MISREAD, TRUTH, answer_test("6"))
    assert len(counting.seen) == 5


def test_a_patch_list_in_another_order_is_run_again(runner: Runner) -> None:
    class Backwards(ThingScene):
        def call(self, method: str, region: Region, arguments: Sequence[object]) -> object:
            found = super().call(method, region, arguments)
            return found[::-1] if method == "find" else found

    program = ("answer = str(image.find('object')[0].number())",)
    [found] = assess([program], runner, Backwards(TRUTH.things), TRUTH, answer_test("4"))
    assert found.labels.tolist() == [[1.0, 1.0, 1.0]]  # nothing it said is wrong, and the program is right
    assert not found.right


@pytest.mark.parametrize(
    ("answer", "options", "given", "right"),
    [("7", (), "7.0", True), ("red", ("blue", "red"), "(B)", True), ("red", ("blue", "red"), "blue", False),
     ("A", ("B", "A"), "a", True), ("red", (), None, False), ("light red", ("light red", "red"), "red", False)],
)  # fmt: skip
def test_what_counts_as_right(answer: str, options: Sequence[str], given: str | None, right: bool) -> None:
    test: Callable[[str | None], bool] = answer_test(answer, options)
    assert test(given) is right


def test_counts_must_fit() -> None:
    with pytest.raises(ValueError, match="`counts`"):
        assess([("a",)], lambda p, s: Run(()), TRUTH, TRUTH, answer_test("1"), counts=[1, 2])


def test_without_a_sandbox_nothing_is_labelled() -> None:
    gone = Run((BlockRun(error="unavailable", message="no bwrap"),))
    with pytest.raises(RuntimeError, match="no bwrap"):
        assess([("a = 1",)], lambda p, s: gone, TRUTH, TRUTH, answer_test("1"))
