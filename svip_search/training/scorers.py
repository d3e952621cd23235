"""Which scorer trains which backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch

from ..models.plan_vlm import PlanVLMForConditionalGeneration
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from ..models.zoo import model_folder
from ..rewards._triatt_cot import TriAttCoT
from .step_scorer import StepScorer

if TYPE_CHECKING:
    from .reward import TrainRewardConfig

Tune = Literal["auto", "full", "frozen", "lora"]
TUNES: tuple[str, ...] = get_args(Tune)


def make_scorer(config: TrainRewardConfig, device: torch.device) -> StepScorer:
    """Return the scorer that a configuration asks for, on its device.

    Raises:
        ValueError: the backbone cannot be trained that way.
        ModelFileError: there is no such backbone.
    """
    backbone, processor = _backbone(config)
    embedded = isinstance(backbone, PuzzleVLMForConditionalGeneration)
    tune = config.tune if config.tune != "auto" else ("full" if embedded else "frozen")
    if tune == "full" and not embedded:
        raise ValueError(
            f"`tune` must be frozen or lora for a backbone of type {backbone.config.model_type!r}; got full."
        )
    head = TriAttCoT(
        int(backbone.config.get_text_config().hidden_size), config.head_dim, config.n_kv_heads,
        cast(Any, config.query), config.segment_bias, "mlp" if config.mlp else "linear", config.surprise,
        config.n_heads,
    )  # fmt: skip
    return _scorer(tune, config, backbone, processor, head).to(device)


def _scorer(tune: str, config: TrainRewardConfig, backbone: Any, processor: Any, head: TriAttCoT) -> StepScorer:
    if tune == "full":
        from .puzzle_scorer import PlanScorer, PuzzleScorer

        kind = PlanScorer if isinstance(backbone, PlanVLMForConditionalGeneration) else PuzzleScorer
        return kind(backbone, processor, head)
    if tune == "lora":
        from .lora_scorer import LoraScorer

        return LoraScorer(
            backbone, processor, head, rank=config.lora_rank, gradient_checkpointing=config.gradient_checkpointing,
            source=config.backbone if config.adapter_only else None,
        )  # fmt: skip
    from .frozen_scorer import FrozenScorer

    cache = Path(config.cache or Path(config.out) / "hidden-states")
    return FrozenScorer(backbone, processor, head, cache=cache, dtype=cast(Any, config.cache_dtype))


def _backbone(config: TrainRewardConfig) -> tuple[Any, Any]:
    from ..models.embedded import new_model, new_processor

    if not config.backbone:
        processor = new_processor(config.size)
        return new_model(config.size, processor), processor
    from ..rewards.svip_reward import read_backbone

    return read_backbone(model_folder(config.backbone, "policy"), "auto")
