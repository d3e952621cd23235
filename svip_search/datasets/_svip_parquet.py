"""Records of SVIP as rows of a Parquet file: what may be any value is kept as JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ._svip_check import RecordError

_AS_TEXT = ("images", "results")


def write(rows: Iterable[dict[str, Any]], stream: Any) -> int:
    """Write records, as their JSON values, to a binary stream and return how many."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.list_(pa.string())
    kinds = {
        "version": pa.int32(), "id": pa.string(), "family": pa.string(), "question": pa.string(), "options": texts,
        "answer": pa.string(), "images": texts, "program": texts, "results": texts, "errors": texts, "steps": texts,
        "labels": pa.list_(pa.list_(pa.float32())), "outcome": pa.int32(), "source": pa.string(),
        "seed": pa.int64(), "generator": pa.string(), "sandbox": pa.string(), "extra": pa.string(),
    }  # fmt: skip
    table = [_to_row(row, kinds) for row in rows]
    parquet.write_table(pa.Table.from_pylist(table, pa.schema(list(kinds.items()))), stream, compression="zstd")
    return len(table)


def _to_row(row: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    extra = json.dumps({name: value for name, value in row.items() if name not in kinds})
    return row | {name: [json.dumps(value) for value in row[name]] for name in _AS_TEXT} | {"extra": extra}


def read(path: Path) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the name of each row and a function that gives its JSON values or raises RecordError."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"row {number}", partial(_from_row, row)
    except pa.ArrowInvalid as error:
        broken = RecordError(f"not a readable Parquet file ({str(error).splitlines()[0]}).")
        yield "as a whole", partial(_fail, broken)


def _fail(error: RecordError) -> dict[str, Any]:
    raise error


def _from_row(row: dict[str, Any]) -> dict[str, Any]:
    try:
        row |= {name: [json.loads(value) for value in row[name]] for name in _AS_TEXT}
        row |= json.loads(row.pop("extra"))
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"not a row of this format ({type(error).__name__}: {error}).") from None
    row["labels"] = row["labels"] and [
        entry and [None if v is None else round(v, 4) for v in entry] for entry in row["labels"]
    ]
    return row
