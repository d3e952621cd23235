"""What a trainer of reward models trains: a module that judges every node of some trees.

A scorer holds backbone and TriAtt-CoT and knows how trees become their input.  There is one for each way
to train: all weights of an embedded model (`puzzle_scorer`), the head alone on hidden states that were
computed once (`frozen_scorer`), the head and low-rank updates of any backbone (`lora_scorer`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..rewards._triatt_cot import TriAttCoT
from ..rewards.svip_reward import SvipReward
from .step_trees import StepTree


class StepScorer(nn.Module, ABC):
    """Base of the scorers.

    Args:
        backbone: an image-text-to-text model of transformers.
        processor: its processor.
        head: the TriAtt-CoT module on its hidden states.
    """

    def __init__(self, backbone: Any, processor: Any, head: TriAttCoT) -> None:
        super().__init__()
        self.backbone, self.processor, self.head = backbone, processor, head

    @abstractmethod
    def forward(self, trees: Sequence[StepTree]) -> tuple[Tensor, Tensor]:
        """Return the logits [sum of nodes, 3] of all nodes, tree after tree, and a loss of the scorer's own (or 0)."""

    @abstractmethod
    def make_optimizers(self, learning_rate: float, head_learning_rate: float) -> list[torch.optim.Optimizer]:
        """Return the optimisers of what is trained; the head starts from nothing and has a rate of its own."""

    def prepare(self, trees: Sequence[StepTree], progress: Any = None) -> None:
        """Do once what all epochs share, such as hidden states; nothing by default."""

    def reward_model(self) -> SvipReward:
        """Return what is trained as a reward model; weights are shared, not copied."""
        return SvipReward(self.backbone, self.processor, self.head)


def head_optimizer(head: TriAttCoT, learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimiser of a head."""
    return torch.optim.AdamW(head.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.01)


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees as the tree attention takes them: each prompt is a root, nodes follow their tree's root.

    Attributes:
        parent: int64 [roots + nodes].
        token_ptr: int64 [roots + nodes + 1].
        nodes: int64 [sum of nodes], where the nodes are among roots and nodes.
        before: int64 [tokens], the token that each one follows on its path; -1 for the first of a prompt.
    """

    parent: NDArray[np.int64]
    token_ptr: NDArray[np.int64]
    nodes: NDArray[np.int64]
    before: NDArray[np.int64]


def forest(trees: Sequence[StepTree], prompts: Sequence[int], lengths: Sequence[Sequence[int]]) -> Forest:
    """Return the forest of some trees.

    Args:
        trees: the trees.
        prompts: tokens of each prompt, pictures included.
        lengths: tokens of each node of each tree.
    """
    parent: list[int] = []
    sizes: list[int] = []
    nodes: list[int] = []
    before: list[int] = []
    for tree, prompt, own in zip(trees, prompts, lengths, strict=True):
        root, start = len(parent), len(before)
        ends = start + prompt + np.cumsum(own)
        before += [-1, *range(start, start + prompt - 1)]
        for n, (up, size) in enumerate(zip(tree.parent.tolist(), own, strict=True)):
            first = int(ends[n]) - size
            before += [start + prompt - 1 if up < 0 else int(ends[up]) - 1, *range(first, first + size - 1)]
        parent += [-1, *(root + 1 + int(p) for p in tree.parent)]
        nodes += range(root + 1, root + 1 + len(tree))
        sizes += [prompt, *own]
    return Forest(np.array(parent), np.cumsum([0, *sizes]), np.array(nodes), np.array(before))
