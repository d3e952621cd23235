"""The tri-head tree attention against an independent dense formula, and its promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search.kernels.triatt import IMAGE, QUESTION, STEP, Head, KVTree, State, triatt, triatt_scan

SHAPES = ("single", "chain", "star", "beam", "recursive", "deep")


def make_parent(shape: str, rng: np.random.Generator) -> list[int]:
    if shape == "single":
        return [-1]
    if shape in ("chain", "deep"):
        return list(range(-1, 64 if shape == "deep" else 6))
    if shape == "star":
        return [-1] + [0] * 9
    if shape == "beam":  # 2 kept, 3 children each, 4 levels
        parent, kept = [-1], [0]
        for _ in range(4):
            children = []
            for node in kept:
                children += range(len(parent), len(parent) + 3)
                parent += [node] * 3
            kept = [int(c) for c in rng.choice(children, 2, replace=False)]
        return parent
    return [-1] + [int(rng.integers(0, n)) for n in range(1, 20)]


def make_tree(shape="recursive", heads=3, d=8, dtype=np.float64, rng=None, scale=1.0, offset=0.0):
    rng = rng or np.random.default_rng()
    parent = make_parent(shape, rng)
    lengths = rng.integers(1, 12, len(parent))
    lengths[0] = rng.choice([1, 15, 16, 17, 40])
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    segment = np.full(ptr[-1], STEP)
    segment[: ptr[1]] = rng.choice([QUESTION, IMAGE], ptr[1])
    k = (rng.standard_normal((ptr[-1], heads, d)) * scale + offset).astype(dtype)
    v = rng.standard_normal((ptr[-1], heads, d)).astype(dtype)
    return KVTree(parent, ptr, segment, k, v)


def make_head(kind="linear", d=8, dtype=np.float64, rng=None):
    rng = rng or np.random.default_rng()
    if kind == "linear":
        return Head(*(rng.standard_normal(s).astype(dtype) for s in ((3, d), (3,))))
    return Head(*(rng.standard_normal(s).astype(dtype) for s in ((3, 5), (3,), (3, 5, d), (3, 5))))


def dense(tree: KVTree, frontier, q, head: Head, bias=None) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and attention outputs from the definition, in float64, with plain loops."""
    q = np.broadcast_to(q, (len(frontier), 3, tree.width)).astype(np.float64)
    k, v = np.asarray(tree.k, np.float64), np.asarray(tree.v, np.float64)
    bias = np.zeros((3, 4)) if bias is None else bias
    owner = np.repeat(np.arange(len(tree)), np.diff(tree.token_ptr))
    att = np.zeros((len(frontier), 3, tree.width))
    for i, node in enumerate(frontier):
        on_path, up = {node}, node
        while (up := tree.parent[up]) >= 0:
            on_path.add(up)
        for c in range(3):
            kc, vc = k[:, c % k.shape[1]], v[:, c % v.shape[1]]
            logit = []
            for t in range(len(owner)):
                column = 3 if tree.segment[t] == STEP and owner[t] == node else tree.segment[t]
                logit.append(kc[t] @ q[i, c] / math.sqrt(tree.width) + bias[c, column] if owner[t] in on_path
                             else -np.inf)  # fmt: skip
            p = np.exp(np.array(logit) - max(logit))
            att[i, c] = p @ vc / p.sum()
    x = att
    if head.w is not None:
        z = np.einsum("cfd,mcd->mcf", head.w, att) + head.c
        x = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    z = (np.asarray(head.u) * x).sum(-1) + head.b
    return np.exp(-np.logaddexp(0, -z)), att


def relative(out, ref) -> float:
    return float(np.max(np.linalg.norm(out - ref, axis=(0, 2)) / np.linalg.norm(ref, axis=(0, 2))))


