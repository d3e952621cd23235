"""The search tree: the arena of columns with the text of each step beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from os import PathLike
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike

from . import _core
from ._types import DIMENSIONS, Candidate, Prefix

if TYPE_CHECKING:
    import networkx as nx

#: Version of the dictionary that `Tree.to_dict` writes.
FORMAT_VERSION = 1

_COLUMNS = ("parent", "visits", "virtual_visits", "value_sum", "prior", "status")
_TEXT_COLUMNS = ("text", "log_prob", "tokens", "finish_reason")
_FINISH_REASONS = ("step", "stop", "length")
# Characters that XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Status(IntEnum):
    """What may still happen to a node."""

    OPEN = _core.OPEN
    EXPANDED = _core.EXPANDED
    TERMINAL = _core.TERMINAL
    FAILED = _core.FAILED
    EXHAUSTED = _core.EXHAUSTED


class Tree:
    """A tree of reasoning steps that only grows; node 0 is the root, the question itself.

    `arena` holds the numbers as columns (`arena.visits`, `arena.value_sum`, ...) and the operations
    select, backup, release, set_status, set_reward and top_k.  `text`, `log_prob`, `tokens` and
    `finish_reason` are lists with one entry for each node, empty or 0 for the root.

    Example:
        >>> from svip_search._types import Candidate
        >>> tree = Tree()
        >>> tree.add(0, [Candidate("Count the circles."), Candidate("Look at the colours.")])
        range(1, 3)
        >>> tree.add(1, [Candidate("There are four.", finish_reason="stop")])
        range(3, 4)
        >>> tree.texts(3)
        ('Count the circles.', 'There are four.')
        >>> tree.children(0), tree.path(3)
        ([1, 2], [0, 1, 3])
    """

    def __init__(self) -> None:
        self.arena = _core.Tree()
        self.text: list[str] = [""]
        self.log_prob: list[float] = [0.0]
        self.tokens: list[int] = [0]
        self.finish_reason: list[str] = ["step"]

    def __len__(self) -> int:
        return len(self.text)

    def __repr__(self) -> str:
        return f"Tree({len(self)} nodes, depth {int(self.arena.depth.max())})"

    def add(self, parent: int, candidates: Sequence[Candidate], priors: ArrayLike | None = None) -> range:
        """Append one open child for each candidate and return their indices.

        Args:
            parent: node index; not terminal or failed.  It becomes expanded.
            candidates: at least one.
            priors: finite and not negative, one for each candidate; None is uniform, 1/A.

        Returns:
            Consecutive node indices, in the order of `candidates`.

        Raises:
            IndexError: `parent` is not a node of the tree.
            ValueError: no candidates, wrong number of priors, or a bad prior or parent.  The tree
                is unchanged.
        """
        count = len(candidates)
        if count == 0:
            raise ValueError("`candidates` must not be empty.")
        weights = np.full(count, 1 / count, np.float32) if priors is None else np.asarray(priors)
        if weights.shape != (count,):
            raise ValueError(f"`priors` must have shape [A] = [{count}]; got {list(weights.shape)}.")
        first = self.arena.add_children(parent, weights)
        for candidate in candidates:
            self.text.append(candidate.text)
            self.log_prob.append(candidate.log_prob)
            self.tokens.append(candidate.tokens)
            self.finish_reason.append(candidate.finish_reason)
        return range(first, first + count)

    def path(self, node: int) -> list[int]:
        """Return the node indices from the root to `node`, both included."""
        nodes: list[int] = self.arena.path(node).tolist()
        return nodes

    def texts(self, node: int) -> Prefix:
        """Return the steps from the first one to `node`; () for the root."""
        return tuple(self.text[n] for n in self.path(node)[1:])

    def children(self, node: int) -> list[int]:
        """Return the children of `node` in the order they were added.

        Raises:
            IndexError: `node` is not a node of the tree.
        """
        if not 0 <= node < len(self):
            raise IndexError(f"`node` must lie in [0, {len(self)}); got {node}.")
        next_sibling = self.arena.next_sibling
        found = []
        child = int(self.arena.first_child[node])
        while child >= 0:
            found.append(child)
            child = int(next_sibling[child])
        return found

    def value(self, node: int) -> float:
        """Return the mean of the values backed up through `node`, NaN before the first."""
        visits = int(self.arena.visits[node])
        return float(self.arena.value_sum[node]) / visits if visits else float("nan")

    def attributes(self, node: int) -> dict[str, Any]:
        """Return everything known about `node` as plain numbers and text.

        Rewards that were not evaluated, and the value before the first visit, are left out.
        """
        arena = self.arena
        known: dict[str, Any] = {
            "text": self.text[node],
            "status": Status(int(arena.status[node])).name.lower(),
            "depth": int(arena.depth[node]),
            "visits": int(arena.visits[node]),
            "prior": float(arena.prior[node]),
            "log_prob": float(self.log_prob[node]),
            "tokens": int(self.tokens[node]),
        }
        if known["visits"]:
            known["value"] = self.value(node)
        for name, reward in zip(DIMENSIONS, arena.reward[node].tolist(), strict=True):
            if reward == reward:  # not NaN
                known[name] = reward
        return known

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as lists of plain numbers and text, one list for each column.

        A reward that was not evaluated is None.  `from_dict` is the exact inverse.

        Example:
            >>> tree = Tree()
            >>> Tree.from_dict(tree.to_dict()).to_dict() == tree.to_dict()
            True
        """
        columns: dict[str, Any] = {"format": "svip-search tree", "version": FORMAT_VERSION}
        columns |= {name: getattr(self.arena, name).tolist() for name in _COLUMNS}
        columns["reward"] = [[r if r == r else None for r in row] for row in self.arena.reward.tolist()]
        columns |= {name: list(getattr(self, name)) for name in _TEXT_COLUMNS}
        return columns

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any]) -> Tree:
        """Return the tree that `to_dict` wrote.

        Raises:
            ValueError: a column is missing, of the wrong length or type, or contradicts another.
        """
        if not isinstance(columns, Mapping) or columns.get("version") != FORMAT_VERSION:
            raise ValueError(f"`columns` must be a tree of format version {FORMAT_VERSION}.")
        missing = [name for name in (*_COLUMNS, "reward", *_TEXT_COLUMNS) if name not in columns]
        if missing:
            raise ValueError(f"`columns` must hold every column of a tree; {missing} missing.")
        try:
            reward = np.array(columns["reward"], np.float32)  # None becomes NaN
            arrays = {name: np.asarray(columns[name]) for name in _COLUMNS}
            arena = _core.Tree.from_columns(reward=reward, **arrays)
        except (TypeError, IndexError, OverflowError) as error:
            raise ValueError(f"`columns` must be numbers of their column's type: {error}") from error
        tree = cls()
        tree.arena = arena
        tree._set_text_columns({name: columns[name] for name in _TEXT_COLUMNS})
        return tree

    def _set_text_columns(self, columns: Mapping[str, Any]) -> None:
        accepted: dict[str, type | tuple[type, ...]] = {
            "text": str,
            "log_prob": (int, float),
            "tokens": int,
            "finish_reason": str,
        }
        for name, kind in accepted.items():
            column = columns[name]
            if not isinstance(column, list) or len(column) != len(self.arena):
                raise ValueError(f"`{name}` must be a list of {len(self.arena)} entries, one for each node.")
            if not all(isinstance(entry, kind) for entry in column):
                raise ValueError(f"`{name}` must hold {name} entries only.")
            setattr(self, name, list(column))
        if not set(self.finish_reason) <= set(_FINISH_REASONS):
            raise ValueError(f"`finish_reason` must hold only {list(_FINISH_REASONS)}.")

    def to_json(self, indent: int | None = None) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Tree:
        """Return the tree that `to_json` wrote.

        Raises:
            ValueError: `text` is not JSON, or not a tree.
        """
        return cls.from_dict(json.loads(text))

    def to_networkx(self) -> nx.DiGraph[int]:
        """Return a networkx graph: an edge from each parent to its child, `attributes` on each node.

        Raises:
            ImportError: networkx is not installed (extra `tree`).
        """
        import networkx as nx

        graph: nx.DiGraph[int] = nx.DiGraph()
        for node, parent in enumerate(self.arena.parent.tolist()):
            graph.add_node(node, **self.attributes(node))
            if parent >= 0:
                graph.add_edge(parent, node)
        return graph

    def to_graphml(self, path: str | PathLike[str]) -> None:
        """Write the graph of `to_networkx` as GraphML to the file `path`; networkx is not needed.

        Characters that XML cannot hold become U+FFFD.
        """
        kinds = {str: "string", int: "long", float: "double"}
        attributes = [self.attributes(node) for node in range(len(self))]
        names = {name: kinds[type(value)] for known in attributes for name, value in known.items()}
        root = ElementTree.Element("graphml", xmlns="http://graphml.graphdrawing.org/xmlns")
        for name, kind in names.items():
            ElementTree.SubElement(root, "key", {"id": name, "for": "node", "attr.name": name, "attr.type": kind})
        graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
        for node, known in enumerate(attributes):
            element = ElementTree.SubElement(graph, "node", id=str(node))
            for name, value in known.items():
                ElementTree.SubElement(element, "data", key=name).text = _NOT_XML.sub("\ufffd", str(value))
        for node, parent in enumerate(self.arena.parent.tolist()[1:], start=1):
            ElementTree.SubElement(graph, "edge", source=str(parent), target=str(node))
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)

    def render(self, max_nodes: int = 200, max_width: int = 100) -> str:
        """Return the tree as indented text, one line for each node, depth first.

        Args:
            max_nodes: lines before the rest is cut off; a last line says how many.
            max_width: characters of a step before it is cut off.

        Example:
            >>> from svip_search._types import Candidate
            >>> tree = Tree()
            >>> _ = tree.add(0, [Candidate("Look."), Candidate("Count.")])
            >>> print(tree.render())
            root  [expanded]
            ├─ Look.  [open]
            └─ Count.  [open]
        """
        lines: list[str] = []
        for node, lead in self._walk():
            if len(lines) == max_nodes:
                lines.append(f"... {len(self) - max_nodes} more nodes")
                break
            text = " ".join(self.text[node].split()) if node else "root"
            if len(text) > max_width:
                text = text[: max_width - 1] + "…"
            lines.append(f"{lead}{text}  [{self._facts(node)}]")
        return "\n".join(lines)

    def _facts(self, node: int) -> str:
        known = self.attributes(node)
        facts = [known["status"]]
        if known["visits"]:
            facts.append(f"visits {known['visits']}, value {known['value']:.2f}")
        rewards = [f"{known[name]:.2f}" for name in DIMENSIONS if name in known]
        return ", ".join([*facts, f"reward {'/'.join(rewards)}"] if rewards else facts)

    def _walk(self) -> Iterator[tuple[int, str]]:
        """Yield each node with the text that leads its line, depth first, without recursion."""
        # An indent as deep as the tree would make the text quadratic in the depth of a chain.
        deepest = 40
        stack = [(0, "", "")]
        while stack:
            node, lead, indent = stack.pop()
            yield node, lead
            children = self.children(node)
            for child in reversed(children):
                last = child == children[-1]
                below = indent + ("   " if last else "│  ") if len(indent) < 3 * deepest else indent
                stack.append((child, indent + ("└─ " if last else "├─ "), below))

    def __getstate__(self) -> dict[str, Any]:
        return {"arena": self.arena} | {name: getattr(self, name) for name in _TEXT_COLUMNS}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.arena = state["arena"]
        self._set_text_columns(state)
