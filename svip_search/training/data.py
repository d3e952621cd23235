"""Generated pattern puzzles as training tensors, and batches of any such chunk of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets.puzzles import Puzzle
from ..models.embedded import PERCEPTION_VOCABULARY
from ..models.prompt import STEP_SEPARATOR, question_text
from ..models.puzzle_processor import PuzzleProcessor

IGNORE = -100


@dataclass
class Chunk:
    """Samples as tensors; here of pattern puzzles.

    Attributes:
        pixels: uint8 [P, S, S, 3].
        cells: int64 [P, V, G], what stands in each visual cell per attribute group, 0 = nothing.
        prompts: token ids of the words before the steps (image placeholders not included).
        steps: token ids of the steps with their separators and the end token.
        answers: the true ones.
        families: of the puzzles.
    """

    pixels: Tensor
    cells: Tensor
    prompts: list[list[int]]
    steps: list[list[int]]
    answers: list[str]
    families: list[str]


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
        [p.answer for p in puzzles],
        [p.family for p in puzzles],
    )


def to_pixels(images: Tensor) -> Tensor:
    """Return uint8 [P, S, S, 3] as the float32 [P, 3, S, S] in [-1, 1] that the eye takes."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def batches(chunk: Chunk, batch_size: int, rng: np.random.Generator, tokens: int = 0) -> list[np.ndarray[Any, Any]]:
    """Return index batches of similar text length, in random order: little padding, same puzzles.

    Args:
        chunk: what to cut.
        batch_size: samples of a batch, where ``tokens`` is 0.
        rng: of the order.
        tokens: most tokens of a batch, padding included (but one sample at least): where lengths differ widely,
            this keeps the cost of a batch, and the noise of its gradient, the same.
    """
    lengths = np.array([len(p) + len(s) for p, s in zip(chunk.prompts, chunk.steps, strict=True)])
    order = np.argsort(lengths + rng.uniform(0, 8, len(lengths)))
    if tokens:
        cut = _cut_by_tokens(order, lengths, tokens)
    else:
        cut = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [cut[i] for i in rng.permutation(len(cut))]


def _cut_by_tokens(
    order: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], tokens: int
) -> list[np.ndarray[Any, Any]]:
    starts, longest = [0], 0
    for i, r in enumerate(order):
        longest = max(longest, int(lengths[r]))
        if i > starts[-1] and (i + 1 - starts[-1]) * longest > tokens:
            starts.append(i)
            longest = int(lengths[r])
    return np.split(order, starts[1:])


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
