"""Programs that a language model writes, one block at a time.

The prompt is a conversation: the vision API and the rules, worked examples, the question; then every
block so far as the model's own turn and its value as the user's.  Two programs that begin alike begin
alike here too, which is what the prefix cache of a server works on.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._errors import PolicyError, SvipSearchError
from .._types import Question
from ._blocks import essence, find_blocks
from ._text_models import Message, Prompt, TextModel
from ._types import METHODS, Json, Method
from .generate import assigned

#: What a patch has beside its methods.
ATTRIBUTES = ("x", "y", "left", "top", "right", "bottom", "width", "height")
#: Functions that every program can call.
HELPERS = (
    Method("rows", ("patches",), "list of rows", "from the top, each row from left to right"),
    Method("columns", ("patches",), "list of columns", "from the left, each column from the top"),
    Method("ring", ("patches",), "list of patches", "anti-clockwise around their centre, from the top"),
    Method("nearest", ("patches", "x", "y"), "patch", "the one nearest to a point"),
)
#: Gives the values of a program's blocks as far as it runs: ``values(question, image, blocks)``.
Values = Callable[[Question, Any, Sequence[str]], Sequence[Json]]
_VALUE = 300  # characters of a value that are shown


def api_text() -> str:
    """Return what a program can call, one line each.

    Example:
        >>> print(api_text().splitlines()[2])
        patch.find(kind) -> list of patches: the objects of a kind, in reading order
    """
    kinds = "kind is 'object' (everything), a shape such as 'circle', 'number' (with a number or '?'), or '?'"
    head = f"image is the whole picture, a patch. {kinds}.\nA patch has {', '.join(ATTRIBUTES)}: 0 to 1, y grows down."
    crop = Method("crop", ("left", "top", "right", "bottom"), "patch", "the part of the picture between these, 0 to 1")
    methods = [f"patch.{_signature(m)}" for m in (*METHODS.values(), crop)]
    return "\n".join([head, *methods, *map(_signature, HELPERS)])


def _signature(m: Method) -> str:
    return f"{m.name}({', '.join(m.arguments)}) -> {m.returns}: {m.summary}"


#: The vision API as prompts state it.
API_TEXT = api_text()


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """A question with the program that answers it: its blocks, and the value of each as it is shown."""

    question: Question
    blocks: Sequence[str]
    values: Sequence[Json]


_LEFT = """\
# Find the square.
square = image.find("square")[0]
square.x

# Find the triangles left of it.
left = [t for t in image.find("triangle") if t.x < square.x]
len(left)

# Answer.
answer = str(len(left))"""
_STEP = """\
# Read the numbers from left to right.
numbers = [p.number() for p in rows(image.find("number"))[0]]
numbers

# The step between neighbours.
step = numbers[1] - numbers[0]
step

