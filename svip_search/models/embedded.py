"""Sizes of the embedded models and their construction from scratch."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig

from ..datasets.puzzles import vocabulary
from ..datasets.puzzles._family import COLORS, SIDES, SIZES
from .puzzle_processor import PuzzleImageProcessor, PuzzleProcessor, make_tokenizer
from .puzzle_vlm import PuzzleVLMConfig, PuzzleVLMForConditionalGeneration


@dataclass(frozen=True)
class Size:
    """Width, depth and eye of one embedded model."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    eye: tuple[int, int, int, int]


SIZES_OF_MODELS = {
    "puzzle-nano": Size(width=80, layers=3, heads=4, feed_forward=224, eye=(16, 32, 64, 80)),
    "puzzle-tiny": Size(width=128, layers=4, heads=4, feed_forward=384, eye=(24, 48, 96, 128)),
}

#: What the eye may name, per attribute group (see ``puzzle_vlm.PERCEPTION_GROUPS``).
PERCEPTION_VOCABULARY: tuple[tuple[str, ...], ...] = (
    ("circle", *SIDES, "rectangle", "part", "morph"),
    (*COLORS, "grey"),
    ("?", *(str(n) for n in range(100))),
    (*SIZES, "short", "long", *(str(n) for n in range(1, 7)), "lightest", "light", "dark", "darkest"),
)


def new_processor() -> PuzzleProcessor:
    """Return the processor of the puzzle domain."""
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
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    words = tuple(tuple(tokenizer.convert_tokens_to_ids(list(g))) for g in PERCEPTION_VOCABULARY)
    config = PuzzleVLMConfig(
        text_config=text,
        eye_channels=size.eye,
        perception_words=words,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return PuzzleVLMForConditionalGeneration(config)
