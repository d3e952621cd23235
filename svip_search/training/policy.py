"""Training of the embedded policies on generated pattern or planning puzzles: ``svip-search train policy``.

Loss = cross-entropy of the steps' tokens + ``perception_weight`` x cross-entropy of what the eye
says stands in each cell.  The learning rate warms up, stays, and falls to zero over the last part
of the run, so a run may be resumed with a larger ``samples`` as long as the fall has not begun.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..models.embedded import new_model
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from .attention import use_float32_attention
from .checkpoint import Progress, load_checkpoint, save_checkpoint, write_facts
from .data import Chunk, batches
from .domains import Chunks, Domain, domain_of
from .muon import Muon
from .widen import widen


@dataclass
class TrainPolicyConfig:
    """How an embedded policy is trained.

    Args:
        model: ``"puzzle-nano"`` or ``"puzzle-tiny"`` for pattern puzzles, ``"plan-nano"`` or ``"plan-small"`` for
            planning puzzles.
        out: folder for the finished model, its log and the checkpoint.
        start: folder of a model to begin from, of the same size or smaller (see `widen`); empty: from scratch.
        families: what to draw from; a name given twice is drawn twice as often; empty: all families alike.
        samples: puzzles to see in all; none is seen twice.
        eye_samples: of these, how many at the start train the eye alone, at a third of the cost:
            numerals take the most pictures to learn, and reading is of no use before them.
        muon_filters: Muon also for the eye's convolution filters (AdamW otherwise).
        batch_size: puzzles a step.
        batch_tokens: most tokens a step, padding included, instead of ``batch_size`` puzzles (0): planning puzzles
            differ tenfold in length.
        mixed: share of the planning puzzles that are shown with a chain of mixed quality: mistakes, going back.
        moves: least and most moves of the planning puzzles drawn; empty: as generated.
        readings: of the planning puzzles, how many at the start end when they have said what the picture shows.
        learning_rate: peak learning rate of both optimisers.
        decay: share of the run, at its end, over which the learning rate falls to zero.
        perception_weight: weight of the eye's loss.
        seed: of the weights and the puzzles.
        threads: CPU threads, 0 = as torch chooses.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        bf16: compute in bfloat16 (worth it on a GPU; on CPUs only with bfloat16 units).
        validate_every: samples between two validations (and checkpoints).
        resume: continue from the checkpoint in ``out`` if there is one.
        workers: processes that draw puzzles.
        chunk: puzzles drawn at a time; runs resume at the start of one.
        validation_puzzles: held-out puzzles of a validation.
    """

    model: str = "puzzle-nano"
    out: str = "runs/puzzle-nano"
    start: str = ""
    families: tuple[str, ...] = ()
    samples: int = 200_000
    eye_samples: int = 0
    muon_filters: bool = True
    batch_size: int = 32
    batch_tokens: int = 0
    mixed: float = 0.5
    readings: int = 0
    moves: tuple[int, ...] = ()
    learning_rate: float = 2e-3
    decay: float = 0.3
    perception_weight: float = 1.0
    seed: int = 0
    threads: int = 0
    device: str = "auto"
    bf16: bool = False
    validate_every: int = 8192
    resume: bool = True
    workers: int = 1
    chunk: int = 512
    validation_puzzles: int = 300

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "validate_every", "chunk", "validation_puzzles"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")
        for name in ("decay", "mixed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1]; got {getattr(self, name)}.")
        if self.batch_tokens < 0:
            raise ValueError(f"`batch_tokens` must be >= 0; got {self.batch_tokens}.")
        if self.moves and not (len(self.moves) == 2 and 0 <= self.moves[0] <= self.moves[1]):
            raise ValueError(f"`moves` must be empty or two ascending numbers; got {self.moves}.")


def learning_rate(seen: int, config: TrainPolicyConfig) -> float:
    """Return the learning rate after ``seen`` puzzles: warm-up, plateau, linear fall to zero."""
    warmup = min(1.0, (seen + config.batch_size) / (200 * config.batch_size))
    left = (config.samples - seen) / max(1.0, config.decay * config.samples)
    return config.learning_rate * max(0.0, min(warmup, left, 1.0))


def make_optimizers(model: torch.nn.Module, lr: float, filters: bool = True) -> list[torch.optim.Optimizer]:
    """Return Muon for the decoder's matrices and the eye's filters, AdamW for everything else."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, p in model.named_parameters():
        chosen = (p.ndim == 2 and ".layers." in name) or (p.ndim == 4 and filters)
        (matrices if chosen else rest).append(p)
    return [Muon(matrices, lr), torch.optim.AdamW(rest, lr, betas=(0.9, 0.98), weight_decay=0.01)]


