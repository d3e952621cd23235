"""TriAttCoT trained on a tree of candidates against TriAttCoT trained on every path, padded."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from svip_search import kernels
from svip_search.kernels.triatt import _autograd, reference
from svip_search.rewards._triatt_cot import IMAGE, PADDING, QUESTION, STEP, TriAttCoT

VARIANTS = [
    {"n_kv_heads": 3, "query": "conditioned", "segment_bias": True, "head": "linear"},
    {"n_kv_heads": 1, "query": "conditioned", "segment_bias": True, "head": "mlp"},
    {"n_kv_heads": 3, "query": "constant", "segment_bias": True, "head": "mlp"},
    {"n_kv_heads": 1, "query": "constant", "segment_bias": False, "head": "linear"},
    {"n_kv_heads": 3, "query": "conditioned", "segment_bias": True, "head": "mlp", "surprise": True},
]
PARENT = [-1, 0, 0, 1, 1, 2, 3, 3, 5, 6]
LEAVES = [4, 7, 8, 9]
WIDTH = 12


@pytest.fixture(params=["public", "sweep"])
def through(request, monkeypatch):
    """Run the module through the public call, and through the gradients of `_autograd` whatever that chooses."""

    def sweep(tree, frontier, q, head, *, bias, return_att, backend):
        return _autograd.differentiable(reference.triatt, tree, frontier, q, head, bias, return_att)

    if request.param == "sweep":
        monkeypatch.setattr(sys.modules["svip_search.kernels.triatt"], "triatt", sweep)


class Tree:
    """Ten nodes of random lengths, as a tree and as the padded paths of its leaves."""

    def __init__(self):
        rng = np.random.default_rng()
        self.lengths = np.array([6, *rng.integers(1, 5, len(PARENT) - 1)])
        self.ptr = np.concatenate([[0], np.cumsum(self.lengths)])
        self.segment = np.repeat([QUESTION] + [STEP] * (len(PARENT) - 1), self.lengths)
        self.segment[2:5] = IMAGE
        self.hidden = torch.randn(self.ptr[-1], WIDTH, dtype=torch.float64)
        self.surprise = torch.tensor(rng.random(self.ptr[-1]) * (self.segment == STEP))
        self.target = torch.tensor(rng.random((len(PARENT) - 1, 3)))

    def paths(self):
        """Return which tokens stand where, segments, step index, separators, and one place [path, step] a node."""
        paths = []
        for leaf in LEAVES:
            path = [leaf]
            while PARENT[path[-1]] >= 0:
                path.append(PARENT[path[-1]])
            paths.append(path[::-1])
        longest = max(self.lengths[p].sum() for p in paths)
        gather, segments = torch.zeros(2, len(LEAVES), longest, dtype=torch.int64)
        place = {}
        index = torch.full((len(LEAVES), longest), PADDING)
        separators = torch.full((len(LEAVES), max(map(len, paths)) - 1), -1)
        for row, path in enumerate(paths):
            tokens = np.concatenate([np.arange(self.ptr[n], self.ptr[n + 1]) for n in path])
            gather[row, : len(tokens)] = torch.tensor(tokens)
            segments[row, : len(tokens)] = torch.tensor(self.segment[tokens])
            index[row, : len(tokens)] = torch.tensor(np.repeat(np.arange(len(path)) - 1, self.lengths[path]))
            ends = np.cumsum(self.lengths[path])[1:] - 1
            separators[row, : len(ends)] = torch.tensor(ends)
            place |= {n: (row, step) for step, n in enumerate(path[1:])}
        where = torch.tensor([place[n] for n in range(1, len(PARENT))])
        return gather, segments, index, separators, where


def gradients(head, tree, logits_of):
    hidden = tree.hidden.clone().requires_grad_()
    head.zero_grad()
    loss = binary_cross_entropy_with_logits(logits_of(head.hear(hidden, tree.surprise)), tree.target)
    loss.backward()
    return loss.detach(), {"hidden": hidden.grad, **{n: p.grad for n, p in head.named_parameters()}}


def make_head(**variant):
    head = TriAttCoT(WIDTH, 8, **variant).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head


@pytest.mark.usefixtures("through")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_training_on_the_tree_equals_training_on_padded_paths(variant):
    head, tree = make_head(**variant), Tree()
    gather, segments, index, separators, where = tree.paths()

    def dense(hidden):
        return head(hidden[gather], segments, index, separators)[where[:, 0], where[:, 1]]

    loss, expected = gradients(head, tree, dense)
    found_loss, found = gradients(head, tree, lambda h: head.forward_tree(h, PARENT, tree.ptr, tree.segment))
    torch.testing.assert_close(found_loss, loss, rtol=1e-12, atol=0)
    assert found.keys() == expected.keys()
    for name, want in expected.items():
        assert want.abs().sum() > 0
        assert float((found[name] - want).norm()) <= 1e-10 * float(want.norm()), name


@pytest.mark.usefixtures("through")
@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_any_frontier(convert):
    head, tree = make_head(), Tree()
    logits = head.forward_tree(tree.hidden, PARENT, tree.ptr, tree.segment)
    some = head.forward_tree(tree.hidden, PARENT, tree.ptr, tree.segment, convert([4, 2, 4, 9]))
    torch.testing.assert_close(some, logits[[3, 1, 3, 8]])
    assert head.forward_tree(tree.hidden, PARENT, tree.ptr, tree.segment, []).shape == (0, 3)


def test_large_logits_are_not_rounded():
    head, tree = make_head().float(), Tree()
    with torch.no_grad():
        head.head_b.fill_(1e3)
    logits = head.forward_tree(tree.hidden.float(), PARENT, tree.ptr, tree.segment)
    loss = binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
    loss.backward()
    assert 900 < loss.item() < 1100
    torch.testing.assert_close(head.head_b.grad, torch.full((3,), 1 / 3))


def test_several_questions_at_once():
    head, trees = make_head(), [Tree(), Tree()]
    alone = [head.forward_tree(t.hidden, PARENT, t.ptr, t.segment) for t in trees]
    both = head.forward_tree(
        torch.cat([t.hidden for t in trees]),
        [*PARENT, *(p + len(PARENT) if p >= 0 else -1 for p in PARENT)],
        np.concatenate([trees[0].ptr, trees[1].ptr[1:] + trees[0].ptr[-1]]),
        np.concatenate([t.segment for t in trees]),
    )
    torch.testing.assert_close(both, torch.cat(alone))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_backend_is_passed_on(backend):
    head, tree = make_head(), Tree()
    kernels.reset_counts()
    head.forward_tree(tree.hidden, PARENT, tree.ptr, tree.segment, backend=backend)
    assert sum(kernels.counts()["triatt"].values()) == 1
    with pytest.raises(ValueError, match="`backend` must be one of auto"):
        head.forward_tree(tree.hidden, PARENT, tree.ptr, tree.segment, backend="abacus")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(5, 3)}, r"`hidden` must have shape \[T, 12\]; got \[5, 3\]"),
        ({"hidden": torch.zeros(1, 5, 12)}, r"`hidden` must have shape \[T, 12\]; got \[1, 5, 12\]"),
        ({"token_ptr": [0, 2, 4]}, r"`token_ptr` must have shape \[N \+ 1\] = \[4\]"),
        ({"parent": [-1, 2, 0]}, r"`parent` must be -1 or an earlier node; got parent\[1\] = 2"),
        ({"segment": [0, 0]}, r"`segment` must have shape \[T\] = \[5\]"),
        ({"frontier": [1, 3]}, r"`frontier` must hold nodes of the tree that own a token; got frontier\[1\] = 3"),
        ({"frontier": [-1]}, r"got frontier\[0\] = -1"),
        (
            {"token_ptr": [0, 2, 5, 5]},
            r"`frontier` must hold nodes of the tree that own a token; got frontier\[1\] = 2",
        ),
        ({"frontier": [0.5]}, "`frontier` must hold whole numbers; got float64"),
    ],
)
def test_wrong_trees_are_named(change, message):
    right = {"hidden": torch.zeros(5, 12), "parent": [-1, 0, 0], "token_ptr": [0, 2, 4, 5], "segment": [0, 0, 2, 2, 2]}
    with pytest.raises(ValueError, match=message):
        TriAttCoT(WIDTH, 8).forward_tree(**{**right, **change})
