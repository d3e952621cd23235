"""Compute kernels: one folder per operation, one file per backend.

The table below is the whole registry.  Of the backends that can run a call the first is taken; ``reference``
is last, runs everywhere and *is* the specification that the others are tested against.
"""

from __future__ import annotations

#: operation -> backend -> module with ``supports(facts)`` and the operation's functions.
TABLE: dict[str, dict[str, str]] = {
    "triatt": {
        "cpu": "svip_search.kernels.triatt.cpu",
        "triton": "svip_search.kernels.triatt.triton_kernel",
        "cuda": "svip_search.kernels.triatt.cuda",
        "reference": "svip_search.kernels.triatt.reference",
    },
}

#: Backends that ``"auto"`` does not even import for a call on the CPU: that would take a second, for nothing.
GPU_ONLY = {"triton", "cuda"}

from ._dispatch import Facts, counts, explain, reset_counts, which  # noqa: E402  (they read the table)

__all__ = ["GPU_ONLY", "TABLE", "Facts", "counts", "explain", "reset_counts", "which"]
