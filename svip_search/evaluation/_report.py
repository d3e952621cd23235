"""From records to the figures of a report, and its tables."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._bootstrap import RESAMPLES, gap_closed, interval, resampled_means
from ._records import Record

Floats = NDArray[np.float64]


class Report:
    """The figures of an evaluation.

    Args:
        data: what `to_dict` returns.

    Example:
        >>> from svip_search.evaluation._records import Record
        >>> row = {"right": True, "pass": True, "policy_tokens": 9, "reward_tokens": 0, "seconds": 0.1}
        >>> records = [Record(f"a/{i}", "a", 4, None, {"greedy": row}) for i in range(3)]
        >>> print(build_report(records, {"n": 1, "seed": 0}).markdown().splitlines()[2])
        | greedy | 100.0 % | 100.0–100.0 | 100.0 % | – | – | 9 | 0.100 |
    """

    #: What the cells of a row are.
    heads = ("strategy", "accuracy", "95 % interval", "pass@n", "vs. majority", "gap closed",
             "tokens", "seconds")  # fmt: skip

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain JSON values.

        ``n_questions``; ``strategies``: by name ``accuracy``, ``ci95`` [low, high], ``pass_at_n``
        (share of questions of which one finished trajectory is right), ``tokens_per_question``
        (policy and reward), ``seconds_per_question``, ``by_family``, and further
        ``vs_self_consistency`` and ``gap_closed`` with their intervals; ``samples``: the shared
        samples; and where, when and with what it was run.
        """
        return self._data

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return the report as JSON, and write it to ``path`` if one is given."""
        return _written(json.dumps(self._data, indent=1, allow_nan=False) + "\n", path)

    def markdown(self, path: str | PathLike[str] | None = None) -> str:
        """Return the report as two Markdown tables: strategies, then families by strategies."""
        lines = [_row(self.heads), _row(["---"] + ["---:"] * (len(self.heads) - 1))]
        lines += [_row(self.cells(name)) for name in self._data["strategies"]]
        names = list(self._data["strategies"])
        lines += ["", _row(["family", "questions", *names]), _row(["---"] + ["---:"] * (len(names) + 1))]
        for family, count in self._data["families"].items():
            shares = [self._data["strategies"][name]["by_family"][family] for name in names]
            lines.append(_row([family, str(count), *(f"{100 * s:.1f} %" for s in shares)]))
        return _written("\n".join(lines) + "\n", path)

    def csv(self, path: str | PathLike[str] | None = None) -> str:
        """Return one line a strategy and family ("all" first) as CSV."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["strategy", "family", "questions", "accuracy", "ci95_low", "ci95_high", "pass_at_n",
                         "tokens_per_question", "seconds_per_question"])  # fmt: skip
        for name, row in self._data["strategies"].items():
            figures = [row["accuracy"], *row["ci95"], row["pass_at_n"], row["tokens_per_question"]]
            writer.writerow([name, "all", self._data["n_questions"], *figures, row["seconds_per_question"]])
            for family, count in self._data["families"].items():
                writer.writerow([name, family, count, row["by_family"][family], "", "", "", "", ""])
        return _written(stream.getvalue(), path)

    def cells(self, name: str) -> list[str]:
        """Return the row of a strategy as words, for a table."""
        row = self._data["strategies"][name]
        versus, gap = row["vs_self_consistency"], row["gap_closed"]
        return [
            name,
            f"{100 * row['accuracy']:.1f} %",
            _span(row["ci95"]),
            f"{100 * row['pass_at_n']:.1f} %",
            "–" if versus is None else f"{100 * versus['difference']:+.1f} ({_span(versus['ci95'], '+.1f')})",
            "–" if gap is None else f"{100 * gap['value']:.0f} % ({_span(gap['ci95'], '.0f')})",
            f"{row['tokens_per_question']:,.0f}",
            f"{row['seconds_per_question']:.3f}",
        ]


