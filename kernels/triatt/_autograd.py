"""Gradients of the tree attention in torch, whichever backend ran it forward.

In words.  Forward runs on detached tensors and keeps, for every frontier row r, the attention output
o_r and the softmax state (m_r, l_r).  Backward goes over the tree, not over the paths: each node's
keys and values meet all rows below it at once, and the weights are computed again instead of kept::

    p_rt  = exp( q_r . k_t / sqrt(d) + bias[column(r, t)] - m_r ) / l_r
    g_rt  = p_rt ( do_r . v_t - do_r . o_r )                      the derivative by the logit
    dv_t  = sum_r p_rt do_r                 dk_t = sum_r g_rt q_r / sqrt(d)
    dq_r  = sum_t g_rt k_t / sqrt(d)        dbias[column] = sum_rt g_rt

The unit of work is a *run*: tokens of one node and one segment, with the contiguous rows of the
sorted frontier that see them, so that a run needs no mask and one number of ``bias`` a row.  Runs of
about the same size are padded to each other and go through batched matrix products together.

Memory is O(tokens + rows).  Where it does not apply: second derivatives (torch raises), and gradients
through the returned softmax state; the reference backend has both.

Source: Dao, FlashAttention-2 (2023), algorithm 2, on runs of a tree instead of blocks of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ._types import N_DIMENSIONS, N_SEGMENTS, STEP, Head, KVTree, TriattOutput

BLOCK, TILE = 4096, 128  # most rows and tokens of a run: they bound the memory of one product
BATCH_NUMBERS = {"cpu": 1 << 20}  # numbers in the operands and products of a batch: about a cache
MANY_NUMBERS = 1 << 25  # on accelerators, where launches cost more than memory


def differentiable(
    forward: Callable[..., TriattOutput],
    tree: KVTree,
    frontier: NDArray[np.int64],
    q: Tensor,
    head: Head,
    bias: Tensor | None,
    return_att: bool,
) -> TriattOutput:
    """Return what ``forward`` returns, with gradients for keys, values, queries, head and bias.

    Args:
        forward: the ``triatt`` of any backend; it is given detached torch tensors and need not know
            of gradients.  Its att must be the attention output, and its state must hold the m and l
            that belong to each other (any m near the largest logit will do).
        tree: with torch tensors of any floating dtype and device.
        frontier: int64 [M], checked.
        q: [M, 3, d], or [3, d], whose gradient is the sum over the frontier.
        head: torch tensors.
        bias: [3, 4] or None.
        return_att: also return the attention outputs, which carry gradients too.

    Returns:
        scores [M, 3], att [M, 3, d] or None, no state.

    Notes:
        Sums are float64 where ``k`` or ``q`` is, float32 otherwise.  Deterministic on the CPU; on a
        GPU the order of the sums of dq is, under ``torch.use_deterministic_algorithms``.
    """
    scores, att = TriattFunction.apply(forward, tree, frontier, tree.k, tree.v, q, bias, *head)
    return TriattOutput(scores, att if return_att else None)


class TriattFunction(torch.autograd.Function):
    """``triatt`` as a node of the autograd graph; see ``differentiable``."""

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[..., TriattOutput], tree: KVTree, frontier: NDArray[np.int64],
        k: Tensor, v: Tensor, q: Tensor, bias: Tensor | None, *head: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Run the backend and keep what the backward pass needs."""
        ctx.set_materialize_grads(False)
        below = any(ctx.needs_input_grad[3:7])  # not the head alone
        bare_q, bare_bias, *bare_head = (None if a is None else a.detach() for a in (q, bias, *head))
        bare = replace(tree, k=k.detach(), v=v.detach())
        out = forward(bare, frontier, bare_q, Head(*bare_head), bare_bias, True, below)
        assert out.att is not None, "a backend returned no attention outputs"
        state = (out.state.m, out.state.l) if below and out.state is not None else (None, None)
        ctx.save_for_backward(k, v, q, bias, out.att, *state, *head)
        ctx.topology = tree.parent, tree.token_ptr, tree.segment, frontier
        return out.scores, out.att

    @staticmethod
    def backward(ctx: Any, d_scores: Tensor | None, d_att: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients that were asked for."""
        with torch.no_grad():
            found = TriattFunction._gradients(ctx, d_scores, d_att)
        if torch.is_grad_enabled():
            sources = [a for a in (*ctx.saved_tensors, d_scores, d_att) if a is not None and a.requires_grad]
            found = [None if d is None else _Final.apply(d, *sources) for d in found]
        return None, None, None, *found

    @staticmethod
    def _gradients(ctx: Any, d_scores: Tensor | None, d_att: Tensor | None) -> list[Tensor | None]:
        k, v, q, bias, att, m, l, *head = ctx.saved_tensors  # noqa: E741
        needs = ctx.needs_input_grad[3:]
        d_head: list[Tensor | None] = [None] * len(head)
        d_below: list[Tensor | None] = [None] * 4
        with torch.autocast(att.device.type, enabled=False):
            if d_scores is not None:
                through, *d_head = _through_head(att, Head(*head), d_scores, [any(needs[:4]), *needs[4:]])
                d_att = through if d_att is None or through is None else d_att + through
            if d_att is not None and any(needs[:4]):
                sweep = _Sweep(k, v, q, bias, att, m, l, d_att, ctx.topology, needs[:4])
                d_below = sweep.run()
        of = zip((*d_below, *d_head), (k, v, q, bias, *head), strict=True)
        return [None if d is None else d.to(a.dtype) for d, a in of]


class _Final(torch.autograd.Function):
    """A gradient that depends on ``sources`` in a way nobody may differentiate.

    ``once_differentiable`` of torch would take it for a constant where the loss is linear in the scores.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "triatt has no second derivatives except with `backend` 'reference'; got a backward pass through one."
        )


