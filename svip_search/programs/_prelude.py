"""The Python text that a program runs in: the vision API as it sees it, and the marks between its blocks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ._syntax import syntax_tree
from ._types import METHODS

#: The names of the two host functions: a question to a vision module, and the end of a block.
ASK, DONE = "_ask", "_done"

_CLASS = """\
import math
class Patch:
    def __init__(self, left, top, right, bottom):
        self.left = left
        self.top = top
        self.right = right
        self.bottom = bottom
        self.x = (left + right) / 2
        self.y = (top + bottom) / 2
        self.width = right - left
        self.height = bottom - top
    def __eq__(self, other):
        return isinstance(other, Patch) and (self.left, self.top, self.right, self.bottom) == (
            other.left, other.top, other.right, other.bottom)
    def __hash__(self):
        return hash((self.left, self.top, self.right, self.bottom))
    def __repr__(self):
        return f"Patch({self.left}, {self.top}, {self.right}, {self.bottom})"
"""
_METHOD = """\
    def {name}(self{arguments}):
        return _ask("{name}", self.left, self.top, self.right, self.bottom{arguments})
"""
_FIND = """\
    def find(self, kind):
        return [Patch(*r) for r in _ask("find", self.left, self.top, self.right, self.bottom, kind)]
"""
_CROP = """\
    def crop(self, left, top, right, bottom):
        if not (0 <= left <= right <= 1 and 0 <= top <= bottom <= 1):
            raise ValueError("crop needs 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1")
        return Patch(left, top, right, bottom)
"""
_IMAGE = "image = Patch(0.0, 0.0, 1.0, 1.0)\n"
_HELPERS = {
    "rows": """\
def rows(patches):
    found = []
    for p in sorted(patches, key=lambda p: p.y):
        if found and p.y - found[-1][0].y <= max(p.height, found[-1][0].height) / 2:
            found[-1].append(p)
        else:
            found.append([p])
    return [sorted(row, key=lambda p: p.x) for row in found]
""",
    "columns": """\
def columns(patches):
    found = []
    for p in sorted(patches, key=lambda p: p.x):
        if found and p.x - found[-1][0].x <= max(p.width, found[-1][0].width) / 2:
            found[-1].append(p)
        else:
            found.append([p])
    return [sorted(column, key=lambda p: p.y) for column in found]
""",
    # A patch a little clockwise of the top still is the one at the top.
    "ring": """\
def ring(patches):
    n = len(patches)
    x = sum(p.x for p in patches) / max(n, 1)
    y = sum(p.y for p in patches) / max(n, 1)
    turn = lambda p: (math.atan2(x - p.x, y - p.y) + math.pi / (2 * n)) % (2 * math.pi)
    return sorted(patches, key=turn)
""",
    "nearest": """\
def nearest(patches, x, y):
    return min(patches, key=lambda p: (p.x - x) ** 2 + (p.y - y) ** 2)
