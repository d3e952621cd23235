"""Pools and trees of the C++ core: any input, any order of calls, any number of threads, and where memory goes."""

from __future__ import annotations

import copy
import ctypes
import gc
import itertools
import math
import mmap
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from svip_search import _core, kernels
from svip_search._errors import BackendUnavailable
from svip_search.kernels.triatt import QUESTION, STEP, Head, KVPool, KVTree, PackedHead, PagedTree, State, triatt

sys.path.insert(0, str(Path(__file__).parent))
from triatt_cases import SEED, Case, answer, attention_error, bits, rng_of

sys.path.pop(0)

D = 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="fork and guard pages are tested on Linux")


@pytest.fixture(autouse=True)
def _say_seed():
    print(f"SVIP_TEST_SEED={SEED}")  # shown where a test fails


def normal(*size: int) -> np.ndarray:
    return rng_of("pool", size).standard_normal(size).astype(np.float32)


def packed(d: int = D) -> PackedHead:
    return PackedHead(Head(normal(3, d), normal(3)))


@pytest.fixture
def grown():
    """A pool of 160 tokens with one tree: a root of 20 tokens, a step of 5 below it, and one that was freed."""
    pool = KVPool(D, capacity=160)
    tree = pool.tree()
    tree.append(-1, [QUESTION] * 20, normal(20, 3, D), normal(20, 3, D))
    for _ in range(2):
        tree.append(0, [STEP] * 5, normal(5, 3, D), normal(5, 3, D))
    tree.free(2)
    return SimpleNamespace(pool=pool, tree=tree, head=packed(), q=normal(1, 3, D))


# Arrays of every layout


def misaligned(x: np.ndarray) -> np.ndarray:
    found = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def stepped(x: np.ndarray) -> np.ndarray:
    found = np.full([2 * n for n in x.shape], np.nan, x.dtype)[tuple([slice(None, None, 2)] * x.ndim)]
    found[...] = x
    return found


def of_records(x: np.ndarray) -> np.ndarray:
    """Return an array whose strides are no multiples of its item size."""
    records = np.zeros(x.shape, np.dtype([("odd", "u1"), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


def frozen(x: np.ndarray) -> np.ndarray:
    found = x.copy()
    found.flags.writeable = False
    return found


def mirrored(x: np.ndarray, axis: int) -> np.ndarray:
    return np.flip(np.flip(x, axis).copy(), axis)


LAYOUTS = {
    "misaligned": misaligned,
    "every second": stepped,
    "records": of_records,
    "read-only": frozen,
    "fortran": np.asfortranarray,
    "first axis backwards": lambda x: mirrored(x, 0),
    "last axis backwards": lambda x: mirrored(x, -1),
    "big-endian": lambda x: x.astype(">f4"),
    "float64": lambda x: x.astype(np.float64),
    "long double": lambda x: x.astype(np.longdouble),
    "torch": torch.from_numpy,
    "torch, transposed": lambda x: torch.from_numpy(x.T.copy()).permute(*range(x.ndim)[::-1]),
    "torch, every second": lambda x: torch.from_numpy(np.stack([x, x * np.nan], -1))[..., 0],
    "torch, float64": lambda x: torch.from_numpy(x).double(),
    "torch, with gradient": lambda x: torch.from_numpy(x).clone().requires_grad_(),
    "torch, not a leaf": lambda x: torch.from_numpy(x).clone().requires_grad_() * 1,
    "torch, negated view": lambda x: torch.complex(torch.zeros(x.shape), -torch.from_numpy(x)).conj().imag,
}
OF_THREE_AXES = {
    "heads backwards": lambda x: mirrored(x, 1),
    "heads first": lambda x: x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
    "torch, heads first": lambda x: torch.from_numpy(x.transpose(1, 0, 2).copy()).transpose(0, 1),
}


def scores_of_one_root(k, v, q, head) -> list[bytes]:
    tree = KVPool(D).tree()
    tree.append(-1, [QUESTION] * len(k), k, v)
    return bits(tree.score([0] * len(q), q, head, return_att=True), tree.scan(q[0], head).state)


@pytest.mark.parametrize("layout", [*LAYOUTS, *OF_THREE_AXES])
def test_keys_values_and_queries_of_any_layout(layout):
    make = {**LAYOUTS, **OF_THREE_AXES}[layout]
    k, v, q, head = normal(37, 3, D), normal(37, 3, D) ** 2, normal(2, 3, D), packed()
    wanted = scores_of_one_root(k, v, q, head)
    for given in ((make(k), v, q), (k, make(v), q), (k, v, make(q)), (make(k), make(v), make(q))):
        assert scores_of_one_root(*given, head) == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_and_biases_of_any_layout(layout):
    make, k, q, bias = LAYOUTS[layout], normal(37, 3, D), normal(2, 3, D), normal(3, 4)
    linear = Head(normal(3, D), normal(3))
    for head in (linear, Head(normal(3, 5), normal(3), normal(3, 5, D), normal(3, 5))):
        made = Head(*(a if a is None else make(a) for a in head))
        given, wanted = PackedHead(made, make(bias)), PackedHead(head, bias)
        assert scores_of_one_root(k, k, q, given) == scores_of_one_root(k, k, q, wanted)


def test_broadcast_arrays(grown):
    one, token = normal(1, 1, D), normal(1, 3, D)
    for k, v in ((one, np.float32(2)), (token, one), (np.float32(1), token)):
        k, v = (np.broadcast_to(a, (37, 3, D)) for a in (k, v))
        views = [torch.from_numpy(a.copy()[:1]).expand(37, 3, D) for a in (k, v)]
        wanted = scores_of_one_root(k.copy(), v.copy(), grown.q, grown.head)
        assert scores_of_one_root(k, v, grown.q, grown.head) == wanted
        assert scores_of_one_root(*views, grown.q, grown.head) == wanted
    constant = np.broadcast_to(grown.q, (5, 3, D))
    found = grown.tree.score([1] * 5, constant, grown.head)
    assert bits(found) == bits(grown.tree.score([1] * 5, grown.q[0], grown.head))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_tensors_of_any_layout(dtype):
    pool, head, q = KVPool(D, dtype=dtype), packed(), normal(1, 3, D)
    k, v = (torch.from_numpy(normal(37, 3, D)).bfloat16() for _ in range(2))
    views = {
        "dense": k,
        "heads first": k.transpose(0, 1).contiguous().transpose(0, 1),
        "transposed": k.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "stepped": torch.stack([k, k * 0], -1)[..., 0],
        "float32": k.float(),
        "numpy": k.float().numpy(),
    }
    found = set()
    for view in views.values():
        tree = pool.tree()
        tree.append(-1, [QUESTION] * 37, view, v)
        found.add(tuple(bits(tree.score([0], q, head, return_att=True, return_state=True))))
    assert len(found) == 1


def test_inputs_stay_as_they_are(grown):
    arrays = [normal(16, 3, D), normal(16, 3, D), normal(2, 3, D), np.arange(2), np.full(16, STEP)]
    before = bits(arrays)
    k, v, q, frontier, segment = arrays
    grown.tree.append(0, segment, k, v)
    grown.tree.score(frontier, q, grown.head)
    assert bits(arrays) == before
    # What was handed over has been copied.
    scores = grown.tree.score([3], q[:1], grown.head).scores
    k[...] = v[...] = np.nan
    assert np.array_equal(grown.tree.score([3], q[:1], grown.head).scores, scores)


@LINUX
@pytest.mark.parametrize("tier", _core.simd_tiers())
def test_nothing_behind_an_array_is_read(tier, monkeypatch):
    """Every array ends where the memory of the process ends."""
    monkeypatch.setenv("SVIP_SIMD", tier)
    for d in (1, 20, 64, 256):
        for heads in (1, 3):
            linear = Head(guarded(normal(3, d)), guarded(normal(3)))
            two = Head(guarded(normal(3, 3)), guarded(normal(3)), guarded(normal(3, 3, d)), guarded(normal(3, 3)))
            for length in (1, 16, 17, 65):
                tree = KVPool(d, n_kv_heads=heads).tree()
                k, v, q = guarded(normal(length, heads, d)), guarded(normal(length, heads, d)), guarded(normal(1, 3, d))
                tree.append(-1, guarded(np.zeros(length, np.uint8)), k, v)
                for head in (linear, two):
                    handle = PackedHead(head, guarded(normal(3, 4)))
                    assert np.isfinite(tree.score(guarded(np.zeros(1, np.int32)), q, handle).scores).all()
                    assert np.isfinite(tree.scan(q[0], handle).scores).all()


def guarded(x: np.ndarray) -> np.ndarray:
    """Return a copy that ends where a page begins that must not be read."""
    page = mmap.PAGESIZE
    size = -(-x.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), page, 0) == 0
    found = np.frombuffer(memory, x.dtype, x.size, size - x.nbytes).reshape(x.shape)
    found[...] = x
    return found


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, r"`width` must be 1\.\.256; got 0"),
        ({"width": 257}, r"`width` must be 1\.\.256; got 257"),
        ({"width": 2**40}, r"`width` must be 1\.\.256; got 1099511627776"),
        ({"width": -1}, "`width` must be a whole number of at least 0; got -1"),
        ({"width": 1.5}, "`width` must be a whole number .* got 1.5"),
        ({"width": True}, "`width` must be a whole number .* got True"),
        ({"width": "8"}, "`width` must be a whole number .* got '8'"),
        ({"width": None}, "`width` must be a whole number .* got None"),
        ({"n_kv_heads": 0}, "`n_kv_heads` must be 1 or 3; got 0"),
        ({"n_kv_heads": 2}, "`n_kv_heads` must be 1 or 3; got 2"),
        ({"n_kv_heads": None}, "`n_kv_heads` must be a whole number .* got None"),
        ({"dtype": "float64"}, "`dtype` must be 'float32' or 'bfloat16'; got 'float64'"),
        ({"dtype": None}, "`dtype` must be 'float32' or 'bfloat16'; got 'None'"),
        ({"capacity": -1}, "`capacity` must be a whole number of at least 0; got -1"),
        ({"capacity": 1.5}, "`capacity` must be a whole number .* got 1.5"),
        ({"capacity": 2**70}, "`capacity` must be a whole number"),
    ],
)
def test_bad_pools_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        KVPool(**{"width": 8, **arguments})


