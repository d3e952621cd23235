"""Pictures and text to tensors for the embedded models: a word tokenizer and a 128-pixel eye."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from .._images import open_image
from .puzzle_vlm import PuzzleVLMConfig

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
_WORD = r"\n|<image>|\d+|[^\W\d_]+|[^\w\s]"


def make_tokenizer(words: Iterable[str], phrases: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer: special tokens, the newline, ``words`` in order, then ``phrases``.

    A phrase, some words in lower case as they stand in a text, is one token wherever it occurs; the longest wins.
    """
    phrases = sorted(phrases, key=len, reverse=True)
    words = (*words, *phrases)
    vocabulary = {w: i for i, w in enumerate(dict.fromkeys((*SPECIAL_TOKENS, "\n", *words)))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex("|".join((*map(_whole, phrases), _WORD))), "removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # joins words with single spaces
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _whole(phrase: str) -> str:
    """Return the pattern of a phrase that neither begins nor ends within a word."""
    before, after = (r"(?<!\w)" if phrase[0].isalnum() else ""), (r"(?!\w)" if phrase[-1].isalnum() else "")
    return before + re.escape(phrase) + after


class PuzzleImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Resizes a picture to a square and maps it to [-1, 1]."""

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(self, side: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def __call__(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Return ``pixel_values`` float32 [P, 3, side, side] of one or several pictures."""
        several = images if isinstance(images, (list, tuple)) else [images]
        array = np.stack([self.to_array(open_image(i)) for i in several])
        return BatchFeature({"pixel_values": torch.from_numpy(array)}, tensor_type=return_tensors)

    def to_array(self, image: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return one picture as float32 [3, side, side] in [-1, 1]."""
        if image.size != (self.side, self.side):
            image = image.resize((self.side, self.side), Image.Resampling.BOX)
        return (np.asarray(image, np.float32) / 127.5 - 1.0).transpose(2, 0, 1)


class PuzzleProcessor(ProcessorMixin):  # type: ignore[misc]
    """Tokenizer and image processor in one; every ``<image>`` in the text becomes 64 placeholders."""

    #: The model answers in steps by itself: no instruction is put before the question.
    wants_instructions = False
    #: The models learned from one picture a question; more would go in, and mean nothing to them.
    max_images = 1
    model_name = "A puzzle model"
    eye: ClassVar[type[PuzzleImageProcessor]] = PuzzleImageProcessor

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, n_visual_tokens: int = 64,
                 chat_template: str | None = None, **kwargs: Any) -> None:  # fmt: skip
        self.n_visual_tokens = n_visual_tokens
        self.image_token = "<image>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None,
                 return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:  # fmt: skip
        """Return ``input_ids``, ``attention_mask`` [B, L] and ``pixel_values`` [P, 3, S, S]."""
        data: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            texts = [self.expand(t) for t in texts]
            kwargs.setdefault("padding", True)
            encoded = self.tokenizer(texts, return_tensors="pt", return_token_type_ids=False, **kwargs)
            data.update(encoded)
        if images is not None and not (isinstance(images, (list, tuple)) and not images):
            data.update(self.image_processor(images, return_tensors="pt"))
        return BatchFeature(data, tensor_type=return_tensors)

    def expand(self, text: str) -> str:
        """Return a prompt with a placeholder for every visual token of its pictures."""
        return text.replace("<image>", "<image>" * self.n_visual_tokens)

    @classmethod
    def _get_arguments_from_pretrained(cls, folder: Any, *args: Any, **kwargs: Any) -> list[Any]:
        # The parts are ours: looking them up by name would want torchvision in transformers 5.17.
        saved, _ = cls.get_processor_dict(folder)
        sides = {k: v for k, v in (saved.get("image_processor") or {}).items() if k == "side"}
        return [cls.eye(**sides), PreTrainedTokenizerFast.from_pretrained(folder)]


AutoProcessor.register(PuzzleVLMConfig, PuzzleProcessor, exist_ok=True)
