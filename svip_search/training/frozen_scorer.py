"""Training of the head alone: the backbone reads every tree once, the head learns from what it saw.

The states lie on disk (`hidden_states`), so an epoch costs no more than TriAtt-CoT itself, and the same
folder serves heads of every shape.  It works with any image-text-to-text model of transformers, but the
backbone stays what it is: where it does not see something, no head will.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..rewards._triatt_cot import TriAttCoT
from .hidden_states import HiddenStateCache, Report, StatesType
from .step_scorer import StepScorer, forest, head_optimizer
from .step_trees import StepTree


class FrozenScorer(StepScorer):
    """A frozen backbone and the head that is trained on its hidden states.

    Args:
        backbone: an image-text-to-text model of transformers; its weights get no gradient.
        processor: its processor.
        head: the TriAtt-CoT module on its hidden states.
        cache: folder of the hidden states, see `HiddenStateCache`.
        dtype: of the numbers in it.

    Raises:
        ValueError: ``head`` does not fit ``backbone``, or there is no such ``dtype``.

    Notes:
        Trees that ``prepare`` was not given are read, and added to the folder, when they are first met.
    """

    def __init__(
        self,
        backbone: Any,
        processor: Any,
        head: TriAttCoT,
        *,
        cache: str | os.PathLike[str],
        dtype: StatesType = "float16",
    ) -> None:
        super().__init__(backbone.requires_grad_(False), processor, head)
        self.states = HiddenStateCache(cache, self.reward_model(), dtype)

    def train(self, mode: bool = True) -> FrozenScorer:
        """Set the mode of the head; the backbone never leaves that of evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    def make_optimizers(self, learning_rate: float, head_learning_rate: float) -> list[torch.optim.Optimizer]:
        return [head_optimizer(self.head, head_learning_rate)]

    def prepare(self, trees: Sequence[StepTree], progress: Report | None = None) -> None:
        """Compute the hidden states that are not on disk yet."""
        self.states.fill(trees, progress)

    def forward(self, trees: Sequence[StepTree]) -> tuple[Tensor, Tensor]:
        if self.states.missing(trees):
            self.states.fill(trees)
        found = [self.states.read(tree) for tree in trees]
        device = self.head.head_b.device
        sizes = [np.diff(states.token_ptr).tolist() for states in found]
        woods = forest(trees, [s[0] for s in sizes], [s[1:] for s in sizes])
        hidden = torch.cat([states.hidden for states in found]).to(device)
        heard = self.head.hear(hidden, torch.cat([states.surprise for states in found]).to(device))
        segment = np.concatenate([states.segment for states in found])
        logits = self.head.forward_tree(heard, woods.parent, woods.token_ptr, segment, woods.nodes)
        return logits, logits.new_zeros(())
