"""Labelled trees about pictures in files, and tiny random backbones that read them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "policies"))
from tiny_models import build

from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.puzzles.labels import corrupt
from svip_search.datasets.svip import SvipRecord
from svip_search.models.embedded import new_model, new_processor
from svip_search.rewards._triatt_cot import TriAttCoT
from svip_search.rewards.svip_reward import SvipReward
from svip_search.training.step_trees import record_of_chain, step_trees

A, B, D = "the circle is red", "the answer is 4", "blue"
CHAINS = [(A, B), (A, D, B), (D,), (A, "answer : 4"), (D, D, D)]
FAMILIES = ["llava", "qwen2_5_vl"]


def file_records(folder: Path, count: int = 2) -> list[SvipRecord]:
    """Chains about pictures of different sizes, written to ``folder``."""
    rng = np.random.default_rng(0)
    records = []
    for q in range(count):
        side = 32 + 16 * (q % 2)
        Image.fromarray(rng.integers(0, 255, (32, side, 3), dtype=np.uint8)).save(folder / f"{q}.png")
        for i, chain in enumerate(CHAINS):
            labels = rng.uniform(0, 1, (len(chain), 3)).round().astype(np.float32)
            records.append(
                SvipRecord(
                    id=f"{q}#{i}", family="files", question=f"what is the circle {q} ?", options=("4", "red"),
                    answer="4", images=(f"{q}.png",), program=(), results=(), errors=(), steps=chain, labels=labels,
                    outcome=i % 2, source="program", seed=0, generator="", folder=folder,
                )
            )  # fmt: skip
    return records


def puzzle_trees(count: int, seed: int = 7, families=None):
    """Trees of generated puzzles: one right chain and three corrupted ones."""
    rng = np.random.default_rng(seed)
    puzzles = [generate_puzzle(seed, i, families=families) for i in range(count)]
    return step_trees(
        record_of_chain(p, c) for p in puzzles for c in (p.steps, corrupt(p, rng), corrupt(p, rng), corrupt(p, rng))
    )


def tiny(family: str, seed: int = 0, **variant):
    """A random backbone, its processor, and a head whose scores differ clearly."""
    if family == "puzzle":
        torch.manual_seed(seed)
        processor = new_processor()
        backbone = new_model("puzzle-nano", processor)
    else:
        backbone, processor = build(family, seed, gain=2.0)
    torch.manual_seed(seed + 1)
    head = TriAttCoT(backbone.config.get_text_config().hidden_size, 8, **variant)
    with torch.no_grad():
        for p in head.parameters():
            p.normal_(0, 0.4)
    return backbone.eval(), processor, head


def evaluated(reward: SvipReward, trees) -> np.ndarray:
    """The rewards [sum of nodes, 3] of every node of some trees, as a search gets them."""
    rows = []
    for tree in trees:
        found = reward.evaluate(tree.question(), [tree.path(n) for n in range(len(tree))])
        rows += [rewards[-1] for rewards in found]
    return np.stack(rows)
