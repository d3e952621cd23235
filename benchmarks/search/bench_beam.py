"""Beam search with instant models: time of one scored candidate.

``pytest benchmarks/search/bench_beam.py``, or ``python benchmarks/search/bench_beam.py`` for a record.
"""

from __future__ import annotations

from typing import Any

import pytest
from workloads import beam, measure, run, write_record

SIZES = [(4, 4), (16, 16), (64, 64), (1000, 6)]


@pytest.mark.parametrize(("width", "expand"), SIZES)
def bench_beam(benchmark: Any, width: int, expand: int) -> None:
    """Time a beam of depth 16."""
    benchmark.pedantic(run, args=(beam(width, expand), 16, expand), rounds=3, warmup_rounds=1)


def main() -> None:
    """Write the record: processor time a scored candidate."""
    figures: dict[str, Any] = {"unit": "a scored candidate, depth 16"}
    for width, expand in SIZES:
        figures[f"width={width}, expand={expand}"] = measure(
            lambda w=width, e=expand: run(beam(w, e), 16, e).usage.reward_calls, rounds=5
        )
    print(write_record("search_beam", figures).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
