"""Questions and steps run through a backbone: every prefix once, siblings together.

What is missing is cut into *runs*, chains of new steps without a fork, and all runs whose beginning is known,
of whatever question, go through the backbone as one batch over the keys and values that were kept.  What is
done with the hidden states is the affair of who reads: `SvipReward.evaluate_many` projects them, `read_states`
keeps them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .._budget import Usage
from .._errors import RewardError
from .._types import Prefix, Question
from ..models.kv_cache import BatchCache, KeyValues
from ..models.prompt import build_inputs, encode_step
from ._triatt_cot import IMAGE, QUESTION, STEP, surprise_of

#: Most prompts in one pass: a picture takes far more memory than a step.
PROMPTS = 8


@dataclass(frozen=True, eq=False)
class States:
    """What the backbone makes of the tokens of one prompt or step.

    Attributes:
        hidden: float32 [L, D], last hidden states.
        surprise: float32 [L], how unlikely the backbone held each token (`surprise_of`); 0 in a prompt.
        segments: uint8 [L], 0 question, 1 image, 2 step.
    """

    hidden: Tensor
    surprise: Tensor
    segments: NDArray[np.uint8]


@dataclass(frozen=True)
class Piece:
    """A prefix among the rows of a batch: its own tokens are ``[start, stop)`` of a row."""

    reading: Reading
    prefix: Prefix
    row: int
    start: int
    stop: int
    columns: KeyValues


class Reading:
    """What has been read of one question: of its prompt, ``()``, and of prefixes of steps.

    Args:
        question: the question.

    Attributes:
        ids: token ids of each prefix, its own step alone.
        kv: what is kept of each, held here so that nothing can be evicted under the call.
        last: last hidden state of each: what the backbone expects to come next.
        paths: that are asked about.
        missing: prefixes that have to go through the backbone for them.
        offset: of positions against token counts, in models with image-aware positions.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.ids: dict[Prefix, tuple[int, ...]] = {}
        self.kv: dict[Prefix, Any] = {}
        self.last: dict[Prefix, Tensor] = {}
        self.paths: list[Prefix] = []
        self.missing: list[Prefix] = []
        self.offset = 0

    def length(self, path: Prefix) -> int:
        """Return the number of tokens from the start of the prompt to the end of a path."""
        return sum(len(self.ids[path[:i]]) for i in range(len(path) + 1))

    def count(self, usage: Usage) -> None:
        """Add what the paths took."""
        read = sum(self.length(p) for p in self.paths)
        ran = sum(len(self.ids[p]) for p in self.missing)
        usage.reward_tokens += ran
        usage.cached_reward_tokens += max(read - ran, 0)
        usage.reward_calls += len(self.paths)


@dataclass(frozen=True)
class _Run:
    """Consecutive new steps without a fork: the prefixes that end with each of them."""

    reading: Reading
    prefixes: tuple[Prefix, ...]
    ids: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        return sum(map(len, self.ids))

    @property
    def parent(self) -> Prefix:
        return self.prefixes[0][:-1]

    def known(self) -> list[KeyValues]:
        """Return what is kept of the path before the run, from the prompt on."""
        return [self.reading.kv[self.parent[:i]] for i in range(len(self.parent) + 1)]