KV = normal(5, 3, D)
META = torch.ones(5, 3, D, device="meta")
SPARSE = torch.ones(5, 3, D).to_sparse()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"parent": 3}, IndexError, r"`parent` must be -1 or an earlier node, below 3; got parent\[0\] = 3"),
        ({"parent": -2}, IndexError, r"`parent` must be .* got parent\[0\] = -2"),
        ({"parent": 2**31}, IndexError, r"`parent` must hold nodes of the tree; got parent\[0\] = 2147483648"),
        ({"parent": -(2**40)}, IndexError, "`parent` must hold nodes of the tree"),
        ({"parent": 2**70}, ValueError, "`parent` must hold whole numbers"),
        ({"parent": 2}, ValueError, "`parent` must be a living node; node 2 was freed"),
        ({"parent": 0.0}, ValueError, "`parent` must hold whole numbers; got float64"),
        ({"parent": True}, ValueError, "`parent` must hold whole numbers; got bool"),
        ({"parent": None}, ValueError, "`parent` must hold whole numbers"),
        ({"parent": "0"}, ValueError, "`parent` must hold whole numbers"),
        ({"parent": [0, 1]}, ValueError, "`parent` must be one-dimensional"),
        ({"segment": [2] * 4}, ValueError, r"`k` must have shape \[4, 3, 20\]; got \[5, 3, 20\]"),
        ({"segment": [2, 2, 2, 2, 3]}, ValueError, r"`segment` must hold 0, 1 or 2; got segment\[4\] = 3"),
        ({"segment": [-1] * 5}, ValueError, r"got segment\[0\] = -1"),
        ({"segment": [258] * 5}, ValueError, r"got segment\[0\] = 258"),
        ({"segment": [2.0] * 5}, ValueError, "`segment` must hold whole numbers; got float64"),
        ({"segment": [[2] * 5]}, ValueError, "`segment` must be one-dimensional"),
        ({"segment": [[2], [2, 2]]}, ValueError, "`segment` must be one-dimensional"),
        ({"segment": 2}, ValueError, "`segment` must be one-dimensional"),
        ({"k": KV[:4]}, ValueError, r"`k` must have shape \[5, 3, 20\]; got \[4, 3, 20\]"),
        ({"k": KV[:, :1]}, ValueError, r"`k` must have shape \[5, 3, 20\]; got \[5, 1, 20\]"),
        ({"k": KV[..., :19]}, ValueError, r"`k` must have shape .* got \[5, 3, 19\]"),
        ({"k": KV[0]}, ValueError, r"`k` must have shape .* got \[3, 20\]"),
        ({"k": KV.astype(int)}, ValueError, "`k` must hold floating-point numbers; got int64"),
        ({"k": KV.astype(complex)}, ValueError, "`k` must hold floating-point numbers; got complex128"),
        ({"k": KV.astype(object)}, ValueError, "`k` must hold floating-point numbers; got object"),
        ({"k": torch.ones(5, 3, D, dtype=torch.int32)}, ValueError, "`k` must hold floating-point numbers"),
        ({"k": KV.tolist()}, TypeError, "`k` must be a numpy array or a torch tensor; got list"),
        ({"k": None}, TypeError, "`k` must be a numpy array or a torch tensor; got NoneType"),
        ({"k": META}, ValueError, "`k` must be a dense tensor on the CPU; got torch.strided on meta"),
        ({"k": SPARSE}, ValueError, "`k` must be a dense tensor on the CPU; got torch.sparse_coo on cpu"),
        ({"v": KV[:4]}, ValueError, r"`v` must have shape \[5, 3, 20\]; got \[4, 3, 20\]"),
        ({"v": KV.astype(int)}, ValueError, "`v` must hold floating-point numbers"),
        ({"v": KV.tolist()}, TypeError, "`v` must be a numpy array or a torch tensor; got list"),
        ({"v": META}, ValueError, "`v` must be a dense tensor on the CPU"),
    ],
)
def test_bad_nodes_are_named_and_not_added(grown, change, error, message):
    pages = grown.pool.pages_in_use
    with pytest.raises(error, match=message):
        grown.tree.append(**{"parent": 0, "segment": [STEP] * 5, "k": KV, "v": KV, **change})
    assert (len(grown.tree), grown.pool.pages_in_use) == (3, pages)


