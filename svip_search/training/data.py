"""Generated puzzles as training tensors, in chunks that depend on (seed, chunk) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.puzzles import Puzzle, generate_puzzle
from ..models.embedded import PERCEPTION_VOCABULARY
from ..models.prompt import STEP_SEPARATOR, question_text
from ..models.puzzle_processor import PuzzleProcessor

IGNORE = -100


@dataclass
class Chunk:
    """Puzzles as tensors.

    Attributes:
        pixels: uint8 [P, S, S, 3].
        cells: int64 [P, V, G], what stands in each visual cell per attribute group, 0 = nothing.
        prompts: token ids of the words before the steps (image placeholders not included).
        steps: token ids of the steps with their separators and the end token.
    """

    pixels: Tensor
    cells: Tensor
    prompts: list[list[int]]
    steps: list[list[int]]


def cell_labels(puzzle: Puzzle, side: int = 8) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return int64 [side * side, G]: the index of what stands in each cell, 0 = nothing."""
    cells = np.zeros((side * side, len(PERCEPTION_VOCABULARY)), np.int64)
    for o in puzzle.objects:
        x, y = min(side - 1, int(o.x * side)), min(side - 1, int(o.y * side))
        for g, (words, value) in enumerate(
            zip(PERCEPTION_VOCABULARY, (o.shape, o.color, o.number, o.size), strict=True)
        ):
            if value in words:
                cells[y * side + x, g] = 1 + words.index(value)
    return cells


class PuzzleChunks(Dataset[Chunk]):
    """Chunk ``c`` holds puzzles ``c * size`` to ``(c + 1) * size - 1`` of a seed's sequence."""

    def __init__(
        self, processor: PuzzleProcessor, seed: int, chunks: range, size: int = 512, families: Sequence[str] = ()
    ) -> None:
        self.processor, self.seed, self.chunks, self.size = processor, seed, chunks, size
        self.families = tuple(families) or None

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, item: int) -> Chunk:
        start = self.chunks[item] * self.size
        puzzles = [generate_puzzle(self.seed, start + i, families=self.families) for i in range(self.size)]
        return encode(puzzles, self.processor)


def encode(puzzles: list[Puzzle], processor: PuzzleProcessor) -> Chunk:
    """Return the tensors of some puzzles."""
    tokenizer = processor.tokenizer

    def ids(texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return encoded

    prompts = ids([question_text(p.question, instructions=False) for p in puzzles])
    steps = ids(["".join(s + STEP_SEPARATOR for s in p.steps) for p in puzzles])
    return Chunk(
        torch.from_numpy(np.stack([np.asarray(p.image) for p in puzzles])),
        torch.from_numpy(np.stack([cell_labels(p) for p in puzzles])),
        prompts,
        [[*s, tokenizer.eos_token_id] for s in steps],
    )


def to_pixels(images: Tensor) -> Tensor:
    """Return uint8 [P, S, S, 3] as the float32 [P, 3, S, S] in [-1, 1] that the eye takes."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def batches(chunk: Chunk, batch_size: int, rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
    """Return index batches of similar text length, in random order: little padding, same puzzles."""
    lengths = np.array([len(p) + len(s) for p, s in zip(chunk.prompts, chunk.steps, strict=True)])
    order = np.argsort(lengths + rng.uniform(0, 8, len(lengths)))
    cut = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [cut[i] for i in rng.permutation(len(cut))]


def text_batch(chunk: Chunk, rows: np.ndarray[Any, Any], pad: int) -> tuple[Tensor, Tensor]:
    """Return right-padded text ids [B, L] and labels [B, L] (IGNORE outside the steps)."""
    length = max(len(chunk.prompts[r]) + len(chunk.steps[r]) for r in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), IGNORE)
    for b, r in enumerate(rows):
        prompt, steps = chunk.prompts[r], chunk.steps[r]
        end = len(prompt) + len(steps)
        ids[b, :end] = torch.tensor(prompt + steps)
        labels[b, len(prompt) : end] = torch.tensor(steps)
    return ids, labels


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of different length as int64 [rows, longest], filled up on the right."""
    out = torch.full((len(rows), max(map(len, rows))), value)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return out
