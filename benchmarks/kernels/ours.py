"""The library's own ways to the same scores, prepared like the baselines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch
from baselines import Baseline, Limits, Output, Ready, Skipped
from trees import Workload, rounds

from svip_search.kernels import TABLE
from svip_search.kernels import triatt as op
from svip_search.kernels._dispatch import Facts


def handles(work: Workload, limits: Limits, *, dots: bool = False) -> Ready:
    """Score through a pool that holds the tree: how a search uses it."""
    tree, packed = _stored(work)
    q, options = _numpy(work.q), {"threads": torch.get_num_threads(), "dots": dots}
    return Ready(
        lambda: tree.score(work.frontier, q, packed, **options),
        np.arange(len(work.frontier)),
        lambda: Output(*tree.score(work.frontier, q, packed, return_att=True, **options)[:2]),
    )


def bf16_dots(work: Workload, limits: Limits) -> Ready:
    """Multiply in bfloat16, as the rivals do with keys and values of that type."""
    if work.case.dtype != "bfloat16":
        raise Skipped("for bfloat16 only")
    return handles(work, limits, dots=True)


def rescore(work: Workload, limits: Limits) -> Ready:
    """Score every step of the tree although only the newest are asked for."""
    if work.case.mode == "full":
        raise Skipped("the same as ours where every step is asked for")
    tree, packed = _stored(work)
    q = np.zeros((len(work.tree) - 1, 3, work.tree.width), np.float32)
    q[work.frontier - 1] = _numpy(work.q)
    everything, threads = np.arange(1, len(work.tree)), torch.get_num_threads()

    def verify() -> Output:
        out = tree.score(everything, q, packed, return_att=True, threads=threads)
        return Output(*(array[work.frontier - 1] for array in out[:2]))

    run = lambda: tree.score(everything, q, packed, threads=threads)  # noqa: E731
    return Ready(run, np.arange(len(work.frontier)), verify)


def one_call(work: Workload, limits: Limits) -> Ready:
    """Call `triatt` on plain arrays: the tree is checked and packed in every call."""
    if torch.get_num_threads() < (os.cpu_count() or 1):
        raise Skipped("it takes all threads")
    return _functional(work, "cpu")


def _gpu_call(backend: str) -> Baseline:
    """Return the way that calls `triatt`: the work list is made in every call."""
    return lambda work, limits: _functional(work, backend)


def _gpu_planned(backend: str) -> Baseline:
    """Return the way that launches the kernels alone, on a work list that was made before."""

    def planned(work: Workload, limits: Limits) -> Ready:
        run, verify = (_launcher(work, backend, att=att) for att in (False, True))
        return Ready(run, np.arange(len(work.frontier)), verify)

    return planned


def _gpu_graph(backend: str) -> Baseline:
    """Return the way that replays a CUDA graph of the launches."""

    def replayed(work: Workload, limits: Limits) -> Ready:
        planned = _gpu_planned(backend)(work, limits)
        graphs = []
        for launch in (planned.run, planned.verify):
            launch()  # compiles, which a graph cannot hold
            torch.cuda.synchronize()
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[-1]):
                out = launch()

        def verify() -> Output:
            out.scores.zero_()
            graphs[1].replay()
            return out

        return Ready(graphs[0].replay, planned.order, verify)

    return replayed


#: name -> how; "ours" is what all others are compared with.
ON_CPU: dict[str, Baseline] = {
    "ours": handles,
    "ours, bfloat16 products": bf16_dots,
    "ours, full re-score": rescore,
    "ours, one call": one_call,
}
ON_GPU: dict[str, Baseline] = {
    "ours": _gpu_planned("triton"),
    "ours, graph": _gpu_graph("triton"),
    "ours, one call": _gpu_call("triton"),
    "ours, CUDA": _gpu_planned("cuda"),
    "ours, CUDA graph": _gpu_graph("cuda"),
    "ours, CUDA one call": _gpu_call("cuda"),
}


def grow(work: Workload, everything: bool = False) -> Iterator[tuple[float, float]]:
    """Grow a tree round by round; yield the seconds of appending and of scoring each round.

    Args:
        work: the tree, in its sixteen rounds.
        everything: score all steps in each round, not only the new ones.
    """
    pool, tree, packed = _empty(work)
    threads, q_all = torch.get_num_threads(), np.zeros((len(work.tree), 3, work.tree.width), np.float32)
    q_all[work.frontier] = _numpy(work.q)
    _extend(tree, work.tree, 0, 1)
    for young in rounds(work):
        first, last = int(young.frontier[0]), len(young.tree)
        wanted = np.arange(1, last) if everything else young.frontier
        start = time.perf_counter()
        _extend(tree, young.tree, first, last)
        appended = time.perf_counter()
        tree.score(wanted, q_all[wanted], packed, threads=threads)
        yield appended - start, time.perf_counter() - appended
    tree.close()
    pool.close()


def _functional(work: Workload, backend: str) -> Ready:
    if backend not in TABLE["triatt"]:
        raise Skipped(f"the table of kernels has no backend {backend}")
    if (backend == "cpu") != (work.device.type == "cpu"):
        raise Skipped(f"backend {backend} does not compute on this device")

    def call(return_att: bool) -> Any:
        return op.triatt(work.tree, work.frontier, work.q, work.head, backend=backend, return_att=return_att)

    return Ready(lambda: call(False), np.arange(len(work.frontier)), lambda: Output(*call(True)[:2]))


def _launcher(work: Workload, backend: str, *, att: bool) -> Callable[[], Output]:
    """Return what launches the kernels and returns the buffers that they fill."""
    try:
        module: Any = import_module(TABLE["triatt"][backend])
        from svip_search.kernels.triatt._work import make_work
    except (ImportError, KeyError) as error:
        raise Skipped(f"backend {backend} cannot be imported: {error}") from error
    facts = Facts(work.device.type, work.case.dtype, library="torch", width=work.case.width)
    if refusal := module.supports(facts):
        raise Skipped(refusal)
    k, v = work.tree.k, work.tree.v
    if backend == "triton":
        sizes = (*module.block_and_tile(len(work.frontier), k), module.wanted_programs(k))
        plan = make_work(work.tree, work.frontier, *sizes, work.device)
    else:
        plan = module.make_work(work.tree, work.frontier, k)
    buffers = module.allocate(plan, k, att=att, state=False)

    def launch() -> Output:
        module.launch(plan, k, v, work.q, work.head, None, buffers)
        return Output(buffers.scores, buffers.att)

    return launch


def _stored(work: Workload) -> tuple[Any, Any]:
    """Return the tree in a pool, and the head."""
    _, tree, packed = _empty(work)
    _extend(tree, work.tree, 0, len(work.tree))
    return tree, packed


def _empty(work: Workload) -> tuple[Any, Any, Any]:
    """Return a pool, an empty tree in it, and the head."""
    if not hasattr(op, "KVPool"):
        raise Skipped("this build has no KVPool")
    if work.device.type != "cpu":
        raise Skipped("a pool lives on the CPU")
    pool = op.KVPool(work.tree.width, n_kv_heads=work.case.heads, dtype=work.case.dtype)
    head = op.Head(*(None if array is None else array.numpy() for array in work.head))
    return pool, pool.tree(), op.PackedHead(head)


def _extend(tree: Any, source: Any, first: int, last: int) -> None:
    """Append nodes first..last, which have the same indices in both trees."""
    begin, end = int(source.token_ptr[first]), int(source.token_ptr[last])
    tree.extend(
        source.parent[first:last],
        source.token_ptr[first : last + 1] - begin,
        source.segment[begin:end],
        _numpy(source.k[begin:end]),
        _numpy(source.v[begin:end]),
    )


def _numpy(array: torch.Tensor) -> Any:
    """Return the numpy array that shares the memory; numpy has no bfloat16, so that stays in torch."""
    return array if array.dtype == torch.bfloat16 else array.numpy()