# The number before the question mark, one step on.
answer = str(numbers[numbers.index("?") - 1] + step)"""

EXAMPLES = (
    WorkedExample(
        Question("How many triangles are left of the square?", options=("1", "2", "3")),
        _LEFT.split("\n\n"),
        (0.62, 2),
    ),
    WorkedExample(
        Question("The numbers grow by the same step. What is the missing number?", options=("5", "7", "8", "10")),
        _STEP.split("\n\n"),
        ([2, 4, 6, "?"], 2),
    ),
)


@dataclass(slots=True)
class Counts:
    """What became of the completions asked for: ``asked = parsed + sum(dropped.values())``.

    ``repaired`` are those of ``parsed`` whose code had to be mended.  ``dropped`` counts by reason: ``missing``
    (the model gave fewer), ``empty``, ``binary``, ``prose`` (no code in it), ``syntax`` (code that cannot be
    mended), ``long``, ``repeat`` (nothing but blocks that are there already).
    """

    asked: int = 0
    parsed: int = 0
    repaired: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class LlmProgramGenerator:
    r"""A program generator (`ProgramGenerator`) that asks a text model for the next block.

    Args:
        model: continues a text or answers a conversation.
        api: the vision API, as the prompt states it.
        examples: worked examples.
        values: gives the values of the blocks so far, which are then shown; None shows none.
        chat: ask with messages; otherwise with one text that ends in an open code fence.
        show_image: give the model the picture too; it must be one that takes pictures.
        temperature: of the sampling, >= 0.
        max_tokens: longest completion, >= 1.

    Raises:
        ValueError: a number is out of range.

    Notes:
        Of a completion the first block that is not there already is taken; what follows it is asked for
        again, when its value is known.  Threads may share one object if they may share ``model``.

    Example:
        >>> class Model:
        ...     def complete(self, prompt, n, **options):
        ...         return ["I count them.\n```python\nn = len(image.find('circle')\n```"] * n
        >>> generator = LlmProgramGenerator(Model())
        >>> generator.next_blocks(Question("How many circles?"), None, [], 2)
        ["n = len(image.find('circle'))", "n = len(image.find('circle'))"]
        >>> generator.counts
        Counts(asked=2, parsed=2, repaired=2, dropped=Counter())
    """

    def __init__(
        self,
        model: TextModel,
        api: str = API_TEXT,
        examples: Sequence[WorkedExample] = EXAMPLES,
        *,
        values: Values | None = None,
        chat: bool = True,
        show_image: bool = False,
        temperature: float = 0.7,
        max_tokens: int = 256,
    ) -> None:
        if not temperature >= 0 or max_tokens < 1:
            raise ValueError(f"`temperature` must be >= 0 and `max_tokens` >= 1; got {temperature} and {max_tokens}.")
        if show_image and not chat:
            raise ValueError("`show_image` needs `chat`; got chat=False.")
        self.model, self.api, self.examples, self.values = model, api, tuple(examples), values
        self.chat, self.show_image = chat, show_image
        self.temperature, self.max_tokens = temperature, max_tokens
        self.counts = Counts()
        self._lock = threading.Lock()

    def next_blocks(self, question: Question, image: Any, blocks: Sequence[str], n: int, *, seed: int = 0) -> list[str]:
        """Return up to ``n`` proposals for the block that follows ``blocks``; see `ProgramGenerator`.

        Raises:
            PolicyError: the model failed, or returned something else than texts.
        """
        if n <= 0:
            return []
        texts = self._complete(self.prompt(question, image, blocks), image, n, seed)
        found = [self._next(text, blocks) for text in texts]
        return [block for block in found if block is not None]

    def prompt(self, question: Question, image: Any, blocks: Sequence[str]) -> Prompt:
        """Return what the model is asked after ``blocks``."""
        known = self.values(question, image, blocks) if self.values is not None and blocks else ()
        messages: list[Message] = [{"role": "system", "content": f"{_RULES}\n\n{self.api}"}]
        for example in self.examples:
            messages += _conversation(example.question, example.blocks, example.values)[:-1]
        messages += _conversation(question, blocks, known)
        return messages if self.chat else as_text(messages)

    def _complete(self, prompt: Prompt, image: Any, n: int, seed: int) -> list[str]:
        """Return up to ``n`` completions."""
        images = (image,) if self.show_image and image is not None else ()
        name = type(self.model).__name__
        try:
            texts = self.model.complete(
                prompt,
                n,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                stop=() if self.chat else ("```",),
                seed=seed & 0x7FFFFFFF,
                images=images,
            )
        except SvipSearchError:
            raise
        except Exception as error:
            raise PolicyError(f"The text model {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise PolicyError(f"The text model {name} must return a list of texts; got {type(texts).__name__}.")
        with self._lock:
            self.counts.asked += n
            if len(texts) < n:
                self.counts.dropped["missing"] += n - len(texts)
        return texts[:n]

    def _next(self, text: str, blocks: Sequence[str]) -> str | None:
        """Return the first new block of a completion, None if it has none."""
        found, there = find_blocks(text), {essence(block) for block in blocks}
        new = next((block for block in found.blocks if essence(block) not in there), None)
        with self._lock:
            if new is None:
                self.counts.dropped[found.reason or "repeat"] += 1
            else:
                self.counts.parsed += 1
                self.counts.repaired += found.repaired
        return new


_RULES = """\
You answer a question about a picture with a small Python program that looks at the picture. You write it one block
at a time: a few lines, least first. Variables live on from block to block; the value of the last expression of a
block is shown to you. As soon as the answer is known, write the block that assigns it, as text, to `answer`; where
there are options, it must be one of them. Reply with the next block alone, in a ```python fence."""


def _conversation(question: Question, blocks: Sequence[str], values: Sequence[Json]) -> list[Message]:
    """Return the turns from the question to the request for the block after ``blocks``."""
    options = f"\nOptions: {', '.join(question.options)}" if question.options else ""
    turns: list[Message] = [{"role": "user", "content": f"Question: {question.text}{options}\n{_request(())}"}]
    for i, block in enumerate(blocks):
        value = f"Value: {_shown(values[i])}\n" if i < len(values) else ""
        turns.append({"role": "assistant", "content": f"```python\n{block}\n```"})
        turns.append({"role": "user", "content": f"{value}{_request(blocks[: i + 1])}"})
    return turns


def _request(blocks: Sequence[str]) -> str:
    names = sorted(set().union(*(assigned(block) or () for block in blocks)))
    return f"Write block {len(blocks) + 1}. Variables so far: {', '.join(['image', *names])}."


def _shown(value: Json) -> str:
    """Return a value as a model reads it: patches as such, nothing long."""
    return json.dumps(_plain(value), ensure_ascii=False, default=str)[:_VALUE]


def _plain(value: Json) -> Json:
    if isinstance(value, dict):
        return "a patch" if set(value) == {"region"} else {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def as_text(messages: Sequence[Message]) -> str:
    """Return a conversation as one text for a model that only continues texts; it ends in an open code fence.

    Example:
        >>> print(as_text([{"role": "user", "content": "Question: How many?"}]))
        Question: How many?
        ```python
        <BLANKLINE>
    """
    return "\n".join(m["content"] for m in messages) + "\n```python\n"