@pytest.mark.parametrize(
    ("parent", "token_ptr", "error", "message"),
    [
        ([0, 4], [0, 2, 5], IndexError, r"`parent` must be -1 or an earlier node, below 4; got parent\[1\] = 4"),
        ([0, 0], [0, 5], ValueError, r"`token_ptr` must have shape \[n \+ 1\] = \[3\]; got \[2\]"),
        ([], [], ValueError, r"`token_ptr` must have shape \[n \+ 1\] = \[1\]; got \[0\]"),
        ([0], [0, 4], ValueError, "`token_ptr` must rise from 0 to the 5 tokens and never fall"),
        ([0], [1, 5], ValueError, "`token_ptr` must rise"),
        ([0], [0, 6], ValueError, "`token_ptr` must rise"),
        ([0, 0], [0, 7, 5], ValueError, "`token_ptr` must rise"),
        ([0, 0], [0, -1, 5], ValueError, "`token_ptr` must rise"),
        ([0], [0, 2**63], ValueError, "`token_ptr` must fit into int64"),
        ([0], [0.0, 5.0], ValueError, "`token_ptr` must hold whole numbers"),
        ([0], None, ValueError, "`token_ptr` must hold whole numbers"),
        ([[0]], [0, 5], ValueError, "`parent` must be one-dimensional"),
    ],
)
def test_bad_groups_of_nodes_are_named_and_not_added(grown, parent, token_ptr, error, message):
    if token_ptr == [0, 2**63]:
        token_ptr = np.array(token_ptr, np.uint64)
    with pytest.raises(error, match=message):
        grown.tree.extend(parent, token_ptr, [STEP] * 5, KV, KV)
    assert len(grown.tree) == 3


Q = normal(1, 3, D)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"frontier": [3]}, IndexError, r"`frontier` must hold nodes of the tree, 0\.\.2; got frontier\[0\] = 3"),
        ({"frontier": [-1]}, IndexError, r"got frontier\[0\] = -1"),
        ({"frontier": [2**31]}, IndexError, r"got frontier\[0\] = 2147483648"),
        ({"frontier": [2**70]}, ValueError, "`frontier` must hold whole numbers"),
        ({"frontier": np.array([2**63], np.uint64)}, ValueError, "`frontier` must fit into int64"),
        ({"frontier": [2]}, ValueError, r"`frontier` must hold living nodes; frontier\[0\] = 2 was freed"),
        ({"frontier": [0.0]}, ValueError, "`frontier` must hold whole numbers; got float64"),
        ({"frontier": [True]}, ValueError, "`frontier` must hold whole numbers; got bool"),
        ({"frontier": 0}, ValueError, "`frontier` must be one-dimensional"),
        ({"frontier": [[0]]}, ValueError, "`frontier` must be one-dimensional"),
        ({"frontier": None}, ValueError, "`frontier` must hold whole numbers"),
        ({"frontier": "01"}, ValueError, "`frontier` must hold whole numbers"),
        ({"frontier": [0, 1]}, ValueError, r"`q` must have shape \[2, 3, 20\]; got \[1, 3, 20\]"),
        ({"q": Q[..., :19]}, ValueError, r"`q` must have shape \[1, 3, 20\]; got \[1, 3, 19\]"),
        ({"q": Q[:, :2]}, ValueError, r"`q` must have shape \[1, 3, 20\]; got \[1, 2, 20\]"),
        ({"q": Q[0, :2]}, ValueError, r"`q` must have shape \[3, 20\]; got \[2, 20\]"),
        ({"q": Q[0, 0]}, ValueError, r"`q` must have shape \[1, 3, 20\]; got \[20\]"),
        ({"q": Q.astype(int)}, ValueError, "`q` must hold floating-point numbers; got int64"),
        ({"q": Q.tolist()}, TypeError, "`q` must be a numpy array or a torch tensor; got list"),
        ({"q": None}, TypeError, "`q` must be a numpy array or a torch tensor; got NoneType"),
        ({"q": META[:1]}, ValueError, "`q` must be a dense tensor on the CPU"),
        ({"head": None}, TypeError, "`head` must be a PackedHead; got NoneType"),
        ({"head": Head(Q[0], Q[0, :, 0])}, TypeError, "`head` must be a PackedHead; got Head"),
        ({"head": packed(19)}, ValueError, "`head` must have the width of the pool, 20; got 19"),
        ({"threads": -1}, ValueError, "`threads` must be a whole number from 0 to 1024; got -1"),
        ({"threads": 1025}, ValueError, "`threads` must be .* got 1025"),
        ({"threads": 2**70}, ValueError, "`threads` must be"),
        ({"threads": 1.0}, ValueError, "`threads` must be .* got 1.0"),
        ({"threads": True}, ValueError, "`threads` must be .* got True"),
        ({"threads": None}, ValueError, "`threads` must be .* got None"),
        ({"threads": "2"}, ValueError, "`threads` must be .* got '2'"),
    ],
)
def test_bad_calls_are_named(grown, change, error, message):
    with pytest.raises(error, match=message):
        grown.tree.score(**{"frontier": [1], "q": Q, "head": grown.head, **change})


