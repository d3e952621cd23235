"""Keys and values of token prefixes: kept per question in a trie, laid out as left-padded batches.

A question is the root of a trie, each step a child.  A node holds the token ids of its step and,
while the memory budget lasts, a slice of keys and values of every layer.  The slices along a path
are consecutive columns, so a batch for any set of paths is one copy per slice:

    trie = PrefixTrie(capacity=50_000)
    root = trie.add_root(question_key(question), prompt_ids, KeyValues.from_cache(prefill_cache))
    node = trie.add(root, "the triangle is red", step_ids, batch.take(row=0, start=0, stop=9))
    batch = BatchCache.assemble([[n.kv for n in node.path()]], repeats=[16], reserve=64)
    model(input_ids=ids, past_key_values=batch, attention_mask=batch.attention_mask(1), ...)

Does not apply to recurrent layers: a state that is not a list of columns cannot be cut.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Keys and values of consecutive tokens of one sequence.

    Layers of equal shape lie in one tensor, so that a slice of the whole model is one copy.

    Args:
        groups: tensors [planes, heads, tokens, width]; a plane is the keys or values of a layer.
        layout: (group, plane) of the keys, then of the values, for each layer.
    """

    groups: tuple[Tensor, ...]
    layout: tuple[tuple[tuple[int, int], tuple[int, int]], ...]

    @classmethod
    def from_cache(cls, cache: Any, row: int = 0, start: int = 0, stop: int | None = None) -> KeyValues:
        """Return a copy of columns [start, stop) of one row of a cache of transformers."""
        members: dict[tuple[Any, ...], list[Tensor]] = {}
        places: list[list[tuple[tuple[Any, ...], int]]] = []
        for layer in cache.layers:
            places.append([])
            for tensor in (layer.keys, layer.values):
                plane = tensor[row, :, start:stop]
                kind = (plane.shape[0], plane.shape[2], plane.dtype, plane.device)
                places[-1].append((kind, len(members.setdefault(kind, []))))
                members[kind].append(plane)
        order = {kind: i for i, kind in enumerate(members)}
        layout = tuple(((order[k], i), (order[v], j)) for (k, i), (v, j) in places)
        return cls(tuple(torch.stack(planes) for planes in members.values()), layout)

    @property
    def length(self) -> int:
        """Number of tokens."""
        return self.groups[0].shape[2]

    def cut(self, start: int, stop: int) -> KeyValues:
        """Return tokens [start, stop) as a view."""
        return KeyValues(tuple(g[:, :, start:stop] for g in self.groups), self.layout)

    def copy(self) -> KeyValues:
        """Return a copy that keeps no other tokens alive."""
        return KeyValues(tuple(g.clone() for g in self.groups), self.layout)


class _Columns(DynamicLayer):  # type: ignore[misc]
    """One layer of a ``BatchCache``: writes new columns into a buffer made in advance."""

    def __init__(self, owner: BatchCache, place: tuple[tuple[int, int], tuple[int, int]]) -> None:
        super().__init__()
        self.owner, self.place = owner, place
        self.is_initialized = True
        self.bind(owner.length)

    def bind(self, length: int) -> None:
        """Look at the first ``length`` columns of the owner's buffers."""
        (key_group, key_plane), (value_group, value_plane) = self.place
        self.key_buffer = self.owner.buffers[key_group][key_plane]
        self.value_buffer = self.owner.buffers[value_group][value_plane]
        self.dtype, self.device = self.key_buffer.dtype, self.key_buffer.device
        self.length = length
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, stop = self.length, self.length + key_states.shape[2]
        if stop > self.key_buffer.shape[2]:
            self.owner.grow(stop)
        self.key_buffer[:, :, start:stop] = key_states
        self.value_buffer[:, :, start:stop] = value_states
        self.length = stop
        self.keys, self.values = self.key_buffer[:, :, :stop], self.value_buffer[:, :, :stop]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length


