"""Compute kernels: one folder per operation, one file per backend.

The table below is the whole registry.  Backends stand fastest first; ``reference`` is last, runs
everywhere and *is* the specification that the others are tested against.
"""

from __future__ import annotations

#: operation -> backend -> module with ``supports(facts)`` and the operation's functions.
TABLE: dict[str, dict[str, str]] = {
    "triatt": {
        "cpu": "svip_search.kernels.triatt.cpu",
        "reference": "svip_search.kernels.triatt.reference",
    },
}

from ._dispatch import Facts, counts, explain, reset_counts, which  # noqa: E402  (they read the table)

__all__ = ["TABLE", "Facts", "counts", "explain", "reset_counts", "which"]
