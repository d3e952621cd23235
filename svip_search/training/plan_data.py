"""Generated planning puzzles as training tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..datasets.planning import CELL_WORDS, Plan, cut
from ..models.prompt import STEP_SEPARATOR, question_text
from ..models.puzzle_processor import PuzzleProcessor
from .data import Chunk

_INDEX = {word: i for i, word in enumerate(CELL_WORDS)}


@dataclass
class PlanChunk(Chunk):
    """Planning puzzles as tensors, the cells of all their pictures one after another.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        cells: int64 [N], which of ``CELL_WORDS`` stands in each cell.
        prompts: token ids of the words before the steps and one image placeholder a cell.
        grids: int64 [P, 2], rows and columns of each picture.
    """

    grids: Tensor

    def __post_init__(self) -> None:
        self.starts = np.concatenate([[0], np.cumsum(self.grids.prod(1).numpy())])

    def pictures(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``pixels``, ``cells`` and ``grids`` of some samples."""
        index = torch.from_numpy(np.concatenate([np.arange(self.starts[r], self.starts[r + 1]) for r in rows]))
        return self.pixels[index], self.cells[index], self.grids[list(rows)]


def encode_plans(plans: Sequence[Plan], chains: Sequence[Sequence[str]], processor: PuzzleProcessor) -> PlanChunk:
    """Return the tensors of some puzzles with one chain of steps each."""
    tokenizer = processor.tokenizer

    def ids(texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return encoded

    prompts = ids([processor.expand("<image>" + question_text(p.question, instructions=False)) for p in plans])
    steps = ids(["".join(s + STEP_SEPARATOR for s in chain) for chain in chains])
    pixels, cells, grids = cells_of(plans, processor.image_processor.side)
    return PlanChunk(
        pixels,
        cells,
        prompts,
        [[*s, tokenizer.eos_token_id] for s in steps],
        [p.answer for p in plans],
        [p.family for p in plans],
        grids,
    )


def cells_of(plans: Sequence[Plan], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures cut into cells, what is in these and the grids, as `PlanChunk` has them."""
    return (
        torch.from_numpy(np.concatenate([cut(p.image, p.grid, side) for p in plans])),
        torch.tensor([_INDEX[word] for p in plans for word in p.cells]),
        torch.tensor([[p.grid.rows, p.grid.columns] for p in plans]),
    )


def cell_loss(logits: Tensor, cells: Tensor) -> Tensor:
    """Return the cross-entropy of the eye over cells [N], every word that occurs weighing the same.

    Walls and empty cells are nine out of ten, and easy: a plain mean would leave the digits for last.
    """
    each = functional.cross_entropy(logits.float(), cells, reduction="none")
    count = torch.bincount(cells, minlength=logits.shape[1])
    return (each / count[cells]).sum() / (count > 0).sum()
