"""Weights of domains that are learned with the model: data that hurts what is held out counts for less.

Two levels, after DreamPRM::

    weight_k  =  K softplus(w_k) / sum_j softplus(w_j)                 positive, mean one over K domains
    lower     :  theta' = theta - eta sum_k weight_k grad L_k(theta)   a step on the weighted training loss
    upper     :  d L_meta(theta') / d weight_k  =  -eta <grad L_meta(theta'), grad L_k(theta)>

so a domain gains weight where its gradient points the way that trusted, held-out questions would go, and
loses weight where it points elsewhere.  L_k is the mean over the domain's own steps in the batch, whatever
their share of it: otherwise a large domain would gain weight for being large.  Two simplifications: the
lower level is unrolled by one step of plain gradient descent, whatever the optimiser, and ``grad L_meta``
is taken at theta instead of theta'.  No second derivative is needed.

Reference: Cao et al. 2025, "DreamPRM", arXiv 2505.20241, section 3; the upper level there is a loss of
aggregated step scores, here it is the caller's loss of steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .step_scorer import StepScorer
from .step_trees import StepTree

#: Of |w|: a weight stays above 0.0004 of the largest, so that a domain can come back.
LIMIT = 6.0
#: From the logits of all nodes of some trees, and the trees, to their mean loss.
Loss = Callable[[Tensor, Sequence[StepTree]], Tensor]


class DomainWeights(nn.Module):
    """Weights of domains, mean one, and the step that learns them.

    Args:
        domains: their names.
        learning_rate: of Adam on w; the weights can change by about this share in a step.

    Raises:
        ValueError: there is no domain, or one is named twice.

    Notes:
        The weights are no better than the trusted questions: if these hold the faults of a domain too, its
        faults are learned.  A batch should hold several domains, and a step costs one more pass forward, one
        backward for each domain in the batch, and the same for the trusted questions.

    Example:
        >>> weights = DomainWeights(["charts", "noise"], learning_rate=0.1)
        >>> for _ in range(10):
        ...     weights.update({"charts": 1.0, "noise": -1.0})
        >>> weights.as_dict()["noise"] < 0.5
        True
        >>> round(sum(weights.as_dict().values()), 5)
        2.0
    """

    def __init__(self, domains: Sequence[str], learning_rate: float = 0.02) -> None:
        super().__init__()
        if not domains or len(set(domains)) < len(domains):
            raise ValueError(f"`domains` must hold names, each once; got {list(domains)}.")
        self.domains = tuple(domains)
        self.raw = nn.Parameter(torch.zeros(len(domains)))
        self.optimizer = torch.optim.Adam([self.raw], learning_rate)

    def forward(self) -> Tensor:
        """Return the weights [K] of all domains; differentiable."""
        positive = nn.functional.softplus(self.raw)
        return positive / positive.mean()

    def weights_of(self, domains: Sequence[str]) -> Tensor:
        """Return the weights [B] of some domains.

        Raises:
            ValueError: one is not among those that are weighed.
        """
        unknown = next((d for d in domains if d not in self.domains), None)
        if unknown is not None:
            raise ValueError(f"`domains` must be among {list(self.domains)}; got {unknown!r}.")
        weights: Tensor = self()
        return weights[[self.domains.index(d) for d in domains]]

    def as_dict(self) -> dict[str, float]:
        """Return the weight of each domain."""
        return dict(zip(self.domains, self().detach().tolist(), strict=True))

    def step(self, scorer: StepScorer, trees: Sequence[StepTree], meta_trees: Sequence[StepTree], loss: Loss) -> None:
        """Change the weights by one step; gradients that the scorer has gathered stay as they are.

        Args:
            scorer: the model as it is now.
            trees: of training; domains without one keep their say.
            meta_trees: trusted ones that are not trained on.
            loss: the mean loss of some trees.
        """
        trained = [p for p in scorer.parameters() if p.requires_grad]
        logits, _ = scorer(meta_trees)
        wanted = torch.autograd.grad(loss(logits, meta_trees), trained, allow_unused=True)
        logits, _ = scorer(trees)
        parts = logits.split([len(tree) for tree in trees])
        agreement: dict[str, Tensor] = {}
        for domain in sorted({tree.domain for tree in trees}):
            own = [i for i, tree in enumerate(trees) if tree.domain == domain]
            its = loss(torch.cat([parts[i] for i in own]), [trees[i] for i in own])
            found = torch.autograd.grad(its, trained, retain_graph=True, allow_unused=True)
            agreement[domain] = _product(found, wanted)
        self.update(agreement)

    def update(self, agreement: Mapping[str, float | Tensor]) -> None:
        """Change the weights by one step.

        Args:
            agreement: for domains of a batch, how well the gradient of each agrees with that of the trusted
                questions: their inner product.
        """
        found = torch.stack([torch.as_tensor(a, dtype=self.raw.dtype).to(self.raw.device) for a in agreement.values()])
        with torch.enable_grad():
            gain = (self.weights_of(list(agreement)) * found.detach()).sum()
            (self.raw.grad,) = torch.autograd.grad(-gain, self.raw)
        self.optimizer.step()
        self.raw.grad = None
        with torch.no_grad():
            self.raw.clamp_(-LIMIT, LIMIT)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the weights."""
        return {"domains": list(self.domains), "optimizer": copy.deepcopy(self.optimizer.state_dict())}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up ``get_extra_state``.

        Raises:
            ValueError: it is of other domains.
        """
        if tuple(state["domains"]) != self.domains:
            raise ValueError(f"the weights saved must be of the domains {list(self.domains)}; got {state['domains']}.")
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))


def _product(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor:
    products = [(x.float() * y.float()).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return torch.stack(products).sum() if products else torch.zeros(())
