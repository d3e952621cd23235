"""Training of the embedded SVIP-Reward on right, corrupted and policy-sampled steps.

Every puzzle brings several chains of thought: one right, some corrupted, the rest sampled from
policies.  They are packed behind their common picture and question, so the prefix is computed once:

    [64 visual tokens][question][chain 1][chain 2]…     each chain sees the prefix and itself

Loss = binary cross-entropy with soft labels, summed over relevance, logic and attribute and masked
where a label is missing, + the eye's loss (see ``training.policy``) + cross-entropy of the right
chains' tokens, which keeps the backbone able to tell what it would have written itself.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor

from .._aggregate import Aggregate, aggregate, step_value
from .._types import DIMENSIONS, ProposeRequest
from ..datasets.puzzles import Puzzle, generate_puzzle
from ..datasets.puzzles.labels import LabelSource, corrupt, label_steps
from ..models.embedded import new_model, new_processor
from ..models.prompt import STEP_SEPARATOR
from ..models.puzzle_processor import PuzzleProcessor
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from ..policies.transformers_policy import TransformersPolicy
from ..rewards._triatt_cot import IMAGE, PADDING, PROMPT, QUESTION, STEP, TriAttCoT, surprise_of
from ..rewards.svip_reward import SvipReward
from .checkpoint import Progress as _Progress
from .checkpoint import load_checkpoint, save_checkpoint, write_facts
from .data import Chunk, encode, to_pixels
from .policy import VALIDATION_SEED, make_optimizers, perception_loss

Chain = list[str]


@dataclass
class TrainRewardConfig:
    """How the embedded reward model is trained.

    Args:
        out: folder for the finished model and its log.
        backbone: folder of a policy whose weights the backbone starts from; empty: from scratch.
        size: size of a backbone from scratch, as in ``TrainPolicyConfig.model``.
        policies: folders of policies whose samples are judged too.
        samples: puzzles to see in all.
        chains: chains of thought a puzzle: one right, one corrupted, the others sampled.
        batch_size: puzzles a step.
        learning_rate: peak learning rate.
        temperature: of the policies' samples; half of them are drawn hotter by a half.
        head_dim: width of TriAtt-CoT's queries, keys and values.
        n_kv_heads: 1 (shared by the dimensions) or 3.
        surprise: whether the head hears how unlikely the backbone held each token (see ``TriAttCoT``).
        seed: of the puzzles, the corruptions and the head.
        threads: CPU threads, 0 = as torch chooses.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        bf16: compute in bfloat16.
        validate_every: puzzles between two validations.
        validation_puzzles: held-out puzzles of a validation.
        chunk: puzzles drawn and judged at a time; runs resume at the start of one.
        resume: continue from the checkpoint in ``out`` if there is one.
    """

    out: str = "runs/svip-tiny"
    backbone: str = ""
    size: str = "puzzle-tiny"
    policies: tuple[str, ...] = ()
    samples: int = 20_000
    chains: int = 5
    batch_size: int = 16
    learning_rate: float = 1e-3
    temperature: float = 1.0
    head_dim: int = 64
    n_kv_heads: int = 3
    surprise: bool = True
    seed: int = 1
    threads: int = 0
    device: str = "auto"
    bf16: bool = False
    validate_every: int = 4096
    validation_puzzles: int = 200
    chunk: int = 512
    resume: bool = True

    def __post_init__(self) -> None:
        for name in ("samples", "batch_size", "validate_every", "validation_puzzles", "chunk"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if self.chains < 2:
            raise ValueError(f"`chains` must be at least 2; got {self.chains}.")


# ---- chains ----------------------------------------------------------------------------------


def sample_chains(
    policy: TransformersPolicy, puzzles: Sequence[Puzzle], n: int, temperature: float, seed: int
) -> list[list[Chain]]:
    """Return ``n`` sampled chains of thought for every puzzle."""
    requests = [ProposeRequest(p.question, (), n, seed + p.index, temperature, whole=True) for p in puzzles]
    return [[[c.text for c in steps] for steps in found] for found in policy.propose(requests)]


@dataclass
class LabelledChunk:
    """Puzzles, their tensors, and labelled chains of thought [P][K]."""

    puzzles: list[Puzzle]
    tensors: Chunk
    chains: list[list[Chain]]
    labels: list[list[NDArray[np.float32]]]


def labelled_chunk(
    config: TrainRewardConfig, policies: Sequence[TransformersPolicy],
    processor: PuzzleProcessor, number: int, size: int, source: LabelSource,
) -> LabelledChunk:  # fmt: skip
    """Return chunk ``number``: the same for the same configuration and policies."""
    puzzles = [generate_puzzle(config.seed, number * size + i) for i in range(size)]
    tensors = encode(puzzles, processor)
    rng = np.random.default_rng([config.seed, number, 1])
    chains: list[list[Chain]] = [[list(p.steps), corrupt(p, rng)] for p in puzzles]
    for k in range(config.chains - 2):
        if not policies:
            sampled = [[corrupt(p, rng)] for p in puzzles]
        else:
            hot = config.temperature * (1.0 if k % 2 == 0 else 1.5)
            policy = policies[k % len(policies)]
            sampled = sample_chains(policy, puzzles, 1, hot, k << 32)
        for mine, more in zip(chains, sampled, strict=True):
            mine.append(more[0][:16] if more and more[0] else ["answer"])
    labels = [[source(p, c) for c in cs] for p, cs in zip(puzzles, chains, strict=True)]
    return LabelledChunk(puzzles, tensors, chains, labels)


# ---- packed batches --------------------------------------------------------------------------


@dataclass
class Packed:
    """Chains packed behind their prefix, and where to find each chain's tokens afterwards.

    ``ids``, ``chain`` (0 prefix, 1.. chains, -1 padding) and ``positions`` are [P, L] without the
    visual tokens; ``gather``, ``segments``, ``step_index`` are [P * K, M] over the whole row with
    the visual tokens; ``separators`` and ``labels`` are [P * K, S] and [P * K, S, 3].
    """

    ids: Tensor
    chain: Tensor
    positions: Tensor
    gather: Tensor
    segments: Tensor
    step_index: Tensor
    separators: Tensor
    labels: Tensor


def pack(data: LabelledChunk, rows: NDArray[Any], processor: PuzzleProcessor, max_tokens: int = 110) -> Packed:
    """Return the packed tensors of some puzzles of a chunk; over-long chains lose their last steps."""
    visual, pad = processor.n_visual_tokens, processor.tokenizer.pad_token_id
    ids: list[list[int]] = []
    owner: list[list[int]] = []
    position: list[list[int]] = []
    views: list[dict[str, list[int]]] = []
    labels: list[NDArray[np.float32]] = []
    for r in rows:
        prompt = data.tensors.prompts[r]
        row, own, pos = list(prompt), [0] * len(prompt), list(range(visual, visual + len(prompt)))
        for k, chain in enumerate(data.chains[r], 1):
            steps = processor.tokenizer([s + STEP_SEPARATOR for s in chain], add_special_tokens=False)["input_ids"]
            lengths = np.cumsum([len(s) for s in steps])
            steps = steps[: max(1, int((lengths <= max_tokens).sum()))]
            views.append(_view(visual, len(prompt), visual + len(row), [len(s) for s in steps]))
            labels.append(data.labels[r][k - 1][: len(steps)])
            flat = [t for s in steps for t in s]
            row += flat
            own += [k] * len(flat)
            pos += range(visual + len(prompt), visual + len(prompt) + len(flat))
        ids.append(row)
        owner.append(own)
        position.append(pos)
    most = max(len(la) for la in labels)
    stacked = np.full((len(labels), most, 3), np.nan, np.float32)
    for i, la in enumerate(labels):
        stacked[i, : len(la)] = la
    return Packed(
        _pad(ids, pad), _pad(owner, -1), _pad(position, 0), _pad([v["gather"] for v in views], 0),
        _pad([v["segments"] for v in views], QUESTION), _pad([v["steps"] for v in views], PADDING),
        _pad([v["separators"] for v in views], -1), torch.from_numpy(stacked),
    )  # fmt: skip


def _view(visual: int, prompt: int, start: int, lengths: list[int]) -> dict[str, list[int]]:
    """Return one chain's tokens as seen alone: prefix first, then its own steps."""
    prefix, own = visual + prompt, sum(lengths)
    return {
        "gather": [*range(prefix), *range(start, start + own)],
        "segments": [IMAGE] * visual + [QUESTION] * prompt + [STEP] * own,
        "steps": [PROMPT] * prefix + [s for s, n in enumerate(lengths) for _ in range(n)],
        "separators": [prefix + int(e) - 1 for e in np.cumsum(lengths)],
    }