def test_bad_scans_are_named(grown):
    pool, head, q = grown.pool, grown.head, grown.q[0]
    with pytest.raises(ValueError, match=r"`nodes` must hold living nodes; nodes\[0\] = 2 was freed"):
        grown.tree.scan(q, head)
    tree = pool.tree()
    tree.extend([-1, 0, 0], [0, 3, 4, 5], [STEP] * 5, KV, KV)
    known = tree.scan(q, head).state
    for first in (-1, 4, 2**40, 0.5, "1", None, True):
        with pytest.raises(IndexError, match="`first` must be a whole number from 0 to 3; got"):
            tree.scan(q, head, first=first, state=known)
    with pytest.raises(ValueError, match="`state` must be given: node 1 continues from an earlier one"):
        tree.scan(q, head, first=1)
    with pytest.raises(ValueError, match=r"`state.m` must have shape \[1, 3\]; got \[3, 3\]"):
        tree.scan(q, head, first=1, state=known)
    one = State(*(a[:1] for a in known))
    assert tree.scan(q, head, first=1, state=one).scores.shape == (2, 3)
    for bad in ({"l": known.l[0]}, {"o": one.o[..., :5]}, {"m": one.m.astype(int)}):
        with pytest.raises(ValueError, match=f"`state.{next(iter(bad))}` must"):
            tree.scan(q, head, first=1, state=one._replace(**bad))
    with pytest.raises(TypeError, match=r"`state.m` must be a numpy array or a torch tensor; got list"):
        tree.scan(q, head, first=1, state=State([], [], []))
    with pytest.raises(ValueError, match=r"`q` must have shape \[3, 20\]; got \[1, 3, 20\]"):
        tree.scan(grown.q, head)
    with pytest.raises(TypeError, match="`head` must be a PackedHead"):
        tree.scan(q, None)
    assert tree.scan(q, head, first=3, state=known).scores.shape == (0, 3)


@pytest.mark.parametrize(
    ("head", "bias", "error", "message"),
    [
        (None, None, TypeError, "`head` must be a Head; got NoneType"),
        ((Q[0], Q[0, :, 0]), None, TypeError, "`head` must be a Head; got tuple"),
        (Head(None, np.zeros(3)), None, TypeError, "`head.u` must be a numpy array"),
        (Head(1, 2), None, TypeError, "`head.u` must be a numpy array"),
        (Head(np.ones((2, 8)), np.zeros(3)), None, ValueError, r"`head.u` must have shape \[3, any\]; got \[2, 8\]"),
        (Head(np.ones((3, 8)), np.zeros(2)), None, ValueError, r"`head.b` must have shape \[3\]; got \[2\]"),
        (Head(np.ones((3, 8)), np.zeros(3, int)), None, ValueError, "`head.b` must hold floating-point numbers"),
        (Head(np.ones((3, 8)), torch.zeros(3)), None, TypeError, "`head.b` must be a numpy array"),
        (Head(np.ones((3, 5)), np.zeros(3), np.ones((3, 5, 8))), None, ValueError, "`head.c` must be given"),
        (Head(np.ones((3, 8)), np.zeros(3), None, np.ones((3, 8))), None, ValueError, "`head.c` must be None"),
        (Head(np.ones((3, 0)), np.zeros(3), np.ones((3, 0, 8)), np.ones((3, 0))), None, ValueError, "at least one"),
        (Head(np.ones((3, 300)), np.zeros(3)), None, ValueError, r"`width` must be 1\.\.256; got 300"),
        (Head(np.ones((3, 0)), np.zeros(3)), None, ValueError, r"`width` must be 1\.\.256; got 0"),
        (Head(META[0, :, :8], META[0, :, 0]), None, ValueError, "`head.u` must be a dense tensor on the CPU"),
        (Head(np.ones((3, 8)), np.zeros(3)), np.zeros((4, 3)), ValueError, r"`bias` must have shape \[3, 4\]"),
        (Head(np.ones((3, 8)), np.zeros(3)), np.zeros((3, 4), int), ValueError, "`bias` must hold floating-point"),
        (Head(np.ones((3, 8)), np.zeros(3)), [[0] * 4] * 3, TypeError, "`bias` must be a numpy array"),
    ],
)
def test_bad_heads_are_named(head, bias, error, message):
    with pytest.raises(error, match=message.replace("a numpy array", "a numpy array.*")):
        PackedHead(head, bias)


def test_nothing_to_do(grown):
    tree, q = grown.tree, grown.q
    out = tree.score([], q[:0], grown.head, return_att=True, return_state=True)
    assert [a.shape for a in (out.scores, out.att, *out.state)] == [(0, 3), (0, 3, D), (0, 3), (0, 3), (0, 3, D)]
    assert tree.score([], q[0], grown.head).scores.shape == (0, 3)
    assert tree.extend([], [0], [], KV[:0], KV[:0]) == len(tree) == 3
    empty = grown.pool.tree()
    assert empty.scan(q[0], grown.head).scores.shape == (0, 3)
    with pytest.raises(IndexError, match="`frontier` must hold nodes of the tree"):
        empty.score([0], q, grown.head)


def test_a_path_without_tokens(grown):
    """A root may wait for its tokens, which its children bring; only it cannot be scored."""
    tree = grown.pool.tree()
    root = tree.append(-1, [], KV[:0], KV[:0])
    child = tree.append(root, [STEP] * 5, KV, KV)
    with pytest.raises(ValueError, match=r"`frontier` must hold nodes with at least one token .* node 0 has none"):
        tree.score([child, root], np.repeat(grown.q, 2, 0), grown.head)
    with pytest.raises(ValueError, match="every path must hold at least one token; that of node 0 has none"):
        tree.scan(grown.q[0], grown.head)
    alone = grown.pool.tree()
    alone.append(-1, [STEP] * 5, KV, KV)
    assert bits(tree.score([child], grown.q, grown.head)) == bits(alone.score([0], grown.q, grown.head))


# Freed, full, closed


def test_freed_nodes(grown):
    tree = grown.tree
    for node, error, message in (
        (2, ValueError, r"`node` must hold living nodes; node\[0\] = 2 was freed"),
        (3, IndexError, r"`node` must hold nodes of the tree, 0\.\.2; got node\[0\] = 3"),
        (-1, IndexError, r"got node\[0\] = -1"),
        (2**40, IndexError, "`node` must hold nodes of the tree"),
        (1.0, ValueError, "`node` must hold whole numbers"),
        (None, ValueError, "`node` must hold whole numbers"),
    ):
        with pytest.raises(error, match=message):
            tree.free(node)
    # The root's pages stay as long as a child needs them, and its child's scores stay the same.
    before = tree.score([1], grown.q, grown.head).scores
    tree.free(0)
    assert grown.pool.pages_in_use == 3
    assert np.array_equal(tree.score([1], grown.q, grown.head).scores, before)
    with pytest.raises(ValueError, match="`frontier` must hold living nodes"):
        tree.score([0, 1], grown.q[0], grown.head)
    child = tree.append(1, [STEP], KV[:1], KV[:1])
    tree.free(1)
    assert grown.pool.pages_in_use == 4
    tree.free(child)
    assert grown.pool.pages_in_use == 0


