"""TriAtt-CoT as a torch module: projections, segment bias and head around the kernel `triatt`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from .._types import DIMENSIONS

if TYPE_CHECKING:
    from svip_search.kernels.triatt import Head, KVTree

C = len(DIMENSIONS)

#: Classes of a token in ``segments``, as in ``svip_search.kernels.triatt``.
QUESTION, IMAGE, STEP = 0, 1, 2
#: What beta starts with for the tokens of the step itself.  A step is a tenth of what is seen or less, and is judged
#: by its own words first: from 0, the attribute head found them only after thousands of questions.
OWN_STEP = 3.0
#: In ``step_index``: a token of the prompt, and a padding token.
PROMPT, PADDING = -1, -2


@dataclass(frozen=True)
class TriAttConfig:
    """Sizes and variants of a ``TriAttCoT``; see there."""

    hidden_size: int
    head_dim: int = 64
    n_kv_heads: int = 3
    query: Literal["conditioned", "constant"] = "conditioned"
    segment_bias: bool = True
    head: Literal["linear", "mlp"] = "linear"
    surprise: bool = False
    n_heads: int = C

    def __post_init__(self) -> None:
        for name in ("hidden_size", "head_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive whole number; got {value!r}.")
        choices = {"n_kv_heads": (1, C), "n_heads": (1, C), "query": ("conditioned", "constant"),
                   "head": ("linear", "mlp"), "segment_bias": (True, False), "surprise": (True, False)}  # fmt: skip
        for name, admissible in choices.items():
            value = getattr(self, name)
            if value not in admissible or isinstance(value, bool) != (name in ("segment_bias", "surprise")):
                raise ValueError(f"`{name}` must be one of {list(admissible)}; got {value!r}.")
        if self.n_heads < self.n_kv_heads:
            raise ValueError(f"`n_kv_heads` must be 1 where `n_heads` is 1; got {self.n_kv_heads}.")


def surprise_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Return how unlikely each token was, min(-log p, 8) / 2: 0 for the expected one, at most 4.

    Args:
        logits: [..., vocabulary], of the position *before* each token.
        ids: [...], the tokens.
    """
    log_prob = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    return (-log_prob).clamp(max=8.0) / 2


