"""Tri-head tree attention in CUDA C++: ``csrc/cuda/``, called through its plain C interface.

Two launches a call, whatever the depth of the tree; the header ``svip/triatt_cuda.h`` tells how they work.

Accuracy.  float32 is multiplied as float32, never as tf32.  16-bit keys and values are multiplied on tensor
cores; the other factor, queries or softmax weights, is split into a high and a low 16-bit part, so that it is
not rounded.  Infinite values give NaN.

The kernels have run in an emulator of the GPU's threads only: they are tested, but no speed was measured.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import svip_search
from svip_search import _core
from svip_search._errors import BackendUnavailable

from .._dispatch import Facts
from . import _work
from ._types import Array, Head, KVTree, State, TriattOutput
from ._work import Work

_TYPES = {"float32": 0, "bfloat16": 1, "float16": 2}
_WIDEST = 256
_OLDEST = (8, 0)
_SHARED_BYTES = 128 * 1024
#: Rows of a query block, as in the header.
BLOCK = 16


class _Call(ctypes.Structure):
    """``svip_triatt_cuda_call`` of the header."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("struct_size", "device", "kv_type", "q_type", "width", "n_kv_heads")),
        *((name, ctypes.c_int32) for name in ("hidden", "n_rows", "n_programs", "n_tiles")),
        ("scale", ctypes.c_float),
        ("q_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("k", "v", "q", "bias", "order", "tiles", "segment", "programs")),
        *((name, ctypes.c_void_p) for name in ("slots", "next", "first_m", "first_l", "first_o", "u", "b", "w", "c")),
        *((name, ctypes.c_void_p) for name in ("workspace", "scores", "att", "m", "l", "o", "stream")),
    )


def _load() -> ctypes.CDLL:
    """Return the compiled library with the types of its functions set."""
    beside = Path(svip_search.__file__).parent / "_triatt_cuda.so"
    path = Path(os.environ.get("SVIP_TRIATT_CUDA", beside))
    if not path.exists():
        raise ImportError(f"{path.name} is missing: this installation was built without a CUDA compiler.")
    library = ctypes.CDLL(str(path))
    call = ctypes.POINTER(_Call)
    for name, result, arguments in (
        ("tile", ctypes.c_int32, [ctypes.c_int32, ctypes.c_int32]),
        ("workspace", ctypes.c_int64, [ctypes.c_int32, ctypes.c_int32]),
        ("check", ctypes.c_char_p, [call]),
        ("launch", ctypes.c_int, [call]),
        ("error", ctypes.c_char_p, [ctypes.c_int]),
    ):
        function = getattr(library, f"svip_triatt_cuda_{name}")
        function.restype, function.argtypes = result, arguments
    return library


_library = _load()


class ScanPlan(NamedTuple):
    """Work of a scan, with rows 2n and 2n + 1 for node n, and the row or state that each one goes on from."""

    work: Work
    next: torch.Tensor


class Buffers(NamedTuple):
    """Where a call writes, as ``allocate`` makes it."""

    workspace: torch.Tensor
    scores: torch.Tensor  # [M, 3]
    att: torch.Tensor | None  # [M, 3, d]
    state: State | None


def supports(facts: Facts) -> str:
    """Return why a call cannot run here, or an empty string."""
    if facts.library != "torch":
        return "it takes torch tensors; got numpy arrays."
    if facts.device != "cuda":
        return f"it runs on a GPU; the tensors are on the {facts.device}."
    if facts.grad:
        return "it has no gradients through a softmax state."
    if facts.dtype not in _TYPES:
        return f"`k` must be {', '.join(_TYPES)}; got {facts.dtype}."
    if facts.precision == "float64":
        return "it computes in float32; `q` is float64."
    if facts.width > _WIDEST:
        return f"the width d must be at most {_WIDEST}; got {facts.width}."
    if torch.version.hip is not None:
        return "it runs on NVIDIA GPUs only."
    if not torch.cuda.is_available():
        return "torch finds no GPU."
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    if (device.major, device.minor) < _OLDEST:
        return f"compute capability 8.0 or more is needed; got {device.major}.{device.minor}."
    if facts.width > 64 and getattr(device, "shared_memory_per_block_optin", _SHARED_BYTES) < _SHARED_BYTES:
        return f"a width d above 64 takes 128 KB of shared memory a block, which {device.name} does not have."
    return ""