@pytest.mark.parametrize("capacity", [0, 1, 16, 17, 100])
def test_a_full_pool(capacity):
    pool, head, q = KVPool(D, capacity=capacity), packed(), Q
    tree, other = pool.tree(), pool.tree()
    most = math.ceil(capacity / 16)
    for _ in range(most):
        tree.append(-1 if len(tree) == 0 else 0, [QUESTION], KV[:1], KV[:1])
    before = tree.score(range(most), q[0], head).scores
    for full in (tree, other):
        size = len(full)
        with pytest.raises(MemoryError, match=f"1 pages of 16 tokens are needed and 0 of {most} are left"):
            full.append(-1, [STEP], KV[:1], KV[:1])
        with pytest.raises(MemoryError, match=r"The pool is full"):
            full.extend([-1, size], [0, 0, 5], [STEP] * 5, KV, KV)
        assert (len(full), pool.pages_in_use) == (size, most)
    assert np.array_equal(tree.score(range(most), q[0], head).scores, before)
    assert other.append(-1, [], KV[:0], KV[:0]) == 0  # needs no page
    if most > 1:
        tree.free(most - 1)
        assert other.append(0, [STEP] * 5, KV, KV) == 1


def test_a_closed_tree(grown):
    tree, pool, head, q = grown.tree, grown.pool, grown.head, grown.q
    assert not tree.closed
    tree.close()
    tree.close()
    assert tree.closed and "closed" in repr(tree) and pool.pages_in_use == 0
    assert_unusable(tree, head, q, "The tree is closed")
    with pytest.raises(ValueError, match="The tree is closed"):
        tree.free(0)
    again = pool.tree()
    again.append(-1, [STEP] * 5, KV, KV)
    pool.close()
    tree.close()
    again.close()


def test_a_closed_pool(grown):
    tree, pool, head, q = grown.tree, grown.pool, grown.head, grown.q
    assert not pool.closed
    pool.close()
    pool.close()
    assert pool.closed and "closed" in repr(pool) and "closed" in repr(tree)
    assert (pool.pages_in_use, pool.bytes, pool.width, pool.n_kv_heads) == (0, 0, D, 3)
    assert_unusable(tree, head, q, "The pool is closed")
    with pytest.raises(ValueError, match="The pool is closed"):
        pool.tree()
    tree.free(1)  # whoever tidies up afterwards need not know
    tree.close()
    tree.close()
    assert_unusable(tree, head, q, "closed")


def assert_unusable(tree, head, q, message):
    for call in (
        lambda: tree.append(-1, [STEP] * 5, KV, KV),
        lambda: tree.extend([], [0], [], KV[:0], KV[:0]),
        lambda: tree.score([0], q, head),
        lambda: tree.score([], q[:0], head),
        lambda: tree.scan(q[0], head),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_trees_keep_their_pool():
    tree = KVPool(D).tree()
    gc.collect()
    tree.append(-1, [STEP] * 5, KV, KV)
    assert np.isfinite(tree.score([0], Q, packed()).scores).all()


def test_a_forgotten_tree_gives_its_pages_back(grown):
    pool = grown.pool
    trees = [pool.tree() for _ in range(4)]
    for tree in trees:
        tree.append(-1, [STEP] * 5, KV, KV)
    assert pool.pages_in_use == 3 + 4
    del tree, trees
    gc.collect()
    assert pool.pages_in_use == 3


def test_nodes_of_another_tree_are_other_nodes(grown):
    """A node is a number within its tree: another tree has none of it, or one of its own."""
    other = KVPool(D).tree()
    with pytest.raises(IndexError, match="`frontier` must hold nodes of the tree"):
        other.score([1], grown.q, grown.head)
    with pytest.raises(IndexError, match="`parent` must be -1 or an earlier node, below 0"):
        other.append(1, [STEP] * 5, KV, KV)
    with pytest.raises(IndexError, match="`node` must hold nodes of the tree"):
        other.free(0)
    other.append(-1, [STEP] * 5, KV, KV)
    other.free(0)
    assert np.isfinite(grown.tree.score([0], grown.q, grown.head).scores).all()


def test_handles_cannot_be_copied(grown):
    for handle in (grown.pool, grown.tree, grown.head):
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=f"a {type(handle).__name__} cannot be copied or pickled"):
                copying(handle)
            with pytest.raises(TypeError, match="cannot"):
                copying(handle._core)
    with pytest.raises(TypeError, match="`pool` must be a KVPool; got NoneType"):
        PagedTree(None)


UNMADE = """
import numpy as np
from svip_search import _core

q = np.ones((1, 3, 8), np.float32)
node = np.zeros(1, np.int32)
pool, tree, head = (cls.__new__(cls) for cls in (_core.KVPool, _core.PagedTree, _core.TriattHead))
good = _core.PagedTree(_core.KVPool(8, 3, "float32", -1))
good.extend(np.array([-1], np.int32), np.array([0, 1]), np.zeros(1, np.uint8), q, q)
made = _core.TriattHead(8, q[0], q[0, :, 0].copy(), None, None, None)
calls = [
    lambda: pool.width, lambda: pool.n_kv_heads, lambda: pool.pages_in_use, lambda: pool.bytes,
    lambda: pool.closed, pool.close, lambda: _core.PagedTree(pool),
    lambda: len(tree), lambda: tree.closed, tree.close, lambda: tree.free(0),
    lambda: tree.extend(np.array([-1], np.int32), np.array([0, 1]), np.zeros(1, np.uint8), q, q),
    lambda: tree.score(node, q, made, False, False, 0, 0, False),
    lambda: tree.scan(0, q[0], made, None, None, None, False, False, 0, False),
    lambda: good.score(node, q, head, False, False, 0, 0, False),
    lambda: good.score(node, q, None, False, False, 0, 0, False),
    lambda: good.scan(0, q[0], head, None, None, None, False, False, 0, False),
]
for i, call in enumerate(calls):
    try:
        call()
    except (TypeError, RuntimeError):  # the latter from pybind11, for a pool that was not made
        continue
    raise SystemExit(f"call {i} went through")
del pool, tree, head
"""


def in_process(script: str, **environment: str) -> None:
    """Run a script in a process of its own, where a crash is only a failure."""
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", script], capture_output=True, text=True,
                          timeout=120, env={**os.environ, **environment})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_objects_without_a_constructor_are_refused():
    in_process(UNMADE)


