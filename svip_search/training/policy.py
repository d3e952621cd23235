"""Training of the embedded policies on generated puzzles: ``svip-search train policy``.

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
from torch.nn import functional
from torch.utils.data import DataLoader

from ..datasets.puzzles import generate_puzzle
from ..models.embedded import new_model, new_processor
from ..models.puzzle_processor import PuzzleProcessor
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from .checkpoint import Progress, load_checkpoint, save_checkpoint, write_facts
from .data import IGNORE, Chunk, PuzzleChunks, batches, encode, text_batch, to_pixels
from .muon import Muon

VALIDATION_SEED = 2**31 - 1


@dataclass
class TrainPolicyConfig:
    """How an embedded policy is trained.

    Args:
        model: ``"puzzle-nano"`` or ``"puzzle-tiny"``.
        out: folder for the finished model, its log and the checkpoint.
        start: folder of a model of the same size to begin from; empty: from scratch.
        families: what to draw from; a name given twice is drawn twice as often; empty: all families alike.
        samples: puzzles to see in all; none is seen twice.
        eye_samples: of these, how many at the start train the eye alone, at a third of the cost:
            numerals take the most pictures to learn, and reading is of no use before them.
        muon_filters: Muon also for the eye's convolution filters (AdamW otherwise).
        batch_size: puzzles a step.
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
        if not 0 <= self.decay <= 1:
            raise ValueError(f"`decay` must lie in [0, 1]; got {self.decay}.")


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


def loss_of(
    model: PuzzleVLMForConditionalGeneration, pixels: Tensor, cells: Tensor, ids: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (loss of the steps' tokens, loss of the eye) for one batch.

    The visual tokens are put in front of the text here instead of by placeholders: the same
    sequence, without the search for placeholders that a compiler cannot trace.
    """
    visual, guesses = model.model.get_image_features(to_pixels(pixels))
    text = model.get_input_embeddings()(ids)
    hidden = model.model.language_model(inputs_embeds=torch.cat([visual, text], 1), use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != IGNORE
    states = hidden[:, visual.shape[1] : -1][wanted]
    step_loss = functional.cross_entropy(model.lm_head(states).float(), labels[:, 1:][wanted])
    return step_loss, perception_loss(guesses, cells)


def perception_loss(guesses: list[Tensor], cells: Tensor) -> Tensor:
    """Return the cross-entropy of the eye, empty and filled cells weighing the same."""
    total = guesses[0].new_zeros(())
    for group, logits in enumerate(guesses):
        target = cells[..., group].flatten()
        each = functional.cross_entropy(logits.float().flatten(0, 1), target, reduction="none")
        filled = (target > 0).float()
        total = total + (each * filled).sum() / filled.sum().clamp(min=1) + (each * (1 - filled)).mean()
    return total


@torch.inference_mode()
def greedy_accuracy(
    model: PuzzleVLMForConditionalGeneration, processor: PuzzleProcessor, chunk: Chunk, answers: list[str],
    families: list[str], batch_size: int = 256,
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """Return the share of puzzles answered right by greedy decoding, in all and by family."""
    model.eval()
    tokenizer, device = processor.tokenizer, next(model.parameters()).device
    right: list[bool] = []
    image = [model.config.image_token_id] * model.config.n_visual_tokens
    for start in range(0, len(answers), batch_size):
        rows = range(start, min(start + batch_size, len(answers)))
        length = max(len(chunk.prompts[r]) for r in rows)
        ids = torch.tensor(
            [[tokenizer.pad_token_id] * (length - len(chunk.prompts[r])) + image + chunk.prompts[r] for r in rows]
        ).to(device)
        out = model.generate(
            input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(),
            pixel_values=to_pixels(chunk.pixels[rows.start : rows.stop]).to(device),
            max_new_tokens=120, do_sample=False,
        )  # fmt: skip
        for r, row in zip(rows, out[:, ids.shape[1] :], strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            right.append(text.endswith(f"answer : {answers[r]}"))
    model.train()
    by_family = {
        f: float(np.mean([ok for ok, g in zip(right, families, strict=True) if g == f])) for f in sorted(set(families))
    }
    return float(np.mean(right)), by_family


@dataclass
class _Run:
    """Everything a training run carries from step to step."""

    config: TrainPolicyConfig
    model: PuzzleVLMForConditionalGeneration
    processor: PuzzleProcessor
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
    processor = new_processor()
    model = new_model(config.model, processor)
    if config.start:
        model.load_state_dict(PuzzleVLMForConditionalGeneration.from_pretrained(config.start).state_dict())
    model.to(device)
    run = _Run(config, model, processor, make_optimizers(model, config.learning_rate, config.muon_filters), device)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    if config.resume and run.checkpoint.exists():
        run.progress, _ = load_checkpoint(run.checkpoint, model, run.optimizers, device)
    return run


def _chunks(run: _Run) -> Iterator[tuple[int, Chunk]]:
    size = run.config.chunk
    first, last = run.progress.seen // size, -(-run.config.samples // size)
    data = PuzzleChunks(run.processor, run.config.seed, range(first, last), size, run.config.families)
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
    index = torch.from_numpy(rows)
    pixels, cells = chunk.pixels[index].to(run.device), chunk.cells[index].to(run.device)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.bf16):
        if run.progress.seen < run.config.eye_samples:
            _, guesses = run.model.model.eye(to_pixels(pixels))
            step_loss, eye_loss = pixels.new_zeros((), dtype=torch.float), perception_loss(guesses, cells)
        else:
            ids, labels = text_batch(chunk, rows, run.processor.tokenizer.pad_token_id)
            step_loss, eye_loss = loss_of(run.model, pixels, cells, ids.to(run.device), labels.to(run.device))
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
    held_out = [generate_puzzle(VALIDATION_SEED, i) for i in range(config.validation_puzzles)]
    validation = encode(held_out, run.processor)
    answers, families = [p.answer for p in held_out], [p.family for p in held_out]
    run.model.train()
    began, due = time.perf_counter() - run.progress.seconds, run.progress.seen + config.validate_every
    for number, chunk in _chunks(run):
        losses = []
        for rows in batches(chunk, config.batch_size, np.random.default_rng([config.seed, number])):
            losses.append(_step(run, chunk, rows))
            run.progress.seen += len(rows)
            if progress:
                progress(run.progress.seen, config.samples, "steps {:.3f} eye {:.3f}".format(*losses[-1]))
        last = run.progress.seen >= config.samples
        if run.progress.seen >= due or last:
            accuracy, by_family = 0.0, dict[str, float]()
            if run.progress.seen > config.eye_samples:
                accuracy, by_family = greedy_accuracy(run.model, run.processor, validation, answers, families)
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
    run.processor.save_pretrained(out)
    write_facts(out, run.config, run.model, run.progress)
    return out
