"""Measure what it takes to train heads on any backbone: seconds, memory and disk per 1,000 trajectories.

``python benchmarks/training/any_backbone.py`` builds tiny random LLaVA and Qwen2.5-VL models, caches the hidden
states of generated puzzles (eight chains each), and trains one epoch of a head on them and one of low-rank updates.
The peak of resident memory is reset before each, which needs Linux.  The backbones are tiny: their figures say what
this library adds, and ``disk_bytes_a_token`` says what a wide one will need.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests" / "policies")]  # benchmarks are no package

from timing import version, write_record  # noqa: E402
from tiny_models import build  # noqa: E402

from svip_search.datasets.puzzles import generate_puzzle  # noqa: E402
from svip_search.datasets.puzzles.labels import corrupt  # noqa: E402
from svip_search.rewards._triatt_cot import TriAttCoT  # noqa: E402
from svip_search.training.frozen_scorer import FrozenScorer  # noqa: E402
from svip_search.training.lora_scorer import LoraScorer  # noqa: E402
from svip_search.training.step_scorer import StepScorer  # noqa: E402
from svip_search.training.step_trees import StepTree, record_of_chain, step_trees  # noqa: E402

FAMILIES = ("llava", "qwen2_5_vl")
QUESTIONS, CHAINS, BATCH = 64, 8, 16


def trees(count: int) -> list[StepTree]:
    """Return trees of generated puzzles: one right chain and the others corrupted."""
    found = []
    for i in range(count):
        puzzle, rng = generate_puzzle(11, i), np.random.default_rng(i)
        chains = (puzzle.steps, *(corrupt(puzzle, rng) for _ in range(CHAINS - 1)))
        found += [record_of_chain(puzzle, chain) for chain in chains]
    return step_trees(found)


def epoch(scorer: StepScorer, found: list[StepTree]) -> None:
    """Train on all trees once."""
    optimizers = scorer.make_optimizers(1e-3, 1e-3)
    scorer.train()
    for i in range(0, len(found), BATCH):
        batch = found[i : i + BATCH]
        targets = torch.from_numpy(np.concatenate([t.labels for t in batch]))
        loss = functional.binary_cross_entropy_with_logits(scorer(batch)[0], targets.nan_to_num())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def measured(run: Callable[[], object], trajectories: int) -> dict[str, float]:
    """Return processor and wall seconds per 1,000 trajectories, and how far memory rose above where it was (MB)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    wall, busy = time.perf_counter(), time.process_time()
    run()
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    each = 1000 / trajectories
    return {"trajectories": trajectories, "cpu_s": round(busy * each, 2), "wall_s": round(wall * each, 2),
            "peak_mb": round(_resident("VmHWM") - before, 1)}  # fmt: skip


def _resident(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def parts(family: str) -> tuple[Any, Any, TriAttCoT]:
    """Return a random backbone, its processor and a head."""
    backbone, processor = build(family, gain=2.0)
    backbone.config.get_text_config().max_position_embeddings = 4096
    return backbone, processor, TriAttCoT(backbone.config.get_text_config().hidden_size, 64, surprise=True)


def measure(family: str, found: list[StepTree], folder: Path) -> dict[str, Any]:
    """Return the figures of one backbone."""
    chains = sum(len(t.chains) for t in found)
    frozen = FrozenScorer(*parts(family), cache=folder)
    cache = measured(lambda: frozen.prepare(found), chains)
    disk, tokens = sum(p.stat().st_size for p in folder.iterdir()), frozen.states.estimate(found).tokens
    cache |= {"trees": len(found), "tokens": tokens, "width": frozen.head.config.hidden_size,
              "disk_mb": round(disk / chains * 1e-3, 3), "disk_bytes_a_token": round(disk / tokens, 2)}  # fmt: skip
    epoch(frozen, found[:BATCH])
    head = measured(lambda: epoch(frozen, found), chains)
    tuned, few = LoraScorer(*parts(family), rank=8), found[: len(found) // 4]
    epoch(tuned, few[:1])
    lora = measured(lambda: epoch(tuned, few), sum(len(t.chains) for t in few))
    return {"caching": cache, "an epoch of the head": head, "an epoch of low-rank updates": lora}


def one(family: str) -> dict[str, Any]:
    """Return the figures of one backbone, measured in this process."""
    torch.set_num_threads(1)
    found = trees(QUESTIONS)
    [tree.question() for tree in found]  # pictures are drawn before the clock starts
    with tempfile.TemporaryDirectory() as folder:
        return measure(family, found, Path(folder))


def main() -> None:
    """Measure each in a process of its own, print, and write the record."""
    figures: dict[str, Any] = {"peft": version("peft"), "per": "1,000 trajectories; memory is of the run measured"}
    for family in FAMILIES:
        command = [sys.executable, __file__, family]
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        figures[family] = json.loads(out.stdout.splitlines()[-1])
        print(family, figures[family], flush=True)
    write_record("any_backbone", figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one(sys.argv[1])))
    else:
        main()