class TriAttCoT(nn.Module):
    """Maps the hidden states of a path to relevance, logic and attribute rewards of its steps.

    Each dimension c has its own query, and attends over the tokens of question, image, earlier
    steps and this step::

        a_c(n) = softmax_t( q_c(n) . k_c(t) / sqrt(d) + beta_c[segment(t, n)] )
        r_c(n) = sigmoid( head_c( sum_t a_c(n, t) v_c(t) ) )

    The formulation is this library's own; the paper's is not published in a form we could read.

    Args:
        hidden_size: width D of the backbone's hidden states.
        head_dim: width d of queries, keys and values.
        n_kv_heads: 3, or 1 to share keys and values between the dimensions.
        query: ``"conditioned"`` on the hidden state at the separator that ends the step, or a
            learned ``"constant"``.
        segment_bias: whether to learn beta, four numbers a dimension, which starts by favouring the step itself;
            otherwise it is 0.
        head: ``"linear"``, or ``"mlp"`` for a hidden GELU layer of width d.
        surprise: whether to add to the hidden state of each step token a learned direction times how
            unlikely the backbone itself held that token (`surprise_of`).  What the backbone would
            have written is known at its last layer only, so no attention inside it can compare
            that with what the step says.

    Raises:
        ValueError: an argument is not as described.

    Example:
        >>> import torch
        >>> head = TriAttCoT(hidden_size=16, head_dim=8)
        >>> hidden = torch.randn(1, 4, 16)
        >>> segments, steps = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[-1, -1, 0, 1]])
        >>> head(hidden, segments, steps, separators=torch.tensor([[2, 3]])).shape
        torch.Size([1, 2, 3])
    """

    def __init__(
        self,
        hidden_size: int,
        head_dim: int = 64,
        n_kv_heads: int = 3,
        query: Literal["conditioned", "constant"] = "conditioned",
        segment_bias: bool = True,
        head: Literal["linear", "mlp"] = "linear",
        surprise: bool = False,
        n_heads: int = C,
    ) -> None:
        super().__init__()
        self.config = TriAttConfig(hidden_size, head_dim, n_kv_heads, query, segment_bias, head, surprise, n_heads)
        self.key = nn.Linear(hidden_size, n_kv_heads * head_dim, bias=False)
        self.value = nn.Linear(hidden_size, n_kv_heads * head_dim, bias=False)
        if query == "conditioned":
            self.query = nn.Linear(hidden_size, n_heads * head_dim, bias=False)
        else:
            self.constant_query = nn.Parameter(torch.randn(n_heads, head_dim))
        self.bias = nn.Parameter(torch.tensor([[0.0, 0.0, 0.0, OWN_STEP]]).repeat(n_heads, 1)) if segment_bias else None
        scale = 1.0 / math.sqrt(head_dim)
        if head == "mlp":
            self.head_w = nn.Parameter(torch.empty(C, head_dim, head_dim).uniform_(-scale, scale))
            self.head_c = nn.Parameter(torch.zeros(C, head_dim))
        self.surprise = nn.Parameter(torch.randn(hidden_size) / 2) if surprise else None
        self.head_u = nn.Parameter(torch.empty(C, head_dim).uniform_(-scale, scale))
        self.head_b = nn.Parameter(torch.zeros(C))

    def hear(self, hidden: Tensor, surprise: Tensor) -> Tensor:
        """Return hidden states [..., D] with the surprises [...] of their tokens mixed in."""
        if self.surprise is None:
            return hidden
        return hidden + surprise[..., None] * self.surprise

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, values [..., n_kv_heads, d] and queries [..., 3, d] of hidden states [..., D].

        A query is meant for the positions of separators; with constant queries it is the same
        everywhere.
        """
        shape = (*hidden.shape[:-1], -1, self.config.head_dim)
        return self.key(hidden).view(shape), self.value(hidden).view(shape), self.queries(hidden)

    def queries(self, hidden: Tensor) -> Tensor:
        """Return the queries [..., 3, d] of the steps whose separators have these hidden states."""
        lead, width = hidden.shape[:-1], self.config.head_dim
        if self.config.query == "conditioned":
            return torch.as_tensor(self.query(hidden)).view(*lead, self.config.n_heads, width).expand(*lead, C, width)
        return self.constant_query.expand(*lead, C, width)

    def biases(self) -> Tensor | None:
        """Return beta [3, 4], None without."""
        return None if self.bias is None else self.bias.expand(C, 4)

    def temper(self, temperatures: Tensor) -> None:
        """Divide the logits of each dimension by a temperature [3] from now on, in place.

        A temperature above 1 pulls rewards towards one half; their order stays.  It goes into the last
        linear map, so that nothing is slower for it.
        """
        with torch.no_grad():
            self.head_u.div_(temperatures[:, None].to(self.head_u))
            self.head_b.div_(temperatures.to(self.head_b))

    def head_parameters(self) -> Head:
        """Return the head in the form that the kernel takes."""
        from svip_search.kernels.triatt import Head

        return Head(self.head_u, self.head_b, getattr(self, "head_w", None), getattr(self, "head_c", None))

    def forward(self, hidden: Tensor, segments: Tensor, step_index: Tensor, separators: Tensor) -> Tensor:
        """Return the logits of all steps of a batch of whole paths; differentiable.

        Step s sees every token whose step index is at most s: the prompt, earlier steps, itself.

        Args:
            hidden: [B, L, D].
            segments: [B, L], 0 question, 1 image, 2 step; ignored at padding.
            step_index: [B, L], the step of each token; -1 for the prompt, -2 for padding.
            separators: [B, S], position of the last token of each step, -1 where a path is shorter.

        Returns:
            Logits [B, S, 3]; 0 where ``separators`` is -1.  The rewards are their sigmoids.

        Raises:
            ValueError: shapes do not fit together.
        """
        rows, length = self._check(hidden, segments, step_index, separators)
        known = separators >= 0
        place = separators.clamp(min=0)
        shape = (rows, length, -1, self.config.head_dim)
        k, v = self.key(hidden).view(shape), self.value(hidden).view(shape)
        at = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
        q = self.queries(at) / math.sqrt(self.config.head_dim)

        steps = torch.arange(separators.shape[1], device=hidden.device)[None, :, None]
        owner = step_index[:, None, :]  # [B, 1, L] against steps [1, S, 1]
        visible = (owner <= steps) & (owner != PADDING)
        visible = visible | ~known[..., None]  # rows without a step: anything finite
        logits = torch.einsum("bscd,blcd->bscl", q, k.expand(-1, -1, C, -1))
        if (biases := self.biases()) is not None:
            own = (segments[:, None, :] == STEP) & (owner == steps)
            column = segments.clamp(QUESTION, STEP)[:, None, :] + own
            logits = logits + biases.T[column].transpose(2, 3)
        weights = logits.masked_fill(~visible[:, :, None, :], -math.inf).softmax(-1)
        out = torch.einsum("bscl,blcd->bscd", weights, v.expand(-1, -1, C, -1))
        return self._decide(out).masked_fill(~known[..., None], 0.0)

    def forward_tree(
        self,
        hidden: Tensor,
        parent: ArrayLike,
        token_ptr: ArrayLike,
        segment: ArrayLike,
        frontier: ArrayLike | None = None,
        *,
        backend: str = "auto",
    ) -> Tensor:
        """Return the logits of nodes of a tree of candidates with shared beginnings; differentiable.

        Equal to ``forward`` on every path, but a token is projected, attended to and differentiated
        once, however many paths lead through it.

        Args:
            hidden: [T, D], hidden states of the tokens, node after node.
            parent: int [N], index of the parent, -1 for a root; a parent stands before its children.
            token_ptr: int [N + 1]; node n owns tokens ``token_ptr[n]:token_ptr[n + 1]``.
            segment: int [T], 0 question, 1 image, 2 step.
            frontier: int [M], the nodes to judge, each by its last token (the separator); any order,
                repeats allowed.  Default: all nodes but the roots, which are prompts.
            backend: as in ``svip_search.kernels.triatt.triatt``.

        Returns:
            Logits [M, 3] in the order of ``frontier``.  The rewards are their sigmoids.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
            BackendUnavailable: a backend asked for by name cannot run here.

        Example:
            >>> import torch
            >>> head = TriAttCoT(hidden_size=16, head_dim=8)
            >>> hidden = torch.randn(5, 16)  # a prompt of 2 tokens, then candidates of 2 and 1
            >>> logits = head.forward_tree(hidden, [-1, 0, 0], [0, 2, 4, 5], [0, 1, 2, 2, 2])
            >>> logits.shape
            torch.Size([2, 3])
        """
        from svip_search.kernels.triatt import KVTree, triatt
        from svip_search.kernels.triatt._types import as_indices

        size = self.config.hidden_size
        if hidden.ndim != 2 or hidden.shape[1] != size:
            raise ValueError(f"`hidden` must have shape [T, {size}]; got {list(hidden.shape)}.")
        shape = (len(hidden), -1, self.config.head_dim)
        tree = KVTree(parent, token_ptr, segment, self.key(hidden).view(shape), self.value(hidden).view(shape))
        nodes = np.flatnonzero(tree.parent >= 0) if frontier is None else as_indices("frontier", frontier)
        q = self.queries(hidden[torch.as_tensor(_separators(tree, nodes), device=hidden.device)])
        head, bias = self.head_parameters(), self.biases()
        # The kernel's scores are rounded to 0 or 1 where a logit is large; its attention outputs are not.
        out = triatt(tree, nodes, q, head, bias=bias, return_att=True, backend=backend)
        return self._decide(out.att)

    def _decide(self, x: Tensor) -> Tensor:
        if self.config.head == "mlp":
            x = torch.einsum("cfd,...cd->...cf", self.head_w, x) + self.head_c
            x = nn.functional.gelu(x, approximate="tanh")
        return (self.head_u * x).sum(-1) + self.head_b

    def _check(self, hidden: Tensor, segments: Tensor, step_index: Tensor, separators: Tensor) -> tuple[int, int]:
        size = self.config.hidden_size
        if hidden.ndim != 3 or hidden.shape[2] != size:
            raise ValueError(f"`hidden` must have shape [B, L, {size}]; got {list(hidden.shape)}.")
        rows, length = hidden.shape[:2]
        for name, array in (("segments", segments), ("step_index", step_index)):
            if array.shape != (rows, length):
                wanted = f"[B, L] = [{rows}, {length}]"
                raise ValueError(f"`{name}` must have shape {wanted}; got {list(array.shape)}.")
        if separators.ndim != 2 or len(separators) != rows:
            wanted = f"[B, S] = [{rows}, S]"
            raise ValueError(f"`separators` must have shape {wanted}; got {list(separators.shape)}.")
        return rows, length

    def extra_repr(self) -> str:
        """Return the configuration, for ``repr``."""
        return ", ".join(f"{k}={v!r}" for k, v in asdict(self.config).items())


def _separators(tree: KVTree, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last token of each node."""
    known = (nodes >= 0) & (nodes < len(tree))
    place = np.where(known, nodes, 0)
    first, end = tree.token_ptr[place], tree.token_ptr[place + 1]
    if (bad := np.flatnonzero(~known | (first == end))).size:
        i = int(bad[0])
        raise ValueError(f"`frontier` must hold nodes of the tree that own a token; got frontier[{i}] = {nodes[i]}.")
    last: NDArray[np.int64] = end - 1
    return last
