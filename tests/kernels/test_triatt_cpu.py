"""The C++ core in every SIMD tier of this processor: against float64, and what it promises to the last bit."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from svip_search import _core, kernels
from svip_search._errors import BackendUnavailable
from svip_search.kernels.triatt import (
    IMAGE,
    QUESTION,
    STEP,
    Head,
    KVPool,
    KVTree,
    PackedHead,
    State,
    triatt,
    triatt_scan,
)

sys.path.insert(0, str(Path(__file__).parent))
from triatt_cases import (
    SEED,
    SHAPES,
    Answer,
    Case,
    answer,
    attention_error,
    bits,
    holds,
    make_case,
    rng_of,
)

sys.path.pop(0)

# Float32 against float64 of the same numbers: attention outputs against sum p |v|, and scores.
ATTENTION, SCORES = 3e-6, 2e-6
# A dot product of 30 is rounded 30 times as coarsely, and the softmax hands that on.
STEEP = 2e-5
# Rounding of keys, values and (with dot products of bfloat16) queries and weights.
ROUNDED = 5e-3
LAYOUTS = [("float32", False), ("bfloat16", False), ("bfloat16", True)]

CASES = {
    "one token": {"shape": "single", "prefix": 1, "d": 1, "heads": 1},
    "chain": {"shape": "chain", "prefix": 16, "d": 64, "hidden": 8, "bias": "normal"},
    "star": {"shape": "star", "prefix": 17, "d": 128, "heads": 1},
    "long prefix": {"shape": "beam", "prefix": 1280, "d": 64, "bias": "normal"},
    "long mixed prefix": {"shape": "star", "prefix": 1280, "d": 16, "heads": 1, "mixed": True, "bias": "normal"},
    "random": {"shape": "random", "prefix": 15, "d": 20, "hidden": 40, "mixed": True, "bias": "normal"},
    "deep": {"shape": "deep", "prefix": 16, "d": 16, "heads": 1, "longest": 30, "bias": "normal"},
    "forest": {"shape": "forest", "prefix": 1, "d": 256, "hidden": 17, "bias": "normal"},
    "empty root": {"shape": "star", "prefix": 0, "d": 20, "bias": "normal"},
    "wide": {"shape": "beam", "prefix": 17, "d": 256, "heads": 1, "bias": "normal"},
    "narrow": {"shape": "random", "prefix": 15, "d": 1, "heads": 3, "hidden": 3, "mixed": True},
    "no key": {"keys": 0.0, "bias": "none"},
    "no key but a bias": {"keys": 0.0, "mixed": True, "bias": "normal", "heads": 1},
    "steep": {"keys": 30.0, "d": 64, "bias": "normal"},
    "steep and mixed": {"keys": 30.0, "d": 20, "mixed": True, "heads": 1, "bias": "offset"},
    "huge values": {"values": 1e6, "d": 64, "bias": "normal"},
    "tiny values": {"values": 1e-20, "hidden": 8},
    "offset": {"bias": "offset", "d": 64},
    "offset, mixed": {"bias": "offset", "mixed": True, "heads": 1, "prefix": 200},
    "offset, long": {"shape": "chain", "bias": "offset", "prefix": 1280, "d": 128},
    "offsets": {"bias": "offsets", "d": 64, "shape": "beam"},
    "offsets, mixed": {"bias": "offsets", "mixed": True, "heads": 1},
    "hidden classes": {"bias": "hidden", "mixed": True, "prefix": 70},
    "hidden prefix": {"bias": "hidden", "shape": "beam", "heads": 1, "hidden": 8},
}
CASES |= {f"drawn {i}": {} for i in range(10)}


@functools.cache
def case_of(name: str) -> Case:
    rng = rng_of(name)
    if name.startswith("drawn"):
        return drawn(rng)
    return make_case(rng, **CASES[name])


@functools.cache
def answers_of(name: str) -> Answer:
    return answer(case_of(name))


def drawn(rng: np.random.Generator) -> Case:
    """Return any case at all whose answers float32 must reach."""
    return make_case(
        rng,
        str(rng.choice(SHAPES)),
        prefix=int(rng.choice([1, 15, 16, 17, 64, 65, 300])),
        d=int(rng.choice([1, 2, 15, 16, 17, 20, 33, 64, 128])),
        heads=int(rng.choice([1, 3])),
        hidden=int(rng.choice([0, 1, 16, 33])),
        mixed=bool(rng.integers(2)),
        bias=str(rng.choice(["none", "normal", "offset", "offsets"])),
        longest=int(rng.choice([1, 16, 17, 70])),
    )


@pytest.fixture(autouse=True)
def _say_seed():
    print(f"SVIP_TEST_SEED={SEED}")  # shown where a test fails


@pytest.fixture(params=_core.simd_tiers())
def tier(request, monkeypatch):
    monkeypatch.setenv("SVIP_SIMD", request.param)
    assert _core.simd_tier() == request.param
    return request.param


def run(case: Case, pool: KVPool | None = None, **options):
    """Return everything that the core says about the frontier of a case."""
    with_all = {"return_att": True, "return_state": True, "threads": 1, **options}
    return case.grow(pool or case.pool()).score(case.frontier, case.q, case.packed(), **with_all)


def core(paged, frontier, q, packed, *, threads=1, block=0, dots=False):
    """Return (scores, att, m, l, o) with a block size, which the public method chooses itself."""
    return paged._core.score(np.asarray(frontier, np.int32), q, packed._core, True, True, threads, block, dots)


def check_attention(att, right: Answer, bound: float) -> None:
    together, worst_row = attention_error(att, right)
    assert together <= bound
    assert worst_row <= (bound if bound <= ATTENTION else 3 * bound)


def check_scores(found, right: Answer, bound: float) -> None:
    np.testing.assert_allclose(found, right.scores, rtol=0, atol=bound)  # NaNs must agree


# Accuracy


@pytest.mark.parametrize("name", CASES)
def test_scores_states_and_attention_outputs(tier, name):
    case, right = case_of(name), answers_of(name)
    steep = name.startswith("steep")
    attention, scores = (STEEP, STEEP) if steep else (ATTENTION, SCORES)
    out = run(case)
    assert {a.dtype for a in (out.scores, out.att, *out.state)} == {np.dtype(np.float32)}
    check_attention(out.att, right, attention)
    check_scores(out.scores, right, scores)
    with np.errstate(invalid="ignore"):
        check_attention(out.state.o / out.state.l[..., None], right, attention)
    # The largest logit, and log sum exp: to float32 of the logits themselves, which an offset dominates.
    with np.errstate(divide="ignore", invalid="ignore"):
        found, wanted = out.state.m + np.log(out.state.l, dtype=np.float64), right.m + np.log(right.l)
    seen = np.isfinite(right.m)
    room = 2e-6 * np.maximum(np.abs(right.m[seen]), 30.0 if steep else 3.0)
    assert (np.abs(out.state.m[seen] - right.m[seen]) <= room).all()
    assert (np.abs(found[seen] - wanted[seen]) <= room).all()
    assert (out.state.m[~seen] == -np.inf).all() and (out.state.l[~seen] == 0).all()


@pytest.mark.parametrize("name", [n for n in CASES if n != "empty root"])
def test_scan(tier, name):
    case = case_of(name)
    q, right = scan_answers(name)
    passed = scan_answers(name, passed=True)[1]
    attention, scores = (STEEP, STEEP) if name.startswith("steep") else (ATTENTION, SCORES)
    out = case.grow(case.pool()).scan(q, case.packed(), return_att=True, threads=1)
    check_attention(out.att, right, attention)
    check_scores(out.scores, right, scores)
    with np.errstate(invalid="ignore"):
        check_attention(out.state.o / out.state.l[..., None], passed, attention)


@functools.cache
def scan_answers(name: str, passed: bool = False) -> tuple[np.ndarray, Answer]:
    case = case_of(name)
    return case.q[0], answer(case, range(len(case.tree)), case.q[0], passed=passed)


def test_huge_offsets_cost_no_digits(tier):
    """All logits may rise by 1e4, where float32 has steps of 1e-3, and no score moves."""
    case = make_case(rng_of("offset"), "beam", prefix=100, d=64, mixed=True)
    plain = run(case.but(bias=np.zeros((3, 4), np.float32)))
    for offset in (1e4, -1e4, 2.0**20):
        found = run(case.but(bias=np.full((3, 4), offset, np.float32)))
        assert np.abs(found.scores - plain.scores).max() <= SCORES
        np.testing.assert_allclose(found.state.m, plain.state.m + offset, rtol=1e-6)


def test_equal_logits_give_the_mean(tier):
    case = make_case(rng_of("mean"), "chain", prefix=17, d=20, keys=0)
    out = run(case)
    for row, node in enumerate(case.frontier):
        path = case.tree.tokens(int(node))
        assert (out.state.m[row] == 0).all() and (out.state.l[row] == len(path)).all()
        np.testing.assert_allclose(out.att[row], case.tree.v[path].mean(0, dtype=np.float64), rtol=0, atol=2e-6)


def test_a_certain_token_is_returned_exactly(tier):
    """One logit far above all others: its value comes out to the last bit."""
    case = make_case(rng_of("certain"), "random", prefix=17, d=64)
    k, q = np.zeros_like(case.tree.k), np.zeros_like(case.q)
    k[5, :, 3], q[:, :, 3] = 1000.0, 8.0  # token 5 belongs to the root
    out = run(case.but(k=k, q=q))
    assert np.array_equal(out.att, np.broadcast_to(case.tree.v[5], out.att.shape))
    assert (out.state.m == 1000.0).all() and (out.state.l == 1).all()


def test_saturated_heads_do_not_overflow(tier):
    case = make_case(rng_of("saturated"), "star", d=16)
    head = Head(np.zeros((3, 16), np.float32), np.array([-1e4, 0, 1e4], np.float32))
    assert (run(case.but(head=head)).scores == [0, 0.5, 1]).all()
    gelu = Head(np.full((3, 2), 1.0), np.zeros(3), np.full((3, 2, 16), 1e4) * [[[1], [-1]]] * 3, np.zeros((3, 2)))
    assert np.isfinite(run(case.but(head=gelu)).scores).all()


def test_tiers_agree(monkeypatch):
    case = case_of("random")
    scores = []
    for name in _core.simd_tiers():
        monkeypatch.setenv("SVIP_SIMD", name)
        scores.append(run(case).scores)
    assert np.abs(np.ptp(scores, axis=0)).max() <= 2 * SCORES


def test_the_order_of_nodes_is_that_of_float64(tier):
    case = make_case(rng_of("order"), "beam", prefix=100, d=64, mixed=True, bias="normal")
    right = answer(case).scores.mean(-1)
    rounded = case.pool("bfloat16")
    for scores, tie in (
        (run(case).scores, 2 * SCORES),
        (run(case, rounded).scores, 2e-3),
        (run(case, rounded, dots=True).scores, 4e-3),
    ):
        best = np.argsort(-scores.astype(np.float64).mean(-1), kind="stable")
        for top in (1, 4, 16):
            # What is left out may be better than what is taken by no more than a tie.
            assert right[best[top:]].max() - right[best[:top]].min() <= tie


# NaN and infinity


def bad_token(case: Case, rng, where: str, value: float) -> tuple[Case, int, int]:
    """Return the case with one bad component, and where it is: token and K/V head."""
    array = getattr(case.tree, where).copy()
    token, head, component = (int(rng.integers(n)) for n in array.shape)
    array[token, head, component] = value
    return case.but(**{where: array}), token, head


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("where", ["k", "v"])
def test_nan_stays_on_its_paths(tier, where, heads):
    rng = rng_of("nan", where, heads)
    plain = make_case(rng, "random", prefix=33, d=20, heads=heads, mixed=True, bias="normal")
    everyone = range(len(plain.tree))
    for dtype, dots in LAYOUTS:
        pool = plain.pool(dtype)
        clean = run(plain, pool, dots=dots)
        clean_scan = plain.grow(pool).scan(plain.q[0], plain.packed(), dots=dots)
        for _ in range(6):
            case, token, head = bad_token(plain, rng, where, np.nan)
            mine = np.array([heads == 1 or head == c for c in range(3)])
            out = run(case, pool, dots=dots)
            hit = holds(case.tree, case.frontier, token)[:, None] & mine
            assert np.array_equal(np.isnan(out.scores), hit)
            for found, before in zip([out.scores, out.att, *out.state], [clean.scores, clean.att, *clean.state],
                                     strict=True):  # fmt: skip
                assert np.array_equal(found[~hit], before[~hit])
            out = case.grow(pool).scan(case.q[0], case.packed(), dots=dots)
            hit = holds(case.tree, everyone, token)[:, None] & mine
            assert np.array_equal(np.isnan(out.scores), hit)
            assert np.array_equal(out.scores[~hit], clean_scan.scores[~hit])


@pytest.mark.parametrize("where", ["k", "v"])
def test_infinity_gives_what_float64_gives(tier, where):
    rng = rng_of("inf", where)
    plain = make_case(rng, "random", prefix=33, d=20, bias="normal")
    clean = run(plain).scores
    for value in (np.inf, -np.inf) * 3:
        case, token, head = bad_token(plain, rng, where, value)
        scores = run(case).scores
        hit = holds(case.tree, case.frontier, token)[:, None] & (np.arange(3) == head)
        assert np.array_equal(scores[~hit], clean[~hit])
        check_scores(scores, answer(case), SCORES)


def test_a_nan_query_spoils_its_own_row_only(tier):
    case = make_case(rng_of("nan query"), "beam", prefix=40, d=16)
    clean, q = run(case).scores, case.q.copy()
    q[3, 1, 5] = np.nan
    scores = run(case.but(q=q)).scores
    spoilt = np.zeros_like(scores, bool)
    spoilt[3, 1] = True
    assert np.array_equal(np.isnan(scores), spoilt)
    assert np.array_equal(scores[~spoilt], clean[~spoilt])


@pytest.mark.parametrize(("dtype", "dots"), LAYOUTS)
def test_what_a_page_held_before_cannot_be_seen(tier, dtype, dots):
    """Rows of a page that its new node does not fill keep nothing of the old one, not even NaN."""
    case = make_case(rng_of("stale"), "random", prefix=5, d=20)
    fresh = run(case, case.pool(dtype), dots=dots)
    pool = case.pool(dtype)
    nan = np.full((16 * 200, 3, 20), np.nan, np.float32)
    spoilt = pool.tree()
    spoilt.append(-1, [0] * len(nan), nan, nan)
    spoilt.free(0)
    taken = pool.bytes
    assert bits(run(case, pool, dots=dots)) == bits(fresh)
    assert pool.bytes == taken


def test_nan_survives_rounding_to_bfloat16(tier):
    """Also those whose payload has only bits that rounding drops, or that carry into the sign."""
    pool = KVPool(1, n_kv_heads=1, dtype="bfloat16")
    packed = PackedHead(Head(np.ones((3, 1)), np.zeros(3)))
    for pattern in (0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000):
        bad = np.array([pattern], np.uint32).view(np.float32).reshape(1, 1, 1)
        tree = pool.tree()
        tree.append(-1, [0], np.ones_like(bad), bad)
        assert np.isnan(tree.score([0], np.ones((3, 1), np.float32), packed).scores).all()


# bfloat16


@pytest.mark.parametrize("name", ["chain", "long prefix", "random", "deep", "wide", "offset", "star"])
def test_bfloat16(tier, name):
    case, right = case_of(name), answers_of(name)
    k, v = (torch.from_numpy(a).bfloat16() for a in (case.tree.k, case.tree.v))
    rounded = rounded_answers(name)
    out = run(case, case.pool("bfloat16"))
    check_attention(out.att, right, ROUNDED)
    check_attention(out.att, rounded, ATTENTION)
    check_scores(out.scores, right, 2e-3)
    check_scores(out.scores, rounded, SCORES)
    # The pool rounds as torch does.
    again = case.pool("bfloat16").tree()
    again.extend(case.tree.parent, case.tree.token_ptr, case.tree.segment, k, v)
    assert bits(again.score(case.frontier, case.q, case.packed(), return_att=True, return_state=True)) == bits(out)

    dots = run(case, case.pool("bfloat16"), dots=True)
    check_attention(dots.att, right, ROUNDED)
    check_attention(dots.att, rounded, ROUNDED)
    check_scores(dots.scores, right, 5e-3)
    if tier != "avx512bf16":
        assert bits(dots) == bits(out)


@functools.cache
def rounded_answers(name: str) -> Answer:
    tree = case_of(name).tree
    k, v = (torch.from_numpy(a).bfloat16().float().numpy() for a in (tree.k, tree.v))
    return answer(case_of(name).but(k=k, v=v))


def test_dots_does_nothing_to_float32(tier):
    case = case_of("random")
    assert bits(run(case, dots=True)) == bits(run(case))


# Bits that must not move


@pytest.fixture(params=[(*layout, heads) for layout in LAYOUTS for heads in (1, 3)],
                ids=lambda p: f"{p[0]}{'-dots' * p[1]}-{p[2]}")  # fmt: skip
def layout(request):
    return request.param


def layout_case(heads: int, shape: str = "random", **options) -> Case:
    options = {"prefix": 150, "d": 20, "mixed": True, "bias": "normal", **options}
    return make_case(rng_of("layout", heads, shape), shape, heads=heads, **options)


def test_threads_and_blocks(tier, layout):
    dtype, dots, heads = layout
    case = layout_case(heads)
    paged, packed = case.grow(case.pool(dtype)), case.packed()
    wanted = bits(core(paged, case.frontier, case.q, packed, dots=dots))
    for threads in range(1, 9):
        for block in (0, 1, 3, 7, 24, 4096):
            found = core(paged, case.frontier, case.q, packed, threads=threads, block=block, dots=dots)
            assert bits(found) == wanted, (threads, block)
    scans = {tuple(bits(paged.scan(case.q[0], packed, return_att=True, threads=t, dots=dots))) for t in range(9)}
    assert len(scans) == 1


def test_incremental_is_full(tier, layout):
    """Each node scored when it comes, beside growing strangers, is the tree scored in one piece at the end."""
    dtype, dots, heads = layout
    case, stranger = layout_case(heads), layout_case(heads, "beam")
    t, pool, packed = case.tree, case.pool(dtype), case.packed()
    n = len(t)
    q = rng_of("incremental").standard_normal((n, 3, 20), np.float32)
    paged, rows, states, scan_rows = pool.tree(), [], [], []
    for node in range(n):
        own = slice(*t.token_ptr[node : node + 2])
        assert paged.append(int(t.parent[node]), t.segment[own], t.k[own], t.v[own]) == node
        rows.append(core(paged, [node], q[node : node + 1], packed, dots=dots))
        known = State(*(np.concatenate(a) for a in zip(*states, strict=True))) if states else None
        scan_rows.append(paged.scan(q[0], packed, first=node, state=known, return_att=True, dots=dots))
        states.append(scan_rows[-1].state)
        if node % 5 == 0:
            stranger.grow(pool)
    full = core(paged, range(n), q, packed, dots=dots)
    assert bits([np.concatenate(a) for a in zip(*rows, strict=True)]) == bits(full)
    scan = paged.scan(q[0], packed, return_att=True, dots=dots)
    assert bits(np.concatenate([r.scores for r in scan_rows]), np.concatenate([r.att for r in scan_rows])) == bits(
        scan.scores, scan.att
    )
    assert bits([np.concatenate(a) for a in zip(*states, strict=True)]) == bits(scan.state)
    # Nodes that come later, here and in another tree, change nothing.
    case.grow(pool)
    paged.extend(t.parent, t.token_ptr, t.segment, t.k, t.v)
    for later in range(0, n, 3):
        paged.append(later, t.segment[:40], t.k[:40], t.v[:40])
    assert bits(core(paged, range(n), q, packed, dots=dots)) == bits(full)
    assert bits(case.grow(case.pool(dtype)).scan(q[0], packed, return_att=True, dots=dots)) == bits(scan)


@pytest.mark.parametrize("cuts", [[1], [20], [39], [5, 6, 30], [16, 32]])
def test_a_scan_in_pieces_is_the_whole_scan(tier, cuts):
    case = layout_case(3, "forest")
    paged, packed, q = case.grow(case.pool()), case.packed(), case.q[0]
    whole = paged.scan(q, packed, return_att=True)
    known = None
    growing = case.pool().tree()
    t = case.tree
    for first, last in zip([0, *cuts], [*cuts, len(t)], strict=True):
        begin, end = t.token_ptr[first], t.token_ptr[last]
        growing.extend(t.parent[first:last], t.token_ptr[first : last + 1] - begin, t.segment[begin:end],
                       t.k[begin:end], t.v[begin:end])  # fmt: skip
        part = growing.scan(q, packed, first=first, state=known, return_att=True)
        assert bits(part) == bits([a[first:last] for a in (whole.scores, whole.att, *whole.state)])
        known = part.state if known is None else State(*map(np.concatenate, zip(known, part.state, strict=True)))
    assert bits(known) == bits(whole.state)


def test_order_subsets_and_repeats_of_the_frontier(tier, layout):
    dtype, dots, heads = layout
    case, rng = layout_case(heads), rng_of("frontier")
    paged, packed, n = case.grow(case.pool(dtype)), case.packed(), len(case.tree)
    q = rng.standard_normal((n, 3, 20), np.float32)
    full = core(paged, range(n), q, packed, dots=dots)
    for frontier in (rng.permutation(n), rng.choice(n, 5), rng.choice(n, 200), np.full(30, n - 1), np.array([0])):
        found = core(paged, frontier, q[frontier], packed, dots=dots)
        assert bits(found) == bits([a[frontier] for a in full])
    # One query for all is that query many times.
    assert bits(core(paged, range(n), q[0], packed, dots=dots)) == bits(
        core(paged, range(n), np.repeat(q[:1], n, 0), packed, dots=dots)
    )


def test_where_pages_lie(tier, layout):
    dtype, dots, heads = layout
    case, rng = layout_case(heads), rng_of("pages")
    wanted = bits(run(case, case.pool(dtype), dots=dots))
    pool = case.pool(dtype)
    junk = rng.standard_normal((16, heads, 20), np.float32)
    other = pool.tree()
    for _ in range(300):
        other.append(-1, [QUESTION] * 16, junk, junk)
    keep = set(rng.choice(300, 40, replace=False).tolist())
    for node in rng.permutation(300).tolist():  # the next tree gets its pages in this order, backwards
        if node not in keep:
            other.free(node)
    taken = pool.bytes
    assert bits(run(case, pool, dots=dots)) == wanted
    assert pool.bytes == taken


def test_calls_leave_nothing_behind(tier):
    """The workspace is shared by all calls of a thread: large and small ones, wide and narrow ones, scans."""
    names = ["one token", "wide", "random", "forest", "chain", "narrow", "long prefix", "one token", "deep"]
    alone = {name: bits(run(case_of(name))) for name in names}
    trees = {name: case_of(name).grow(case_of(name).pool()) for name in names}
    for i in rng_of("workspace").integers(0, len(names), 60):
        name = names[i]
        case = case_of(name)
        out = trees[name].score(case.frontier, case.q, case.packed(), return_att=True, return_state=True, threads=3)
        assert bits(out) == alone[name]
        trees[name].scan(case.q[0], case.packed())


# Relations between trees


def test_a_twin_gets_the_same_bits(tier, layout):
    dtype, dots, heads = layout
    case = layout_case(heads)
    t, paged, packed = case.tree, case.grow(case.pool(dtype)), case.packed()
    q = case.q[:1]
    for node in range(1, len(t)):
        own = slice(*t.token_ptr[node : node + 2])
        twin = paged.append(int(t.parent[node]), t.segment[own], t.k[own], t.v[own])
        both = core(paged, [node, twin], np.repeat(q, 2, 0), packed, dots=dots)
        assert bits([a[0] for a in both]) == bits([a[1] for a in both])


def test_siblings_in_another_order(tier, layout):
    dtype, dots, heads = layout
    case, rng = layout_case(heads), rng_of("siblings")
    t, n, packed = case.tree, len(case.tree), case.packed()
    q = rng.standard_normal((n, 3, 20), np.float32)
    # Any order in which parents come first: new[old] is a node's place in it.
    order, ready = [], [0]
    while ready:
        order.append(ready.pop(int(rng.integers(len(ready)))))
        ready += np.flatnonzero(t.parent == order[-1]).tolist()
    new = np.argsort(order)
    tokens = np.concatenate([np.arange(t.token_ptr[i], t.token_ptr[i + 1]) for i in order])
    shuffled = KVTree([-1 if t.parent[i] < 0 else new[t.parent[i]] for i in order],
                      np.concatenate([[0], np.cumsum(np.diff(t.token_ptr)[order])]),
                      t.segment[tokens], t.k[tokens], t.v[tokens])  # fmt: skip
    pool = case.pool(dtype)
    found = core(case.but(tree=shuffled).grow(pool), new, q, packed, dots=dots)
    assert bits(found) == bits(core(case.grow(pool), range(n), q, packed, dots=dots))


def test_one_node_or_two_in_a_chain(tier):
    """Where steps count the same on all levels, only rounding tells how a path is cut into nodes."""
    case = make_case(rng_of("cut"), "single", prefix=200, d=20, mixed=True, bias="normal")
    case.bias[:, 3] = case.bias[:, 2]
    whole = run(case.but(frontier=np.array([0]), q=case.q[:1]))
    for cut in (1, 15, 16, 64, 100, 199):
        tree = KVTree([-1, 0], [0, cut, 200], case.tree.segment, case.tree.k, case.tree.v)
        parts = run(case.but(tree=tree, frontier=np.array([1]), q=case.q[:1]))
        np.testing.assert_allclose(parts.att, whole.att, rtol=0, atol=2e-6)
        np.testing.assert_allclose(parts.scores, whole.scores, rtol=0, atol=SCORES)
        np.testing.assert_allclose(parts.state.m + np.log(parts.state.l), whole.state.m + np.log(whole.state.l),
                                   rtol=1e-6)  # fmt: skip


def test_this_step_and_earlier_steps_have_their_own_bias(tier):
    """A child without tokens sees what its parent sees, but the parent's step is an earlier one to it."""
    ones = np.ones((2, 1, 16), np.float32)
    v = np.stack([np.zeros((1, 16)), np.ones((1, 16))]).astype(np.float32)
    tree = KVTree([-1, 0, 1], [0, 1, 2, 2], [IMAGE, STEP], ones, v)
    bias = np.zeros((3, 4), np.float32)
    bias[:, 3] = np.log([1, 3, 7])
    case = Case(tree, np.array([1, 2]), np.ones((2, 3, 16), np.float32), Head(v[1].repeat(3, 0), np.zeros(3)), bias)
    att = run(case).att[..., 0]
    np.testing.assert_allclose(att, [[1 / 2, 3 / 4, 7 / 8], [1 / 2] * 3], rtol=1e-6)


