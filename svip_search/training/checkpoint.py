"""What a training run leaves on disk: a checkpoint to resume from, and the facts of the run."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """How far a run is: puzzles seen and seconds spent."""

    seen: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], progress: Progress
) -> None:
    """Write everything needed to resume; the file is replaced as a whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        **asdict(progress),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], device: torch.device
) -> Progress:
    """Take up the state of ``save_checkpoint`` and return how far the run was."""
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(state["seen"], state["seconds"])


def write_facts(out: Path, config: Any, model: torch.nn.Module, progress: Progress) -> None:
    """Write ``training.json``: the settings, how long it took, and on what."""
    device = next(model.parameters()).device
    facts = {"config": asdict(config), "seen": progress.seen, "seconds": round(progress.seconds),
             "parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__,
             "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
             "machine": platform.machine(), "threads": torch.get_num_threads()}  # fmt: skip
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
