"""The C++ tree against its plain-Python twin, its limits, its saved state, and the text beside it."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from svip_search._core import Tree as Arena
from svip_search._tree import Status, Tree
from svip_search._types import Candidate

sys.path.insert(0, str(Path(__file__).parent))
from tree_twin import EXPANDED, FAILED, OPEN, TERMINAL, TreeTwin

sys.path.pop(0)

COLUMNS = ("parent", "visits", "virtual_visits", "value_sum", "prior", "status")
unit = st.floats(0, 1, width=32)


class Replay(RuleBasedStateMachine):
    """Every operation is done on both trees; afterwards all columns must be identical."""

    def __init__(self):
        super().__init__()
        self.tree, self.twin = Arena(1), TreeTwin()

    def node(self, data, allowed):
        nodes = [n for n in range(len(self.twin.parent)) if allowed(n)]
        return data.draw(st.sampled_from(nodes)) if nodes else None

    @rule(data=st.data(), priors=st.lists(unit, min_size=1, max_size=4))
    def add_children(self, data, priors):
        node = self.node(data, lambda n: self.twin.status[n] not in (TERMINAL, FAILED))
        if node is not None:
            assert self.tree.add_children(node, priors) == self.twin.add_children(node, priors)

    @rule(c=st.floats(0, 4), kind=st.sampled_from(["puct", "uct"]), k=st.integers(1, 5))
    def select(self, c, kind, k):
        assert self.tree.select(c, kind, k).tolist() == self.twin.select(c, kind, k)

    @rule(
        c=st.floats(0, 4),
        kind=st.sampled_from(["puct", "uct"]),
        values=st.lists(unit, min_size=2, max_size=2),
    )
    def simulate(self, c, kind, values):
        leaf = self.tree.select(c, kind)
        assert leaf.tolist() == self.twin.select(c, kind, 1)
        if len(leaf):
            first = self.tree.add_children(int(leaf[0]), [0.5, 0.25])
            self.twin.add_children(int(leaf[0]), [0.5, 0.25])
            for tree in (self.tree, self.twin):
                tree.backup([first, first + 1], values)
                tree.release(leaf.tolist())

    @rule(data=st.data(), value=st.floats(-2, 2))
    def backup(self, data, value):
        nodes = [self.node(data, lambda n: True) for _ in range(3)]
        self.tree.backup(nodes, [value, 0.5, 1])
        self.twin.backup(nodes, [value, 0.5, 1])

    def holdable(self):
        twin = self.twin
        return [n for n, status in enumerate(twin.status) if status == OPEN and n not in twin.selected]

    @precondition(lambda self: self.holdable())
    @rule(data=st.data())
    def hold(self, data):
        nodes = data.draw(st.lists(st.sampled_from(self.holdable()), unique=True))
        self.tree.hold(nodes)
        self.twin.hold(nodes)

    @precondition(lambda self: self.twin.selected)
    @rule(data=st.data())
    def release(self, data):
        nodes = data.draw(st.lists(st.sampled_from(sorted(self.twin.selected)), unique=True))
        self.tree.release(nodes)
        self.twin.release(nodes)

    @rule(data=st.data(), status=st.integers(0, 4))
    def set_status(self, data, status):
        def allowed(n):
            return status not in (OPEN, EXPANDED) or (status == EXPANDED) == bool(self.twin.children(n))

        node = self.node(data, allowed)
        if node is not None:
            self.tree.set_status([node], status)
            self.twin.set_status([node], status)

    @invariant()
    def columns_are_identical(self):
        for name in COLUMNS:
            assert getattr(self.tree, name).tolist() == getattr(self.twin, name), name

    def teardown(self):
        # What is derived on loading must equal what was maintained: the rest of the search agrees.
        loaded = pickle.loads(pickle.dumps(self.tree))
        for _ in range(5):
            assert loaded.select(1.0, k=2).tolist() == self.twin.select(1.0, "puct", 2)


Replay.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestReplay = Replay.TestCase


@pytest.fixture
def arena():
    tree = Arena()
    tree.add_children(0, [0.5, 0.3, 0.2])
    tree.add_children(1, [0.5, 0.5])
    tree.backup([4, 5, 2], [0.9, 0.2, 0.4])
    tree.set_status([3], TERMINAL)
    tree.set_reward([4], [[0.9, 0.8, 1.0]])
    tree.select(1.0)
    return tree


def columns_of(tree):
    return {name: getattr(tree, name).copy() for name in (*COLUMNS, "reward", "depth")}


def test_pickle_and_copy_keep_everything(arena):
    for other in (pickle.loads(pickle.dumps(arena)), copy.deepcopy(arena)):
        for name, column in columns_of(arena).items():
            np.testing.assert_array_equal(column, getattr(other, name), err_msg=name)
        other.release([])
        assert other.select(1.0, k=9).tolist() == pickle.loads(pickle.dumps(arena)).select(1.0, k=9).tolist()


def load(state):
    tree = Arena.__new__(Arena)
    tree.__setstate__(state)
    return tree


def with_checksum(body):
    value = 0xCBF29CE484222325
    for i in range(0, len(body), 8):
        word = int.from_bytes(body[i : i + 8], "little")
        value = ((value ^ word) * 0x100000001B3) % 2**64
    return body + struct.pack("<Q", value)


@given(data=st.data())
def test_corrupt_state_is_refused(data):
    tree = Arena()
    tree.add_children(0, [0.5, 0.5])
    state = bytearray(tree.__getstate__())
    assert with_checksum(bytes(state[:-8])) == state
    position = data.draw(st.integers(0, len(state) - 1))
    state[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="`state`"):
        load(bytes(state))


@given(body=st.binary(max_size=200), position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_forged_state_never_crashes(body, position, byte):
    tree = Arena()
    tree.add_children(0, [0.5, 0.5])
    tree.add_children(2, [1.0])
    tree.select(1.0)
    genuine = bytearray(tree.__getstate__()[:-8])
    genuine[position % len(genuine)] = byte
    for forged in (with_checksum(bytes(genuine)), with_checksum(bytes(genuine[:24]) + body), body):
        try:
            loaded = load(forged)
        except ValueError:
            continue
        loaded.backup([len(loaded) - 1], [1.0])
        loaded.select(1.0, k=10)
        loaded.path(len(loaded) - 1)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: Arena(0), ValueError),
        (lambda t: Arena(2**31), ValueError),
        (lambda t: t.add_children(99, [1.0]), IndexError),
        (lambda t: t.add_children(-1, [1.0]), IndexError),
        (lambda t: t.add_children(2**40, [1.0]), IndexError),
        (lambda t: t.add_children(2, []), ValueError),
        (lambda t: t.add_children(2, [float("nan")]), ValueError),
        (lambda t: t.add_children(2, [-0.1]), ValueError),
        (lambda t: t.add_children(2, [float("inf")]), ValueError),
        (lambda t: t.add_children(2, [1e300]), ValueError),
        (lambda t: t.add_children(2, [[0.5, 0.5]]), ValueError),
        (lambda t: t.add_children(2, ["a"]), TypeError),
        (lambda t: t.add_children(3, [1.0]), ValueError),
        (lambda t: t.select(-1.0), ValueError),
        (lambda t: t.select(float("nan")), ValueError),
        (lambda t: t.select(float("inf")), ValueError),
        (lambda t: t.select(1.0, "ucb"), ValueError),
        (lambda t: t.select(1.0, k=0), ValueError),
        (lambda t: t.backup([99], [1.0]), IndexError),
        (lambda t: t.backup([-1], [1.0]), IndexError),
        (lambda t: t.backup([2**32], [1.0]), IndexError),
        (lambda t: t.backup(np.array([2**64 - 1], np.uint64), [1.0]), IndexError),
        (lambda t: t.backup([1.5], [1.0]), TypeError),
        (lambda t: t.backup([True], [1.0]), TypeError),
        (lambda t: t.backup(None, [1.0]), TypeError),
        (lambda t: t.backup([1, [2]], [1.0]), ValueError),
        (lambda t: t.backup([1, 2], [1.0]), ValueError),
        (lambda t: t.backup([1], [float("nan")]), ValueError),
        (lambda t: t.backup([1], [1e201]), ValueError),
        (lambda t: t.backup([1], [1j]), TypeError),
        (lambda t: t.hold([1]), ValueError),
        (lambda t: t.hold([3]), ValueError),
        (lambda t: t.hold([4]), ValueError),
        (lambda t: t.hold([2, 5, 2]), ValueError),
        (lambda t: t.hold([2, 99]), IndexError),
        (lambda t: t.hold([2, 0.5]), TypeError),
        (lambda t: t.release([2]), ValueError),
        (lambda t: t.release([4, 4]), ValueError),
        (lambda t: t.release([0]), ValueError),
        (lambda t: t.release([99]), IndexError),
        (lambda t: t.set_status([1], 5), ValueError),
        (lambda t: t.set_status([1], -1), ValueError),
        (lambda t: t.set_status([1], OPEN), ValueError),
        (lambda t: t.set_status([2], EXPANDED), ValueError),
        (lambda t: t.set_status([99], FAILED), IndexError),
        (lambda t: t.set_reward([1], [[0.5, 0.5]]), ValueError),
        (lambda t: t.set_reward([1, 2], [[0.5, 0.5, 0.5]]), ValueError),
        (lambda t: t.set_reward([1], [0.5, 0.5]), ValueError),
        (lambda t: t.set_reward([1], [[0.5, 0.5, float("inf")]]), ValueError),
        (lambda t: t.set_reward([99], [[0.5, 0.5, 0.5]]), IndexError),
        (lambda t: t.path(99), IndexError),
        (lambda t: t.path(-1), IndexError),
        (lambda t: t.top_k([1, 2], [0.5], 1), ValueError),
        (lambda t: t.top_k([99], [0.5], 1), IndexError),
        (lambda t: t.top_k([1], [0.5], 0), ValueError),
        (lambda t: Arena.__new__(Arena).select(1.0), ValueError),
    ],
)
def test_bad_arguments_raise_and_change_nothing(arena, call, error):
    before = arena.__getstate__()
    with pytest.raises(error):
        call(arena)
    assert arena.__getstate__() == before


def test_a_held_leaf_is_not_selected_until_released(arena):
    before = arena.__getstate__()
    arena.hold([2, 5])
    assert arena.virtual_visits.tolist() == [3, 2, 1, 0, 1, 1]
    assert arena.select(1.0, k=9).tolist() == []
    assert pickle.loads(pickle.dumps(arena)).select(1.0, k=9).tolist() == []
    arena.release([5, 2])
    assert arena.__getstate__() == before
    assert sorted(arena.select(1.0, k=9).tolist()) == [2, 5]


def test_views_stay_valid_after_growth_and_after_the_tree():
    tree = Arena(1)
    small = {name: getattr(tree, name) for name in (*COLUMNS, "reward", "first_child", "next_sibling", "depth")}
    tree.add_children(0, np.ones(5000))
    large = tree.prior
    assert small["parent"].tolist() == [-1]
    assert len(large) == 5001
    del tree
    gc.collect()
    _ = [np.ones(5001, np.float32) * 7 for _ in range(50)]  # would overwrite freed memory
    assert large.tolist() == [1.0] * 5001
    assert all(len(view) == 1 for view in small.values())


def test_views_are_live_typed_and_read_only(arena):
    visits = arena.visits
    arena.backup([4], [1.0])
    assert visits[4] == 2
    assert visits.base is not None
    assert arena.reward.shape == (6, 3)
    assert [arena.status.dtype, arena.prior.dtype, arena.value_sum.dtype] == ["u1", "f4", "f8"]
    with pytest.raises(ValueError, match="read-only"):
        visits[0] = 1


def test_rewards_are_nan_until_set(arena):
    assert np.isnan(arena.reward[[0, 1, 2, 3, 5]]).all()
    np.testing.assert_array_equal(arena.reward[4], np.float32([0.9, 0.8, 1.0]))
    arena.set_reward(5, [0.1, 0.2, float("nan")])
    assert np.isnan(arena.reward[5]).tolist() == [False, False, True]


def test_a_chain_of_100k_nodes():
    tree = Arena()
    for node in range(100_000):
        tree.add_children(node, 1.0)
    assert tree.path(100_000).tolist() == list(range(100_001))
    assert tree.select(1.0, "uct").tolist() == [100_000]
    tree.backup(100_000, 1.0)
    loaded = pickle.loads(pickle.dumps(tree))
    assert loaded.visits.sum() == 100_001
    loaded.release(100_000)
    loaded.set_status(100_000, TERMINAL)
    assert loaded.status[0] == Status.EXHAUSTED


@given(
    scores=st.lists(st.floats(allow_infinity=True) | st.sampled_from([0.0, 1.0]), max_size=30),
    k=st.integers(1, 40),
)
def test_top_k_is_a_stable_sort_with_nan_last(scores, k):
    tree = Arena()
    tree.add_children(0, np.ones(40))
    nodes = np.arange(40, 40 - len(scores), -1)
    order = sorted(
        range(len(scores)),
        key=lambda i: (scores[i] != scores[i], -scores[i] if scores[i] == scores[i] else 0),
    )
    assert tree.top_k(nodes, scores, k).tolist() == nodes[order[:k]].tolist()


def test_threads_share_a_tree():
    tree = Arena(1)
    tree.add_children(0, np.full(8, 1 / 8))

    def simulate():
        for _ in range(300):
            for leaf in tree.select(1.25, k=4).tolist():
                first = tree.add_children(leaf, [0.5, 0.5])
                tree.backup([first, first + 1], [0.25, 0.75])
                tree.release(leaf)

    threads = [threading.Thread(target=simulate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not tree.virtual_visits.any()
    assert tree.visits[0] == len(tree) - 9


# ---- the tree with its text


@pytest.fixture
def tree():
    tree = Tree()
    tree.add(
        0,
        [Candidate('Look at "it" & <that>.', -1.5, 6), Candidate("Zähle\n○\x00\ud800", -0.1, 3)],
        [0.75, 0.25],
    )
    tree.add(1, [Candidate("The answer is 4.", -0.5, 5, "stop")])
    tree.arena.backup([3], [0.7])
    tree.arena.set_reward([3], [[0.5, 0.25, 1 / 3]])
    tree.arena.set_status([3], Status.TERMINAL)
    return tree


def test_add_path_texts_children(tree):
    assert tree.add(2, [Candidate("a"), Candidate("b")]) == range(4, 6)
    assert tree.path(4) == [0, 2, 4]
    assert tree.texts(0) == ()
    assert tree.texts(3) == ('Look at "it" & <that>.', "The answer is 4.")
    assert [tree.children(n) for n in range(6)] == [[1, 2], [3], [4, 5], [], [], []]
    assert tree.arena.prior.tolist() == [1, 0.75, 0.25, 1, 0.5, 0.5]
    assert len(tree) == len(tree.arena) == 6


@pytest.mark.parametrize(
    ("parent", "count", "priors", "error"),
    [
        (99, 1, None, IndexError),
        (0, 0, None, ValueError),
        (0, 2, [1.0], ValueError),
        (3, 1, None, ValueError),
    ],
)
def test_a_refused_add_changes_nothing(tree, parent, count, priors, error):
    with pytest.raises(error):
        tree.add(parent, [Candidate("x")] * count, priors)
    assert len(tree) == len(tree.arena) == len(tree.tokens) == 4
    with pytest.raises(IndexError):
        tree.children(4)


def test_pickle_dict_and_json_are_exact(tree):
    for other in (
        pickle.loads(pickle.dumps(tree)),
        Tree.from_dict(tree.to_dict()),
        Tree.from_json(tree.to_json()),
    ):
        assert other.to_dict() == tree.to_dict()
        assert other.arena.__getstate__() == tree.arena.__getstate__()
    assert json.loads(tree.to_json())["reward"][0] == [None, None, None]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"parent": [-1, 0, 0, 3]},
        {"parent": [-1, 0, 0, 9]},
        {"parent": [-1.0, 0.0, 0.0, 1.0]},
        {"visits": [1, 1, 0]},
        {"visits": [2**40, 1, 0, 1]},
        {"status": [0, 0, 0, 0]},
        {"status": [1, 4, 0, 300]},
        {"reward": [[1, 2]] * 4},
        {"reward": "x"},
        {"prior": [1, 1, 1, "x"]},
        {"text": ["", "a"]},
        {"text": ["", "a", "b", 3]},
        {"tokens": None},
        {"finish_reason": ["step", "step", "step", "crash"]},
    ],
)
def test_a_bad_dict_is_refused(tree, change):
    with pytest.raises(ValueError):
        Tree.from_dict(tree.to_dict() | change)


def test_networkx_and_graphml_agree(tree, tmp_path):
    nx = pytest.importorskip("networkx")
    graph = tree.to_networkx()
    assert list(graph.edges) == [(0, 1), (0, 2), (1, 3)]
    assert graph.nodes[3]["value"] == 0.7
    assert "value" not in graph.nodes[2]
    assert graph.nodes[3]["attribute"] == pytest.approx(1 / 3)
    tree.to_graphml(tmp_path / "tree.graphml")
    read = nx.read_graphml(tmp_path / "tree.graphml", node_type=int)
    assert list(read.edges) == list(graph.edges)
    for node, known in graph.nodes(data=True):
        expected = known | {"text": known["text"].replace("\x00", "\ufffd").replace("\ud800", "\ufffd")}
        assert read.nodes[node] == expected | ({} if expected["text"] else {"text": read.nodes[node]["text"]})


def test_render(tree):
    lines = tree.render(max_width=12).splitlines()
    assert lines == [
        "root  [expanded, visits 1, value 0.70]",
        '├─ Look at "it…  [exhausted, visits 1, value 0.70]',
        "│  └─ The answer …  [terminal, visits 1, value 0.70, reward 0.50/0.25/0.33]",
        "└─ Zähle ○\x00\ud800  [open]",
    ]
    assert tree.render(max_nodes=2).splitlines()[-1] == "... 2 more nodes"
