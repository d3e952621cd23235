"""Time the tree attention beside everything that one could use instead, in one run and in turns.

``python benchmarks/kernels/compare_triatt.py`` measures the machine's ceilings, checks every rival
against the reference, times them all, and writes the record, the table of ``docs/kernels.md`` and the
roofline.  ``--quick`` takes less than a minute; ``--nodes 256 --modes frontier --baselines "path loop"``
and the like choose.  Whatever differs from the reference by more than the tolerance ends the run.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # benchmarks are no package

import ceilings  # noqa: E402
import ours  # noqa: E402
import report  # noqa: E402
from baselines import BASELINES, Baseline, Limits, Output, Ready, Skipped  # noqa: E402
from gpu_baselines import GPU_BASELINES  # noqa: E402
from timing import interleave, write_record  # noqa: E402
from trees import Case, Workload, make, rounds  # noqa: E402

from svip_search import BackendUnavailable  # noqa: E402
from svip_search.kernels.triatt import triatt  # noqa: E402

#: Largest `difference` from the reference; a baseline in bfloat16 also rounds its weights and results.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
LARGEST_GROWN = 1024
SAMPLED = 12  # frontier nodes that are compared with the reference, which is slow
VARIED = [  # what is changed, one at a time, in the cases that are not the headline
    {"shape": "mcts"}, {"width": 64}, {"prefix": 256}, {"prefix": 1280}, {"dtype": "bfloat16"}, {"heads": 1},
    {"heads": 1, "dtype": "bfloat16"},
]  # fmt: skip


class Mismatch(Exception):
    """Somebody computes something else."""


def difference(found: Output, expected: Output) -> float:
    """Return the larger of the relative error of the attention outputs and the error of the scores."""
    pairs = [(np.asarray(a.cpu(), np.float64), np.asarray(b.cpu(), np.float64))
             for a, b in zip(found, expected, strict=True)]  # fmt: skip
    if any(not np.isfinite(a).all() for a, _ in pairs):
        return float("inf")
    (scores, wanted), (att, ref) = pairs
    relative = np.linalg.norm(att - ref, axis=(0, 2)) / np.linalg.norm(ref, axis=(0, 2))
    return float(max(relative.max(), np.abs(scores - wanted).max()))


def prepare(work: Workload, baselines: dict[str, Baseline], limits: Limits) -> tuple[dict[str, Ready], dict[str, str]]:
    """Return the calls that run and agree with the reference, and why others do not run.

    Raises:
        Mismatch: one differs from the reference on some nodes, or from the first one on any.
    """
    picked = np.sort(np.random.default_rng().permutation(len(work.frontier))[:SAMPLED])
    wanted = triatt(work.tree, work.frontier[picked], work.q[picked].double(), work.head, return_att=True,
                    backend="reference")  # fmt: skip
    ready, skipped, first = {}, {}, None
    for name, baseline in baselines.items():
        try:
            with at_most(limits.prepare_seconds):
                call = baseline(work, limits)
                output = call.output()
        except (Skipped, BackendUnavailable) as error:
            skipped[name] = str(error)
            continue
        except Exception as error:  # whatever is wrong with a rival, the others are timed
            if name.startswith("ours"):
                raise
            skipped[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        sampled = Output(*(array[picked] for array in output))
        _check(name, "the reference", difference(sampled, Output(*wanted[:2])), work)
        first = first or (name, output)
        _check(name, first[0], difference(output, first[1]), work)
        ready[name] = call
    return ready, skipped


def _check(name: str, other: str, error: float, work: Workload) -> None:
    if not error <= TOLERANCE[work.case.dtype]:
        raise Mismatch(f"baseline {name!r} differs from {other} by {error:.1e} on {work.case}")


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Give up on a body that takes longer, between two of its Python instructions; Unix only."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def give_up(*_: object) -> None:
        raise Skipped(f"not ready after {seconds:g} s")

    old = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def run_case(
    case: Case, baselines: dict[str, Baseline], top: ceilings.Ceilings, options: argparse.Namespace
) -> dict[str, Any]:
    """Return everything there is to say about a case."""
    work = make(case, device=options.device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    ready, skipped = prepare(work, baselines, options.limits)
    on_gpu = options.device != "cpu"
    results = interleave(
        {name: call.run for name, call in ready.items()},
        seconds=options.seconds,
        rounds=options.rounds,
        evict=_evicter(options.device) if options.cold else None,
        wait=torch.cuda.synchronize if on_gpu else None,
    )
    floors = {name: top.floor_ms(work.flops, work.bytes, _arithmetic(name, work)) for name in ("ours", *results)}
    base = results.get("ours")
    for name, figures in results.items():
        figures |= report.derive(figures, base, work.flops, work.bytes, floors[name])
    return asdict(case) | {
        "threads": top.threads,
        "cold": options.cold,
        "load": load and round(load, 2),
        "rows": len(work.frontier),
        "tokens": len(work.tree.segment),
        "seen_tokens": len(work.rows.tokens),
        "gflop": round(work.flops / 1e9, 6),
        "mbyte": round(work.bytes / 1e6, 3),
        "floor_ms": floors["ours"] and round(floors["ours"], 4),
        "results": results,
        "skipped": skipped,
    }


def _arithmetic(name: str, work: Workload) -> str:
    """Return the type that somebody multiplies in: on a CPU ours widens bfloat16 unless it is told not to."""
    exact = work.device.type == "cpu" and name.startswith("ours") and name != "ours, bfloat16 products"
    return "float32" if exact else work.case.dtype


def run_growth(case: Case, top: ceilings.Ceilings, options: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds for growing a tree in sixteen rounds and scoring each, over all rounds.

    Rivals are charged for scoring alone: their copies, masks and indices are made outside the timing.
    """
    work = make(replace(case, mode="frontier"), device=options.device)
    figures: dict[str, Any] = asdict(work.case) | {"threads": top.threads}
    try:
        for name, everything in (("ours", False), ("ours, full re-score", True)):
            runs = np.array([np.sum(list(ours.grow(work, everything)), 0) for _ in range(options.rounds[0])])
            append, score = np.median(runs, 0) * 1e3
            figures[name] = {"append_ms": round(append, 3), "score_ms": round(score, 3)}
    except Skipped as error:
        figures["ours"] = str(error)
    rivals = {name: BASELINES[name] for name in ("path loop", "dense mask", "segment loop")}
    for young in rounds(work):
        ready, skipped = prepare(young, rivals, options.limits)
        found = interleave({name: call.run for name, call in ready.items()}, seconds=0.05, rounds=(3, 9))
        for name, timed in found.items():
            total = figures.setdefault(name, {"score_ms": 0.0})
            total["score_ms"] = round(total["score_ms"] + timed["p50_ms"], 3)
        if skipped:
            rivals = {name: call for name, call in rivals.items() if name not in skipped}
            figures |= skipped
    return figures


