"""Solved questions and reports on a terminal, and as JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._tree import Status, Tree
from .._types import DIMENSIONS, NO_LIMITS, Result
from .._vote import normalise

if TYPE_CHECKING:
    from ..evaluation import Report

#: The colours of the dimensions, those of the pictures and of the tree page.
COLORS = ("#6fa8dc", "#f6b26b", "#8e7cc3")
CHOSEN = "#6aa84f"
#: Larger trees are shown as the chosen path and what branches off it.
MANY_NODES = 60
_LEVELS = "▁▂▃▄▅▆▇█"


def console(stderr: bool = False) -> Console:
    """Return a console for standard output or error; plain where that is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 120
    return Console(stderr=stderr, highlight=False, soft_wrap=False, width=width)


def plain(text: str) -> str:
    """Return foreign text without line ends, escape sequences and invisible controls."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def show_result(result: Result, out: Console) -> None:
    """Print the question, the tree, the votes, the usage and, last, the answer."""
    out.print(Text(plain(result.question.text), style="bold"))
    if result.question.options:
        out.print(Text("options  " + "  ·  ".join(map(plain, result.question.options)), style="dim"))
    out.print()
    if len(result.tree) > 1:
        out.print(_legend())
        for line in _tree_lines(result, out):
            out.print(line, no_wrap=True, overflow="crop")
        out.print()
    if len(result.votes) > 1:
        out.print(_votes(result))
        out.print()
    out.print(_usage(result))
    for complaint in result.degraded[:10]:
        out.print(Text(f"degraded: {plain(complaint)}", style="yellow"))
    if len(result.degraded) > 10:
        out.print(Text(f"degraded: {len(result.degraded) - 10} more", style="yellow"))
    out.print()
    out.print(answer_line(result))


def answer_line(result: Result) -> Text:
    """Return the last line: the answer, and whether it is right where that is known."""
    if result.answer is None:
        return Text(f"No answer found ({_stopped(result.stopped_by)}).", style="bold red")
    line = Text.assemble(("Answer: ", "bold"), (plain(result.answer), f"bold {CHOSEN}"))
    if result.stopped_by != "finished":
        line.append(f"  (best so far, {_stopped(result.stopped_by)})", "dim")
    truth = result.question.answer
    if truth is not None and normalise(truth) != normalise(result.answer):
        line.append(f"  (the true answer is {plain(truth)})", "red")
    elif truth is not None:
        line.append("  ✓", CHOSEN)
    return line


def report_table(report: Report) -> Table:
    """Return the table of a report, one row a strategy."""
    data = report.to_dict()
    title = f"{data['n_questions']} questions, n = {data['n']}"
    table = Table(title=title, title_style="bold", box=box.SIMPLE_HEAD, header_style="dim")
    table.add_column("strategy", no_wrap=True)
    for name in report.heads[1:]:
        table.add_column(name, justify="right")
    best = max((s["accuracy"] for s in data["strategies"].values()), default=0)
    for name, row in data["strategies"].items():
        style = f"bold {CHOSEN}" if row["accuracy"] == best else ""
        table.add_row(*report.cells(name), style=style)
    return table


def _stopped(reason: str) -> str:
    if reason in NO_LIMITS:
        return reason
    return f"the {reason.replace('_', ' ')} budget is used up"


def _legend() -> Text:
    parts: list[Any] = []
    for name, color in zip(DIMENSIONS, COLORS, strict=True):
        parts += [("█ ", color), (name + "   ", "dim")]
    return Text.assemble(*parts, ("● ", CHOSEN), ("chosen path", "dim"))


def _tree_lines(result: Result, out: Console) -> Iterator[Text]:
    tree = result.tree
    chosen = set(tree.path(result.trajectory.node)) if result.trajectory is not None else set()
    ends = {t.node: t.answer for t in result.trajectories}
    deepest = max(20, out.width // 3)
    for node, lead, hidden in _walk(tree, chosen, collapse=len(tree) > MANY_NODES):
        lead = lead if len(lead) <= deepest else "…" + lead[-deepest:]
        line = Text(lead, style="dim")
        line.append("● " if node in chosen else "○ ", CHOSEN if node in chosen else "dim")
        end = Text()
        if node in ends:
            answer = plain(ends[node] or "no answer")
            end.append(f"  → {answer}"[:24], f"bold {CHOSEN}" if node in chosen else "bold")
        if hidden:
            end.append(f"  (+{hidden})", "dim")
        if tree.arena.status[node] == Status.FAILED:
            end.append("  failed", "red")
        bars = _bars(tree, node, out.color_system is not None)
        room = max(10, out.width - line.cell_len - bars.cell_len - end.cell_len - 2)
        words = Text(plain(tree.text[node])[:1000] or "(empty)", style="" if node in chosen else "dim")
        words.truncate(min(room, max(30, out.width - 50)), overflow="ellipsis")
        line.append_text(words)
        column = max(line.cell_len + 2, min(out.width - 40, 72))
        line.append(" " * (column - line.cell_len))
        yield line.append_text(bars).append_text(end)


def _walk(tree: Tree, chosen: set[int], collapse: bool) -> Iterator[tuple[int, str, int]]:
    """Yield (node, lead of its line, hidden nodes below), depth first, without recursion.

    A node without siblings stands under its parent without a further indent: a chain of thought
    reads as a paragraph, and only a branching moves to the right.
    """
    below = _descendants(tree)
    stack: list[tuple[int, str, str]] = [(0, "", "")]
    while stack:
        node, lead, indent = stack.pop()
        children = tree.children(node)
        hide = collapse and node != 0 and node not in chosen
        if node != 0:
            yield node, lead, below[node] if hide else 0
        if hide:
            continue
        if len(children) == 1:
            stack.append((children[0], indent, indent))
            continue
        for child in reversed(children):
            last = child == children[-1]
            stack.append((child, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")))


def _descendants(tree: Tree) -> list[int]:
    count = [0] * len(tree)
    parents = tree.arena.parent.tolist()
    for node in range(len(tree) - 1, 0, -1):  # a child always has a larger index than its parent
        count[parents[node]] += count[node] + 1
    return count


def _bars(tree: Tree, node: int, colored: bool) -> Text:
    reward = tree.arena.reward[node].tolist()
    if any(math.isnan(value) for value in reward):
        return Text(" " * (9 if colored else 14))
    if not colored:
        return Text("/".join(f"{value:.2f}" for value in reward))
    bars = Text()
    for value, color in zip(reward, COLORS, strict=True):
        bars.append(_LEVELS[min(7, int(value * 8))], color)
    return bars.append(f"  {sum(reward) / 3:.2f}", "dim")


def _votes(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("answer")
    table.add_column("votes", justify="right")
    table.add_column("weight", justify="right")
    for vote in result.votes[:10]:
        style = f"bold {CHOSEN}" if vote.answer == result.answer else ""
        table.add_row(Text(plain(vote.answer)[:60]), str(vote.votes), f"{vote.weight:.2f}", style=style)
    return table


def _usage(result: Result) -> Table:
    usage = result.usage
    table = Table(box=None, pad_edge=False, header_style="dim")
    facts: Iterable[tuple[str, str]] = (
        ("strategy", result.strategy),
        ("policy tokens", f"{usage.policy_tokens:,}"),
        ("policy calls", f"{usage.policy_calls:,}"),
        ("reward tokens", f"{usage.reward_tokens:,}"),
        ("reward calls", f"{usage.reward_calls:,}"),
        ("nodes", f"{usage.nodes:,}"),
        ("seconds", f"{usage.seconds:.2f}"),
        ("seed", str(result.seed)),
    )
    for name, _ in facts:
        table.add_column(name, justify="right")
    table.add_row(*(value for _, value in facts))
    return table