def build_report(records: Sequence[Record], settings: Mapping[str, Any], complete: bool = True) -> Report:
    """Return the report of some records, all with the same strategies.

    Intervals are percentile bootstraps over questions; differences are paired.
    """
    names = list(records[0].strategies)
    right = {name: _column(records, name, "right") for name in names}
    base = ceiling = None
    if all(r.samples is not None for r in records):
        base = np.array([r.samples["right"] for r in records if r.samples], np.float64)
        ceiling = np.array([r.samples["pass"] for r in records if r.samples], np.float64)
    series = [*right.values(), *(s for s in (base, ceiling) if s is not None)]
    means = resampled_means(np.stack(series), seed=int(settings.get("seed", 0)) % 2**32)
    families = _families(records)
    strategies: dict[str, Any] = {}
    for i, name in enumerate(names):
        strategies[name] = _figures(records, name, right[name], means[i], families)
        strategies[name] |= _against(name, right[name], means[i], base, ceiling, means[-2:])
    data = {"n_questions": len(records)} | dict(settings) | {"strategies": strategies, "complete": complete}
    data["families"] = {family: len(rows) for family, rows in families.items()}
    data["chance"] = float(np.mean([1 / r.options if r.options else 0 for r in records]))
    data["samples"] = None
    if base is not None and ceiling is not None:
        tokens = [r.samples["policy_tokens"] for r in records if r.samples]
        data["samples"] = {
            "self_consistency": float(base.mean()),
            "pass_at_n": float(ceiling.mean()),
            "pass_at_n_ci95": interval(means[-1]),
            "policy_tokens_per_question": float(np.mean(tokens)),
        }
    data["equal_cost"] = (
        "Sampling strategies answer from the same n trajectories of a question; a beam or tree search may "
        "generate as many policy tokens as those took. Tokens of the reward model are reported, not limited."
    )
    data["intervals"] = f"percentile bootstrap over questions, {RESAMPLES:,} resamples, differences paired"
    data["run"] = _circumstances()
    return Report(data)


def _figures(
    records: Sequence[Record], name: str, right: Floats, means: Floats, families: Mapping[str, list[int]]
) -> dict[str, Any]:
    policy, reward = _column(records, name, "policy_tokens"), _column(records, name, "reward_tokens")
    return {
        "accuracy": float(right.mean()),
        "ci95": interval(means),
        "pass_at_n": float(_column(records, name, "pass").mean()),
        "tokens_per_question": float((policy + reward).mean()),
        "policy_tokens_per_question": float(policy.mean()),
        "reward_tokens_per_question": float(reward.mean()),
        "seconds_per_question": float(_column(records, name, "seconds").mean()),
        "degraded_questions": int(sum(bool(r.strategies[name].get("degraded")) for r in records)),
        "by_family": {family: float(right[rows].mean()) for family, rows in families.items()},
    }


def _against(
    name: str, right: Floats, means: Floats, base: Floats | None, ceiling: Floats | None, last: Floats
) -> dict[str, Any]:
    """Compare with self-consistency on the shared samples, and with their pass@n."""
    nothing = {"vs_self_consistency": None, "gap_closed": None}
    if base is None or ceiling is None or name == "self-consistency":
        return nothing
    base_means, ceiling_means = last
    versus = {"difference": float(right.mean() - base.mean()), "ci95": interval(means - base_means)}
    closed = gap_closed(right.mean(keepdims=True), base.mean(keepdims=True), ceiling.mean(keepdims=True))
    if np.isnan(closed[0]):
        return nothing | {"vs_self_consistency": versus}
    span = interval(gap_closed(means, base_means, ceiling_means))
    return {"vs_self_consistency": versus, "gap_closed": {"value": float(closed[0]), "ci95": span}}


def _column(records: Sequence[Record], name: str, key: str) -> Floats:
    return np.array([r.strategies[name][key] for r in records], np.float64)


def _families(records: Sequence[Record]) -> dict[str, list[int]]:
    families: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        families.setdefault(record.family, []).append(i)
    return dict(sorted(families.items()))


def _circumstances() -> dict[str, Any]:
    """Say when, where and with what the evaluation was run."""
    versions = {"python": platform.python_version()}
    for package in ("svip-search", "numpy", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": versions,
        "system": platform.platform(aliased=True, terse=True),
        "cpus": os.cpu_count(),
        "threads": None if torch is None else torch.get_num_threads(),
        "gpu": gpu,
    }


def _commit() -> str | None:
    """Return the commit of the checkout this runs from, with ``+`` where files are changed."""
    options = ["--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    command = ["git", "-C", str(Path(__file__).parent), "describe", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _span(ends: Sequence[float] | None, form: str = ".1f") -> str:
    if ends is None:
        return "–"
    joint = "–" if not form.startswith("+") else " to "
    if ends[0] < 0 and form == ".0f":
        joint = " to "
    return joint.join(f"{100 * end:{form}}" for end in ends)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _written(text: str, path: str | PathLike[str] | None) -> str:
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text
