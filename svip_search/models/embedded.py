"""Sizes of the embedded models and their construction from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig

from ..datasets import planning
from ..datasets.puzzles import vocabulary
from ..datasets.puzzles._family import COLORS, SIDES, SIZES
from .plan_processor import PlanImageProcessor, PlanProcessor
from .plan_vlm import PlanVLMConfig, PlanVLMForConditionalGeneration
from .puzzle_processor import PuzzleImageProcessor, PuzzleProcessor, make_tokenizer
from .puzzle_vlm import PuzzleVLMConfig, PuzzleVLMForConditionalGeneration


@dataclass(frozen=True)
class Size:
    """Width, depth and eye of one embedded model."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    eye: tuple[int, ...]
    positions: int = 512
    rounds: int = 0


SIZES_OF_MODELS = {
    "puzzle-nano": Size(width=80, layers=3, heads=4, feed_forward=224, eye=(16, 32, 64, 80)),
    "puzzle-tiny": Size(width=128, layers=4, heads=4, feed_forward=384, eye=(24, 48, 96, 128)),
    "plan-nano": Size(width=96, layers=4, heads=3, feed_forward=192, eye=(24, 48, 40), positions=1024, rounds=2),
    "plan-small": Size(width=192, layers=6, heads=6, feed_forward=576, eye=(24, 48, 40), positions=1024, rounds=6),
}

#: What the eye may name, per attribute group (see ``puzzle_vlm.PERCEPTION_GROUPS``).
PERCEPTION_VOCABULARY: tuple[tuple[str, ...], ...] = (
    ("circle", *SIDES, "rectangle", "part", "morph"),
    (*COLORS, "grey"),
    ("?", *(str(n) for n in range(100))),
    (*SIZES, "short", "long", *(str(n) for n in range(1, 7)), "lightest", "light", "dark", "darkest"),
)


def is_plan(name: str) -> bool:
    """Tell whether a model of ``SIZES_OF_MODELS`` is one for planning puzzles."""
    return name.startswith("plan-")


def new_processor(name: str = "puzzle-nano") -> PuzzleProcessor:
    """Return the processor of the domain of a model, pattern puzzles or planning puzzles.

    Example:
        >>> len(new_processor("plan-nano").tokenizer.encode("move 1 : 2 > 3"))
        6
    """
    if is_plan(name):
        numbers = (str(n) for n in range(151))
        words = dict.fromkeys((*numbers, *planning.CELL_WORDS, "options", ":", ",", *planning.vocabulary()))
        return PlanProcessor(PlanImageProcessor(), make_tokenizer(words, planning.phrases()))
    words = dict.fromkeys((*vocabulary(), *(w for group in PERCEPTION_VOCABULARY for w in group)))
    return PuzzleProcessor(PuzzleImageProcessor(), make_tokenizer(words))


def new_model(name: str, processor: PuzzleProcessor) -> PuzzleVLMForConditionalGeneration:
    """Return an untrained model of one of ``SIZES_OF_MODELS``.

    Raises:
        ValueError: there is no such size.
    """
    if name not in SIZES_OF_MODELS:
        raise ValueError(f"`name` must be one of {sorted(SIZES_OF_MODELS)}; got {name!r}.")
    size, tokenizer = SIZES_OF_MODELS[name], processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    groups = (planning.CELL_WORDS,) if is_plan(name) else PERCEPTION_VOCABULARY
    settings: dict[str, Any] = {
        "text_config": text,
        "eye_channels": size.eye,
        "perception_words": tuple(tuple(tokenizer.convert_tokens_to_ids(list(g))) for g in groups),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
    }
    if is_plan(name):
        numbers = tuple(tokenizer.convert_tokens_to_ids([str(n) for n in range(1, planning.LARGEST + 1)]))
        return PlanVLMForConditionalGeneration(PlanVLMConfig(**settings, numbers=numbers, rounds=size.rounds))
    return PuzzleVLMForConditionalGeneration(PuzzleVLMConfig(**settings))