@torch.inference_mode()
def greedy_accuracy(
    model: PuzzleVLMForConditionalGeneration, domain: Domain, chunk: Chunk, batch_size: int = 128
) -> tuple[float, dict[str, float]]:
    """Return the share of puzzles answered right by greedy decoding, in all and by family."""
    model.eval()
    tokenizer, device = domain.processor.tokenizer, model.device
    right = np.zeros(len(chunk.answers), bool)
    order = np.argsort([len(s) for s in chunk.steps], kind="stable")  # a batch ends with its longest chain
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size].tolist()
        prompts, pictures = domain.prompts(model, chunk, rows)
        length = max(map(len, prompts))
        ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(p)) + p for p in prompts], device=device)
        out = model.generate(
            input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(),
            **{name: value.to(device) for name, value in pictures.items()},
            max_new_tokens=domain.longest, do_sample=False,
        )  # fmt: skip
        for r, row in zip(rows, out[:, length:], strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            right[r] = text.endswith(f"answer : {chunk.answers[r]}")
    model.train()
    families = np.array(chunk.families)
    by_family = {f: float(right[families == f].mean()) for f in sorted(set(chunk.families))}
    return float(right.mean()), by_family


@dataclass
class _Run:
    """Everything a training run carries from step to step."""

    config: TrainPolicyConfig
    model: PuzzleVLMForConditionalGeneration
    domain: Domain
    optimizers: list[torch.optim.Optimizer]
    device: torch.device
    progress: Progress = field(default_factory=Progress)

    @property
    def checkpoint(self) -> Path:
        return Path(self.config.out) / "checkpoint.pt"

    def log(self, record: dict[str, Any]) -> None:
        with open(Path(self.config.out) / "training.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _start(config: TrainPolicyConfig) -> _Run:
    name = config.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    domain = domain_of(config.model, config.families, config.mixed, config.moves, config.readings)
    model = new_model(config.model, domain.processor)
    if config.start:
        _begin_from(config.start, model)
    model.to(device)
    if config.bf16 and device.type == "cpu":
        use_float32_attention(model)
    run = _Run(config, model, domain, make_optimizers(model, config.learning_rate, config.muon_filters), device)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    if config.resume and run.checkpoint.exists():
        run.progress, _ = load_checkpoint(run.checkpoint, model, run.optimizers, device)
    return run


def _begin_from(folder: str, model: PuzzleVLMForConditionalGeneration) -> None:
    """Take over a trained model: one of the same size as it is, a smaller one as a part of the larger one."""
    start = type(model).from_pretrained(folder)
    try:
        widen(start, model)
    except ValueError as error:
        raise ValueError(f"`start` must hold a model of the same kind that is not larger; got {folder}.") from error
    model.tie_weights()


def _chunks(run: _Run) -> Iterator[tuple[int, Chunk]]:
    size = run.config.chunk
    first, last = run.progress.seen // size, -(-run.config.samples // size)
    data = Chunks(run.domain, run.config.seed, range(first, last), size)
    loader = DataLoader(
        data, batch_size=None, num_workers=run.config.workers,
        prefetch_factor=2 if run.config.workers else None,
    )  # fmt: skip
    yield from enumerate(loader, first)


def _step(run: _Run, chunk: Chunk, rows: np.ndarray[Any, Any]) -> tuple[float, float]:
    rate = learning_rate(run.progress.seen, run.config)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.bf16):
        if run.progress.seen < run.config.eye_samples:
            eye_loss = run.domain.eye_loss(run.model, chunk, rows)
            step_loss = torch.zeros_like(eye_loss)
        else:
            step_loss, eye_loss = run.domain.losses(run.model, chunk, rows)
    loss = step_loss + run.config.perception_weight * eye_loss
    for optimizer in run.optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
    return step_loss.item(), eye_loss.item()


def train_policy(config: TrainPolicyConfig, progress: Callable[[int, int, str], None] | None = None) -> Path:
    """Train an embedded policy and return the folder of the finished model.

    Args:
        config: what to train and how.
        progress: called as ``progress(seen, samples, text)`` after every batch.

    Notes:
        The same seed gives the same model on the same machine with the same number of threads.
        Interrupted runs continue from their last validation.
    """
    run = _start(config)
    validation = run.domain.held_out(config.validation_puzzles)
    run.model.train()
    began, due = time.perf_counter() - run.progress.seconds, run.progress.seen + config.validate_every
    for number, chunk in _chunks(run):
        losses = []
        rng = np.random.default_rng([config.seed, number])
        for rows in batches(chunk, config.batch_size, rng, config.batch_tokens):
            losses.append(_step(run, chunk, rows))
            run.progress.seen += len(rows)
            if progress:
                progress(run.progress.seen, config.samples, "steps {:.3f} eye {:.3f}".format(*losses[-1]))
        last = run.progress.seen >= config.samples
        if run.progress.seen >= due or last:
            accuracy, by_family = 0.0, dict[str, float]()
            if run.progress.seen > config.eye_samples:
                accuracy, by_family = greedy_accuracy(run.model, run.domain, validation)
            run.progress.seconds, due = time.perf_counter() - began, run.progress.seen + config.validate_every
            step_loss, eye_loss = np.mean(losses, 0)
            record = {"step_loss": step_loss, "eye_loss": eye_loss, "accuracy": accuracy}
            run.log(
                {"seen": run.progress.seen, "seconds": round(run.progress.seconds)}
                | {name: round(float(value), 4) for name, value in record.items()}
                | {"by_family": {f: round(a, 2) for f, a in by_family.items()}}
            )
            save_checkpoint(run.checkpoint, run.model, run.optimizers, run.progress)
    return _export(run)


def _export(run: _Run) -> Path:
    out = Path(run.config.out)
    run.model.eval()
    run.model.save_pretrained(out)
    run.domain.processor.save_pretrained(out)
    write_facts(out, run.config, run.model, run.progress)
    return out
