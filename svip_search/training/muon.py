"""Muon for matrices and filters (Jordan et al. 2024), in float32 so that any CPU runs it.

``torch.optim.Muon`` orthogonalises in bfloat16, which processors without bfloat16 units emulate
slowly; the update below is the same, scaled to the root mean square of an Adam step (Liu et al.
2025, arXiv 2502.16982, eq. 4), so both groups share one learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return the nearest semi-orthogonal matrix, roughly, by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x: Tensor = matrix if wide else matrix.mT
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices and convolution filters.

    Args:
        params: matrices, or filters [out, in, …], which count as matrices [out, rest].
        lr: learning rate, as for AdamW.
        momentum: of the Nesterov average.
        weight_decay: decoupled.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95,
                 weight_decay: float = 0.0) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "average" not in state:
                    state["average"] = torch.zeros_like(p)
                average = state["average"].lerp_(p.grad, 1 - group["momentum"])
                direction = p.grad.lerp(average, group["momentum"]).float().flatten(1)
                update = orthogonalize(direction).view_as(p).to(p.dtype)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(direction.shape) ** 0.5)
