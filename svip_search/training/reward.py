"""Training of SVIP-Reward on labelled chains of thought: ``svip-search train reward``.

::

    trees    = all chains of a question, equal beginnings once           (step_trees)
    logits   = scorer(trees)                 one row of 3 for every node  (puzzle_scorer, frozen_scorer, …)
    loss     = sum over dimensions of mean cross-entropy with soft labels, where a label is known
    then     : the weights of the lowest loss on held-out questions; a temperature a dimension; a scoring

Questions are held out by what they ask and show, so no seed or scene of training is among them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .._aggregate import Scoring
from .._errors import TrainingError
from .._types import DIMENSIONS
from ..datasets.svip import SvipRecord, is_correct
from ..evaluation.metrics import auroc, calibration_error
from .calibration import fit_scoring, fit_temperatures, fit_thresholds
from .checkpoint import Progress, load_checkpoint, load_trained_state, save_checkpoint, trained_state, write_facts
from .scorers import TUNES, make_scorer
from .step_scorer import StepScorer
from .step_trees import Labels, StepTree, hold_out, question_of, read_step_trees

SOURCES = ("all", "program", "policy")
Report = Callable[[int, int, str], None]


@dataclass
class TrainRewardConfig:
    """How a reward model is trained.

    Args:
        data: data sets of ``svip-search data build``, or files of such records.
        out: folder for the finished model, its log and the checkpoint.
        backbone: embedded model, folder or hub id whose weights the backbone starts from; empty: a new one of ``size``.
        size: size of a new backbone, as in ``TrainPolicyConfig.model``.
        tune: what is trained: ``full`` (all weights, embedded backbones), ``frozen`` (the head, on hidden states
            that are computed once), ``lora`` (the head and low-rank updates of the backbone); ``auto``: full for
            embedded backbones, else frozen.
        labels: ``soft``; ``hard`` (0 or 1); ``outcome`` (each step gets the share of its chains that end right).
        dimensions: what the loss counts.
        dimension_weights: weight of each of these in the loss; empty: all alike.
        sources: which chains count: ``all``, those of programs (``program``) or of policies (``policy``).
        samples: questions to see in all; data that is shorter is seen again in another order.
        batch_size: questions a step.
        learning_rate: peak, of the backbone; both rates warm up over 100 steps and fall linearly to zero: what a head
            can tell shows in the last part of a run.
        head_learning_rate: peak, of the head.
        head_dim: width of TriAtt-CoT's queries, keys and values.
        n_kv_heads: 1 (keys and values shared by the dimensions) or 3.
        n_heads: 3, or 1 for one attention that the dimensions share.
        query: ``conditioned`` on the end of the step, or ``constant``.
        segment_bias: whether each dimension learns where to look: question, image, earlier steps, this step.
        mlp: a hidden GELU layer in the head.
        surprise: whether the head hears how unlikely the backbone held each token (see ``TriAttCoT``).
        seed: of the head and the order of the data.
        threads: CPU threads, 0 = as torch chooses.
        device: ``auto``, ``cpu`` or ``cuda``.
        bf16: compute in bfloat16.
        validate_every: questions between two validations, each of which leaves a checkpoint.
        validation: held-out questions of a validation.
        patience: validations without a lower loss after which training ends; 0: never.
        calibrate: fit a temperature a dimension and the scoring on held-out questions at the end.
        resume: continue from the checkpoint in ``out`` if there is one.
        skip_bad: pass over records that cannot be used, and count them, instead of stopping.
        cache: folder for the hidden states of a frozen backbone; empty: ``hidden-states`` in ``out``.
        cache_dtype: number type of these: ``float16``, ``bfloat16`` or ``float32``.
        lora_rank: rank of the updates.
        gradient_checkpointing: with ``lora``, compute layers again instead of keeping them: less memory, more time.
        adapter_only: with ``lora``, save the updates alone; ``backbone`` must then stay where it is.
        domain_weights: learn a weight a domain that favours what helps on the questions of ``meta`` (DreamPRM).
        meta: data sets that are trusted; empty: the held-out questions, whose noise the weights then learn too.
        meta_every: steps between two updates of these weights.
    """

    data: tuple[str, ...] = ()
    out: str = "runs/svip"
    backbone: str = ""
    size: str = "puzzle-tiny"
    tune: str = "auto"
    labels: str = "soft"
    dimensions: tuple[str, ...] = DIMENSIONS
    dimension_weights: tuple[float, ...] = ()
    sources: str = "all"
    samples: int = 20_000
    batch_size: int = 8
    learning_rate: float = 1e-3
    head_learning_rate: float = 3e-3
    head_dim: int = 64
    n_kv_heads: int = 3
    n_heads: int = 3
    query: str = "conditioned"
    segment_bias: bool = True
    mlp: bool = False
    surprise: bool = True
    seed: int = 1
    threads: int = 0
    device: str = "auto"
    bf16: bool = False
    validate_every: int = 4096
    validation: int = 400
    patience: int = 4
    calibrate: bool = True
    resume: bool = True
    skip_bad: bool = False
    cache: str = ""
    cache_dtype: str = "float16"
    lora_rank: int = 8
    gradient_checkpointing: bool = False
    adapter_only: bool = False
    domain_weights: bool = False
    meta: tuple[str, ...] = ()
    meta_every: int = 5

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "validate_every", "validation", "head_dim", "lora_rank", "meta_every"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if not self.data:
            raise ValueError("`data` must name at least one data set (svip-search data build makes one); got none.")
        choices = {"tune": TUNES, "labels": ("soft", "hard", "outcome"), "sources": SOURCES,
                   "query": ("conditioned", "constant"),
                   "cache_dtype": ("float16", "bfloat16", "float32")}  # fmt: skip
        for name, admissible in choices.items():
            if getattr(self, name) not in admissible:
                raise ValueError(f"`{name}` must be one of {', '.join(admissible)}; got {getattr(self, name)!r}.")
        if not self.dimensions or set(self.dimensions) - set(DIMENSIONS):
            raise ValueError(f"`dimensions` must be among {', '.join(DIMENSIONS)}; got {', '.join(self.dimensions)!r}.")
        if self.dimension_weights and (
            len(self.dimension_weights) != len(self.dimensions) or not min(self.dimension_weights) > 0
        ):
            raise ValueError(
                f"`dimension_weights` must be {len(self.dimensions)} numbers above 0; got {self.dimension_weights}."
            )

    @property
    def columns(self) -> tuple[int, ...]:
        """Indices of the dimensions that the loss counts."""
        return tuple(DIMENSIONS.index(name) for name in self.dimensions)


# ---- loss ------------------------------------------------------------------------------------


def reward_loss(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, dimensions: Tensor | None = None
) -> Tensor:
    """Return the masked soft cross-entropy: mean over steps, sum over dimensions.

    Args:
        logits: [N, 3].
        targets: [N, 3] in [0, 1], NaN where nothing is known.
        weights: [N] of the steps; default 1.
        dimensions: [3]; default 1.

    Example:
        >>> targets = torch.tensor([[0.5, float("nan"), 0.5]])
        >>> round(reward_loss(torch.zeros(1, 3), targets).item(), 4)  # twice log 2
        1.3863
    """
    known = ~targets.isnan()
    each = functional.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none")
    weighted = each * known if weights is None else each * known * weights[:, None]
    per_dimension = weighted.sum(0) / known.sum(0).clamp(min=1)
    return per_dimension.sum() if dimensions is None else (per_dimension * dimensions).sum()


# ---- the run ---------------------------------------------------------------------------------


@dataclass
class _Run:
    config: TrainRewardConfig
    scorer: StepScorer
    optimizers: list[torch.optim.Optimizer]
    device: torch.device
    training: list[StepTree]
    held_out: list[StepTree]
    dimensions: Tensor
    domains: Any = None
    meta: list[StepTree] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"


def train_reward(config: TrainRewardConfig, progress: Report | None = None) -> Path:
    """Train SVIP-Reward and return the folder of the finished model.

    Args:
        config: what to train and how.
        progress: called as ``progress(seen, samples, text)`` after every batch.

    Raises:
        TrainingError: the data does not suit the backbone, the loss is no number, or the checkpoint is damaged.
        ValueError: a data set does not exist or has no usable record.

    Notes:
        The same settings give the same model on the same machine with the same number of threads.  An
        interrupted run continues from its last validation.
    """
    run = _start(config, progress)
    due = _next(run.progress.seen, config.validate_every)
    losses: list[float] = []
    for batch in _batches(run):
        if _ended(run):
            break
        losses.append(_step(run, batch))
        run.progress.seen += len(batch)
        run.progress.steps += 1
        if progress:
            progress(min(run.progress.seen, config.samples), config.samples, f"loss {losses[-1]:.3f}")
        if run.progress.seen >= min(due, config.samples):
            due = _next(run.progress.seen, config.validate_every)
            _validate(run, losses)
            losses = []
    return _finish(run)


def _ended(run: _Run) -> bool:
    """Whether enough was seen, or nothing was gained for long enough; also of a finished run that is resumed."""
    config, progress = run.config, run.progress
    return progress.seen >= config.samples or 0 < config.patience <= progress.waited


def _next(seen: int, every: int) -> int:
    return (seen // every + 1) * every


def _start(config: TrainRewardConfig, progress: Report | None) -> _Run:
    name = config.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    training, held_out = _read(config)
    scorer = make_scorer(config, device)
    scorer.prepare([*training, *held_out], progress)
    weights = torch.zeros(len(DIMENSIONS), device=device)
    weights[list(config.columns)] = torch.tensor(config.dimension_weights or [1.0] * len(config.columns), device=device)
    optimizers = scorer.make_optimizers(config.learning_rate, config.head_learning_rate)
    run = _Run(config, scorer, optimizers, device, training, held_out, weights)
    run.peaks = [group["lr"] for o in optimizers for group in o.param_groups]  # a checkpoint brings those of its time
    if config.domain_weights:
        from .domain_weights import DomainWeights

        run.domains = DomainWeights(sorted({tree.domain for tree in training})).to(device)
        run.meta = read_step_trees(config.meta) if config.meta else held_out
    if config.resume and run.checkpoint.exists():
        run.progress, kept = load_checkpoint(run.checkpoint, scorer, run.optimizers, device)
        run.best = kept["best"]
        if run.domains is not None:
            run.domains.load_state_dict(kept["domains"])
    run.began = time.perf_counter() - run.progress.seconds
    return run


def _read(config: TrainRewardConfig) -> tuple[list[StepTree], list[StepTree]]:
    skipped: Counter[str] | None = Counter() if config.skip_bad else None

    training, held_out = hold_out(read_step_trees(config.data, None, skipped))
    if config.sources != "all":  # held-out questions keep all: a search meets policies, whatever was trained on
        known = {question_of(tree.record) for tree in training}

        def wanted(record: SvipRecord) -> bool:
            return record.source.startswith(config.sources) and question_of(record) in known

        training = read_step_trees(config.data, wanted, None if skipped is None else Counter())
    if skipped:
        (Path(config.out) / "skipped.json").write_text(json.dumps(skipped, indent=1) + "\n", encoding="utf-8")
    return training, held_out[: config.validation]


def _batches(run: _Run) -> Any:
    """Yield the batches that are left: epoch after epoch, trees of similar size together, in random order."""
    config, sizes = run.config, np.array([sum(map(len, tree.steps)) for tree in run.training])
    done = run.progress.steps
    per_epoch = -(-len(sizes) // config.batch_size)
    for epoch in range(done // per_epoch, 1 + config.samples // len(sizes) + 1):
        rng = np.random.default_rng([config.seed, epoch])
        order = np.argsort(sizes * rng.uniform(0.8, 1.25, len(sizes)))
        cut = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]
        first = done - epoch * per_epoch if epoch == done // per_epoch else 0
        for b in rng.permutation(len(cut))[first:]:
            yield [run.training[i] for i in cut[b]]


def _rate(run: _Run) -> float:
    """Return the learning rate in shares of its peak: warm-up, then a linear fall to zero."""
    warmup = min(1.0, (run.progress.steps + 1) / 100)
    return max(0.0, min(warmup, 1.0 - run.progress.seen / run.config.samples))


def targets_of(trees: Sequence[StepTree], labels: str, device: torch.device) -> Tensor:
    """Return the targets [sum of nodes, 3] of some trees."""
    return torch.from_numpy(np.concatenate([t.targets(cast(Labels, labels)) for t in trees])).to(device)


def _step(run: _Run, batch: list[StepTree]) -> float:
    config, rate, peaks = run.config, _rate(run), list(run.peaks)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * peaks.pop(0)
        optimizer.zero_grad()
    run.scorer.train()
    targets = targets_of(batch, config.labels, run.device)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=config.bf16):
        logits, own = run.scorer(batch)
    loss = reward_loss(logits, targets, _weights(run, batch), run.dimensions)
    total = loss + own
    if not torch.isfinite(total):
        rates = f"({config.learning_rate}, {config.head_learning_rate})"
        raise TrainingError(
            f"the loss is {total.item()} after {run.progress.seen} questions; lower `learning_rate` and "
            f"`head_learning_rate` {rates} and give the same command again: it goes on from the last validation."
        )
    total.backward()
    trained = [p for p in run.scorer.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    for optimizer in run.optimizers:
        optimizer.step()
    if run.domains is not None and run.progress.steps % config.meta_every == 0:
        _reweigh(run, batch)
    return loss.item()


def _weights(run: _Run, batch: list[StepTree]) -> Tensor | None:
    if run.domains is None:
        return None
    each: Tensor = run.domains.weights_of([tree.domain for tree in batch]).detach()
    return each.repeat_interleave(torch.tensor([len(tree) for tree in batch], device=run.device))


def _reweigh(run: _Run, batch: list[StepTree]) -> None:
    rng = np.random.default_rng([run.config.seed, run.progress.steps])
    meta = [run.meta[i] for i in rng.integers(len(run.meta), size=run.config.batch_size)]

    def loss(logits: Tensor, trees: Sequence[StepTree]) -> Tensor:
        return reward_loss(logits, targets_of(trees, run.config.labels, run.device), None, run.dimensions)

    run.domains.step(run.scorer, batch, meta, loss)


# ---- validation and the end --------------------------------------------------------------------


def predict(scorer: StepScorer, trees: Sequence[StepTree], batch_size: int = 32) -> Tensor:
    """Return the logits float32 [sum of nodes, 3] of some trees, on the CPU."""
    training = scorer.training
    scorer.eval()
    with torch.no_grad():
        found = [scorer(trees[i : i + batch_size])[0].float().cpu() for i in range(0, len(trees), batch_size)]
    scorer.train(training)
    return torch.cat(found)


def step_metrics(logits: Tensor, labels: NDArray[np.float32]) -> dict[str, float | None]:
    """Return AUROC and calibration error of each dimension, 0 to 1, None where there is nothing to measure.

    AUROC tells right from wrong steps as `is_correct` has them; the calibration error takes labels as they are.
    """
    rewards, right = logits.sigmoid().double().numpy(), is_correct(labels)
    report: dict[str, float] = {}
    for c, name in enumerate(DIMENSIONS):
        known = ~np.isnan(labels[:, c])
        report[f"auroc_{name}"] = auroc(rewards[known, c], right[known, c])
        report[f"calibration_error_{name}"] = calibration_error(rewards[known, c], labels[known, c])
    return {name: None if np.isnan(value) else round(value, 4) for name, value in report.items()}


def _validate(run: _Run, losses: list[float]) -> None:
    """Measure on held-out questions, note it, and leave a checkpoint."""
    logits = predict(run.scorer, run.held_out)
    targets = targets_of(run.held_out, run.config.labels, torch.device("cpu"))
    held_out = float(reward_loss(logits, targets, None, run.dimensions.cpu()))
    if held_out < run.progress.best:
        run.progress.best, run.progress.best_seen, run.progress.waited = held_out, run.progress.seen, 0
        run.best = trained_state(run.scorer)
    else:
        run.progress.waited += 1
    run.progress.seconds = time.perf_counter() - run.began
    labels = np.concatenate([tree.labels for tree in run.held_out])
    record: dict[str, Any] = {
        "seen": run.progress.seen, "seconds": round(run.progress.seconds), "loss": round(float(np.mean(losses)), 4),
        "held_out_loss": round(held_out, 4), **step_metrics(logits, labels),
    }  # fmt: skip
    if run.domains is not None:
        record["domain_weights"] = {d: round(w, 3) for d, w in run.domains.as_dict().items()}
    with open(run.out / "training.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    domains = {} if run.domains is None else run.domains.state_dict()
    save_checkpoint(run.checkpoint, run.scorer, run.optimizers, run.progress, best=run.best, domains=domains)


def load_best(config: TrainRewardConfig) -> tuple[StepScorer, Scoring]:
    """Return the scorer of a finished run, calibrated, and its scoring."""
    device = torch.device("cpu")
    scorer = make_scorer(config, device)
    state = torch.load(Path(config.out) / "checkpoint.pt", map_location=device, weights_only=True)
    load_trained_state(scorer, state["extra"]["best"])
    facts = json.loads((Path(config.out) / "training.json").read_text(encoding="utf-8"))
    scorer.head.temper(torch.tensor(facts.get("temperatures", [1.0] * len(DIMENSIONS))))
    saved = json.loads((Path(config.out) / "config.json").read_text(encoding="utf-8")).get("scoring")
    return scorer, Scoring(**saved) if saved else Scoring()


def _finish(run: _Run) -> Path:
    """Take the best weights, calibrate, choose a scoring, and write the model."""
    load_trained_state(run.scorer, run.best)
    facts: dict[str, Any] = {"best_seen": run.progress.best_seen, "questions": len(run.training)}
    reward = run.scorer.reward_model()
    if run.config.calibrate:
        labels = np.concatenate([tree.labels for tree in run.held_out])
        logits = predict(run.scorer, run.held_out)
        targets = targets_of(run.held_out, run.config.labels, torch.device("cpu"))
        temperatures = fit_temperatures(logits, targets)
        reward.head.temper(temperatures)
        logits = logits / temperatures
        ends = np.cumsum([len(tree) for tree in run.held_out])[:-1]
        rewards = np.split(logits.sigmoid().numpy(), ends)
        reward.scoring = fit_scoring(run.held_out, rewards, run.config.columns)
        reward.thresholds = fit_thresholds(np.concatenate(rewards), labels)
        facts |= {"temperatures": [round(t, 4) for t in temperatures.tolist()], **step_metrics(logits, labels)}
    reward.save(run.out)
    whole = torch.nn.ModuleList([reward.backbone, reward.head])
    write_facts(run.out, run.config, whole, run.progress, **facts)
    return run.out
