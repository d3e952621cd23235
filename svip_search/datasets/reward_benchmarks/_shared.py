"""What the loaders have in common: the shapes of their records, files of rows, pictures, fields and steps."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from ..._types import Prefix, Question
from .._svip_check import RecordError

OnError = Callable[[RecordError], None] | None
Folder = str | PathLike[str]

#: Stands for a response without a word: reward models need at least one step with a token.
NO_WORDS = "(no response)"


# ---- records -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """What every record has.

    Args:
        id: unique among the records that were read together.
        group: what the benchmark reports apart: a task, a source or a category.
        text: the question.
        images: paths, or the bytes of picture files.
    """

    id: str
    group: str
    text: str
    images: tuple[Any, ...]

    def to_question(self) -> Question:
        """Return the question with its pictures; it holds no answer.

        Raises:
            ImageError: bytes are no picture.
        """
        return Question(self.text, [_opened(image) for image in self.images], id=self.id)


@dataclass(frozen=True)
class StepsItem(Item):
    """A chain of thought whose every step is right, wrong, or neither (None)."""

    steps: Prefix
    right: tuple[bool | None, ...]


@dataclass(frozen=True)
class PrefixItem(Item):
    """The beginning of a chain of thought, and whether it leads to a right answer."""

    steps: Prefix
    right: bool


@dataclass(frozen=True)
class PairItem(Item):
    """Two responses in the order of the file, and the place of the better one."""

    responses: tuple[Prefix, Prefix]
    better: int


@dataclass(frozen=True)
class CandidatesItem(Item):
    """Solutions of one question, and which of them are right."""

    solutions: tuple[Prefix, ...]
    right: tuple[bool, ...]


AnyItem = TypeVar("AnyItem", bound=Item)


def _opened(image: Any) -> Any:
    if not isinstance(image, bytes):
        return image
    from ..._images import open_image

    return open_image(image)


# ---- files -------------------------------------------------------------------------------------------


def find_files(data: Folder, names: Sequence[str], what: str) -> list[Path]:
    """Return the file itself, or the files of a folder that match the first name pattern with any match.

    Args:
        data: a file or folder.
        names: glob patterns, the likeliest first.
        what: what the files are, for the message.
    """
    path = Path(data)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"`data` must be a file or folder of {what}; there is no '{path}'.")
    for name in names:
        found = sorted(p for p in path.glob(name) if p.is_file() and not p.name.startswith("."))
        if found:
            return found
    raise ValueError(f"`data` must hold {what} as {' or '.join(names)}; '{path}' has none.")


def read(
    files: Iterable[Path], parse: Callable[[Mapping[str, Any], Path, int], AnyItem | None], on_error: OnError
) -> list[AnyItem]:
    """Return what ``parse(record, file, index)`` makes of every record of some files, None left out.

    An id that occurs again gets ``#2``, ``#3``…: some benchmarks repeat theirs, and none may be lost.
    """
    found: list[AnyItem] = []
    seen: dict[str, int] = {}
    for file in files:
        for index, (place, row) in enumerate(rows(file)):
            try:
                record = row()
                if not isinstance(record, Mapping):
                    raise RecordError(f"a record must be a JSON object; got {type(record).__name__}.")
                item = parse(record, file, index)
            except RecordError as error:
                named = RecordError(f"{file}, {place}: {error}")
                if on_error is None:
                    raise named from None
                on_error(named)
                continue
            if item is not None:
                count = seen[item.id] = seen.get(item.id, 0) + 1
                found.append(item if count == 1 else replace(item, id=f"{item.id}#{count}"))
    return found


def rows(file: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the place of each record of a file, and a function that gives it or raises RecordError."""
    if file.suffix == ".parquet":
        yield from _parquet_rows(file)
        return
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"`data` cannot be read, '{file}': {error.strerror or error}.") from None
    # A name says little: both JSON lists and JSON lines are found under either ending.
    lines = content.split(b"\n")
    if content.lstrip()[:1] == b"[" or (file.suffix == ".json" and sum(bool(line.strip()) for line in lines) > 1):
        whole = _listed(content)
        if whole is not None:
            yield from ((f"record {i}", partial(_same, row)) for i, row in enumerate(whole, 1))
            return
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", partial(_parse, line, cut=number == len(lines))


def _same(row: Any) -> Any:
    return row


def _listed(content: bytes) -> list[Any] | None:
    """Return the records of a JSON list, or of an object that holds one; None where it is neither."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if isinstance(value, list)]
        return lists[0] if len(lists) == 1 and len(whole) == 1 else [whole]
    return whole if isinstance(whole, list) else None


def _parse(line: bytes, cut: bool) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        end = " The line is cut." if cut else ""
        raise RecordError(f"not valid JSON ({error or type(error).__name__}).{end}") from None


def _parquet_rows(file: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"`data` needs pyarrow to read '{file}': `pip install svip-search[data]`.") from None
    number = 0
    try:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(64):  # rows may hold whole pictures
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", partial(_same, row)
    except (pa.ArrowException, OSError) as error:
        broken = RecordError(f"not a readable Parquet file ({str(error).splitlines()[0]}).")
        yield f"after row {number}", partial(_fail, broken)


def _fail(error: RecordError) -> Any:
    raise error


# ---- fields ------------------------------------------------------------------------------------------


def refuse(name: str, requirement: str, got: Any) -> RecordError:
    """Return the error of a field that is not as it must be."""
    shown = repr(got)
    return RecordError(f"`{name}` must be {requirement}; got {shown if len(shown) <= 80 else shown[:77] + '...'}.")


def pick(record: Mapping[str, Any], *names: str) -> Any:
    """Return the first of some fields that is there and not null.

    Raises:
        RecordError: none is.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    others = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise RecordError(f"`{names[0]}`{others} is missing.")