class Reader(ABC):
    """Base of what reads questions and steps with a backbone; subclasses say what ``take`` keeps.

    Args:
        backbone: an image-text-to-text model of transformers.
        processor: its processor.
        batch_size: most runs of steps in one pass.
        surprised: whether surprises are needed.
    """

    def __init__(self, backbone: Any, processor: Any, batch_size: int, surprised: bool) -> None:
        self.backbone, self.processor = backbone, processor
        self.batch_size, self.surprised = batch_size, surprised
        self._positions = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)

    @abstractmethod
    def take(self, pieces: Sequence[Piece], hidden: Tensor, surprise: Tensor | None) -> None:
        """Keep what hidden states [rows, L, D] and surprises [rows, L] say of some prefixes; fills ``kv``."""

    def read(self, missing: Sequence[tuple[Reading, Sequence[Prefix]]]) -> None:
        """Run the missing prefixes of some questions through the backbone.

        Those of a question come parents first, and the prompt before all.
        """
        self._read_prompts([reading for reading, prefixes in missing if prefixes and not prefixes[0]])
        self._read_steps([(reading, p) for reading, prefixes in missing for p in prefixes if p])

    def segments(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the segments of the tokens of a piece."""
        ids = np.array(piece.reading.ids[piece.prefix])
        if piece.prefix:
            return np.full(ids.shape, STEP, np.uint8)
        return np.where(ids == image_token(self.backbone.config), IMAGE, QUESTION).astype(np.uint8)

    def inputs(self, reading: Reading) -> dict[str, Any]:
        """Return the tensors of the prompt, on the model's device."""
        return model_inputs(self.backbone, self.processor, reading.question)

    def _read_prompts(self, readings: list[Reading]) -> None:
        """Run prompts through the backbone, those whose tensors have equal shapes together."""
        groups: dict[Any, list[tuple[Reading, dict[str, Any]]]] = {}
        for reading in readings:
            inputs = self.inputs(reading)
            reading.ids[()] = tuple(inputs["input_ids"][0].tolist())
            reading.offset = int(self.backbone.config.model_type == "paligemma")  # counts from one
            self._check_length(reading, ())
            groups.setdefault(_shapes(inputs) or reading, []).append((reading, inputs))
        # Models with three-dimensional positions note how far those of one prompt's text lag behind.
        most = 1 if forget_positions(self.backbone) else min(self.batch_size, PROMPTS)
        for group in groups.values():
            for i in range(0, len(group), most):
                some = group[i : i + most]
                inputs = {name: _joined([each[name] for _, each in some]) for name in some[0][1]}
                self._read_prompt_batch([reading for reading, _ in some], inputs)

    def _read_prompt_batch(self, readings: list[Reading], inputs: dict[str, Any]) -> None:
        lagging = forget_positions(self.backbone)
        cache = DynamicCache()
        out = self.backbone.base_model(**inputs, past_key_values=cache, use_cache=True)
        for module in lagging:
            if module.rope_deltas is not None:
                readings[0].offset = int(module.rope_deltas.flatten()[0])
        hidden = out.last_hidden_state.float()
        pieces = []
        for row, reading in enumerate(readings):
            reading.last[()] = hidden[row, -1]
            pieces.append(Piece(reading, (), row, 0, hidden.shape[1], KeyValues.from_cache(cache, row)))
        self.take(pieces, hidden, None)

    def _read_steps(self, missing: list[tuple[Reading, Prefix]]) -> None:
        """Run the missing steps through the backbone, parents before children."""
        tokenizer = self.processor.tokenizer
        for reading, prefix in missing:
            if prefix not in reading.ids:
                reading.ids[prefix] = tuple(encode_step(tokenizer, prefix[-1]))
        for reading, prefix in missing:
            self._check_length(reading, prefix)
        while missing:
            # Of equal length, siblings stay neighbours: what is known of their path is laid out once.
            runs = sorted(_runs(missing), key=lambda r: r.length)
            for i in range(0, len(runs), self.batch_size):
                self._read_batch(runs[i : i + self.batch_size])
            missing = [(reading, p) for reading, p in missing if p not in reading.kv]

    def _check_length(self, reading: Reading, path: Prefix) -> None:
        most, length = self._positions, reading.length(path)
        if most and length + reading.offset > most:
            raise RewardError(f"a path of {length} tokens does not fit the {most} positions of the backbone.")

    def _read_batch(self, runs: list[_Run]) -> None:
        longest = max(r.length for r in runs)
        siblings = [list(some) for _, some in groupby(runs, key=lambda r: (r.reading, r.parent))]
        cache = BatchCache.assemble([some[0].known() for some in siblings], list(map(len, siblings)), reserve=longest)
        lengths = cache.length - cache.starts  # of the known paths

        # Short rows are filled up on the right: no real token sees what comes after it.
        rows = []
        for run in runs:
            tokens = [i for step in run.ids for i in step]
            rows.append(tokens + tokens[-1:] * (longest - run.length))
        offsets = torch.tensor([run.reading.offset for run in runs])
        positions = (lengths + offsets)[:, None] + torch.arange(longest)[None, :]
        ids = torch.tensor(rows, dtype=torch.int64, device=self.backbone.device)
        out = self.backbone.base_model(
            input_ids=ids,
            attention_mask=cache.attention_mask(longest),
            position_ids=positions.to(ids.device),
            past_key_values=cache,
            use_cache=True,
        )
        hidden = out.last_hidden_state.float()
        surprise = self._surprise(hidden, ids, runs) if self.surprised else None
        pieces = []
        for row, (run, before) in enumerate(zip(runs, lengths.tolist(), strict=True)):
            start = 0
            for prefix, step in zip(run.prefixes, run.ids, strict=True):
                stop = start + len(step)
                columns = cache.take(row, before + start, before + stop)
                pieces.append(Piece(run.reading, prefix, row, start, stop, columns))
                run.reading.last[prefix] = hidden[row, stop - 1]
                start = stop
        self.take(pieces, hidden, surprise)

    def _surprise(self, hidden: Tensor, ids: Tensor, runs: list[_Run]) -> Tensor:
        """Return the surprise [runs, tokens] of each token."""
        before = torch.stack([run.reading.last[run.parent] for run in runs])[:, None]
        previous = torch.cat([before, hidden[:, :-1]], 1)
        return surprise_of(self.backbone.get_output_embeddings()(previous.to(self.backbone.dtype)), ids)


def _runs(missing: list[tuple[Reading, Prefix]]) -> list[_Run]:
    children: dict[tuple[Reading, Prefix], list[Prefix]] = {}
    for reading, prefix in missing:
        children.setdefault((reading, prefix[:-1]), []).append(prefix)
    runs = []
    for reading, prefix in missing:
        if prefix[:-1] in reading.kv:
            chain = [prefix]
            while len(below := children.get((reading, chain[-1]), [])) == 1:
                chain.append(below[0])
            runs.append(_Run(reading, tuple(chain), tuple(reading.ids[p] for p in chain)))
    return runs


def _shapes(inputs: dict[str, Any]) -> Any:
    """Return what prompts must share to be rows of one batch, None where this one cannot be a row."""
    if any(not isinstance(v, Tensor) or v.ndim == 0 or len(v) != 1 for v in inputs.values()):
        return None
    return tuple((name, v.shape, v.dtype) for name, v in inputs.items())


def _joined(rows: list[Any]) -> Any:
    return rows[0] if len(rows) == 1 else torch.cat(rows)


class _Keeping(Reader):
    """A reader that keeps the states themselves."""

    def __init__(self, backbone: Any, processor: Any, batch_size: int) -> None:
        super().__init__(backbone, processor, batch_size, True)
        self.states: dict[Prefix, States] = {}

    def take(self, pieces: Sequence[Piece], hidden: Tensor, surprise: Tensor | None) -> None:
        surprise = hidden.new_zeros(hidden.shape[:2]) if surprise is None else surprise
        for p in pieces:
            p.reading.kv[p.prefix] = p.columns
            own = (p.row, slice(p.start, p.stop))
            self.states[p.prefix] = States(hidden[own].clone(), surprise[own].clone(), self.segments(p))


def read_states(
    backbone: Any, processor: Any, question: Question, paths: Sequence[Prefix], batch_size: int = 32
) -> dict[Prefix, States]:
    """Return the states of the prompt, ``()``, and of every prefix of some paths."""
    reader = _Keeping(backbone, processor, batch_size)
    prefixes = sorted({(), *(p[:i] for p in paths for i in range(1, len(p) + 1))}, key=len)
    reader.read([(Reading(question), prefixes)])
    return reader.states


def model_inputs(backbone: Any, processor: Any, question: Question) -> dict[str, Any]:
    """Return the prompt of a question as the backbone takes it: on its device, numbers of its type."""
    inputs = build_inputs(processor, question)
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            dtype = backbone.dtype if value.is_floating_point() else None
            inputs[name] = value.to(backbone.device, dtype)
    if "image_grid_thw" in inputs and "mm_token_type_ids" not in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token(backbone.config)).int()
    return inputs


def forget_positions(backbone: Any) -> list[Any]:
    """Make a backbone forget the offset of its last prompt, and return the modules that note one."""
    lagging = [m for m in backbone.modules() if "rope_deltas" in vars(m)]
    for module in lagging:
        module.rope_deltas = None
    return lagging


def image_token(config: Any) -> int:
    """Return the id of the image placeholder of a backbone, -1 where it has none."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return -1
