"""What a training run leaves on disk: a checkpoint to resume from, and the facts of the run."""

from __future__ import annotations

import json
import pickle
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import TrainingError


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        seen: puzzles or questions seen.
        seconds: spent, over all parts of the run.
        steps: of the optimisers.
        best: lowest held-out loss so far, and after how many ``seen`` it was reached.
        best_seen: see ``best``.
        waited: validations since then.
    """

    seen: int = 0
    seconds: float = 0.0
    steps: int = 0
    best: float = float("inf")
    best_seen: int = 0
    waited: int = 0


def trained_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights that are trained; a frozen backbone is not among them."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def load_trained_state(model: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Put the weights of `trained_state` back.

    Raises:
        TrainingError: they are those of another model.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    odd = sorted(trained.keys() ^ state.keys())
    odd += [name for name in sorted(trained.keys() & state.keys()) if trained[name].shape != state[name].shape]
    if odd:
        raise TrainingError(f"the checkpoint is of another model: {odd[0]!r} differs.")
    with torch.no_grad():
        for name, value in state.items():
            trained[name].copy_(value)


def save_checkpoint(
    path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], progress: Progress,
    **extra: Any,
) -> None:  # fmt: skip
    """Write everything needed to resume; the file is replaced as a whole or not at all."""
    state = {
        "model": trained_state(model),
        "optimizers": [o.state_dict() for o in optimizers],
        "random": torch.get_rng_state(),
        "extra": extra,
        **asdict(progress),
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], device: torch.device
) -> tuple[Progress, dict[str, Any]]:
    """Take up the state of ``save_checkpoint`` and return how far the run was, and what else was kept.

    Raises:
        TrainingError: the file is cut, damaged, or of another run.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        progress = Progress(**{f.name: state[f.name] for f in fields(Progress)})
        load_trained_state(model, state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["random"].cpu())
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrainingError(f"'{path}' cannot be resumed from: {line} Delete it, or use --no-resume.") from None
    return progress, state["extra"]


def write_facts(out: Path, config: Any, model: torch.nn.Module, progress: Progress, **more: Any) -> None:
    """Write ``training.json``: the settings, how long it took, and on what."""
    device = next(model.parameters()).device
    facts = {"config": asdict(config), "seen": progress.seen, "seconds": round(progress.seconds),
             "parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__,
             "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
             "machine": platform.machine(), "threads": torch.get_num_threads(), **more}  # fmt: skip
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
