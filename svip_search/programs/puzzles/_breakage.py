"""Blocks that do not run: what is left of a good one after the slips that every programmer knows."""

from __future__ import annotations

import ast
import builtins


def breakages(block: str) -> list[str]:
    r"""Return a block with a misspelt name, with a type error, and with a bracket missing.

    Args:
        block: code that runs; its last line is an expression that nothing can be added to.

    Example:
        >>> for broken in breakages("total = sum(row)\n[total]"):
        ...     print(broken.replace("\n", " ; "))
        total = sum(rw) ; [total]
        total = sum(row) ; [total] + 1
        total = sum(row ; [total]
    """
    return [b for b in (_misspell(block), f"{block} + 1", _unclose(block)) if b]


def _misspell(block: str) -> str:
    """Return the block with the first name that it surely takes from outside misspelt, "" if there is none."""
    nodes = list(ast.walk(ast.parse(block)))
    names = [n for n in nodes if isinstance(n, ast.Name)]
    branches = [b for n in nodes if isinstance(n, (ast.If, ast.IfExp)) for b in (n.body, n.orelse)]
    unsure = {id(n) for b in branches for part in (b if isinstance(b, list) else [b]) for n in ast.walk(part)}
    own = {n.id for n in names if isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    own |= {n.name for n in nodes if isinstance(n, ast.alias)}
    outside = [n for n in names if n.id not in own and not hasattr(builtins, n.id) and id(n) not in unsure]
    free = [(n.lineno, n.col_offset, n.id) for n in outside]
    if not free:
        return ""
    line, column, name = min(free)
    wrong = name[:-2] + name[-1] if len(name) > 2 else f"{name}_"
    lines = block.split("\n")
    text = lines[line - 1]
    lines[line - 1] = text[:column] + wrong + text[column + len(name) :]
    return "\n".join(lines)


def _unclose(block: str) -> str:
    """Return the block without the last closing bracket before its last line, "" if there is none."""
    body, _, last = block.rpartition("\n")
    at = max(body.rfind(")"), body.rfind("]"))
    return f"{body[:at]}{body[at + 1 :]}\n{last}" if at >= 0 else ""
