"""Reads folders of puzzles: PuzzleVQA as published, and any folder laid out the same way.

The layout is one ``<family>.jsonl`` a family, one JSON object a line:

========== ===================================================== ==========
field      meaning
========== ===================================================== ==========
question   text of the question                                  required
image      path of the picture, relative to the folder           one of both
images     list of such paths, in order                          one of both
options    admissible answers, texts or numbers                  optional
answer     the true answer, one of the options if there are any  required
id         name for reports (default ``<family>/<line index>``)  optional
========== ===================================================== ==========

Other fields are ignored; in PuzzleVQA they hold captions and explanations, which a policy or reward
model must never see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import Any

from .._types import Question


def load_puzzlevqa(folder: str | PathLike[str], families: Sequence[str] | None = None) -> list[Question]:
    """Return the questions of a folder (or of one ``.jsonl`` file), families in alphabetical order.

    Args:
        folder: the folder, or one file of it.
        families: stems of the files to read; all by default.

    Returns:
        Questions whose ``id`` is ``"<family>/<index>"`` and whose ``images`` are file paths; the
        pictures are not opened.

    Raises:
        ValueError: the folder is missing or holds no ``.jsonl`` file, a family is unknown, or a line
            is not usable; the message names the file and the line.

    Example:
        >>> import json, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "sums.jsonl").write_text(
        ...     json.dumps({"question": "2 + 2 = ?", "images": [], "options": [3, 4], "answer": 4}))
        >>> load_puzzlevqa(folder)[0]
        Question(text='2 + 2 = ?', images=(), options=('3', '4'), answer='4', id='sums/0')
    """
    return [q for path in _files(Path(folder), families) for q in _read(path)]


def family_of(question: Question) -> str:
    """Return the family a question belongs to: what stands before the last ``/`` of its id.

    Example:
        >>> family_of(Question("2 + 2 = ?", id="sums/0"))
        'sums'
    """
    return question.id.rpartition("/")[0] or "all"


def spread(questions: Sequence[Question], limit: int) -> list[Question]:
    """Return ``limit`` questions, taken in turn from every family, in their original order.

    Args:
        questions: any questions.
        limit: how many, at least 1; all where there are fewer.

    Raises:
        ValueError: ``limit`` is below 1.

    Example:
        >>> [q.id for q in spread([Question("?", id=i) for i in ("a/0", "a/1", "b/0", "b/1")], 2)]
        ['a/0', 'b/0']
    """
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1; got {limit}.")
    families: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        families.setdefault(family_of(question), []).append(index)
    turns = (index for turn in zip_longest(*families.values()) for index in turn if index is not None)
    chosen = sorted(index for index, _ in zip(turns, range(limit), strict=False))
    return [questions[index] for index in chosen]


def _files(folder: Path, families: Sequence[str] | None) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ValueError(f"`folder` must be a folder of <family>.jsonl files; there is no '{folder}'.")
    found = {path.stem: path for path in sorted(folder.glob("*.jsonl"))}
    if not found:
        raise ValueError(f"`folder` must hold <family>.jsonl files; '{folder}' has none.")
    for name in families or ():
        if name not in found:
            raise ValueError(f"`families` must be among {', '.join(found)}; got {name!r}.")
    return [path for stem, path in found.items() if families is None or stem in families]


def _read(path: Path) -> Iterator[Question]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read '{path}': {error}.") from None
    index = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _question(json.loads(line), path, index)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error.msg}).") from None
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        index += 1


def _question(record: Any, path: Path, index: int) -> Question:
    if not isinstance(record, dict):
        raise ValueError(f"a line must hold a JSON object; got {type(record).__name__}.")
    for name in ("question", "answer"):
        if name not in record:
            raise ValueError(f"the field `{name}` is missing.")
    options = record.get("options") or []
    if not isinstance(options, list):
        raise ValueError(f"`options` must be a list; got {type(options).__name__}.")
    words = [_word(option, "options") for option in options]
    answer = _word(record["answer"], "answer")
    if words and answer not in words:
        raise ValueError(f"`answer` must be one of the options {words}; got {answer!r}.")
    name = str(record.get("id") or f"{path.stem}/{index}")
    return Question(record["question"], _images(record, path.parent), words, answer, name)


def _images(record: dict[str, Any], folder: Path) -> list[str]:
    if ("image" in record) == ("images" in record):
        raise ValueError("one of the fields `image` and `images` is required.")
    names = record["images"] if "images" in record else [record["image"]]
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"`image` must be a path and `images` a list of paths; got {names!r}.")
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"the image '{name}' does not exist.")
    return [str(folder / name) for name in names]


def _word(value: Any, field: str) -> str:
    """Write an answer as text: 4, 4.0 and "4" are the same."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"`{field}` must hold texts or numbers; got {value!r}.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
