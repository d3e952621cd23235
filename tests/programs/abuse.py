"""Programs that want out, want all, or never want to end; and programs that are fine.

A hostile program carries the kinds of error that it may end with ("" for none: it did no harm).  ``SECRET``,
``MARKER`` and ``PORT`` stand for a file that it must not read, one that it must not make, and a listener
that it must not reach.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Abuse:
    """A program, what it is after, and how it may end."""

    name: str
    blocks: tuple[str, ...]
    kinds: tuple[str, ...] = ("runtime",)


def _one(name: str, code: str, *kinds: str) -> Abuse:
    return Abuse(name, (code,), kinds or ("runtime",))


def _many(name: str, blocks: list[str], *kinds: str) -> Abuse:
    return Abuse(name, tuple(blocks), kinds or ("runtime",))


_UNTIL = """def f():
    try:
        while True:
            pass
    finally:
        while True:
            pass
f()"""
_EVIL = """class E:
    def __reduce__(self):
        return (print, ("PWN",))
    def __del__(self):
        open("MARKER", "w").write("x")
    def __eq__(self, o):
        while True:
            pass
    def __repr__(self):
        return "x" * 10**10
E()"""
_POPEN = """r = [c.__name__ for c in ().__class__.__base__.__subclasses__()]
for c in ().__class__.__base__.__subclasses__():
    if c.__name__ == "_wrap_close":
        r = c.__init__.__globals__["popen"]("cat SECRET").read()
r"""
_ENVIRON = """r = ""
try:
    import os
    r = str(os.environ) + str(os.getenv("SVIP_CANARY"))
except Exception as e:
    r = str(e)
try:
    r = r + open("/proc/self/environ").read()
except Exception as e:
    r = r + str(e)
