"""Growing programs block by block, from the least to the most: a tree whose every path is a program.

::

    frontier = [root]
    for node in frontier:
        drawn = generator.next_blocks(question, image, path(node), n)
        frontier += the distinct blocks among drawn, unless they assign ``answer``
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, runtime_checkable

from .._types import Question
from ._dataflow import parse, stores
from ._types import Program

#: The variable whose assignment ends a program.
ANSWER = "answer"


@runtime_checkable
class ProgramGenerator(Protocol):
    """Proposes how a program goes on."""

    def next_blocks(self, question: Question, image: Any, blocks: Sequence[str], n: int, *, seed: int = 0) -> list[str]:
        """Return up to ``n`` proposals for the block that follows ``blocks``.

        Args:
            question: what the program is to answer.
            image: its picture, as in ``Question.images``; None where there is none.
            blocks: the program so far, without a block that assigns ``answer``.
            n: how many draws; equal ones are not merged.
            seed: the same (question, blocks, n, seed) gives the same proposals.

        Returns:
            Sources of blocks; fewer than ``n``, even none, is allowed.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProgramNode:
    """A block after its prefix.

    Args:
        parent: index of the node before it; -1 at the root.
        block: its source; ``""`` at the root.
        count: how many of the drawn programs go through it.
    """

    parent: int
    block: str
    count: int


@dataclass(frozen=True)
class ProgramTree:
    """Programs that share their beginnings.  Node 0 is the empty program; parents precede children.

    Example:
        >>> nodes = (ProgramNode(-1, "", 3), ProgramNode(0, "a = 1", 3), ProgramNode(1, "answer = str(a)", 3))
        >>> tree = ProgramTree(nodes)
        >>> tree.leaves, tree.path(2)
        ((2,), ('a = 1', 'answer = str(a)'))
    """

    nodes: tuple[ProgramNode, ...]

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the children of every node."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes[1:], start=1):
            found[node.parent].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Indices of the nodes after which nothing comes."""
        return tuple(i for i, below in enumerate(self.children) if not below)

    def ancestors(self, index: int) -> tuple[int, ...]:
        """Return the nodes from the first block to ``index``, without the root."""
        found = []
        while index > 0:
            found.append(index)
            index = self.nodes[index].parent
        return tuple(reversed(found))

    def path(self, index: int) -> Program:
        """Return the blocks from the first to ``index``."""
        return tuple(self.nodes[i].block for i in self.ancestors(index))

    def below(self, index: int) -> tuple[int, ...]:
        """Return the leaves that continue ``index``; itself if it is one."""
        under = {index}
        for i in range(index + 1, len(self.nodes)):
            if self.nodes[i].parent in under:
                under.add(i)
        return tuple(i for i in self.leaves if i in under)


@lru_cache(maxsize=8192)
def assigned(block: str) -> frozenset[str] | None:
    """Return the names that a block sets outside of functions and comprehensions, None if it does not parse.

    Example:
        >>> sorted(assigned("a, b = 1, [c for c in 'xy']"))
        ['a', 'b']
        >>> assigned("a = (") is None
        True
    """
    tree = parse(block)
    return None if tree is None else frozenset().union(*map(stores, tree.body))


def ends(block: str) -> bool:
    """Return whether nothing can follow a block: it assigns ``answer``, or it does not parse.

    Example:
        >>> ends("answer = str(total)"), ends("total = 3"), ends("total = (")
        (True, False, True)
    """
    names = assigned(block)
    return names is None or ANSWER in names


def grow(
    generator: ProgramGenerator,
    question: Question,
    image: Any,
    *,
    width: int = 3,
    leaves: int = 8,
    seed: int = 0,
    blocks: Sequence[str] = (),
    depth: int = 16,
) -> ProgramTree:
    """Return the tree of ``leaves`` programs that a generator writes, block by block.

    Each node hands the programs that go through it on to its children: up to ``width`` draws, equal
    ones merged.  So every program is a fair draw of the generator, and the share of right ones
    below a node (by ``count``) estimates what its prefix is worth without bias; with
    ``width=leaves`` the draws are independent and the estimate is as sharp as it can be.

    Args:
        generator: who writes.
        question: what to answer.
        image: its picture.
        width: how many sub-nodes are drawn a step, >= 1.
        leaves: how many programs, counted with multiplicity, >= 1.
        seed: seeds the draws of every prefix.
        blocks: what all programs begin with; paths of the tree include it.
        depth: longest program, in blocks; a program cut there has no answer.

    Returns:
        The tree; the counts of a node's children add up to its own.

    Raises:
        ValueError: ``width``, ``leaves`` or ``depth`` is below 1.

    Example:
        >>> class Two:
        ...     def next_blocks(self, question, image, blocks, n, *, seed=0):
        ...         return ["answer = '2'"] * n if blocks else ["a = 1", "b = 2"][:n]
        >>> tree = grow(Two(), Question("How many?"), None, width=2, leaves=4)
        >>> [tree.path(leaf) for leaf in tree.leaves]
        [('a = 1', "answer = '2'"), ('b = 2', "answer = '2'")]
        >>> [tree.nodes[leaf].count for leaf in tree.leaves]
        [2, 2]
    """
    for name, value in (("width", width), ("leaves", leaves), ("depth", depth)):
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1; got {value}.")
    nodes = [ProgramNode(-1, "", leaves)]
    for block in blocks:
        nodes.append(ProgramNode(len(nodes) - 1, block, leaves))
    start = len(nodes) - 1
    paths: dict[int, Program] = {start: tuple(blocks)}
    for index in _growing(nodes, start):
        path, count = paths.pop(index), nodes[index].count
        if len(path) >= depth or (path and ends(path[-1])):
            continue
        drawn = generator.next_blocks(question, image, path, min(width, count), seed=_seed(seed, path))
        for block, share in _shares(drawn, count).items():
            paths[len(nodes)] = (*path, block)
            nodes.append(ProgramNode(index, block, share))
    return ProgramTree(tuple(nodes))


def _growing(nodes: list[ProgramNode], index: int) -> Iterator[int]:
    """Yield the indices from ``index`` on of a list that grows meanwhile."""
    while index < len(nodes):
        yield index
        index += 1


def _shares(drawn: Sequence[str], count: int) -> dict[str, int]:
    """Return how many of ``count`` programs go through each distinct block; the first draws get the remainder."""
    shares: dict[str, int] = {}
    drawn = drawn[:count]
    for i, block in enumerate(drawn):
        shares[block] = shares.get(block, 0) + count // len(drawn) + (i < count % len(drawn))
    return shares


def _seed(seed: int, path: Program) -> int:
    """Return the seed of the draws after a prefix, the same wherever the prefix is met."""
    digest = hashlib.blake2b("\0".join((str(seed), *path)).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big")
