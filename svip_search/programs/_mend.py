"""Code that almost parses, mended where the parser stops.

::

    until it parses, at most MENDS times:
        look at the parser's message and place: add a colon, a quote, a bracket, an indent; take one away;
        or else cut the text off there
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence

from ._syntax import syntax_tree

#: Places that are mended before a text is given up.
MENDS = 12
_LOOKALIKES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "′": "'", "×": "*", "÷": "/",
                             "−": "-", "–": "-", "≠": "!=", "≤": "<=", "≥": ">=", "…": "...", "，": ",", "：": ":",
                             "（": "(", "）": ")"})  # fmt: skip
_CLOSER = {"(": ")", "[": "]", "{": "}"}
#: Lines that look like Python.
CODE_LINE = re.compile(
    r"\s*(?:#|@\w|>>>|\.\.\. |[)\]}]"
    r"|[A-Za-z_][\w.]*(?:\[[^\]=]*\])?(?:\s*,\s*[A-Za-z_]\w*)*\s*(?://|\*\*|[-+*/%])?=(?!=)"
    r"|[A-Za-z_][\w.]*\("
    r"|(?:for|if|elif|while|with|except)\b.*:\s*(?:#.*)?$|(?:else|try|finally)\s*:|def \w+\("
    r"|import \w|from \w+ import|return\b|(?:pass|break|continue)\s*$)"
)


def mend(source: str) -> tuple[ast.Module | None, str]:
    """Return the syntax tree of a text and the text, as far mended as that needs; None if it stays broken."""
    for _ in range(MENDS):
        try:
            return syntax_tree(source), source
        except SyntaxError as error:
            better = _mended(source, error)
        if not better.strip() or better == source:
            break
        source = better
    return None, source


def _mended(source: str, error: SyntaxError) -> str:
    """Return the source with the fault that the parser reports removed, or cut off where it stands."""
    plain = source.translate(_LOOKALIKES)
    if plain != source:
        return plain
    message, lines = error.msg or "", source.split("\n")
    if message.startswith("too "):  # complex, many nested parentheses
        return ""
    k = min(max((error.lineno or 1) - 1, 0), len(lines) - 1)
    at = min(max((error.offset or 1) - 1, 0), len(lines[k]))
    if not any(re.search(pattern, message) and fix(lines, k, at, message) for pattern, fix in _FIXES):
        lines = _without_tail(lines, k)
    return "\n".join(lines).rstrip()


def _without_tail(lines: list[str], k: int) -> list[str]:
    """Return the whole statements above line ``k``; what is below it, if it is the first and no code."""
    if k == 0:
        return [] if CODE_LINE.match(lines[0]) else lines[1:]
    whole, pending = 0, list[str]()
    for i, line in enumerate(lines[:k], start=1):
        pending = open_brackets(line, pending)
        whole = whole if pending else i
    return lines[:whole]


# A fix changes ``lines`` where the parser stopped (line k, column at), and says whether it could.


def _add_colon(lines: list[str], k: int, at: int, message: str) -> bool:
    lines[k] = lines[k][:at].rstrip() + ":" + lines[k][at:]
    return True


def _swap_inner_quotes(lines: list[str], k: int, at: int, message: str) -> bool:
    """Make the double quotes in the braces of an f"..." single: only the newest Pythons nest them."""
    before = lines[k]
    lines[k] = re.sub(r"\{[^{}]*\}", lambda braces: braces[0].replace('"', "'"), before)
    return lines[k] != before


def _close_string(lines: list[str], k: int, at: int, message: str) -> bool:
    """Close the string that opens here, before the brackets that end the line."""
    opened = re.match(r"[A-Za-z]*([\"'])", lines[k][at:])
    if opened is None:
        return False
    start = at + opened.end()
    body = lines[k][start:].rstrip(")]}:, ")
    lines[k] = lines[k][:start] + body + opened[1] + lines[k][start + len(body) :]
    return True


def _align(lines: list[str], k: int, at: int, message: str) -> bool:
    """Give this line and those below it that are indented alike the indent of the line above."""
    above = next((line for line in reversed(lines[:k]) if line.strip()), "")
    old, new = _indent(lines[k]), _indent(above)
    while k < len(lines) and lines[k].strip() and _indent(lines[k]).startswith(old):
        lines[k] = new + lines[k][len(old) :]
        k += 1
    return True


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _fill_block(lines: list[str], k: int, at: int, message: str) -> bool:
    """Indent the line under a header, or drop a header with nothing under it."""
    header = max((i for i in range(k) if lines[i].rstrip().endswith(":")), default=None)
    if header is None or not lines[k].strip():
        return False
    if header == k - 1:
        lines[k] = _indent(lines[header]) + "    " + lines[k].lstrip()
        return True
    return False


def _match_bracket(lines: list[str], k: int, at: int, message: str) -> bool:
    opener = re.search(r"opening parenthesis '(.)'", message)
    if opener is None:
        return False
    lines[k] = lines[k][:at] + _CLOSER[opener[1]] + lines[k][at + 1 :]
    return True


def _compare(lines: list[str], k: int, at: int, message: str) -> bool:
    lines[k] = lines[k][:at] + lines[k][at:].replace("=", "==", 1)
    return True


def _drop_bracket(lines: list[str], k: int, at: int, message: str) -> bool:
    lines[k] = lines[k][:at] + lines[k][at + 1 :]
    return True


def _close_brackets(lines: list[str], k: int, at: int, message: str) -> bool:
    """Close what this line leaves open: at its end, or at the end of the text where the line goes on."""
    goes_on = lines[k].rstrip().endswith((",", *_CLOSER)) and k < len(lines) - 1
    last = len(lines) - 1 if goes_on else k
    pending = open_brackets("\n".join(lines[k : last + 1]))
    text = lines[last].rstrip()
    colon = ":" if text.endswith(":") else ""
    lines[last] = text.removesuffix(":") + "".join(_CLOSER[b] for b in reversed(pending)) + colon
    return bool(pending)


#: The parser's messages and what helps, tried in this order.
_FIXES: tuple[tuple[str, Callable[[list[str], int, int, str], bool]], ...] = (
    ("^expected ':'", _add_colon),
    ("^f-string", _swap_inner_quotes),
    ("unterminated (f-)?string", _close_string),
    ("unexpected indent|unindent", _align),
    ("expected an indented block", _fill_block),
    ("does not match opening", _match_bracket),
    ("instead of '='", _compare),
    ("^unmatched", _drop_bracket),
    ("", _close_brackets),
)


def open_brackets(text: str, before: Sequence[str] = ()) -> list[str]:
    """Return the brackets that are open after a text, outside of strings and comments; ``before`` were before it."""
    stack = list(before)
    for token in re.finditer(r"\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|#[^\n]*|[()\[\]{}]", text):
        if token[0] in _CLOSER:
            stack.append(token[0])
        elif token[0] in ")]}" and stack and _CLOSER[stack[-1]] == token[0]:
            stack.pop()
    return stack
