"""The data card of a data set: what is in it, counted from its files, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._types import DIMENSIONS
from ..datasets._drawn import label_steps
from ..datasets.svip import RecordError, SvipRecord, read_svip, replacing

BINS = 10
#: Trajectories whose labels are compared with scene truth.
COMPARED = 2000
_SPLITS = ("train", "test")


def write_card(folder: str | PathLike[str]) -> dict[str, Any]:
    """Count what is in a data set, write ``card.json`` and ``README.md`` into its folder, and return the card.

    Args:
        folder: a folder of ``train-*.jsonl`` and ``test-*.jsonl`` files, as `build` makes it.

    Raises:
        ValueError: there are no such files.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    card = data_card(folder)
    for name, text in (("card.json", json.dumps(card, indent=1) + "\n"), ("README.md", card_markdown(card))):
        with replacing(folder / name) as stream:
            stream.write(text.encode())
    return card


def data_card(folder: str | PathLike[str]) -> dict[str, Any]:
    """Return the card of a data set: plain JSON values.

    Args:
        folder: a folder of ``train-*.jsonl`` and ``test-*.jsonl`` files.

    Returns:
        ``counts`` by split, ``sources``, ``families``, ``sandboxes``, ``generators`` and ``seeds``; ``labels``: a
        histogram a dimension; ``correlation`` of the dimensions over the steps that have both; ``combinations``
        of right and wrong with an example each; ``agreement`` with scene truth; ``shared_scenes`` between the
        splits; ``unusable`` records; and the ``settings`` of the build.
    """
    folder = Path(folder)
    files = {split: sorted(folder.glob(f"{split}-*.jsonl")) for split in _SPLITS}
    if not any(files.values()):
        raise ValueError(f"`folder` must hold train-*.jsonl or test-*.jsonl files; '{folder}' has none.")
    problems: list[RecordError] = []
    tally = _Tally()
    for split, paths in files.items():
        for path in paths:
            for record in read_svip(path, on_error=problems.append):
                tally.add(split, record)
    return _settings(folder) | tally.result() | {"unusable": len(problems)}


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        return {"fingerprint": found["fingerprint"], "settings": found["settings"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"fingerprint": None, "settings": {}}


@dataclass
class _Tally:
    """Counts records, one after the other."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in _SPLITS})
    words: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in ("sources", "families", "sandboxes", "generators")}
    )
    scenes: dict[str, set[str]] = field(default_factory=lambda: {split: set() for split in _SPLITS})
    seeds: dict[str, set[int]] = field(default_factory=lambda: {split: set() for split in _SPLITS})
    labels: list[NDArray[np.float32]] = field(default_factory=list)
    combinations: dict[str, list[Any]] = field(default_factory=dict)
    compared: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def add(self, split: str, record: SvipRecord) -> None:
        self.counts[split].update(trajectories=1, steps=len(record.steps), right=record.outcome)
        for name, word in (
            ("sources", record.source), ("families", record.family),
            ("sandboxes", record.sandbox or "none"), ("generators", record.generator),
        ):  # fmt: skip
            self.words[name][word] += 1
        self.scenes[split].add(str(record.extra.get("scene", record.id)))
        self.seeds[split].add(record.seed)
        self.labels.append(record.labels)
        for row in record.labels[~np.isnan(record.labels).any(1)]:
            entry = self.combinations.setdefault(_combination(row), [0, record.id])
            entry[0] += 1
        if record.program and len(self.compared) < COMPARED:
            drawn = record.drawn()
            if drawn is not None:
                self.compared.append((record.labels, label_steps(drawn, record.steps)))

    def result(self) -> dict[str, Any]:
        labels = np.concatenate(self.labels) if self.labels else np.zeros((0, 3), np.float32)
        return {
            "counts": {s: dict(c) | {"scenes": len(self.scenes[s])} for s, c in self.counts.items()},
            **{name: dict(sorted(counted.items())) for name, counted in self.words.items()},
            "seeds": {split: sorted(seeds) for split, seeds in self.seeds.items()},
            "shared_scenes": len(self.scenes["train"] & self.scenes["test"]),
            "labels": {name: _histogram(labels[:, i]) for i, name in enumerate(DIMENSIONS)},
            "correlation": _correlation(labels),
            "combinations": {
                key: {"steps": n, "example": example} for key, (n, example) in sorted(self.combinations.items())
            },
            "agreement": _agreement(self.compared),
        }


def _combination(row: NDArray[np.float32]) -> str:
    """Return which dimensions are right: relevance and logic from 0.5 on, attribute if nothing is wrong."""
    right = (row[0] >= 0.5, row[1] >= 0.5, row[2] == 1)
    return " ".join(f"{'+' if good else '-'}{name}" for good, name in zip(right, DIMENSIONS, strict=True))


def _histogram(values: NDArray[np.float32]) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    bins = np.histogram(known, BINS, (0, 1))[0].tolist()
    mean = round(float(known.mean()), 4) if len(known) else None
    return {"bins": bins, "missing": len(values) - len(known), "mean": mean}


def _correlation(labels: NDArray[np.float32]) -> list[list[float | None]]:
    def pair(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
        both = ~np.isnan(a) & ~np.isnan(b)
        x, y = a[both].astype(float), b[both].astype(float)
        varied = len(x) > 1 and x.std() > 0 and y.std() > 0
        return round(float(np.corrcoef(x, y)[0, 1]), 4) if varied else None

    return [[pair(labels[:, i], labels[:, j]) for j in range(3)] for i in range(3)]


def _agreement(pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> dict[str, Any]:
    """Compare the labels of programs with what scene truth says of the steps that were told of them.

    Attribute is compared: both say whether what a step states is true.  Relevance and logic mean different
    things in the two (scene truth judges a step by the family's chain of thought), and are left out.
    """
    if not pairs:
        return {"trajectories": 0}
    ours, truth = (np.concatenate(side)[:, 2] for side in zip(*pairs, strict=True))
    both = ~np.isnan(ours) & ~np.isnan(truth)
    same = (ours[both] == 1) == (truth[both] == 1)
    return {
        "trajectories": len(pairs),
        "attribute": {
            "steps": int(both.sum()),
            "same_verdict": round(float(same.mean()), 4) if both.any() else None,
            "mean_difference": round(float(np.abs(ours[both] - truth[both]).mean()), 4) if both.any() else None,
        },
    }


# ---- Markdown ----------------------------------------------------------------------------------------


def card_markdown(card: dict[str, Any]) -> str:
    """Return a card as a Markdown page."""
    counts, agreement = card["counts"], card["agreement"]
    names = ("trajectories", "steps", "right", "scenes")
    edges = [f"{i / BINS:.1f}-{(i + 1) / BINS:.1f}" for i in range(BINS)]
    histogram = [(n, *h["bins"], h["missing"], h["mean"]) for n, h in card["labels"].items()]
    correlation = [
        (name, *("" if v is None else f"{v:.2f}" for v in row))
        for name, row in zip(DIMENSIONS, card["correlation"], strict=True)
    ]
    parts = [
        "# SVIP data set",
        "Chains of thought about pictures, told from visual programs that were run and checked. Each step has three "
        "labels in 0..1: relevance, logic and attribute. The formulation of the labels is this library's own.",
        "## Counts",
        _table(("split", *names), [(split, *(c.get(n, 0) for n in names)) for split, c in counts.items()]),
        f"Scenes in both splits: {card['shared_scenes']}. Unusable records: {card['unusable']}.",
        _table(("source", "trajectories"), list(card["sources"].items())),
        _table(("family", "trajectories"), list(card["families"].items())),
        "## Labels",
        _table(("dimension", *edges, "missing", "mean"), histogram),
        "Correlation, over the steps that have both:",
        _table(("", *DIMENSIONS), correlation),
        "Steps that have all three (right: relevance and logic at least 0.5, attribute 1):",
        _table(("which are right", "steps", "example"),
               [(key, c["steps"], f"`{c['example']}`") for key, c in card["combinations"].items()]),
        "## Agreement with scene truth",
        _agreement_text(agreement),
        "## Origin",
        _table(("what", "value"), _origin(card)),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _agreement_text(agreement: dict[str, Any]) -> str:
    found = agreement.get("attribute", {})
    if found.get("same_verdict") is None:
        return "Nothing to compare."
    return (
        f"Attribute, {agreement['trajectories']} trajectories, {found['steps']} steps: the same verdict in "
        f"{100 * found['same_verdict']:.1f} %, mean difference {found['mean_difference']:.3f}."
    )


def _origin(card: dict[str, Any]) -> list[tuple[str, Any]]:
    facts = {name: ", ".join(card[name]) for name in ("sandboxes", "generators")}
    seeds = {f"seeds of {split}": ", ".join(map(str, seeds)) for split, seeds in card["seeds"].items()}
    return [("fingerprint", card["fingerprint"]), *facts.items(), *seeds.items(), *card["settings"].items()]


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = (["" if c is None else str(c).replace("|", "\\|") for c in line] for line in lines)
    return "\n".join(f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |" for line in cells)
