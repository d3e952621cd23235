"""Gradients of the tree attention against autograd through the reference, path by path."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from svip_search import _core, kernels
from svip_search._errors import BackendUnavailable
from svip_search.kernels.triatt import STEP, Head, KVTree, State, TriattOutput, _autograd, cpu, reference, triatt
from svip_search.kernels.triatt._autograd import differentiable

sys.path.insert(0, str(Path(__file__).parent))
from test_triatt import SHAPES, make_head, make_tree

sys.path.pop(0)

NAMES = ("k", "v", "q", "bias", "u", "b", "w", "c")
D = 8


class Call:
    """Random arguments as leaves, with repeats and strangers in the frontier and segments mixed within nodes."""

    def __init__(self, tree, kind="linear", constant=False, dtype=torch.float64, frontier=None, rng=None):
        rng = rng or np.random.default_rng()
        width, n = tree.width, len(tree)
        self.parent, self.ptr = tree.parent, tree.token_ptr
        self.segment = rng.integers(0, STEP + 1, len(tree.k))
        self.frontier = rng.integers(0, n, n + 3) if frontier is None else np.asarray(frontier, np.int64)
        head = make_head(kind, width, rng=rng)
        q = rng.standard_normal((3, width) if constant else (len(self.frontier), 3, width))
        arrays = dict(zip(NAMES, (tree.k, tree.v, q, rng.standard_normal((3, 4)), *head), strict=True))
        self.leaves = {n: torch.tensor(a).to(dtype).requires_grad_() for n, a in arrays.items() if a is not None}
        shape = (len(self.frontier), 3, width)
        self.weights = torch.tensor(rng.standard_normal(shape[:2])), torch.tensor(rng.standard_normal(shape))

    def arguments(self, **changed):
        x = {**self.leaves, **changed}
        tree = KVTree(self.parent, self.ptr, self.segment, x["k"], x["v"])
        return tree, self.frontier, x["q"], Head(x["u"], x["b"], x.get("w"), x.get("c")), x["bias"]

    def loss(self, out, scores=True, att=True):
        a, b = self.weights
        return (out.scores * a.to(out.scores)).sum() * scores + ((out.att * b.to(out.att)).sum() if att else 0)

    def expected(self, dtype=torch.float64, **parts):
        """Return the gradients by autograd through the reference, in float64."""
        leaves = {n: x.detach().to(dtype).requires_grad_() for n, x in self.leaves.items()}
        loss = self.loss(reference.triatt(*self.arguments(**leaves), True, False), **parts)
        found = torch.autograd.grad(loss, leaves.values(), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def found(self, forward=reference.triatt, **parts):
        loss = self.loss(differentiable(forward, *self.arguments(), True), **parts)
        found = torch.autograd.grad(loss, self.leaves.values(), allow_unused=True, materialize_grads=True)
        return dict(zip(self.leaves, found, strict=True))


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        error = float((found[name].double() - want).norm() / (1 + want.norm()))
        assert error <= tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_autograd_through_the_reference(shape, kind, heads, constant, dtype):
    call = Call(make_tree(shape, heads, D), kind, constant, dtype)
    assert_same(call.found(), call.expected(), 1e-10 if dtype == torch.float64 else 1e-5)


def test_the_returned_values_are_those_of_the_backend():
    call = Call(make_tree("beam", d=D), "mlp")
    plain = reference.triatt(*call.arguments(), True, False)
    out = differentiable(reference.triatt, *call.arguments(), True)
    assert torch.equal(out.scores, plain.scores)
    assert torch.equal(out.att, plain.att)
    assert differentiable(reference.triatt, *call.arguments(), False).att is None


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(
    ("parent", "lengths", "frontier"),
    [
        ([-1, 0, 0, 0], [2, 1, 2, 1], [1, 2, 3]),  # star
        ([-1, 0, 1], [1, 2, 1], [2, 0]),  # chain
        ([-1, 0, 0], [2, 1, 1], [1, 1, 2, 1]),  # repeats
        ([-1, 0, -1, 2, 1], [1, 0, 2, 1, 1], [1, 4, 3, 2]),  # two roots, a node without tokens
    ],
)
def test_gradcheck(parent, lengths, frontier, heads, kind):
    k, v = np.random.standard_normal((2, sum(lengths), heads, 2))
    tree = KVTree(parent, np.cumsum([0, *lengths]), np.zeros(sum(lengths), int), k, v)
    call = Call(tree, kind, frontier=frontier)

    def outputs(*values):
        arguments = call.arguments(**dict(zip(call.leaves, values, strict=True)))
        return differentiable(reference.triatt, *arguments, True)[:2]

    assert torch.autograd.gradcheck(outputs, list(call.leaves.values()))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_forest(data):
    n = data.draw(st.integers(1, 12))
    parent = [-1] + [data.draw(st.integers(-1, i - 1)) for i in range(1, n)]
    lengths = [data.draw(st.integers(1 if p < 0 else 0, 5)) for p in parent]
    frontier = data.draw(st.lists(st.integers(0, n - 1), max_size=15))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    k, v = rng.standard_normal((2, sum(lengths), data.draw(st.sampled_from([1, 3])), 4))
    tree = KVTree(parent, np.cumsum([0, *lengths]), np.zeros(sum(lengths), int), k, v)
    call = Call(
        tree, data.draw(st.sampled_from(["linear", "mlp"])), data.draw(st.booleans()), frontier=frontier, rng=rng
    )
    assert_same(call.found(), call.expected(), 1e-10)


@pytest.mark.parametrize("parts", [{"scores": False}, {"att": False}])
def test_a_loss_of_the_scores_or_of_the_attention_outputs_alone(parts):
    call = Call(make_tree("beam", d=D), "mlp")
    assert_same(call.found(**parts), call.expected(**parts), 1e-10)


@pytest.mark.parametrize(("block", "tile", "numbers"), [(5, 3, 1), (1, 1, 1 << 20), (7, 128, 3000)])
def test_cuts_into_blocks_tiles_and_batches_change_nothing(block, tile, numbers, monkeypatch):
    call = Call(make_tree("recursive", d=D), "mlp")
    whole = call.found()
    monkeypatch.setattr(_autograd, "BLOCK", block)
    monkeypatch.setattr(_autograd, "TILE", tile)
    monkeypatch.setattr(_autograd, "BATCH_NUMBERS", {"cpu": numbers})
    assert_same(call.found(), whole, 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_token_is_read_once_and_only_if_seen(shape):
    tree = make_tree(shape)
    segment = np.random.default_rng().integers(0, 3, len(tree.k)).astype(np.uint8)
    frontier = np.random.default_rng().integers(0, len(tree), 4, np.int32)
    _, tiles, _ = _core.triatt_plan(tree.parent, tree.token_ptr, frontier, _autograd.BLOCK, _autograd.TILE)
    runs = _autograd._runs(np.asarray(tiles, np.int64), segment)
    assert all(len(set(segment[r[0] : r[0] + r[1]]) | {r[5]}) == 1 for r in runs)
    reads = np.bincount(np.concatenate([np.arange(r[0], r[0] + r[1]) for r in runs]), minlength=len(segment))
    seen = np.zeros(len(segment), int)
    for node in frontier:
        seen[tree.tokens(int(node))] = 1
    assert np.array_equal(reads, seen)


def test_no_array_of_rows_by_tokens(monkeypatch):
    n = 700
    lengths = [2000] + [4] * n
    k, v = np.random.standard_normal((2, sum(lengths), 1, D))
    tree = KVTree([-1] + [0] * n, np.cumsum([0, *lengths]), np.zeros(sum(lengths), int), k, v)
    call = Call(tree, frontier=range(n + 1))
    call.segment[:] = STEP  # long runs
    monkeypatch.setattr(_autograd, "BATCH_NUMBERS", {"cpu": 1 << 16})
    loss = call.loss(differentiable(reference.triatt, *call.arguments(), True))
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(a.numel() for a in (out if isinstance(out, tuple) else [out])
                                      if isinstance(a, torch.Tensor))])  # fmt: skip
            return out

    with Watch():
        loss.backward()
    assert sum(lengths) * D <= largest  # it did watch
    assert largest <= max(3 * (n + 2) * _autograd.TILE, (sum(lengths) + 1) * D)


@pytest.mark.parametrize("constant", [False, True])
def test_half_precision_is_summed_in_float32(constant):
    call = Call(make_tree("beam", d=D), "mlp", constant, torch.bfloat16)
    found = call.found()
    assert {x.dtype for x in found.values()} == {torch.bfloat16}
    call.leaves = {n: x.detach().float().requires_grad_() for n, x in call.leaves.items()}
    for name, want in call.found().items():
        assert torch.equal(found[name], want.bfloat16()), name


def test_mixed_types_keep_their_own():
    call = Call(make_tree("beam", d=D), dtype=torch.float32)
    call.leaves["q"] = call.leaves["q"].detach().double().requires_grad_()
    found = call.found()
    assert {n: x.dtype for n, x in found.items()} == {n: x.dtype for n, x in call.leaves.items()}
    assert_same(found, call.expected(), 1e-5)
    assert float((found["q"] - call.expected()["q"]).norm()) < 1e-10


def test_autocast_around_backward_changes_nothing():
    call = Call(make_tree("beam", d=D), "mlp", dtype=torch.float32)
    plain = call.found()
    loss = call.loss(differentiable(reference.triatt, *call.arguments(), True))
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, list(call.leaves.values()))
    assert all(torch.equal(a, b) for a, b in zip(found, plain.values(), strict=True))


class Spy:
    """The reference, noting what it was asked for."""

    def __call__(self, tree, frontier, q, head, bias, return_att, return_state):
        tensors = [a for a in (tree.k, tree.v, q, *head, bias) if a is not None]
        self.grad = torch.is_grad_enabled() or any(a.requires_grad for a in tensors)
        self.return_state = return_state
        return reference.triatt(tree, frontier, q, head, bias, return_att, return_state)


@pytest.mark.parametrize("wanted", [("k",), ("v",), ("q",), ("bias",), ("u",), ("w", "b"), ("k", "c"), ("v", "bias")])
def test_only_what_is_needed(wanted, monkeypatch):
    call = Call(make_tree("beam", d=D), "mlp")
    expected = {n: x for n, x in call.expected().items() if n in wanted}
    for name, leaf in call.leaves.items():
        leaf.requires_grad_(name in wanted)
    below = bool({"k", "v", "q", "bias"} & set(wanted))
    if not below:
        monkeypatch.setattr(_core, "triatt_plan", None)  # calling it would raise
    given = [*_autograd.TriattFunction.forward.__code__.co_varnames[4:8]]
    assert given == ["k", "v", "q", "bias"], "the order that needs_input_grad has"
    spy = Spy()
    call.loss(differentiable(spy, *call.arguments(), True)).backward()
    assert not spy.grad
    assert spy.return_state == below
    assert_same({n: x.grad for n, x in call.leaves.items() if x.grad is not None}, expected, 1e-10)


@pytest.mark.parametrize("wanted", ["k", "v", "q", "bias"])
def test_no_product_for_what_is_not_needed(wanted):
    call = Call(make_tree("chain", d=D))
    for name, leaf in call.leaves.items():
        leaf.requires_grad_(name == wanted)
    loss = call.loss(differentiable(reference.triatt, *call.arguments(), True))
    products = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal products
            # Of keys and values; the sums of `bias` are a product of two matrices.
            products += func in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default)
            return func(*args, **(kwargs or {}))

    with Count():
        loss.backward()
    topology = (call.parent, call.ptr, call.frontier.astype(np.int32), _autograd.BLOCK, _autograd.TILE)
    runs = _autograd._runs(np.asarray(_core.triatt_plan(*topology)[1], np.int64), call.segment.astype(np.uint8))
    batches = sum(1 for _ in _autograd._batches(runs, D, _autograd.BATCH_NUMBERS["cpu"], torch.device("cpu")))
    assert products == batches * {"k": 3, "v": 2, "q": 3, "bias": 2}[wanted]


def test_without_a_bias():
    call = Call(make_tree("beam", d=D))
    call.leaves["bias"] = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    expected = call.expected()
    tree, frontier, q, head, _ = call.arguments()
    call.loss(differentiable(reference.triatt, tree, frontier, q, head, None, True)).backward()
    assert_same({n: x.grad for n, x in call.leaves.items() if n != "bias"},
                {n: x for n, x in expected.items() if n != "bias"}, 1e-10)  # fmt: skip


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", NAMES[:5])
def test_second_derivatives_raise(name, power):
    call = Call(make_tree("chain", d=D))
    loss = call.loss(differentiable(reference.triatt, *call.arguments(), True)) ** power
    (first,) = torch.autograd.grad(loss, [call.leaves[name]], retain_graph=True, create_graph=True)
    (again,) = torch.autograd.grad(loss, [call.leaves[name]], retain_graph=True)
    assert_same({name: first.detach()}, {name: again}, 0)
    with pytest.raises(RuntimeError, match="triatt has no second derivatives except with `backend` 'reference'"):
        first.sum().backward()


@pytest.mark.parametrize("level", [-1e4, -30.0, 20.0, 30.0, 80.0, 1e4])
def test_saturated_scores_have_small_gradients_and_no_nan(level):
    call = Call(make_tree("beam", d=D), "mlp", dtype=torch.float32)
    call.leaves["b"] = torch.full((3,), level, requires_grad=True)
    found = call.found(att=False)
    # 1 - sigmoid(z) is sigmoid(-z) with all its digits, so the oracle of a large z is that of the opposite head.
    sign = -1.0 if level > 0 else 1.0
    opposite = {n: (sign * call.leaves[n]).detach().requires_grad_() for n in ("u", "b")}
    call.leaves.update(opposite)
    for name, want in call.expected(att=False).items():
        want = want if name in opposite else sign * want
        assert found[name].isfinite().all()
        # z of 30 is rounded by 2e-6 before it stands in an exponent.
        assert float((found[name] - want).norm()) <= 2e-6 * max(abs(level), 10) * float(want.norm()) + 1e-40, name
    assert abs(level) == 1e4 or bool(found["b"].abs().sum() > 0)


@pytest.mark.parametrize(("scale", "value"), [(1e3, 1.0), (1.0, 1e6)])
def test_extreme_keys_and_values(scale, value):
    tree = make_tree("beam", d=D, scale=scale)
    call = Call(KVTree(tree.parent, tree.token_ptr, tree.segment, tree.k, tree.v * value))
    found, expected = call.found(), call.expected()
    for name, want in expected.items():
        # Where one weight is 1, its g is the difference of two equal numbers: zero up to their rounding.
        assert float((found[name] - want).norm()) <= 1e-10 * float(want.norm()) + 1e-12 * scale * value, name


def exact_state(tree, frontier, q, head, bias, return_att, return_state) -> TriattOutput:
    """A float32 backend that loses nothing to a common bias: l belongs to the rounded m."""
    wide = KVTree(tree.parent, tree.token_ptr, tree.segment, tree.k.double(), tree.v.double())
    heads = Head(*(None if a is None else a.double() for a in head))
    out = reference.triatt(wide, frontier, q.double(), heads, bias.double(), True, True)
    m = out.state.m.float()
    l = out.state.l * (out.state.m - m.double()).exp()  # noqa: E741
    return TriattOutput(out.scores.float(), out.att.float(), State(m, l.float(), out.state.o.float()))


@pytest.mark.parametrize("forward", [exact_state, cpu.triatt])
@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_a_large_common_bias_costs_nothing(offset, forward):
    call = Call(make_tree("beam", d=D), dtype=torch.float32)
    call.leaves["bias"] = (call.leaves["bias"].detach() + offset).requires_grad_()
    assert_same(call.found(forward), call.expected(), 1e-5)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_through_the_compiled_backend(shape, kind, heads, constant):
    call = Call(make_tree(shape, heads, D), kind, constant, torch.float32)
    assert_same(call.found(cpu.triatt), call.expected(), 1e-5)


def test_through_the_compiled_backend_in_half_precision():
    call = Call(make_tree("beam", d=D), "mlp", dtype=torch.float32)
    with torch.no_grad():
        for name in ("k", "v", "q"):
            call.leaves[name] = call.leaves[name].bfloat16().requires_grad_()
    found = call.found(cpu.triatt)
    assert {n: found[n].dtype for n in "kvqu"} == dict.fromkeys("kvq", torch.bfloat16) | {"u": torch.float32}
    assert_same(found, call.expected(), 1e-2)


def test_a_bias_of_minus_infinity_hides_a_segment():
    call = Call(make_tree("beam", d=D))
    tree = call.arguments()[0]
    call.segment[tree.token_ptr[:-1]] = 0  # every node keeps a token that is seen
    with torch.no_grad():
        call.leaves["bias"][:, 1] = -torch.inf
    found = call.found()
    assert all(x.isfinite().all() for x in found.values())
    assert not found["k"][call.segment == 1].any()
    assert not found["bias"][:, 1].any()
    assert found["k"][call.segment == 0].any()


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("which", ["k", "v", "q"])
@pytest.mark.parametrize("last", [False, True])
def test_nan_stays_with_those_who_see_it(which, heads, last):
    tree = make_tree("beam", heads, D)
    n = len(tree)
    node = n - 1 if last else 3  # what padding might be filled with stands at an end
    call = Call(tree, frontier=range(n))
    clean = call.found()
    with torch.no_grad():
        call.leaves[which][node if which == "q" else tree.token_ptr[node + 1] - 1, 0] = torch.nan
    found = call.found()
    hit = np.array([i == node if which == "q" else node in tree.path(i) for i in range(n)])
    seen = np.zeros(len(tree.k), bool)
    for i in np.flatnonzero(hit):
        seen[tree.tokens(int(i))] = True
    dimensions = 1 if which == "q" or heads == 3 else 3
    assert found["q"][hit, :dimensions].isnan().all()
    assert torch.equal(found["q"][hit, dimensions:], clean["q"][hit, dimensions:])
    assert torch.equal(found["q"][~hit], clean["q"][~hit])
    assert found["k"][seen, 0].isnan().all()
    for name in ("k", "v"):
        assert torch.equal(found[name][~seen], clean[name][~seen])
        assert torch.equal(found[name][seen, 1:], clean[name][seen, 1:])


def test_sizes_are_rounded_up_by_at_most_half():
    sizes = np.arange(1, 5000)
    rounded = _autograd._round_up(sizes)
    assert (sizes <= rounded).all()
    assert (rounded <= 1.5 * sizes).all()
    assert len(set(rounded)) < 30


@pytest.mark.parametrize("constant", [False, True])
def test_a_wide_tree_in_float32(constant):
    """Hundreds of nodes of a usual length: many runs a batch."""
    rng = np.random.default_rng()
    parent = [-1] + [int(rng.integers(max(0, n - 40), n)) for n in range(1, 150)]
    lengths = rng.integers(8, 25, len(parent))
    lengths[0] = 300
    k, v = rng.standard_normal((2, lengths.sum(), 3, 16))
    call = Call(KVTree(parent, np.cumsum([0, *lengths]), np.zeros(lengths.sum(), int), k, v), "mlp", constant,
                torch.float32)  # fmt: skip
    call.segment[:] = np.repeat(np.minimum(np.arange(len(parent)), 1) * STEP, lengths)
    call.segment[50:200] = 1
    assert_same(call.found(), call.expected(), 1e-5)
    again = call.found()
    assert all(torch.equal(a, again[n]) for n, a in call.found().items())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_public_call_trains_through_the_fast_backend(kind):
    call = Call(make_tree("random", 3, D), kind, dtype=torch.float32)
    tree, frontier, q, head, bias = call.arguments()
    kernels.reset_counts()
    out = triatt(tree, frontier, q, head, bias=bias, return_att=True)
    assert kernels.counts() == {"triatt": {"cpu": 1}}
    assert out.state is None
    assert_same(dict(zip(call.leaves, torch.autograd.grad(call.loss(out), call.leaves.values()), strict=True)),
                call.expected(), 1e-5)  # fmt: skip


def test_what_only_the_reference_differentiates_goes_there():
    call = Call(make_tree("random", 3, D), dtype=torch.float32)
    tree, frontier, q, head, bias = call.arguments()
    kernels.reset_counts()
    state = triatt(tree, frontier, q, head, bias=bias, return_state=True).state
    assert kernels.counts() == {"triatt": {"reference": 1}}
    assert state.m.requires_grad
    with pytest.raises(BackendUnavailable, match="'cpu' cannot run triatt: it has no gradients through a softmax"):
        triatt(tree, frontier, q, head, bias=bias, return_state=True, backend="cpu")
