"""What each part of SVIP-Reward is worth: ``svip-search train ablations``.

Every variant trains a head of the same size for as many questions on the same frozen backbone, whose hidden
states are computed once, so that a variant takes a minute or so and differs from the next in one thing.
What is said of a head here is said of heads on a backbone that was never trained to judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._types import DIMENSIONS
from .calibration import contests, share_right
from .reward import Report, TrainRewardConfig, load_best, predict, step_metrics, train_reward
from .step_trees import StepTree, read_step_trees

VARIANTS: dict[str, dict[str, Any]] = {
    "conditioned queries": {},
    "constant queries": {"query": "constant"},
    "one shared head": {"n_heads": 1, "n_kv_heads": 1},
    "shared keys and values": {"n_kv_heads": 1},
    "no segment bias": {"segment_bias": False},
    "two-layer head": {"mlp": True},
    "without surprise": {"surprise": False},
    "hard labels": {"labels": "hard"},
    "outcome labels": {"labels": "outcome"},
    "chains of programs only": {"sources": "program"},
    "without relevance": {"dimensions": ("logic", "attribute")},
    "without logic": {"dimensions": ("relevance", "attribute")},
    "without attribute": {"dimensions": ("relevance", "logic")},
}


@dataclass
class AblationConfig:
    """How the parts are compared.

    Args:
        data: folders of ``svip-search data build``; heads are judged on their SVIP-Test.
        out: folder of the table, of the models and of the hidden states.
        backbone: embedded model, folder or hub id; it stays as it is.
        variants: names to run; empty: all.
        samples: questions that each variant sees.
        batch_size: questions a step.
        learning_rate: peak.
        seeds: how often each is trained, with another start and order; the spread over them is shown.
        test: questions of SVIP-Test, at most.
        threads: CPU threads, 0 = as torch chooses.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    data: tuple[str, ...] = ()
    out: str = "runs/ablations"
    backbone: str = "puzzle-tiny"
    variants: tuple[str, ...] = ()
    samples: int = 8000
    batch_size: int = 16
    learning_rate: float = 3e-3
    seeds: int = 3
    test: int = 1000
    threads: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("`data` must name at least one data set (svip-search data build makes one); got none.")
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"`variants` must be among {', '.join(VARIANTS)}; got {unknown[0]!r}.")
        for name in ("samples", "batch_size", "seeds", "test"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")


def train_ablations(config: AblationConfig, progress: Report | None = None) -> Path:
    """Train and judge all variants and return the folder with ``ablations.md`` and ``ablations.json``.

    Args:
        config: what to compare.
        progress: called as ``progress(done, total, text)``, counting questions over all variants.

    Notes:
        A variant that is finished is not trained again.
    """
    names = config.variants or tuple(VARIANTS)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    test = read_step_trees([file for path in config.data for file in sorted(Path(path).glob("test-*"))])[: config.test]
    results: dict[str, list[dict[str, float]]] = {}
    for v, name in enumerate(names):
        for seed in range(config.seeds):
            done = (v * config.seeds + seed) * config.samples
            total = len(names) * config.seeds * config.samples
            note = None if progress is None else _shifted(progress, done, total, name)
            results.setdefault(name, []).append(_variant(config, name, seed, test, note))
    facts = {"config": asdict(config), "questions": len(test), "variants": results}
    (out / "ablations.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / "ablations.md").write_text(ablation_table(results), encoding="utf-8")
    return out


def _shifted(progress: Report, done: int, total: int, name: str) -> Report:
    return lambda seen, _, text: progress(done + seen, total, f"{name}: {text}")


def _variant(
    config: AblationConfig, name: str, seed: int, test: Sequence[StepTree], progress: Report | None
) -> dict[str, float]:
    folder = Path(config.out) / f"{name.replace(' ', '-')}-{seed}"
    kept = folder / "ablation.json"
    if kept.exists():
        found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    training = replace(
        TrainRewardConfig(
            data=config.data, out=str(folder), backbone=config.backbone, tune="frozen", samples=config.samples,
            batch_size=config.batch_size, head_learning_rate=config.learning_rate, seed=seed + 1,
            threads=config.threads, device=config.device, validate_every=max(1, config.samples // 4), patience=0,
            cache=str(Path(config.out) / "hidden-states"),
        ),
        **VARIANTS[name],
    )  # fmt: skip
    train_reward(training, progress)
    scorer, scoring = load_best(training)
    scorer.prepare(test)
    result = judge_nodes(predict(scorer, test), test, scoring)
    kept.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return result


def judge_nodes(logits: torch.Tensor, trees: Sequence[StepTree], scoring: Scoring) -> dict[str, float]:
    """Return the metrics of the steps, and how often the best-scored chain of a policy is right."""
    labels = np.concatenate([tree.labels for tree in trees])
    report = {k: float("nan") if v is None else v for k, v in step_metrics(logits, labels).items()}
    rewards: list[NDArray[np.float32]] = np.split(
        logits.sigmoid().numpy(), np.cumsum([len(tree) for tree in trees])[:-1]
    )
    return report | {"right": share_right(scoring, contests(trees, rewards))}


def ablation_table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return the table in Markdown: mean over the seeds, ± half the range.

    Example:
        >>> print(ablation_table({"a": [{"right": 0.5}, {"right": 0.7}]}).splitlines()[-1])
        | a | – | – | – | – | 60.0 ± 10.0 |
    """
    heads = [f"auroc_{d}" for d in DIMENSIONS]
    titles = [*(f"AUROC {d}" for d in DIMENSIONS), "calibration error", "best chain right, %"]
    lines = ["| variant | " + " | ".join(titles) + " |", "| --- " + "| ---: " * len(titles) + "|"]
    for name, runs in results.items():
        trained = set(VARIANTS.get(name, {}).get("dimensions", DIMENSIONS))
        cells = [_cell([r.get(h) for r in runs], 3) if h.removeprefix("auroc_") in trained else "–" for h in heads]
        errors = [[r.get(f"calibration_error_{d}") for d in DIMENSIONS if d in trained] for r in runs]
        cells.append(_cell([None if None in e else float(np.mean([x for x in e if x is not None])) for e in errors], 3))
        cells.append(_cell([None if (r := run.get("right")) is None else 100 * r for run in runs], 1))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None], digits: int) -> str:
    known = [v for v in values if v is not None and not np.isnan(v)]
    if not known:
        return "–"
    spread = f" ± {(max(known) - min(known)) / 2:.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"
