"""Questions and steps run through a backbone: every prefix once, siblings together.

What is missing is cut into *runs*, chains of new steps without a fork, and all runs whose beginning is known
go through the backbone as one batch over the keys and values that were kept.  What is done with the hidden
states is the affair of who reads: `SvipReward.evaluate` projects them, `read_states` keeps them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .._errors import RewardError
from .._types import Prefix, Question
from ..models.kv_cache import BatchCache, KeyValues
from ..models.prompt import build_inputs, encode_step
from ._triatt_cot import IMAGE, QUESTION, STEP, surprise_of


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

    prefix: Prefix
    row: int
    start: int
    stop: int
    columns: KeyValues


@dataclass(frozen=True)
class _Run:
    """Consecutive new steps without a fork: the prefixes that end with each of them."""

    prefixes: tuple[Prefix, ...]
    ids: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        return sum(map(len, self.ids))


class Reading(ABC):
    """Base of what reads a question and steps with a backbone; subclasses say what ``take`` keeps.

    Args:
        backbone: an image-text-to-text model of transformers.
        processor: its processor.
        question: the question.
        batch_size: most runs of steps in one pass.
        surprised: whether surprises are needed.
    """

    def __init__(self, backbone: Any, processor: Any, question: Question, batch_size: int, surprised: bool) -> None:
        self.backbone, self.processor, self.question = backbone, processor, question
        self.batch_size, self.surprised = batch_size, surprised
        self.ids: dict[Prefix, tuple[int, ...]] = {}
        #: Held here so that nothing can be evicted under the call.
        self.kv: dict[Prefix, Any] = {}
        #: Last hidden state of each prefix: what the backbone expects to come next.
        self.last: dict[Prefix, Tensor] = {}
        # Of positions against token counts, in models with image-aware positions.
        self.offset = int(backbone.config.model_type == "paligemma")  # counts from one

    @abstractmethod
    def take(self, pieces: Sequence[Piece], hidden: Tensor, surprise: Tensor | None) -> None:
        """Keep what hidden states [rows, L, D] and surprises [rows, L] say of some prefixes; fills ``kv``."""

    def read(self, missing: Sequence[Prefix]) -> None:
        """Run the missing prefixes through the backbone; each comes after its parent, the prompt first."""
        if missing and not missing[0]:
            self._read_prompt()
        if steps := [p for p in missing if p]:
            self._read_steps(steps)

    def segments(self, prefix: Prefix) -> NDArray[np.uint8]:
        """Return the segments of the tokens of a prefix that has been read."""
        ids = np.array(self.ids[prefix])
        if prefix:
            return np.full(ids.shape, STEP, np.uint8)
        return np.where(ids == image_token(self.backbone.config), IMAGE, QUESTION).astype(np.uint8)

    def _read_prompt(self) -> None:
        inputs = model_inputs(self.backbone, self.processor, self.question)
        self.ids[()] = tuple(inputs["input_ids"][0].tolist())
        self._check_length(0)
        # Models with three-dimensional positions note how far those of text lag behind.
        lagging = forget_positions(self.backbone)
        cache = DynamicCache()
        out = self.backbone.base_model(**inputs, past_key_values=cache, use_cache=True)
        for module in lagging:
            if module.rope_deltas is not None:
                self.offset = int(module.rope_deltas.flatten()[0])
        hidden = out.last_hidden_state.float()
        self.last[()] = hidden[0, -1]
        self.take([Piece((), 0, 0, hidden.shape[1], KeyValues.from_cache(cache))], hidden, None)

    def _read_steps(self, missing: list[Prefix]) -> None:
        """Run the missing steps through the backbone, parents before children."""
        tokenizer = self.processor.tokenizer
        for prefix in missing:
            if prefix not in self.ids:
                self.ids[prefix] = tuple(encode_step(tokenizer, prefix[-1]))
        self._check_length(max(sum(len(self.ids[p[:i]]) for i in range(1, len(p) + 1)) for p in missing))
        while missing:
            runs = sorted(self._runs(missing), key=lambda r: r.length)
            for i in range(0, len(runs), self.batch_size):
                self._read_batch(runs[i : i + self.batch_size])
            missing = [p for p in missing if p not in self.kv]

    def _check_length(self, steps: int) -> None:
        most = getattr(self.backbone.config.get_text_config(), "max_position_embeddings", None)
        length = len(self.ids[()]) + steps
        if most and length + self.offset > most:
            raise RewardError(f"a path of {length} tokens does not fit the {most} positions of the backbone.")

    def _runs(self, missing: list[Prefix]) -> list[_Run]:
        children: dict[Prefix, list[Prefix]] = {}
        for prefix in missing:
            children.setdefault(prefix[:-1], []).append(prefix)
        runs = []
        for prefix in missing:
            if prefix[:-1] in self.kv:
                chain = [prefix]
                while len(below := children.get(chain[-1], [])) == 1:
                    chain.append(below[0])
                runs.append(_Run(tuple(chain), tuple(self.ids[p] for p in chain)))
        return runs

    def _read_batch(self, runs: list[_Run]) -> None:
        longest = max(r.length for r in runs)
        known = []
        for run in runs:
            first = run.prefixes[0]
            known.append([self.kv[first[:i]] for i in range(len(first))])
        cache = BatchCache.assemble(known, reserve=longest)
        lengths = cache.length - cache.starts  # of the known paths

        # Short rows are filled up on the right: no real token sees what comes after it.
        ids = torch.empty((len(runs), longest), dtype=torch.int64)
        for row, run in enumerate(runs):
            tokens = [i for step in run.ids for i in step]
            ids[row] = torch.tensor(tokens + tokens[-1:] * (longest - run.length))
        positions = lengths[:, None] + torch.arange(longest)[None, :] + self.offset
        ids = ids.to(self.backbone.device)
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
        for row, run in enumerate(runs):
            start, before = 0, int(lengths[row])
            for prefix, step in zip(run.prefixes, run.ids, strict=True):
                stop = start + len(step)
                pieces.append(Piece(prefix, row, start, stop, cache.take(row, before + start, before + stop)))
                self.last[prefix] = hidden[row, stop - 1]
                start = stop
        self.take(pieces, hidden, surprise)

    def _surprise(self, hidden: Tensor, ids: Tensor, runs: list[_Run]) -> Tensor:
        """Return the surprise [runs, tokens] of each token."""
        before = torch.stack([self.last[run.prefixes[0][:-1]] for run in runs])[:, None]
        previous = torch.cat([before, hidden[:, :-1]], 1)
        return surprise_of(self.backbone.get_output_embeddings()(previous.to(self.backbone.dtype)), ids)


class _Keeping(Reading):
    """A reading that keeps the states themselves."""

    def __init__(self, backbone: Any, processor: Any, question: Question, batch_size: int) -> None:
        super().__init__(backbone, processor, question, batch_size, True)
        self.states: dict[Prefix, States] = {}

    def take(self, pieces: Sequence[Piece], hidden: Tensor, surprise: Tensor | None) -> None:
        surprise = hidden.new_zeros(hidden.shape[:2]) if surprise is None else surprise
        for p in pieces:
            self.kv[p.prefix] = p.columns
            own = (p.row, slice(p.start, p.stop))
            self.states[p.prefix] = States(hidden[own].clone(), surprise[own].clone(), self.segments(p.prefix))


def read_states(
    backbone: Any, processor: Any, question: Question, paths: Sequence[Prefix], batch_size: int = 32
) -> dict[Prefix, States]:
    """Return the states of the prompt, ``()``, and of every prefix of some paths."""
    reading = _Keeping(backbone, processor, question, batch_size)
    reading.read(sorted({(), *(p[:i] for p in paths for i in range(1, len(p) + 1))}, key=len))
    return reading.states


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
