"""What reaches the answer of a program, and what it computes twice: read from the source of its blocks alone.

`reaching` walks the blocks backwards with the set of *live* names, those whose value can still change the
answer.  A statement counts if it sets or changes a live name; what it reads becomes live in its place, and so
does what decides whether it runs.  `repetitions` walks forwards and numbers values: two expressions get the
same number if they do the same to the same values, whatever the names are.

Both stay on the safe side where Python is too dynamic to tell: what may change a value counts as changing it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from ._syntax import syntax_tree
from ._types import METHODS

#: Methods that change the object they are called on.
_MUTATORS = {
    *("append", "extend", "insert", "remove", "pop", "popitem", "clear", "sort", "reverse", "add", "discard"),
    *("update", "setdefault", "difference_update", "intersection_update", "symmetric_difference_update"),
}
_SCOPES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_MAX_DEPTH = 120  # deeper nesting than any real program has; the walks below recurse

Names = frozenset[str]
_NONE: Names = frozenset()


@lru_cache(maxsize=4096)
def parse(block: str) -> ast.Module | None:
    """Return the syntax tree of a block, None where it has none or is nested beyond reason."""
    try:
        tree = syntax_tree(block)
    except SyntaxError:
        return None
    level: list[ast.AST] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    return None


# ---- what a piece of code reads, sets and changes --------------------------------------------------


def _union(parts: Iterable[Names]) -> Names:
    return _NONE.union(*parts)


@lru_cache(maxsize=16384)
def reads(node: ast.AST) -> Names:
    """Return the names whose value ``node`` takes from outside itself."""
    if isinstance(node, ast.Name):
        return frozenset([node.id]) if isinstance(node.ctx, ast.Load) else _NONE
    if isinstance(node, _SCOPES):
        bound = _union(stores(g.target) for g in node.generators)
        return _union(map(reads, ast.iter_child_nodes(node))) - bound | reads(node.generators[0].iter)
    if isinstance(node, _FUNCTIONS):
        arguments = node.args
        names = {a.arg for a in ast.walk(arguments) if isinstance(a, ast.arg)}
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        own = _union(map(stores, body)) - _declared_global(body)
        outside = [*arguments.defaults, *filter(None, arguments.kw_defaults), *getattr(node, "decorator_list", ())]
        return (_union(map(reads, body)) - names - own) | _union(map(reads, outside))
    found = _union(map(reads, ast.iter_child_nodes(node)))
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        found |= {node.target.id}
    return found


@lru_cache(maxsize=16384)
def stores(node: ast.AST) -> Names:
    """Return the names that ``node`` binds in the scope it stands in."""
    if isinstance(node, ast.Name):
        return frozenset([node.id]) if isinstance(node.ctx, ast.Store) else _NONE
    if isinstance(node, _SCOPES):  # a comprehension keeps its targets to itself, but not a `:=`
        return frozenset(w.target.id for w in ast.walk(node) if isinstance(w, ast.NamedExpr))
    if isinstance(node, ast.Lambda):
        return _NONE
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return frozenset([node.name])
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return frozenset((a.asname or a.name).split(".")[0] for a in node.names)
    found = _union(map(stores, ast.iter_child_nodes(node)))
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
        found |= {node.name}
    return found


def _declared_global(body: Sequence[ast.AST]) -> Names:
    found = (n for part in body for n in ast.walk(part))
    return frozenset(name for n in found if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names)


def _roots(node: ast.AST) -> Names:
    """Return the names whose object ``node`` may be, or may be a part of."""
    if isinstance(node, ast.Name):
        return frozenset([node.id])
    if isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.NamedExpr)):
        return _roots(node.value)
    if isinstance(node, ast.IfExp):
        return _roots(node.body) | _roots(node.orelse)
    if isinstance(node, ast.BoolOp):
        return _union(map(_roots, node.values))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return _union(map(_roots, node.elts))
    if isinstance(node, ast.Dict):
        return _union(map(_roots, node.values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr not in METHODS:
        return _roots(node.func.value)
    return _NONE


def _here(node: ast.AST) -> Iterator[ast.AST]:
    """Yield ``node`` and what is evaluated with it: not the bodies of functions that it defines."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _FUNCTIONS):
            yield from _here(child)


