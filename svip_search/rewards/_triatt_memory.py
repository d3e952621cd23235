"""Where a reward model keeps the keys and values of TriAtt-CoT between calls.

Two kinds with one interface: pages of the C++ core, written once and read in place, where the model runs on the CPU;
tensors, put together for each call, for every other backend.  A kept node gives its memory back when nobody refers
to it any more, so whoever holds one may go on using it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svip_search.kernels import which
from svip_search.kernels.triatt import KVPool, KVTree, PackedHead, PagedTree, triatt

if TYPE_CHECKING:
    from ._triatt_cot import TriAttCoT


class TriattMemory(Protocol):
    """Keys and values of prompts and steps, and the scores over them; what a node is, is its own affair."""

    def keep(self, parent: Any, segment: NDArray[np.uint8], k: Tensor, v: Tensor) -> Any:
        """Keep a node with keys and values [L, n_kv_heads, d]; ``parent`` is None for a prompt."""

    def score(self, nodes: Sequence[Any], q: Tensor) -> NDArray[np.float32]:
        """Return the scores [M, 3] of nodes, of whatever questions, for queries [M, 3, d]."""


def triatt_memory(head: TriAttCoT, device: torch.device, backend: str) -> TriattMemory:
    """Return the memory that suits the backend which scores there.

    Raises:
        BackendUnavailable: ``backend`` was asked for by name and cannot run here.
    """
    dtype = str(head.key.weight.dtype).removeprefix("torch.")
    name = which("triatt", backend, device=device.type, dtype=dtype, library="torch", width=head.config.head_dim)
    return PagedMemory(head) if name == "cpu" else TensorMemory(head, name)


class _Page:
    """A node of a paged tree that is freed with this object."""

    __slots__ = ("node", "tree")

    def __init__(self, tree: PagedTree, node: int) -> None:
        self.tree, self.node = tree, node

    def __del__(self) -> None:
        if not self.tree.closed:
            self.tree.free(self.node)


#: Nodes of a tree that takes no more prompts.  Questions share trees, so that one call scores them all; what a tree
#: notes of a node, some dozens of bytes, stays until the tree goes, and it goes with the last of its questions.
TREE_NODES = 4096


class PagedMemory:
    """Pages of the C++ core: a step is copied once, whatever the number of calls that read it."""

    def __init__(self, head: TriAttCoT) -> None:
        config = head.config
        self._pool = KVPool(config.head_dim, n_kv_heads=config.n_kv_heads)
        self._tree = self._pool.tree()
        self._head = PackedHead(head.head_parameters(), head.biases())

    def keep(self, parent: _Page | None, segment: NDArray[np.uint8], k: Tensor, v: Tensor) -> _Page:
        if parent is None and len(self._tree) >= TREE_NODES:
            self._tree = self._pool.tree()
        tree = self._tree if parent is None else parent.tree
        return _Page(tree, tree.append(-1 if parent is None else parent.node, segment, k, v))

    def score(self, nodes: Sequence[_Page], q: Tensor) -> NDArray[np.float32]:
        rows: dict[PagedTree, list[int]] = {}
        for i, node in enumerate(nodes):
            rows.setdefault(node.tree, []).append(i)
        scores = np.empty((len(nodes), 3), np.float32)
        for tree, own in rows.items():
            scores[own] = tree.score([nodes[i].node for i in own], q[own], self._head).scores
        return scores


class _Piece:
    """A node with its own tensors."""

    __slots__ = ("k", "parent", "segment", "v")

    def __init__(self, parent: _Piece | None, segment: NDArray[np.uint8], k: Tensor, v: Tensor) -> None:
        self.parent, self.segment, self.k, self.v = parent, segment, k, v

    def path(self) -> list[_Piece]:
        nodes = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return nodes[::-1]


class TensorMemory:
    """Tensors on the device of the model, made into one tree for each call."""

    def __init__(self, head: TriAttCoT, backend: str) -> None:
        self._module, self._backend = head, backend

    def keep(self, parent: _Piece | None, segment: NDArray[np.uint8], k: Tensor, v: Tensor) -> _Piece:
        # Copies: views would keep the whole batch, which is of other questions too.
        dense = torch.contiguous_format
        return _Piece(parent, segment, k.clone(memory_format=dense), v.clone(memory_format=dense))

    def score(self, nodes: Sequence[_Piece], q: Tensor) -> NDArray[np.float32]:
        index: dict[_Piece, int] = {}
        for node in nodes:
            for piece in node.path():
                index.setdefault(piece, len(index))
        tree = KVTree(
            parent=np.array([-1 if p.parent is None else index[p.parent] for p in index], np.int32),
            token_ptr=np.cumsum([0, *(len(p.segment) for p in index)]),
            segment=np.concatenate([p.segment for p in index]),
            k=torch.cat([p.k for p in index]),
            v=torch.cat([p.v for p in index]),
        )
        out = triatt(tree, [index[n] for n in nodes], q, self._module.head_parameters(), bias=self._module.biases(),
                     backend=self._backend)  # fmt: skip
        scores: NDArray[np.float32] = out.scores.float().cpu().numpy()
        return scores
