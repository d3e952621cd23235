"""What the training of a policy must know of a domain: how to draw samples, and what the model loses on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from ..datasets.planning import FAMILIES, Plan, generate_plan, trace
from ..datasets.puzzles import generate_puzzle
from ..models.embedded import is_plan, new_processor
from ..models.plan_vlm import PlanVLMModel
from ..models.puzzle_processor import PuzzleProcessor
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from .data import IGNORE, Chunk, encode, text_batch, to_pixels
from .plan_data import PlanChunk, cell_loss, encode_plans

VALIDATION_SEED = 2**31 - 1


class Domain(ABC):
    """Base of the domains.

    Args:
        processor: of the models of the domain.
        families: what to draw training samples from; empty: all families.

    Attributes:
        longest: tokens after which a chain of a validation is cut off.
    """

    longest: int

    def __init__(self, processor: PuzzleProcessor, families: Sequence[str]) -> None:
        self.processor, self.families = processor, tuple(families) or None

    @abstractmethod
    def draw(self, seed: int, indices: range) -> Chunk:
        """Return training samples of the endless sequence ``seed``."""

    @abstractmethod
    def held_out(self, count: int) -> Chunk:
        """Return samples of all families that are in no training."""

    @abstractmethod
    def eye_loss(self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: np.ndarray[Any, Any]) -> Tensor:
        """Return what the eye alone loses on some samples."""

    @abstractmethod
    def losses(
        self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: np.ndarray[Any, Any]
    ) -> tuple[Tensor, Tensor]:
        """Return (loss of the steps' tokens, loss of the eye) on some samples."""

    @abstractmethod
    def prompts(
        self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: Sequence[int]
    ) -> tuple[list[list[int]], dict[str, Tensor]]:
        """Return the ids of some prompts with their placeholders, and the tensors of their pictures."""


class PuzzleDomain(Domain):
    """Pattern puzzles."""

    longest = 120

    def draw(self, seed: int, indices: range) -> Chunk:
        return encode([generate_puzzle(seed, i, families=self.families) for i in indices], self.processor)

    def held_out(self, count: int) -> Chunk:
        return encode([generate_puzzle(VALIDATION_SEED, i) for i in range(count)], self.processor)

    def eye_loss(self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: np.ndarray[Any, Any]) -> Tensor:
        index = torch.from_numpy(rows)
        _, guesses = model.model.eye(to_pixels(chunk.pixels[index].to(model.device)))
        return perception_loss(guesses, chunk.cells[index].to(model.device))

    def losses(
        self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: np.ndarray[Any, Any]
    ) -> tuple[Tensor, Tensor]:
        index, device = torch.from_numpy(rows), model.device
        ids, labels = text_batch(chunk, rows, self.processor.tokenizer.pad_token_id)
        pixels, cells = chunk.pixels[index].to(device), chunk.cells[index].to(device)
        return loss_of(model, pixels, cells, ids.to(device), labels.to(device))

    def prompts(
        self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: Sequence[int]
    ) -> tuple[list[list[int]], dict[str, Tensor]]:
        image = [model.config.image_token_id] * model.config.n_visual_tokens
        return [image + chunk.prompts[r] for r in rows], {"pixel_values": to_pixels(chunk.pixels[list(rows)])}


class PlanDomain(Domain):
    """Planning puzzles.

    Args:
        processor: see the base.
        families: see the base.
        mixed: share of the training samples with a chain of mixed quality (`trace`) instead of the right one: so
            the policy learns to see a mistake, to go back and to go on.
        moves: lengths (least, most) of the shortest plans of the training samples; empty: as generated.
        readings: the first samples, whose chains end when they have said what the picture shows: finding a cell by its
            row and column is learned at a third of the cost, and nothing else is before it.
    """

    longest = 480

    def __init__(
        self, processor: PuzzleProcessor, families: Sequence[str] = (), mixed: float = 0.5, moves: Sequence[int] = (),
        readings: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(processor, families)
        self.readings = readings
        self.mixed, self.moves = mixed, (moves[0], moves[1]) if moves else None

    def draw(self, seed: int, indices: range) -> PlanChunk:
        plans = [generate_plan(seed, i, families=self.families, moves=self.moves) for i in indices]
        return encode_plans(plans, [self._chain(p) for p in plans], self.processor)

    def _chain(self, plan: Plan) -> Sequence[str]:
        if plan.index < self.readings:
            return FAMILIES[plan.family].readings(plan.task)
        rng = np.random.default_rng([plan.seed, plan.index, 1])
        return trace(plan, rng) if rng.random() < self.mixed else plan.steps

    def held_out(self, count: int) -> PlanChunk:
        plans = [generate_plan(VALIDATION_SEED, i) for i in range(count)]
        return encode_plans(plans, [p.steps for p in plans], self.processor)

    def eye_loss(self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: np.ndarray[Any, Any]) -> Tensor:
        assert isinstance(chunk, PlanChunk)
        pixels, cells, _ = chunk.pictures(rows)
        _, logits = model.model.eye(to_pixels(pixels.to(model.device)))
        return cell_loss(logits, cells.to(model.device))

    def losses(
        self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: np.ndarray[Any, Any]
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(chunk, PlanChunk)
        inner, device = model.model, model.device
        assert isinstance(inner, PlanVLMModel)
        ids, labels = (t.to(device) for t in text_batch(chunk, rows, self.processor.tokenizer.pad_token_id))
        pixels, cells, grids = chunk.pictures(rows)
        tokens, logits = inner.get_image_features(to_pixels(pixels.to(device)), grids)
        embeds = inner.place_tokens(ids, inner.get_input_embeddings()(ids), tokens)
        hidden = inner.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return steps_loss(model, hidden[:, :-1], labels[:, 1:]), cell_loss(logits, cells.to(device))

    def prompts(
        self, model: PuzzleVLMForConditionalGeneration, chunk: Chunk, rows: Sequence[int]
    ) -> tuple[list[list[int]], dict[str, Tensor]]:
        assert isinstance(chunk, PlanChunk)
        pixels, _, grids = chunk.pictures(rows)
        return [chunk.prompts[r] for r in rows], {"pixel_values": to_pixels(pixels), "image_grid_hw": grids}


def domain_of(
    model: str, families: Sequence[str] = (), mixed: float = 0.5, moves: Sequence[int] = (), readings: int = 0
) -> Domain:
    """Return the domain of an embedded model by its name.

    Raises:
        ValueError: ``moves`` or ``readings`` is given where there are none.
    """
    if is_plan(model):
        return PlanDomain(new_processor(model), families, mixed, moves, readings)
    if readings:
        raise ValueError(f"`readings` must be 0 for pattern puzzles; got {readings}.")
    if moves:
        raise ValueError(f"`moves` must be empty for pattern puzzles, which have none; got {tuple(moves)}.")
    return PuzzleDomain(new_processor(model), families)


@dataclass
class Chunks(Dataset[Chunk]):
    """Chunk ``c`` holds samples ``c * size`` to ``(c + 1) * size - 1`` of a seed's sequence."""

    domain: Domain
    seed: int
    chunks: range
    size: int = 512

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, item: int) -> Chunk:
        start = self.chunks[item] * self.size
        return self.domain.draw(self.seed, range(start, start + self.size))


def loss_of(
    model: PuzzleVLMForConditionalGeneration, pixels: Tensor, cells: Tensor, ids: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (loss of the steps' tokens, loss of the eye) for one batch.

    The visual tokens are put in front of the text here instead of by placeholders: the same
    sequence, without the search for placeholders that a compiler cannot trace.
    """
    visual, guesses = model.model.get_image_features(to_pixels(pixels))
    text = model.get_input_embeddings()(ids)
    hidden = model.model.language_model(inputs_embeds=torch.cat([visual, text], 1), use_cache=False).last_hidden_state
    return steps_loss(model, hidden[:, visual.shape[1] : -1], labels[:, 1:]), perception_loss(guesses, cells)


def steps_loss(model: PuzzleVLMForConditionalGeneration, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of ``labels`` [B, L] after ``hidden`` [B, L, D], where they are not IGNORE."""
    wanted = labels != IGNORE
    return functional.cross_entropy(model.lm_head(hidden[wanted]).float(), labels[wanted])


def perception_loss(guesses: list[Tensor], cells: Tensor) -> Tensor:
    """Return the cross-entropy of the eye, empty and filled cells weighing the same."""
    total = guesses[0].new_zeros(())
    for group, logits in enumerate(guesses):
        target = cells[..., group].flatten()
        each = functional.cross_entropy(logits.float().flatten(0, 1), target, reduction="none")
        filled = (target > 0).float()
        total = total + (each * filled).sum() / filled.sum().clamp(min=1) + (each * (1 - filled)).mean()
    return total