def _pad(rows: list[list[int]], value: int) -> Tensor:
    out = torch.full((len(rows), max(map(len, rows))), value)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row)
    return out


def visible(chain: Tensor, visual: int) -> Tensor:
    """Return the attention mask [P, 1, V + L, V + L]: causal, prefix and own chain only."""
    full = functional.pad(chain, (visual, 0), value=0)
    query, key = full[:, :, None], full[:, None, :]
    causal = torch.ones(full.shape[1], full.shape[1], dtype=torch.bool, device=chain.device).tril()
    return (causal & ((key == 0) | (key == query)))[:, None]


class _Model(torch.nn.Module):
    """Backbone and head as one trainable module."""

    def __init__(self, backbone: PuzzleVLMForConditionalGeneration, head: TriAttCoT) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pixels: Tensor, batch: Packed) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the logits [P * K, S, 3], the eye's guesses, and the language loss of the right chains."""
        inner = self.backbone.model
        visual, guesses = inner.get_image_features(to_pixels(pixels))
        embeds = torch.cat([visual, inner.get_input_embeddings()(batch.ids)], 1)
        places = torch.arange(visual.shape[1], device=embeds.device).expand(len(embeds), -1)
        hidden = inner.language_model(
            inputs_embeds=embeds,
            attention_mask=visible(batch.chain, visual.shape[1]),
            position_ids=torch.cat([places, batch.positions], 1),
            use_cache=False,
        ).last_hidden_state
        row = torch.arange(len(batch.gather), device=hidden.device) // (len(batch.gather) // len(hidden))
        alone = hidden[row[:, None], batch.gather]
        ids = functional.pad(batch.ids, (visual.shape[1], 0))[row[:, None], batch.gather]
        step = batch.step_index[:, 1:] >= 0
        expected = self.backbone.lm_head(alone[:, :-1])
        first = torch.arange(len(row), device=row.device) % (len(row) // len(hidden)) == 0
        chosen = step & first[:, None]  # the first chain of every puzzle is the right one
        language = functional.cross_entropy(expected[chosen].float(), ids[:, 1:][chosen])
        # The likelihood is a measurement here: only the right chains may teach the language model.
        surprise = functional.pad(surprise_of(expected.detach(), ids[:, 1:]) * step, (1, 0))
        heard = self.head.hear(alone, surprise)
        return self.head(heard, batch.segments, batch.step_index, batch.separators), guesses, language


def reward_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the masked soft cross-entropy, averaged over steps and summed over dimensions."""
    known = ~labels.isnan()
    each = functional.binary_cross_entropy_with_logits(logits.float(), labels.nan_to_num(), reduction="none")
    per_dimension = (each * known).sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
    return per_dimension.sum()


# ---- validation ------------------------------------------------------------------------------


def auroc(scores: NDArray[Any], positive: NDArray[Any]) -> float:
    """Return the area under the ROC curve (ties count half); NaN where one class is missing."""
    order = np.argsort(scores, kind="stable")
    _, inverse, counts = np.unique(scores[order], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = np.empty(len(scores))
    ranks[order] = (ends - (counts - 1) / 2)[inverse]
    n, p = len(scores), int(positive.sum())
    if p in (0, n):
        return float("nan")
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


AGGREGATES: tuple[Aggregate, ...] = ("mean", "min", "product", "mean_log_odds", "last")


def validate(
    reward: SvipReward, puzzles: list[Puzzle], sampled: list[list[Chain]], source: LabelSource
) -> dict[str, Any]:
    """Return AUROC a dimension, and how often each way of choosing among the samples is right."""
    scores, labels = [], []
    right: dict[str, list[bool]] = {name: [] for name in ("first", "majority", "any", *AGGREGATES)}
    for puzzle, chains in zip(puzzles, sampled, strict=True):
        chains = [c for c in chains if c]
        rewards = reward.evaluate(puzzle.question, [tuple(c) for c in chains])
        scores += rewards
        labels += [source(puzzle, c) for c in chains]
        answers = [c[-1] for c in chains]
        truth = f"answer : {puzzle.answer}"
        right["first"].append(answers[0] == truth)
        right["any"].append(truth in answers)
        right["majority"].append(Counter(answers).most_common(1)[0][0] == truth)
        for how in AGGREGATES:
            values = [aggregate(step_value(r), how) for r in rewards]
            right[how].append(answers[int(np.argmax(values))] == truth)
    score, label = np.concatenate(scores), np.concatenate(labels)
    report: dict[str, Any] = {f"right_{k}": round(float(np.mean(v)), 4) for k, v in right.items()}
    for c, name in enumerate(DIMENSIONS):
        known = ~np.isnan(label[:, c])
        report[f"auroc_{name}"] = round(auroc(score[known, c], label[known, c] > 0.99), 4)
    return report


# ---- the run ---------------------------------------------------------------------------------


def _rate(seen: int, config: TrainRewardConfig) -> float:
    warmup = min(1.0, (seen + config.batch_size) / (100 * config.batch_size))
    return config.learning_rate * min(warmup, 1.0 - seen / max(1, config.samples))


def _batches(size: int, batch_size: int, seed: Sequence[int]) -> Iterator[NDArray[Any]]:
    order = np.random.default_rng(seed).permutation(size)
    yield from (order[i : i + batch_size] for i in range(0, size, batch_size))


def train_reward(
    config: TrainRewardConfig, progress: Callable[[int, int, str], None] | None = None,
    source: LabelSource = label_steps,
) -> Path:  # fmt: skip
    """Train SVIP-Reward and return the folder of the finished model.

    Args:
        config: what to train and how.
        progress: called as ``progress(seen, samples, text)`` after every batch.
        source: gives the labels of the steps; scene truth by default.
    """
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    )
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    processor = AutoProcessor.from_pretrained(config.backbone) if config.backbone else new_processor()
    backbone = (
        AutoModelForImageTextToText.from_pretrained(config.backbone)
        if config.backbone
        else new_model(config.size, processor)
    )
    head = TriAttCoT(
        backbone.config.text_config.hidden_size, config.head_dim, config.n_kv_heads, surprise=config.surprise
    )
    model = _Model(backbone, head).to(device).train()
    policies = [TransformersPolicy.load(p, device=device, cache_tokens=0) for p in config.policies]
    optimizers = make_optimizers(model, config.learning_rate)
    out, size = Path(config.out), config.chunk
    out.mkdir(parents=True, exist_ok=True)
    held_out = [generate_puzzle(VALIDATION_SEED, i) for i in range(config.validation_puzzles)]
    judge = policies[-1] if policies else TransformersPolicy(backbone, processor, cache_tokens=0)
    sampled = sample_chains(judge, held_out, 8, 1.0, 0)
    state = _Progress()
    checkpoint = out / "checkpoint.pt"
    if config.resume and checkpoint.exists():
        state = load_checkpoint(checkpoint, model, optimizers, device)
    began = time.perf_counter() - state.seconds
    for number in range(state.seen // size, -(-config.samples // size)):
        data = labelled_chunk(config, policies, processor, number, size, source)
        losses = []
        for rows in _batches(size, config.batch_size, [config.seed, number, 2]):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = max(0.0, _rate(state.seen, config))
            losses.append(_step(model, optimizers, data, rows, processor, device, config.bf16))
            state.seen += len(rows)
            if progress:
                progress(min(state.seen, config.samples), config.samples, f"loss {losses[-1]:.3f}")
        state.seconds = time.perf_counter() - began
        if state.seen // config.validate_every > (state.seen - size) // config.validate_every or (
            state.seen >= config.samples
        ):
            reward = SvipReward(model.backbone, processor, model.head)
            record = {"seen": state.seen, "seconds": round(state.seconds), "loss": round(float(np.mean(losses)), 4),
                      **validate(reward, held_out, sampled, source)}  # fmt: skip
            with open(out / "training.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            reward.save(out)
            model.train()
        save_checkpoint(checkpoint, model, optimizers, state)
    write_facts(out, config, model, state)
    return out


def _step(
    model: _Model, optimizers: list[torch.optim.Optimizer], data: LabelledChunk, rows: NDArray[Any],
    processor: PuzzleProcessor, device: torch.device, bf16: bool,
) -> float:  # fmt: skip
    batch = pack(data, rows, processor)
    batch = Packed(**{k: v.to(device) for k, v in vars(batch).items()})
    index = torch.from_numpy(rows)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits, guesses, language = model(data.tensors.pixels[index].to(device), batch)
    loss = reward_loss(logits, batch.labels)
    eye = perception_loss(guesses, data.tensors.cells[index].to(device))
    for optimizer in optimizers:
        optimizer.zero_grad()
    (loss + 0.5 * eye + language).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()
