"""Tri-head tree attention on the CPU: the C++ core on pages that are packed for the call.

Who scores one tree many times keeps it in a ``KVPool`` instead and spares the packing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svip_search import _core

from .._dispatch import Facts
from ._pool import KVPool, PackedHead, PagedTree, to_float32
from ._types import Array, Head, KVTree, State, TriattOutput

MAX_WIDTH = 256
_core.simd_tier()  # a wrong SVIP_SIMD is an import error of this backend


def supports(facts: Facts) -> str:
    """Return why a call cannot run here, or nothing."""
    if facts.device != "cpu":
        return f"keys and values are on {facts.device}."
    if facts.dtype not in ("float32", "bfloat16", "float16") or facts.precision == "float64":
        return "float64 is computed by the reference alone."
    if facts.grad:
        return "it has no gradients through a softmax state."
    if facts.width > MAX_WIDTH:
        return f"the head width is {facts.width}, above {MAX_WIDTH}."
    return ""


def triatt(
    tree: KVTree, frontier: NDArray[np.int64], q: Array, head: Head, bias: Array | None,
    return_att: bool, return_state: bool,
) -> TriattOutput:  # fmt: skip
    """Return what ``svip_search.kernels.triatt.triatt`` promises."""
    paged = _pages(tree)
    try:
        packed, nodes = PackedHead(head, bias)._core, frontier.astype(np.int32)
        found = paged._core.score(nodes, to_float32("q", q), packed, return_att, return_state, 0, 0, False)
    finally:
        paged.pool.close()
    scores, att, *state = found
    return _like(q, TriattOutput(scores, att, State(*state) if return_state else None))


def triatt_scan(
    tree: KVTree, q: Array, head: Head, bias: Array | None, state: State | None, return_att: bool
) -> TriattOutput:
    """Return what ``svip_search.kernels.triatt.triatt_scan`` promises."""
    paged = _pages(tree)
    base = (None,) * 3 if state is None else tuple(to_float32("state", a) for a in state)
    try:
        packed = PackedHead(head, bias)._core
        found = paged._core.scan(0, to_float32("q", q), packed, *base, state is not None, return_att, 0, False)
    finally:
        paged.pool.close()
    scores, att, *states = found
    return _like(q, TriattOutput(scores, att, State(*states)))


def _pages(tree: KVTree) -> PagedTree:
    dtype = "bfloat16" if str(tree.k.dtype) == "torch.bfloat16" else "float32"
    paged = KVPool(tree.width, n_kv_heads=int(tree.k.shape[1]), dtype=dtype).tree()
    paged.extend(tree.parent, tree.token_ptr, tree.segment, tree.k, tree.v)
    return paged


def _like(q: Array, out: TriattOutput) -> TriattOutput:
    """Return the output in the library that the call was made in."""
    if isinstance(q, np.ndarray):
        return out
    import torch

    def convert(x: Any) -> Any:
        return None if x is None else torch.from_numpy(x)

    state = None if out.state is None else State(*map(convert, out.state))
    return TriattOutput(convert(out.scores), convert(out.att), state)