def triatt(
    tree: KVTree, frontier: NDArray[np.int64], q: Array, head: Head, bias: Array | None,
    return_att: bool, return_state: bool,
) -> TriattOutput:  # fmt: skip
    """Return what ``svip_search.kernels.triatt.triatt`` promises, in float32."""
    k, v, q, head, bias = _dense(tree, q, head, bias)
    work = make_work(tree, frontier, k)
    buffers = allocate(work, k, att=return_att, state=return_state)
    launch(work, k, v, q, head, bias, buffers, scale=tree.width**-0.5)
    return _output(buffers, tree.width)


def triatt_scan(
    tree: KVTree, q: Array, head: Head, bias: Array | None, state: State | None, return_att: bool
) -> TriattOutput:
    """Return what ``svip_search.kernels.triatt.triatt_scan`` promises, in float32.

    Every token is read once; then each node walks to its root, at the cost of a state a step.
    """
    k, v, q, head, bias = _dense(tree, q, head, bias)
    plan = make_scan_plan(tree, k, goes_on=state is not None)
    buffers = allocate(plan, k, att=return_att, state=True)
    if state is not None:
        state = State(_float32(state.m), _float32(state.l), _float32(_pad(state.o, int(k.shape[2]))))
    launch(plan, k, v, q, head, bias, buffers, first=state, scale=tree.width**-0.5)
    return _output(buffers, tree.width)


def make_work(tree: KVTree, frontier: NDArray[np.int64], k: torch.Tensor) -> Work:
    """Return the plan of a frontier, for keys like ``k``."""
    return _work.make_work(tree, frontier, BLOCK, _tile(k), _work.wanted_programs(k), k.device)


def make_scan_plan(tree: KVTree, k: torch.Tensor, *, goes_on: bool) -> ScanPlan:
    """Return the plan of a scan over all nodes; ``goes_on`` where the roots continue from given states.

    Each node is a tree of its own, seen by two rows: the first takes its tokens as "this step" and gives
    the score, the second takes them as "earlier step" and gives what children continue from.
    """
    twice = np.repeat(np.arange(len(tree), dtype=np.int32), 2)
    alone = np.full(len(tree), -1, np.int32)
    order, tiles, tile_ptr = _core.triatt_plan(alone, tree.token_ptr, twice, BLOCK, _tile(k))
    tiles[:, 3] = tiles[:, 2] + 1
    programs, slots = _work._split(tiles, tile_ptr, len(order), BLOCK, _work.wanted_programs(k))
    roots = tree.parent < 0
    before = 2 * tree.parent + 1
    before[roots] = -1 - np.arange(1, roots.sum() + 1) if goes_on else -1
    arrays = (order, tiles, tree.segment, programs, slots, before[twice].astype(np.int32))
    *shared, following = _work._to_device(arrays, k.device)
    return ScanPlan(Work(*shared, block=BLOCK, tile=_tile(k)), following)


def allocate(plan: Work | ScanPlan, k: torch.Tensor, *, att: bool, state: bool) -> Buffers:
    """Return the buffers of ``launch``, uninitialised.

    Args:
        plan: from ``make_work`` or ``make_scan_plan``.
        k: keys [T, n_kv_heads, d], for their width and device.
        att: room for the attention outputs.
        state: room for the softmax states.
    """
    work, entries = (plan, plan.order.shape[0]) if isinstance(plan, Work) else (plan.work, plan.next.shape[0] // 2)
    width = int(k.shape[2])

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32, device=k.device)

    return Buffers(
        empty(_library.svip_triatt_cuda_workspace(work.programs.shape[0], width)),
        empty(entries, 3),
        empty(entries, 3, width) if att else None,
        State(empty(entries, 3), empty(entries, 3), empty(entries, 3, width)) if state else None,
    )