def _evicter(device: str) -> Any:
    data = torch.ones(64 << 20, device=device)
    return lambda: float(data.sum())


def cases_of(options: argparse.Namespace) -> list[tuple[Case, bool]]:
    """Return what to time, and whether with all rivals.

    Without a choice: the headline at every size, and from it one change at a time at two sizes and
    without FlexAttention, which is compiled for each.  With one: everything that was chosen.
    """
    chosen = {key: getattr(options, key) for key in CHOICES if getattr(options, key)}
    base = {"shape": ["beam"], "nodes": [64, 256, 1024, 4096], "prefix": [512], "width": [128], "heads": [3],
            "dtype": ["float32"], "mode": ["full", "frontier"]}  # fmt: skip
    headline = [(Case(**dict(zip(base, values, strict=True))), True)
                for values in itertools.product(*(base | chosen).values())]  # fmt: skip
    if chosen or options.quick:
        return headline
    varied = [(Case(nodes=nodes, mode=mode, **change), False)
              for change in VARIED for nodes in (256, 1024) for mode in base["mode"]]  # fmt: skip
    return headline + varied


#: Field of a case -> its option and the type of a value.
CHOICES: dict[str, tuple[str, type]] = {
    "shape": ("--shapes", str),
    "nodes": ("--nodes", int),
    "prefix": ("--prefix", int),
    "width": ("--width", int),
    "heads": ("--heads", int),
    "dtype": ("--dtypes", str),
    "mode": ("--modes", str),
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, with ``limits``, ``rounds`` and ``growth`` made of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field, (option, kind) in CHOICES.items():
        parser.add_argument(option, dest=field, type=kind, nargs="+", help=f"choose cases by {field}")
    parser.add_argument("--baselines", nargs="+", help="names to time beside ours; default: all")
    parser.add_argument("--no-flex", action="store_true", help="leave out FlexAttention, which is compiled")
    parser.add_argument("--no-growth", action="store_true", help="leave out the growing of trees")
    parser.add_argument("--threads", type=int, nargs="+", help="default: one, and all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each rival in each case")
    parser.add_argument("--prepare-seconds", type=float, default=120.0, help="most time to compile a rival")
    parser.add_argument("--memory-gib", type=float, help="most memory of a rival; default 2, on a GPU 32")
    parser.add_argument("--cold", action="store_true", help="empty the caches before each call")
    parser.add_argument("--quick", action="store_true", help="N=256, few rounds, no FlexAttention: under a minute")
    parser.add_argument("--record", help="name of the record; default triatt_cpu or triatt_cuda; - for none")
    options = parser.parse_args(argv)
    on_gpu = options.device != "cpu"
    if options.quick:
        options.nodes, options.no_flex = options.nodes or [256], True
        options.seconds, options.record = 0.2, options.record or "-"
    options.threads = options.threads or ([0] if on_gpu else sorted({1, os.cpu_count() or 1}))
    options.rounds, options.growth = (3, 25), not (on_gpu or options.no_growth)
    scale = 100 if on_gpu else 1
    memory = (options.memory_gib or (32 if on_gpu else 2)) * 2**30
    options.limits = Limits(memory, 8e9 * scale, 2e11 * scale, options.prepare_seconds)
    options.record = options.record or ("triatt_cuda" if on_gpu else "triatt_cpu")
    return options


def rivals_of(options: argparse.Namespace) -> dict[str, Baseline]:
    """Return everybody that is timed, ours first.

    Raises:
        ValueError: ``--baselines`` names somebody unknown.
    """
    on_gpu = options.device != "cpu"
    known = BASELINES | (GPU_BASELINES if on_gpu else {})
    if unknown := set(options.baselines or ()) - set(known):
        raise ValueError(f"`--baselines` must be among {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    names = [name for name in options.baselines or known if not (options.no_flex and name.startswith("flex"))]
    return (ours.ON_GPU if on_gpu else ours.ON_CPU) | {name: known[name] for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write the record, the table and the roofline."""
    options = parse(argv)
    rivals = rivals_of(options)
    plain = {name: rival for name, rival in rivals.items() if not name.startswith("flex")}
    todo = [(threads, case, rivals if headline else plain)
            for threads in options.threads for case, headline in cases_of(options)
            if headline or threads == options.threads[0]]  # fmt: skip
    figures: dict[str, Any] = {"limits": asdict(options.limits), "ceilings": [], "cases": [], "growth": []}
    tops: dict[int, ceilings.Ceilings] = {}
    with report.progress(len(todo)) as advance:
        for threads, case, contenders in todo:
            advance(f"{case}, {report.threads_of(threads)}")
            torch.set_num_threads(threads or os.cpu_count() or 1)
            if threads not in tops:
                tops[threads] = ceilings.measure(threads, options.device)
                figures["ceilings"].append(tops[threads].facts())
            figures["cases"].append(run_case(case, contenders, tops[threads], options))
            if options.growth and case == Case(nodes=case.nodes, mode="frontier") and case.nodes <= LARGEST_GROWN:
                figures["growth"].append(run_growth(case, tops[threads], options))
            gc.collect()
    figures["slopes"], figures["aims"] = report.slopes(figures["cases"]), report.aims(figures["cases"])
    report.show(figures)
    if options.record != "-":
        path = write_record(options.record, figures)
        print(f"record: {path}")
        report.publish(path)


if __name__ == "__main__":
    main()