def to_torch(x):
    if isinstance(x, KVTree):
        return KVTree(x.parent, x.token_ptr, x.segment, torch.from_numpy(x.k), torch.from_numpy(x.v))
    if isinstance(x, Head):
        return Head(*(None if a is None else torch.from_numpy(a) for a in x))
    return torch.from_numpy(np.asarray(x))


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(shape, kind, heads, library):
    tree = make_tree(shape, heads)
    q, bias = np.random.standard_normal((len(tree), 3, 8)), np.random.standard_normal((3, 4))
    head = make_head(kind)
    scores, att = dense(tree, range(len(tree)), q, head, bias)
    args = (tree, range(len(tree)), q, head)
    if library == "torch":
        args, bias = (to_torch(tree), range(len(tree)), to_torch(q), to_torch(head)), to_torch(bias)
    out = triatt(*args, bias=bias, return_att=True)
    assert relative(np.asarray(out.att), att) < 1e-12
    assert np.abs(np.asarray(out.scores) - scores).max() < 1e-12


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_stays_close_to_float64(shape, library):
    tree, head = make_tree(shape, dtype=np.float32), make_head(dtype=np.float32)
    q = np.random.standard_normal((len(tree), 3, 8)).astype(np.float32)
    scores, att = dense(tree, range(len(tree)), q, head)
    convert = to_torch if library == "torch" else lambda x: x
    out = triatt(convert(tree), range(len(tree)), convert(q), convert(head), return_att=True)
    assert np.asarray(out.scores).dtype == np.float32
    assert relative(np.asarray(out.att), att) < 1e-6
    assert np.abs(np.asarray(out.scores) - scores).max() < 1e-6


@pytest.mark.parametrize(("scale", "offset"), [(30, 0), (0, 0), (1, 1e4), (1, -1e4), (1e3, 0)])
def test_extreme_logits(scale, offset):
    tree = make_tree("beam", scale=scale, offset=offset)
    q, head = np.random.standard_normal((len(tree), 3, 8)), make_head()
    scores, att = dense(tree, range(len(tree)), q, head)
    out = triatt(tree, range(len(tree)), q, head, return_att=True)
    assert np.isfinite(out.att).all()
    assert relative(out.att, att) < 1e-9
    assert np.abs(out.scores - scores).max() < 1e-9


def test_equal_logits_give_the_mean_and_saturated_heads_do_not_overflow():
    tree = make_tree("chain", scale=0)
    head = Head(np.zeros((3, 8)), np.array([-1e4, 0.0, 1e4]))
    out = triatt(tree, [3], np.ones((3, 8)), head, return_att=True)
    np.testing.assert_allclose(out.att[0], tree.v[tree.tokens(3)].mean(0))
    assert out.scores.tolist() == [[0.0, 0.5, 1.0]]


def test_huge_values():
    tree = make_tree("beam")
    tree = KVTree(tree.parent, tree.token_ptr, tree.segment, tree.k, tree.v * 1e6)
    q, head = np.random.standard_normal((3, 8)), make_head()
    frontier = range(len(tree))
    _, att = dense(tree, frontier, q, head)
    assert relative(triatt(tree, frontier, q, head, return_att=True).att, att) < 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_incremental_equals_full_to_the_last_bit(shape, dtype):
    tree, head = make_tree(shape, dtype=dtype), make_head(dtype=dtype)
    q = np.random.standard_normal((len(tree), 3, 8)).astype(dtype)
    full = triatt(tree, range(len(tree)), q, head, return_att=True)
    for n in range(1, len(tree) + 1):  # the tree as it was when node n - 1 was the newest
        cut = tree.token_ptr[n]
        arrays = tree.segment[:cut], tree.k[:cut], tree.v[:cut]
        young = KVTree(tree.parent[:n], tree.token_ptr[: n + 1], *arrays)
        new = triatt(young, [n - 1], q[n - 1 : n], head, return_att=True)
        assert np.array_equal(new.scores[0], full.scores[n - 1])
        assert np.array_equal(new.att[0], full.att[n - 1])


def test_sibling_order_and_frontier_order_change_nothing():
    tree, head = make_tree("star"), make_head()
    q = np.random.standard_normal((len(tree), 3, 8))
    order = np.concatenate([[0], 1 + np.random.permutation(len(tree) - 1)])
    tokens = [np.arange(tree.token_ptr[i], tree.token_ptr[i + 1]) for i in order]
    ptr = np.concatenate([[0], np.cumsum([len(t) for t in tokens])])
    index = np.concatenate(tokens)
    other = KVTree(tree.parent, ptr, tree.segment[index], tree.k[index], tree.v[index])
    full = triatt(tree, range(len(tree)), q, head).scores
    assert np.array_equal(triatt(other, range(len(tree)), q[order], head).scores, full[order])
    assert np.array_equal(triatt(tree, order, q[order], head).scores, full[order])


