"""Programs that tests trust, run in this process block by block: they can be forked, as a sandbox cannot."""

from __future__ import annotations

import ast
from functools import lru_cache

from svip_search.programs import BlockRun, Region
from svip_search.programs._prelude import ASK, prelude

_PRELUDE = compile(prelude(), "prelude", "exec")


@lru_cache(maxsize=10_000)
def _compiled(block):
    """Return the code of a block, and that of its last expression."""
    body = ast.parse(block).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    value = compile(ast.Expression(last.value), "value", "eval") if last else None
    return compile(ast.Module(body, []), "block", "exec"), value


class Session:
    """The state of a program between its blocks."""

    def __init__(self, scene):
        self.state = {ASK: lambda method, *where: _answer(scene, method, where)}
        exec(_PRELUDE, self.state)

    def fork(self):
        """Return a session that goes on from here without changing this one."""
        other = object.__new__(Session)
        other.state = dict(self.state)
        return other

    def run(self, block):
        """Return the run of a block, its value and errors alone."""
        try:
            code, value = _compiled(block)
        except SyntaxError as error:
            return BlockRun(error="syntax", message=str(error))
        try:
            exec(code, self.state)
            return BlockRun(eval(value, self.state) if value else None)
        except Exception as error:
            return BlockRun(error="runtime", message=str(error))


def _answer(scene, method, where):
    value = scene.call(method, Region(*where[:4]), where[4:])
    return [[r.left, r.top, r.right, r.bottom] for r in value] if method == "find" else value
