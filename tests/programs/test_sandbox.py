"""The sandbox: what programs may do, what they get told, and that nothing gets out."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from svip_search._errors import BackendUnavailable
from svip_search.programs import ERROR_KINDS, METHODS, Region, Run

pytest.importorskip("pydantic_monty")
from svip_search.programs._crossing import Room, Unfit, plain
from svip_search.programs._prelude import SourceError, assemble, instrument
from svip_search.programs.sandbox import Sandbox

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks at processes through /proc")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


abuse = _load("abuse")

CANARY = "CANARY-77aa"  # in the picture, the environment, a file and the globals here
CANARY_GLOBAL = CANARY
MB = 2**20
FULL, NO = 200 * MB, "bubblewrap is not installed"


class Dogs:
    """A brown, a black and a white dog."""

    def __init__(self) -> None:
        self._secret = CANARY
        self.dogs = [
            (Region(0, 0, 0.1, 0.1), "brown"),
            (Region(0.2, 0, 0.5, 0.4), "black"),
            (Region(0.6, 0, 0.7, 0.1), "white"),
        ]

    def call(self, method: str, region: Region, arguments: Any) -> Any:
        match method, *arguments:
            case _, "boom":
                raise RuntimeError(f"{CANARY} {self._secret}")
            case _, "refused":
                raise ValueError(CANARY)
            case _, "rubbish":
                return object()
            case _, "slow":
                time.sleep(1.5)
                return "seen"
            case "find", kind:
                return [dog for dog, _ in self.dogs] if kind == "dog" else []
            case "exists", kind:
                return kind == "dog"
            case "number", *_:
                return 7
        inside = (c for d, c in self.dogs if d.left <= region.x <= d.right and d.top <= region.y <= d.bottom)
        return next(inside, "brown")


# Processes and memory -------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def resident(pid: int | str = "self") -> int:
    """Return the bytes that a process has in memory; none for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


class Watch:
    """Measures the most memory that the workers and this process, above where it began, have held."""

    def __enter__(self) -> Watch:
        self.base, self.most, self.on = resident(), 0, True
        self.thread = threading.Thread(target=self.loop)
        self.thread.start()
        return self

    def loop(self) -> None:
        workers: list[int] = []
        for turn in range(10**9):
            if not self.on:
                return
            if turn % 20 == 0:
                workers = descendants(os.getpid())
            self.most = max(self.most, resident() - self.base + sum(map(resident, workers)))
            time.sleep(0.003)

    def __exit__(self, *_: object) -> None:
        self.on = False
        self.thread.join()


@pytest.fixture(scope="module")
def quiet() -> Iterator[None]:
    """A vision module that fails is logged; here they fail on purpose."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@contextlib.contextmanager
def without_bubblewrap() -> Iterator[None]:
    """No program is found by its name; the warning has a test of its own."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("PATH", "")
        yield