def test_duplicates_score_the_same():
    tree = make_tree("chain")
    a, b = tree.token_ptr[1], tree.token_ptr[2]
    twin = KVTree(
        parent=[-1, 0, 0],
        token_ptr=[0, a, b, 2 * b - a],
        segment=np.concatenate([tree.segment[:b], tree.segment[a:b]]),
        k=np.concatenate([tree.k[:b], tree.k[a:b]]),
        v=np.concatenate([tree.v[:b], tree.v[a:b]]),
    )
    scores = triatt(twin, [1, 2, 1], np.random.standard_normal((3, 8)), make_head()).scores
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])


def test_splitting_a_segment_in_two_nodes_changes_rounding_only():
    tree, head, q = make_tree("chain"), make_head(), np.random.standard_normal((3, 8))
    bias = np.random.standard_normal((3, 4))
    middle = max(1, tree.token_ptr[1] // 2)
    ptr = np.insert(tree.token_ptr, 1, middle)
    split = KVTree(list(range(-1, len(tree))), ptr, tree.segment, tree.k, tree.v)
    a = triatt(tree, range(1, len(tree)), q, head, bias=bias).scores
    b = triatt(split, range(2, len(split)), q, head, bias=bias).scores
    np.testing.assert_allclose(a, b, atol=1e-14)


def test_empty_nodes_and_empty_frontier():
    tree = KVTree([-1, 0], [0, 1, 1], [QUESTION], np.ones((1, 1, 4)), np.ones((1, 1, 4)))
    head = Head(np.ones((3, 4)), np.zeros(3))
    out = triatt(tree, [1], np.ones((3, 4)), head)
    assert np.array_equal(out.scores, triatt(tree, [0], np.ones((3, 4)), head).scores)
    for convert in (lambda x: x, to_torch):
        out = triatt(convert(tree), [], convert(np.ones((0, 3, 4))), convert(head), return_att=True,
                     return_state=True)  # fmt: skip
        assert tuple(out.scores.shape) == (0, 3)
        assert tuple(out.att.shape) == (0, 3, 4)
        assert [tuple(a.shape) for a in out.state] == [(0, 3), (0, 3), (0, 3, 4)]


def test_state_reproduces_the_attention_output():
    tree, q = make_tree("beam"), np.random.standard_normal((3, 8))
    out = triatt(tree, range(len(tree)), q, make_head(), return_att=True, return_state=True)
    np.testing.assert_allclose(out.state.o / out.state.l[..., None], out.att)


def test_half_precision_keys_and_values():
    tree, head = make_tree("beam", dtype=np.float32), make_head(dtype=np.float32)
    q, k, v = np.ones((3, 8), np.float32), torch.tensor(tree.k).bfloat16(), torch.tensor(tree.v).bfloat16()
    half = KVTree(tree.parent, tree.token_ptr, tree.segment, k, v)
    scores = triatt(half, range(len(tree)), to_torch(q), to_torch(head)).scores
    rounded = KVTree(tree.parent, tree.token_ptr, tree.segment, k.float().numpy(), v.float().numpy())
    assert scores.dtype == torch.float32
    assert np.abs(scores.numpy() - dense(rounded, range(len(tree)), q, head)[0]).max() < 1e-6


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_scan_equals_full(shape, biased, library):
    tree, head, q = make_tree(shape), make_head("mlp"), np.random.standard_normal((3, 8))
    bias = np.random.standard_normal((3, 4)) * 5 if biased else None
    full = triatt(tree, range(len(tree)), q, head, bias=bias, return_att=True)
    if library == "torch":
        tree, q, head, bias = to_torch(tree), to_torch(q), to_torch(head), to_torch(bias) if biased else None
    scan = triatt_scan(tree, q, head, bias=bias, return_att=True)
    np.testing.assert_allclose(np.asarray(scan.att), full.att, atol=1e-12)
    np.testing.assert_allclose(np.asarray(scan.scores), full.scores, atol=1e-12)


def test_scan_continues_from_states():
    """Each node from its parent's state alone, as a search does it."""
    tree, head = make_tree("recursive"), make_head()
    q, bias = np.random.standard_normal((3, 8)), np.random.standard_normal((3, 4))
    full = triatt(tree, range(len(tree)), q, head, bias=bias).scores
    states: list[State] = []
    for node, parent in enumerate(tree.parent):
        own = slice(*tree.token_ptr[node : node + 2])
        alone = KVTree([-1], [0, own.stop - own.start], tree.segment[own], tree.k[own], tree.v[own])
        state = State(*(a[None] for a in states[parent])) if parent >= 0 else None
        out = triatt_scan(alone, q, head, bias=bias, state=state)
        np.testing.assert_allclose(out.scores[0], full[node], atol=1e-13)
        states.append(State(*(a[0] for a in out.state)))


def test_scan_of_a_forest_of_siblings():
    tree, head, q, bias = make_tree("star"), make_head(), np.ones((3, 8)), np.random.standard_normal((3, 4))
    cut, n = tree.token_ptr[1], len(tree) - 1
    root = KVTree([-1], [0, cut], tree.segment[:cut], tree.k[:cut], tree.v[:cut])
    old = triatt_scan(root, q, head, bias=bias)
    new = KVTree([-1] * n, tree.token_ptr[1:] - cut, tree.segment[cut:], tree.k[cut:], tree.v[cut:])
    out = triatt_scan(new, q, head, bias=bias, state=State(*(np.repeat(a, n, 0) for a in old.state)))
    full = triatt(tree, range(1, len(tree)), q, head, bias=bias)
    np.testing.assert_allclose(out.scores, full.scores, atol=1e-14)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_tree(data):
    n = data.draw(st.integers(1, 12))
    parent = [-1] + [data.draw(st.integers(-1, i - 1)) for i in range(1, n)]
    lengths = [data.draw(st.integers(1 if p < 0 else 0, 5)) for p in parent]
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    heads = data.draw(st.sampled_from([1, 3]))
    k, v = rng.standard_normal((2, ptr[-1], heads, 4))
    tree = KVTree(parent, ptr, rng.integers(0, 3, ptr[-1]), k, v)
    q, head, bias = rng.standard_normal((3, 4)), make_head(d=4, rng=rng), rng.standard_normal((3, 4))
    scores, _ = dense(tree, range(n), q, head, bias)
    np.testing.assert_allclose(triatt(tree, range(n), q, head, bias=bias).scores, scores, atol=1e-12)
    np.testing.assert_allclose(triatt_scan(tree, q, head, bias=bias).scores, scores, atol=1e-12)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_gradients(kind, scan):
    parent, ptr, segment = [-1, 0, 0], [0, 2, 4, 5], [QUESTION, IMAGE, STEP, STEP, STEP]
    q = torch.randn(*(() if scan else (2,)), 3, 2, dtype=torch.float64)
    k, v = torch.randn(2, 5, 3, 2, dtype=torch.float64)
    leaves = [k.clone(), v.clone(), q, torch.randn(3, 4, dtype=torch.float64),
              *(a for a in to_torch(make_head(kind, d=2)) if a is not None)]  # fmt: skip

    def scores(k, v, q, bias, *head):
        tree = KVTree(parent, ptr, segment, k, v)
        if scan:
            return triatt_scan(tree, q, Head(*head), bias=bias).scores
        return triatt(tree, [1, 2], q, Head(*head), bias=bias).scores

    assert torch.autograd.gradcheck(scores, [x.requires_grad_() for x in leaves])


KV = np.ones((3, 1, 4))
TREE = {"parent": [-1, 0], "token_ptr": [0, 2, 3], "segment": [0, 1, 2], "k": KV, "v": KV}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": [-1, 1]}, r"`parent` must be -1 or an earlier node; got parent\[1\] = 1"),
        ({"parent": [-2, 0]}, r"got parent\[0\] = -2"),
        ({"parent": [], "token_ptr": [0]}, "`parent` must name at least one node"),
        ({"parent": [-1.0, 0.0]}, "`parent` must hold whole numbers; got float64"),
        ({"parent": [[-1, 0]]}, "`parent` must be one-dimensional"),
        ({"token_ptr": [0, 3]}, r"`token_ptr` must have shape \[N \+ 1\] = \[3\]; got \[2\]"),
        ({"token_ptr": [0, 4, 3]}, "`token_ptr` must rise from 0 to the 3 tokens"),
        ({"token_ptr": [1, 2, 3]}, "`token_ptr` must rise"),
        ({"segment": [0, 1]}, r"`segment` must have shape \[T\] = \[3\]; got \[2\]"),
        ({"segment": [0, 1, 3]}, r"`segment` must hold 0, 1 or 2; got segment\[2\] = 3"),
        ({"k": np.ones((3, 2, 4))}, r"`k` must have shape \[any, 1 or 3, any\]; got \[3, 2, 4\]"),
        ({"k": np.ones((3, 1, 4), int)}, "`k` must hold floating-point numbers; got int64"),
        ({"v": np.ones((3, 1, 5))}, r"`v` must have shape \[3, 1, 4\]; got \[3, 1, 5\]"),
        ({"v": KV.astype(np.float32)}, "`v` must have the dtype of `k`, float64; got float32"),
        ({"k": KV[..., :0], "v": KV[..., :0]}, "`k` must have a width d"),
    ],
)
def test_wrong_trees_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        KVTree(**{**TREE, **change})