print(r)
r"""

#: The ways out of an interpreter that are known.
KNOWN = [
    _one("object subclasses", _POPEN),
    _one("globals of a host function", '_ask.__globals__["SECRET"]'),
    _one("globals of a bound method", 'image.find.__func__.__globals__["SECRET"]'),
    _one("private attribute", "image._secret"),
    _one("getattr of a built name", 'getattr(image, "_sec" + "ret")'),
    _one("str.format walks attributes", '"{0._secret} {0.__class__.__init__.__globals__}".format(image)'),
    _one("format_map walks attributes", '"{x._secret}".format_map({"x": image})'),
    _one("f-string walks attributes", 'f"{image.__class__.__mro__} {image._secret}"'),
    _one("generator frame", "g = (x for x in [1])\ng.gi_frame.f_back.f_back.f_globals"),
    _one(
        "traceback frame",
        "try:\n    1 / 0\nexcept Exception as e:\n    r = e.__traceback__.tb_frame.f_back.f_globals\nr",
    ),
    _one(
        "host exception",
        'try:\n    image.query("boom")\nexcept Exception as e:\n    r = str(e.args) + str(e.__traceback__.tb_next)\nr',
        "runtime",
        "unavailable",
    ),
    _one("coroutine frame", "async def f():\n    return 1\nc = f()\nc.cr_frame.f_back.f_globals"),
    _one("import os", 'import os\nos.popen("cat SECRET").read()'),
    _one("__import__", '__import__("os").popen("cat SECRET").read()'),
    _one("importlib", 'import importlib\nimportlib.import_module("subprocess").check_output(["cat", "SECRET"])'),
    _one("submodule of random", 'import random\nrandom._os.popen("cat SECRET").read()'),
    _one("ctypes", 'import ctypes\nctypes.CDLL(None).system(b"touch MARKER")'),
    _one("eval and exec", "r = eval(\"__import__('os').popen('cat SECRET').read()\")\nexec(\"x=1\")\nr"),
    _one("open to read", 'open("SECRET").read()'),
    _one("open to write", 'open("MARKER", "w").write("x")'),
    _one("pathlib", 'from pathlib import Path\nPath("SECRET").read_text()'),
    _one("environment", _ENVIRON, "", "runtime"),
    _one("socket", 'import socket\ns = socket.create_connection(("127.0.0.1", PORT), 2)\ns.send(b"hit")'),
    _one("urllib", 'import urllib.request\nurllib.request.urlopen("http://127.0.0.1:PORT/x", timeout=2).read()'),
    _one("endless while", "while True:\n    pass", "timeout"),
    _one(
        "endless generator",
        "def g():\n    i = 0\n    while True:\n        yield i\n[x for x in g()]",
        "syntax",
        "timeout",
        "memory",
    ),
    _one("endless builtin", "sum(range(10**12))", "timeout"),
    _one("huge list", "r = [0] * (10**11)\nlen(r)", "memory"),
    _one("growing list", 'r = []\nwhile True:\n    r.append("x" * 1000000)', "memory"),
    _one("huge str", 'r = "x" * (10**11)\nlen(r)', "memory"),
    _one("huge power", "r = 10 ** (10**9)\nr % 7", "memory", "runtime"),
    _one("tower of squares", "x = 2\nfor i in range(60):\n    x = x * x\nx % 7", "memory", "timeout", "runtime"),
    _one("huge number as text", "x = 7**5000000\nlen(str(x))", "memory", "timeout", "runtime"),
    _one("left shift", "r = 1 << (10**11)\nr % 7", "memory", "runtime"),
    _one("recursion", "def f(n):\n    return f(n + 1) + 1\nf(0)"),
    _one(
        "recursion that catches",
        "def f():\n    try:\n        f()\n    except Exception:\n        f()\n    finally:\n        f()\nf()",
        "runtime",
        "timeout",
        "memory",
    ),
    _one("deep data", "x = []\nfor i in range(200000):\n    x = [x]\nstr(x)[:10]", "runtime", "memory", "", "output"),
    _one("deep parentheses", "r = " + "(" * 14000 + "1" + ")" * 14000, "syntax"),
    _one("deep signs", "r = " + "-" * 30000 + "1", "syntax"),
    _one("source of 100 KB", "r = " + "-" * 100000 + "1", "syntax"),
    _one("format width", 'r = f"{1:>9999999999}"\nlen(r)', "memory", "runtime"),
    _one("percent width", 'r = "%9999999999d" % 1\nlen(r)', "memory", "runtime"),
    _one("regular expression", 'import re\nre.match(r"(a+)+$", "a" * 40 + "b")', "", "timeout", "runtime"),
    _one("print flood", 'while True:\n    print("x" * 100000)', "output", "timeout"),
    _one("message flood", 'raise ValueError("x" * 200000000)', "memory", "runtime"),
    _one("value flood", '["x" * 1000] * 3000000', "output", "memory"),
    _one("NFKC dunder", 'image.__ｃlass__.__init__.__globals__["SECRET"]'),
    _one("full-width private attribute", "image._ｓecret"),
    _one("fork bomb", "import os\nwhile True:\n    os.fork()"),
    _one("thread bomb", "import threading\nwhile True:\n    threading.Thread(target=print).start()"),
    _one("sleep", "import time\ntime.sleep(3600)\n'slept'", "", "runtime"),
    _one("sys.exit", "import sys\nsys.exit(0)"),
    _one("KeyboardInterrupt", "raise KeyboardInterrupt()"),
    _one("kill the parent", "import os, signal\nos.kill(os.getppid(), 9)"),
    _one(
        "catches the timeout",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        "timeout",
    ),
    _one("timeout in finally", _UNTIL, "timeout"),
    _one("call flood", 'while True:\n    image.find("dog")', "calls"),
    _one("huge argument", 'image.find("x" * 500000000)', "memory"),
    _one("poisoned argument", 'image.find({"__class__": "x", "__reduce__": [1, 2]})'),
    _one("evil object as value", _EVIL, "output"),
    _one(
        "patch the host object",
        'image.find = lambda s: "hacked"\nimage.__class__.find = lambda self, s: "hacked"\nimage.find("dog")',
        "",
        "runtime",
    ),
    _one("__builtins__", '__builtins__["__import__"]("os").popen("cat SECRET").read()'),
    _one("code object", "f = lambda: 0\nf.__code__ = f.__code__.replace(co_consts=(1,))\nf.__globals__"),
    _one(
        "metaclass",
        'X = type("X", (object,), {"__init__": lambda s: None})\nlen(type(X()).__mro__[-1].__subclasses__())',
    ),
    _one("class pattern", "match image:\n    case object(_secret=s):\n        print(s)\n", "", "runtime", "syntax"),
    _one("augmented attribute", 'image._secret += ""\nimage'),
    _one("string.Formatter", 'import string\nstring.Formatter().get_field("0._secret", (image,), {})'),
    _one("attrgetter", 'import operator\noperator.attrgetter("_secret")(image)'),
    _one("inspect", "import inspect\ninspect.stack()[1].frame.f_globals"),
    _one("pickle", "import pickle\npickle.loads(b\"cposix\\nsystem\\n(S'touch MARKER'\\ntR.\")"),
    _one("disk fill", 'f = open("fill", "w")\nwhile True:\n    f.write("x" * 1000000)'),
    _one("path traversal", 'open("../../../../../../..SECRET").read()'),
    _one(
        "quadratic sort",
        "r = sorted(range(10**7), key=lambda x: -x)\nr = [r for _ in range(100)]\n"
        "sum(len(set(map(str, q))) for q in r)",
        "memory",
        "timeout",
    ),
    _one("replace amplifies", 's = "a" * 1000000\nr = s.replace("a", "b" * 1000000)\nlen(r)', "memory"),
    _one("join amplifies", 's = ("x" * 1000000).join(["y"] * 1000000)\nlen(s)', "memory"),
    _one("huge bytes", "r = bytes(10**11)\nlen(r)", "memory", "runtime"),
    _one("surrogate", 'r = "\\ud800"\nprint(r)\nr', "", "runtime"),
    _one(
        "product", "import itertools\nr = list(itertools.product(range(1000), repeat=5))\nlen(r)", "memory", "timeout"
    ),
    _one("huge dict", "r = {i: i for i in range(10**9)}\nlen(r)", "memory", "timeout"),
]

_TRY = "while True:\n    try:\n        {}\n    except BaseException:\n        pass"
_CHAIN = """e = None
for i in range(10**6):
    try:
        raise ValueError(e)
    except ValueError as x:
        e = x