@pytest.mark.parametrize(
    "change",
    [
        {"q": np.ones((2, 3, 8), np.float32)},
        {"q": np.ones((1, 3, 9), np.float32)},
        {"q": np.ones(24, np.float32)},
        {"frontier": np.array([1], np.int32)},
        {"frontier": np.array([-1], np.int32)},
        {"frontier": np.array([[0, 0], [0, 0]], np.int32)},
    ],
)
def test_the_core_itself_only_must_not_crash(change):
    q = np.ones((1, 3, 8), np.float32)
    tree = _core.PagedTree(_core.KVPool(8, 3, "float32", -1))
    tree.extend(np.array([-1], np.int32), np.array([0, 1]), np.zeros(1, np.uint8), q, q)
    head = _core.TriattHead(8, q[0], q[0, :, 0].copy(), None, None, None)
    call = {"frontier": np.zeros(1, np.int32), "q": q, **change}
    with pytest.raises((ValueError, IndexError)):
        tree.score(call["frontier"], call["q"], head, True, True, 2, 0, False)


def test_the_core_refuses_arrays_it_cannot_read():
    pool = _core.KVPool(8, 3, "float32", -1)
    tree, kv, one = _core.PagedTree(pool), np.ones((4, 3, 8), np.float32), np.array([-1], np.int32)
    ptr, segment = np.array([0, 4]), np.zeros(4, np.uint8)
    for k in (kv.astype(np.float64), kv.astype(">f4"), np.asfortranarray(kv), misaligned(kv), of_records(kv), kv[:3]):
        with pytest.raises((ValueError, TypeError), match="`k` must"):
            tree.extend(one, ptr, segment, k, kv)
        with pytest.raises((ValueError, TypeError), match="`v` must"):
            tree.extend(one, ptr, segment, kv, k)
    with pytest.raises(ValueError, match="`segment` must hold 0, 1 or 2"):
        tree.extend(one, ptr, segment + 3, kv, kv)
    assert len(tree) == pool.pages_in_use == 0


def test_a_wrong_simd_tier_is_named(grown, monkeypatch):
    monkeypatch.setenv("SVIP_SIMD", "mmx")
    message = f"`SVIP_SIMD` must be one of baseline, {', '.join(_core.simd_tiers())} on this processor; got 'mmx'"
    with pytest.raises(ValueError, match=message):
        grown.tree.score([0], grown.q, grown.head)
    tree = grown.pool.tree()
    tree.append(-1, [STEP] * 5, KV, KV)
    with pytest.raises(ValueError, match=message):
        tree.scan(grown.q[0], grown.head)
    for name, wanted in {"baseline": _core.simd_tiers()[-1], "": _core.simd_tiers()[0]}.items():
        monkeypatch.setenv("SVIP_SIMD", name)
        assert _core.simd_tier() == wanted


def test_a_wrong_simd_tier_leaves_the_reference():
    in_process(
        """
import numpy as np
from svip_search import kernels
from svip_search._errors import BackendUnavailable
from svip_search.kernels.triatt import Head, KVTree, triatt
kv = np.ones((1, 3, 8), np.float32)
call = KVTree([-1], [0, 1], [0], kv, kv), [0], kv, Head(kv[0], kv[0, :, 0])
triatt(*call)
assert kernels.counts() == {"triatt": {"reference": 1}}, kernels.counts()
assert "cpu: ValueError: `SVIP_SIMD` must be one of" in kernels.explain("triatt")
try:
    triatt(*call, backend="cpu")
except BackendUnavailable as error:
    assert "`SVIP_SIMD` must be one of" in str(error)
else:
    raise SystemExit("the backend took the call")
""",
        SVIP_SIMD="mmx",
    )


def test_the_backend_refuses_what_it_cannot_do():
    wide = KVTree([-1], [0, 1], [0], np.ones((1, 1, 257), np.float32), np.ones((1, 1, 257), np.float32))
    call = wide, [0], np.ones((3, 257), np.float32), Head(np.zeros((3, 257)), np.zeros(3))
    with pytest.raises(BackendUnavailable, match="the head width is 257, above 256"):
        triatt(*call, backend="cpu")
    kernels.reset_counts()
    assert (triatt(*call).scores == 0.5).all()
    assert kernels.counts() == {"triatt": {"reference": 1}}


# Threads and processes


