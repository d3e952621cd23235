"""Attention in float32 for trainings that compute in bfloat16 on a CPU.

There the fused kernel of torch takes two to three times as long in bfloat16 as in float32, backward above all,
while matrix products are two to three times as fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32 = "sdpa_float32"


def _float32_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )  # fmt: skip
    return out, None


def use_float32_attention(model: Any) -> None:
    """Let a model of transformers attend in float32, whatever it computes in otherwise."""
    AttentionInterface.register(FLOAT32, _float32_attention)
    AttentionMaskInterface.register(FLOAT32, sdpa_mask)
    model.set_attn_implementation(FLOAT32)
