"""Tri-head tree attention in Triton.

Two launches, whatever the depth of the tree.  `_attend` reads keys and values once for all rows of a
query block and leaves one partial softmax (m, l, o) a row and program; `_merge` joins the partials of a
row, applies the linear head and the sigmoid.  A head of two layers takes a third launch, `_mlp`.

A scan (constant queries) also takes two: `_scan_tiles` reads every token of the tree once and leaves the
softmax of each tile, `_scan_merge` joins the tiles of each path.

Accuracy.  Weights are ``exp(dot - (m - bias))``: a large bias common to all tokens cancels before it is
rounded.  16-bit keys and values are multiplied on the tensor cores; the other factor, queries of higher
precision or softmax weights, is then split in a high and a low 16-bit part, so that it is not rounded.
float32 is multiplied as float32.

A row that does not see a tile keeps its old sums by selection, not by a weight of zero, because zero
times NaN is NaN.

Nothing here has run on a GPU yet: block sizes are chosen from the compiler's reports, not from timings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from .._dispatch import Facts
from ._types import Array, Head, KVTree, State, TriattOutput
from ._work import ScanWork, Work, make_scan_work, make_work, wanted_programs

_DTYPES = ("float32", "bfloat16", "float16")
_WIDEST = 256
_OLDEST = (3, 6)
#: Below every logit, yet finite: differences of it are never NaN.
_LOWEST = tl.constexpr(-1e38)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


# ------------------------------------------------------------------------------------------------ kernels


@triton.jit
def _halves(x, KIND: tl.constexpr, SPLIT: tl.constexpr):
    """Return x in another type, and with SPLIT what that lost, also in that type."""
    high = x.to(KIND)
    low = high
    if SPLIT:
        low = (x - high.to(tl.float32)).to(KIND)
    return high, low


@triton.jit
def _dot(a, a_low, b, SPLIT: tl.constexpr):
    """Return (a + a_low) @ b in float32; never through tf32."""
    if _INTERPRETED:  # which would multiply the bits of bfloat16 as whole numbers
        a, a_low, b = a.to(tl.float32), a_low.to(tl.float32), b.to(tl.float32)
    out = tl.dot(a, b, input_precision="ieee")
    if SPLIT:
        out += tl.dot(a_low, b, input_precision="ieee")
    return out


@triton.jit
def _attend(
    p_k, p_v, p_q, p_bias, p_order, p_tiles, p_segment, p_programs, p_m, p_l, p_o,
    stride_kt, stride_kh, stride_vt, stride_vh, stride_q, scale,
    N_HEADS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, USE_BIAS: tl.constexpr, SPLIT_Q: tl.constexpr, SPLIT_P: tl.constexpr,
):  # fmt: skip
    """Leave the softmax over one program's tiles for each row of its block."""
    KIND: tl.constexpr = p_k.dtype.element_ty
    i_program = tl.program_id(0)
    i_head = tl.program_id(1)
    row_begin = tl.load(p_programs + 4 * i_program)
    row_end = tl.load(p_programs + 4 * i_program + 1)
    tile_begin = tl.load(p_programs + 4 * i_program + 2)
    tile_end = tl.load(p_programs + 4 * i_program + 3)

    local = tl.arange(0, BLOCK_M)
    c = tl.zeros([BLOCK_M], tl.int32) + i_head
    if N_HEADS == 1:  # the three queries of a node are three rows over the same keys
        c = local % 3
        local = local // 3
    row = row_begin + local
    alive = row < row_end
    col = tl.arange(0, BLOCK_D)
    is_col = col < D

    position = tl.load(p_order + row, mask=alive, other=0).to(tl.int64)
    o_q = position[:, None] * stride_q + c[:, None] * D + col[None, :]
    q = tl.load(p_q + o_q, mask=alive[:, None] & is_col[None, :], other=0.0).to(tl.float32)
    factor = tl.zeros([BLOCK_M], tl.float32) + scale
    if SPLIT_Q:  # with the largest component at 1, neither half leaves the range of float16
        size = tl.max(tl.abs(q), 1)
        size = tl.where(size > 0, size, 1.0)
        q = q / size[:, None]
        factor = factor * size
    q, q_low = _halves(q, KIND, SPLIT_Q)
    b_question = tl.zeros([BLOCK_M], tl.float32)
    b_image = b_question
    b_earlier = b_question
    b_this = b_question
    if USE_BIAS:
        b_question = tl.load(p_bias + 4 * c).to(tl.float32)
        b_image = tl.load(p_bias + 4 * c + 1).to(tl.float32)
        b_earlier = tl.load(p_bias + 4 * c + 2).to(tl.float32)
        b_this = tl.load(p_bias + 4 * c + 3).to(tl.float32)

    m = tl.full([BLOCK_M], _LOWEST, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)  # noqa: E741
    o = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    lane = tl.arange(0, BLOCK_N)
    for i_tile in tl.range(tile_begin, tile_end):
        token = tl.load(p_tiles + 5 * i_tile)
        n_tokens = tl.load(p_tiles + 5 * i_tile + 1)
        seen_from = tl.load(p_tiles + 5 * i_tile + 2)
        own_end = tl.load(p_tiles + 5 * i_tile + 3)
        seen_to = tl.load(p_tiles + 5 * i_tile + 4)
        is_token = lane < n_tokens
        mask = is_token[:, None]
        if D != BLOCK_D:
            mask = mask & is_col[None, :]
        t = (token + lane).to(tl.int64)
        k = tl.load(p_k + t[:, None] * stride_kt + i_head * stride_kh + col[None, :], mask=mask, other=0.0)
        v = tl.load(p_v + t[:, None] * stride_vt + i_head * stride_vh + col[None, :], mask=mask, other=0.0)

        sees = (row >= seen_from) & (row < seen_to)
        s = _dot(q, q_low, tl.trans(k), SPLIT_Q) * factor[:, None]
        bias = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if USE_BIAS:
            segment = tl.load(p_segment + t, mask=is_token, other=0)
            b_step = tl.where(row < own_end, b_this, b_earlier)
            bias = tl.where(segment[None, :] == 1, b_image[:, None], b_step[:, None])
            bias = tl.where(segment[None, :] == 0, b_question[:, None], bias)
        visible = sees[:, None] & is_token[None, :]
        m_new = tl.maximum(m, tl.max(tl.where(visible, s + bias, float("-inf")), 1))
        p = tl.where(visible, tl.exp(s - (m_new[:, None] - bias)), 0.0)
        shrink = tl.exp(m - m_new)
        l = l * shrink + tl.sum(p, 1)  # noqa: E741
        high, low = _halves(p, KIND, SPLIT_P)
        # Selected, not weighted by 0: a token that a row does not see may hold NaN.
        o = tl.where(sees[:, None], o * shrink[:, None] + _dot(high, low, v, SPLIT_P), o)
        m = m_new

    o_row = (i_program.to(tl.int64) * BLOCK + local) * 3 + c
    tl.store(p_m + o_row, m, mask=alive)
    tl.store(p_l + o_row, l, mask=alive)
    tl.store(p_o + o_row[:, None] * D + col[None, :], o, mask=alive[:, None] & is_col[None, :])