def text_of(record: Mapping[str, Any], *names: str) -> str:
    """Return a text that is not empty, without the places where pictures stand in a prompt."""
    value = pick(record, *names)
    if not isinstance(value, str):
        raise refuse(names[0], "a text", value)
    found = re.sub(r"<(image|video)>\n?", "", value).strip()
    if not found:
        raise refuse(names[0], "a text that is not empty", value)
    return found


def list_of(record: Mapping[str, Any], *names: str) -> list[Any]:
    """Return a list that is not empty; one that is written as JSON text is read."""
    value = pick(record, *names)
    if isinstance(value, str):
        value = from_text(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise refuse(names[0], "a list that is not empty", value)
    return list(value)


def from_text(value: str) -> Any:
    """Return what a JSON text holds, or the text where it is none: tables keep nested fields as text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def name_of(record: Mapping[str, Any], fallback: str, *names: str) -> str:
    """Return the id of a record, a text or number, or the fallback."""
    for name in names or ("id",):
        value = record.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return fallback


#: How a yes or no is written.
_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def flag_of(value: Any, name: str) -> bool:
    """Return a yes or no written as true, 1, 1.0, "yes", "True" and so on.

    Raises:
        RecordError: it is none of these.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = _TRUTH.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None
    if found is None:
        raise refuse(name, "true or false, or 1 or 0", value)
    return found


# ---- pictures ----------------------------------------------------------------------------------------


def image_roots(file: Path, images: Folder | None) -> list[Path]:
    """Return where the pictures of a file may lie: the given folder, beside the file, and the usual places."""
    near = [file.parent, file.parent.parent]
    usual = ("", "images", "image", "Image", "meta_data/Image", "data")
    given = [] if images is None else [Path(images)]
    return [*given, *(folder / name for folder in near for name in usual)]


def pictures(value: Any, roots: Sequence[Path], check_images: bool, name: str = "image") -> tuple[Any, ...]:
    """Return pictures as paths or bytes, whatever they are stored as.

    Args:
        value: null, a path, base64 text, bytes, ``{"bytes", "path"}``, or a list of these.
        roots: where paths may start.
        check_images: whether the files must be there.
        name: of the field.

    Raises:
        RecordError: a picture is missing, or is none of these.
    """
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(found for one in value for found in pictures(one, roots, check_images, name))
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
        return pictures(value, roots, check_images, name) if isinstance(value, (str, bytes)) else ()
    if isinstance(value, bytes) and value:
        return (value,)
    if isinstance(value, str) and value.strip():
        return (_decoded(value) or _located(value, roots, check_images),)
    raise refuse(name, "a path, base64 text, bytes, or a list of these", value)


def _decoded(value: str) -> bytes | None:
    """Return the picture that a base64 text holds; None where the text is a path."""
    head, comma, body = value.partition(",")
    if not (comma and head.startswith("data:")):
        if len(value) < 256:  # a path; the smallest picture files are as long
            return None
        body = value
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None


def _located(name: str, roots: Sequence[Path], check_images: bool) -> str:
    for root in roots:
        try:
            if (root / name).exists():
                return str(root / name)
        except (OSError, ValueError):  # a name that no file can have
            break
    if check_images:
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise RecordError(f"the image '{shown}' does not exist under '{roots[0]}' or beside the records.")
    return str(roots[0] / name)


# ---- steps -------------------------------------------------------------------------------------------

_MARK = re.compile(r"(?im)^[\s#*>]*step\s*(\d+)\s*[:.)]")


def plain_step(text: str) -> str:
    """Return a step with every run of white space as one blank.

    In VLRMBench the edited steps end in other line breaks than the untouched ones: the white space
    gives the label away.
    """
    return " ".join(text.split())


def marked_steps(text: str, mark: re.Pattern[str]) -> list[str]:
    """Return the texts behind the marks 1, 2, 3…; a number out of turn is no mark but part of a step."""
    cuts: list[tuple[int, int]] = []
    for found in mark.finditer(text):
        if int(found.group(1)) == len(cuts) + 1:
            cuts.append(found.span())
    if not cuts:
        return []
    ends = [start for start, _ in cuts[1:]] + [len(text)]
    steps = [text[begin:end] for (_, begin), end in zip(cuts, ends, strict=True)]
    return [text[: cuts[0][0]] + steps[0], *steps[1:]]


def steps_of(text: str) -> Prefix:
    r"""Return the steps of a response: behind "Step k:", or else its paragraphs.

    Example:
        >>> steps_of("Step 1: look. Step 2: answer.\nStep 2: It is red.")
        ('look. Step 2: answer.', 'It is red.')
        >>> steps_of("It is a dog.\n\nThe dog is red.")
        ('It is a dog.', 'The dog is red.')
    """
    steps = marked_steps(text, _MARK)
    if len(steps) < 2:
        steps = re.split(r"\n\s*\n", text)
    return tuple(step for step in map(plain_step, steps) if step) or (NO_WORDS,)


def step_texts(values: Sequence[Any], name: str) -> Prefix:
    """Return given steps as texts, none left out: an empty one keeps its place.

    Raises:
        RecordError: one is no text.
    """
    for value in values:
        if not isinstance(value, str):
            raise refuse(name, "a list of texts", value)
    return tuple(plain_step(value) or NO_WORDS for value in values)
