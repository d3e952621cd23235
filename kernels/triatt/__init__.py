"""Tri-head tree attention: three scores for every node of a tree of reasoning steps."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np

from .. import _dispatch
from ._pool import KVPool, PackedHead, PagedTree
from ._types import (
    IMAGE,
    N_DIMENSIONS,
    QUESTION,
    STEP,
    Array,
    Head,
    KVTree,
    State,
    TriattOutput,
    as_indices,
    check_floats,
    check_head,
)

__all__ = [
    "IMAGE",
    "QUESTION",
    "STEP",
    "Head",
    "KVPool",
    "KVTree",
    "PackedHead",
    "PagedTree",
    "State",
    "TriattOutput",
    "triatt",
    "triatt_scan",
]


def triatt(
    tree: KVTree,
    frontier: Any,
    q: Array,
    head: Head,
    *,
    bias: Array | None = None,
    return_att: bool = False,
    return_state: bool = False,
    backend: str = "auto",
) -> TriattOutput:
    """Return the three scores of every frontier node.

    For node n, dimension c and the tokens t on the path root -> n::

        a_c(n) = softmax_t( q_c(n) . k_c(t) / sqrt(d) + bias[c, segment(t, n)] )
        o_c(n) = sum_t a_c(n, t) v_c(t)
        score_c(n) = sigmoid( head_c( o_c(n) ) )

    A score depends on the path alone: adding nodes never changes an old one, so scoring only the
    new nodes (``frontier``) is exact.  ``frontier = range(len(tree))`` scores the whole tree.

    Args:
        tree: the nodes with their keys and values; a root must own at least one token.
        frontier: int [M], the nodes to score; any order, repeats allowed, may be empty.
        q: queries [M, 3, d], one row a frontier node, or [3, d] for all of them.
        head: the map from an attention output to a score.
        bias: [3, 4], added to the logits of question, image, earlier-step and this-step tokens;
            default zeros.
        return_att: also return the attention outputs o.
        return_state: also return the softmax state of every frontier node.
        backend: ``"auto"`` or a name of ``svip_search.kernels.TABLE["triatt"]``.

    Returns:
        scores [M, 3] in the order of ``frontier``, att [M, 3, d] or None, state or None; float64
        if any of ``k``, ``q`` is, float32 otherwise (also for half-precision keys and values).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        BackendUnavailable: a backend asked for by name cannot run here.

    Notes:
        Cost 12 d flops per frontier node and token of its path.  On the CPU a score is the same to
        the last bit whatever else is in the tree or the frontier and however many threads run.
        Keys and values are not searched for NaN: one makes NaN of the scores whose path holds it,
        and of no others.

        In torch, gradients flow to keys, values, queries, head and bias through any backend: the
        backward pass also reads a node once for all its descendants and keeps O(tokens + rows)
        memory.  With ``return_state``, for a second derivative, and in float64 it is the reference
        alone that has them.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> k, v = rng.standard_normal((2, 5, 3, 8))
        >>> tree = KVTree(parent=[-1, 0, 0], token_ptr=[0, 3, 4, 5], segment=[0, 1, 1, 2, 2], k=k, v=v)
        >>> head = Head(u=np.ones((3, 8)), b=np.zeros(3))
        >>> triatt(tree, [1, 2], rng.standard_normal((2, 3, 8)), head).scores.shape
        (2, 3)
    """
    nodes = as_indices("frontier", frontier)
    if (bad := np.flatnonzero((nodes < 0) | (nodes >= len(tree)))).size:
        i = int(bad[0])
        raise ValueError(
            f"`frontier` must hold nodes of the tree, 0..{len(tree) - 1}; got frontier[{i}] = {int(nodes[i])}."
        )
    if len(getattr(q, "shape", ())) == 2:
        _check_query(tree, q)
    else:
        check_floats("q", q, (len(nodes), N_DIMENSIONS, tree.width))
    facts = _check_rest(tree, q, head, bias)
    _check_roots_own_tokens(tree)
    # Only the reference has gradients of its own; through the others they come from `_autograd`, but not the state's.
    name, module = _dispatch.choose("triatt", backend, replace(facts, grad=facts.grad and return_state))
    out: TriattOutput
    if facts.grad and name != "reference":
        from ._autograd import differentiable

        out = differentiable(module.triatt, tree, nodes, q, head, bias, return_att)
    else:
        out = module.triatt(tree, nodes, q, head, bias, return_att, return_state)
    _dispatch.count("triatt", name)
    return out


def triatt_scan(
    tree: KVTree,
    q: Array,
    head: Head,
    *,
    bias: Array | None = None,
    state: State | None = None,
    return_att: bool = False,
    backend: str = "auto",
) -> TriattOutput:
    """Return the scores of every node of a tree for constant queries, reading each token once.

    With queries that do not depend on the node, softmax over a path is a mergeable state and a
    child needs its parent's state and its own tokens only.  To go on from nodes that were scanned
    before, pass a forest of the new nodes alone, and in ``state`` one row for each of its roots:
    the returned state of the node that this root hangs under.

    The one subtlety is the segment bias: a step token has the bias "this step" for its owner but
    "earlier step" for all descendants.  The returned state is therefore the one *a child sees*
    (own tokens already at "earlier step"), while the node's own score uses the same partial sums
    with m raised by ``bias[:, 3] - bias[:, 2]``: adding a constant to all logits of a part only
    shifts its m, so both are exact.

    Args:
        tree: the (new) nodes.
        q: queries [3, d].
        head: as in ``triatt``.
        bias: as in ``triatt``.
        state: one row a root of ``tree``, in their order; default: paths start at the roots, each
            of which must own at least one token.
        return_att: also return the attention outputs o.
        backend: as in ``triatt``.

    Returns:
        scores [N, 3] of all nodes, att [N, 3, d] or None, and the state that children of each node
        continue from.  Equal to ``triatt`` on the whole tree up to rounding.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        BackendUnavailable: a backend asked for by name cannot run here.

    Example:
        >>> import numpy as np
        >>> k, v = np.random.default_rng(0).standard_normal((2, 4, 1, 8))
        >>> q, head = np.ones((3, 8)), Head(u=np.ones((3, 8)), b=np.zeros(3))
        >>> old = triatt_scan(KVTree([-1], [0, 3], [0, 0, 0], k[:3], v[:3]), q, head)
        >>> new = triatt_scan(KVTree([-1], [0, 1], [2], k[3:], v[3:]), q, head, state=old.state)
        >>> whole = triatt(KVTree([-1, 0], [0, 3, 4], [0, 0, 0, 2], k, v), [1], q, head)
        >>> np.allclose(new.scores, whole.scores)
        True
    """
    _check_query(tree, q)
    facts = _check_rest(tree, q, head, bias)
    if state is None:
        _check_roots_own_tokens(tree)
    else:
        roots = int(np.sum(tree.parent < 0))
        check_floats("state.m", state.m, (roots, N_DIMENSIONS), facts.library)
        check_floats("state.l", state.l, (roots, N_DIMENSIONS), facts.library)
        check_floats("state.o", state.o, (roots, N_DIMENSIONS, tree.width), facts.library)
        if not bool((state.l > 0).all()):
            raise ValueError("`state.l` must be positive: every state must cover at least one token.")
    name, module = _dispatch.choose("triatt", backend, facts)
    out: TriattOutput = module.triatt_scan(tree, q, head, bias, state, return_att)
    _dispatch.count("triatt", name)
    return out


def _check_query(tree: KVTree, q: Array) -> None:
    check_floats("q", q, (N_DIMENSIONS, tree.width))


def _check_rest(tree: KVTree, q: Array, head: Head, bias: Array | None) -> _dispatch.Facts:
    """Check what both functions share and return the facts that choose the backend."""
    library = check_floats("k", tree.k, (None, None, None))
    check_floats("q", q, tuple(q.shape), library)
    check_head(head, bias, tree.width, library)
    dtype = str(tree.k.dtype).removeprefix("torch.")
    double = "float64" in (dtype, str(q.dtype).removeprefix("torch."))
    precision = "float64" if double else "float32"
    if library == "numpy":
        return _dispatch.Facts(dtype=dtype, precision=precision, width=tree.width)
    arrays = [a for a in (tree.k, tree.v, q, *head, bias) if a is not None]
    if len({a.device for a in arrays}) > 1:
        raise ValueError(f"`q`, `head` and `bias` must be on the device of `k`, {tree.k.device}.")
    grad = sys.modules["torch"].is_grad_enabled() and any(a.requires_grad for a in arrays)
    return _dispatch.Facts(tree.k.device.type, dtype, grad, library, precision, tree.width)


def _check_roots_own_tokens(tree: KVTree) -> None:
    empty = np.flatnonzero((tree.parent < 0) & (np.diff(tree.token_ptr) == 0))
    if empty.size:
        raise ValueError(f"`tree` must own at least one token at every root; root {int(empty[0])} has none.")