@pytest.fixture(scope="module", params=["monty+bwrap", "monty"])
def sandbox(request: pytest.FixtureRequest, quiet: None) -> Iterator[Sandbox]:
    """One sandbox for all programs, each way it can be contained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVIP_CANARY", CANARY)
        if request.param == "monty+bwrap":
            if shutil.which("bwrap") is None:
                pytest.skip(NO)
            with Sandbox(require_os_sandbox=True) as box:
                yield box
        else:
            with without_bubblewrap():
                box = Sandbox().__enter__()
            yield box
            box.__exit__(None, None, None)


@pytest.fixture(scope="module")
def box(quiet: None) -> Iterator[Sandbox]:
    with Sandbox(workers=2) as box:
        yield box


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def last(run: Run) -> Any:
    assert run.blocks[-1].ok, run.blocks[-1]
    return run.blocks[-1].value


def ends(case: Any) -> set[str]:
    """Return how a hostile program may end: on a busy machine the time may be up before the memory."""
    return set(case.kinds) | ({"timeout"} if {"memory", "calls", "output"} & set(case.kinds) else set())


# Hostile and good programs --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", abuse.HOSTILE, ids=lambda case: case.name)
def test_hostile_programs_are_contained(case: Any, sandbox: Sandbox, tmp_path: Path, listener: socket.socket) -> None:
    secret, marker = tmp_path / "secret.txt", tmp_path / "marker"
    secret.write_text(CANARY)
    swaps = {"SECRET": str(secret), "MARKER": str(marker), "PORT": str(listener.getsockname()[1])}
    blocks = list(case.blocks)
    for name, value in swaps.items():
        blocks = [block.replace(name, value) for block in blocks]
    for attempt in range(5):  # on a busy machine the time may need a second look
        with Watch() as watch:
            start = time.perf_counter()
            run = sandbox.run(blocks, Dogs())
            seconds = time.perf_counter() - start
        if seconds <= 1.2:
            break
        assert attempt < 4, seconds
        time.sleep(0.5)
    assert run.blocks[-1].error in ends(case), run.blocks[-1]
    assert all(block.ok for block in run.blocks[:-1])
    assert CANARY not in repr(run)
    assert len(repr(run)) < 3 * MB
    assert watch.most < FULL
    assert not marker.exists()
    assert not Path("fill").exists()
    with pytest.raises(BlockingIOError):
        listener.accept()
    assert sandbox.run(["answer = str(image.number())"], Dogs()).answer == "7"


@pytest.mark.parametrize("case", abuse.BENIGN, ids=lambda case: case.name)
def test_good_programs_run(case: Any, sandbox: Sandbox) -> None:
    run = sandbox.run([case.code], Dogs())
    assert last(run) == case.value
    assert run.sandbox == sandbox.kind


def test_there_are_enough_cases() -> None:
    assert len({case.name for case in abuse.HOSTILE}) == len(abuse.HOSTILE) >= 78
    assert {kind for case in abuse.HOSTILE for kind in case.kinds} == {"", *ERROR_KINDS}
    assert len(abuse.BENIGN) == 20


# What a run says ------------------------------------------------------------------------------------------


def test_a_run_says_what_each_block_did(box: Sandbox) -> None:
    blocks = [
        'dogs = image.find("dog")\nprint(len(dogs))',
        "colors = [d.color() for d in dogs]\ncolors",
        'answer = "3"',
    ]
    run = box.run(blocks, Dogs())
    first, second, third = run.blocks
    assert first.value is None
    assert first.names["dogs"][1] == {"region": [0.2, 0, 0.5, 0.4]}
    assert first.printed == "3\n"
    assert [(c.method, c.region, c.arguments, len(c.value)) for c in first.calls] == [("find", Region(), ("dog",), 3)]
    assert second.value == ["brown", "black", "white"]
    assert [(c.method, c.region, c.value) for c in second.calls] == [("color", d, c) for d, c in Dogs().dogs]
    assert second.names == {"colors": second.value}
    assert (third.calls, third.printed, third.names, run.answer) == ((), "", {"answer": "3"}, "3")
    assert 0 < run.seconds < 1


def test_nothing_runs_after_an_error(box: Sandbox) -> None:
    run = box.run(["x = 1", "image.number()\nprint('a')\nx / 0", 'answer = "no"'], Dogs())
    assert [block.error for block in run.blocks] == ["", "runtime"]
    assert run.blocks[1].message == "ZeroDivisionError: division by zero (line 3)"
    assert (len(run.blocks[1].calls), run.blocks[1].printed, run.answer) == (1, "a\n", None)


@pytest.mark.parametrize(
    "bad",
    ["x = (", "class A(list):\n    pass", "def f():\n    yield 1", "break", "del x", "x = 1 1"],
)
def test_blocks_before_one_that_is_no_python_run(bad: str, box: Sandbox) -> None:
    run = box.run(["x = image.number()", "x + 1", bad, 'answer = "no"'], Dogs())
    assert [block.error for block in run.blocks] == ["", "", "syntax"]
    assert [block.value for block in run.blocks[:2]] == [None, 8]
    assert [len(block.calls) for block in run.blocks] == [1, 0, 0]
    assert box.run(["x = 1", "x / 0", bad], Dogs()).blocks[-1].error == "runtime"
    assert box.run([bad], Dogs()).blocks[-1].error == "syntax"


@pytest.mark.parametrize(
    ("block", "value", "names"),
    [
        ("", None, {}),
        ("# nothing", None, {}),
        ("x = 1  # one", None, {"x": 1}),
        ("(1 +\n 2)  # three", 3, {}),
        ("x = 1; x", 1, {"x": 1}),
        ("x = 1; x;", 1, {"x": 1}),
        ("1, 2", [1, 2], {}),
        ("*[1], 2", [1, 2], {}),
        ("'é'; 'ü' + '''\nz'''", "ü\nz", {}),
        ("x = 1\r\ny = 2\rx + y", 3, {"x": 1, "y": 2}),
        ("if False:\n    x = 1\ny = 2", None, {"y": 2}),
        ("for i in range(3):\n    j = i", None, {"i": 2, "j": 2}),
        ("(a, *b), c = [1, 2, 3], 4", None, {"a": 1, "b": [2, 3], "c": 4}),
        ("[z := i for i in range(3)]", [0, 1, 2], {"z": 2}),
        ("d = {}\nd[1] = 2", None, {"d": {"1": 2}}),
        ("match [1, 2, 3]:\n    case [a, *r]:\n        pass", None, {"a": 1, "r": [2, 3]}),
        ("def f(): return 1\nimport math\nclass A:\n    y = 1\n_x = 2\ng = f()", None, {"g": 1}),
        ("s = {3, 1, 2}\nt = float('nan')\nlen(s)", 3, {"s": [1, 2, 3]}),
        ("c = {p: 1 for p in image.find('dog')}\nx = 2\nlen(c)", 3, {}),
        ("lambda: (yield_ := 3)", "<function '<lambda>'", {}),
        ("x: int = 4", None, {"x": 4}),
        ("x: int", None, {}),
    ],
)
def test_values_and_variables(block: str, value: Any, names: dict[str, Any], box: Sandbox) -> None:
    run = box.run([block, "1"], Dogs())
    assert last(run) == 1
    found = run.blocks[0]
    assert found.names == names
    assert found.value == value or (isinstance(value, str) and found.value.startswith(value))


def test_variables_are_as_they_were_when_the_block_ended(box: Sandbox) -> None:
    run = box.run(["xs = [1]", "xs.append(2)", "xs[0] = 5", "xs"], Dogs())
    assert [block.names for block in run.blocks] == [{"xs": [1]}, {}, {"xs": [5, 2]}, {}]
    assert last(run) == [5, 2]


def test_an_answer_is_text_of_a_program_that_ends(box: Sandbox) -> None:
    assert box.run(['answer = "a"', 'answer = "b"'], Dogs()).answer == "b"
    assert box.run(['answer = "a"', "answer = 3"], Dogs()).answer is None
    assert box.run(['answer = "a"', "1 / 0"], Dogs()).answer is None
    assert box.run([], Dogs()).blocks == ()


# What programs have ---------------------------------------------------------------------------------------


def test_every_method_reaches_the_scene(box: Sandbox) -> None:
    asked = []

    class Echo:
        def call(self, method: str, region: Region, arguments: Any) -> Any:
            asked.append((method, region, tuple(arguments)))
            return [Region()] if method == "find" else f"{method}!"

    for method in METHODS.values():
        arguments = ", ".join(f'"{name}"' for name in method.arguments)
        value = last(box.run([f"image.crop(0, 0, 0.5, 1).{method.name}({arguments})"], Echo()))
        assert value == ([{"region": [0, 0, 1, 1]}] if method.name == "find" else f"{method.name}!")
        assert asked.pop() == (method.name, Region(0, 0, 0.5, 1), method.arguments)


def test_patches_know_where_they_are(box: Sandbox) -> None:
    code = "p = image.crop(0.25, 0.5, 0.75, 1)\n[p.x, p.y, p.left, p.top, p.right, p.bottom, p.width, p.height]"
    assert last(box.run([code], Dogs())) == [0.5, 0.75, 0.25, 0.5, 0.75, 1, 0.5, 0.5]
    assert (
        last(box.run(['d = image.find("dog")\n[p for p in image.find("dog") if p != d[0]] == d[1:]'], Dogs())) is True
    )
    assert last(box.run(['len(set(image.find("dog") * 2))'], Dogs())) == 3


class Spots:
    """Patches around points."""

    def __init__(self, *points: tuple[float, float]) -> None:
        self.found = [Region(x - 0.04, y - 0.04, x + 0.04, y + 0.04) for x, y in points]

    def call(self, method: str, region: Region, arguments: Any) -> Any:
        return self.found if method == "find" else self.found.index(region)


def test_rows_and_columns(box: Sandbox) -> None:
    grid = [(x + 0.01 * y, y + 0.02 * x) for y in (0.2, 0.5, 0.8) for x in (0.2, 0.5, 0.8)]
    order = random.Random(1).sample(range(9), 9)
    for helper, expected in (
        ("rows", [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ("columns", [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
    ):
        code = f'[[p.number() for p in part] for part in {helper}(image.find("object"))]'
        found = last(box.run([code], Spots(*(grid[i] for i in order))))
        assert [[order[i] for i in part] for part in found] == expected
        assert last(box.run([f"{helper}([])"], Dogs())) == []


@pytest.mark.parametrize("count", [3, 5, 6, 8])
def test_ring_and_nearest(count: int, box: Sandbox) -> None:
    import math

    turns = [2 * math.pi * i / count for i in range(count)]  # anti-clockwise from the top as seen
    points = [(0.5 - 0.3 * math.sin(t) + 0.01 * (i == 0), 0.5 - 0.3 * math.cos(t)) for i, t in enumerate(turns)]
    order = random.Random(count).sample(range(count), count)
    spots = Spots(*(points[i] for i in order))
    found = last(box.run(['[p.number() for p in ring(image.find("object"))]'], spots))
    assert [order[i] for i in found] == list(range(count))
    assert order[last(box.run(['nearest(image.find("object"), 0.5, 0.1).number()'], spots))] == 0
    assert last(box.run(["ring([])"], Dogs())) == []
    assert box.run(["nearest([], 0, 0)"], Dogs()).blocks[0].error == "runtime"


def test_random_numbers_come_from_the_seed_and_time_stands_still(box: Sandbox) -> None:
    code = ["import random, time\n[random.random(), random.Random().random(), time.time()]"]
    runs = [last(box.run(code, Dogs(), seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]
    assert runs[0][2] == runs[2][2]


def test_nothing_stays_for_the_next_program(box: Sandbox) -> None:
    for _ in range(4):  # both workers
        box.run(["kept = 1\nPatch.color = lambda self: 'black'\nrows = image = None"], Dogs())
        assert box.run(["kept"], Dogs()).blocks[0].message.startswith("NameError")
        assert last(box.run(["image.color()"], Dogs())) == "brown"
    assert last(box.run(["Patch.color = lambda self: 'black'", "image.color()"], Dogs())) == "black"


# The scene ------------------------------------------------------------------------------------------------


def test_a_slow_scene_is_not_the_fault_of_the_program(box: Sandbox) -> None:
    run = box.run(['image.query("slow")', "answer = 'done'"], Dogs())
    assert run.answer == "done"
    assert run.seconds > 1.5


def test_words_of_the_host_do_not_reach_the_program(box: Sandbox) -> None:
    code = 'try:\n    image.find("refused")\nexcept ValueError as e:\n    s = str(e)\ns'
    assert last(box.run([code], Dogs())) == "find does not know this argument"
    run = box.run(['try:\n    image.query("boom")\nexcept BaseException:\n    pass', "1"], Dogs())
    assert (len(run.blocks), run.blocks[0].error) == (1, "unavailable")
    assert run.blocks[0].message == "the vision module failed: RuntimeError"


@pytest.mark.parametrize("value", [object(), {"a": object()}, "x" * 70_000, 1 << 300, float("nan"), [Region(), 3]])
def test_what_a_scene_returns_is_checked(value: Any, box: Sandbox) -> None:
    class Odd:
        def call(self, method: str, region: Region, arguments: Any) -> Any:
            return value

    for question in ("image.number()", 'image.find("x")'):
        run = box.run([question], Odd())
        assert (run.blocks[0].error, run.blocks[0].message[:21]) == ("unavailable", "the vision module gav")


def test_calls_are_counted() -> None:
    with Sandbox(calls=3) as box:
        run = box.run(["image.number()\nimage.number()", "[image.number() for _ in range(2)]"], Dogs())
        assert [len(block.calls) for block in run.blocks] == [2, 1]
        assert (run.blocks[1].error, run.blocks[1].message) == ("calls", "more than 3 calls")
        assert last(box.run(["[image.number() for _ in range(3)]"], Dogs())) == [7, 7, 7]


# Crossing -------------------------------------------------------------------------------------------------


def test_plain_values() -> None:
    value = {"a": (1, 2.5, True, None), 3: {"y", "x"}, None: Region(0, 0, 0.5, 1)}
    assert plain(value) == {"a": [1, 2.5, True, None], "3": ["x", "y"], "None": {"region": [0, 0, 0.5, 1]}}
    assert plain(["x" * 65_536]) == ["x" * 65_536]
    assert plain([0] * 9_999) == [0] * 9_999
    assert plain(-(2**256) + 1) == -(2**256) + 1


@pytest.mark.parametrize(
    "value", [["x" * 65_537], ["x" * 40_000] * 2, [0] * 10_000, 2**256, {(1,): 2}, {"a"}.__iter__(), float("-inf"), b""]
)
def test_values_that_may_not_leave(value: Any) -> None:
    with pytest.raises(Unfit):
        plain(value)


def test_depth() -> None:
    value: Any = 1
    for _ in range(20):
        value = [value]
    assert plain(value) == value
    with pytest.raises(Unfit):
        plain([value])


def test_a_program_has_room_for_so_much() -> None:
    room = Room()
    for _ in range(8):
        room.take([0] * 9_999)
    with pytest.raises(Unfit):
        room.take([0])
    with pytest.raises(Unfit):
        Room().take([[0] * 9_999] * 2)


def test_text_with_marks_is_read_back() -> None:
    script = assemble(["a = 1\n# ü\na", "b = 2"])
    data = script.source.encode()
    assert [data[mark.call :][:5] for mark in script.marks] == [b"_done"] * 2
    assert [data[mark.names : mark.end] for mark in script.marks] == [b'{"a":a}', b'{"b":b}']
    assert [script.block_of(n + 1) for n in script.lines] == [0, 1]
    with pytest.raises(SourceError, match="line 1"):
        instrument("x = (")


def test_reading_a_program_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert instrument("'\\d'\n1if 1 else 2").text


NESTED = [
    ("(", "1 2", ")"),
    ("{", "1 2", "}"),
    ("{[", "1 2", "]}"),
    ("f(", "1 2", ")"),
    ("f(a=", "1 2", ")"),
    ("{1:", "1 2", "}"),
    ("(a:=", "1 2", ")"),
    ("[x for x in ", "1 2", "]"),
    ("lambda x=", "1", ""),
    ("-", "1", ""),
    ("not ", "1", ""),
    ("2**", "1", ""),
    ("1 if 1 else ", "1", ""),
    ("1+", "1", ""),
    ("1<", "1", ""),
    ("a=", "1", ""),
    ("a.", "b", ""),
    ("a[", "1", "]"),
    ("await ", "x", ""),
    ("(a,", "b", ")"),
    ("f'{", "1", "}'"),
    ("if 1:", "pass", ""),
]


@pytest.mark.parametrize(("left", "middle", "right"), NESTED, ids=[left for left, _, _ in NESTED])
def test_reading_on_our_side_ends_soon(left: str, middle: str, right: str) -> None:
    """The one thing that is done with a program outside the sandbox is to parse it."""

    def read(depth: int) -> float:
        start = time.perf_counter()
        with contextlib.suppress(SourceError):
            instrument(left * depth + middle + right * depth)
        return time.perf_counter() - start

    largest = 32_000 // len(left + right)
    with ThreadPoolExecutor(1) as pool:  # a thread, whose stack is no larger than the main one's
        assert min(max(pool.map(read, (20, 40, 90, 150, 1000, largest))) for _ in range(3)) < 0.3


def test_no_text_is_an_exception(box: Sandbox) -> None:
    """Good programs with letters lost, doubled and swapped."""
    rng = random.Random(5)
    ended = set()
    for _ in range(400):
        text = list(rng.choice(abuse.BENIGN).code)
        for _ in range(rng.randint(1, 4)):
            i = rng.randrange(len(text))
            text[i] = rng.choice(["", text[i] * 2, rng.choice(text), "\n", " ", "é", "\x00"])
        cut = rng.randrange(len(text))
        run = box.run(["".join(text[:cut]), "".join(text[cut:])], Dogs())
        assert 1 <= len(run.blocks) <= 2
        ended.add(run.blocks[-1].error)
    assert {"", "syntax", "runtime"} <= ended <= {"", *ERROR_KINDS} - {"unavailable", "crash"}


# Workers --------------------------------------------------------------------------------------------------


def workers() -> list[int]:
    """Return the processes that interpret programs."""
    return [pid for pid in descendants(os.getpid()) if _command(pid).split("\0")[0].endswith("monty")]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_killed_worker_is_a_crash_and_the_next_program_is_fine(sandbox: Sandbox) -> None:
    sandbox.run(["1"], Dogs())
    before = set(descendants(os.getpid()))

    class Killer:
        def call(self, method: str, region: Region, arguments: Any) -> Any:
            for pid in mine:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
            return 1

    waits = []
    for _ in range(5):
        sandbox.run(["1"], Dogs())
        mine = workers()
        run = sandbox.run(["x = 1", "image.number()", "answer = 'no'"], Killer())
        assert [block.error for block in run.blocks] == ["", "crash"]
        start = time.perf_counter()
        assert sandbox.run(["answer = 'yes'"], Dogs()).answer == "yes"
        waits.append(time.perf_counter() - start)
    assert min(waits) < 0.05, waits  # the least: what a busy machine adds is not ours
    assert len(descendants(os.getpid())) <= len(before)


def test_leaving_ends_the_processes(quiet: None) -> None:
    before = set(descendants(os.getpid()))
    with Sandbox(workers=2) as box:
        box.run_many([(["1"], Dogs())] * 8)
        assert set(descendants(os.getpid())) > before
    for _ in range(100):
        if set(descendants(os.getpid())) <= before:
            break
        time.sleep(0.05)
    assert set(descendants(os.getpid())) <= before


def test_workers_do_not_outlive_a_killed_host() -> None:
    code = (
        "from svip_search.programs.sandbox import Sandbox\n"
        "with Sandbox(workers=2) as box:\n"
        "    print('ready', flush=True)\n"
        "    while True: box.run_many([(['while True: pass'], None)] * 2)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        time.sleep(0.3)
        below = descendants(host.pid)
        assert below
        host.kill()
    for _ in range(100):
        if not any("monty" in _command(pid) for pid in below):
            return
        time.sleep(0.05)
    pytest.fail("workers are left behind")


def test_many_programs_keep_their_order(box: Sandbox) -> None:
    jobs = [([f"answer = str(image.number() + {i})"], Dogs()) for i in range(40)]
    assert [run.answer for run in box.run_many(jobs)] == [str(7 + i) for i in range(40)]
    assert box.run_many([]) == []


def test_good_and_hostile_programs_mixed(box: Sandbox) -> None:
    """A soak: from several threads, for some seconds."""
    quick = [case for case in abuse.HOSTILE if not {"timeout"} & set(case.kinds)]
    slow = [case for case in abuse.HOSTILE if case.kinds == ("timeout",)]
    good, stop = ['dogs = image.find("dog")', "[d.color() for d in dogs]", "answer = str(len(dogs))"], 0.0
    processes = len(descendants(os.getpid()))

    def work(seed: int) -> int:
        rng, done = random.Random(seed), 0
        while time.time() < stop:
            case = rng.choice(slow) if rng.random() < 0.01 else rng.choice(quick)
            if rng.random() < 0.3:
                assert box.run(case.blocks, Dogs()).blocks[-1].error in ends(case), case.name
            assert box.run(good, Dogs()).answer == "3"
            done += 1
        return done

    with ThreadPoolExecutor(4) as pool:
        # The allocator keeps some for each thread: what grows after the first round is lost.
        after = []
        for turn in range(2):
            stop = time.time() + 4
            assert sum(pool.map(work, range(4 * turn, 4 * turn + 4))) > 30
            gc.collect()
            after.append(resident())
        assert after[1] - after[0] < 32 * MB
    assert len(descendants(os.getpid())) <= processes


# The door -------------------------------------------------------------------------------------------------


def test_arguments() -> None:
    with pytest.raises(ValueError, match="`workers`"):
        Sandbox(workers=0)
    box = Sandbox()
    with pytest.raises(RuntimeError, match="entered"):
        box.run(["1"], Dogs())
    with pytest.raises(RuntimeError, match="entered"):
        box.run_many([])
    with box, pytest.raises(TypeError, match="`blocks`"):
        box.run("answer = 1", Dogs())
    with box, pytest.raises(TypeError, match="`blocks`"):
        box.run([1], Dogs())  # type: ignore[list-item]


def test_bubblewrap_can_be_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BackendUnavailable, match="not installed"), Sandbox(require_os_sandbox=True):
        pass
    broken = tmp_path / "bwrap"  # there, but not allowed to make namespaces
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    with pytest.raises(BackendUnavailable, match="status 1"), Sandbox(require_os_sandbox=True):
        pass


def test_its_absence_is_said_once() -> None:
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "from svip_search.programs.sandbox import Sandbox\n"
        "for _ in range(2):\n"
        "    with Sandbox() as box: print(box.kind, box.run(['answer = \"a\"'], None).answer)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PATH"} | {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["monty", "a"] * 2
    assert done.stderr.count("UserWarning") == 1


def test_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    monkeypatch.setitem(sys.modules, "pydantic_monty._binary", None)
    with pytest.raises(BackendUnavailable, match="pip install"), Sandbox():
        pass


@pytest.mark.skipif(shutil.which("bwrap") is None, reason=NO)
def test_a_worker_sees_nothing_of_the_machine() -> None:
    """By the side of the real thing: a shell in the same walls finds no files and no network."""
    from svip_search.programs._worker import _bubblewrap

    command, reason = _bubblewrap("/bin/sh")
    assert not reason
    script = "echo /*; echo x > /x; echo x > /tmp/x; echo $SVIP_CANARY$HOME; cd /proc && echo seen"
    done = subprocess.run(
        [*command, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, "SVIP_CANARY": CANARY}
    )
    assert set(done.stdout.split()) <= {"/lib", "/lib64", "/usr", "/monty"}
    assert len(done.stderr.strip().splitlines()) == 3
