"""Telling what a block did and found: from code and value to the text of a reasoning step.

A block of the embedded domain is told by the template of its step, filled with the words of its value, so that
a right block that saw rightly gives exactly the family's step, and a wrong one what it found.  Any other block
is told by its first comment, or by the names that it sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from ._types import BlockRun, Json
from .generate import assigned

#: Longest step, in characters; what a block found may be longer.
LONGEST = 600
#: Longest comment that serves as the head of a step.
_HEAD = 120
#: What is said for a value that has no word.
_NOTHING = "none"

Told = tuple[str, BlockRun]


class Narrator(Protocol):
    """Puts a block and what it gave into words."""

    def __call__(self, block: str, run: BlockRun, context: Sequence[Told] = ()) -> str:
        """Return one step of a chain of thought.

        Args:
            block: the source.
            run: what it gave.
            context: the blocks before it and what they gave.
        """
        ...


def narrate(block: str, run: BlockRun, context: Sequence[Told] = ()) -> str:
    r"""Return what a block did and found in one line; never empty, at most `LONGEST` characters.

    Args:
        block: the source; it need not parse.
        run: what it gave; one that failed is told as such.
        context: the blocks before it; templates do not need them.

    Example:
        >>> narrate("answer = str(total)\nanswer", BlockRun("7"))
        'answer : 7'
        >>> narrate("# Count the dogs.\ndogs = len(image.find('dog'))", BlockRun(names={"dogs": 2}))
        'count the dogs : 2'
        >>> narrate("# Count the dogs.\ndogs = len(dog)", BlockRun(error="runtime", message="no dog"))
        'count the dogs : failed , runtime error'
    """
    from .puzzles import templates  # draws pictures: more than numpy

    template = templates().get(block)
    if not run.ok:
        head = template.partition(" : ")[0] if template else ""
        return f"{_head(block) if '{' in head or not head else head} : failed , {run.error} error"
    if template is None:
        return _tell(block, run)
    found = words(run.value)
    if template.count("{}") == len(found):
        return _cut(template.format(*found))
    # The value has another form than the step: a misreading has left more or fewer parts than there should be.
    return _cut(f"{template.partition(' : ')[0].replace('{}', 'part')} : {' '.join(found) or _NOTHING}")


def words(value: Json) -> list[str]:
    """Return the words of a value, in the order in which it holds them.

    Example:
        >>> words([["red", 3], "?", "", {"region": [0.1, 0.2, 0.30000001, 0.4]}, True, None, 0.5])
        ['red', '3', '?', 'none', 'part', 'yes', 'none', '0.5']
    """
    if isinstance(value, dict):
        if set(value) == {"region"}:
            return ["part"]
        return [word for key, item in value.items() for word in (*words(str(key)), "is", *words(item))]
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in words(item)]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if value is None or value == "":
        return [_NOTHING]
    return [f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()) or _NOTHING]


def _tell(block: str, run: BlockRun) -> str:
    """Return the step of a block that no template knows."""
    names = assigned(block) or ()
    if run.value is None and "answer" in run.names:
        return _cut(f"answer : {' '.join(words(run.names['answer']))}")
    if run.value is not None:
        found = " ".join(words(run.value))
    elif len(run.names) == 1 or _comment(block):
        found = " , ".join(" ".join(words(value)) for value in run.names.values())
    else:
        found = " , ".join(f"{name} is {' '.join(words(run.names[name]))}" for name in sorted(run.names))
    head = "answer" if "answer" in names else _head(block)
    return _cut(f"{head} : {found or run.printed.strip() or 'done'}")


def _head(block: str) -> str:
    """Return in words what a block is about: its first comment, else the names it sets, else what it asks for."""
    comment = _comment(block)
    if comment:
        return comment
    names = sorted(assigned(block) or ())
    if names:
        return " , ".join(name.replace("_", " ").strip() or name for name in names[:8])
    return " ".join(re.findall(r"\w+", block)[:8]) or "step"


def _comment(block: str) -> str:
    """Return the first comment that stands on a line of its own, as the head of a step."""
    found = re.search(r"^[ \t]*#+[ \t]*(\S.*)$", block[: 4 * LONGEST], re.MULTILINE)
    text = " ".join(found[1].split()).rstrip(".:;")[:_HEAD] if found else ""
    return text[:1].lower() + text[1:]


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


class PolicyNarrator:
    r"""Tells steps in the words of a text model, for pictures of other domains.

    The model gets the code, what it gave and the plain telling of `narrate`, and is asked for a sentence or
    two.  What comes back is brought into one line; where nothing usable comes back, the plain telling stands.
    The labels of a step belong to its block, so that the model must add nothing: the prompt says so, and a
    text that has lost a word of the block's value is refused as well.

    Args:
        rewrite: text to text, such as a call of a language model.
        keep: refuse a text that lacks one of the (up to this many) first words that the block found.

    Example:
        >>> def shout(prompt):
        ...     return "There are 2 dogs."
        >>> block = "# Count the dogs.\ndogs = len(image.find('dog'))"
        >>> PolicyNarrator(shout)(block, BlockRun(names={"dogs": 2}))
        'There are 2 dogs.'
        >>> PolicyNarrator(shout)(block, BlockRun(names={"dogs": 3}))
        'count the dogs : 3'
    """

    PROMPT = (
        "Tell in one or two plain sentences what this step of a solution did and found. Add nothing that is not"
        " there, judge nothing, and keep every value as it is.\n\n"
        "Steps so far:\n{before}\n\nCode:\n{block}\n\nIt gave: {plain}\n\nSentences:"
    )

    def __init__(self, rewrite: Callable[[str], str], *, keep: int = 8) -> None:
        self.rewrite = rewrite
        self.keep = keep

    def __call__(self, block: str, run: BlockRun, context: Sequence[Told] = ()) -> str:
        """Return the step in the words of the model, or as `narrate` tells it."""
        plain = narrate(block, run, context)
        if not run.ok:
            return plain
        before = "\n".join(narrate(b, r) for b, r in context[-8:]) or "none"
        text = _cut(str(self.rewrite(self.PROMPT.format(before=before, block=block, plain=plain)) or ""))
        found = [w for w in words(run.value if run.value is not None else list(run.names.values())) if w != _NOTHING]
        said = set(re.findall(r"\w+|[^\w\s]", text.lower()))
        lost = [w for w in found[: self.keep] for part in re.findall(r"\w+", w.lower()) if part not in said]
        return plain if not text or lost else text
