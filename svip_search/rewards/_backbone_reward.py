"""What reward models around a decoder of transformers share: prompts, batches, what is kept, errors, usage.

A path goes through the decoder once.  What is kept of it (keys and values of the prompt and of every step, within
``cache_tokens``) is continued when a longer path comes, and all paths of a call share passes::

    prompts that are new                   passes over those of equal shapes
    steps below a known beginning          one pass over all unforked chains of them, padded on the left
    at the last token behind every step    number = head(last hidden state)
"""

from __future__ import annotations

import inspect
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._aggregate import Scoring
from .._budget import Usage
from .._errors import RewardError, SvipSearchError
from .._question_key import question_key
from .._types import DIMENSIONS, Prefix, Question
from ..models.kv_cache import PrefixTrie
from ._backbone_call import Call, Item
from ._reward_files import SETTINGS, line
from ._step_layout import Layout, StepText

_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
R = TypeVar("R", bound="BackboneReward")


class BackboneReward(ABC):
    """Base of reward models that read question and steps with a decoder; see the classes made of it.

    Args:
        model: a decoder of transformers with ordinary attention layers, with or without eyes.
        processor: its processor, or its tokenizer where it reads text alone.
        text: makes the tokens.
        device: where to compute; None leaves the model where it is.
        dtype: floating-point type of the weights; None leaves it.
        batch_size: most chains of steps in one pass.
        cache_tokens: tokens whose keys and values are kept, over all questions; 0 keeps none.
        scoring: how strategies should fold the rewards into a score, where they are not told.

    Raises:
        ValueError: a number is out of range, or ``model`` is no such decoder.
    """

    kind: Literal["prm", "orm"]
    #: Name of the kind in saved settings.
    form: ClassVar[str]

    def __init__(
        self,
        model: Any,
        processor: Any,
        text: StepText,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int = 16,
        cache_tokens: int = 32_768,
        scoring: Scoring | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
        if cache_tokens < 0:
            raise ValueError(f"`cache_tokens` must be at least 0; got {cache_tokens}.")
        check_decoder(model)
        if device is not None or dtype is not None:
            model = model.to(device=device, dtype=dtype)
        self.model, self.processor, self.text = model.eval(), processor, text
        self.batch_size, self.scoring = batch_size, scoring
        self.usage = Usage()
        self._trie = PrefixTrie(cache_tokens)
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device(self.model.device)

    def to(self: R, device: str | torch.device) -> R:
        """Move the model to a device and return self."""
        self.clear()
        for part in self._parts():
            part.to(device)
        return self

    def clear(self) -> None:
        """Forget everything that was kept; needed after the weights have changed."""
        with self._lock:
            self._trie.clear()

    def forget(self, question: Question) -> None:
        """Drop all that was kept for a question, for example when its search has ended."""
        with self._lock:
            self._trie.forget(question_key(question))

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path, in [0, 1]: float32 [T, 3] of a ``"prm"``, float32 [] of an ``"orm"``.

        Args:
            question: the question with its pictures; its ``answer`` is not read.
            paths: sequences of step texts; may be empty, repeat and share beginnings.

        Raises:
            TypeError: a path is not made of texts.
            ImageError: a picture cannot be read, or the model reads text alone and the question has pictures.
            RewardError: a path is longer than the model's context, a step cannot be told from a marker, the model
                raised, or a number is not finite.
        """
        (rewards,) = self.evaluate_many([(question, paths)])
        return rewards

    def evaluate_many(self, items: Sequence[tuple[Question, Sequence[Prefix]]]) -> list[list[NDArray[np.float32]]]:
        """Return what ``evaluate`` returns for each of several questions, computed together.

        Args:
            items: questions with their paths; a question may come more than once.

        Raises:
            TypeError: an item is no pair of a question and paths, or a path is not made of texts.
            ImageError, RewardError: as ``evaluate``; one bad item fails the whole call.

        Notes:
            Rewards differ from those of separate calls by rounding only.
        """
        pairs = [_pair(item) for item in items]
        with self._running():
            call = Call(self)
            found = [call.add(question, paths) for question, paths in pairs]
            call.run()
        return [[self._rewards(item, p) for p in paths] for item, (_, paths) in zip(found, pairs, strict=True)]

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Hold the model for one call; what it raises becomes a RewardError."""
        with self._lock, torch.inference_mode():
            training = [part for part in self._parts() if part.training]
            for part in training:
                part.eval()
            try:
                yield
            except SvipSearchError:
                raise
            except Exception as error:
                name, what = type(self.model).__name__, type(error).__name__
                raise RewardError(f"the reward model {name} raised {what}: {line(error)}") from error
            finally:
                for part in training:
                    part.train()

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that ``load`` reads: weights, processor and settings.

        Args:
            folder: made if it is missing; files of an earlier model are replaced.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        settings = {"format": "svip-search-reward", "version": 1, "form": self.form, **self._settings()}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    # -- what kinds differ in -----------------------------------------------------------------------------------

    def _parts(self) -> list[Any]:
        """Return the modules that hold weights."""
        return [self.model]

    def _settings(self) -> dict[str, Any]:
        """Return what ``load`` must be told, as plain JSON values."""
        return {}

    @abstractmethod
    def numbers(self, hidden: Tensor) -> Tensor:
        """Return one number in [0, 1] for each of the last hidden states [N, D]."""

    def _pieces(self, layout: Layout, path: Prefix) -> tuple[Prefix, list[tuple[int, ...]]]:
        """Return the pieces that a path is read in, and the token ids of each."""
        return path, self.text.path_ids(layout, path)

    @abstractmethod
    def _rewards(self, item: Item, path: Prefix) -> NDArray[np.float32]:
        """Return the rewards of a path that was read."""


class StepReward(BackboneReward):
    """Base of reward models that give each step one number.

    Args:
        dimensions: those that the number stands for; the others are 1, so that no minimum is theirs.
        threshold: number above which a step is held to be right, where a yes or no is asked for.
        aggregate: the rule over the steps that ``scoring`` recommends where none is given.
    """

    kind: Literal["prm", "orm"] = "prm"
    #: The reward of a step depends on the steps up to it alone, so that clients may keep it.
    causal = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        text: StepText,
        *,
        dimensions: Sequence[str] = DIMENSIONS,
        threshold: float | None = None,
        aggregate: Any = "mean",
        scoring: Scoring | None = None,
        **options: Any,
    ) -> None:
        if isinstance(dimensions, str) or not dimensions or not set(dimensions) <= set(DIMENSIONS):
            raise ValueError(f"`dimensions` must be some of {', '.join(DIMENSIONS)}; got {dimensions!r}.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"`threshold` must be a number in 0..1; got {threshold!r}.")
        self.dimensions = tuple(name for name in DIMENSIONS if name in dimensions)
        self._filled = np.array([name in dimensions for name in DIMENSIONS])
        self.thresholds = None if threshold is None else (float(threshold),) * 3
        if scoring is None:
            a, b, c = map(float, self._filled)
            scoring = Scoring(aggregate=aggregate, weights=(a, b, c))
        super().__init__(model, processor, text, scoring=scoring, **options)

    def _rewards(self, item: Item, path: Prefix) -> NDArray[np.float32]:
        rewards = np.ones((len(path), 3), np.float32)
        if path:
            numbers = [item.scores[path[: i + 1]] for i in range(len(path))]
            rewards[:, self._filled] = np.array(numbers, np.float32)[:, None]
        return rewards

    def _settings(self) -> dict[str, Any]:
        threshold = None if self.thresholds is None else self.thresholds[0]
        return {**super()._settings(), "dimensions": list(self.dimensions), "threshold": threshold}


def check_decoder(model: Any) -> None:
    """Refuse a model whose keys and values cannot be cut by token.

    Raises:
        ValueError: it is an encoder, an encoder-decoder, or has recurrent or cross-attention layers.
    """
    config = model.config
    text = config.get_text_config()
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    causal = {m.is_causal for m in decoder.modules() if hasattr(m, "is_causal")}
    layers = set(getattr(text, "layer_types", None) or ()) - _LAYERS
    problem = None
    if getattr(config, "is_encoder_decoder", False):
        problem = "it is an encoder-decoder"
    elif causal == {False} or "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
        problem = "its tokens see those behind them"
    elif layers:
        problem = f"it has layers of type {', '.join(sorted(layers))}"
    elif getattr(text, "cross_attention_layers", None):
        problem = "it reads the picture through cross-attention layers"
    if problem:
        name = type(model).__name__
        raise ValueError(f"`model` must be a decoder whose keys and values can be cut by token; {name}: {problem}.")


def image_ids(config: Any) -> list[int]:
    """Return the ids of the placeholders of pictures and videos of a model."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    return [found for name in names if isinstance(found := getattr(config, name, None), int)]


def _pair(item: Any) -> tuple[Question, list[Prefix]]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(f"`items` must hold pairs of a question and its paths; got {item!r}.")
    for path in item[1]:
        if isinstance(path, str) or any(not isinstance(step, str) for step in path):
            raise TypeError(f"`paths` must hold tuples of step texts; got {path!r}.")
    return item[0], [tuple(path) for path in item[1]]
