"""What goes into and comes out of the tri-head tree attention."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A numpy array or a torch tensor; one call uses one of the two for all its numbers.
Array = Any

#: Classes of a token.  A step token counts as "this step" for the node that owns it and as
#: "earlier step" for the descendants: columns 3 and 2 of the segment bias.
QUESTION, IMAGE, STEP = 0, 1, 2
N_DIMENSIONS = 3
N_SEGMENTS = 4


@dataclass(frozen=True, eq=False, slots=True)
class KVTree:
    """A forest of nodes, each of which owns a run of tokens with keys and values.

    Args:
        parent: int32 [N], index of the parent, -1 for a root; a parent stands before its children.
        token_ptr: int64 [N + 1]; node n owns tokens ``token_ptr[n]:token_ptr[n + 1]`` (may be none).
        segment: uint8 [T], class of each token: 0 question, 1 image, 2 step.
        k: keys [T, n_kv_heads, d], n_kv_heads 1 (shared by the three dimensions) or 3.
        v: values, the shape and dtype of ``k``.

    Raises:
        ValueError: a shape, a type or an index is not as described.

    Example:
        >>> import numpy as np
        >>> kv = np.ones((3, 1, 4), np.float32)
        >>> tree = KVTree(parent=[-1, 0], token_ptr=[0, 2, 3], segment=[0, 0, 2], k=kv, v=kv)
        >>> len(tree), tree.tokens(1).tolist()
        (2, [0, 1, 2])
    """

    parent: NDArray[np.int32]
    token_ptr: NDArray[np.int64]
    segment: NDArray[np.uint8]
    k: Array
    v: Array

    def __post_init__(self) -> None:
        library = check_floats("k", self.k, (None, (1, 3), None))
        check_floats("v", self.v, tuple(self.k.shape), library)
        if self.v.dtype != self.k.dtype:
            raise ValueError(f"`v` must have the dtype of `k`, {self.k.dtype}; got {self.v.dtype}.")
        if self.k.shape[2] == 0:
            raise ValueError("`k` must have a width d of at least 1; got 0.")
        n_tokens = int(self.k.shape[0])
        parent = as_indices("parent", self.parent)
        n = len(parent)
        ptr = as_indices("token_ptr", self.token_ptr)
        segment = as_indices("segment", self.segment)
        if n == 0:
            raise ValueError("`parent` must name at least one node; got 0.")
        if (bad := np.flatnonzero((parent < -1) | (parent >= np.arange(n)))).size:
            i = int(bad[0])
            raise ValueError(f"`parent` must be -1 or an earlier node; got parent[{i}] = {int(parent[i])}.")
        if ptr.shape != (n + 1,):
            raise ValueError(f"`token_ptr` must have shape [N + 1] = [{n + 1}]; got {list(ptr.shape)}.")
        if ptr[0] != 0 or ptr[-1] != n_tokens or np.any(np.diff(ptr) < 0):
            raise ValueError(
                f"`token_ptr` must rise from 0 to the {n_tokens} tokens of `k` and never fall; "
                f"got {int(ptr[0])}..{int(ptr[-1])}."
            )
        if segment.shape != (n_tokens,):
            raise ValueError(f"`segment` must have shape [T] = [{n_tokens}]; got {list(segment.shape)}.")
        if (bad := np.flatnonzero((segment < QUESTION) | (segment > STEP))).size:
            i = int(bad[0])
            raise ValueError(f"`segment` must hold 0, 1 or 2; got segment[{i}] = {int(segment[i])}.")
        object.__setattr__(self, "parent", parent.astype(np.int32))
        object.__setattr__(self, "token_ptr", ptr)
        object.__setattr__(self, "segment", segment.astype(np.uint8))

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def width(self) -> int:
        """Head width d."""
        return int(self.k.shape[2])

    def path(self, node: int) -> list[int]:
        """Return the node indices from the root to ``node``."""
        nodes = [node]
        while (node := int(self.parent[node])) >= 0:
            nodes.append(node)
        return nodes[::-1]

    def tokens(self, node: int) -> NDArray[np.int64]:
        """Return the token indices of the path root -> ``node``, in order."""
        ptr = self.token_ptr
        return np.concatenate([np.arange(ptr[i], ptr[i + 1]) for i in self.path(node)])


class Head(NamedTuple):
    """What turns the attention output of a dimension into a reward.

    Linear: ``sigmoid(u . o + b)``.  Two layers: ``sigmoid(u . gelu(w o + c) + b)`` with the tanh
    form of GELU.

    Args:
        u: [3, d], or [3, F] where ``w`` is given.
        b: [3].
        w: [3, F, d] or None.
        c: [3, F], given if and only if ``w`` is.
    """

    u: Array
    b: Array
    w: Array | None = None
    c: Array | None = None


class State(NamedTuple):
    """A softmax over part of a path, ready to be merged with the rest of it.

    ``m`` [., 3] is the largest logit, ``l`` [., 3] the sum of ``exp(logit - m)`` and ``o``
    [., 3, d] the sum of ``exp(logit - m) * v``, so that the attention output is ``o / l``.
    """

    m: Array
    l: Array  # noqa: E741  (the name it has in every paper on the subject)
    o: Array


class TriattOutput(NamedTuple):
    """Scores [M, 3]; attention outputs [M, 3, d] and softmax states where they were asked for."""

    scores: Array
    att: Array | None = None
    state: State | None = None


def library_of(name: str, array: Array) -> str:
    """Return ``"numpy"`` or ``"torch"``."""
    if isinstance(array, np.ndarray):
        return "numpy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return "torch"
    raise TypeError(f"`{name}` must be a numpy array or a torch tensor; got {type(array).__name__}.")


def check_floats(name: str, array: Array, shape: tuple[Any, ...], library: str | None = None) -> str:
    """Check the kind, dtype and shape of an array and return its library.

    An entry of ``shape`` is a size, a tuple of admissible sizes, or None for any size.
    """
    found = library_of(name, array)
    if library is not None and found != library:
        raise TypeError(f"`{name}` must be a {library} array like `k`; got {found}.")
    floating = array.dtype.kind == "f" if found == "numpy" else array.dtype.is_floating_point
    if not floating:
        raise ValueError(f"`{name}` must hold floating-point numbers; got {array.dtype}.")
    sizes = tuple(array.shape)
    fits = len(sizes) == len(shape) and all(
        want is None or size in (want if isinstance(want, tuple) else (want,))
        for size, want in zip(sizes, shape, strict=True)
    )
    if not fits:
        names = ("any" if w is None else " or ".join(map(str, w if isinstance(w, tuple) else [w])) for w in shape)
        raise ValueError(f"`{name}` must have shape [{', '.join(names)}]; got {list(sizes)}.")
    return found


def check_head(head: Head, bias: Array | None, width: int | None = None, library: str | None = None) -> None:
    """Check the shapes of head and bias against each other, and ``width`` and ``library`` where given."""
    if head.w is not None:
        library = check_floats("head.w", head.w, (3, None, width), library)
        width = int(head.w.shape[1])
        if width == 0:
            raise ValueError("`head.w` must have at least one hidden unit; got 0.")
        if head.c is None:
            raise ValueError("`head.c` must be given with `head.w`; got None.")
        check_floats("head.c", head.c, (3, width), library)
    elif head.c is not None:
        raise ValueError("`head.c` must be None without `head.w`.")
    library = check_floats("head.u", head.u, (3, width), library)
    check_floats("head.b", head.b, (3,), library)
    if bias is not None:
        check_floats("bias", bias, (3, 4), library)


def as_indices(name: str, values: Any) -> NDArray[np.int64]:
    """Return whole numbers as int64 [n]; an empty list is legal."""
    if type(values).__module__.partition(".")[0] == "torch":
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        raise ValueError(f"`{name}` must be one-dimensional; got a list of lists of unequal length.") from None
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must hold whole numbers; got {array.dtype}.")
    if array.ndim != 1:
        raise ValueError(f"`{name}` must be one-dimensional; got shape {list(array.shape)}.")
    if array.dtype == np.uint64 and array.size and array.max() >= 1 << 63:
        raise ValueError(f"`{name}` must fit into int64; got {array.max()}.")
    return array.astype(np.int64)
