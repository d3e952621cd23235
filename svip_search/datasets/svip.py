"""SVIP-Train and SVIP-Test: chains of thought with three labels a step, and the programs they come from.

One record a trajectory; one JSON object a line, or a row of a Parquet file:

=========== =====================================================================================================
field       meaning
=========== =====================================================================================================
version     of this format, `VERSION`
id          name of the trajectory, unique in a data set
family      kind of question
question    its text
options     admissible answers, may be empty
answer      the true answer, or null
images      each a path relative to the file's folder, or ``{"puzzle": [seed, index], "pixels": n}`` for a picture
            that is drawn again from these numbers; ``"plan"`` instead of ``"puzzle"`` for a planning puzzle, then
            also ``"families": [name, …]`` and ``"moves": [least, most]`` where it was drawn from a part of them
program     source of each block; empty where the steps come from no program
results     value of each block
errors      why a block gave none, ``"kind: message"``; ``""`` where it gave one
steps       the chain of thought, one text a block
labels      ``[relevance, logic, attribute]`` a step, each in 0..1 or null; null where a step has none at all
outcome     1 if the chain ends in the right answer, else 0
source      who wrote it: ``program`` or ``policy:<name>``; ``trace`` or ``corrupt`` for the generator of planning
            puzzles, without and with something wrong
seed        of the draw
generator   version of what drew pictures and programs
sandbox     what contained the program, ``""`` where none ran
=========== =====================================================================================================

Fields that are not in the table are kept as they are.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._types import Question
from . import _svip_parquet
from ._drawn import Drawn, domain_of, draw_again, generator_version, is_right, label_steps, recipe
from ._svip_check import VERSION, RecordError, check
from .planning import Plan
from .puzzles import Puzzle

__all__ = [
    "VERSION",
    "RecordError",
    "SvipRecord",
    "generator_version",
    "is_correct",
    "read_svip",
    "record_of_chain",
    "write_svip",
]


@dataclass(frozen=True, eq=False)
class SvipRecord:
    """One labelled trajectory; the fields are those of the table above.

    Args:
        labels: float32 [T, 3], NaN where a label is missing.
        extra: fields that this version does not know.
        folder: where the paths of ``images`` start.
    """

    id: str
    family: str
    question: str
    options: tuple[str, ...]
    answer: str | None
    images: tuple[Any, ...]
    program: tuple[str, ...]
    results: tuple[Any, ...]
    errors: tuple[str, ...]
    steps: tuple[str, ...]
    labels: NDArray[np.float32]
    outcome: int
    source: str
    seed: int
    generator: str
    sandbox: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def drawn(self) -> Drawn | None:
        """Return the generated puzzle, of either domain, that the record is about, None if its picture is a file.

        Raises:
            RecordError: the puzzle was drawn by another version, so that it would not be the same.
        """
        recipes = [image for image in self.images if isinstance(image, dict)]
        if not recipes:
            return None
        self.check_generator()
        return draw_again(recipes[0])

    def puzzle(self) -> Puzzle | None:
        """Return the pattern puzzle that the record is about, None if it is about none; raises as `drawn`."""
        found = self.drawn()
        return found if isinstance(found, Puzzle) else None

    def plan(self) -> Plan | None:
        """Return the planning puzzle that the record is about, None if it is about none; raises as `drawn`."""
        found = self.drawn()
        return found if isinstance(found, Plan) else None

    def check_generator(self) -> None:
        """Raise a RecordError where this version would draw another picture."""
        for image in self.images:
            if isinstance(image, dict) and self.generator != (ours := generator_version(domain_of(image))):
                raise RecordError(
                    f"`generator` must be {ours!r}, which this version draws with; got {self.generator!r}."
                )

    def to_question(self) -> Question:
        """Return the question with its pictures: paths, or drawn again."""
        drawn = self.drawn()
        images = [str(self.folder / i) if isinstance(i, str) else drawn and drawn.image for i in self.images]
        return Question(self.question, images, self.options, self.answer, self.id)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values: NaN and infinities become null."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("extra", "folder")}
        plain["labels"] = [_label_row(row) for row in self.labels.tolist()]
        return {"version": VERSION, **_finite(plain), **_finite(dict(self.extra))}

    @staticmethod
    def from_json(data: Any, folder: str | PathLike[str] = ".", check_images: bool = True) -> SvipRecord:
        """Return the record that JSON values hold.

        Args:
            data: what `to_json` gives.
            folder: where its pictures lie.
            check_images: whether these must be there.

        Raises:
            RecordError: a field is missing or not as the table says; the message names it.

        Example:
            >>> try:
            ...     SvipRecord.from_json({"version": 2})
            ... except RecordError as error:
            ...     print(error)
            `version` must be 1; got 2.
        """
        return SvipRecord(**check(data, Path(folder), check_images), folder=Path(folder))


def record_of_chain(drawn: Drawn, steps: Sequence[str], source: str = "policy") -> SvipRecord:
    """Return the record of a chain about a generated puzzle, labelled by the truth of its scene.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(1, 0, families=["tower_of_hanoi"], moves=(1, 1))
        >>> record = record_of_chain(plan, plan.steps)
        >>> record.outcome, record.plan().cells == plan.cells
        (1, True)
    """
    image = recipe(drawn)
    return SvipRecord(
        id=f"{drawn.question.id}#", family=drawn.family, question=drawn.question.text,
        options=tuple(drawn.question.options), answer=drawn.answer, images=(image,), program=(), results=(),
        errors=(), steps=tuple(steps), labels=label_steps(drawn, steps), outcome=int(is_right(drawn, steps)),
        source=source, seed=drawn.seed, generator=generator_version(domain_of(image)),
    )  # fmt: skip


# ---- files -------------------------------------------------------------------------------------------


def read_svip(
    path: str | PathLike[str],
    on_error: Callable[[RecordError], None] | None = None,
    check_images: bool = True,
) -> Iterator[SvipRecord]:
    """Yield the records of a file, or of all files of a folder in the order of their names.

    Args:
        path: a ``.jsonl`` or ``.parquet`` file, or a folder; of a folder the ``.jsonl`` files are read, and the
            ``.parquet`` files only where there are none.
        on_error: called for each record that cannot be used, which is then skipped; by default it is raised.
        check_images: whether the pictures that a record names must be there.

    Raises:
        RecordError: a record cannot be used, and ``on_error`` is None.
        ValueError: there is no such file, or the folder holds none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "cut.jsonl"
        >>> _ = path.write_text('{"version": 1, "id"')
        >>> problems = []
        >>> list(read_svip(path, on_error=problems.append)), len(problems)
        ([], 1)
    """
    for file in _files(Path(path)):
        rows = _svip_parquet.read(file) if file.suffix == ".parquet" else _json_rows(file)
        for place, row in rows:
            try:
                record = SvipRecord.from_json(row(), file.parent, check_images)
            except RecordError as error:
                named = RecordError(f"{file}, {place}: {error}")
                if on_error is None:
                    raise named from None
                on_error(named)
                continue
            yield record


def write_svip(records: Iterable[SvipRecord], path: str | PathLike[str]) -> int:
    """Write records to a ``.jsonl`` or ``.parquet`` file and return how many.

    The file appears under its name when it is complete and on the disk, never before.

    Args:
        records: what to write.
        path: the file; what is there is replaced.

    Raises:
        ValueError: the name ends in neither.
        OSError: the file cannot be written, as on a full disk; nothing is left behind.

    Notes:
        Parquet needs pyarrow (``pip install svip-search[data]``).
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"`path` must end in .jsonl or .parquet; got '{path}'.")
    if path.suffix == ".parquet":
        with replacing(path) as stream:
            return _svip_parquet.write((record.to_json() for record in records), stream)
    lines = [json.dumps(record.to_json(), allow_nan=False, separators=(",", ":")) + "\n" for record in records]
    with replacing(path) as stream:
        stream.write("".join(lines).encode("ascii"))
    return len(lines)


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """Yield a stream to a temporary file that takes the name ``path`` once it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name is on the disk only when its folder is
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"`path` must be a file or folder of records; there is no '{path}'.")
    visible = [p for p in sorted(path.iterdir()) if not p.name.startswith(".")]
    found = [p for p in visible if p.suffix == ".jsonl"] or [p for p in visible if p.suffix == ".parquet"]
    if not found:
        raise ValueError(f"`path` must hold .jsonl or .parquet files; '{path}' has none.")
    return found


def _json_rows(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"line {number}", partial(_parse, line)


def _parse(line: bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON number")

    try:
        return json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else " The line is cut."
        raise RecordError(f"not valid JSON ({error or type(error).__name__}).{cut}") from None


# ---- JSON values ---------------------------------------------------------------------------------------


def _label_row(row: list[float]) -> list[float | None] | None:
    values = [None if math.isnan(v) else round(v, 4) for v in row]
    return None if values == [None] * 3 else values


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def is_correct(labels: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return which steps are right on each dimension, float32 [T, 3]: 1, 0, or NaN where a label is missing.

    Relevance and logic are right above one half: the one is halved by a repetition, the other is a share of
    sampled continuations.  Attribute is right where every visual answer was confirmed, which is a label of 1.

    Example:
        >>> is_correct(np.array([[0.5, 0.75, 0.67], [1.0, 0.25, np.nan]])).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, nan]]
    """
    least = np.array([0.5, 0.5, 0.99])
    return np.where(np.isnan(labels), np.nan, labels > least).astype(np.float32)
