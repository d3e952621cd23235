"""``svip-search kernels``: what this machine has, and which backend would run what."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Calls that people make, as facts of ``svip_search.kernels``.
CALLS: dict[str, dict[str, Any]] = {
    "numpy, float32": {},
    "numpy, float64": {"dtype": "float64", "precision": "float64"},
    "torch on the CPU, float32": {"library": "torch"},
    "torch on the CPU, bfloat16": {"library": "torch", "dtype": "bfloat16"},
    "torch on the CPU, training": {"library": "torch"},
    "torch on the CPU, training through a scan": {"library": "torch", "grad": True},
    "torch on a GPU, float32": {"library": "torch", "device": "cuda"},
    "torch on a GPU, bfloat16": {"library": "torch", "device": "cuda", "dtype": "bfloat16"},
}


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "kernels",
        help="show which kernels this machine can run",
        description="Show what this machine has, which backend of each operation would run which call, and why "
        "the others would not.",
    )
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    facts, chosen, reasons = machine(), choices(), refusals()
    if arguments.json:
        print(json.dumps({"machine": facts, "chosen": chosen, "reasons": reasons}, indent=1))
        return 0
    from rich.table import Table

    from ._show import console

    out = console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(f"[dim]{name}[/dim]", value)
    out.print(table)
    for operation, calls in chosen.items():
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in (operation, "backend"):
            table.add_column(name)
        for call, backend in calls.items():
            table.add_row(call, f"[bold]{backend}[/bold]" if backend else "[dim]none[/dim]")
        out.print()
        out.print(table)
        for backend, reason in reasons[operation].items():
            out.print(f"[dim]{backend}[/dim]: {reason}", highlight=False)
    return 0


def machine() -> dict[str, str]:
    """Return what matters to kernels: processor, SIMD tiers, threads, GPU, compilers."""
    from svip_search import _core

    tiers = _core.simd_tiers()
    used = _core.simd_tier()
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "SIMD tiers": ", ".join(f"{t} (in use)" if t == used else t for t in tiers) + "; SVIP_SIMD=NAME overrides",
        "torch": _version("torch"),
        "GPU": ", ".join(_gpu_names()) or "none that torch can use",
        "triton": _version("triton"),
        "CUDA backend": "built" if _has_cuda_library() else "not built (nvcc was missing when this was installed)",
    }


def choices() -> dict[str, dict[str, str]]:
    """Return operation -> call -> the backend that ``"auto"`` takes, empty where none can."""
    from svip_search.kernels import TABLE, which

    from .._errors import BackendUnavailable

    no_gpu = not _gpu_names()

    def chosen(operation: str, call: dict[str, Any]) -> str:
        if no_gpu and call.get("device") == "cuda":
            return ""
        try:
            return str(which(operation, **call))
        except BackendUnavailable:
            return ""

    return {op: {name: chosen(op, call) for name, call in CALLS.items()} for op in TABLE}


def refusals() -> dict[str, dict[str, str]]:
    """Return operation -> backend -> why it cannot run a call in its own best case, or that it can."""
    from svip_search.kernels import TABLE, Facts, explain

    found: dict[str, dict[str, str]] = {}
    for operation, backends in TABLE.items():
        found[operation] = {}
        for backend in backends:
            gpu = backend in ("triton", "cuda")
            facts = Facts(device="cuda" if gpu else "cpu", library="torch" if gpu else "numpy")
            lines = dict(line.split(": ", 1) for line in explain(operation, facts).splitlines())
            able = lines[backend] in ("chosen", "able, not needed")
            found[operation][backend] = "can run" if able else lines[backend]
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpu_names() -> list[str]:
    if find_spec("torch") is None:
        return []
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _has_cuda_library() -> bool:
    return any(Path(__file__).parents[1].glob("_triatt_cuda*"))
