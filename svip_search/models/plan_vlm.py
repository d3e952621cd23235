"""The embedded model of planning puzzles: an eye that looks at one cell at a time, and a small Llama.

The question tells the grid of the picture (see ``datasets.planning``), so the picture comes cut into cells of
32 x 32 pixels, and every cell becomes one visual token::

    token = words the eye sees in the cell, weighted by their probabilities, as the language model embeds them
          + what the eye makes of the cell and its neighbours, a few 3 x 3 convolutions over the grid
          + the number of the row and that of the column, as the language model embeds them, each through its own map

so the cell in row 4 answers to the word "4" from the first day on.  Pictures of different grids stand in one batch: the
cells of all of them are rows of ``pixel_values``, and ``image_grid_hw`` says how many belong to each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig
from transformers.modeling_outputs import BaseModelOutputWithPast

from .puzzle_vlm import PuzzleVLMConfig, PuzzleVLMForConditionalGeneration, PuzzleVLMModel


class PlanVLMConfig(PuzzleVLMConfig):
    """Sizes of a planning model.

    Args:
        image_size: side of a cell in pixels; a multiple of 4, halved by every stage after the first.
        eye_channels: channels of the convolution stages, and width of what is known of a cell.
        perception_words: one group, the token ids of what the eye may name.
        image_token_id: id of the placeholder that a visual token replaces.
        numbers: token ids of the numbers of rows and columns, from 1 on; as many as a picture may have of each.
        rounds: convolutions over the grid: how many cells far a cell hears of others.
    """

    model_type = "svip_plan_vlm"

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        image_size: int = 32,
        eye_channels: tuple[int, ...] = (32, 64, 48),
        perception_words: tuple[tuple[int, ...], ...] = ((),),
        image_token_id: int = 4,
        numbers: tuple[int, ...] = (),
        rounds: int = 4,
        **kwargs: Any,
    ) -> None:
        self.numbers = list(numbers)
        self.rounds = rounds
        super().__init__(text_config, image_size, eye_channels, perception_words, image_token_id, **kwargs)


class CellEye(nn.Module):
    """Cells [N, 3, S, S] -> features [N, C] and logits [N, words] of what is in each.

    The first stage looks at overlapping patches four pixels apart: as sharp here as two stages of two, at a third of
    the cost.  The last map is flattened, not averaged: where something stands in a cell tells digits and water levels.
    """

    def __init__(self, config: PlanVLMConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels in config.eye_channels[:-1]:
            norm = nn.GroupNorm(max(1, channels // 16), channels)
            kernel, stride = (3, 2) if layers else (6, 4)
            layers += [nn.Conv2d(previous, channels, kernel, stride, 1), norm, nn.GELU()]
            previous = channels
        side, width = config.image_size // 2 ** len(config.eye_channels), config.eye_channels[-1]
        self.stages = nn.Sequential(*layers, nn.Flatten(), nn.Linear(previous * side**2, width), nn.LayerNorm(width))
        self.head = nn.Linear(width, len(config.perception_words[0]))

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        features = nn.functional.gelu(self.stages(cells))
        return features, self.head(features)


class Surroundings(nn.Module):
    """What stands around each cell: features [N, C] of the cells of several pictures -> [N, C].

    Ways, dead ends and neighbours of a cell are facts of the picture; left to the language model they would cost it a
    lookup for every cell and direction.
    """

    def __init__(self, width: int, rounds: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(rounds))
        self.rounds = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(rounds))

    def forward(self, features: Tensor, grids: list[tuple[int, int]]) -> Tensor:
        """Spread ``features`` of pictures with these rows and columns; outside of a picture there is nothing."""
        rows, columns = max(r for r, _ in grids), max(c for _, c in grids)
        inside = torch.zeros(len(grids), rows, columns, dtype=torch.bool)
        for canvas, (r, c) in zip(inside, grids, strict=True):
            canvas[:r, :c] = True
        inside = inside.to(features.device)
        for norm, spread in zip(self.norms, self.rounds, strict=True):
            canvas = features.new_zeros(len(grids), rows, columns, features.shape[-1])
            canvas[inside] = norm(features).to(canvas.dtype)
            heard = spread(canvas.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[inside]
            features = features + nn.functional.gelu(heard)
        return features


class PlanVLMModel(PuzzleVLMModel):
    """Eye and language model, without the language-modelling head."""

    config_class = PlanVLMConfig

    def build_eye(self, config: PuzzleVLMConfig) -> None:
        assert isinstance(config, PlanVLMConfig)
        width = config.text_config.hidden_size
        self.eye = CellEye(config)
        self.project = nn.Linear(config.eye_channels[-1], width)
        self.surroundings = Surroundings(config.eye_channels[-1], config.rounds)
        self.row = nn.Linear(width, width, bias=False)
        self.column = nn.Linear(width, width, bias=False)

    def get_image_features(  # type: ignore[override]
        self, pixel_values: Tensor, image_grid_hw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return visual tokens [N, D] and the eye's logits [N, words] of the N cells of all pictures.

        Args:
            pixel_values: [N, 3, S, S] in [-1, 1], row after row of one picture after another.
            image_grid_hw: int64 [P, 2], rows and columns of each picture.

        Raises:
            ValueError: ``image_grid_hw`` does not describe ``pixel_values``.
        """
        grids = [(int(rows), int(columns)) for rows, columns in image_grid_hw.tolist()]
        if sum(rows * columns for rows, columns in grids) != len(pixel_values):
            raise ValueError(f"`image_grid_hw` must describe the {len(pixel_values)} cells given; got {grids}.")
        features, logits = self.eye(pixel_values)
        device = features.device
        row = torch.cat([torch.arange(r).repeat_interleave(c) for r, c in grids]).to(device)
        column = torch.cat([torch.arange(c).repeat(r) for r, c in grids]).to(device)
        words = self.language_model.embed_tokens.weight[self.config.perception_words[0]]
        numbers = self.language_model.embed_tokens.weight[self.config.numbers]
        tokens = logits.softmax(-1) @ words + self.project(self.surroundings(features, grids))
        return tokens + self.row(numbers)[row] + self.column(numbers)[column], logits

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_hw: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if pixel_values is not None and input_ids is not None and inputs_embeds is None:
            if image_grid_hw is None:
                raise ValueError("`image_grid_hw` must come with `pixel_values`; got None.")
            inputs_embeds = self.get_input_embeddings()(input_ids)
            tokens, _ = self.get_image_features(pixel_values.to(inputs_embeds.dtype), image_grid_hw)
            inputs_embeds, input_ids = self.place_tokens(input_ids, inputs_embeds, tokens), None
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def place_tokens(self, input_ids: Tensor, embeds: Tensor, tokens: Tensor) -> Tensor:
        """Return ``embeds`` with the visual ``tokens`` [N, D] at the image placeholders."""
        here = input_ids == self.config.image_token_id
        if int(here.sum()) != len(tokens):
            raise ValueError(
                f"`input_ids` must hold one image token a cell; got {int(here.sum())} for {len(tokens)} cells."
            )
        return embeds.masked_scatter(here[..., None], tokens.to(embeds.dtype))


class PlanVLMForConditionalGeneration(PuzzleVLMForConditionalGeneration):
    """The planning policy's model: next-token logits after picture and text."""

    config_class = PlanVLMConfig
    body = PlanVLMModel

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, image_grid_hw: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if "pixel_values" in inputs:
            inputs["image_grid_hw"] = image_grid_hw
        return inputs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, pixel_values: Tensor | None = None, image_grid_hw: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:  # fmt: skip
        # Several texts a prompt repeat whole pictures, not each of their cells.
        ids, kwargs = super()._expand_inputs_for_generation(expand_size, **kwargs)
        if pixel_values is not None and image_grid_hw is not None:
            pictures = torch.split(pixel_values, image_grid_hw.prod(1).tolist())
            kwargs["pixel_values"] = torch.cat([p for p in pictures for _ in range(expand_size)])
            kwargs["image_grid_hw"] = image_grid_hw.repeat_interleave(expand_size, 0)
        return ids, kwargs


AutoConfig.register(PlanVLMConfig.model_type, PlanVLMConfig, exist_ok=True)
AutoModelForImageTextToText.register(PlanVLMConfig, PlanVLMForConditionalGeneration, exist_ok=True)