def test_threads_score_while_one_appends(grown):
    """What a node scores does not depend on who scores, who waits and who adds nodes beside it."""
    pool, head, q = KVPool(D), grown.head, normal(1, 3, D)[0]
    tree = pool.tree()
    tree.append(-1, [QUESTION] * 37, normal(37, 3, D), normal(37, 3, D))
    steps = normal(200, 5, 3, D)
    found, failed, done = {}, [], threading.Event()

    def score(threads: int) -> None:
        try:
            while True:
                last = done.is_set()
                n = len(tree)
                scores = tree.score(range(n), q, head, threads=threads).scores
                for node in range(n):
                    assert found.setdefault(node, scores[node].tobytes()) == scores[node].tobytes()
                scan = tree.scan(q, head, threads=threads).scores
                assert len(scan) >= n
                if last:
                    return
        except BaseException as error:
            failed.append(error)

    scorers = [threading.Thread(target=score, args=(t,)) for t in (1, 2, 3)]
    for thread in scorers:
        thread.start()
    for i, step in enumerate(steps):
        tree.append(i // 2, [STEP] * 5, step, step)
        strangers = pool.tree()
        strangers.append(-1, [STEP] * 5, step, step)
        strangers.close()
    done.set()
    for thread in scorers:
        thread.join(60)
        assert not thread.is_alive()
    assert not failed, failed
    assert len(tree) == len(found) == 201
    assert [found[n] for n in range(201)] == [s.tobytes() for s in tree.score(range(201), q, head, threads=1).scores]


def test_threads_append_to_one_tree(grown):
    pool, head = KVPool(D), grown.head
    tree = pool.tree()
    tree.append(-1, [QUESTION] * 17, normal(17, 3, D), normal(17, 3, D))
    values = normal(4, 50, 3, D)
    nodes: list[list[int]] = [[] for _ in values]

    def append(which: int) -> None:
        for one in values[which]:
            nodes[which].append(tree.append(0, [STEP], one[None], one[None]))
            pool.tree().append(-1, [STEP], one[None], one[None])

    threads = [threading.Thread(target=append, args=(i,)) for i in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    gc.collect()
    assert pool.pages_in_use == 2 + 200
    assert sorted(itertools.chain(*nodes)) == list(range(1, 201))
    # Every node holds what its thread gave it.
    for mine, theirs in zip(nodes, values, strict=True):
        alone = KVPool(D).tree()
        alone.append(-1, [QUESTION] * 17, normal(17, 3, D), normal(17, 3, D))
        for one in theirs:
            alone.append(0, [STEP], one[None], one[None])
        assert bits(tree.score(mine, Q[0], head)) == bits(alone.score(range(1, 51), Q[0], head))


@pytest.mark.parametrize("what", ["tree", "pool"])
def test_closing_waits_for_calls_or_refuses_them(grown, what):
    for _ in range(20):
        pool = KVPool(D)
        tree = pool.tree()
        tree.extend([-1] + [0] * 50, np.arange(52) * 9, [STEP] * 459, normal(459, 3, D), normal(459, 3, D))
        wanted = tree.score(range(51), Q[0], grown.head).scores
        wrong, begun = [], threading.Barrier(3)

        def score(tree=tree, wanted=wanted, wrong=wrong, begun=begun) -> None:
            begun.wait()
            try:
                for _ in range(50):
                    if not np.array_equal(tree.score(range(51), Q[0], grown.head, threads=2).scores, wanted):
                        wrong.append("scores")
            except ValueError as error:
                if "is closed" not in str(error):
                    wrong.append(error)

        threads = [threading.Thread(target=score) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait()
        (tree if what == "tree" else pool).close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not wrong, wrong
        assert pool.pages_in_use == 0


FORK = """
import os, signal, threading
import numpy as np
from svip_search.kernels.triatt import Head, KVPool, PackedHead

d = 64
rng = np.random.default_rng()
normal = lambda *size: rng.standard_normal(size).astype(np.float32)
head, q = PackedHead(Head(normal(3, d), normal(3))), normal(3, d)
k = normal(3000, 3, d)

def grow():
    tree = KVPool(d).tree()
    tree.extend([-1] + [0] * 40, [0, *range(1000, 3001, 50)], [0] * 3000, k, k)
    return tree

tree, stop = grow(), threading.Event()
wanted = tree.score(range(41), q, head, threads=4).scores
def score():
    while not stop.is_set():
        assert np.array_equal(tree.score(range(41), q, head, threads=3).scores, wanted)
thread = threading.Thread(target=score)
if BUSY:
    thread.start()
for i in range(8):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        code = 3
        try:
            same = np.array_equal(tree.score(range(41), q, head, threads=4).scores, wanted)
            same &= tree.scan(q, head, threads=4).scores.shape == wanted.shape
            own = grow()
            same &= np.array_equal(own.score(range(41), q, head, threads=4).scores, wanted)
            own.append(0, [2], k[:1], k[:1])
            own.close()
            code = 0 if same else 4
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert status == 0, (i, status)
    assert np.array_equal(tree.score(range(41), q, head, threads=4).scores, wanted)
stop.set()
if BUSY:
    thread.join()
"""


@LINUX
@pytest.mark.parametrize("busy", [False, True])
def test_a_forked_child_scores_with_threads_of_its_own(busy):
    in_process(f"BUSY = {busy}" + FORK)


# Memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_of_freed_nodes_is_used_again(dtype):
    pool = KVPool(8, dtype=dtype)
    tree, kv = pool.tree(), normal(20, 3, 8)
    root = tree.append(-1, [QUESTION] * 20, kv, kv)
    taken = pool.bytes
    for _ in range(10_000):
        tree.free(tree.append(root, [STEP] * 20, kv, kv))
    assert (pool.bytes, pool.pages_in_use, len(tree)) == (taken, 2, 10_001)


def test_memory_of_closed_trees_is_used_again():
    pool, kv, head = KVPool(D), normal(40, 3, D), packed()
    taken = None
    for _ in range(300):
        trees = [pool.tree() for _ in range(5)]
        for tree in trees:
            tree.append(-1, [QUESTION] * 40, kv, kv)
            tree.append(0, [STEP] * 17, kv[:17], kv[:17])
            tree.score([1], Q, head)
        assert pool.pages_in_use == 5 * (3 + 2)
        for tree in trees:
            tree.close()
        taken = taken or pool.bytes
    assert (pool.bytes, pool.pages_in_use) == (taken, 0)


def test_memory_grows_with_what_is_kept():
    pool, kv = KVPool(64, n_kv_heads=1), normal(16, 1, 64)
    tree = pool.tree()
    page = 2 * 16 * 64 * 4
    tree.append(-1, [QUESTION] * 16, kv, kv)
    for n in range(2, 2000):
        tree.append(0, [STEP] * 16, kv, kv)
        assert pool.pages_in_use == n
        assert n * page <= pool.bytes <= max(2 * n * page, 1 << 17)
    pool.close()
    assert pool.bytes == 0


# Any course of calls


class Model:
    """A tree as a list of what was put in."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.k: list[np.ndarray] = []
        self.v: list[np.ndarray] = []
        self.segment: list[np.ndarray] = []
        self.freed: set[int] = set()

    def add(self, parent: int, segment: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
        self.parent.append(parent)
        self.segment.append(segment)
        self.k.append(k)
        self.v.append(v)

    def path(self, node: int) -> list[int]:
        found = []
        while node >= 0:
            found.append(node)
            node = self.parent[node]
        return found

    def tokens(self, node: int) -> int:
        return sum(len(self.segment[n]) for n in self.path(node))

    @property
    def living(self) -> list[int]:
        return [n for n in range(len(self.parent)) if n not in self.freed]

    @property
    def pages(self) -> int:
        needed = {n for node in self.living for n in self.path(node)}
        return sum(-(-len(self.segment[n]) // 16) for n in needed)

    def tree(self) -> KVTree:
        ptr = np.concatenate([[0], np.cumsum([len(s) for s in self.segment])])
        return KVTree(self.parent, ptr, *map(np.concatenate, (self.segment, self.k, self.v)))


class Handles(RuleBasedStateMachine):
    """Everything that can be done to the trees of one pool, beside lists and float64.

    Hypothesis chooses what is done, the numbers of this machine to what: drawn one by one these would be mostly
    zeros and empty lists.
    """

    @initialize(heads=st.sampled_from([1, 3]), d=st.sampled_from([1, 5, 16, 20]), pages=st.sampled_from([9, 30, None]),
                hidden=st.sampled_from([0, 4]), seed=st.integers(0, 2**32 - 1))  # fmt: skip
    def start(self, heads, d, pages, hidden, seed):
        self.rng = np.random.default_rng([SEED, seed])
        self.heads, self.d, self.most = heads, d, pages
        into = 1 / math.sqrt(d)
        self.head = Head(self.normal(3, d) * into, self.normal(3))
        if hidden:
            self.head = Head(self.normal(3, hidden), self.normal(3), self.normal(3, hidden, d) * into,
                             self.normal(3, hidden))  # fmt: skip
        self.bias = self.normal(3, 4)
        self.handle = PackedHead(self.head, self.bias)
        self.new_pool()

    def new_pool(self):
        capacity = None if self.most is None else 16 * self.most
        self.pool = KVPool(self.d, n_kv_heads=self.heads, capacity=capacity)
        self.trees = [(self.pool.tree(), Model()) for _ in range(3)]
        for tree, model in self.trees[1:]:
            root = self.tokens(17)
            tree.append(-1, *root)
            model.add(-1, *root)
        self.bytes = 0

    def normal(self, *size):
        return self.rng.standard_normal(size).astype(np.float32)

    def some_tree(self):
        return self.trees[self.rng.integers(len(self.trees))]

    def some(self, nodes, n=1):
        return [int(node) for node in self.rng.choice(nodes, n)] if len(nodes) else []

    def tokens(self, n):
        return self.rng.integers(0, 3, n), self.normal(n, self.heads, self.d), self.normal(n, self.heads, self.d)

    def fits(self, lengths):
        needed = sum(-(-n // 16) for n in lengths)
        return self.most is None or sum(m.pages for _, m in self.trees) + needed <= self.most

    def lengths(self, n):
        return self.rng.choice([0, 1, 2, 15, 16, 17, 33, 70], n, p=[0.1, 0.2, *[0.15] * 4, 0.05, 0.05]).tolist()

    @rule()
    def append(self):
        tree, model = self.some_tree()
        (parent,) = self.some([-1, *range(len(model.parent))] if len(model.parent) < 3 else range(len(model.parent)))
        (length,) = self.lengths(1)
        segment, k, v = self.tokens(length)
        if parent in model.freed:
            with pytest.raises(ValueError, match="`parent` must be a living node"):
                tree.append(parent, segment, k, v)
        elif not self.fits([length]):
            with pytest.raises(MemoryError, match="The pool is full"):
                tree.append(parent, segment, k, v)
        else:
            assert tree.append(parent, segment, k, v) == len(model.parent)
            model.add(parent, segment, k, v)

    @rule()
    def extend(self):
        tree, model = self.some_tree()
        first, lengths = len(model.parent), self.lengths(self.rng.integers(0, 8))
        parent = [self.some([-1, *model.living, *range(first, first + i)])[0] for i in range(len(lengths))]
        ptr = np.concatenate([[0], np.cumsum(lengths, dtype=int)])
        segment, k, v = self.tokens(ptr[-1])
        if not self.fits(lengths):
            with pytest.raises(MemoryError, match="The pool is full"):
                tree.extend(parent, ptr, segment, k, v)
            return
        assert tree.extend(parent, ptr, segment, k, v) == first
        for i, above in enumerate(parent):
            own = slice(ptr[i], ptr[i + 1])
            model.add(above, segment[own], k[own], v[own])

    @rule()
    def free(self):
        tree, model = self.some_tree()
        for node in self.some(model.living)[:1]:
            tree.free(node)
            model.freed.add(node)
        for node in self.some(sorted(model.freed)):
            with pytest.raises(ValueError, match="`node` must hold living nodes"):
                tree.free(node)
        with pytest.raises(IndexError, match="`node` must hold nodes of the tree"):
            tree.free(len(model.parent))

    @rule(threads=st.integers(0, 4), one=st.booleans())
    def score(self, threads, one):
        tree, model = self.some_tree()
        frontier = self.some([n for n in model.living if model.tokens(n) > 0], self.rng.integers(0, 12))
        q = self.normal(3, self.d) if one else self.normal(len(frontier), 3, self.d)
        out = tree.score(frontier, q, self.handle, return_att=True, return_state=True, threads=threads)
        assert len(out.scores) == len(frontier)
        if frontier:
            right = answer(Case(model.tree(), np.array(frontier), q, self.head, self.bias))
            self.check(out, right)
            np.testing.assert_allclose(out.state.m, right.m, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(out.state.l, right.l, rtol=1e-5)
        for node in range(len(model.parent)):
            if node in model.freed or model.tokens(node) == 0:
                with pytest.raises(ValueError, match=r"`frontier` must hold (living nodes|nodes with at least one)"):
                    tree.score([*frontier, node], self.normal(3, self.d), self.handle)

    @rule(threads=st.integers(0, 4))
    def scan(self, threads):
        tree, model = self.some_tree()
        n, q = len(model.parent), self.normal(3, self.d)
        if model.freed or any(model.tokens(node) == 0 for node in range(n)):
            with pytest.raises(ValueError, match=r"(must hold living nodes|must hold at least one token)"):
                tree.scan(q, self.handle)
            return
        out = tree.scan(q, self.handle, return_att=True, threads=threads)
        assert len(out.scores) == n
        if n > 0:
            self.check(out, answer(Case(model.tree(), np.arange(n), q, self.head, self.bias)))
        first = int(self.rng.integers(0, n + 1))
        known = State(*(a[:first] for a in out.state))
        part = tree.scan(q, self.handle, first=first, state=known, return_att=True)
        assert bits(part) == bits(out.scores[first:], out.att[first:], [a[first:] for a in out.state])

    def check(self, out, right):
        assert attention_error(out.att, right)[1] <= 3e-6
        assert np.abs(out.scores - right.scores).max() <= 2e-6

    def nodes(self):
        return sum(len(model.parent) for _, model in self.trees)

    @precondition(lambda self: self.nodes() > 10)
    @rule(forget=st.booleans())
    def replace_a_tree(self, forget):
        tree, _ = pair = self.some_tree()
        self.trees.remove(pair)
        if not forget:
            tree.close()
            with pytest.raises(ValueError, match="The tree is closed"):
                tree.append(-1, *self.tokens(1))
        del tree, pair
        self.trees.append((self.pool.tree(), Model()))

    @precondition(lambda self: self.nodes() > 18)
    @rule()
    def replace_the_pool(self):
        self.pool.close()
        for tree, _ in self.trees:
            with pytest.raises(ValueError, match="The pool is closed"):
                tree.append(-1, *self.tokens(1))
        self.new_pool()

    @invariant()
    def memory_and_sizes_are_those_of_the_model(self):
        assert [len(tree) for tree, _ in self.trees] == [len(model.parent) for _, model in self.trees]
        assert self.pool.pages_in_use == sum(model.pages for _, model in self.trees)
        assert self.pool.bytes >= self.bytes
        self.bytes = self.pool.bytes


Handles.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHandles = Handles.TestCase
