"""What visual programs are made of: blocks, the calls they make, and what running them gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

#: What may cross between a program and its host: None, bool, int, float, str, and lists and dicts of them.
Json = Any
#: Source of each block, first to last; the last one assigns ``answer``.
Program = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of a picture, in fractions of its sides; y grows downwards."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def __post_init__(self) -> None:
        # Comparisons with NaN are false, so it is refused too.
        if not (0 <= self.left <= self.right <= 1 and 0 <= self.top <= self.bottom <= 1):
            values = (self.left, self.top, self.right, self.bottom)
            raise ValueError(f"`region` must be left <= right and top <= bottom within 0..1; got {values}.")

    @property
    def x(self) -> float:
        """Centre, from the left."""
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        """Centre, from the top."""
        return (self.top + self.bottom) / 2


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the vision modules: what it takes, what it gives, and what it is for."""

    name: str
    arguments: tuple[str, ...]
    returns: str
    summary: str


#: The vision API, once: what the sandbox lets through, what prompts describe, what modules answer.
METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("find", ("kind",), "list of patches", "the objects of a kind, in reading order"),
        Method("exists", ("kind",), "bool", "whether there is such an object"),
        Method("color", (), "str", "its colour, '' for none"),
        Method("number", (), "int or '?'", "the number written on it, '?' for a question mark, '' for none"),
        Method("shape", (), "str", "its shape, '' for none"),
        Method("size", (), "str", "small, medium or large beside the other objects"),
        Method("sides", (), "int", "how many sides it has"),
        Method("text", (), "str", "what is written on it, '' for nothing"),
        Method("query", ("question",), "str", "the answer to a simple question about it"),
    )
}


class Scene(Protocol):
    """A picture that has been looked at."""

    def call(self, method: str, region: Region, arguments: Sequence[Json]) -> Json:
        """Return the answer of a vision module.

        Args:
            method: a name of ``METHODS``.
            region: where to look; the whole picture is ``Region()``.
            arguments: as the method takes them.

        Returns:
            As the method says; ``find`` gives a list of ``Region``.

        Raises:
            ValueError: no such method, or an argument that does not fit it.
        """


@dataclass(frozen=True, slots=True)
class Call:
    """A question that a program asked a vision module, and the answer; regions as lists of four numbers."""

    method: str
    region: Region
    arguments: tuple[Json, ...]
    value: Json


#: Why a block did not give a value.
ERROR_KINDS = ("syntax", "runtime", "timeout", "memory", "calls", "output", "crash", "unavailable")


@dataclass(frozen=True, slots=True)
class BlockRun:
    """What a block did: its value, or the kind of its error and a message; its calls; what it printed.

    Patches in ``value`` are dicts ``{"region": [left, top, right, bottom]}``.  ``names`` are the variables that
    the block has set, with their values where those can cross.
    """

    value: Json = None
    error: str = ""
    message: str = ""
    calls: tuple[Call, ...] = ()
    names: dict[str, Json] = field(default_factory=dict)
    printed: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran to its end."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Run:
    """What a program did, block by block; after an error there is nothing more.

    ``answer`` is the text it ended with, None if it did not get there.  ``sandbox`` says what contained it.
    """

    blocks: tuple[BlockRun, ...]
    answer: str | None = None
    sandbox: str = ""
    seconds: float = 0.0
