"""What a run has found, as a file: JSON lines or Parquet, in the order of the questions.

A file is an export of the journal and nothing else: it is written under a temporary name and renamed, so it
is there completely or not at all, and can be made again at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

Row = dict[str, Any]
_CHUNK = 500


class ResultStore(Protocol):
    """The part of a journal that is read."""

    def results(self, ids: Any = None) -> Iterator[tuple[str, Any]]:
        """Yield id and result."""
        ...

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield id and what went wrong."""
        ...


def export(
    store: ResultStore,
    path: str | PathLike[str],
    ids: Iterable[str] | None = None,
    *,
    trees: bool | str | PathLike[str] = False,
) -> int:
    """Write what is done to a file, and return how many rows it has.

    Args:
        store: a journal; others may go on writing to it.
        path: ``.parquet`` is Parquet, which needs pyarrow; anything else is JSON lines.
        ids: the order of the rows; None: results in the order the questions were added, then failures.
        trees: true adds a column ``tree``; a folder gets one ``<id>.json`` each instead, see `tree_file`.  Only
            trees that the run has kept.

    Raises:
        OSError: the file cannot be written; an older one is still there.

    Notes:
        A row of a result has its ``id`` and what `Result.to_dict` gives; one of a failure has ``id`` and
        ``error``.  Questions that are neither have no row.  Memory does not grow with the number of results.
    """
    path = Path(path)
    folder = None if isinstance(trees, bool) else Path(trees)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    rows = _without_trees(_rows(store, ids), trees is True, folder)
    with _replacing(Path(os.path.realpath(path))) as part:  # a link stays one
        return (_parquet if path.suffix.lower() == ".parquet" else _json_lines)(rows, part)


def tree_file(folder: str | PathLike[str], id: str) -> Path:
    """Return where `export` puts the tree of a question: its id, with what no file name can hold as ``%2F``.

    Example:
        >>> tree_file("trees", "venn/7").as_posix()
        'trees/venn%2F7.json'
    """
    name = quote(id, safe=" +=,@")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > 200:
        name = f"{name[:160]}-{blake2b(id.encode(), digest_size=8).hexdigest()}"
    return Path(folder) / f"{name}.json"


@contextmanager
def _replacing(path: Path, *, safe: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside a path, to which it is renamed at the end; after an error it is gone."""
    part = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        yield part
        if safe:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _rows(store: ResultStore, ids: Iterable[str] | None) -> Iterator[Row]:
    failed = dict(store.failures())
    if ids is None:
        yield from (dict(result) for _, result in store.results())
        yield from ({"id": id, "error": error} for id, error in failed.items())
        return
    wanted = iter(ids)
    while chunk := list(islice(wanted, _CHUNK)):
        found = dict(store.results(chunk))
        for id in chunk:
            if id in found:
                yield dict(found[id])
            elif id in failed:
                yield {"id": id, "error": failed[id]}


def _without_trees(rows: Iterable[Row], keep: bool, folder: Path | None) -> Iterator[Row]:
    for row in rows:
        tree = row.get("tree") if keep else row.pop("tree", None)
        if folder is not None and tree is not None:
            with _replacing(tree_file(folder, row["id"]), safe=False) as part:
                part.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8", errors="replace")
        yield row


def _json_lines(rows: Iterable[Row], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


#: Columns of a Parquet file; those made by a function are part of a result's value, or JSON.
_USAGE = ("policy_tokens", "prompt_tokens", "policy_calls", "reward_tokens", "reward_calls", "nodes", "seconds")
_TEXTS = ("id", "question", "answer", "true_answer", "stopped_by", "strategy", "error")
_JSON = ("trajectory", "trajectories", "votes", "tree")


def _columns(pa: Any) -> dict[str, tuple[Any, Callable[[Row], Any]]]:
    def text_of(name: str) -> Callable[[Row], Any]:
        return lambda row: _encodable(row.get(name))

    def json_of(name: str) -> Callable[[Row], Any]:
        return lambda row: None if row.get(name) is None else json.dumps(row[name])

    def spent_on(name: str) -> Callable[[Row], Any]:
        return lambda row: (row.get("usage") or {}).get(name)

    columns: dict[str, tuple[Any, Callable[[Row], Any]]] = {name: (pa.string(), text_of(name)) for name in _TEXTS}
    columns["options"] = pa.list_(pa.string()), text_of("options")
    columns["degraded"] = pa.list_(pa.string()), text_of("degraded")
    columns["seed"] = pa.int64(), text_of("seed")
    columns["score"] = pa.float64(), lambda row: (row.get("trajectory") or {}).get("score")
    columns |= {name: (pa.float64() if name == "seconds" else pa.int64(), spent_on(name)) for name in _USAGE}
    return columns | {name: (pa.string(), json_of(name)) for name in _JSON}


def _encodable(value: Any) -> Any:
    """Return texts without what UTF-8 cannot hold: half of a surrogate pair, which a model may well say."""
    if isinstance(value, list):
        return [_encodable(one) for one in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _parquet(rows: Iterable[Row], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(pa)
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
    count = 0
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(remaining, _CHUNK)):
            count += len(chunk)
            table = {name: [read(row) for row in chunk] for name, (_, read) in columns.items()}
            writer.write_table(pa.table(table, schema=schema))
    return count
