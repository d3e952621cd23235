"""A reliability diagram of the three dimensions: what a reward says against what the labels say."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._types import DIMENSIONS

#: The colours of the dimensions, those of the pictures and of the tree page.
COLORS = ("#6fa8dc", "#f6b26b", "#8e7cc3")
INK, FAINT = "#333333", "#d9d9d9"
_SUFFIXES = (".png", ".svg", ".pdf")


def check_figure_path(path: str | PathLike[str]) -> Path:
    """Return the path of a figure, before any work is done for it.

    Raises:
        ValueError: its ending is unknown, or matplotlib is not installed.

    Example:
        >>> check_figure_path("calibration.gif")
        Traceback (most recent call last):
        ...
        ValueError: `figure` must end in .png, .svg or .pdf; got 'calibration.gif'.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"`figure` must end in .png, .svg or .pdf; got '{path}'.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("`figure` needs matplotlib: `pip install svip-search[bench]`.") from None
    return path


def reliability_figure(report: Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Draw the reliability diagram of a report of SVIP-Test and return its path.

    One panel a dimension: over the rewards of steps in bins, the mean label; on the diagonal a reward
    is as high as the share of right steps.  Below it, how many steps each bin holds.

    Args:
        report: what ``JudgeReport.to_dict()`` gives.
        path: ends in .png, .svg or .pdf.

    Raises:
        ValueError: the report is of another benchmark, the ending is unknown, or matplotlib is missing.
    """
    path = check_figure_path(path)
    if "reliability" not in report:
        raise ValueError(f"`figure` must be left out unless the benchmark is svip-test; got {report['benchmark']!r}.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.edgecolor": FAINT,
        "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "svg.fonttype": "none", "svg.hashsalt": "svip-search",
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(9.6, 4.0), dpi=160, layout="constrained")
        panels = figure.subplots(2, 3, sharex=True, height_ratios=(4, 1))
        for column, (name, color) in enumerate(zip(DIMENSIONS, COLORS, strict=True)):
            bins = report["reliability"][name]
            _curve(panels[0, column], bins, color, name, report["tables"]["dimensions"][name]["calibration error"])
            _histogram(panels[1, column], bins, color)
        panels[0, 0].set_ylabel("mean label")
        panels[1, 0].set_ylabel("steps")
        for panel in panels[0, 1:]:
            panel.tick_params(labelleft=False)
        panels[1, 1].set_xlabel("reward")
        title = f"{report['reward']}  ·  {report['n_steps']:,} steps of {report['n_questions']:,} questions"
        figure.suptitle(title, fontsize=10, color=INK)
        # No date inside: the same report gives the same file.
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    return path


def _curve(panel: Any, bins: Mapping[str, Any], color: str, name: str, error: Mapping[str, Any]) -> None:
    scores, labels, counts = (np.array(bins[k], float) for k in ("mean_score", "mean_label", "counts"))
    known = counts > 0
    panel.plot([0, 1], [0, 1], color=FAINT, linewidth=1.2, zorder=1)
    panel.vlines(scores[known], scores[known], labels[known], color=color, alpha=0.45, linewidth=2, zorder=2)
    panel.plot(scores[known], labels[known], color=color, linewidth=1.4, alpha=0.7, zorder=3)
    area = 12 + 90 * np.sqrt(counts[known] / max(1, counts.max()))
    panel.scatter(scores[known], labels[known], s=area, color=color, edgecolor="white", linewidth=0.9, zorder=4)
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.05), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    panel.grid(color=FAINT, linewidth=0.4, alpha=0.6)
    panel.set_title(name, fontsize=10, color=INK, loc="left", fontweight="bold")
    if error["value"] is not None:
        low, high = error["ci95"]
        panel.set_title(f"error {error['value']:.3f} ({low:.3f}–{high:.3f})", fontsize=8, color=INK, loc="right")
    _bare(panel)


def _histogram(panel: Any, bins: Mapping[str, Any], color: str) -> None:
    edges, counts = np.array(bins["edges"]), np.array(bins["counts"])
    panel.bar(edges[:-1], counts, width=np.diff(edges) * 0.9, align="edge", color=color, alpha=0.8)
    panel.set_yticks([0, int(counts.max())] if counts.any() else [0])
    _bare(panel)


def _bare(panel: Any) -> None:
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(length=0)
