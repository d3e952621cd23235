"""Keys and values that stay: a pool of pages on the CPU and the trees that grow in it.

A search scores the same tree again and again, a few nodes longer each time.  Here the keys and values are copied
once, when a node is added, and a call to `score` hands over nothing but the nodes and their queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svip_search import _core

from .. import _dispatch
from ._types import Array, Head, State, TriattOutput, as_indices, check_floats, check_head, library_of


class KVPool:
    """Memory for keys and values, in pages of 16 tokens, shared by any number of trees.

    Args:
        width: head width d, 1..256.
        n_kv_heads: 3, or 1 where the three dimensions share keys and values.
        dtype: ``"float32"``, or ``"bfloat16"`` for half the memory (scores change by about 1e-3).
        capacity: most tokens; every node takes whole pages.  Default: as many as fit in memory.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import numpy as np
        >>> pool, rng = KVPool(8), np.random.default_rng(0)
        >>> tree = pool.tree()
        >>> k, v = rng.standard_normal((2, 5, 3, 8), dtype=np.float32)
        >>> root = tree.append(-1, [0, 0, 1, 1, 1], k, v)
        >>> step = tree.append(root, [2, 2], k[:2], v[:2])
        >>> packed = PackedHead(Head(u=np.ones((3, 8)), b=np.zeros(3)))
        >>> tree.score([step], rng.standard_normal((1, 3, 8), dtype=np.float32), packed).scores.shape
        (1, 3)
    """

    def __init__(self, width: int, *, n_kv_heads: int = 3, dtype: str = "float32", capacity: int | None = None) -> None:
        numbers = {"width": width, "n_kv_heads": n_kv_heads, "capacity": 0 if capacity is None else capacity}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << 62:
                raise ValueError(f"`{name}` must be a whole number of at least 0; got {value!r}.")
        if width > 256:
            raise ValueError(f"`width` must be 1..256; got {width}.")
        most = -1 if capacity is None else capacity
        self._core = _core.KVPool(int(width), min(int(n_kv_heads), 99), str(dtype), most)
        self.dtype = str(dtype)

    @property
    def width(self) -> int:
        """Head width d."""
        return self._core.width

    @property
    def n_kv_heads(self) -> int:
        """1 or 3."""
        return self._core.n_kv_heads

    @property
    def pages_in_use(self) -> int:
        """Pages of 16 tokens that living nodes, or their descendants, hold."""
        return self._core.pages_in_use

    @property
    def bytes(self) -> int:
        """Memory taken from the system, in use or not."""
        return self._core.bytes

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._core.closed

    def tree(self) -> PagedTree:
        """Return a new, empty tree in this pool."""
        return PagedTree(self)

    def close(self) -> None:
        """Give all memory back; the pool and its trees cannot be used any more."""
        self._core.close()

    def __reduce__(self) -> str:
        raise _no_copy(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.pages_in_use} pages in use"
        return f"KVPool(width={self.width}, n_kv_heads={self.n_kv_heads}, dtype={self.dtype!r}: {state})"


class PackedHead:
    """Head and segment bias in the layout of the kernel, made once for many calls.

    Args:
        head: numpy arrays or torch tensors on the CPU.
        bias: [3, 4], default zeros; see ``triatt``.

    Raises:
        ValueError, TypeError: a shape or type does not fit.
    """

    def __init__(self, head: Head, bias: Array | None = None) -> None:
        if not isinstance(head, Head):
            raise TypeError(f"`head` must be a Head; got {type(head).__name__}.")
        check_head(head, bias)
        names = ("head.u", "head.b", "head.w", "head.c")
        u, b, w, c = (None if a is None else to_float32(name, a) for name, a in zip(names, head, strict=True))
        assert u is not None, "`check_head` let a missing `u` pass"
        self.width = int(u.shape[1] if w is None else w.shape[2])
        self._core = _core.TriattHead(self.width, u, b, w, c, None if bias is None else to_float32("bias", bias))

    def __reduce__(self) -> str:
        raise _no_copy(self)


class PagedTree:
    """A tree of nodes whose keys and values lie in a pool; it only grows.

    Made by ``KVPool.tree()``, one a question.  Nodes are numbered in the order they come.  Calls from several
    threads are legal: scores run side by side, changes wait.

    Args:
        pool: where the pages come from.
    """

    def __init__(self, pool: KVPool) -> None:
        if not isinstance(pool, KVPool):
            raise TypeError(f"`pool` must be a KVPool; got {type(pool).__name__}.")
        self.pool = pool
        with _Translated():
            self._core = _core.PagedTree(pool._core)

    def __len__(self) -> int:
        return len(self._core)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._core.closed

    def append(self, parent: int, segment: Any, k: Array, v: Array) -> int:
        """Add a node and return its index.

        Args:
            parent: -1 for a root.
            segment: [L], class of each token: 0 question, 1 image, 2 step.
            k: keys [L, n_kv_heads, d], float; L may be 0 below a root that has tokens.
            v: values, likewise.

        Raises:
            ValueError, TypeError: an argument does not fit, or ``parent`` was freed, or the tree is closed.
            IndexError: ``parent`` is no node of this tree.
            MemoryError: the pool is full; the tree is as it was.
        """
        segment = as_indices("segment", segment)
        return self.extend([parent], [0, len(segment)], segment, k, v)

    def extend(self, parent: Any, token_ptr: Any, segment: Any, k: Array, v: Array) -> int:
        """Add nodes with consecutive indices and return the first.

        Args:
            parent: int [n], -1 for a root; new nodes may hang under earlier new ones.
            token_ptr: int [n + 1]; new node i has the tokens ``token_ptr[i]:token_ptr[i + 1]`` below.
            segment: [T], class of each token.
            k: keys [T, n_kv_heads, d].
            v: values, likewise.

        Raises:
            As ``append``.
        """
        segment = as_indices("segment", segment)
        if (bad := np.flatnonzero((segment < 0) | (segment > 2))).size:
            raise ValueError(f"`segment` must hold 0, 1 or 2; got segment[{bad[0]}] = {segment[bad[0]]}.")
        shape = (len(segment), self.pool.n_kv_heads, self.pool.width)
        check_floats("k", k, shape)
        check_floats("v", v, shape)
        with _Translated():
            return self._core.extend(
                _int32("parent", parent), as_indices("token_ptr", token_ptr), segment.astype(np.uint8),
                _kv_array("k", k), _kv_array("v", v),
            )  # fmt: skip

    def score(
        self,
        frontier: Any,
        q: Array,
        head: PackedHead,
        *,
        return_att: bool = False,
        return_state: bool = False,
        threads: int = 0,
        dots: bool = False,
    ) -> TriattOutput:
        """Return the scores of the frontier as numpy arrays; see ``triatt``.

        Args:
            frontier: int [M], living nodes in any order, repeats allowed.
            q: [M, 3, d], or [3, d] for all of them.
            head: of the width of the pool.
            return_att: also return the attention outputs.
            return_state: also return the softmax states.
            threads: most threads; 0 takes all that the process may use, fewer for little work.
            dots: multiply in bfloat16 where keys are bfloat16 and the processor can: faster, and off by about
                1e-3 instead of 1e-6 from what the rounded keys and values give.

        Returns:
            float32; the same bits whatever else is in the tree or the frontier and however many threads run.

        Raises:
            ValueError, TypeError, IndexError: an argument does not fit, names no node or a freed one, or the tree
                or its pool is closed.
        """
        nodes = _int32("frontier", frontier)
        width = self.pool.width
        check_floats("q", q, (3, width) if len(getattr(q, "shape", ())) == 2 else (len(nodes), 3, width))
        with _Translated():
            scores, att, *state = self._core.score(
                nodes,
                to_float32("q", q),
                _packed(head),
                bool(return_att),
                bool(return_state),
                _threads(threads),
                0,
                bool(dots),
            )
        _dispatch.count("triatt", "cpu")
        return TriattOutput(scores, att, State(*state) if return_state else None)

    def scan(
        self,
        q: Array,
        head: PackedHead,
        *,
        first: int = 0,
        state: State | None = None,
        return_att: bool = False,
        threads: int = 0,
        dots: bool = False,
    ) -> TriattOutput:
        """Return scores and states of the nodes from ``first`` on for one query [3, d]; see ``triatt_scan``.

        Args:
            q: [3, d].
            head: of the width of the pool.
            first: the first node to score.
            state: of the nodes before ``first``, from earlier calls, one row a node.
            return_att: also return the attention outputs.
            threads: as in ``score``.
            dots: as in ``score``.

        Raises:
            As ``score``.
        """
        check_floats("q", q, (3, self.pool.width))
        if isinstance(first, bool) or not isinstance(first, (int, np.integer)) or not 0 <= first <= len(self):
            raise IndexError(f"`first` must be a whole number from 0 to {len(self)}; got {first!r}.")
        base = _state(state, int(first), self.pool.width)
        with _Translated():
            scores, att, *found = self._core.scan(
                int(first), to_float32("q", q), _packed(head), *base, False, bool(return_att), _threads(threads),
                bool(dots),
            )  # fmt: skip
        _dispatch.count("triatt", "cpu")
        return TriattOutput(scores, att, State(*found))

    def free(self, node: int) -> None:
        """Give a node up: its pages go back to the pool when its last living descendant is freed too.

        Raises:
            IndexError, ValueError: no such node, or freed before.
        """
        with _Translated():
            self._core.free(int(_int32("node", [node])[0]))

    def close(self) -> None:
        """Free all nodes; the tree cannot be used any more."""
        self._core.close()

    def __reduce__(self) -> str:
        raise _no_copy(self)

    def __repr__(self) -> str:
        return f"PagedTree({'closed' if self.closed else f'{len(self)} nodes'} in {self.pool!r})"


def to_float32(name: str, array: Array) -> NDArray[np.float32]:
    """Return an array or a CPU tensor as dense float32, copied only if it is something else."""
    if library_of(name, array) == "torch":
        array = _plain(name, array).float().numpy()
    return np.ascontiguousarray(array, np.float32)


def _plain(name: str, tensor: Any) -> Any:
    """Return a tensor that numpy can read."""
    if tensor.device.type != "cpu" or str(tensor.layout) != "torch.strided":
        raise ValueError(f"`{name}` must be a dense tensor on the CPU; got {tensor.layout} on {tensor.device}.")
    return tensor.detach().resolve_conj().resolve_neg()


def _kv_array(name: str, array: Array) -> NDArray[Any]:
    """Return keys or values as the core reads them: float32, or bfloat16 as uint16; seldom a copy."""
    if library_of(name, array) == "torch":
        array = _plain(name, array)
        array = _bits(array) if str(array.dtype) == "torch.bfloat16" else array.float().numpy()
    elif array.dtype != np.float32:
        array = array.astype(np.float32)
    if not array.flags.aligned:
        array = array.copy()
    if array.size and array.strides[2] != array.itemsize:
        array = np.ascontiguousarray(array)
    return array


def _bits(tensor: Any) -> NDArray[np.uint16]:
    import torch

    bits: NDArray[np.uint16] = tensor.view(torch.int16).numpy().view(np.uint16)
    return bits


def _int32(name: str, values: Any) -> NDArray[np.int32]:
    found = as_indices(name, values)
    if found.size and not (found.min() >= -(2**31) and found.max() < 2**31):
        bad = np.flatnonzero((found < -(2**31)) | (found >= 2**31))
        raise IndexError(f"`{name}` must hold nodes of the tree; got {name}[{bad[0]}] = {found[bad[0]]}.")
    return found.astype(np.int32)


def _packed(head: Any) -> Any:
    if not isinstance(head, PackedHead):
        raise TypeError(f"`head` must be a PackedHead; got {type(head).__name__}.")
    return head._core


def _threads(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, (int, np.integer)) or not 0 <= threads <= 1024:
        raise ValueError(f"`threads` must be a whole number from 0 to 1024; got {threads!r}.")
    return int(threads)


def _state(state: State | None, rows: int, width: int) -> tuple[Any, Any, Any]:
    if state is None:
        return None, None, None
    for name, array, shape in zip("mlo", state, ((rows, 3), (rows, 3), (rows, 3, width)), strict=True):
        check_floats(f"state.{name}", array, shape)
    m, l, o = (to_float32(f"state.{name}", array) for name, array in zip("mlo", state, strict=True))  # noqa: E741
    return m, l, o


def _no_copy(handle: Any) -> TypeError:
    return TypeError(f"a {type(handle).__name__} cannot be copied or pickled: its memory belongs to this process.")


class _Translated:
    """Turns the core's errors into those that Python users expect."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and str(error).startswith("The pool is full"):
            raise MemoryError(str(error)) from None
        if isinstance(error, RuntimeError):  # closed or freed
            raise ValueError(str(error)) from None