# The functions without handles


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", ["chain", "random", "forest", "one token"])
def test_functional_call(tier, name, library):
    case, right = case_of(name), answers_of(name)
    before = kernels.counts().get("triatt", {}).get("cpu", 0)
    tree, q, head, bias = convert(case, library)
    out = triatt(tree, case.frontier, q, head, bias=bias, return_att=True, return_state=True, backend="cpu")
    assert {type(a) for a in (out.scores, out.att, *out.state)} == {type(q)}
    assert bits(out.scores, out.att, out.state) == bits(run(case))
    check_scores(np.asarray(out.scores), right, SCORES)
    query, right = scan_answers(name)
    scan = triatt_scan(tree, convert(query, library), head, bias=bias, return_att=True, backend="cpu")
    assert {type(a) for a in (scan.scores, scan.att, *scan.state)} == {type(q)}
    check_scores(np.asarray(scan.scores), right, SCORES)
    assert bits(scan) == bits(case.grow(case.pool()).scan(query, case.packed(), return_att=True))
    assert kernels.counts()["triatt"]["cpu"] == before + 4  # two of handles, two of functions


def convert(x, library: str):
    if isinstance(x, Case):
        return [convert(a, library) for a in (x.tree, x.q, x.head, x.bias)]
    if library == "numpy" or x is None:
        return x
    if isinstance(x, KVTree):
        return KVTree(x.parent, x.token_ptr, x.segment, convert(x.k, library), convert(x.v, library))
    if isinstance(x, Head):
        return Head(*(convert(a, library) for a in x))
    return torch.from_numpy(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_functional_call_with_half_precision(tier, dtype):
    case = case_of("random")
    k, v = (torch.from_numpy(a).to(dtype) for a in (case.tree.k, case.tree.v))
    _, q, head, bias = convert(case, "torch")
    tree = KVTree(case.tree.parent, case.tree.token_ptr, case.tree.segment, k, v)
    out = triatt(tree, case.frontier, q, head, bias=bias, return_att=True, backend="cpu")
    right = answer(case.but(k=k.float().numpy(), v=v.float().numpy()))
    assert out.scores.dtype == torch.float32
    check_attention(out.att.numpy(), right, ATTENTION)
    check_scores(out.scores.numpy(), right, SCORES)


def test_functional_scan_goes_on_below_any_node(tier):
    """Every root of a forest continues from a state of its own."""
    case = make_case(rng_of("goes on"), "star", prefix=40, d=20, mixed=True, bias="normal")
    t, q = case.tree, case.q[0]
    cut, n = int(t.token_ptr[1]), len(t) - 1
    root = KVTree([-1], [0, cut], t.segment[:cut], t.k[:cut], t.v[:cut])
    old = triatt_scan(root, q, case.head, bias=case.bias, backend="cpu")
    leaves = KVTree([-1] * n, t.token_ptr[1:] - cut, t.segment[cut:], t.k[cut:], t.v[cut:])
    state = State(*(np.repeat(a, n, 0) for a in old.state))
    new = triatt_scan(leaves, q, case.head, bias=case.bias, state=state, return_att=True, backend="cpu")
    whole = triatt_scan(t, q, case.head, bias=case.bias, return_att=True, backend="cpu")
    assert bits(new) == bits([a[1:] for a in (whole.scores, whole.att, *whole.state)])
    check_scores(whole.scores, answer(case, range(n + 1), q), SCORES)


def test_float64_is_left_to_the_reference():
    case = case_of("random")
    tree, q, head, bias = convert(case, "torch")
    assert kernels.which("triatt", dtype="float64", precision="float64") == "reference"
    kernels.reset_counts()
    out = triatt(tree, case.frontier, q.double(), head, bias=bias)
    assert kernels.counts() == {"triatt": {"reference": 1}}
    check_scores(out.scores.numpy(), answers_of("random"), 1e-12)
    with pytest.raises(BackendUnavailable, match="float64 is computed by the reference alone"):
        triatt(tree, case.frontier, q.double(), head, bias=bias, backend="cpu")