@triton.jit
def _absorb(m, l, o, more_m, more_l, more_o, bias):  # noqa: E741
    """Return the softmax (m, l, o [d]) joined with several (m [n], l [n], o [n, d]) whose logits lack a bias."""
    m_new = tl.maximum(m, tl.max(more_m + bias, 0))
    shrink = tl.exp(m - m_new)
    weight = tl.exp(more_m - (m_new - bias))
    l = l * shrink + tl.sum(weight * more_l, 0)  # noqa: E741
    o = o * shrink + tl.sum(weight[:, None] * more_o, 0)
    return m_new, l, o


@triton.jit
def _load_states(p_m, p_l, p_o, at, mask, col, D: tl.constexpr):
    """Return the states at some places; where masked, the state of no tokens."""
    m = tl.load(p_m + at, mask=mask, other=_LOWEST)
    l = tl.load(p_l + at, mask=mask, other=0.0)  # noqa: E741
    o = tl.load(p_o + at[:, None] * D + col[None, :], mask=mask[:, None] & (col < D)[None, :], other=0.0)
    return m, l, o


@triton.jit
def _finish(l, o, p_att, p_u, p_b, p_scores, at, c, col, D: tl.constexpr, KEEP_ATT: tl.constexpr, LINEAR: tl.constexpr):  # noqa: E741
    """Store the attention output and, for a linear head, the score of row ``at`` = 3 n + c."""
    att = o / l
    if KEEP_ATT:
        tl.store(p_att + at * D + col, att, mask=col < D)
    if LINEAR:
        u = tl.load(p_u + c * D + col, mask=col < D, other=0.0).to(tl.float32)
        logit = tl.sum(u * att, 0) + tl.load(p_b + c).to(tl.float32)
        tl.store(p_scores + at, tl.sigmoid(logit))