class BatchCache(DynamicCache):  # type: ignore[misc]
    """A cache of transformers over rows of different lengths, padded on the left.

    Build it with :meth:`assemble`.  A forward pass appends columns in place; columns of row ``r``
    before ``starts[r]`` are padding, so token ``i`` of the row lies in column ``starts[r] + i``.

    Attributes:
        starts: int64 [rows], number of padding columns of each row, on the CPU.
        buffers: tensors [planes, rows, heads, columns, width], see :class:`KeyValues`.
    """

    def __init__(
        self,
        buffers: list[Tensor],
        layout: tuple[tuple[tuple[int, int], tuple[int, int]], ...],
        starts: Tensor,
        length: int,
    ) -> None:
        super().__init__()
        self.buffers, self.layout, self.starts = buffers, layout, starts
        self._length = length
        self._mask: Tensor | None = None
        self.layers = []
        self.layers = [_Columns(self, place) for place in layout]

    @classmethod
    def assemble(
        cls, rows: Sequence[Sequence[KeyValues]], repeats: Sequence[int] | None = None, reserve: int = 64
    ) -> BatchCache:
        """Return the batch whose rows are the given slices one after the other.

        Args:
            rows: for each distinct prefix its slices from the first token on, at least one token.
            repeats: how many consecutive rows each prefix gets, default one each.
            reserve: columns kept free for what follows; the buffers grow beyond by doubling it.

        Raises:
            ValueError: there is no row, or a row has no token.
        """
        lengths = [sum(s.length for s in row) for row in rows]
        if not lengths or min(lengths) == 0:
            raise ValueError(f"`rows` must hold at least one token each; got lengths {lengths}.")
        counts = [1] * len(rows) if repeats is None else list(repeats)
        longest, first = max(lengths), rows[0][0]
        # Columns in reserve are written before anything reads them.
        buffers = [
            g.new_empty((g.shape[0], sum(counts), g.shape[1], longest + reserve, g.shape[3])) for g in first.groups
        ]
        row_index = 0
        for slices, length, count in zip(rows, lengths, counts, strict=True):
            column = longest - length
            for buffer in buffers if column else ():
                buffer[:, row_index : row_index + count, :, :column] = 0
            for piece in slices:
                for buffer, group in zip(buffers, piece.groups, strict=True):
                    target = buffer[:, row_index : row_index + count, :, column : column + piece.length]
                    target.copy_(group.unsqueeze(1))
                column += piece.length
            row_index += count
        pads = [longest - n for n, c in zip(lengths, counts, strict=True) for _ in range(c)]
        return cls(buffers, first.layout, torch.tensor(pads, dtype=torch.int64), longest)

    @property
    def length(self) -> int:
        """Number of columns in use, padding included."""
        return self.layers[0].length if self.layers else self._length

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.starts)

    def attention_mask(self, query_length: int) -> Tensor | None:
        """Return bool [rows, length + query_length], or None where no row is padded."""
        if self._mask is None:
            if not bool(self.starts.any()):
                return None
            columns = torch.arange(self.buffers[0].shape[3] + 1)
            mask = columns[None, :] >= self.starts[:, None]
            self._mask = mask.to(self.buffers[0].device)
        missing = self.length + query_length - self._mask.shape[1]
        if missing > 0:
            self._mask = torch.nn.functional.pad(self._mask, (0, missing + 64), value=True)
        return self._mask[:, : self.length + query_length]

    def take(self, row: int, start: int, stop: int) -> KeyValues:
        """Return a copy of tokens [start, stop) of a row, padding not counted."""
        skip = int(self.starts[row])
        groups = tuple(b[:, row, :, skip + start : skip + stop].clone() for b in self.buffers)
        return KeyValues(groups, self.layout)

    def keep(self, rows: Sequence[int], reserve: int = 64) -> None:
        """Keep only the given rows, and drop columns that are padding in all of them."""
        index = torch.as_tensor(list(rows), dtype=torch.int64)
        starts = self.starts[index]
        skip, length = int(starts.min()), self.length
        kept = [b[:, index.to(b.device), :, skip:length] for b in self.buffers]
        self.buffers = [torch.cat([b, b.new_zeros((*b.shape[:3], reserve, b.shape[4]))], dim=3) for b in kept]
        self.starts, self._mask = starts - skip, None
        for layer in self.layers:
            layer.bind(length - skip)

    def grow(self, columns: int) -> None:
        """Make room for at least ``columns`` columns."""
        for i, buffer in enumerate(self.buffers):
            if buffer.shape[3] < columns:
                extra = max(columns - buffer.shape[3], buffer.shape[3] // 2)
                self.buffers[i] = torch.cat([buffer, buffer.new_zeros((*buffer.shape[:3], extra, buffer.shape[4]))], 3)
        for layer in self.layers:
            layer.bind(layer.length)


@dataclass(eq=False)
class Node:
    """A step (or, at the root, the prompt) with its token ids and cached keys and values.

    Args:
        text: the step, ``""`` at the root.
        ids: its token ids, separator included.
        parent: the step before, None at the root.
        kv: its slice of keys and values, None where it was evicted or never stored.  Which columns
            it holds is the owner's choice, as long as the slices along a path are consecutive.
        extra: whatever the owner wants to keep beside it (position offset, hidden state, …).
    """

    text: str
    ids: tuple[int, ...]
    parent: Node | None = None
    kv: KeyValues | None = None
    extra: Any = None
    children: dict[str, Node] = field(default_factory=dict)
    key: str = ""

    @property
    def end(self) -> int:
        """Number of tokens from the start of the prompt to the end of this step."""
        return sum(len(n.ids) for n in self.path())

    def path(self) -> list[Node]:
        """Return the nodes from the root to this one."""
        nodes = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return nodes[::-1]


#: Part of a trie's capacity that prompts leave to steps, so that prompts nobody asks for any more cannot fill it.
_FOR_STEPS = 1 / 8


class PrefixTrie:
    """Prefixes of many questions, bounded by tokens: steps go before prompts.

    A prompt brings a picture and is needed as long as its question is searched; a step is short and
    often never looked at again.  When keys and values take too much room::

        while tokens > capacity:
            if prompts take more than 7/8 of the capacity and there are several:
                drop the prompt used longest ago, with all steps below it
            elif there is a step:
                drop the step used longest ago
            else:
                drop the prompt used longest ago

    So as long as the prompts of all open questions fit into 7/8 of the capacity, none of them is computed twice.

    Args:
        capacity: tokens whose keys and values are kept; 0 keeps none.
        id_capacity: tokens whose ids are kept, by default far more than ``capacity``: an id is
            eight bytes where keys and values are kilobytes.

    Notes:
        A parent is always used more recently than its children, so leaves are evicted first and
        what remains of a path is its beginning.  Slices that the caller holds stay valid.  Ids go by
        last use alone, prompts like steps.
        Not thread-safe; the owner locks.
    """

    def __init__(self, capacity: int, id_capacity: int | None = None) -> None:
        if capacity < 0:
            raise ValueError(f"`capacity` must be >= 0 tokens; got {capacity}.")
        self.capacity = capacity
        self.id_capacity = max(1 << 20, 16 * capacity) if id_capacity is None else id_capacity
        self.roots: dict[str, Node] = {}
        self.tokens = 0
        self.id_tokens = 0
        self._root_tokens = 0
        self._root_order: OrderedDict[Node, int] = OrderedDict()
        self._step_order: OrderedDict[Node, int] = OrderedDict()
        self._id_order: OrderedDict[Node, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._id_order)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._id_order)

    def find(self, key: str, prefix: Sequence[str]) -> list[Node]:
        """Return the known nodes of a path, the root first; fewer than 1 + len(prefix) where unknown."""
        node = self.roots.get(key)
        if node is None:
            return []
        nodes = [node]
        for text in prefix:
            child = node.children.get(text)
            if child is None:
                break
            nodes.append(child)
            node = child
        self._touch(node)
        return nodes

    def add_root(self, key: str, ids: Sequence[int], kv: KeyValues | None = None, extra: Any = None) -> Node:
        """Return the root of a question; an existing one is given ``kv`` where it has none."""
        node = self.roots.get(key)
        if node is None:
            node = self.roots[key] = Node("", tuple(ids), None, None, extra, key=key)
            self._id_order[node] = None
            self.id_tokens += len(node.ids)
        return self.attach(node, kv)

    def add(self, parent: Node, text: str, ids: Sequence[int], kv: KeyValues | None = None, extra: Any = None) -> Node:
        """Return the child of ``parent`` named ``text``.

        An existing child keeps its ids; it is given ``kv`` where it has none and the ids agree.
        """
        if parent not in self._id_order:  # forgotten while the caller held it
            return Node(text, tuple(ids), parent, kv, extra)
        node = parent.children.get(text)
        if node is None:
            node = parent.children[text] = Node(text, tuple(ids), parent, None, extra)
            self._id_order[node] = None
            self.id_tokens += len(node.ids)
        elif node.ids != tuple(ids):
            kv = None
        return self.attach(node, kv)

    def attach(self, node: Node, kv: KeyValues | None) -> Node:
        """Give a node its slice where it has none, make room for it, and return the node."""
        # A slice is useful only while every slice before it is there.
        useful = node.parent is None or node.parent.kv is not None
        if kv is not None and node.kv is None and useful and node in self._id_order and self.capacity > 0:
            node.kv = kv
            self._order(node)[node] = kv.length
            self._count(node, kv.length)
        self._touch(node)
        while self.tokens > self.capacity:
            self._evict()
        while self.id_tokens > self.id_capacity:
            self._forget(next(iter(self._id_order)))
        return node

    def forget(self, key: str) -> None:
        """Forget all prefixes of a question, ids included; one that is not known changes nothing."""
        root = self.roots.get(key)
        for node in reversed(_subtree(root) if root is not None else []):
            self._forget(node)

    def clear(self) -> None:
        """Forget everything."""
        for node in self._id_order:
            node.kv = None
        self.roots.clear()
        self._root_order.clear()
        self._step_order.clear()
        self._id_order.clear()
        self.tokens = self.id_tokens = self._root_tokens = 0

    def _order(self, node: Node) -> OrderedDict[Node, int]:
        return self._root_order if node.parent is None else self._step_order

    def _count(self, node: Node, tokens: int) -> None:
        self.tokens += tokens
        if node.parent is None:
            self._root_tokens += tokens

    def _touch(self, node: Node) -> None:
        step: Node | None = node
        while step is not None and step in self._id_order:
            self._id_order.move_to_end(step)
            if step.kv is not None:
                self._order(step).move_to_end(step)
            step = step.parent

    def _evict(self) -> None:
        crowded = len(self._root_order) > 1 and self._root_tokens > (1 - _FOR_STEPS) * self.capacity
        if self._step_order and not crowded:
            self._drop(next(iter(self._step_order)))
            return
        for node in reversed(_subtree(next(iter(self._root_order)))):
            self._drop(node)

    def _drop(self, node: Node) -> None:
        """Give up the keys and values of a node, if it has any."""
        if node.kv is not None:
            self._count(node, -self._order(node).pop(node))
            node.kv = None

    def _forget(self, node: Node) -> None:
        self._drop(node)
        del self._id_order[node]
        self.id_tokens -= len(node.ids)
        if node.parent is None:
            self.roots.pop(node.key, None)
        else:
            node.parent.children.pop(node.text, None)


def _subtree(root: Node) -> list[Node]:
    """Return a node and all below it, parents first."""
    nodes = [root]
    for node in nodes:
        nodes.extend(node.children.values())
    return nodes
