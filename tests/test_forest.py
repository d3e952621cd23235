"""One call for many trees against the methods of each tree, refused calls, and threads that share trees."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search._core import FAILED, OPEN, Tree, advance_many, backup_many, release_many, select_many, top_k_many

rules = st.sampled_from(["puct", "uct"])


def grown(rng):
    """Return a random tree and which of its leaves are selected."""
    tree, selected = Tree(1), set()
    for _ in range(rng.randrange(12)):
        node = rng.randrange(len(tree))
        if tree.status[node] <= 1:
            tree.add_children(node, [rng.random() for _ in range(rng.randint(1, 4))])
        tree.backup([node], [rng.random()])
        if rng.random() < 0.4:
            selected.update(tree.select(1.0, k=rng.randint(1, 2)).tolist())
        if rng.random() < 0.1:
            tree.set_status([rng.randrange(len(tree))], FAILED)
    return tree, sorted(selected)


class Forest:
    """Random trees, a copy of each, and random arguments for both."""

    def __init__(self, rng):
        pairs = [grown(rng) for _ in range(rng.randrange(6))]
        self.trees = [tree for tree, _ in pairs]
        self.copies = copy.deepcopy(self.trees)
        self.released = [rng.sample(s, rng.randint(0, len(s))) for _, s in pairs]
        self.nodes = [rng.choices(range(len(t)), k=rng.randrange(4)) for t in self.trees]
        self.values = [[rng.uniform(-2, 2) for _ in nodes] for nodes in self.nodes]
        self.c = [rng.uniform(0, 4) for _ in pairs]
        self.k = [rng.randrange(4) for _ in pairs]

    def check(self, results, expected):
        """Both gave the same, and left the same trees."""
        if results is not None:
            flat, counts = results
            assert [flat.dtype, counts.dtype] == ["i4", "i4"]
            assert (flat.tolist(), counts.tolist()) == joined(expected)
        for tree, other in zip(self.trees, self.copies, strict=True):
            assert tree.__getstate__() == other.__getstate__()
            assert tree.select(1.0, k=99).tolist() == other.select(1.0, k=99).tolist()


def joined(lists):
    return [x for part in lists for x in part], [len(part) for part in lists]


def selected(tree, c, rule, k):
    return tree.select(c, rule, k).tolist() if k else []


@given(rng=st.randoms(use_true_random=False), rule=rules)
def test_select_many_is_select_one_by_one(rng, rule):
    forest = Forest(rng)
    results = select_many(forest.trees, forest.c, rule, forest.k)
    forest.check(results, [selected(t, c, rule, k) for t, c, k in zip(forest.copies, forest.c, forest.k, strict=True)])


@given(rng=st.randoms(use_true_random=False), rule=rules, c=st.floats(0, 4), k=st.integers(0, 3))
def test_a_scalar_is_the_same_for_all_trees(rng, rule, c, k):
    forest = Forest(rng)
    results = select_many(forest.trees, c, rule, k)
    forest.check(results, [selected(tree, c, rule, k) for tree in forest.copies])


@given(rng=st.randoms(use_true_random=False))
def test_backup_many_is_backup_one_by_one(rng):
    forest = Forest(rng)
    backup_many(forest.trees, *joined(forest.nodes), joined(forest.values)[0])
    for tree, nodes, values in zip(forest.copies, forest.nodes, forest.values, strict=True):
        tree.backup(nodes, values)
    forest.check(None, None)


@given(rng=st.randoms(use_true_random=False))
def test_release_many_is_release_one_by_one(rng):
    forest = Forest(rng)
    release_many(forest.trees, *joined(forest.released))
    for tree, nodes in zip(forest.copies, forest.released, strict=True):
        tree.release(nodes)
    forest.check(None, None)


@given(rng=st.randoms(use_true_random=False))
def test_top_k_many_is_top_k_one_by_one(rng):
    forest = Forest(rng)
    scores = [[rng.choice([0.5, value, float("nan")]) for value in part] for part in forest.values]
    results = top_k_many(forest.trees, *joined(forest.nodes), joined(scores)[0], forest.k)
    expected = [
        tree.top_k(nodes, own, k).tolist() if k else []
        for tree, nodes, own, k in zip(forest.copies, forest.nodes, scores, forest.k, strict=True)
    ]
    forest.check(results, expected)


@settings(max_examples=300)
@given(rng=st.randoms(use_true_random=False), rule=rules)
def test_advance_many_is_release_backup_select_one_by_one(rng, rule):
    forest = Forest(rng)
    flat_values = joined(forest.values)[0]
    results = advance_many(
        forest.trees, *joined(forest.released), *joined(forest.nodes), flat_values, forest.c, rule, forest.k
    )
    expected = []
    for i, tree in enumerate(forest.copies):
        tree.release(forest.released[i])
        tree.backup(forest.nodes[i], forest.values[i])
        expected.append(selected(tree, forest.c[i], rule, forest.k[i]))
    forest.check(results, expected)


@pytest.fixture
def trees():
    """Three trees of three children, of which the first is selected."""
    trees = [Tree() for _ in range(3)]
    for tree in trees:
        tree.add_children(0, [0.5, 0.3, 0.2])
        tree.select(1.0)
    return trees


NAN = float("nan")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: select_many(t[0], 1.0), TypeError, "`trees` must be a list of Tree objects; got Tree"),
        (lambda t: select_many([*t, None], 1.0), TypeError, r"`trees\[3\]` must be a Tree; got NoneType"),
        (lambda t: select_many([Tree.__new__(Tree)], 1.0), ValueError, r"`trees\[0\]` is not initialised"),
        (lambda t: select_many([*t, t[1]], 1.0), ValueError, "distinct; got one tree as both 1 and 3"),
        (lambda t: select_many(t, [1.0]), ValueError, "`c` must have one entry for each of the 3 `trees`; got 1"),
        (lambda t: select_many(t, [1, 1, NAN]), ValueError, r"`trees\[2\]`: `c` must be finite"),
        (lambda t: select_many(t, "1"), TypeError, "`c` must hold numbers"),
        (lambda t: select_many(t, 1.0, "ucb"), ValueError, "`rule`"),
        (lambda t: select_many(t, 1.0, k=-1), ValueError, "`k` must not be negative; got -1 for tree 0"),
        (lambda t: select_many(t, 1.0, k=[1, 1, -5]), ValueError, "got -5 for tree 2"),
        (lambda t: select_many(t, 1.0, k=[1, 1]), ValueError, "`k` must have one entry"),
        (lambda t: select_many(t, 1.0, k=[[1, 1, 1]]), ValueError, "`k` must have 1 dimension"),
        (lambda t: select_many(t, 1.0, k=1.5), TypeError, "`k` must hold integers"),
        (lambda t: release_many(t, [1], [1]), ValueError, "`counts` must have one entry"),
        (lambda t: release_many(t, [1], [1, 1, -1]), ValueError, "`counts` must not be negative; got -1 for tree 2"),
        (lambda t: release_many(t, [1, 1], [1, 0, 0]), ValueError, "`counts` must add up to the 2 `nodes`; got 1"),
        (lambda t: release_many(t, [1, 1, 2], [1, 1, 1]), ValueError, r"`trees\[2\]`: `nodes` must be .*selected"),
        (lambda t: release_many(t, [1, 1, 1], [1, 2, 0]), ValueError, r"`trees\[1\]`: `nodes` must be distinct"),
        (lambda t: release_many(t, [1, 9], [1, 1, 0]), IndexError, r"`trees\[1\]`: `nodes` must lie in \[0, 4\)"),
        (lambda t: backup_many(t, [1, 4], [1, 0, 1], [1, 1]), IndexError, r"`trees\[2\]`: `nodes`"),
        (lambda t: backup_many(t, [1, 1], [1, 0, 1], [1, NAN]), ValueError, r"`trees\[2\]`: `values`"),
        (lambda t: backup_many(t, [1, 1], [1, 0, 1], [1]), ValueError, "`values` must have one entry for each of"),
        (lambda t: top_k_many(t, [1, 9], [1, 0, 1], [1, 1], 0), IndexError, r"`trees\[2\]`: `nodes`"),
        (lambda t: top_k_many(t, [1, 1], [1, 0, 1], [1], 1), ValueError, "`scores` must have one entry"),
        (lambda t: top_k_many(t, [1, 1], [1, 0, 1], [1, 1], -1), ValueError, "`k` must not be negative"),
        (lambda t: advance_many(t, [1], [1], [], [0] * 3, [], 1), ValueError, "`released_counts` must have"),
        (lambda t: advance_many(t, [1], [1, 1, 0], [], [0] * 3, [], 1), ValueError, "add up to the 1 `released`"),
        (lambda t: advance_many(t, [], [0] * 3, [1], [1], [1], 1), ValueError, "`node_counts` must have"),
        (lambda t: advance_many(t, [2], [0, 1, 0], [], [0] * 3, [], 1), ValueError, r"`trees\[1\]`: `released` must"),
        (lambda t: advance_many(t, [1], [1, 0, 0], [1], [0, 0, 1], [NAN], 1), ValueError, r"`trees\[2\]`: `values`"),
        (lambda t: advance_many(t, [1], [1, 0, 0], [1], [0, 0, 1], [1], [1, 1, -1]), ValueError, r"`trees\[2\]`: `c`"),
    ],
)
def test_bad_arguments_name_the_tree_and_change_nothing(trees, call, error, message):
    before = [tree.__getstate__() for tree in trees]
    with pytest.raises(error, match=message):
        call(trees)
    assert [tree.__getstate__() for tree in trees] == before
    release_many(trees, [1, 1, 1], [1, 1, 1])  # what was selected still is


def test_an_array_of_another_type_is_converted(trees):
    leaves, counts = select_many(tuple(trees), np.float32(1), k=np.array([2, 0, 1], np.uint8))
    assert (leaves.tolist(), counts.tolist()) == ([2, 3, 2], [2, 0, 1])
    release_many(trees, leaves.astype(np.int64), counts[::1].tolist())
    assert select_many([], 1.0)[1].tolist() == []


@pytest.mark.parametrize("shuffled", [False, True], ids=["same order", "opposite order"])
def test_threads_share_overlapping_trees(shuffled):
    trees = [Tree(1) for _ in range(24)]
    for tree in trees:
        tree.add_children(0, np.ones(64))
    rounds = 200

    def search(seed, own):
        rng = random.Random(seed)
        leaves, counts = select_many(own, 1.25, k=2)
        for _ in range(rounds):
            values = [rng.random() for _ in leaves]
            leaves, counts = advance_many(own, leaves, counts, leaves, counts, values, 1.25, k=2)
        release_many(own, leaves, counts)

    threads = [
        threading.Thread(target=search, args=(0, trees[:16])),
        threading.Thread(target=search, args=(1, trees[8:][:: -1 if shuffled else 1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert [int(tree.visits[0]) for tree in trees] == [2 * rounds] * 8 + [4 * rounds] * 8 + [2 * rounds] * 8
    assert not any(tree.virtual_visits.any() for tree in trees)
    assert all((tree.status[1:] == OPEN).all() for tree in trees)
