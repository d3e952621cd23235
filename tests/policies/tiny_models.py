"""Random image-text-to-text models of three families, small enough to test in milliseconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from svip_search._images import open_image

WORDS = ("the", "red", "blue", "circle", "is", "answer", ":", "4", "what", "?")
SIDE = 32
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_tokenizer() -> Any:
    """Return a tokenizer of whole words, the newline one of them."""
    names = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "\n", *WORDS)
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|<image>|\w+|[^\w\s]"), "removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
    )


class TinyProcessor:
    """The part of a processor that a prompt needs; every picture becomes placeholders and tensors."""

    image_token = "<image>"
    chat_template = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, images: Any = None, text: str = "", return_tensors: str = "pt") -> dict[str, Any]:
        pictures = [open_image(i) for i in images or ()]
        data, counts = self.encode(pictures) if pictures else ({}, [])
        for count in counts:
            text = text.replace("<image>", ":" + "<IMAGE>" * count + ":", 1)
        ids = self.tokenizer(text.replace("<IMAGE>", "<image>"), return_tensors="pt", return_token_type_ids=False)
        return {**ids, **data}

    def pixels(self, pictures: list[Image.Image]) -> torch.Tensor:
        arrays = [np.asarray(p.resize((SIDE, SIDE)), np.float32) / 127.5 - 1.0 for p in pictures]
        return torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())

    def encode(self, pictures: list[Image.Image]) -> tuple[dict[str, Any], list[int]]:
        raise NotImplementedError


class LlavaTiny(TinyProcessor):
    def encode(self, pictures: list[Image.Image]) -> tuple[dict[str, Any], list[int]]:
        return {"pixel_values": self.pixels(pictures)}, [(SIDE // 8) ** 2] * len(pictures)


class Idefics3Tiny(TinyProcessor):
    def encode(self, pictures: list[Image.Image]) -> tuple[dict[str, Any], list[int]]:
        pixels = self.pixels(pictures)[None]
        mask = torch.ones(1, len(pictures), SIDE, SIDE, dtype=torch.int64)
        return {"pixel_values": pixels, "pixel_attention_mask": mask}, [(SIDE // 8) ** 2 // 4] * len(pictures)


class QwenTiny(TinyProcessor):
    def encode(self, pictures: list[Image.Image]) -> tuple[dict[str, Any], list[int]]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        make = Qwen2VLImageProcessorPil(
            patch_size=8,
            merge_size=2,
            temporal_patch_size=2,
            size={"shortest_edge": 16**2, "longest_edge": 64**2},
        )
        data = dict(make(images=pictures, return_tensors="pt"))
        return data, (data["image_grid_thw"].prod(-1) // 4).tolist()


def llava(vocabulary: int, image: int) -> Any:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
    )
    text = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=256, **TEXT)
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_id=image))


def idefics3(vocabulary: int, image: int) -> Any:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
    }
    text = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=256, pad_token_id=0, **TEXT)
    config = Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=image, scale_factor=2, pad_token_id=0
    )
    return Idefics3ForConditionalGeneration(config)


def qwen2_5_vl(vocabulary: int, image: int) -> Any:
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 8,
        "window_size": 32,
        "out_hidden_size": TEXT["hidden_size"],
        "fullatt_block_indexes": [1],
    }
    text = dict(
        vocab_size=vocabulary,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        bos_token_id=1,
        eos_token_id=2,
        **TEXT,
    )
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=image,
        video_token_id=vocabulary - 1,
        vision_start_token_id=vocabulary - 2,
        vision_end_token_id=vocabulary - 3,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


FAMILIES = {
    "llava": (llava, LlavaTiny),
    "idefics3": (idefics3, Idefics3Tiny),
    "qwen2_5_vl": (qwen2_5_vl, QwenTiny),
}


def build(family: str, seed: int = 0, gain: float = 6.0) -> tuple[Any, Any]:
    """Return a model and its processor; ``gain`` makes the random weights matter."""
    tokenizer = make_tokenizer()
    make_model, make_processor = FAMILIES[family]
    torch.manual_seed(seed)
    model = make_model(len(tokenizer) + 3, tokenizer.convert_tokens_to_ids("<image>")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(gain)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, make_processor(tokenizer)
