"""Measure how far every way of computing the tree attention is from float64.

``python benchmarks/kernels/accuracy.py`` compares every SIMD tier, in float32 and with keys and values in
bfloat16, and torch's own attention over each path, with the float64 reference on the rounded inputs, and writes
the record and the table of ``docs/kernels.md``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # benchmarks are no package

import ours  # noqa: E402
import report  # noqa: E402
from baselines import BASELINES, Baseline, Limits, Output  # noqa: E402
from timing import write_record  # noqa: E402
from trees import Case, Workload, make  # noqa: E402

from svip_search import _core  # noqa: E402
from svip_search.kernels.triatt import triatt  # noqa: E402

#: What is measured: usual numbers, and logits so large that one token takes nearly all the weight.
INPUTS = {"usual": 1.0, "logits x 30": 30.0}
SEEDS = 3


def errors(found: Output, exact: Output) -> tuple[float, float]:
    """Return the largest relative error of an attention output, and the largest error of a score."""
    att, wanted = (np.asarray(out.att, np.float64) for out in (found, exact))
    relative = np.linalg.norm(att - wanted, axis=2) / np.linalg.norm(wanted, axis=2)
    return float(relative.max()), float(np.abs(np.asarray(found.scores, np.float64) - np.asarray(exact.scores)).max())


def exact(work: Workload) -> Output:
    """Return the outputs in float64, from the same rounded keys, values and queries."""
    tree = replace(work.tree, k=work.tree.k.double(), v=work.tree.v.double())
    head = type(work.head)(*(None if a is None else a.double() for a in work.head))
    return Output(*triatt(tree, work.frontier, work.q.double(), head, return_att=True, backend="reference")[:2])


def ways() -> Iterator[tuple[str, str, Callable[[Workload], Output]]]:
    """Yield who computes, the type of keys and values, and the call."""
    for tier in _core.simd_tiers():
        yield f"{tier}", "float32", _on(tier, ours.handles)
        yield f"{tier}", "bfloat16", _on(tier, ours.handles)
        if tier == "avx512bf16":
            yield f"{tier}, bfloat16 products", "bfloat16", _on(tier, ours.bf16_dots)
    for dtype in ("float32", "bfloat16"):
        yield "torch, path by path", dtype, _on(None, BASELINES["path loop"])


def _on(tier: str | None, way: Baseline) -> Callable[[Workload], Output]:
    def call(work: Workload) -> Output:
        old = os.environ.get("SVIP_SIMD")
        if tier:
            os.environ["SVIP_SIMD"] = tier
        try:
            return way(work, Limits()).output()
        finally:
            os.environ.pop("SVIP_SIMD", None)
            if old is not None:
                os.environ["SVIP_SIMD"] = old

    return call


def main() -> None:
    """Measure, print, write the record and the table."""
    rows: list[dict[str, Any]] = []
    for who, dtype, call in ways():
        found: dict[str, Any] = {"who": who, "dtype": dtype}
        for name, factor in INPUTS.items():
            pairs = []
            for seed in range(SEEDS):
                work = make(Case(nodes=64, dtype=dtype), seed)
                work = replace(work, q=work.q * factor)
                pairs.append(errors(call(work), exact(work)))
            found[name] = dict(zip(("att", "scores"), np.max(pairs, 0).tolist(), strict=True))
        rows.append(found)
        print(f"{who:32s} {dtype:9s}", *(f"{v:.1e}" for name in INPUTS for v in found[name].values()), flush=True)
    path = write_record("triatt_accuracy", {"seeds": SEEDS, "rows": rows})
    report.publish_accuracy(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
