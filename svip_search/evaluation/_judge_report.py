"""The report of a judged benchmark: plain values, Markdown, and rows for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from .._types import DIMENSIONS
from ._judge_figures import Figures
from ._judge_measures import RESAMPLES, estimate
from ._report import _circumstances, _row, _written


class JudgeReport:
    """The figures of a reward model on a benchmark.

    Args:
        data: what `to_dict` returns.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain JSON values.

        ``benchmark``, ``n_questions`` and the settings; ``tables``: by title, row and column, a number or
        ``{"value", "ci95"}``, both None where there is nothing to measure; ``skipped``: records that could
        not be used; ``complete``; for SVIP-Test ``reliability`` (the diagram in numbers) and
        ``own_head_best``; and where, when and with what it was run.
        """
        return self._data

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return the report as JSON, and write it to ``path`` if one is given."""
        return _written(json.dumps(self._data, indent=1, allow_nan=False) + "\n", path)

    def markdown(self, path: str | PathLike[str] | None = None) -> str:
        """Return the report as Markdown tables, measures in percent with their interval."""
        lines = []
        for title, heads, rows in self.tables():
            lines += [f"**{title}**", "", _row(heads), _row(["---"] + ["---:"] * (len(heads) - 1))]
            lines += [*(_row([cell.replace("|", "\\|") for cell in row]) for row in rows), ""]
        return _written("\n".join(lines), path)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Yield title, column names and rows of words of every table."""
        for title, rows in self._data["tables"].items():
            columns = list(dict.fromkeys(name for row in rows.values() for name in row if name != "head"))
            head = self._data["heads"][title]
            yield title, [head, *columns], [[name, *(cell(row.get(c)) for c in columns)] for name, row in rows.items()]


def cell(value: Any) -> str:
    """Return a figure as words: a measure in percent with its interval.

    Example:
        >>> cell({"value": 0.5, "ci95": [0.4, 0.625]}), cell(12345), cell(None)
        ('50.0 (40.0–62.5)', '12,345', '–')
    """
    if isinstance(value, Mapping):
        if value["value"] is None:
            return "–"
        low, high = value["ci95"]
        return f"{100 * value['value']:.1f} ({100 * low:.1f}–{100 * high:.1f})"
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else str(value)


def build_report(
    figures: Figures, settings: Mapping[str, Any], skipped: list[str], complete: bool, seed: int
) -> JudgeReport:
    """Return the report: every measure with its value and interval, all over the same resamples."""
    wanted = [
        (table.title, row, column, measure)
        for table in figures.tables
        for row, cells in table.rows.items()
        for column, measure in cells.items()
    ]
    measures = [measure for *_, measure in wanted if callable(measure)]
    found = iter(estimate(measures, figures.questions, seed % 2**32))
    tables: dict[str, Any] = {table.title: {row: {} for row in table.rows} for table in figures.tables}
    for title, row, column, measure in wanted:
        tables[title][row][column] = next(found) if callable(measure) else measure
    for table in figures.tables:  # in the order that the table gives
        tables[table.title] = {r: {c: v[c] for c in table.columns if c in v} for r, v in tables[table.title].items()}
    data: dict[str, Any] = {"n_questions": figures.questions, **settings, "complete": complete}
    data["skipped"] = {"count": len(skipped), "first": skipped[:20]}
    data |= {"tables": tables, "heads": {table.title: table.head for table in figures.tables}, **figures.extra}
    if "reliability" in data:
        data["own_head_best"] = _own_head_best(tables["AUROC of every head"])
    data["intervals"] = f"percentile bootstrap over questions, {RESAMPLES:,} resamples, 95 %"
    data["run"] = _circumstances()
    return JudgeReport(data)


def _own_head_best(rows: Mapping[str, Any]) -> dict[str, bool | None]:
    """Return, for the labels of each dimension, whether its own head is the best of the three."""
    found: dict[str, bool | None] = {}
    for name in DIMENSIONS:
        values = {head: rows[head][f"{name} labels"]["value"] for head in DIMENSIONS}
        known = [value for value in values.values() if value is not None]
        found[name] = None if values[name] is None else values[name] == max(known)
    return found