def _through_head(att: Tensor, head: Head, d_scores: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of att and of the four arrays of the head, None where not needed."""
    arrays = [None if a is None else a.detach().to(att.dtype) for a in (att, *head)]
    wanted = [a.requires_grad_() for a, need in zip(arrays, needs, strict=True) if need and a is not None]
    found: Iterator[Tensor] = iter(())
    if wanted:
        with torch.enable_grad():
            x, u, b, w, c = arrays
            if w is not None:
                x = functional.gelu(torch.einsum("cfd,mcd->mcf", w, x) + c, approximate="tanh")
            z = (u * x).sum(-1) + b
        # 1 - sigmoid(z) would be exactly zero long before its true value is.
        slope = torch.sigmoid(z.detach()) * torch.sigmoid(-z.detach())
        found = iter(torch.autograd.grad(z, wanted, d_scores * slope))
    return [next(found) if a is not None and need else None for a, need in zip(arrays, needs, strict=True)]


@dataclass(frozen=True)
class _Batch:
    """Runs [G] of at most ``n_rows`` rows and ``n_tokens`` tokens; int64 columns of one array.

    ``segment`` is the segment of the tokens; the rows before ``own`` belong to their node.
    """

    token: Tensor
    n: Tensor
    begin: Tensor
    own: Tensor
    end: Tensor
    segment: Tensor
    n_rows: int
    n_tokens: int
    ragged: bool  # some runs have fewer tokens


class _Sweep:
    """One backward pass over the tree.

    Everything a row or a token owns lies in arrays of rows of width d: row ``3 r + c`` of the sorted
    queries, row ``h t + c`` of the tokens.  Both end with a row of zeros that stands for padding, so
    that padding adds nothing anywhere, even beside NaN.
    """

    def __init__(
        self, k: Tensor, v: Tensor, q: Tensor, bias: Tensor | None, att: Tensor, m: Tensor, l: Tensor,  # noqa: E741
        d_att: Tensor, topology: tuple[NDArray[Any], ...], needs: Sequence[bool],
    ) -> None:  # fmt: skip
        from svip_search._core import triatt_plan

        parent, token_ptr, self.segment, frontier = topology
        order, self.tiles, self.tile_ptr = triatt_plan(parent, token_ptr, frontier.astype(np.int32), BLOCK, TILE)
        self.order = torch.as_tensor(np.asarray(order, np.int64), device=k.device)
        self.shared_query = q.ndim == 2
        self.n_tokens, self.heads, self.width = k.shape
        self.n_rows = len(att)
        self.needs = needs
        self.scale = 1.0 / math.sqrt(self.width)
        self.k, self.v = (_flat(a.to(att.dtype)) for a in (k, v))
        self.q = _flat(q.to(att.dtype).expand_as(att)[self.order] * self.scale)
        self.d_out = _flat(d_att[self.order])
        self.delta = _flat((d_att * att).sum(-1, keepdim=True)[self.order])
        self.shift = _flat(_shift(m, l, bias)[self.order], math.inf)
        self.dk, self.dv, self.dq, self.dbias = (
            torch.zeros_like(a) if need else None
            for a, need in zip((self.k, self.v, self.q, self.shift[:N_DIMENSIONS]), needs, strict=True)
        )

    def run(self) -> list[Tensor | None]:
        """Return the gradients of k, v, q and bias, None where not needed."""
        budget = BATCH_NUMBERS.get(self.k.device.type, MANY_NUMBERS)
        for first, last in pairwise(self.tile_ptr):
            runs = _runs(np.asarray(self.tiles[first:last], np.int64), self.segment)
            for batch in _batches(runs, self.width, budget, self.k.device):
                self._add(batch)
        dk, dv = (None if a is None else a.view(-1, self.heads, self.width)[:-1] for a in (self.dk, self.dv))
        return [dk, dv, self._unsorted(self.dq), self.dbias]

    def _unsorted(self, rows: Tensor | None) -> Tensor | None:
        """Return the gradient of the queries in the order and shape of the queries."""
        if rows is None:
            return None
        sums = rows.view(-1, N_DIMENSIONS, self.width)[:-1] * self.scale
        if self.shared_query:
            return sums.sum(0)
        return torch.empty_like(sums).index_copy_(0, self.order, sums)

    def _add(self, batch: _Batch) -> None:
        """Add what the runs of a batch give."""
        rows, tokens = self._rows(batch), self._tokens(batch)  # [G, R], [G, T]
        column = batch.segment[:, None] + ((batch.segment == STEP)[:, None] & (rows < batch.own[:, None]))
        at_row = rows[:, None, :] * N_DIMENSIONS + torch.arange(N_DIMENSIONS, device=rows.device)[:, None]
        at_token = tokens[:, None, :] * self.heads + torch.arange(self.heads, device=rows.device)[:, None]
        # Dimensions that share keys and values stand below each other: [G * heads, 3 / heads * R, .].
        groups = len(rows) * self.heads
        q, d_out, delta = (_take(a, at_row, groups) for a in (self.q, self.d_out, self.delta))
        k, v = (_take(a, at_token, groups) for a in (self.k, self.v))
        shift = _take(self.shift.view(-1, 1), at_row * self.shift.shape[1] + column[:, None, :], groups)

        p = torch.baddbmm(shift, q, k.mT, beta=-1).exp_()
        if batch.ragged:
            outside = (tokens == self.n_tokens).repeat_interleave(self.heads, 0)
            p.masked_fill_(outside[:, None, :], 0.0)
        if self.dv is not None:
            _put(self.dv, at_token, p.mT @ d_out)
        if self.dk is None and self.dq is None and self.dbias is None:
            return
        g = p.mul_(torch.baddbmm(delta, d_out, v.mT, beta=-1))
        if self.dk is not None:
            _put(self.dk, at_token, g.mT @ q)
        if self.dq is not None:
            _put(self.dq, at_row, g @ k)
        if self.dbias is not None:
            sums = g.sum(-1).view(len(rows), N_DIMENSIONS, -1).transpose(0, 1).flatten(1)
            self.dbias += sums @ functional.one_hot(column.flatten(), N_SEGMENTS).to(sums.dtype)

    def _rows(self, batch: _Batch) -> Tensor:
        rows = batch.begin[:, None] + torch.arange(batch.n_rows, device=batch.begin.device)
        return rows.where(rows < batch.end[:, None], self.n_rows)

    def _tokens(self, batch: _Batch) -> Tensor:
        step = torch.arange(batch.n_tokens, device=batch.token.device)
        return (batch.token[:, None] + step).where(step < batch.n[:, None], self.n_tokens)


def _flat(rows: Tensor, padding: float = 0.0) -> Tensor:
    """Return [n, c, w] as [(n + 1) * c, w], the last c rows filled with ``padding``."""
    return torch.cat([rows, rows.new_full((1, *rows.shape[1:]), padding)]).flatten(0, 1)


def _take(rows: Tensor, index: Tensor, groups: int) -> Tensor:
    return rows.index_select(0, index.flatten()).view(groups, -1, rows.shape[1])


def _put(rows: Tensor, index: Tensor, values: Tensor) -> None:
    rows.index_add_(0, index.flatten(), values.flatten(0, 1))


def _shift(m: Tensor, l: Tensor, bias: Tensor | None) -> Tensor:  # noqa: E741
    """Return [M, 3, 4] so that a weight is exp(dot - shift), accurate under any common bias."""
    table = m.new_zeros(N_DIMENSIONS, N_SEGMENTS) if bias is None else bias.to(m.dtype)
    return (m[..., None] - table) + l.log()[..., None]


def _runs(tiles: NDArray[np.int64], segment: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the tiles of a block cut where the segment changes, with the segment as sixth column."""
    if not len(tiles):
        return np.zeros((0, 6), np.int64)
    tiles = tiles[np.argsort(tiles[:, 0])]
    cut = np.zeros(len(segment) + 1, bool)
    cut[1:-1] = segment[1:] != segment[:-1]
    cut[tiles[:, 0]] = cut[tiles[:, 0] + tiles[:, 1]] = True
    edges = np.flatnonzero(cut)
    first, length = edges[:-1], np.diff(edges)
    owner = np.searchsorted(tiles[:, 0], first, "right") - 1
    inside = (owner >= 0) & (first < tiles[owner, 0] + tiles[owner, 1])
    first, length, owner = first[inside], length[inside], owner[inside]
    return np.column_stack([first, length, tiles[owner, 2:], segment[first]])


def _batches(runs: NDArray[np.int64], width: int, budget: int, device: torch.device) -> Iterator[_Batch]:
    """Yield batches of runs of like size, each of about ``budget`` numbers."""
    rows, tokens = runs[:, 4] - runs[:, 2], runs[:, 1]
    tall, long = _round_up(rows), _round_up(tokens)
    order = np.lexsort((tokens, rows, long, tall))
    runs, rows, tokens, tall, long = (a[order] for a in (runs, rows, tokens, tall, long))
    new = np.ones(len(runs), bool)
    new[1:] = (np.diff(tall) != 0) | (np.diff(long) != 0)
    place = np.arange(len(runs))
    place -= np.maximum.accumulate(np.where(new, place, 0))  # within the runs of this size
    most = np.maximum(1, budget // (N_DIMENSIONS * (tall * long + 2 * (tall + long) * width)))
    edges = [*np.flatnonzero(place % most == 0).tolist(), len(runs)]
    columns = torch.from_numpy(np.ascontiguousarray(runs.T)).to(device)
    for first, last in pairwise(edges):
        longest = int(tokens[first:last].max())
        yield _Batch(
            *columns[:, first:last],
            n_rows=int(rows[first:last].max()),
            n_tokens=longest,
            ragged=bool((tokens[first:last] < longest).any()),
        )


def _round_up(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sizes rounded up to 1, 2, 3, 4, 6, 8, 12, 16, 24, …: at most a third is padding."""
    step = 2 ** np.maximum(np.log2(np.maximum(sizes, 1)).astype(np.int64) - 1, 0)
    return -(-sizes // step) * step