raise e"""
_ALIAS = 'a = ["lol"] * 10\nfor i in range(9):\n    a = [a] * 10\n'
_SPIN = "i = 0\nfor i in range(3000000):\n    pass"


def _ask(arguments: str) -> str:
    return f"_ask({arguments})"


#: What only a way through to a vision module and back makes possible.
CROSSING = [
    _one("aliased value", _ALIAS + "a", "output"),
    _one("aliased variable", _ALIAS, ""),
    _one("aliased answer", _ALIAS + "answer = a", "output"),
    _one("aliased argument", _ALIAS + "image.find(a)"),
    _one("aliased coordinates", _ALIAS + "image.left = a\nimage.color()"),
    _one("cyclic value", "x = []\nx.append(x)\nx", "", "output"),
    _one("cyclic object", "class B:\n    def __init__(self):\n        self.a = self\nB()", "output"),
    _one("answer of 1 MB", 'answer = "x" * 1000000', "output"),
    _one("answer of numbers", "answer = [1] * 100000", "output"),
    _one("answer not text", "answer = 3", ""),
    _one("big number", "2**300", "output"),
    _one("not a number", 'float("nan")', "output"),
    _one("infinite", 'float("inf")', "output"),
    _one("bytes", 'b"abc"', "output"),
    _one("type", "int", "output"),
    _one("ellipsis", "...", "output"),
    _one("builtin", "open", "output"),
    _one("mixed set", '{1, "a"}', "output"),
    _one("object as key", "{image: 1}", "output"),
    _one("tuple as key", "{(1, 2): 1}", "output"),
    _one("object as key of a variable", "d = {image: 1}\n1", ""),
    _one("deep value", "x = []\nfor i in range(100):\n    x = [x]\nx", "output"),
    _one("wide value", "list(range(400000))", "output", "memory"),
    _one("many long texts", "[str(i) * 200 for i in range(20000)]", "output", "memory"),
    _one(
        "endless iterator as value", "import itertools\nitertools.count()", "", "output", "runtime", "timeout", "memory"
    ),
    _one(
        "endless iterator as variable",
        "import itertools\nc = itertools.cycle([1])\n1",
        "",
        "output",
        "runtime",
        "memory",
    ),
    _one("spoilt patch", 'image.left = "0"\nimage', "output"),
    _one("patch with a key that cannot be read", "image.extra = {image: 1}\nimage", "output", ""),
    _one("patch with a side that cannot be read", "image.left = {image: 1}\nimage.color()"),
    _one("object with a key that cannot be read", "class B:\n    a = {image: 1}\nB()", "output"),
    _one("object that holds one", "class B:\n    def __init__(self):\n        self.a = {image: 1}\nB()", "output"),
    _one("patch without sides", "p = Patch.__new__(Patch)\np", "runtime", "output"),
    _one("argument that cannot be read", "image.find({image: 1})"),
    _one("set of patches", "{image}", "output"),
    _one("deep argument", "x = []\nfor i in range(50000):\n    x = [x]\nimage.find(x)"),
    _one("very deep value", "x = []\nfor i in range(50000):\n    x = [x]\nx", "output"),
    _one(
        "strange values", "import datetime, decimal\n[datetime.date.min, decimal.Decimal('NaN')]", "output", "runtime"
    ),
    _one("patch out of the picture", "image.right = 2\nimage", "output"),
    _one("false patch", "class Patch:\n    pass\nPatch()", "output"),
    _one("unknown question", _ask('"call", 0, 0, 1, 1')),
    _one("dunder question", _ask('"__class__", 0, 0, 1, 1')),
    _one("question of no text", _ask("3, 0, 0, 1, 1")),
    _one("question of a list", _ask('["find"], 0, 0, 1, 1, "x"')),
    _one("no question", _ask("")),
    _one("keyword question", _ask('"find", 0, 0, 1, 1, kind="x"')),
    _one("too few arguments", _ask('"find", 0, 0, 1, 1')),
    _one("too many arguments", _ask('"color", 0, 0, 1, 1, "x"')),
    _one("starred flood", _ask("*range(100000)"), "runtime", "memory"),
    *(
        _one(f"argument {argument}", f"image.find({argument})")
        for argument in ("None", "1", "1.5", "True", "[]", '["dog"]', '("dog",)', "{}", 'b"dog"', "image", "int", "len")
    ),
    _one("argument of a lambda", "image.find(lambda: 1)", "runtime", ""),
    _one("long argument", 'image.find("x" * 501)'),
    _one("argument of a 30 MB text", 'image.find("x" * 30000000)', "runtime", "memory"),
    *(
        _one(f"coordinate {value}", f'_ask("color", 0, 0, {value}, 1)')
        for value in (
            'float("nan")',
            'float("inf")',
            "-0.1",
            "1.1",
            "10**400",
            "True",
            '"1"',
            "None",
            "[1]",
            "1j",
            "image",
        )
    ),
    _one("left of right", _ask('"color", 0.6, 0, 0.4, 1')),
    _one("crop outside", "image.crop(-0.1, 0, 1, 1)"),
    _one("crop beyond", "image.crop(0, 0, 1, 1.5)"),
    _one("crop reversed", "image.crop(0.5, 0, 0.4, 1)"),
    _one("crop at NaN", 'n = float("nan")\nimage.crop(n, n, n, n)'),
    _one("crop of text", 'image.crop("0", 0, 1, 1)'),
    _one("patch of NaN", 'image.left = float("nan")\nimage.color()'),
    _one("patch moved out", "image.left = -5\nimage.color()"),
    _one(
        "vision module fails", 'try:\n    image.query("boom")\nexcept BaseException as e:\n    pass\n1', "unavailable"
    ),
    _one("vision module refuses", 'image.find("refused")'),
    _one("vision module gives rubbish", 'image.query("rubbish")', "unavailable"),
]

#: What only blocks make possible: the marks between them, limits that add up.
BLOCKS = [
    _one("forged mark", '_done(1, {"answer": "forged"})'),
    _one("forged mark in exec", 'exec("_done(1, {})")', "runtime", ""),
    _one("mark redefined", "def _done(value, names):\n    return 1", "runtime"),
    _one("question redefined", "def _ask(*a):\n    return 1\nimage.color()", ""),
    _one("class redefined", "Patch = 3\nimage.find('dog')"),
    _many("builtins shadowed", ["isinstance = sorted = len = 3", "image == image"], "runtime"),
    _many("return", ["x = 1", "return 5", "y = 2"], "runtime", "syntax"),
    _one("break", "break", "syntax"),
    _many("endless at last", ["x = 1", "y = 2", "while True:\n    pass"], "timeout"),
    _many("each block a little", [_SPIN] * 30, "timeout"),
    _many("each block a large value", ["[1] * 9000"] * 30, "output", "timeout"),
    _many("each block a large variable", ["x = list(range(400000))"] * 60, "timeout", "memory"),
    _many("each block a flood", ["print('x' * 9000)"] * 30, "output"),
    _many("each block many calls", ["for _ in range(60):\n    image.color()"] * 20, "calls"),
    _many("65 blocks", ["1"] * 65, "syntax"),
    _many("33 KB in blocks", ["x = '" + "a" * 1000 + "'"] * 33, "syntax"),
    _one("3,000 variables", "; ".join(f"v{i}=[{i}]*99" for i in range(2000)), ""),
    _one("look-up flood", _TRY.format("nobody"), "calls"),
    _one("look-up flood of calls", _TRY.format("nobody()"), "calls"),
    _one("file flood", _TRY.format('open("SECRET")'), "calls"),
    _one("caught call limit", _TRY.format("image.color()"), "calls"),
    _one("null byte", "x = 1\0", "syntax"),
    _one("lone surrogate", "x = '\ud800'", "syntax"),
    _one("no Python", "Sure! Here is the program:", "syntax"),
    _one("megabyte of prose", "word " * 200000, "syntax"),
    _one("worker panic", "locals()", "crash", "runtime", ""),
    _one("never awaited", "import asyncio\nasync def f():\n    await g()\nasyncio.run(f())"),
    _one(
        "endless gather",
        "import asyncio\nasync def f():\n    while True:\n        await asyncio.sleep(1)\nawait f()",
        "timeout",
        "calls",
        "runtime",
    ),
    _one("print of many small", "for i in range(10**7):\n    print(i)", "output", "timeout"),
    _one("deep JSON", "import json\njson.loads('[' * 100000)", "runtime", "memory"),
    _one("exception chain", _CHAIN, "runtime", "memory", "timeout"),
    _one("host globals by name", "CANARY_GLOBAL"),
    _one("random by the system", "import os\nos.urandom(8)", "runtime"),
    _one("process id", "import os\nos.getpid()"),
]

HOSTILE = [*KNOWN, *CROSSING, *BLOCKS]


@dataclass(frozen=True)
class Benign:
    """A program of the kind that models write, and what its last block gives."""

    name: str
    code: str
    value: object


_CLASS = """class P:
    def __init__(self, x):
        self.x = x
    def get(self):
        return self.x + 1
