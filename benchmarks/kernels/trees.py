"""The trees that the tree attention is timed on, and the sorted copies that its rivals work on.

A *beam* tree is what a beam search leaves behind: 16 levels of N/16 nodes, of which a quarter was kept
and given four children each.  An *mcts* tree grows four children at a time, half of them at the tip of
one long branch and half at random leaves.  A step has 32 to 64 tokens, the root has the prefix, which is
half question and half image.  Keys, values and queries are normal and rounded to the type under test, so
that everybody sees the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from svip_search.kernels.triatt import IMAGE, QUESTION, STEP, Head, KVTree

ROUNDS, BRANCHING, LONGEST = 16, 4, 64
STEP_TOKENS = (32, 64)
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """What is timed: a tree, which of its nodes are scored, and how keys and values are stored.

    ``mode`` is ``"full"`` (every step) or ``"frontier"`` (the newest sixteenth: a beam's last level).
    """

    shape: str = "beam"
    nodes: int = 256
    prefix: int = 512
    width: int = 128
    heads: int = 3
    dtype: str = "float32"
    mode: str = "full"

    def __str__(self) -> str:
        what = f"{self.shape} N={self.nodes} P={self.prefix} d={self.width}"
        return f"{what} heads={self.heads} {self.dtype} {self.mode}"


class Rows(NamedTuple):
    """A frontier in preorder, in which the rows that see a node stand side by side.

    Row r is frontier position ``order[r]``.  ``nodes`` [S] are the nodes that some row sees, in preorder,
    and ``tokens`` [U] their tokens one after the other: node s has columns ``ptr[s]:ptr[s + 1]`` and is
    seen by rows ``begin[s]:end[s]``.
    """

    order: Indices
    nodes: Indices
    begin: Indices
    end: Indices
    tokens: Indices
    ptr: Indices

    @property
    def seen_by(self) -> tuple[Indices, Indices]:
        """Return the first and the last-plus-one row that sees each column."""
        lengths = np.diff(self.ptr)
        return np.repeat(self.begin, lengths), np.repeat(self.end, lengths)

    def paths(self) -> list[Indices]:
        """Return the columns that each row sees, root first."""
        columns = np.arange(len(self.tokens))
        begin, end = self.seen_by
        return [columns[(begin <= row) & (row < end)] for row in range(len(self.order))]


class Sorted(NamedTuple):
    """Contiguous copies in the order of ``Rows``: k, v [heads, U, d] and q [heads, M, 3 / heads, d]."""

    k: torch.Tensor
    v: torch.Tensor
    q: torch.Tensor


@dataclass(frozen=True, eq=False)
class Workload:
    """A case with its arrays: torch tensors; queries are float32 [M, 3, d]."""

    case: Case
    tree: KVTree
    frontier: Indices
    q: torch.Tensor
    head: Head

    @cached_property
    def rows(self) -> Rows:
        """The frontier in preorder."""
        return sort_rows(self.tree, self.frontier)

    @cached_property
    def sorted(self) -> Sorted:
        """What rivals compute on; made once and outside all timing."""
        tokens = torch.as_tensor(self.rows.tokens, device=self.q.device)
        k, v = (a[tokens].transpose(0, 1).contiguous() for a in (self.tree.k, self.tree.v))
        q = self.q[torch.as_tensor(self.rows.order, device=self.q.device)].to(k.dtype)
        q = q.view(len(q), len(k), 3 // len(k), -1).transpose(0, 1).contiguous()
        return Sorted(k, v, q)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.q.device

    @property
    def flops(self) -> int:
        """What the operation needs: 12 d for every scored node and token of its path."""
        return int(12 * self.tree.width * np.sum(np.diff(self.rows.ptr) * (self.rows.end - self.rows.begin)))

    @property
    def bytes(self) -> int:
        """Keys and values of every token that is seen, read once."""
        k = self.tree.k
        return int(2 * len(self.rows.tokens) * k.shape[1] * k.shape[2] * k.element_size())


def make(case: Case, seed: int = 0, device: str = "cpu") -> Workload:
    """Return the workload of a case: the same for the same seed, in both modes and on every device."""
    rng = np.random.default_rng(seed)
    parent = {"beam": beam, "mcts": mcts}[case.shape](case.nodes, rng)
    lengths = rng.integers(STEP_TOKENS[0], STEP_TOKENS[1] + 1, case.nodes + 1)
    lengths[0] = case.prefix
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    segment = np.full(ptr[-1], STEP)
    segment[: case.prefix] = np.where(np.arange(case.prefix) < case.prefix // 2, QUESTION, IMAGE)
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).to(getattr(torch, case.dtype)).to(device)

    k, v = (normal(int(ptr[-1]), case.heads, case.width) for _ in range(2))
    tree = KVTree(parent, ptr, segment, k, v)
    q = normal(case.nodes + 1, 3, case.width).float()
    head = Head(normal(3, case.width).float() / case.width**0.5, normal(3).float())
    frontier = np.arange(1, case.nodes + 1)
    if case.mode == "frontier":
        frontier = frontier[-(case.nodes // ROUNDS) :]
    return Workload(case, tree, frontier, q[torch.as_tensor(frontier, device=device)], head)


def rounds(work: Workload) -> list[Workload]:
    """Return the tree as it was after each sixteenth of its steps, with that sixteenth as the frontier."""
    tree, size = work.tree, work.case.nodes // ROUNDS
    q = torch.zeros(len(tree), 3, tree.width, device=work.device)
    q[torch.as_tensor(work.frontier)] = work.q
    grown = []
    for first in range(1, len(tree), size):
        n, cut = first + size, int(tree.token_ptr[first + size])
        young = KVTree(tree.parent[:n], tree.token_ptr[: n + 1], tree.segment[:cut], tree.k[:cut], tree.v[:cut])
        grown.append(Workload(work.case, young, np.arange(first, n), q[first:n], work.head))
    return grown


def beam(nodes: int, rng: np.random.Generator) -> list[int]:
    """Return the parents of a root and ``nodes`` steps, level by level."""
    width = nodes // ROUNDS
    if nodes % (ROUNDS * BRANCHING):
        raise ValueError(f"`nodes` must be a multiple of {ROUNDS * BRANCHING}; got {nodes}.")
    parent = [-1] + [0] * width
    for _ in range(ROUNDS - 1):
        kept = len(parent) - width + np.sort(rng.choice(width, width // BRANCHING, replace=False))
        parent += [int(node) for node in kept for _ in range(BRANCHING)]
    return parent


def mcts(nodes: int, rng: np.random.Generator) -> list[int]:
    """Return the parents of a root and ``nodes`` steps, in the order in which they came."""
    if nodes % BRANCHING:
        raise ValueError(f"`nodes` must be a multiple of {BRANCHING}; got {nodes}.")
    parent, leaves, tip, length = [-1], [0], 0, 0
    while len(parent) <= nodes:
        longer = length < LONGEST and rng.random() < 0.5
        leaf = tip if longer else leaves[int(rng.integers(len(leaves)))]
        children = range(len(parent), len(parent) + BRANCHING)
        if leaf == tip:
            tip, length = children[0], length + 1
        leaves.remove(leaf)
        leaves += children
        parent += [leaf] * BRANCHING
    return parent


def sort_rows(tree: KVTree, frontier: Indices) -> Rows:
    """Return the frontier in preorder."""
    first, last = _preorder(tree.parent)
    order = np.argsort(first[frontier], kind="stable")
    position = first[frontier][order]
    nodes = np.argsort(first)
    begin, end = (np.searchsorted(position, bound[nodes]) for bound in (first, last))
    seen = end > begin
    nodes, begin, end = nodes[seen], begin[seen], end[seen]
    own = [np.arange(tree.token_ptr[node], tree.token_ptr[node + 1]) for node in nodes]
    ptr = np.concatenate([[0], np.cumsum([len(tokens) for tokens in own])])
    return Rows(order, nodes, begin, end, np.concatenate(own), ptr)


def _preorder(parent: NDArray[np.int32]) -> tuple[Indices, Indices]:
    """Return the place of every node in preorder, and the place after the last of its subtree."""
    size = np.ones(len(parent), np.int64)
    for node in range(len(parent) - 1, 0, -1):  # children come after their parents
        if parent[node] >= 0:
            size[parent[node]] += size[node]
    first, free, roots = np.zeros(len(parent), np.int64), np.zeros(len(parent), np.int64), 0
    for node, up in enumerate(parent):
        first[node] = roots if up < 0 else free[up]
        free[node] = first[node] + 1
        if up < 0:
            roots += size[node]
        else:
            free[up] += size[node]
    return first, first + size