""",
}


def _method(name: str, arguments: Sequence[str]) -> str:
    return _FIND if name == "find" else _METHOD.format(name=name, arguments="".join(f", {a}" for a in arguments))


_METHODS = {m.name: _method(m.name, m.arguments) for m in METHODS.values()} | {"crop": _CROP}
#: All that a program can name.
API = frozenset(_METHODS) | frozenset(_HELPERS)


@lru_cache(maxsize=1024)
def prelude(names: frozenset[str] = API) -> str:
    """Return what stands before a program that speaks of these names.

    To read it takes longer than to run most programs, so that it has no more than is needed.  Nothing in
    it is secret, and a program may overwrite it for itself.

    Args:
        names: some of `API`.
    """
    methods = (text for name, text in _METHODS.items() if name in names)
    helpers = (text for name, text in _HELPERS.items() if name in names)
    return "".join((_CLASS, *methods, _IMAGE, *helpers))


class SourceError(ValueError):
    """A block that is no Python."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where in the source a block ends, in bytes: its list of variables, and the call that hands it over."""

    names: int
    end: int
    call: int


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a program with its prelude; ``lines[k]`` is the number of lines before block k."""

    source: str
    marks: tuple[Mark, ...]
    lines: tuple[int, ...]

    def block_of(self, line: int) -> int:
        """Return which block a line (from 1) belongs to."""
        return max((k for k, before in enumerate(self.lines) if before < line), default=0)


def assemble(blocks: Sequence[str]) -> Script:
    """Return one text of the prelude and the blocks, each followed by the call of `DONE` with what it gave.

    Args:
        blocks: Python source each; all must parse.

    Returns:
        The text, with the places of the calls: a call from elsewhere is not ours.

    Raises:
        SourceError: a block is no Python.

    Example:
        >>> print(assemble(["n = 2", "n + 1"]).source.removeprefix(prelude(frozenset())))
        n = 2
        _given = [None, {"n":n}]
        while _done(_given): _given.pop()
        _given = [(n + 1), {}]
        while _done(_given): _given.pop()
        <BLANKLINE>
    """
    parts = [instrument(block) for block in blocks]
    text = [prelude(frozenset().union(*(part.mentions for part in parts)))]
    offset, lines = len(text[0]), text[0].count("\n")
    marks, before = [], []
    for part in parts:
        marks.append(Mark(offset + part.mark.names, offset + part.mark.end, offset + part.mark.call))
        before.append(lines)
        text.append(part.text)
        offset += part.size
        lines += part.lines
    return Script("".join(text), tuple(marks), tuple(before))


@dataclass(frozen=True, slots=True)
class _Part:
    text: str
    mark: Mark
    size: int
    lines: int
    mentions: frozenset[str]


@lru_cache(maxsize=4096)
def instrument(block: str) -> _Part:
    """Return a block that hands over the value of its last expression and its variables.

    Where the variables cannot be read outside, the call says so, and is made again without them.

    Raises:
        SourceError: it is no Python.
    """
    block = block.replace("\r\n", "\n").replace("\r", "\n")
    body = _parse(block).body
    head, value, tail = block if block.endswith("\n") or not block else block + "\n", "None", ""
    if body and isinstance(body[-1], ast.Expr):
        start, end = _span(block, body[-1])
        head, value, tail = block[:start], f"({block[start:end]})", block[end:]
    names = "{" + ", ".join(f'"{name}":{name}' for name in sorted(set(_assigned(body)))) + "}"
    before = f"{head}_given = [{value}, "
    text = f"{before}{names}]{tail}\nwhile "
    first, call = len(before.encode()), len(text.encode())
    text += f"{DONE}(_given): _given.pop()\n"
    mentions = API & frozenset(re.findall(r"\w+", block))
    mark = Mark(first, first + len(names.encode()), call)
    return _Part(text, mark, len(text.encode()), text.count("\n"), mentions)


def _parse(block: str) -> ast.Module:
    try:
        return syntax_tree(block)
    except SyntaxError as error:
        place = f" (line {error.lineno})" if error.lineno else ""
        raise SourceError(f"{error.msg}{place}") from None


def _span(block: str, node: ast.stmt) -> tuple[int, int]:
    """Return the characters that a statement covers; the tree counts in bytes of a line."""
    data = block.encode()
    starts = [0]
    for line in data.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    assert node.end_lineno is not None and node.end_col_offset is not None
    first = starts[node.lineno - 1] + node.col_offset
    last = starts[node.end_lineno - 1] + node.end_col_offset
    return len(data[:first].decode()), len(data[:last].decode())


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def _assigned(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the variables that statements set, items included; not functions, classes, modules and private names."""
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, _SCOPES):
            continue
        if isinstance(node, ast.comprehension):  # its target is its own; what it computes may hold a walrus
            todo += [node.iter, *node.ifs]
            continue
        name = _target(node)
        if name and not name.startswith("_"):
            yield name
        todo += ast.iter_child_nodes(node)


def _target(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id if isinstance(node.ctx, ast.Store) else None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return node.value.id if isinstance(node.value, ast.Name) else None
    if isinstance(node, ast.MatchAs | ast.MatchStar):
        return node.name
    return node.rest if isinstance(node, ast.MatchMapping) else None
