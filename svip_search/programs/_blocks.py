"""Blocks of a program, out of whatever a language model wrote around and into them.

::

    text without thoughts -> fenced parts, else the lines that look like code
    each part: until it parses, mend the place where the parser stopped, at most a dozen times
    cut the statements where blank or comment lines stand between them
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ._mend import CODE_LINE, mend, open_brackets
from ._syntax import syntax_tree
from .generate import ANSWER, assigned

#: Characters of a completion that are looked at, and of a block.
LIMIT = 1 << 15
LONGEST = 1 << 13
#: Parts of a completion that are looked at.
PARTS = 16
#: Why a completion gives no block.
REASONS = ("missing", "empty", "binary", "prose", "syntax", "long", "repeat")

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning|reflection)>", re.IGNORECASE)
_FENCE = re.compile(r"\s*(?:```+|~~~+)\s*([\w+-]*)")
_FENCES = re.compile(r"^[ \t]*(?:```+|~~~+)(.*)$", re.MULTILINE)
_PYTHON = {"", "python", "python3", "py", "pycon", "python-repl"}
_HEADER = re.compile(r"\s*(?:for|if|elif|while|else|def|with|try)\b")
_SPACES = str.maketrans({"\u00a0": " ", "\u2007": " ", "\u202f": " ", "\u3000": " ", "\u200b": "", "\ufeff": ""})
#: Names of what a program prints when it should have set the answer.
_RESULTS = {"result", "final_answer", "missing", "solution"}
_WORK = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr, ast.Call, ast.For, ast.While, ast.FunctionDef)


@dataclass(frozen=True, slots=True)
class Found:
    """The blocks of a completion; whether it had to be mended; where there are none, one of `REASONS`."""

    blocks: tuple[str, ...] = ()
    repaired: bool = False
    reason: str = ""


def find_blocks(text: str) -> Found:
    r"""Return the blocks that a completion contains, in its order, the one that sets ``answer`` last.

    Args:
        text: anything; only its first `LIMIT` characters are looked at.

    Notes:
        Cost: at most a dozen parses of each character; under a second and a few MB for any text.

    Example:
        >>> find_blocks("Sure!\n```python\n# Count.\nn = len(image.find('circle')\n\nprint(str(n))\n```").blocks
        ("# Count.\nn = len(image.find('circle'))", 'answer = str(n)')
        >>> find_blocks("I cannot see any picture.").reason
        'prose'
    """
    if not text.strip():
        return Found(reason="empty")
    if _is_binary(text[:LIMIT]):
        return Found(reason="binary")
    spoken = _without_thoughts(text[:LIMIT].translate(_SPACES).replace("\r\n", "\n").replace("\r", "\n"))
    parts = [_read(part) for part in islice(_fenced(spoken), PARTS)]
    half = [name.strip() for name in _FENCES.findall(spoken)] == [""]  # the end of a fence without its beginning
    if half or all(part.reason in ("empty", "prose") for part in parts):
        parts.append(_read(_code_lines(spoken)))
    blocks = _until_answer([block for part in parts for block in part.blocks])
    if blocks:
        return Found(blocks, any(part.repaired for part in parts if part.blocks))
    return Found(reason=next((p.reason for p in parts if p.reason not in ("empty", "prose")), "prose"))


def _is_binary(text: str) -> bool:
    """Return whether more than a few characters are none that text is made of."""
    odd = sum(not (c.isprintable() or c in "\n\t\r\f\v\u200b\ufeff\u00a0\u3000\u2007\u202f") for c in text)
    return "\0" in text or odd * 20 > len(text)


def _without_thoughts(text: str) -> str:
    """Return the text outside of thinking tags; one may lack its beginning or its end."""
    kept: list[str] = []
    start = depth = 0
    for tag in _THOUGHT.finditer(text):
        if tag[1]:
            kept, depth = (kept, depth - 1) if depth else ([], 0)
        else:
            if depth == 0:
                kept.append(text[start : tag.start()])
            depth += 1
        start = tag.end()
    return "".join(kept) + (text[start:] if depth == 0 else "")


def _fenced(text: str) -> Iterator[str]:
    """Yield the fenced parts that are Python or do not say what they are; the last may lack its end."""
    lines: list[str] | None = None
    wanted = False
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if fence is None:
            if lines is not None:
                lines.append(line)
        elif lines is None or (fence[1] and not lines):
            lines, wanted = [], fence[1].lower() in _PYTHON
        else:
            if wanted:
                yield "\n".join(lines)
            lines = None
    if lines and wanted:
        yield "\n".join(lines)


def _code_lines(text: str) -> str:
    """Return the text with an empty line in place of each that does not look like code."""
    kept: list[str] = []
    pending: list[str] = []
    lines = [raw.strip("`") if raw.startswith("`") else raw for raw in text.split("\n")]
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        goes_on = kept and kept[-1] and (pending or (line[:1].isspace() and line.strip()))
        header = _HEADER.match(line) and below[:1].isspace() and below.strip()  # its colon may be missing
        keep = bool(goes_on or header or CODE_LINE.match(line))
        pending = open_brackets(line, pending if goes_on else ()) if keep else []
        kept.append(line if keep else "")
    return "\n".join(kept)


def _read(part: str) -> Found:
    """Return the blocks of one stretch of code."""
    source = textwrap.dedent(_without_prompts(part.expandtabs(4))).strip("\n").rstrip()
    if not source:
        return Found(reason="empty")
    if len(source) > LONGEST:
        return Found(reason="long")
    tree, mended = mend(source)
    if tree is None:
        return Found(reason="syntax")
    if not any(isinstance(node, _WORK) for node in ast.walk(tree)):
        return Found(reason="prose" if mended == source else "syntax")
    final = _with_answer(tree, mended)
    if final != mended and _parses(final):
        tree = syntax_tree(final)
    else:
        final = mended
    blocks = tuple(_cut(tree, final))
    if not all(map(_parses, blocks)):  # such as where a backslash joins a line to an empty one
        blocks = (final,)
    return Found(blocks, repaired=final != source)


def _parses(source: str) -> bool:
    try:
        return bool(syntax_tree(source).body)
    except SyntaxError:
        return False


def _without_prompts(part: str) -> str:
    """Return the input of an interactive session, or the text itself if it is none."""
    lines = part.split("\n")
    if not any(line.lstrip().startswith(">>>") for line in lines):
        return part
    prompts = (re.match(r"\s*(?:>>>|\.\.\.)(?: |$)(.*)", line) for line in lines)
    return "\n".join(found[1] for found in prompts if found)


def _with_answer(tree: ast.Module, source: str) -> str:
    """Return the source with ``answer = str(...)`` where it prints or returns its result at the end."""
    last = tree.body[-1]
    value: ast.expr | None = None
    if isinstance(last, ast.Return):
        value = last.value
    elif isinstance(last, ast.Expr) and isinstance(last.value, ast.Call):
        call = last.value
        if isinstance(call.func, ast.Name) and call.func.id == "print" and len(call.args) == 1 and not call.keywords:
            value = call.args[0]
    if value is None or isinstance(value, ast.Starred):
        return source
    head = _before(source, last)
    if ANSWER in (assigned(source) or ()):  # it is printed after it was set
        return head.rstrip().rstrip(";") or source
    if isinstance(last, ast.Expr) and not _is_result(value, len(tree.body)):
        return source
    text = ast.get_source_segment(source, value) or ""
    is_text = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "str"
    return f"{head}{ANSWER} = {text if is_text else f'str({text})'}"


def _is_result(value: ast.expr, statements: int) -> bool:
    """Return whether what is printed is the answer rather than a look at what was found."""
    if isinstance(value, ast.Name):
        return value.id in _RESULTS
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "str":
        return True
    return statements == 1 and not any(isinstance(n, ast.Attribute) for n in ast.walk(value))


def _before(source: str, statement: ast.stmt) -> str:
    """Return the source before a statement; the columns of a syntax tree count bytes."""
    lines = source.split("\n")
    k = statement.lineno - 1
    return "\n".join([*lines[:k], lines[k].encode()[: statement.col_offset].decode()])


def _cut(tree: ast.Module, source: str) -> Iterator[str]:
    """Yield the blocks: statements with nothing but line ends between them; imports go with what follows."""
    lines, start, end = source.split("\n"), 0, 0
    pure = True  # nothing but imports so far
    for statement in tree.body:
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
        if first > end and not pure:
            yield "\n".join(lines[start:end]).strip("\n")
            start, pure = end, True
        pure = pure and isinstance(statement, (ast.Import, ast.ImportFrom))
        end = statement.end_lineno or first + 1
    if not pure:
        yield "\n".join(lines[start:]).strip("\n")


def _until_answer(blocks: Sequence[str]) -> tuple[str, ...]:
    """Return the blocks up to the first that sets ``answer``."""
    for i, block in enumerate(blocks):
        if ANSWER in (assigned(block) or ()):
            return tuple(blocks[: i + 1])
    return tuple(blocks)


def essence(block: str) -> str:
    r"""Return a block without spaces and comment lines: equal for blocks that do the same in the same words.

    Example:
        >>> essence("# One.\na = 1") == essence("a=1")
        True
    """
    lines = (line for line in block.split("\n") if not line.lstrip().startswith("#"))
    return "".join("".join(lines).split())
