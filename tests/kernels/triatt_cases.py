"""Trees with queries, heads and biases for the tests of the CPU core, and their answers in float64.

Every run draws fresh numbers; ``SVIP_TEST_SEED`` in the environment repeats the ones of an earlier run.
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from svip_search.kernels.triatt import IMAGE, QUESTION, STEP, Head, KVPool, KVTree, PackedHead, PagedTree

SEED = int(os.environ.get("SVIP_TEST_SEED", 0)) or int.from_bytes(os.urandom(4), "little")
SHAPES = ("single", "chain", "star", "beam", "random", "forest", "deep")


class Answer(NamedTuple):
    """In float64: scores [M, 3], attention outputs and sum p |v| [M, 3, d], largest logits and sums [M, 3]."""

    scores: NDArray[np.float64]
    att: NDArray[np.float64]
    size: NDArray[np.float64]
    m: NDArray[np.float64]
    l: NDArray[np.float64]  # noqa: E741


@dataclass(frozen=True, eq=False)
class Case:
    """One call of the operation."""

    tree: KVTree
    frontier: NDArray[np.int64]
    q: NDArray[np.float32]
    head: Head
    bias: NDArray[np.float32] | None = None

    def but(self, **changes: Any) -> Case:
        """Return a copy with some fields, of the case or of its tree, replaced."""
        inside = {name: changes.pop(name) for name in ("k", "v", "segment") if name in changes}
        if inside:
            changes["tree"] = replace(self.tree, **inside)
        return replace(self, **changes)

    def packed(self) -> PackedHead:
        return PackedHead(self.head, self.bias)

    def grow(self, pool: KVPool) -> PagedTree:
        """Return the tree as pages of a pool."""
        t, paged = self.tree, pool.tree()
        paged.extend(t.parent, t.token_ptr, t.segment, t.k, t.v)
        return paged

    def pool(self, dtype: str = "float32") -> KVPool:
        return KVPool(self.tree.width, n_kv_heads=self.tree.k.shape[1], dtype=dtype)


def rng_of(*names: Any) -> np.random.Generator:
    """Return the random numbers of this run for a purpose."""
    return np.random.default_rng([SEED, zlib.crc32(repr(names).encode())])


def make_parent(shape: str, rng: np.random.Generator) -> list[int]:
    if shape == "single":
        return [-1]
    if shape in ("chain", "deep"):
        return list(range(-1, 63 if shape == "deep" else 6))
    if shape == "star":
        return [-1] + [0] * 30
    if shape == "beam":  # 3 kept, 4 children each, 4 levels
        parent, kept = [-1], [0]
        for _ in range(4):
            children = []
            for node in kept:
                children += range(len(parent), len(parent) + 4)
                parent += [node] * 4
            kept = rng.choice(children, 3, replace=False).tolist()
        return parent
    least = -1 if shape == "forest" else 0
    return [-1] + [int(rng.integers(least, n)) for n in range(1, 40)]


def make_case(
    rng: np.random.Generator,
    shape: str = "random",
    *,
    prefix: int = 17,
    d: int = 20,
    heads: int = 3,
    hidden: int = 0,
    mixed: bool = False,
    bias: str = "none",
    keys: float = 1.0,
    values: float = 1.0,
    longest: int = 70,
) -> Case:
    """Return a case; the root has ``prefix`` tokens, other nodes 1 to ``longest``, inner ones perhaps none.

    ``keys`` and ``values`` scale; ``mixed`` draws the class of every token; ``bias`` is a name of ``make_bias``.
    """
    parent = make_parent(shape, rng)
    lengths = rng.integers(1, longest + 1, len(parent))
    lengths[0] = prefix
    if shape in ("random", "forest", "deep") and prefix > 0:
        below = np.array(parent) >= 0
        lengths[below & (rng.random(len(parent)) < 0.1)] = 0
    ptr = np.concatenate([[0], np.cumsum(lengths)])
    segment = rng.integers(0, 3, ptr[-1])
    if not mixed:
        segment = np.where(np.arange(ptr[-1]) < prefix, rng.choice([QUESTION, IMAGE], ptr[-1]), STEP)

    def normal(*size: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (rng.standard_normal(size) * scale).astype(np.float32)

    k, v = normal(ptr[-1], heads, d, scale=keys), normal(ptr[-1], heads, d, scale=values)
    # Rows of the head have length 1 and see values of about 1, so that no score is 0 or 1 whatever is wrong.
    into = 1 / math.sqrt(d) / values
    head = Head(normal(3, d, scale=into), normal(3))
    if hidden:
        head = Head(normal(3, hidden, scale=hidden**-0.5), normal(3), normal(3, hidden, d, scale=into),
                    normal(3, hidden))  # fmt: skip
    # A root without tokens has nothing to attend to.
    able = np.flatnonzero(np.arange(len(parent)) >= (prefix == 0))
    frontier = rng.permutation(np.concatenate([able, rng.choice(able, 1 + len(able) // 4)]))
    tree = KVTree(parent, ptr, segment, k, v)
    return Case(tree, frontier, normal(len(frontier), 3, d), head, make_bias(bias, rng))


def make_bias(kind: str, rng: np.random.Generator) -> NDArray[np.float32] | None:
    """Return a bias [3, 4]: none, normal, offset (one of +-1e4 for all), offsets (in each cell) or hidden (-inf)."""
    if kind == "none":
        return None
    bias = rng.standard_normal((3, 4))
    if kind == "offset":
        bias += rng.choice([-1e4, 1e4])
    elif kind == "offsets":
        bias += rng.choice([-1e4, 1e4], (3, 4))
    elif kind == "hidden":
        bias[[0, 1, 2], rng.permutation(4)[:3]] = -np.inf
    return bias.astype(np.float32)


def answer(case: Case, frontier: Any = None, q: Any = None, *, passed: bool = False) -> Answer:
    """Return the answers in float64, path by path; with ``passed`` own steps count as earlier ones, as in a scan."""
    tree = case.tree
    frontier = case.frontier if frontier is None else frontier
    q = np.asarray(case.q if q is None else q, np.float64) / math.sqrt(tree.width)
    q = np.broadcast_to(q, (len(frontier), 3, tree.width))
    k, v = (np.asarray(a, np.float64).transpose(1, 0, 2) for a in (tree.k, tree.v))  # [heads, T, d]
    bias = np.zeros((3, 4)) if case.bias is None else case.bias.astype(np.float64)
    rows = []
    with np.errstate(invalid="ignore", over="ignore"):
        for node, query in zip(frontier, q, strict=True):
            path = tree.tokens(int(node))
            column = tree.segment[path].astype(np.int64)
            if not passed:
                column[(path >= tree.token_ptr[node]) & (column == STEP)] += 1
            logits = (k[:, path] @ query[:, :, None])[..., 0] + bias[:, column]
            m = logits.max(-1)
            p = np.exp(logits - m[:, None])
            total, values = p.sum(-1), v[:, path]
            rows.append(
                [*((p[:, None] @ x)[:, 0] / total[:, None] for x in (values, np.abs(values))), m, total]
            )  # fmt: skip
        att, size, m, total = (np.stack(column) for column in zip(*rows, strict=True))
        return Answer(decide(case.head, att), att, size, m, total)


def decide(head: Head, att: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of attention outputs."""
    x = att
    if head.w is not None:
        z = (head.w.astype(np.float64) @ att[..., None])[..., 0] + head.c
        x = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    z = (head.u.astype(np.float64) * x).sum(-1) + head.b
    return np.exp(-np.logaddexp(0, -z))