P(2).get()"""
_TYPED = """from typing import List
def f(xs: List[int]) -> int:
    total: int = 0
    for x in xs:
        total += x
    return total
f([1, 2, 3])"""
_DATACLASS = """from dataclasses import dataclass
@dataclass
class B:
    x: int
    y: int = 2
B(1).y"""
_COUNTER = """from collections import Counter
import itertools, functools
Counter([1, 1, 2]).most_common(1)[0]"""
_JSON = """import re, json
json.loads(json.dumps({"a": re.findall(r"\\d+", "a1b22")}))["a"]"""

#: Three dogs stand in the picture: a brown, a black and a white one.
BENIGN = [
    Benign("exists", 'def f(patch):\n    return "yes" if patch.exists("dog") else "no"\nf(image)', "yes"),
    Benign("count", 'dogs = image.find("dog")\nlen(dogs)', 3),
    Benign("leftmost", 'sorted(image.find("dog"), key=lambda p: p.x)[0].query("color?")', "brown"),
    Benign("any", 'any([p.color() == "black" for p in image.find("dog")])', True),
    Benign("f-string", 'n = len(image.find("dog"))\nf"{n} dogs, {n / 2:.1f} pairs"', "3 dogs, 1.5 pairs"),
    Benign("crop", "image.crop(0, 0, 0.15, 0.15).color()", "brown"),
    Benign("largest", 'max(image.find("dog"), key=lambda p: p.width * p.height).left', 0.2),
    Benign(
        "count by colour",
        'c = {}\nfor p in image.find("dog"):\n    k = p.color()\n    c[k] = c.get(k, 0) + 1\nsorted(c.items())',
        [["black", 1], ["brown", 1], ["white", 1]],
    ),
    Benign(
        "while and try",
        'i = 0\nwhile True:\n    try:\n        x = image.find("dog")[i]\n        i += 1\n'
        "    except IndexError:\n        break\ni",
        3,
    ),
    Benign("class", _CLASS, 3),
    Benign("math", "import math\nround(math.sqrt(2), 3)", 1.414),
    Benign("patch", 'Patch(0.0, 0.0, 1.0, 1.0).exists("cat")', False),
    Benign("annotations", _TYPED, 6),
    Benign(
        "zip",
        'a = [p.left for p in image.find("dog")]\nb = [p.right for p in image.find("dog")]\n'
        "[(i, round(y - x, 3)) for i, (x, y) in enumerate(zip(a, b))]",
        [[0, 0.1], [1, 0.3], [2, 0.1]],
    ),
    Benign("re and json", _JSON, ["1", "22"]),
    Benign("mean", "numbers = [1, 2, 3]\nsum(numbers) / len(numbers)", 2.0),
    Benign("match", 'match image.color():\n    case "brown":\n        r = 1\n    case _:\n        r = 0\nr', 1),
    Benign("counter", _COUNTER, [1, 2]),
    Benign("dataclass", _DATACLASS, 2),
    Benign("walrus", 's = "A photo of a Dog"\n(n := s.lower().split()[-1][::-1]) if "Dog" in s else None', "god"),
]