@triton.jit
def _keep(m, l, o, p_m, p_l, p_o, at, col, D: tl.constexpr):  # noqa: E741
    """Store the state of row ``at`` = 3 n + c."""
    tl.store(p_m + at, m)
    tl.store(p_l + at, l)
    tl.store(p_o + at * D + col, o, mask=col < D)


@triton.jit
def _merge(
    p_m, p_l, p_o, p_slots, p_order, p_u, p_b, p_scores, p_att, p_out_m, p_out_l, p_out_o,
    D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr,
    KEEP_ATT: tl.constexpr, KEEP_STATE: tl.constexpr, LINEAR: tl.constexpr,
):  # fmt: skip
    """Join the partial results of one row and dimension, in order, and write them where the frontier has it."""
    row = tl.program_id(0)
    c = tl.program_id(1)
    col = tl.arange(0, BLOCK_D)
    m = tl.full([], _LOWEST, tl.float32)
    l = tl.zeros([], tl.float32)  # noqa: E741
    o = tl.zeros([BLOCK_D], tl.float32)
    last = tl.load(p_slots + row // BLOCK + 1)
    for first in tl.range(tl.load(p_slots + row // BLOCK), last, CHUNK):
        slot = first + tl.arange(0, CHUNK)
        at = (slot.to(tl.int64) * BLOCK + row % BLOCK) * 3 + c
        more_m, more_l, more_o = _load_states(p_m, p_l, p_o, at, slot < last, col, D)
        m, l, o = _absorb(m, l, o, more_m, more_l, more_o, tl.zeros([CHUNK], tl.float32))  # noqa: E741
    at = tl.load(p_order + row).to(tl.int64) * 3 + c
    _finish(l, o, p_att, p_u, p_b, p_scores, at, c, col, D, KEEP_ATT, LINEAR)
    if KEEP_STATE:
        _keep(m, l, o, p_out_m, p_out_l, p_out_o, at, col, D)


@triton.jit(do_not_specialize=["n_rows"])
def _mlp(
    p_att, p_w, p_c, p_u, p_b, p_scores, n_rows, F,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Score BLOCK_M attention outputs of one dimension with a head of two layers."""
    c = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    alive = row < n_rows
    col = tl.arange(0, BLOCK_D)
    at = row.to(tl.int64) * 3 + c
    att = tl.load(p_att + at[:, None] * D + col[None, :], mask=alive[:, None] & (col < D)[None, :], other=0.0)
    logit = tl.zeros([BLOCK_M], tl.float32) + tl.load(p_b + c).to(tl.float32)
    for first in tl.range(0, F, BLOCK_F):
        unit = first + tl.arange(0, BLOCK_F)
        is_unit = unit < F
        o_w = (c * F + unit)[:, None] * D + col[None, :]
        w = tl.load(p_w + o_w, mask=is_unit[:, None] & (col < D)[None, :], other=0.0).to(tl.float32)
        shift = tl.load(p_c + c * F + unit, mask=is_unit, other=0.0).to(tl.float32)
        u = tl.load(p_u + c * F + unit, mask=is_unit, other=0.0).to(tl.float32)
        z = tl.dot(att, tl.trans(w), input_precision="ieee") + shift[None, :]
        # gelu(z) = z (1 + tanh(a)) / 2 = z sigmoid(2 a), without the library's tanh
        gelu = z * tl.sigmoid(2 * 0.7978845608028654 * (z + 0.044715 * z * z * z))
        logit += tl.sum(gelu * u[None, :], 1)
    tl.store(p_scores + at, tl.sigmoid(logit), mask=alive)


@triton.jit
def _scan_tiles(
    p_k, p_v, p_q, p_tiles, p_m, p_l, p_o, stride_kt, stride_kh, stride_vt, stride_vh, scale,
    N_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Leave the softmax of one tile, without the bias, which is the same for all its tokens."""
    i_tile = tl.program_id(0).to(tl.int64)
    i_head = tl.program_id(1)
    col = tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_N)
    token = tl.load(p_tiles + 3 * i_tile)
    is_token = lane < tl.load(p_tiles + 3 * i_tile + 1)
    mask = is_token[:, None]
    if D != BLOCK_D:
        mask = mask & (col < D)[None, :]
    t = (token + lane).to(tl.int64)
    k = tl.load(p_k + t[:, None] * stride_kt + i_head * stride_kh + col[None, :], mask=mask, other=0.0)
    v = tl.load(p_v + t[:, None] * stride_vt + i_head * stride_vh + col[None, :], mask=mask, other=0.0)
    for i in tl.static_range(0, 3 // N_HEADS):
        c = i_head + i
        q = tl.load(p_q + c * D + col, mask=col < D, other=0.0).to(tl.float32) * scale
        logit = tl.where(is_token, tl.sum(k.to(tl.float32) * q[None, :], 1), float("-inf"))
        m = tl.max(logit, 0)
        p = tl.exp(logit - m)
        at = i_tile * 3 + c
        tl.store(p_m + at, m)
        tl.store(p_l + at, tl.sum(p, 0))
        tl.store(p_o + at * D + col, tl.sum(p[:, None] * v.to(tl.float32), 0), mask=col < D)


@triton.jit
def _scan_merge(
    p_m, p_l, p_o, p_tiles, p_tile_ptr, p_parent, p_first_m, p_first_l, p_first_o, p_bias,
    p_u, p_b, p_scores, p_att, p_out_m, p_out_l, p_out_o,
    D: tl.constexpr, BLOCK_D: tl.constexpr, CHUNK: tl.constexpr, USE_BIAS: tl.constexpr, USE_FIRST: tl.constexpr,
    KEEP_ATT: tl.constexpr, LINEAR: tl.constexpr,
):  # fmt: skip
    """Join the tiles of one node's path: with its own steps as "this step" the score, as "earlier" the state."""
    node = tl.program_id(0)
    c = tl.program_id(1)
    col = tl.arange(0, BLOCK_D)
    b_earlier = tl.zeros([], tl.float32)
    b_this = b_earlier
    if USE_BIAS:
        b_earlier = tl.load(p_bias + 4 * c + 2).to(tl.float32)
        b_this = tl.load(p_bias + 4 * c + 3).to(tl.float32)
    m = tl.full([], _LOWEST, tl.float32)  # the path but for the node's own steps
    l = tl.zeros([], tl.float32)  # noqa: E741
    o = tl.zeros([BLOCK_D], tl.float32)
    m_own = m
    l_own = l
    o_own = o
    none = tl.zeros([CHUNK], tl.float32)
    lane = tl.arange(0, CHUNK)
    last = tl.load(p_tile_ptr + node + 1)
    for first in tl.range(tl.load(p_tile_ptr + node), last, CHUNK):
        tile = (first + lane).to(tl.int64)
        segment = tl.load(p_tiles + 3 * tile + 2, mask=tile < last, other=0)
        is_step = (tile < last) & (segment == 2)
        is_rest = (tile < last) & (segment != 2)
        bias = none
        if USE_BIAS:
            bias = tl.load(p_bias + 4 * c + segment, mask=is_rest, other=0.0).to(tl.float32)
        x, y, z = _load_states(p_m, p_l, p_o, tile * 3 + c, is_step, col, D)
        m_own, l_own, o_own = _absorb(m_own, l_own, o_own, x, y, z, none)
        x, y, z = _load_states(p_m, p_l, p_o, tile * 3 + c, is_rest, col, D)
        m, l, o = _absorb(m, l, o, x, y, z, bias)  # noqa: E741
    up = tl.load(p_parent + node)
    while up >= 0:
        last = tl.load(p_tile_ptr + up + 1)
        for first in tl.range(tl.load(p_tile_ptr + up), last, CHUNK):
            tile = (first + lane).to(tl.int64)
            bias = none
            if USE_BIAS:
                segment = tl.load(p_tiles + 3 * tile + 2, mask=tile < last, other=0)
                bias = tl.load(p_bias + 4 * c + segment, mask=tile < last, other=0.0).to(tl.float32)
            x, y, z = _load_states(p_m, p_l, p_o, tile * 3 + c, tile < last, col, D)
            m, l, o = _absorb(m, l, o, x, y, z, bias)  # noqa: E741
        up = tl.load(p_parent + up)
    if USE_FIRST:
        at = (-1 - up).to(tl.int64) * 3 + c + tl.zeros([1], tl.int64)
        x, y, z = _load_states(p_first_m, p_first_l, p_first_o, at, at >= 0, col, D)
        m, l, o = _absorb(m, l, o, x, y, z, tl.zeros([1], tl.float32))  # noqa: E741

    at = node.to(tl.int64) * 3 + c
    seen_m = tl.maximum(m, m_own + b_this)
    a = tl.exp(m - seen_m)
    b = tl.exp(m_own - (seen_m - b_this))
    _finish(l * a + l_own * b, o * a + o_own * b, p_att, p_u, p_b, p_scores, at, c, col, D, KEEP_ATT, LINEAR)
    kept_m = tl.maximum(m, m_own + b_earlier)
    a = tl.exp(m - kept_m)
    b = tl.exp(m_own - (kept_m - b_earlier))
    _keep(kept_m, l * a + l_own * b, o * a + o_own * b, p_out_m, p_out_l, p_out_o, at, col, D)


# --------------------------------------------------------------------------------------------------- host


class Buffers(NamedTuple):
    """Where a call writes: see ``allocate``.  S partial results are kept, [G, block] or one a tile."""

    part_m: torch.Tensor  # [S, 3]
    part_l: torch.Tensor  # [S, 3]
    part_o: torch.Tensor  # [S, 3, d]
    scores: torch.Tensor  # [M, 3]
    att: torch.Tensor | None  # [M, 3, d]
    state: State | None


def supports(facts: Facts) -> str:
    """Return why a call cannot run here, or an empty string."""
    if facts.library != "torch":
        return "it takes torch tensors; got numpy arrays."
    if facts.grad:
        return "it has no gradients through a softmax state."
    if facts.dtype not in _DTYPES or facts.precision != "float32":
        return f"it computes in float32 on {', '.join(_DTYPES)}; got {facts.dtype}, {facts.precision}."
    if facts.width > _WIDEST:
        return f"the head width must be at most {_WIDEST}; got {facts.width}."
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < _OLDEST:
        return f"Triton must be {'.'.join(map(str, _OLDEST))} or newer; got {triton.__version__}."
    if _INTERPRETED.value:  # on any machine
        return ""
    if facts.device != "cuda":
        return f"Triton runs on a GPU; the tensors are on the {facts.device}."
    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:
        return f"Triton finds no GPU: {type(error).__name__}: {error}"
    if torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        return f"compute capability 8.0 or more is needed; got {torch.cuda.get_device_capability()}."
    return ""


def triatt(
    tree: KVTree, frontier: NDArray[np.int64], q: Array, head: Head, bias: Array | None,
    return_att: bool, return_state: bool,
) -> TriattOutput:  # fmt: skip
    """Return what ``svip_search.kernels.triatt.triatt`` promises, in float32."""
    k, v, q, head, bias = _dense(tree, q, head, bias)
    block, tile = block_and_tile(len(frontier), k)
    work = make_work(tree, frontier, block, tile, wanted_programs(k), k.device)
    buffers = allocate(work, k, att=return_att or head.w is not None, state=return_state)
    launch(work, k, v, q, head, bias, buffers)
    return TriattOutput(buffers.scores, buffers.att if return_att else None, buffers.state)


def triatt_scan(
    tree: KVTree, q: Array, head: Head, bias: Array | None, state: State | None, return_att: bool
) -> TriattOutput:
    """Return what ``svip_search.kernels.triatt.triatt_scan`` promises, in float32.

    A path is walked from its node to the root: cost O(depth) states a node beside the tokens.
    """
    k, v, q, head, bias = _dense(tree, q, head, bias)
    work = make_scan_work(tree, scan_tile(k), k.device)
    buffers = allocate(work, k, att=return_att or head.w is not None, state=True)
    if state is not None:
        state = State(*(a.float().contiguous() for a in state))
    launch_scan(work, k, v, q, head, bias, state, buffers)
    return TriattOutput(buffers.scores, buffers.att if return_att else None, buffers.state)


def block_and_tile(n_rows: int, k: torch.Tensor) -> tuple[int, int]:
    """Return the rows of a query block and the most tokens of a tile for a frontier of ``n_rows``.

    The product of a tile must be at least 16 wide; wider blocks read a shared prefix less often, but
    waste more on tokens that few rows see.  With shared keys three rows of the product are one node.
    """
    n_heads, width = k.shape[1:]
    rows = n_rows * 3 // n_heads
    block = 16 if rows <= 16 or k.dtype == torch.float32 else 32
    tile = 64 if k.dtype != torch.float32 and width <= 128 else 32
    return (block // 3 if n_heads == 1 else block), tile


def scan_tile(k: torch.Tensor) -> int:
    """Return the most tokens of a tile of a scan."""
    return 64 if k.shape[2] <= 128 else 32


def allocate(work: Work | ScanWork, k: torch.Tensor, *, att: bool, state: bool) -> Buffers:
    """Return the buffers of ``launch`` or ``launch_scan``, uninitialised.

    Args:
        work: the plan.
        k: keys [T, n_kv_heads, d], for their width and device.
        att: room for the attention outputs; needed by a head of two layers.
        state: room for the softmax states; always needed by a scan.
    """
    if isinstance(work, Work):
        kept, rows = work.programs.shape[0] * work.block, work.order.shape[0]
    else:
        kept, rows = work.tiles.shape[0], work.parent.shape[0]
    width = int(k.shape[2])

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=k.device)

    return Buffers(
        *(empty(kept, 3), empty(kept, 3), empty(kept, 3, width), empty(rows, 3)),
        empty(rows, 3, width) if att else None,
        State(empty(rows, 3), empty(rows, 3), empty(rows, 3, width)) if state else None,
    )


def launch(
    work: Work, k: torch.Tensor, v: torch.Tensor, q: torch.Tensor, head: Head, bias: torch.Tensor | None,
    buffers: Buffers,
) -> None:  # fmt: skip
    """Queue the kernels of ``triatt`` on the current stream: no allocation, no copy, no wait.

    A CUDA graph can therefore hold the call, and a frontier whose layout stays (the same ``work``) is
    scored again by new numbers in the same tensors and one replay.  Kernels are compiled by their first
    launch, which a graph cannot hold, so launch once before capturing::

        work = make_work(tree, frontier, *block_and_tile(len(frontier), k), wanted_programs(k), k.device)
        buffers = allocate(work, k, att=False, state=False)
        launch(work, k, v, q, head, bias, buffers)
        with torch.cuda.graph(graph):
            launch(work, k, v, q, head, bias, buffers)
        q.copy_(new_queries)
        graph.replay()  # buffers.scores is up to date

    Args:
        work: the plan; ``tile`` a power of two of at least 16.
        k: keys [T, n_kv_heads, d], float32, bfloat16 or float16, contiguous in d.
        v: values, the same.
        q: queries [M, 3, d] or [3, d], contiguous, as is the head.
        head: as in ``triatt``.
        bias: [3, 4] or None, contiguous.
        buffers: from ``allocate``.

    Raises:
        ValueError: a tensor is not contiguous, or a head of two layers has no ``buffers.att``.
    """
    _check_dense(k, v, q, head, bias, buffers)
    n_rows = work.order.shape[0]
    if n_rows == 0:
        return
    n_heads, width = k.shape[1:]
    sizes = {"D": width, "BLOCK": work.block, "BLOCK_D": _power_of_two(width)}
    options = {"num_warps": _warps(width), "enable_fp_fusion": True}
    block_m = _power_of_two(work.block * (3 // n_heads))
    parts = buffers.part_m, buffers.part_l, buffers.part_o
    with torch.cuda.device_of(k):
        _attend[(work.programs.shape[0], n_heads)](
            k, v, q, head.b if bias is None else bias, work.order, work.tiles, work.segment, work.programs, *parts,
            k.stride(0), k.stride(1), v.stride(0), v.stride(1), 3 * width if q.ndim == 3 else 0, width**-0.5,
            N_HEADS=n_heads, **sizes, BLOCK_M=block_m, BLOCK_N=work.tile, USE_BIAS=bias is not None,
            SPLIT_Q=k.dtype not in (torch.float32, q.dtype), SPLIT_P=k.dtype != torch.float32,
            num_stages=2, **options,
        )  # fmt: skip
        _merge[(n_rows, 3)](
            *parts, work.slots, work.order, head.u, head.b, *_outputs(buffers), **sizes, CHUNK=16,
            KEEP_ATT=buffers.att is not None, KEEP_STATE=buffers.state is not None, LINEAR=head.w is None, **options,
        )  # fmt: skip
        _launch_mlp(head, buffers)


def launch_scan(
    work: ScanWork, k: torch.Tensor, v: torch.Tensor, q: torch.Tensor, head: Head, bias: torch.Tensor | None,
    first: State | None, buffers: Buffers,
) -> None:  # fmt: skip
    """Queue the kernels of ``triatt_scan`` on the current stream; as ``launch``, with ``first`` the incoming states."""
    _check_dense(k, v, q, head, bias, buffers)
    n_heads, width = k.shape[1:]
    n_nodes, n_tiles = work.parent.shape[0], work.tiles.shape[0]
    sizes = {"D": width, "BLOCK_D": _power_of_two(width)}
    options = {"num_warps": _warps(width), "enable_fp_fusion": True}
    parts = buffers.part_m, buffers.part_l, buffers.part_o
    with torch.cuda.device_of(k):
        if n_tiles:
            _scan_tiles[(n_tiles, n_heads)](
                k, v, q, work.tiles, *parts, k.stride(0), k.stride(1), v.stride(0), v.stride(1), width**-0.5,
                N_HEADS=n_heads, **sizes, BLOCK_N=work.tile, **options,
            )  # fmt: skip
        _scan_merge[(n_nodes, 3)](
            *parts, work.tiles, work.tile_ptr, work.parent, *(parts if first is None else first),
            head.b if bias is None else bias, head.u, head.b, *_outputs(buffers), **sizes, CHUNK=16,
            USE_BIAS=bias is not None, USE_FIRST=first is not None, KEEP_ATT=buffers.att is not None,
            LINEAR=head.w is None, **options,
        )  # fmt: skip
        _launch_mlp(head, buffers)


def _launch_mlp(head: Head, buffers: Buffers) -> None:
    if head.w is None:
        return
    n_rows, _, width = buffers.att.shape
    hidden = head.w.shape[1]
    _mlp[(triton.cdiv(n_rows, 16), 3)](
        buffers.att, head.w, head.c, head.u, head.b, buffers.scores, n_rows, hidden,
        D=width, BLOCK_M=16, BLOCK_F=32, BLOCK_D=_power_of_two(width), num_warps=_warps(width), enable_fp_fusion=True,
    )  # fmt: skip


def _outputs(buffers: Buffers) -> tuple[torch.Tensor, ...]:
    """Return scores, att, m, l, o; the scores stand in for what is not wanted and not written."""
    scores = buffers.scores
    att = scores if buffers.att is None else buffers.att
    return scores, att, *(buffers.state or (scores,) * 3)


def _power_of_two(width: int) -> int:
    """Return the side of a block that holds ``width`` columns; a product needs at least 16."""
    return max(16, triton.next_power_of_2(width))


def _warps(width: int) -> int:
    """Return the warps of a program: few registers a thread are left at 4 where rows are wider than 128."""
    return 4 if width <= 128 else 8


def _dense(
    tree: KVTree, q: torch.Tensor, head: Head, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Head, torch.Tensor | None]:
    """Return the tensors as ``launch`` wants them; no copy in the usual case."""
    k, v = (a if a.stride(-1) == 1 else a.contiguous() for a in (tree.k, tree.v))
    head = Head(*(None if a is None else a.contiguous() for a in head))
    return k, v, q.contiguous(), head, None if bias is None else bias.contiguous()


def _check_dense(
    k: torch.Tensor, v: torch.Tensor, q: torch.Tensor, head: Head, bias: torch.Tensor | None, buffers: Buffers
) -> None:
    for name, array in {"k": k, "v": v}.items():
        if array.stride(-1) != 1:
            raise ValueError(f"`{name}` must be contiguous in its last dimension; got strides {array.stride()}.")
    rest = {"q": q, "bias": bias, **{f"head.{name}": a for name, a in head._asdict().items()}}
    for name, array in rest.items():
        if array is not None and not array.is_contiguous():
            raise ValueError(f"`{name}` must be contiguous; got strides {array.stride()}.")
    if head.w is not None and buffers.att is None:
        raise ValueError("`buffers.att` must be given for a head of two layers; got None.")