def launch(
    plan: Work | ScanPlan, k: torch.Tensor, v: torch.Tensor, q: torch.Tensor, head: Head, bias: torch.Tensor | None,
    buffers: Buffers, *, first: State | None = None, scale: float | None = None,
) -> None:  # fmt: skip
    """Queue both kernels on the current stream: no allocation, no copy, no wait.

    A CUDA graph can therefore hold the call, and a frontier whose layout stays is scored again by new
    numbers in the same tensors and one replay::

        work = make_work(tree, frontier, k)
        buffers = allocate(work, k, att=False, state=False)
        with torch.cuda.graph(graph):
            launch(work, k, v, q, head, bias, buffers)
        q.copy_(new_queries)
        graph.replay()  # buffers.scores is up to date

    Args:
        plan: from ``make_work`` (then q is [M, 3, d] or [3, d]) or ``make_scan_plan`` (then q is [3, d]).
        k: keys [T, n_kv_heads, d], float32, bfloat16 or float16; a key is a multiple of 16 bytes.
        v: values, the same.
        q: queries, float32, bfloat16 or float16.
        head: as in ``triatt``, float32.
        bias: [3, 4], float32, or None.
        buffers: from ``allocate``.
        first: the states that the roots of a scan continue from, float32.
        scale: of the products q . k, where it is not 1 / sqrt(d).

    Raises:
        ValueError: a tensor is not contiguous, on another device, or not of the type and shape above.
        BackendUnavailable: CUDA refused the launch.
    """
    work, following = plan if isinstance(plan, ScanPlan) else (plan, None)
    n_rows, (_, n_heads, width) = int(work.order.shape[0]), k.shape
    entries = n_rows if following is None else n_rows // 2
    at = _Pointers(k.device)
    half = ("float32", "bfloat16", "float16")
    hidden = 0 if head.w is None else int(head.w.shape[1])
    scanned = following is not None or q.ndim == 2
    call = _Call(
        struct_size=ctypes.sizeof(_Call),
        device=-1 if k.device.index is None else k.device.index,
        kv_type=_TYPES.get(_name(k), -1), q_type=_TYPES.get(_name(q), -1),
        width=width, n_kv_heads=n_heads, hidden=hidden, n_rows=n_rows, n_programs=int(work.programs.shape[0]),
        n_tiles=int(work.tiles.shape[0]),
        scale=width**-0.5 if scale is None else scale, q_stride=0 if scanned else 3 * width,
        k=at("k", k, k.shape, *half), v=at("v", v, k.shape, _name(k)),
        q=at("q", q, (3, width) if scanned else (entries, 3, width), *half),
        bias=at("bias", bias, (3, 4)),
        order=at("plan.order", work.order, (n_rows,), "int32"),
        tiles=at("plan.tiles", work.tiles, (len(work.tiles), 5), "int32"),
        segment=at("plan.segment", work.segment, (len(k),), "uint8"),
        programs=at("plan.programs", work.programs, (len(work.programs), 4), "int32"),
        slots=at("plan.slots", work.slots, (-(-n_rows // BLOCK) + 1,), "int32"),
        next=at("plan.next", following, (n_rows,), "int32"),
        **at.state("first", first, None, width),
        u=at("head.u", head.u, (3, hidden or width)), b=at("head.b", head.b, (3,)),
        w=at("head.w", head.w, (3, hidden, width)), c=at("head.c", head.c, (3, hidden)),
        workspace=at("buffers.workspace", buffers.workspace, tuple(buffers.workspace.shape)),
        scores=at("buffers.scores", buffers.scores, (entries, 3)),
        att=at("buffers.att", buffers.att, (entries, 3, width)),
        **at.state("", buffers.state, entries, width),
        stream=torch.cuda.current_stream(k.device).cuda_stream if k.is_cuda else None,
    )  # fmt: skip
    _run(call)


def _run(call: _Call) -> None:
    if reason := _library.svip_triatt_cuda_check(call):
        raise ValueError(f"{reason.decode()}.")
    if code := _library.svip_triatt_cuda_launch(call):
        text = _library.svip_triatt_cuda_error(code).decode()
        raise BackendUnavailable(f"`backend` 'cuda' cannot run triatt: CUDA error {code}: {text}.")


class _Pointers:
    """Addresses of tensors that are what the kernels take them for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, name: str, array: torch.Tensor | None, shape: tuple[int, ...], *types: str) -> int | None:
        """Return the address of a contiguous tensor of one of ``types``, float32 by default; None of None."""
        if array is None:
            return None
        types = types or ("float32",)
        if array.device != self.device:
            raise ValueError(f"`{name}` must be on the device of `k`, {self.device}; got {array.device}.")
        if _name(array) not in types:
            raise ValueError(f"`{name}` must be {' or '.join(types)}; got {_name(array)}.")
        if tuple(array.shape) != tuple(shape):
            raise ValueError(f"`{name}` must have shape {list(shape)}; got {list(array.shape)}.")
        if not array.is_contiguous():
            raise ValueError(f"`{name}` must be contiguous; got strides {array.stride()}.")
        return array.data_ptr()

    def state(self, name: str, state: State | None, rows: int | None, width: int) -> dict[str, int | None]:
        """Return the fields of a state, ``name`` before their own names."""
        if state is None:
            return {}
        rows = len(state.m) if rows is None else rows
        shapes = {"m": (rows, 3), "l": (rows, 3), "o": (rows, 3, width)}
        prefix = f"{name}_" if name else ""
        return {prefix + x: self(f"{name or 'buffers.state'}.{x}", getattr(state, x), shapes[x]) for x in shapes}


def _name(array: torch.Tensor) -> str:
    return str(array.dtype).removeprefix("torch.")


def _tile(k: torch.Tensor) -> int:
    """Return the most tokens of a tile for keys like ``k``."""
    return int(_library.svip_triatt_cuda_tile(_TYPES[_name(k)], int(k.shape[2])))


def _dense(
    tree: KVTree, q: torch.Tensor, head: Head, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Head, torch.Tensor | None]:
    """Return the tensors as ``launch`` wants them; no copy in the usual case."""
    step = 16 // tree.k.element_size()
    width = -(-tree.width // step) * step
    k, v = (_aligned(_pad(a, width)) for a in (tree.k, tree.v))
    q = _pad(q, width)
    head = Head(
        _float32(head.u if head.w is not None else _pad(head.u, width)),
        _float32(head.b),
        None if head.w is None else _float32(_pad(head.w, width)),
        None if head.c is None else _float32(head.c),
    )
    return k, v, q.contiguous(), head, None if bias is None else _float32(bias)


def _pad(array: torch.Tensor, width: int) -> torch.Tensor:
    """Return the array with zeros up to ``width`` columns, which change no product."""
    missing = width - int(array.shape[-1])
    return torch.nn.functional.pad(array, (0, missing)) if missing else array


def _aligned(array: torch.Tensor) -> torch.Tensor:
    """Return the array contiguous and at a multiple of 16 bytes."""
    array = array.contiguous()
    return array.clone() if array.data_ptr() % 16 else array


def _float32(array: torch.Tensor) -> torch.Tensor:
    return array.to(torch.float32).contiguous()


def _output(buffers: Buffers, width: int) -> TriattOutput:
    att, state = buffers.att, buffers.state
    if att is not None:
        att = att[..., :width]
    if state is not None:
        state = State(state.m, state.l, state.o[..., :width])
    return TriattOutput(buffers.scores, att, state)
