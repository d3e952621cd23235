"""Tri-head tree attention, the specification: one path at a time, in numpy or torch.

The formula stands once, in ``attend``, ``merge`` and ``decide``; the array library is an argument.
Each node is computed from arrays that hold its own path and nothing else, so in numpy a score is
the same to the last bit whatever else is in the tree or the frontier.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._dispatch import Facts
from ._types import STEP, Array, Head, KVTree, State, TriattOutput


def supports(facts: Facts) -> str:
    """Return why a call cannot run here: never."""
    return ""


def attend(xp: Any, q: Array, k: Array, v: Array, bias: Array) -> State:
    """Return the softmax state of queries [3, d] over L tokens.

    ``k`` and ``v`` are [L, 1 or 3, d], ``bias`` is [L, 3].
    """
    logits = (k * (q / math.sqrt(q.shape[-1]))).sum(-1) + bias
    m = xp.amax(logits, 0)
    p = xp.exp(logits - m)
    return State(m, p.sum(0), (p[..., None] * v).sum(0))


def merge(xp: Any, a: State, b: State) -> State:
    """Return the softmax state over the tokens of both."""
    m = xp.maximum(a.m, b.m)
    x, y = xp.exp(a.m - m), xp.exp(b.m - m)
    return State(m, x * a.l + y * b.l, x[..., None] * a.o + y[..., None] * b.o)


def decide(xp: Any, att: Array, head: Head) -> Array:
    """Return the scores [3] of attention outputs [3, d]."""
    x = att
    if head.w is not None and head.c is not None:
        z = (head.w * att[:, None, :]).sum(-1) + head.c
        x = 0.5 * z * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))
    return _sigmoid(xp, (head.u * x).sum(-1) + head.b)


def triatt(
    tree: KVTree, frontier: NDArray[np.int64], q: Array, head: Head, bias: Array | None,
    return_att: bool, return_state: bool,
) -> TriattOutput:  # fmt: skip
    """Return what ``svip_search.kernels.triatt.triatt`` promises."""
    xp, dtype, q, head, table = _prepare(tree, q, head, bias)
    states, scores = [], []
    for i, node in enumerate(frontier):
        tokens = tree.tokens(int(node))
        n_own = int(tree.token_ptr[node + 1] - tree.token_ptr[node])
        own = np.arange(len(tokens)) >= len(tokens) - n_own
        column = _column(tree, tokens, own)
        k, v = _take(tree.k, tokens, dtype), _take(tree.v, tokens, dtype)
        states.append(attend(xp, q[i] if q.ndim == 3 else q, k, v, _take(table, column, dtype)))
        scores.append(decide(xp, states[-1].o / states[-1].l[:, None], head))
    return _output(xp, q, states, states, scores, return_att, return_state)


def triatt_scan(
    tree: KVTree, q: Array, head: Head, bias: Array | None, state: State | None, return_att: bool
) -> TriattOutput:
    """Return what ``svip_search.kernels.triatt.triatt_scan`` promises."""
    xp, dtype, q, head, table = _prepare(tree, q, head, bias)
    this_minus_earlier = table[3] - table[2]

    def part(tokens: NDArray[np.int64]) -> State | None:
        """Return the state of some of a node's tokens as its children see them."""
        if not tokens.size:
            return None
        k, v = _take(tree.k, tokens, dtype), _take(tree.v, tokens, dtype)
        column = _column(tree, tokens, np.zeros(tokens.shape, bool))
        return attend(xp, q, k, v, _take(table, column, dtype))

    seen: list[State] = []  # with own tokens at "this step": the node's score
    passed: list[State] = []  # with own tokens at "earlier step": what children continue from
    scores = []
    root = 0
    for node, parent in enumerate(tree.parent):
        base: State | None = passed[parent] if parent >= 0 else None
        if parent < 0 and state is not None:
            base = State(*(_cast(a[root], dtype) for a in state))
            root += 1
        tokens = np.arange(tree.token_ptr[node], tree.token_ptr[node + 1])
        is_step = tree.segment[tokens] == STEP
        rest = tokens[~is_step]
        steps = tokens[is_step]
        if (fixed := part(rest)) is not None:
            base = _join(xp, base, fixed)
        own = part(steps)
        raised = None if own is None else State(own.m + this_minus_earlier, own.l, own.o)
        seen.append(_join(xp, base, raised))
        passed.append(_join(xp, base, own))
        scores.append(decide(xp, seen[-1].o / seen[-1].l[:, None], head))
    return _output(xp, q, seen, passed, scores, return_att, True)


def _join(xp: Any, a: State | None, b: State | None) -> State:
    """Return ``merge`` where None is the state of no tokens."""
    if a is None or b is None:
        found = a if b is None else b
        assert found is not None, "a root without tokens and without state was let through"
        return found
    return merge(xp, a, b)


def _prepare(tree: KVTree, q: Array, head: Head, bias: Array | None) -> tuple[Any, Any, Array, Head, Array]:
    """Return the library, the type to compute in, queries and head in it, and the bias as [4, 3]."""
    xp: Any = np if isinstance(q, np.ndarray) else sys.modules["torch"]
    dtype = xp.float64 if xp.float64 in (tree.k.dtype, q.dtype) else xp.float32
    head = Head(*(None if a is None else _cast(a, dtype) for a in head))
    q = _cast(q, dtype)
    table = xp.stack([xp.zeros_like(head.b)] * 4) if bias is None else _cast(bias, dtype).T
    return xp, dtype, q, head, table


def _column(tree: KVTree, tokens: NDArray[np.int64], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the column of the segment bias of each token."""
    segment = tree.segment[tokens].astype(np.int64)
    segment[(segment == STEP) & own] += 1
    return segment


def _take(array: Array, rows: NDArray[np.int64], dtype: Any) -> Array:
    if isinstance(array, np.ndarray):
        return array[rows].astype(dtype, copy=False)
    return array[sys.modules["torch"].as_tensor(rows, device=array.device)].to(dtype)


def _cast(array: Array, dtype: Any) -> Array:
    return array.astype(dtype, copy=False) if isinstance(array, np.ndarray) else array.to(dtype)


def _sigmoid(xp: Any, z: Array) -> Array:
    if xp is not np:
        return xp.sigmoid(z)
    e = np.exp(-np.abs(z))  # never overflows
    return np.where(z >= 0, 1.0 / (1.0 + e), e / (1.0 + e))


def _output(
    xp: Any, like: Array, seen: list[State], kept: list[State], scores: list[Array], att: bool, state: bool
) -> TriattOutput:
    nothing = like.reshape(-1)[:0]
    width = int(like.shape[-1])

    def stack(rows: list[Array], *shape: int) -> Array:
        return xp.stack(rows) if rows else nothing.reshape(0, *shape)

    outputs = stack([s.o / s.l[:, None] for s in seen], 3, width) if att else None
    if not state:
        return TriattOutput(stack(scores, 3), outputs)
    m, l = stack([s.m for s in kept], 3), stack([s.l for s in kept], 3)  # noqa: E741
    return TriattOutput(stack(scores, 3), outputs, State(m, l, stack([s.o for s in kept], 3, width)))
