"""What one would use instead of the tree attention: torch alone, on any device.

Each baseline prepares whatever does not depend on the values of the queries outside the timing (masks,
indices, contiguous copies in the order that suits it) and returns a call that goes from queries, keys
and values to scores.  All of them use cached keys and values: what is compared is attention alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from trees import Indices, Workload

GATHER_BYTES = 256 << 20  # what the padded baseline gathers at a time


class Output(NamedTuple):
    """Scores [M, 3] and attention outputs [M, 3, d], float32."""

    scores: torch.Tensor
    att: torch.Tensor


class Ready(NamedTuple):
    """A prepared call; row r of its output is frontier position ``order[r]``.

    ``verify`` is the same call with attention outputs, where ``run`` does not make any.
    """

    run: Callable[[], object]
    order: Indices
    verify: Callable[[], Output] | None = None

    def output(self) -> Output:
        """Return what is compared with the reference, in the order of the frontier."""
        found = (self.verify or self.run)()
        assert isinstance(found, Output)
        back = np.argsort(self.order)
        return Output(*(torch.as_tensor(array).cpu()[back] for array in found))


class Skipped(Exception):
    """A baseline that cannot run here, with the reason."""


@dataclass(frozen=True)
class Limits:
    """What a baseline may cost, so that none takes the machine or the day.

    ``bytes`` it may hold, ``moved`` bytes it may copy and ``flops`` it may compute in a call, and the
    seconds that preparing may take, which is compiling above all.
    """

    bytes: float = 2 << 30
    moved: float = 8 << 30
    flops: float = 2e11
    prepare_seconds: float = 120.0


Baseline = Callable[[Workload, Limits], Ready]


def padded(work: Workload, limits: Limits) -> Ready:
    """Gather every path, padded to the longest, and mask: what one writes first.

    Most of its time goes into fresh memory for the gathered copies; `padded_gathered` is without it.
    """
    index, mask = _pad(work)
    k, v, q = work.sorted
    row_bytes = 2 * len(k) * index.shape[1] * k.shape[2] * k.element_size()
    afford(limits, moved=row_bytes * len(index))
    step = max(1, min(len(index), GATHER_BYTES // row_bytes))

    def run() -> Output:
        att = [_sdpa(q[:, i : i + step], k[:, index[i : i + step]], v[:, index[i : i + step]], mask[i : i + step])
               for i in range(0, len(index), step)]  # fmt: skip
        return finish(work, torch.cat(att))

    return Ready(run, work.rows.order)


def padded_gathered(work: Workload, limits: Limits) -> Ready:
    """Attention over padded paths that were gathered before: the padded baseline without its copies."""
    index, mask = _pad(work)
    k, v, q = work.sorted
    afford(limits, bytes=2 * len(k) * index.numel() * k.shape[2] * k.element_size())
    k, v = k[:, index], v[:, index]
    return Ready(lambda: finish(work, _sdpa(q, k, v, mask)), work.rows.order)


def path_loop(work: Workload, limits: Limits) -> Ready:
    """Gather and attend one path at a time, without padding, into a buffer that is used again."""
    k, v, q = work.sorted
    both, heads = torch.cat([k, v]), len(k)
    paths = [torch.as_tensor(path, device=work.device) for path in work.rows.paths()]
    buffer = both.new_empty(len(both) * max(len(path) for path in paths) * k.shape[2])
    q = _scale(q).transpose(0, 1).contiguous()
    att = torch.empty_like(q)

    def run() -> Output:
        for i, path in enumerate(paths):
            size = (2 * heads, len(path), k.shape[2])
            own = torch.index_select(both, 1, path, out=buffer[: math.prod(size)].view(size))
            torch.bmm(torch.softmax(torch.bmm(q[i], own[:heads].mT), -1), own[heads:], out=att[i])
        return finish(work, att)

    return Ready(run, work.rows.order)


def dense_mask(work: Workload, limits: Limits) -> Ready:
    """Let every row look at every token, under a mask."""
    k, v, q = work.sorted
    n_rows, n_columns = len(work.rows.order), len(work.rows.tokens)
    afford(limits, bytes=n_rows * n_columns * (1 + q.element_size()), flops=12 * k.shape[2] * n_rows * n_columns)
    row = torch.arange(n_rows, device=work.device)[:, None]
    begin, end = (torch.as_tensor(bound, device=work.device) for bound in work.rows.seen_by)
    # SDPA turns a mask of booleans into this one in every call.
    mask = q.new_zeros(n_rows, n_columns).masked_fill_((row < begin) | (row >= end), -math.inf)
    q = dimensions_first(q)
    k, v = (a.expand(3, -1, -1)[None] for a in (k, v))
    return Ready(
        lambda: finish(work, F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)),
        work.rows.order,
    )


def segment_loop(work: Workload, limits: Limits) -> Ready:
    """Attend one node at a time for all rows that see it, and merge: each key and value is read once.

    The strongest loop that eager torch allows: slices in place of copies, in-place updates, and the
    softmax sums as one more column of the values.
    """
    k, v, q = work.sorted
    heads, n_rows, group, width = q.shape
    q = _scale(q).view(heads, n_rows * group, width)
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    top = torch.empty(heads, n_rows * group, 1, device=q.device)
    total = torch.empty(heads, n_rows * group, width + 1, device=q.device)
    half = q.dtype != torch.float32  # products in half precision, sums in float32
    views = [
        (q[:, rows], k[:, columns].mT, v[:, columns], top[:, rows], total[:, rows])
        for rows, columns in _segments(work, group)
    ]

    def run() -> Output:
        top.fill_(-math.inf)
        total.zero_()
        for own_q, own_k, own_v, old, sums in views:
            logits = torch.bmm(own_q, own_k).float()
            new = torch.maximum(old, logits.amax(-1, keepdim=True))
            weights = logits.sub_(new).exp_()
            sums.mul_(old.sub_(new).exp_())
            if half:
                sums.add_(torch.bmm(weights.to(v.dtype), own_v))
            else:
                sums.baddbmm_(weights, own_v)
            old.copy_(new)
        att = total[..., :-1] / total[..., -1:]
        return finish(work, att.view(heads, n_rows, group, width).transpose(0, 1))

    return Ready(run, work.rows.order)


def segments_batched(work: Workload, limits: Limits) -> Ready:
    """Attend nodes of about the same size and number of rows in one batch, then merge all at once.

    No loop over nodes and hardly any padding: the best that was found with eager torch alone.
    """
    k, _v, q = work.sorted
    heads, n_rows, group, width = q.shape
    q = _scale(q)
    batches = [_Batch(work, members) for members in _buckets(work)]
    afford(limits, bytes=sum(b.k.numel() for b in batches) * 2 * k.element_size())
    rows = torch.cat([b.rows.flatten() for b in batches])
    slot = rows[None, :, None].expand(heads, -1, group)

    def run() -> Output:
        tops, sums, outs = zip(*(b.attend(q) for b in batches), strict=True)
        part_top, part_sum, part_out = torch.cat(tops, 1), torch.cat(sums, 1), torch.cat(outs, 1)
        top = torch.full((heads, n_rows, group), -math.inf, device=q.device)
        top.scatter_reduce_(1, slot, part_top, "amax")
        scale = (part_top - top[:, rows]).exp_()
        total = torch.zeros(heads, n_rows, group, device=q.device).index_add_(1, rows, part_sum * scale)
        att = torch.zeros(heads, n_rows, group, width, device=q.device)
        att.index_add_(1, rows, part_out * scale[..., None])
        return finish(work, (att / total[..., None]).transpose(0, 1))

    return Ready(run, work.rows.order)


class _Batch:
    """Nodes whose tokens and rows are padded to the same sizes: k, v [heads, S, L, d], rows [S, R].

    A row that only fills up is row ``rows[s, 0]`` with all its tokens masked: its weights are zero.
    """

    def __init__(self, work: Workload, members: Indices) -> None:
        rows, (k, v, _) = work.rows, work.sorted
        lengths, counts = np.diff(rows.ptr)[members], (rows.end - rows.begin)[members]
        token, row = np.arange(lengths.max()), np.arange(counts.max())
        columns = np.where(token < lengths[:, None], rows.ptr[members][:, None] + token, 0)
        real = row < counts[:, None]
        self.rows = _tensor(work, np.where(real, rows.begin[members][:, None] + row, rows.begin[members][:, None]))
        hidden = (token >= lengths[:, None])[:, None, :] | ~real[:, :, None]  # [S, R, L]
        self.some_hidden = bool(hidden.any())
        self.hidden, self.real = _tensor(work, hidden)[None, :, :, None], _tensor(work, real)[None, :, :, None]
        at = _tensor(work, columns)
        self.k, self.v = k[:, at], v[:, at]

    def attend(self, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return largest logit, sum and weighted values of each pair of node and row."""
        heads, _, group, width = q.shape
        n_nodes, n_rows = self.rows.shape
        own = q[:, self.rows.flatten()].view(heads, n_nodes, n_rows * group, width)
        logits = (own @ self.k.mT).float().view(heads, n_nodes, n_rows, group, -1)
        if self.some_hidden:
            logits.masked_fill_(self.hidden, -1e30)  # finite: a hidden row keeps a finite maximum
        top = logits.amax(-1)
        weights = logits.sub_(top[..., None]).exp_()
        if self.some_hidden:
            weights.mul_(self.real[..., None])
        out = weights.to(q.dtype).view(heads, n_nodes, n_rows * group, -1) @ self.v
        flat = (heads, n_nodes * n_rows, group)
        return top.view(flat), weights.sum(-1).view(flat), out.float().view(*flat, width)


