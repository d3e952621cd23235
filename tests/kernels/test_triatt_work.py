"""The work lists of the GPU backends: nothing is left out, nothing is read twice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the work lists are torch tensors")

from svip_search.kernels.triatt import STEP, KVTree
from svip_search.kernels.triatt._work import make_scan_work, make_work


def make_tree(parent, lengths, seed=0):
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    kv = np.zeros((ptr[-1], 1, 1), np.float32)
    return KVTree(parent, ptr, np.random.default_rng(seed).integers(0, 3, ptr[-1]), kv, kv)


@st.composite
def trees(draw):
    n = draw(st.integers(1, 25))
    parent = [-1] + [draw(st.integers(-1, i - 1)) for i in range(1, n)]
    longest = draw(st.sampled_from([1, 9, 70]))
    return make_tree(parent, [draw(st.integers(0, longest)) for _ in parent], draw(st.integers(0, 99)))


many = settings(max_examples=100, deadline=None)


@many
@given(st.data())
def test_every_row_sees_every_token_of_its_path_once(data):
    tree = data.draw(trees())
    frontier = np.array(data.draw(st.lists(st.integers(0, len(tree) - 1), max_size=40)), np.int64)
    block, tile, wanted = (data.draw(st.sampled_from(s)) for s in ([1, 5, 16], [1, 4, 16], [1, 7, 500]))
    work = make_work(tree, frontier, block, tile, wanted, "cpu")
    tiles, programs, slots = work.tiles.tolist(), work.programs.tolist(), work.slots.tolist()
    assert sorted(work.order.tolist()) == list(range(len(frontier)))
    assert len(slots) == -(-len(frontier) // block) + 1
    assert (np.diff(slots) >= 1).all() and slots[-1] == len(programs)
    seen = [[] for _ in frontier]
    for b, (lo, hi) in enumerate(pairwise(slots)):
        for first, last, tile_begin, tile_end in programs[lo:hi]:
            assert (first, last) == (b * block, min((b + 1) * block, len(frontier)))
            for token, n, begin, own, end in tiles[tile_begin:tile_end]:
                assert 1 <= n <= tile and first <= begin <= own <= end <= last
                for row in range(begin, end):
                    seen[row] += [(t, row < own) for t in range(token, token + n)]
    for row, position in enumerate(work.order.tolist()):
        node = int(frontier[position])
        owned = range(tree.token_ptr[node], tree.token_ptr[node + 1])
        assert sorted(seen[row]) == sorted((t, t in owned) for t in tree.tokens(node).tolist())


@many
@given(trees(), st.sampled_from([1, 4, 16]))
def test_a_scan_reads_every_token_once(tree, tile):
    work = make_scan_work(tree, tile, "cpu")
    tiles, ptr = work.tiles.tolist(), work.tile_ptr.tolist()
    assert ptr[0] == 0 and ptr[-1] == len(tiles)
    for node in range(len(tree)):
        found = []
        for token, n, segment in tiles[ptr[node] : ptr[node + 1]]:
            assert 1 <= n <= tile and (tree.segment[token : token + n] == segment).all()
            found += range(token, token + n)
        assert found == list(range(tree.token_ptr[node], tree.token_ptr[node + 1]))
    roots = np.flatnonzero(tree.parent < 0)
    assert work.parent[roots].tolist() == [-1 - i for i in range(len(roots))]
    children = np.flatnonzero(tree.parent >= 0)
    assert work.parent[children].tolist() == tree.parent[children].tolist()


def test_a_long_prefix_is_shared_evenly():
    tree = make_tree([-1] + [0] * 8, [16 * 400] + [16] * 8)
    work = make_work(tree, np.arange(1, 9), 16, 16, 50, "cpu")
    programs = work.programs.numpy()
    sizes = programs[:, 3] - programs[:, 2]
    assert 50 <= len(programs) <= 51
    assert sizes.sum() == 408 and sizes.max() <= sizes.min() + 1


def test_splits_are_neither_tiny_nor_more_than_wanted():
    tree = make_tree([-1] + [0] * 99, [640] + [16] * 99)
    few = make_work(tree, np.arange(100), 16, 16, 10_000, "cpu").programs.numpy()
    assert (few[:, 3] - few[:, 2]).min() >= 4 and len(few) > 7
    one = make_work(tree, np.arange(100), 16, 16, 1, "cpu")
    assert one.programs.shape[0] == 7 and one.slots.tolist() == list(range(8))


def test_an_empty_frontier_needs_no_program():
    work = make_work(make_tree([-1], [3]), np.zeros(0, np.int64), 16, 16, 8, "cpu")
    assert [tuple(a.shape) for a in (work.order, work.tiles, work.programs)] == [(0,), (0, 5), (0, 4)]
    assert work.slots.tolist() == [0]


def test_arrays_are_aligned_and_typed():
    tree = make_tree([-1, 0, 0], [5, 1, 3])
    work = make_work(tree, np.arange(3), 2, 2, 4, "cpu")
    scan = make_scan_work(tree, 2, "cpu")
    arrays = [work.order, work.tiles, work.programs, work.slots, scan.tiles, scan.tile_ptr, scan.parent]
    assert {str(a.dtype) for a in arrays} == {"torch.int32"}
    assert all(a.is_contiguous() for a in [*arrays, work.segment])
    starts = {a.data_ptr() % 128 - arrays[0].data_ptr() % 128 for a in arrays[:4]}
    assert starts == {0}
    assert work.segment.tolist() == tree.segment.tolist() and max(work.segment.tolist()) <= STEP