@lru_cache(maxsize=16384)
def _changed(node: ast.AST) -> Names:
    """Return the names whose objects ``node`` changes in place."""
    found = _NONE
    for part in _here(node):
        if isinstance(part, (ast.Attribute, ast.Subscript)) and isinstance(part.ctx, (ast.Store, ast.Del)):
            found |= _roots(part.value)
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in _MUTATORS:
            found |= _roots(part.func.value)
        elif isinstance(part, ast.AugAssign) and isinstance(part.value, (ast.List, ast.ListComp, ast.Set, ast.Dict)):
            found |= _roots(part.target)
    return found


@lru_cache(maxsize=4096)
def _defined(tree: ast.Module) -> list[tuple[str, ast.FunctionDef | ast.Lambda]]:
    """Return the functions that a block defines, under each of their names."""
    found: list[tuple[str, ast.FunctionDef | ast.Lambda]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            found += [(name, node.value) for name in sorted(_union(map(stores, node.targets)))]
    return found


@lru_cache(maxsize=4096)
def _sharing(tree: ast.Module) -> list[Names]:
    """Return the sets of names that assignments and loops of a block may have made names of one object."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            found.append(_union(map(stores, node.targets)) | _roots(node.value))
        elif isinstance(node, (ast.For, ast.comprehension)):
            found.append(stores(node.target) | _roots(node.iter))
    return [names for names in found if len(names) > 1]


@dataclass
class _Function:
    """What calling a function of the program reads and changes besides its arguments."""

    reads: Names
    changes: Names
    changes_arguments: bool


@dataclass
class _Program:
    """The blocks with what holds for the whole program: its functions, and which names may share an object."""

    trees: list[ast.Module | None]
    functions: dict[str, _Function] = field(default_factory=dict)
    groups: dict[str, Names] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, node in (found for tree in self.trees if tree for found in _defined(tree)):
            self._add_function(name, node, [node.body] if isinstance(node, ast.Lambda) else node.body)
        for tree in filter(None, self.trees):
            for names in _sharing(tree):
                self._join(names)

    def _add_function(self, name: str, node: ast.FunctionDef | ast.Lambda, body: Sequence[ast.AST]) -> None:
        arguments = frozenset(a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg))
        changed = _union(map(_changed, body))
        written = _union(map(stores, body)) & _declared_global(body)
        before = self.functions.get(name, _Function(_NONE, _NONE, False))
        self.functions[name] = _Function(
            before.reads | reads(node),
            before.changes | written | (changed - arguments),
            before.changes_arguments or bool(changed & arguments),
        )

    def _join(self, names: Names) -> None:
        group = _union([names, *(self.groups.get(n, _NONE) for n in names)])
        for name in group:
            self.groups[name] = group

    def _calls(self, node: ast.AST) -> list[tuple[_Function, ast.Call | None]]:
        """Return the functions of the program that ``node`` names, calls, or hands on to be called."""
        found: list[tuple[_Function, ast.Call | None]] = []
        called = {id(n.func): n for n in _here(node) if isinstance(n, ast.Call)}
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in self.functions:
                found.append((self.functions[part.id], called.get(id(part))))
        return found

    def reads(self, node: ast.AST) -> Names:
        """Return what ``node`` reads, also through the functions that it calls."""
        found, todo = reads(node), list(reads(node) & self.functions.keys())
        while todo:
            more = self.functions[todo.pop()].reads - found
            found |= more
            todo += more & self.functions.keys()
        return found

    def changes(self, node: ast.AST) -> Names:
        """Return every name whose value may differ after ``node`` without being set by it."""
        found = _changed(node)
        for function, call in self._calls(node) if self.functions else ():
            found |= function.changes
            if call is not None and function.changes_arguments:
                found |= _union(map(_roots, [*call.args, *(k.value for k in call.keywords)]))
        return found | _union(self.groups.get(n, _NONE) for n in found)


# ---- the backward slice ----------------------------------------------------------------------------


def reaching(
    blocks: Sequence[str], target: str = "answer", again: Mapping[int, Names] = MappingProxyType({})
) -> list[bool]:
    r"""Return for each block whether what it computes reaches the final value of ``target``.

    Args:
        blocks: source of each block; one that does not parse reaches nothing.
        target: the name that is asked about.
        again: blocks that compute what was there before, with the names that held it: such a block takes
            nothing away from those that had it first, which stay in the slice if the repetition is in it.

    Example:
        >>> reaching(["a = 1", "b = 2", "if a > 0:\n    answer = 'yes'"])
        [True, False, True]
    """
    slicer = _Slicer(_Program([parse(b) for b in blocks]))
    live, found = frozenset([target]), []
    for index in reversed(range(len(blocks))):
        tree, after = slicer.program.trees[index], live
        live, hit = slicer.body(tree.body, live, False) if tree else (live, False)
        if hit and index in again:
            live |= after | again[index]
        found.append(hit)
    return found[::-1]


class _Slicer:
    def __init__(self, program: _Program) -> None:
        self.program = program

    def body(self, statements: Sequence[ast.stmt], live: Names, jumps: bool) -> tuple[Names, bool]:
        """Return the names live before some statements, and whether any of them counts.

        ``jumps`` says whether leaving a loop early matters: it does in a loop that counts.
        """
        hit = False
        for statement in reversed(statements):
            live, counts = self.statement(statement, live, jumps)
            hit |= counts
        return live, hit

    def statement(self, node: ast.stmt, live: Names, jumps: bool) -> tuple[Names, bool]:
        if isinstance(node, ast.If):
            return self._branch(node, live, jumps)
        if isinstance(node, (ast.For, ast.While)):
            return self._loop(node, live, jumps)
        if isinstance(node, (ast.Break, ast.Continue, ast.Return)):
            return live, jumps
        whole = isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.FunctionDef, ast.Import))
        return self._simple(node, live, kills=whole)

    def _simple(self, node: ast.AST, live: Names, kills: bool = True) -> tuple[Names, bool]:
        bound = stores(node)
        if not (bound | self.program.changes(node)) & live:
            return live, False
        return (live - bound if kills else live) | self.program.reads(node), True

    def _branch(self, node: ast.If, live: Names, jumps: bool) -> tuple[Names, bool]:
        (first, a), (second, b) = self.body(node.body, live, jumps), self.body(node.orelse, live, jumps)
        if a or b:
            live = first | second
        before, c = self._simple(node.test, live, kills=False)
        return (before | self.program.reads(node.test) if a or b else before), a or b or c

    def _loop(self, node: ast.For | ast.While, live: Names, jumps: bool) -> tuple[Names, bool]:
        live, late = self.body(node.orelse, live, jumps)
        head = node.iter if isinstance(node, ast.For) else node.test
        targets = stores(node.target) if isinstance(node, ast.For) else _NONE
        entry, hit = live, late or bool(targets & live)
        while True:  # a round of the loop feeds the next one: to the fixed point
            inside, counts = self.body(node.body, entry, hit)
            before, headed = self._simple(head, inside, kills=False)
            now = hit or counts or headed
            wider = entry | (before - targets) | (self.program.reads(head) if now else _NONE)
            if (wider, now) == (entry, hit):
                return entry, hit
            entry, hit = wider, now


# ---- values that are computed twice ----------------------------------------------------------------


def repetitions(blocks: Sequence[str], target: str = "answer") -> dict[int, Names]:
    """Return the blocks all of whose values an earlier block holds already, and the names that hold them.

    Copies and constants are no computation, and the block that sets ``target`` never repeats.

    Example:
        >>> repetitions(["a = [t.color() for t in image.find('object')]",
        ...              "b = [p.color() for p in image.find('object')]", "answer = b[0]"])
        {1: frozenset({'a'})}
    """
    numbering = _Numbering(_Program([parse(b) for b in blocks]))
    known: set[str] = set()
    found: dict[int, Names] = {}
    for index, tree in enumerate(numbering.program.trees):
        before = dict(numbering.names)
        values = numbering.block(tree) if tree else []
        bound = _union(map(stores, tree.body)) if tree else _NONE
        if tree and values and known.issuperset(values) and target not in bound:
            same = {numbering.names[name] for name in bound - _counters(tree) if name in numbering.names}
            if same.issubset(before.values()):
                found[index] = frozenset(name for name, value in before.items() if value in same)
        known.update(values)
    return found


class _Numbering:
    """Gives values numbers; ``names`` says which value each variable has now."""

    def __init__(self, program: _Program) -> None:
        self.program = program
        self.slicer = _Slicer(program)
        self.names: dict[str, str] = {}
        self.numbers: dict[str, str] = {}

    def number(self, key: str) -> str:
        return self.numbers.setdefault(key, f"#{len(self.numbers)}")

    def block(self, tree: ast.Module) -> list[str]:
        """Take the statements of a block in; return the numbers of what it computes."""
        found: list[str] = []
        for statement in tree.body:
            found += self._statement(statement)
        last = tree.body[-1] if tree.body else None
        if not found and isinstance(last, ast.Expr) and not _plain(last.value):
            found.append(self.number(_key(last.value, self.names)))
        return found

    def _statement(self, node: ast.stmt) -> list[str]:
        simple = isinstance(node, ast.Assign) and not self.program.changes(node)
        if simple and isinstance(node, ast.Assign):
            value = self._value(node.value)
            for target in node.targets:
                self._bind(target, value)
            return [] if _plain(node.value) else [value]
        bound = _in_order(node, stores(node) | self.program.changes(node))
        if not bound:
            return []
        # What the names held before counts where it may still be there afterwards, or goes into it.
        results = frozenset(bound) - _counters(node)
        live = _union(self.slicer.statement(node, frozenset([n]), False)[0] for n in results)
        started = ",".join(self.names.get(n, "-") if n in live else "" for n in bound)
        places = {n: f"@{i}" for i, n in enumerate(bound)}
        value = self.number(f"{started}|{_key(node, self.names | places)}")
        self.names |= {n: self.number(f"{value}{place}") for n, place in places.items()}
        return [value]

    def _value(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        return self.number(_key(node, self.names))

    def _bind(self, target: ast.expr, value: str) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            for i, part in enumerate(target.elts):
                self._bind(part, self.number(f"{value}[{i}]"))
        elif isinstance(target, ast.Starred):
            self._bind(target.value, self.number(f"{value}*"))


def _key(node: ast.AST, names: Mapping[str, str]) -> str:
    """Return what ``node`` does, with values in the place of the names that it takes from outside."""
    return "".join(part if isinstance(part, str) else names.get(part[0], part[0]) for part in _form(node))


@lru_cache(maxsize=16384)
def _form(node: ast.AST) -> tuple[str | tuple[str], ...]:
    """Return the structure of ``node`` as text, with a one-name tuple for each name from outside."""
    parts: list[str | tuple[str]] = []
    for part in _pieces(node, {}, 0):
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    return tuple(parts)


def _pieces(node: object, own: dict[str, str], depth: int) -> Iterator[str | tuple[str]]:
    """Yield the structure of ``node``; names that it binds itself are told by their place."""
    if isinstance(node, ast.Name):
        yield own.get(node.id) or (node.id,)
    elif isinstance(node, list):
        for part in node:
            yield from _pieces(part, own, depth)
            yield ","
    elif not isinstance(node, ast.AST):
        yield repr(node)
    else:
        bound: Iterable[str] = ()
        if isinstance(node, _SCOPES):
            bound = _in_order(node, _union(stores(g.target) for g in node.generators))
        elif isinstance(node, _FUNCTIONS):
            bound = [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)]
        own = {**own, **{n: f"${depth}.{i}" for i, n in enumerate(bound)}} if bound else own
        yield f"{type(node).__name__}("
        for name in node._fields:
            if name not in ("ctx", "type_comment", "kind", "name"):
                yield from _pieces(getattr(node, name, None), own, depth + bool(bound))
                yield ";"
        yield ")"


@lru_cache(maxsize=4096)
def _counters(node: ast.AST) -> Names:
    """Return the names that loops run through: they are no results."""
    return _union(stores(n.target) for n in ast.walk(node) if isinstance(n, ast.For))


@lru_cache(maxsize=4096)
def _in_order(node: ast.AST, names: Names) -> tuple[str, ...]:
    """Return ``names`` in the order in which they come up in ``node``, so that renaming changes nothing."""
    met = (n.id if isinstance(n, ast.Name) else getattr(n, "name", None) for n in ast.walk(node))
    found = dict.fromkeys(n for n in met if isinstance(n, str) and n in names)
    return (*found, *sorted(names - found.keys()))


def _plain(node: ast.expr) -> bool:
    """Whether an expression only names what is there: names, constants, and tuples of them."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(map(_plain, node.elts))
    return isinstance(node, (ast.Name, ast.Constant))