CALL = {"frontier": [1], "q": np.ones((1, 3, 4)), "head": Head(np.ones((3, 4)), np.zeros(3)), "bias": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frontier": [2]}, r"`frontier` must hold nodes of the tree, 0..1; got frontier\[0\] = 2"),
        ({"frontier": [-1]}, r"got frontier\[0\] = -1"),
        ({"q": np.ones((2, 3, 4))}, r"`q` must have shape \[1, 3, 4\]; got \[2, 3, 4\]"),
        ({"q": np.ones((3, 5))}, r"`q` must have shape \[3, 4\]; got \[3, 5\]"),
        ({"head": Head(np.ones((3, 5)), np.zeros(3))}, r"`head.u` must have shape \[3, 4\]; got \[3, 5\]"),
        ({"head": Head(np.ones((3, 4)), np.zeros(2))}, "`head.b` must have shape"),
        ({"head": Head(np.ones((3, 4)), np.zeros(3), np.ones((3, 4, 4)))}, "`head.c` must be given"),
        ({"head": Head(np.ones((3, 4)), np.zeros(3), None, np.ones((3, 4)))}, "`head.c` must be None"),
        ({"bias": np.zeros((3, 3))}, r"`bias` must have shape \[3, 4\]; got \[3, 3\]"),
        ({"backend": "cuda-9000"}, "`backend` must be one of auto, .*got 'cuda-9000'"),
    ],
)
def test_wrong_calls_are_named(change, message):
    call = {**CALL, **change}
    with pytest.raises(ValueError, match=message):
        triatt(KVTree(**TREE), call.pop("frontier"), call.pop("q"), call.pop("head"), **call)