def holds(tree: KVTree, frontier: Any, token: int) -> NDArray[np.bool_]:
    """Return for each frontier node whether the token is on its path."""
    owner = int(np.searchsorted(tree.token_ptr, token, "right") - 1)
    return np.array([owner in tree.path(int(n)) for n in frontier])


def attention_error(att: Any, right: Answer) -> tuple[float, float]:
    """Return the error of the attention outputs, of all rows together and of the worst one.

    Both are taken against sum p |v|, so that terms which cancel each other do not count as an error.
    """
    assert np.array_equal(np.isnan(att), np.isnan(right.att))
    gap, size = np.nan_to_num(att - right.att), np.nan_to_num(right.size)
    together = np.linalg.norm(gap, axis=(0, 2)) / np.linalg.norm(size, axis=(0, 2))
    rows = np.linalg.norm(gap, axis=2) / np.maximum(np.linalg.norm(size, axis=2), 1e-300)
    return float(together.max()), float(rows.max())


def bits(*outputs: Any) -> list[bytes]:
    """Return all arrays of some outputs to the last bit, however they are grouped; None is left out."""
    found: list[bytes] = []
    for out in outputs:
        if isinstance(out, (tuple, list)):
            found += bits(*out)
        elif out is not None:
            found.append(np.ascontiguousarray(out).tobytes())
    return found