def flex(work: Workload, limits: Limits, *, rebuild: bool = False, compiled: bool = True) -> Ready:
    """Compile FlexAttention with a mask that says which rows of the preorder see a token.

    Args:
        work: what to compute.
        limits: what compiling and the mask may cost.
        rebuild: make the block mask in every call, as a tree that grows asks for.
        compiled: False runs the slow version that torch has for debugging.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    k, v, q = work.sorted
    shape = (len(work.rows.order), len(work.rows.tokens))
    afford(limits, bytes=16 * math.prod(shape))  # making the block mask holds it in several forms
    begin, end = (_tensor(work, bound.astype(np.int32)) for bound in work.rows.seen_by)

    def sees(_b: torch.Tensor, _h: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return (begin[column] <= row) & (row < end[column])

    def build() -> object:
        return create_block_mask(sees, None, None, *shape, device=str(work.device))

    attend = _compiled_flex(work) if compiled else flex_attention
    q, k, v = dimensions_first(q), k[None], v[None]
    shared = k.shape[1] == 1
    ready = None if rebuild else build()

    def run() -> Output:
        att = attend(q, k, v, block_mask=build() if rebuild else ready, enable_gqa=shared)
        return finish(work, att[0].transpose(0, 1))

    return Ready(run, work.rows.order)


@lru_cache(maxsize=1)
def _compiled_flex(work: Workload) -> Callable[..., torch.Tensor]:
    """Return one compiled function for both ways of timing it; forgets those of earlier workloads."""
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    return torch.compile(flex_attention, dynamic=False)


def flex_rebuilt(work: Workload, limits: Limits) -> Ready:
    """Compile FlexAttention, and count the making of its block mask too."""
    return flex(work, limits, rebuild=True)


#: name -> baseline, in the order of the report.
BASELINES: dict[str, Baseline] = {
    "padded": padded,
    "padded, gathered before": padded_gathered,
    "path loop": path_loop,
    "dense mask": dense_mask,
    "segment loop": segment_loop,
    "segments batched": segments_batched,
    "flex": flex,
    "flex + mask": flex_rebuilt,
}


def afford(limits: Limits, *, bytes: float = 0, moved: float = 0, flops: float = 0) -> None:
    if bytes > limits.bytes:
        raise Skipped(f"holds {bytes / 2**30:.1f} GiB, more than {limits.bytes / 2**30:.1f}")
    if moved > limits.moved:
        raise Skipped(f"copies {moved / 2**30:.1f} GiB, more than {limits.moved / 2**30:.1f}")
    if flops > limits.flops:
        raise Skipped(f"computes {flops / 1e9:.0f} GFLOP, more than {limits.flops / 1e9:.0f}")


def _tensor(work: Workload, array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(array, device=work.device)


def _scale(q: torch.Tensor) -> torch.Tensor:
    return q / math.sqrt(q.shape[-1])


def dimensions_first(q: torch.Tensor) -> torch.Tensor:
    """Return q [heads, M, 3 / heads, d] as [1, 3, M, d]."""
    return q.transpose(1, 2).reshape(1, 3, q.shape[1], q.shape[3])


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return [M, heads, 3 / heads, d] for paths k, v [heads, M, L, d] and a mask [M, 1, L].

    With the paths as the batch and a mask of four dimensions torch takes its fast path, also on a CPU.
    """
    q, k, v = (a.transpose(0, 1) for a in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None])


