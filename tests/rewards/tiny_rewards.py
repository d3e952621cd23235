"""Tokenizers that read any text, and random models on them, small enough to score a path in milliseconds."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
)

from svip_search import Question

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<extra_0>", "<prm>")
TEXTS = [
    "Step 1: there are 3 red circles and 4 blue ones. ки\nStep 2: 3 + 4 = 7, so the answer is 7. ки\n",
    "### Question:\nwhat is missing ?\nOptions: red, blue\n\n### Solution Process:\nthe circle is red + - Yes No",
] * 8
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{{ '<image>' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTION = Question("what is missing ?", options=["red", "blue"])
OTHER = Question("how many circles are there in all, red and blue together ?")
PATHS = [
    ("there are 3 red circles", "so 3 + 4 = 7", "the answer is 7"),
    ("there are 3 red circles", "the answer is 4"),
    ("blue",),
]


@functools.cache
def _core(spaced: bool) -> str:
    if spaced:  # as Llama and Mistral: a space before every word, also the first
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        core.decoder = decoders.Metaspace()
        alphabet: list[str] = []
        first = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    else:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = Tokenizer.from_str(Qwen2Tokenizer().backend_tokenizer.to_str()).pre_tokenizer
        core.decoder = decoders.ByteLevel()
        alphabet, first = pre_tokenizers.ByteLevel.alphabet(), []
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=first, show_progress=False)
    core.train_from_iterator([t.replace("\n", "") for t in TEXTS] if spaced else TEXTS, trainer)
    return str(core.to_str())


def tokenizer(*, chat: bool = True) -> Any:
    """Return a small tokenizer of Qwen, with a chat template."""
    learned = json.loads(_core(False))["model"]
    made = Qwen2Tokenizer(vocab=learned["vocab"], merges=[tuple(m) for m in learned["merges"]], eos_token=SPECIAL[2])
    made.add_special_tokens({"additional_special_tokens": [AddedToken(t, special=True) for t in SPECIAL]})
    made.chat_template = CHAT if chat else None
    return made


def spaced_tokenizer() -> Any:
    """Return a tokenizer like that of Mistral: every text begins with a space and the token ``<s>``."""
    from tokenizers.processors import TemplateProcessing

    core = Tokenizer.from_str(json.dumps(json.loads(_core(True)) | {"added_tokens": []}))  # bytes are ordinary tokens
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def config(words: int, kind: type = Qwen2Config, **more: Any) -> Any:
    """Return the configuration of a decoder of two layers."""
    small = {
        "vocab_size": words,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    return kind(**{**small, **more})


def model(kind: type, settings: Any, seed: int = 0, gain: float = 4.0) -> Any:
    """Return a random model; ``gain`` makes its weights matter."""
    torch.manual_seed(seed)
    made = kind(settings).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(gain)
    return made


def llava(seed: int = 0) -> tuple[Any, Any]:
    """Return a random LLaVA and its real processor, with a chat template."""
    words = tokenizer()
    layers = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = CLIPVisionConfig(hidden_size=16, image_size=16, patch_size=8, **layers)
    text = config(len(words), LlamaConfig)
    settings = LlavaConfig(vision_config=vision, text_config=text, image_token_id=words.encode("<image>")[0])
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    return model(LlavaForConditionalGeneration, settings, seed), processor


def picture(seed: int = 0, side: int = 24) -> np.ndarray:
    """Return noise."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def close(found: Any, wanted: Any, tolerance: float = 3e-5) -> None:
    """Compare rewards: the same shapes, numbers apart by rounding only."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)
