"""A policy around any image-text-to-text model of transformers.

    keys and values of the prompt          one forward pass a question, picture included
    keys and values of the steps so far    from the cache; only what is missing is computed
    all candidates of all requests         one batch, one forward pass a token
        logits / temperature + Gumbel noise -> argmax

The noise of a candidate depends on (seed, candidate, token number) alone, so what is sampled does
not depend on what else is in the batch or in the cache.
Source of the sampling rule: Maddison et al., "A* Sampling", 2014, section 3.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .._budget import Usage
from .._errors import ModelFileError, PolicyError, SvipSearchError
from .._question_key import question_key
from .._types import Candidate, FinishReason, ProposeRequest, Question
from ..models.kv_cache import BatchCache, KeyValues, Node, PrefixTrie
from ..models.prompt import STEP_SEPARATOR, build_inputs, encode_step

_NO, _YES, _MAYBE = 0, 1, 2
_CACHEABLE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}


class GumbelStream:
    """Standard Gumbel noise of one candidate, token after token.

    Word ``v`` of token ``t`` gets ``-log(-log(1 - u))`` where ``u`` is the ``v``-th 32-bit output of
    block ``t`` of a Philox generator whose key is (seed, candidate).

    Example:
        >>> stream = GumbelStream(seed=7, index=0, words=5)
        >>> bool(torch.equal(stream.draw(2)[1], GumbelStream(7, 0, 5).draw(3)[1]))
        True
    """

    def __init__(self, seed: int, index: int, words: int) -> None:
        key = np.array([seed & 0xFFFFFFFFFFFFFFFF, index], dtype=np.uint64)
        self.words = words
        self._half = (words + 1) // 2
        self._source = np.random.Philox(key=key)

    def bits(self, tokens: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """Return the next uint32 [tokens, words]."""
        raw = np.asarray(self._source.random_raw(tokens * self._half), dtype="<u8")
        return raw.view("<u4").reshape(tokens, 2 * self._half)[:, : self.words]

    def draw(self, tokens: int) -> Tensor:
        """Return the next float32 [tokens, words] of noise."""
        return _gumbel(self.bits(tokens))


def _gumbel(bits: np.ndarray[Any, np.dtype[np.uint32]]) -> Tensor:
    # Small values decide an argmax, and float32 is finest there; the largest must stay below one.
    uniform = torch.from_numpy((bits.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32))
    return uniform.clamp_(max=1.0 - 2.0**-24).neg_().log1p_().neg_().log_().neg_()


@dataclass(eq=False)
class _Context:
    """A distinct (question, prefix) of a call, with the keys and values of all but its last token."""

    nodes: list[Node]
    slices: list[KeyValues]
    ids: list[int]
    delta: int

    @property
    def known(self) -> int:
        """Number of tokens whose keys and values are there."""
        return sum(s.length for s in self.slices)


@dataclass(eq=False)
class _Step:
    """Tokens [start, end) of a row, and their keys and values where they are worth keeping."""

    text: str
    start: int
    end: int
    kv: KeyValues | None = None


@dataclass(eq=False)
class _Row:
    """One candidate while it is sampled."""

    context: _Context
    request: ProposeRequest
    index: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    reason: FinishReason | None = None
    broken: bool = False

    @property
    def done(self) -> bool:
        """Whether no more tokens are wanted."""
        return self.broken or self.reason is not None


class TransformersPolicy:
    """A policy that samples steps from an image-text-to-text model of transformers.

    Args:
        model: a causal image-text-to-text model; it is moved to ``device`` and ``dtype``.
        processor: its processor, with the tokenizer as attribute ``tokenizer``.
        device: where to compute; None leaves the model where it is.
        dtype: floating-point type of the weights; None leaves it.
        max_step_tokens: a step longer than this is cut off (finish reason ``"length"``).
        max_tokens: the same for a complete trajectory (``ProposeRequest.whole``).
        separator: text that ends a step.
        top_p: sample from the smallest set of tokens with at least this probability, in (0, 1].
        cache_tokens: tokens whose keys and values are kept between calls, those of steps given up before those
            of prompts (see `PrefixTrie`); 0 keeps none.
        max_rows: candidates sampled in one batch; more are sampled batch after batch.

    Raises:
        ValueError: a number is out of range, or the model cannot be used: encoder-decoder,
            recurrent layers or cross-attention, whose state cannot be shared by prefix.

    Notes:
        Deterministic for a fixed seed on one device, whatever else is in the batch and in the
        cache, up to float rounding (a batch of another size may round differently in the last bit).
        A step that this policy generated is continued with the token ids it generated; any other
        prefix is tokenised from its text.  The cache does not notice when weights change: call
        :meth:`clear`.  Threads take turns.

    Example:
        >>> import numpy as np
        >>> from svip_search._types import ProposeRequest, Question
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> processor = new_processor()
        >>> policy = TransformersPolicy(new_model("puzzle-nano", processor), processor, max_step_tokens=4)
        >>> question = Question("what is missing ?", images=[np.zeros((128, 128, 3), np.uint8)])
        >>> candidates, = policy.propose([ProposeRequest(question, (), n=2, seed=0)])
        >>> len(candidates) <= 2 and policy.usage.policy_tokens <= 8
        True
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_step_tokens: int = 64,
        max_tokens: int = 256,
        separator: str = STEP_SEPARATOR,
        top_p: float = 1.0,
        cache_tokens: int = 32_768,
        max_rows: int = 256,
    ) -> None:
        for name, value in (
            ("max_step_tokens", max_step_tokens),
            ("max_tokens", max_tokens),
            ("max_rows", max_rows),
        ):
            if value < 1:
                raise ValueError(f"`{name}` must be >= 1; got {value}.")
        if cache_tokens < 0:
            raise ValueError(f"`cache_tokens` must be >= 0; got {cache_tokens}.")
        if not 0.0 < top_p <= 1.0:
            raise ValueError(f"`top_p` must be in (0, 1]; got {top_p}.")
        if not separator:
            raise ValueError("`separator` must be a non-empty text; got ''.")
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError(f"`processor` must have a `tokenizer`; got {type(processor).__name__}.")
        self._parameters = _check_model(model)
        if device is not None or dtype is not None:
            model = model.to(device=device, dtype=dtype)
        self.model, self.processor, self.tokenizer = model, processor, tokenizer
        self.max_step_tokens, self.max_tokens, self.max_rows = max_step_tokens, max_tokens, max_rows
        self.separator, self.top_p = separator, top_p
        self.usage = Usage()
        self._trie = PrefixTrie(cache_tokens)
        self._lock = threading.Lock()
        self._text_config = model.config.get_text_config()
        self._stop_ids = _stop_ids(model, tokenizer)
        separator_ids = tokenizer.encode(separator, add_special_tokens=False)
        self._boundary: dict[int, int] = {separator_ids[0]: _YES} if len(separator_ids) == 1 else {}
        # Models with three-dimensional positions (M-RoPE) note how far text positions lag behind.
        self._rope_modules = [m for m in model.modules() if "rope_deltas" in vars(m)]
        self._first_position = int(model.config.model_type == "paligemma")  # counts from one

    @classmethod
    def load(
        cls,
        name_or_folder: str,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        local_files_only: bool = False,
        **options: Any,
    ) -> TransformersPolicy:
        """Return the policy around a saved model: a local folder or the name of a published model.

        Args:
            name_or_folder: where the weights, the configuration and the processor are.
            device: see the class.
            dtype: floating-point type to load the weights in; None takes the saved one.
            local_files_only: never look beyond this machine.
            options: further arguments of the class.

        Raises:
            ModelFileError: files are missing, corrupt, or do not fit the model.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        with contextlib.suppress(ImportError):  # they register the embedded models
            from ..models import plan_processor, puzzle_processor  # noqa: F401

        where = str(name_or_folder)
        try:
            model, info = AutoModelForImageTextToText.from_pretrained(
                where, dtype=dtype or "auto", local_files_only=local_files_only, output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(where, local_files_only=local_files_only)
        except Exception as error:
            raise ModelFileError(f"Cannot load a model from {where!r}: {_one_line(error)}") from error
        if info["missing_keys"]:
            missing = sorted(info["missing_keys"])
            raise ModelFileError(f"The weights in {where!r} lack {len(missing)} tensors, among them {missing[0]!r}.")
        return cls(model, processor, device=device, **options)

    def clear(self) -> None:
        """Forget all keys and values, for example after the weights have changed."""
        with self._lock:
            self._trie.clear()

    def forget(self, question: Question) -> None:
        """Drop all that was kept for a question, for example when its search has ended.

        Other questions keep theirs, and a question of which nothing is known changes nothing.  A step that was
        generated for it is tokenised from its text when it is continued later.
        """
        with self._lock:
            self._trie.forget(question_key(question))

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        """Return, for each request, up to ``n`` continuations of its prefix.

        A candidate without text, and one whose logits were not a number, is left out.

        Args:
            requests: any questions and prefixes; all are sampled together.

        Returns:
            For each request its continuations in candidate order: one step, or with ``whole`` the
            steps up to the end.  ``log_prob`` is taken at temperature 1 and, like ``tokens``,
            counts the separator and the end-of-text token.

        Raises:
            ValueError: a request has a negative ``n`` or temperature.
            ImageError: a picture cannot be read.
            PolicyError: the model or its processor raised.

        Notes:
            Cost: one forward pass a question that is not in the cache, one for all missing steps
            together, then one for each token of the longest candidate.
        """
        for request in requests:
            if request.n < 0 or not request.temperature >= 0.0:
                raise ValueError(
                    f"`n` and `temperature` of a request must be >= 0; got {request.n} and {request.temperature}."
                )
        with self._lock, torch.inference_mode():
            training = bool(self.model.training)
            if training:
                self.model.eval()
            try:
                return self._propose(requests)
            except SvipSearchError:
                raise
            except Exception as error:
                name = type(self.model).__name__
                raise PolicyError(f"The policy model {name} raised {_one_line(error)}") from error
            finally:
                if training:
                    self.model.train()

    def _propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        groups = self._rows(requests)
        rows = [row for group in groups for row in group]
        for start in range(0, len(rows), self.max_rows):
            self._sample(rows[start : start + self.max_rows])
        for row in rows:
            self._remember(row)
        self.usage.policy_calls += len(requests)
        self.usage.policy_tokens += sum(len(row.tokens) for row in rows)
        return [[c for row in group if (c := _candidates(row))] for group in groups]

    # -- contexts: the prompt and the steps so far ------------------------------------------------

    def _rows(self, requests: Sequence[ProposeRequest]) -> list[list[_Row]]:
        """Return the rows to sample for each request, with their contexts computed."""
        contexts: dict[tuple[str, tuple[str, ...]], _Context] = {}
        prompts: dict[str, KeyValues] = {}
        keys: dict[int, str] = {}
        groups: list[list[_Row]] = []
        for request in requests:
            key = keys.get(id(request.question)) or question_key(request.question)
            keys[id(request.question)] = key
            place = (key, tuple(request.prefix))
            if place not in contexts:
                contexts[place], cached = self._context(request, key, prompts)
            else:
                cached = len(contexts[place].ids) - 1
            context = contexts[place]
            self.usage.prompt_tokens += len(context.ids)
            self.usage.cached_policy_tokens += cached
            limit = self.max_tokens if request.whole else self.max_step_tokens
            limit = min(limit, self._room(len(context.ids) + context.delta))
            count = request.n if limit > 0 else 0
            groups.append([_Row(context, request, i, limit) for i in range(count)])
        wanted = {id(row.context) for group in groups for row in group}
        late = [c for c in contexts.values() if id(c) in wanted and c.known < len(c.ids) - 1]
        for start in range(0, len(late), self.max_rows):
            self._catch_up(late[start : start + self.max_rows])
        return groups

    def _context(self, request: ProposeRequest, key: str, prompts: dict[str, KeyValues]) -> tuple[_Context, int]:
        """Return what is known of a prefix, at least the prompt, and how much did not have to be computed.

        ``prompts`` collects those computed in this call: the cache may have no room for them.
        """
        nodes = self._trie.find(key, request.prefix)
        slices: list[KeyValues] = []
        for node in nodes:
            if node.kv is None:
                break
            slices.append(node.kv)
        if nodes and not slices and key in prompts:
            slices = [prompts[key]]
        cached = sum(s.length for s in slices)
        if not slices:
            ids, delta, kv = self._prefill(request)
            root = self._trie.add_root(key, ids, kv, extra=delta)
            nodes = nodes or [root]
            if kv is not None:
                slices = [kv]
                prompts[key] = kv
        for text in request.prefix[len(nodes) - 1 :]:
            nodes.append(self._trie.add(nodes[-1], text, self._encode(text)))
        ids = [i for node in nodes for i in node.ids]
        return _Context(nodes, slices, ids, int(nodes[0].extra)), cached

    def _prefill(self, request: ProposeRequest) -> tuple[list[int], int, KeyValues | None]:
        """Return the prompt's ids, how far positions lag behind, and all keys and values but the last."""
        inputs = dict(build_inputs(self.processor, request.question))
        ids: list[int] = inputs["input_ids"][0].tolist()
        if not self._rope_modules and self._room(len(ids)) <= 0:
            return ids, self._first_position, None
        config = self.model.config
        if self._rope_modules and "image_grid_thw" in inputs and "mm_token_type_ids" not in inputs:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == config.image_token_id).int()
        if "logits_to_keep" in self._parameters:
            inputs["logits_to_keep"] = 1
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                inputs[name] = value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)
        before = [m.rope_deltas for m in self._rope_modules]
        for module in self._rope_modules:
            module.rope_deltas = None
        try:
            cache = DynamicCache()
            self.model(**inputs, past_key_values=cache, use_cache=True)
            deltas = [m.rope_deltas for m in self._rope_modules if m.rope_deltas is not None]
        finally:
            for module, value in zip(self._rope_modules, before, strict=True):
                module.rope_deltas = value
        delta = int(deltas[0].flatten()[0]) if deltas else self._first_position
        return ids, delta, KeyValues.from_cache(cache, stop=len(ids) - 1)

    def _catch_up(self, contexts: list[_Context]) -> None:
        """Compute the missing steps of several contexts in one forward pass."""
        known = [c.known for c in contexts]
        missing = [c.ids[k:-1] for c, k in zip(contexts, known, strict=True)]
        width = max(len(m) for m in missing)
        batch = BatchCache.assemble([c.slices for c in contexts], reserve=width)
        # Short rows are filled up on the right: no real token sees what comes after it.
        ids = torch.tensor([m + [m[-1]] * (width - len(m)) for m in missing])
        positions = torch.tensor(
            [
                [k + c.delta + min(i, len(m) - 1) for i in range(width)]
                for c, k, m in zip(contexts, known, missing, strict=True)
            ]
        )
        self._logits(ids, positions, batch)
        for row, context in enumerate(contexts):
            first, end = len(context.slices), 0
            for i, node in enumerate(context.nodes):
                start, end = end, end + len(node.ids)
                if i >= first:
                    # A node's slice begins with the last token before it, whose keys and values
                    # are only computed when something follows.
                    context.slices.append(batch.take(row, start - 1, end - 1))
                    self._trie.attach(node, context.slices[-1])

    def _encode(self, text: str) -> list[int]:
        if self.separator == STEP_SEPARATOR:
            return encode_step(self.tokenizer, text)
        ids: list[int] = self.tokenizer.encode(text + self.separator, add_special_tokens=False)
        return ids

    def _room(self, position: int) -> int:
        """Return how many tokens fit after ``position``."""
        most = getattr(self._text_config, "max_position_embeddings", None)
        return self.max_tokens if not most else int(most) - position

    # -- sampling ---------------------------------------------------------------------------------

    def _logits(self, ids: Tensor, positions: Tensor, batch: BatchCache) -> Tensor:
        """Return the logits [rows, words] after the last column of ``ids`` [rows, L]."""
        mask = batch.attention_mask(ids.shape[1])
        options = {"logits_to_keep": 1} if "logits_to_keep" in self._parameters else {}
        out = self.model(
            input_ids=ids.to(self.model.device),
            attention_mask=mask,
            position_ids=positions.to(self.model.device),
            past_key_values=batch,
            use_cache=True,
            **options,
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def _sample(self, rows: list[_Row]) -> None:
        """Generate the tokens of all rows; rows that are done leave the batch."""
        runs = [list(run) for _, run in groupby(rows, key=lambda r: id(r.context))]
        reserve = min(max(r.limit for r in rows), 64)
        batch = BatchCache.assemble([r[0].context.slices for r in runs], [len(r) for r in runs], reserve)
        device = self.model.device
        ids = torch.tensor([[r.context.ids[-1]] for r in rows], device=device)
        positions = torch.tensor([[len(r.context.ids) - 1 + r.context.delta] for r in rows], device=device)
        sampler = _Sampler(rows, self.top_p, device)
        while True:
            chosen, log_probs = sampler.choose(self._logits(ids, positions, batch))
            for i, (row, token, log_prob) in enumerate(zip(rows, chosen.tolist(), log_probs.tolist(), strict=True)):
                if not row.done and self._advance(row, token, log_prob):
                    self._finish(row, i, batch)
            alive = [i for i, row in enumerate(rows) if not row.done]
            if not alive:
                return
            ids, positions = chosen[:, None], positions + 1
            if len(alive) <= 0.75 * len(rows):
                index = torch.tensor(alive, device=device)
                rows, ids, positions = [rows[i] for i in alive], ids[index], positions[index]
                batch.keep(alive)
                sampler.keep(alive)

    def _advance(self, row: _Row, token: int, log_prob: float) -> bool:
        """Add a token to a row; return whether the row is done."""
        row.tokens.append(token)
        row.log_probs.append(log_prob)
        if math.isnan(log_prob):
            row.broken = True
        elif token in self._stop_ids:
            row.reason = "stop"
        elif self._ends_step(row, token):
            row.ends.append(len(row.tokens))
            if not row.request.whole:
                row.reason = "step"
        if not row.done and len(row.tokens) >= row.limit:
            row.reason = "length"
        return row.done

    def _ends_step(self, row: _Row, token: int) -> bool:
        """Tell whether the separator ends within ``token``, the last one of the row."""
        kind = self._boundary.get(token)
        if kind is None:
            text = self.tokenizer.decode([token])
            kind = _YES if self.separator in text else _MAYBE if self.separator[-1] in text else _NO
            self._boundary[token] = kind
        if kind != _MAYBE:
            return kind == _YES
        start = row.ends[-1] if row.ends else 0
        return self.separator in self.tokenizer.decode(row.tokens[start:])

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return next((part.strip() for part in text.split(self.separator) if part.strip()), "")

    def _finish(self, row: _Row, index: int, batch: BatchCache) -> None:
        """Cut a row that is done into steps and keep the keys and values of the complete ones."""
        if row.broken:
            return
        start, offset = 0, len(row.context.ids) - 1
        for end in row.ends:
            # An empty step is joined with the one after it.
            if text := self._text(row.tokens[start:end]):
                step = _Step(text, start, end)
                if self._trie.capacity:
                    step.kv = batch.take(index, offset + start, offset + end)
                row.steps.append(step)
                start = end
        if text := self._text(row.tokens[start:]):
            row.steps.append(_Step(text, start, len(row.tokens)))

    def _remember(self, row: _Row) -> None:
        """Put the complete steps of a row into the trie."""
        node = row.context.nodes[-1]
        for step in row.steps:
            if step.end not in row.ends:
                break
            ids = tuple(row.tokens[step.start : step.end])
            node = self._trie.add(node, step.text, ids, step.kv)
            if node.ids != ids:  # a sibling of the same text: what follows belongs to another prefix
                break


class _Sampler:
    """Chooses the next token of every row of a batch."""

    def __init__(self, rows: list[_Row], top_p: float, device: torch.device) -> None:
        self.draws = [(r.request.seed, r.index) if r.request.temperature > 0 else None for r in rows]
        self.top_p = top_p
        heat = torch.tensor([r.request.temperature or 1.0 for r in rows], device=device)[:, None]
        self.heat: Tensor | None = heat if bool((heat != 1).any()) else None
        self.streams: list[GumbelStream | None] | None = None
        self.ahead: Tensor | None = None
        self.at = 0

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token of each row and its log-probability at temperature 1."""
        scores = logits if self.heat is None else logits / self.heat
        if self.top_p < 1.0:
            scores = nucleus(scores, self.top_p)
        if any(self.draws):
            scores = scores + self.noise(logits.shape[1], logits.device)
        chosen = scores.argmax(-1)
        log_probs = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        return chosen, log_probs

    def noise(self, words: int, device: torch.device) -> Tensor:
        """Return the noise [rows, words] of the next token, made for several tokens at a time."""
        if self.streams is None:
            self.streams = [GumbelStream(*draw, words) if draw else None for draw in self.draws]
        if self.ahead is None or self.at == self.ahead.shape[1]:
            tokens = max(1, min(8, (1 << 18) // (len(self.streams) * words)))
            bits = np.zeros((len(self.streams), tokens, words), dtype=np.uint32)
            for row, stream in zip(bits, self.streams, strict=True):
                if stream is not None:
                    row[:] = stream.bits(tokens)
            self.ahead, self.at = _gumbel(bits).to(device), 0
            for i, stream in enumerate(self.streams):
                if stream is None:
                    self.ahead[i] = 0.0
        self.at += 1
        return self.ahead[:, self.at - 1]

    def keep(self, rows: list[int]) -> None:
        """Keep only the given rows."""
        self.draws = [self.draws[i] for i in rows]
        self.heat = None if self.heat is None else self.heat[rows]
        if self.streams is not None:
            self.streams = [self.streams[i] for i in rows]
        if self.ahead is not None:
            self.ahead = self.ahead[rows]


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return ``logits`` [rows, words] with all but the most probable words of total ``top_p`` at -inf."""
    ordered, index = logits.sort(descending=True, stable=True)
    probs = ordered.softmax(-1)
    outside = probs.cumsum(-1) - probs >= top_p
    return logits.masked_fill(torch.zeros_like(outside).scatter(1, index, outside), -torch.inf)


def _candidates(row: _Row) -> tuple[Candidate, ...]:
    """Return the steps of a row; what was generated after the last text is counted to the last step."""
    if row.broken:
        return ()
    steps = []
    for i, step in enumerate(row.steps):
        last = i == len(row.steps) - 1
        end = len(row.tokens) if last else step.end
        reason: FinishReason = (row.reason or "length") if last else "step"
        log_prob = min(0.0, math.fsum(row.log_probs[step.start : end]))
        steps.append(Candidate(step.text, log_prob, end - step.start, reason))
    return tuple(steps)


def _check_model(model: Any) -> frozenset[str]:
    """Return the argument names of the model's forward pass.

    Raises:
        ValueError: the state of the model cannot be shared by prefix.
    """
    name, config = type(model).__name__, model.config
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ()) - _CACHEABLE_LAYERS
    parameters = frozenset(inspect.signature(model.forward).parameters)
    problem = None
    if getattr(config, "is_encoder_decoder", False):
        problem = "it is an encoder-decoder"
    elif layers:
        problem = f"it has layers of type {', '.join(sorted(layers))}"
    elif getattr(text, "cross_attention_layers", None):
        problem = "it reads the picture through cross-attention layers"
    elif missing := {"input_ids", "attention_mask", "position_ids", "past_key_values"} - parameters:
        problem = f"its forward does not take {', '.join(sorted(missing))}"
    if problem:
        raise ValueError(f"`model` must be a decoder whose keys and values can be cut by token; {name}: {problem}.")
    return parameters


def _stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids of all tokens that end a text."""
    found: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for owner in (generation, model.config.get_text_config(), model.config, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        if value is not None:
            found.update(value if isinstance(value, (list, tuple)) else [value])
    return frozenset(found)


def _one_line(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):
        return "the weights do not have the shapes that config.json asks for"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first}"