def finish(work: Workload, att: torch.Tensor) -> Output:
    """Return the output for attention outputs [M, ., ., d] of three dimensions."""
    att = att.reshape(len(work.rows.order), 3, -1).float()
    return Output(torch.sigmoid((att * work.head.u).sum(-1) + work.head.b), att)


def _pad(work: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns of every path [M, L] and which of them count, as an additive mask [M, 1, L]."""
    paths = work.rows.paths()
    lengths = np.array([len(path) for path in paths])
    index = np.zeros((len(paths), lengths.max()), np.int64)
    for row, path in enumerate(paths):
        index[row, : len(path)] = path
    counts = _tensor(work, np.arange(index.shape[1]) < lengths[:, None])[:, None]
    mask = torch.zeros(counts.shape, dtype=work.tree.k.dtype, device=work.device)
    return _tensor(work, index), mask.masked_fill_(~counts, -math.inf)


def _segments(work: Workload, group: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows (``group`` a query) and the columns of each node."""
    rows = work.rows
    for begin, end, first, last in zip(rows.begin, rows.end, rows.ptr[:-1], rows.ptr[1:], strict=True):
        if last > first:
            yield slice(int(begin) * group, int(end) * group), slice(int(first), int(last))


def _buckets(work: Workload) -> Iterator[Indices]:
    """Yield nodes that are padded to each other: rows and tokens within a factor of about 1.5."""
    rows = work.rows
    lengths, counts = np.diff(rows.ptr), rows.end - rows.begin
    sizes = np.stack([np.ceil(np.log(counts) / np.log(1.5)), np.ceil(np.log2(np.maximum(lengths, 1)))], 1)
    for size in np.unique(sizes[lengths > 0], axis=0):
        yield np.flatnonzero((sizes == size).all(1) & (lengths > 0))
