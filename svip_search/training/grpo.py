"""Group-relative policy optimisation (GRPO) of an embedded policy on generated puzzles.

It exists to show the rewards of ``svip_search.rewards.rl_reward`` at work where one core is enough, and
calls them exactly as TRL's ``GRPOTrainer`` does.  For anything larger take that: the functions are the same.

    sample G completions for each of P puzzles
    A_i   = (r_i - mean of its group) / standard deviation over the batch
    ratio = p(token) / p_old(token)
    loss  = - mean over tokens of min(ratio A, clip(ratio, 1 - e, 1 + e) A) + kl_weight * KL(p | reference)

With ``credit="step"`` a reward that values steps (``RewardFunction.step_values``) is credited to the tokens of each
step, against the mean of the group's steps at that place: a fault is not laid to what was right before and after.
The deviation is the batch's, not the group's: where all completions of a group are about as good, small
differences stay small.  All tokens weigh the same, so length is neither favoured nor punished.
Source: Shao et al., "DeepSeekMath", arXiv 2402.03300, eq. 3 (and 4.1.3 for steps, which there get the sum of what
follows); the mean over tokens follows Yu et al., "DAPO", arXiv 2503.14476.  KL is estimated by half the squared
difference of the log-probabilities.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .._errors import TrainingError
from .._types import Candidate, ProposeRequest
from ..datasets.puzzles import FAMILIES, Puzzle, generate_puzzle
from ..datasets.puzzles.labels import is_right
from ..models.prompt import STEP_SEPARATOR, encode_step
from ..models.puzzle_processor import PuzzleProcessor
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from ..models.zoo import load_policy
from ..policies.transformers_policy import TransformersPolicy
from .checkpoint import Progress, load_checkpoint, save_checkpoint, write_facts
from .data import Chunk, encode, padded, to_pixels

#: Seeds of generated puzzles, apart from those of training (0 ...) and of its validation (2**31 - 1).
TRAIN_SEED, HELD_OUT_SEED = 1_700_000_000, 1_900_000_000

#: A reward function as TRL takes it: ``f(prompts=…, completions=…, **columns)``.
RewardFn = Callable[..., Sequence[float | None]]
Floats = NDArray[np.float64]


@dataclass
class GrpoConfig:
    """How an embedded policy is trained with rewards.

    Args:
        policy: name of an embedded policy, or a folder of one.
        out: folder for the trained policy, its log and the checkpoint.
        families: of puzzles to draw from; empty: all.
        reward_weights: one a reward function; 0 only logs it.  Empty: all 1.
        credit: ``chain`` (a completion's reward goes to all its tokens) or ``step``, see above.
        steps: batches of samples.
        prompts: puzzles a step.
        group: completions a puzzle.
        temperature: of the samples, in training and evaluation; the policy's probabilities are taken at it too.
        max_tokens: a completion is cut off there.
        epochs: times the samples of a step are gone through; more than one learns the step's puzzles by heart.
        batch: puzzles an update of the weights.
        learning_rate: of AdamW, after a rise over the first ten updates.
        clip: how far the ratio of probabilities may move, e above.
        train: ``norms`` (the scales of the normalisations: few numbers, which a few thousand completions can tell
            apart from noise), ``language`` (all weights but the eye's: what is learnt of pictures stays) or ``all``.
        kl_weight: weight of the divergence from the policy that the run started with; 0: none.
        seed: of puzzles and samples.
        threads: CPU threads, 0 = as torch chooses.
        eval_every: steps between two evaluations (and checkpoints).
        eval_puzzles: held-out puzzles of an evaluation.
        eval_samples: completions a held-out puzzle, beside the greedy one.
        resume: continue from the checkpoint in ``out`` if there is one.
    """

    policy: str = "puzzle-tiny"
    out: str = "runs/grpo"
    families: tuple[str, ...] = ()
    reward_weights: tuple[float, ...] = ()
    credit: str = "chain"
    steps: int = 30
    prompts: int = 32
    group: int = 8
    temperature: float = 1.0
    max_tokens: int = 128
    epochs: int = 1
    batch: int = 16
    learning_rate: float = 1e-4
    clip: float = 0.2
    train: str = "language"
    kl_weight: float = 0.02
    seed: int = 0
    threads: int = 0
    eval_every: int = 10
    eval_puzzles: int = 300
    eval_samples: int = 2
    resume: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "prompts", "max_tokens", "epochs", "batch", "eval_every", "eval_puzzles"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        for name in ("temperature", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if self.credit not in ("chain", "step"):
            raise ValueError(f"`credit` must be chain or step; got {self.credit!r}.")
        if self.train not in ("norms", "language", "all"):
            raise ValueError(f"`train` must be norms, language or all; got {self.train!r}.")
        if self.group < 2:
            raise ValueError(f"`group` must be at least 2, or there is nothing to compare; got {self.group}.")
        if not self.kl_weight >= 0 or self.eval_samples < 0:
            raise ValueError(
                f"`kl_weight` and `eval_samples` must be >= 0; got {self.kl_weight} and {self.eval_samples}."
            )
        if unknown := [f for f in self.families if f not in FAMILIES]:
            raise ValueError(f"`families` must name families of {sorted(FAMILIES)}; got {unknown}.")


# ---- samples -----------------------------------------------------------------------------------


@dataclass
class Samples:
    """Completions of a batch of puzzles.

    Attributes:
        puzzles: the P puzzles.
        group: int64 [N], the puzzle of each completion.
        texts: the N completions.
        ids: their token ids.
        sizes: how many of them each step has.
        log_prob: float64 [N], their log-probability at temperature 1 as the sampler saw it.
        exact: bool [N], whether ``ids`` are what was sampled.  A text that is not tokenised as it was
            written (an unknown word in it, a blank line) takes part in the group's mean, not in the loss.
    """

    puzzles: list[Puzzle]
    group: NDArray[np.int64]
    texts: list[str]
    ids: list[list[int]]
    sizes: list[list[int]]
    log_prob: Floats
    exact: NDArray[np.bool_]

    def rewards(self, functions: Sequence[RewardFn]) -> Floats:
        """Return float64 [N, functions], NaN where a function gives none; called as TRL calls them."""
        found = np.empty((len(self.texts), len(functions)))
        for f, function in enumerate(functions):
            values = function(**self.columns())
            if len(values) != len(self.texts):
                raise TrainingError(f"`{_name(function)}` must return {len(self.texts)} rewards; got {len(values)}.")
            found[:, f] = [math.nan if v is None else float(v) for v in values]
        return found

    def columns(self) -> dict[str, list[Any]]:
        """Return what TRL gives a reward function."""
        questions = [self.puzzles[g].question for g in self.group]
        return {
            "prompts": [q.text for q in questions],
            "completions": self.texts,
            "images": [list(q.images) for q in questions],
            "options": [list(q.options) for q in questions],
            "answer": [q.answer for q in questions],
        }

    def spread(self, values: Sequence[Any]) -> list[Floats]:
        """Return what each token of each completion gets: a number a completion, or one a step."""
        found = []
        for value, ids, sizes in zip(values, self.ids, self.sizes, strict=True):
            each = np.repeat(np.broadcast_to(np.asarray(value, np.float64), len(sizes)), sizes)
            # What ends the completion belongs to its last step; one that was cut off may lack a separator.
            found.append(np.pad(each, (0, max(0, len(ids) - len(each))), mode="edge")[: len(ids)])
        return found

    def right(self) -> NDArray[np.bool_]:
        """Return which completions end in the true answer."""
        pairs = zip(self.group, self.texts, strict=True)
        return np.array([is_right(self.puzzles[g], text.split(STEP_SEPARATOR)) for g, text in pairs], bool)


def sample(policy: TransformersPolicy, puzzles: list[Puzzle], n: int, temperature: float, seed: int) -> Samples:
    """Return ``n`` completions of every puzzle; the same seed gives the same ones."""
    requests = [ProposeRequest(p.question, (), n, seed + i, temperature, whole=True) for i, p in enumerate(puzzles)]
    found = policy.propose(requests)
    pairs = [(g, steps) for g, group in enumerate(found) for steps in group]
    written = [_written(policy, steps) for _, steps in pairs]
    return Samples(
        puzzles,
        np.array([g for g, _ in pairs], np.int64),
        [STEP_SEPARATOR.join(c.text for c in steps) for _, steps in pairs],
        [ids for ids, _, _ in written],
        [sizes for _, sizes, _ in written],
        np.array([sum(c.log_prob for c in steps) for _, steps in pairs]),
        np.array([exact for _, _, exact in written], bool),
    )


def _written(policy: TransformersPolicy, steps: Sequence[Candidate]) -> tuple[list[int], list[int], bool]:
    """Return the token ids of a completion, how many a step, and whether they are as many as were sampled."""
    each = [encode_step(policy.tokenizer, c.text) for c in steps]
    ids, sizes = [i for step in each for i in step], [len(step) for step in each]
    missing = sum(c.tokens for c in steps) - len(ids)
    if steps[-1].finish_reason == "stop":
        ids.append(policy.tokenizer.eos_token_id)
        return ids, sizes, missing == 1
    return (ids[:-1] if missing == -1 else ids), sizes, missing in (-1, 0)  # cut off, before or after a separator


def advantages(rewards: Floats, group: NDArray[np.int64]) -> Floats:
    """Return (r - mean of its group) / standard deviation of these differences; 0 where r is NaN.

    Args:
        rewards: [N], NaN for none.
        group: [N], the group of each.

    Example:
        >>> advantages(np.array([1.0, 0.0, 0.5, 0.5]), np.array([0, 0, 1, 1])).round(3).tolist()
        [1.414, -1.414, 0.0, 0.0]
    """
    known = ~np.isnan(rewards)
    values = np.where(known, rewards, 0.0)
    size = int(group.max(initial=-1)) + 1
    mean = np.bincount(group, values, size) / np.maximum(np.bincount(group, known, size), 1)
    centred = np.where(known, values - mean[group], 0.0)
    spread = math.sqrt(float((centred**2).sum()) / max(1, int(known.sum())))
    # Below this all rewards are equal but for rounding.
    return centred / spread if spread > 1e-7 else np.zeros_like(centred)


def step_advantages(values: Sequence[Floats | None], group: NDArray[np.int64]) -> list[Floats]:
    """Return for each step (v - mean of its group at that place) / standard deviation of these differences.

    Args:
        values: [T] of each completion, None for none (then its advantages are 0, of no length that matters).
        group: int64 [N], the group of each.

    Example:
        >>> found = step_advantages([np.array([1.0, 0.5]), np.array([0.0, 0.5])], np.array([0, 0]))
        >>> [a.round(3).tolist() for a in found]
        [[1.414, 0.0], [-1.414, 0.0]]
    """
    known = [np.zeros(0) if v is None else np.asarray(v, np.float64) for v in values]
    owner = np.repeat(np.arange(len(known)), [len(v) for v in known])
    place = np.concatenate([np.arange(len(v)) for v in known]) if known else np.zeros(0, np.int64)
    # Steps at one place of one group are compared with each other, as whole completions are.
    _, cell = np.unique(np.stack([group[owner], place]), axis=1, return_inverse=True)
    found = advantages(np.concatenate(known), cell.ravel()) if len(owner) else np.zeros(0)
    return np.split(found, np.cumsum([len(v) for v in known])[:-1])


# ---- log-probabilities -------------------------------------------------------------------------


def log_probs(
    model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: Sequence[int],
    completions: Sequence[Sequence[list[int]]], temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the log-probability of each token of the completions of some puzzles, in one forward pass.

    The completions of a puzzle stand one after another behind picture and question and do not see each
    other, so what they have in common is computed once.

    Args:
        model: the policy's model.
        chunk: tensors of the puzzles.
        rows: which of them.
        completions: for each row the token ids of its completions.
        temperature: the logits are divided by it.

    Returns:
        float32 [N, L] and the mask of the real tokens, bool [N, L]; N counts the completions in order.
    """
    visual_tokens = model.config.n_visual_tokens
    packed = [_packed(visual_tokens, chunk.prompts[r], c) for r, c in zip(rows, completions, strict=True)]
    ids, owner = padded([p[0] for p in packed], 0), padded([p[1] for p in packed], -1)
    places = padded([p[2] for p in packed], 0)
    index = torch.as_tensor(rows)
    visual, _ = model.model.get_image_features(to_pixels(chunk.pixels[index]))
    front = torch.arange(visual_tokens).expand(len(packed), -1)
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([visual, model.get_input_embeddings()(ids)], 1),
        attention_mask=_visible(owner, visual_tokens),
        position_ids=torch.cat([front, places], 1),
        use_cache=False,
    ).last_hidden_state
    flat = [(b, before, c) for b, p in enumerate(packed) for before, c in zip(p[3], completions[b], strict=True)]
    row = torch.tensor([b for b, _, _ in flat])
    before = padded([w for _, w, _ in flat], 0)
    words = padded([c for _, _, c in flat], -1)
    mask = words >= 0
    logits = model.lm_head(hidden[row[:, None].expand_as(before)[mask], before[mask]]).float() / temperature
    chosen = logits.log_softmax(-1).gather(-1, words[mask][:, None])[:, 0]
    return torch.zeros(words.shape).masked_scatter(mask, chosen), mask


def _packed(
    visual: int, prompt: list[int], completions: Sequence[list[int]]
) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    """Return ids, owner (0: prompt, 1…: completion), positions, and where each token is predicted."""
    ids, owner = list(prompt), [0] * len(prompt)
    places = list(range(visual, visual + len(prompt)))
    last, before = visual + len(prompt) - 1, []
    for k, completion in enumerate(completions, 1):
        start = visual + len(ids)
        before.append([last, *range(start, start + len(completion) - 1)])
        ids += completion
        owner += [k] * len(completion)
        places += range(last + 1, last + 1 + len(completion))
    return ids, owner, places, before


def _visible(owner: Tensor, visual: int) -> Tensor:
    """Return the attention mask [P, 1, V + L, V + L]: causal, what is common and the own completion."""
    full = functional.pad(owner, (visual, 0), value=0)
    query, key = full[:, :, None], full[:, None, :]
    causal = torch.ones(full.shape[1], full.shape[1], dtype=torch.bool).tril()
    return (causal & ((key == 0) | (key == query)))[:, None]


def policy_loss(new: Tensor, old: Tensor, reference: Tensor | None, advantage: Tensor, mask: Tensor,
                clip: float, kl_weight: float) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return (loss, KL from the reference), both means over the tokens in ``mask``.

    Args:
        new: [N, L], log-probabilities under the policy.
        old: [N, L], under the policy that sampled.
        reference: [N, L], under the policy at the start; None: no divergence is taken.
        advantage: [N, L].
        mask: bool [N, L].
        clip: e of the clipped ratio.
        kl_weight: weight of the divergence.
    """
    count = mask.sum().clamp(min=1)
    ratio = (new - old).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    kl = new.new_zeros(())
    if reference is not None:
        # Half the squared difference: one token that became unlikely must not outweigh all others, as it does
        # in the estimator exp(gap) - gap - 1.
        kl = ((reference - new) ** 2 * mask).sum() / (2 * count)
    return -(gain * mask).sum() / count + kl_weight * kl, kl


# ---- evaluation --------------------------------------------------------------------------------


def held_out(config: GrpoConfig) -> list[Puzzle]:
    """Return the puzzles of the evaluations: the same for every run with these families."""
    return [_puzzle(config, HELD_OUT_SEED, i) for i in range(config.eval_puzzles)]


def _puzzle(config: GrpoConfig, seed: int, index: int) -> Puzzle:
    return generate_puzzle(seed, index, families=config.families or None)


def evaluate_policy(
    policy: TransformersPolicy, puzzles: list[Puzzle], rewards: Sequence[RewardFn] = (), n: int = 2,
    temperature: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Return how good a policy is on some puzzles, greedy and sampled at a temperature.

    Returns:
        ``greedy``: share answered right without sampling; ``greedy_right`` and ``sampled_right``: for each
        puzzle whether the greedy answer is right, and the share of ``n`` samples that is; ``sampled``: mean
        of these; ``rewards``: mean of each function over the samples; ``steps``: mean number of steps.
    """
    policy.clear()
    greedy = sample(policy, puzzles, 1, 0.0, 0)
    right = np.zeros(len(puzzles))
    right[greedy.group] = greedy.right()
    report: dict[str, Any] = {"greedy": float(right.mean()), "greedy_right": right.astype(int).tolist()}
    if n:
        drawn = sample(policy, puzzles, n, temperature, HELD_OUT_SEED)
        share = np.bincount(drawn.group, drawn.right(), len(puzzles)) / n
        report |= {"sampled": float(share.mean()), "sampled_right": share.tolist(),
                   "rewards": _means(rewards, drawn.rewards(rewards)),
                   "steps": float(np.mean([t.count(STEP_SEPARATOR) + 1 for t in drawn.texts]))}  # fmt: skip
    policy.clear()
    return report


def _name(function: RewardFn) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _means(functions: Sequence[RewardFn], rewards: Floats) -> dict[str, float | None]:
    """Return the mean of each function's rewards [N, functions]; None where it gave none."""
    columns = [column[~np.isnan(column)] for column in rewards.T]
    return {_name(f): round(float(c.mean()), 4) if len(c) else None for f, c in zip(functions, columns, strict=True)}


# ---- the run -----------------------------------------------------------------------------------


@dataclass
class _Run:
    """Everything a run carries from step to step."""

    config: GrpoConfig
    rewards: Sequence[RewardFn]
    weights: Floats
    policy: TransformersPolicy
    reference: PuzzleVLMForConditionalGeneration | None
    optimizer: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)

    @property
    def model(self) -> PuzzleVLMForConditionalGeneration:
        model: PuzzleVLMForConditionalGeneration = self.policy.model
        return model

    @property
    def processor(self) -> PuzzleProcessor:
        processor: PuzzleProcessor = self.policy.processor
        return processor

    @property
    def checkpoint(self) -> Path:
        return Path(self.config.out) / "checkpoint.pt"

    @property
    def log_file(self) -> Path:
        return Path(self.config.out) / "training.jsonl"

    @property
    def settings(self) -> str:
        """What must not differ between the parts of a run."""
        free = ("out", "steps", "threads", "resume")
        return json.dumps({k: v for k, v in asdict(self.config).items() if k not in free})

    def log(self, record: dict[str, Any]) -> None:
        with open(self.log_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _start(config: GrpoConfig, rewards: Sequence[RewardFn]) -> _Run:
    weights = np.array(config.reward_weights or [1.0] * len(rewards))
    if not rewards or weights.shape != (len(rewards),):
        raise ValueError(
            f"`reward_weights` must have one weight a reward function, {len(rewards)}; got {len(weights)}."
        )
    if config.threads:
        torch.set_num_threads(config.threads)
    # Keys and values are of no use once the weights have changed.
    policy = load_policy(config.policy, cache_tokens=0, max_tokens=config.max_tokens)
    if not isinstance(policy.model, PuzzleVLMForConditionalGeneration):
        raise ValueError(
            f"`policy` must name an embedded policy; {config.policy!r} is a {type(policy.model).__name__}."
        )
    policy.model.eval()
    reference = deepcopy(policy.model).requires_grad_(False) if config.kl_weight else None
    for name, p in policy.model.named_parameters():
        p.requires_grad_(_is_trained(name, config.train))
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    run = _Run(config, rewards, weights, policy, reference, optimizer)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    if config.resume and run.checkpoint.exists():
        run.progress, extra = load_checkpoint(run.checkpoint, policy.model, [optimizer], torch.device("cpu"))
        if extra["settings"] != run.settings:
            raise TrainingError(f"'{run.checkpoint}' is of a run with other settings. Delete it, or use another `out`.")
    # What was logged after the checkpoint comes again.
    lines = run.log_file.read_text(encoding="utf-8").splitlines() if run.log_file.exists() else []
    kept = [line for line in lines if run.progress.seen and json.loads(line)["step"] <= run.progress.seen]
    run.log_file.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return run


def _is_trained(name: str, which: str) -> bool:
    if which == "norms":
        return "language_model" in name and "norm" in name
    return which == "all" or ".eye." not in name


def _step(run: _Run) -> dict[str, Any]:
    """Take the samples of one step, update the weights, and return what is to be logged."""
    config, step = run.config, run.progress.seen
    puzzles = [_puzzle(config, TRAIN_SEED + config.seed, step * config.prompts + i) for i in range(config.prompts)]
    run.policy.clear()
    seed = (config.seed << 40) + step * config.prompts
    samples = sample(run.policy, puzzles, config.group, config.temperature, seed)
    if not len(samples.group):
        raise TrainingError(f"The policy gave no completion in step {step}: its logits may be no numbers.")
    each = samples.rewards(run.rewards)
    total = np.where(np.isnan(each).all(1), math.nan, np.nansum(each * run.weights, 1))
    if np.isinf(total).any():
        raise TrainingError(f"The rewards of step {step} must be finite; got {total[np.isinf(total)][0]}.")
    losses, divergences = _update(run, samples, _credit(run, samples, each, total))
    return {
        "loss": float(np.mean(losses)), "kl": float(np.mean(divergences)),
        "rewards": _means(run.rewards, each),
        "right": round(float(samples.right().mean()), 4), "exact": round(float(samples.exact.mean()), 4),
        "tokens": round(float(np.mean([len(i) for i in samples.ids])), 2),
    }  # fmt: skip


def _credit(run: _Run, samples: Samples, each: Floats, total: Floats) -> list[Floats]:
    """Return the advantage of each token of each completion."""
    if run.config.credit == "chain":
        return samples.spread(advantages(total, samples.group).tolist())
    found = [np.zeros(len(ids)) for ids in samples.ids]
    for f, function in enumerate(run.rewards):
        if not run.weights[f]:
            continue
        if hasattr(function, "step_values"):
            gains: list[Any] = step_advantages(function.step_values(**samples.columns()), samples.group)
            gains = [g if len(g) == len(sizes) else 0.0 for g, sizes in zip(gains, samples.sizes, strict=True)]
        else:
            gains = advantages(each[:, f], samples.group).tolist()
        for mine, more in zip(found, samples.spread(gains), strict=True):
            mine += run.weights[f] * more
    return found


def _update(run: _Run, samples: Samples, advantage: list[Floats]) -> tuple[list[float], list[float]]:
    """Go through the samples ``epochs`` times and return the losses and divergences of the updates."""
    if not any(a.any() for a, exact in zip(advantage, samples.exact, strict=True) if exact):
        return [0.0], [0.0]  # nothing to learn, and AdamW would go on by its momentum
    config = run.config
    chunk = encode(samples.puzzles, run.processor)
    members = [np.flatnonzero((samples.group == g) & samples.exact) for g in range(len(samples.puzzles))]
    filled = [g for g, m in enumerate(members) if len(m)]
    cuts = [filled[i : i + config.batch] for i in range(0, len(filled), config.batch)]

    def forward(model: PuzzleVLMForConditionalGeneration, cut: list[int]) -> tuple[Tensor, Tensor]:
        completions = [[samples.ids[i] for i in members[g]] for g in cut]
        return log_probs(model, chunk, cut, completions, config.temperature)

    with torch.no_grad():
        old = [forward(run.model, cut)[0] for cut in cuts]
        reference = [forward(run.reference, cut)[0] if run.reference is not None else None for cut in cuts]
    gains = [_stacked([advantage[i] for g in cut for i in members[g]]) for cut in cuts]
    losses, divergences = [], []
    for epoch in range(config.epochs):
        for i in np.random.default_rng([config.seed, run.progress.seen, epoch]).permutation(len(cuts)):
            new, mask = forward(run.model, cuts[i])
            loss, kl = policy_loss(new, old[i], reference[i], gains[i], mask, config.clip, config.kl_weight)
            _descend(run, loss)
            losses.append(loss.item())
            divergences.append(kl.item())
    return losses, divergences


def _stacked(rows: Sequence[Floats]) -> Tensor:
    out = torch.zeros(len(rows), max(map(len, rows)))
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(row)
    return out


def _descend(run: _Run, loss: Tensor) -> None:
    """Update the weights, unless the loss or its gradient is no number."""
    run.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    if not torch.isfinite(loss) or not torch.isfinite(norm):
        raise TrainingError(
            f"The loss of step {run.progress.seen} must be finite; got {loss.item()} with a gradient of norm "
            f"{norm.item()}. Try a `learning_rate` below {run.config.learning_rate}."
        )
    # AdamW's first updates move every weight by the full rate, whatever the gradient.
    run.progress.steps += 1
    for group in run.optimizer.param_groups:
        group["lr"] = run.config.learning_rate * min(1.0, run.progress.steps / 10)
    run.optimizer.step()


def train_grpo(
    config: GrpoConfig, rewards: Sequence[RewardFn], progress: Callable[[int, int, str], None] | None = None
) -> Path:
    """Train a policy with rewards and return the folder of the finished model.

    Args:
        config: what to train and how.
        rewards: functions as TRL's ``GRPOTrainer`` takes them; they get ``prompts``, ``completions``,
            ``images``, ``options`` and ``answer``.  Their weighted sum counts; None counts as nothing.
        progress: called as ``progress(step, steps, text)`` after every step.

    Raises:
        TrainingError: a loss is no number, rewards are infinite, or the policy gives nothing.

    Notes:
        The same seed gives the same model on the same machine with the same number of threads.
        Interrupted runs continue from their last evaluation, and end where unbroken ones do.
        ``training.jsonl`` holds a line a step; those with an evaluation have ``"held_out"``.
    """
    run = _start(config, rewards)
    puzzles = held_out(config)
    began = time.perf_counter() - run.progress.seconds
    if not run.progress.seen:
        run.log(
            {
                "step": 0,
                "held_out": evaluate_policy(run.policy, puzzles, rewards, config.eval_samples, config.temperature),
            }
        )
    while run.progress.seen < config.steps:
        record = _step(run)
        run.progress.seen += 1
        run.progress.seconds = time.perf_counter() - began
        due = run.progress.seen % config.eval_every == 0 or run.progress.seen == config.steps
        if due:
            record["held_out"] = evaluate_policy(run.policy, puzzles, rewards, config.eval_samples, config.temperature)
        run.log({"step": run.progress.seen, "seconds": round(run.progress.seconds, 1), **record})
        if due:
            save_checkpoint(run.checkpoint, run.model, [run.optimizer], run.progress, settings=run.settings)
        if progress:
            progress(run.progress.seen, config.steps, f"right {record['right']:.2f} kl {record['kl']:.4f}")
    out = Path(config.out)
    run.model.save_pretrained(out)
    run.processor.save_pretrained(out)
    write_facts(out, config, run.model, run.progress)
    return out