def test_mixed_libraries_are_named():
    with pytest.raises(TypeError, match="`v` must be a numpy array like `k`; got torch"):
        KVTree(**{**TREE, "v": torch.ones(3, 1, 4)})
    with pytest.raises(TypeError, match="`q` must be a numpy array like `k`; got torch"):
        triatt(KVTree(**TREE), [1], torch.ones(1, 3, 4), CALL["head"])
    with pytest.raises(TypeError, match="`q` must be a numpy array or a torch tensor; got list"):
        triatt(KVTree(**TREE), [1], [[1.0]], CALL["head"])


def test_roots_need_tokens_or_a_state():
    tree = KVTree([-1, 0], [0, 0, 3], [0, 1, 2], KV, KV)
    with pytest.raises(ValueError, match="`tree` must own at least one token at every root; root 0 has none"):
        triatt(tree, [1], np.ones((3, 4)), CALL["head"])
    with pytest.raises(ValueError, match=r"`state.m` must have shape \[1, 3\]; got \[2, 3\]"):
        triatt_scan(tree, np.ones((3, 4)), CALL["head"],
                    state=State(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3, 4))))  # fmt: skip
    state = State(np.zeros((1, 3)), np.ones((1, 3)), np.ones((1, 3, 4)))
    assert triatt_scan(tree, np.ones((3, 4)), CALL["head"], state=state).scores.shape == (2, 3)
    with pytest.raises(ValueError, match=r"`state.l` must be positive"):
        triatt_scan(tree, np.ones((3, 4)), CALL["head"], state=state._replace(l=np.zeros((1, 3))))
