"""What a recipe is: the right program of a puzzle family, and the ways in which each of its blocks goes wrong.

A recipe has one block for each step of the family's chain of thought: those that read the picture (their steps
are the templates ``Family.perceive``), then the pattern, the missing part and the answer.  The value of every
block is the list of words that fill its template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ...datasets.puzzles import FAMILIES
from .._types import METHODS
from ..generate import ANSWER, assigned
from ._breakage import breakages

#: Attributes that a block may read by mistake for another.
ATTRIBUTES = ("color", "number", "size", "shape", "sides")
_READ = re.compile(r"\.(color|number|size|shape|sides)\(\)")


@dataclass(frozen=True, slots=True)
class Edit:
    """A plausible mistake: what stands in place of a piece of code, and of the step's template if that changes."""

    old: str
    new: str
    says: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A block of reasoning: its code, the template of its step, the mistakes that can be made in it."""

    code: str
    says: str
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block that may come next, what its step says, and its kind: ``right`` or the name of a mistake."""

    block: str
    says: str
    kind: str = "right"


@dataclass(frozen=True)
class Recipe:
    """The right program of a family.

    Args:
        family: its name.
        look: code that finds the objects; it opens the first block.
        read: name and expression of what each perception step states.
        pattern: what the known parts have in common.
        missing: what follows for the missing part.
        guess: an expression over what the first block has read, answered in haste.
        answer: the expression of the answer.
        slips: expressions that are answered by mistake.
        asked: where the question tells something of the missing part: a pattern for it and the words it can be;
            ``ASKED`` stands for it in the code.
    """

    family: str
    look: str
    read: tuple[tuple[str, str], ...]
    pattern: Stage
    missing: Stage
    guess: str
    answer: str = "str(result)"
    slips: tuple[str, ...] = ()
    asked: tuple[str, tuple[str, ...]] | None = None

    @cached_property
    def right(self) -> tuple[Proposal, ...]:
        """The right blocks, first to last."""
        steps = FAMILIES[self.family].perceive
        read = [Proposal(self._reading(i, i), says) for i, says in enumerate(steps)]
        reason = [Proposal(stage.code.strip(), stage.says) for stage in (self.pattern, self.missing)]
        return (*read, *reason, _answer("The answer.", self.answer, "right"))

    @cached_property
    def sets(self) -> tuple[frozenset[str], ...]:
        """The names that each right block sets and none before it: they tell how far a program is."""
        known: frozenset[str] = frozenset()
        fresh = []
        for proposal in self.right:
            names = assigned(proposal.block) or frozenset()
            fresh.append(names - known)
            known |= names
        return tuple(fresh)

    @cached_property
    def wrong(self) -> tuple[tuple[Proposal, ...], ...]:
        """The wrong blocks in place of each right one; without those that depend on what came before."""
        last = len(self.right) - 1
        return tuple(tuple(self._wrong(i, last)) for i in range(last + 1))

    def _reading(self, target: int, source: int) -> str:
        """Return the block that sets the name of one perception step to what another one reads."""
        name, head = self.read[target][0], _head(FAMILIES[self.family].perceive[source])
        look = self.look.strip() + "\n" if target == 0 else ""
        return f"{look}# Read {head}.\n{name} = {self.read[source][1]}\n{name}"

    def _wrong(self, i: int, last: int) -> Iterator[Proposal]:
        right, steps = self.right[i], len(self.read)
        if i < steps:
            yield from self._misreadings(i)
        elif i < last:
            for edit in (self.pattern, self.missing)[i - steps].edits:
                assert edit.old in right.block, f"{self.family}: {edit.old!r} is not in the code"
                yield Proposal(right.block.replace(edit.old, edit.new), edit.says or right.says, "reasoning")
        else:
            yield from (_answer("The answer.", slip, "reasoning") for slip in self.slips)
        if i < last:
            yield Proposal(self.right[i + 1].block, self.right[i + 1].says, "order")
        if i > 0:
            yield _answer("This will do.", self.guess, "premature")
        yield from (Proposal(block, right.says, "broken") for block in breakages(right.block))

    def _misreadings(self, i: int) -> Iterator[Proposal]:
        steps = FAMILIES[self.family].perceive
        for other in sorted({(i + 1) % len(steps), (i - 1) % len(steps)} - {i}):
            yield Proposal(self._reading(i, other), steps[other], "place")
        # The first attribute that the expression reads, or that is read to prepare it.
        block = self.right[i].block
        found = _READ.search(block, max(0, block.find(self.read[i][1]))) or _READ.search(block)
        if found is None:
            return
        turn = ATTRIBUTES.index(found[1])
        for attribute in (ATTRIBUTES[turn - 1], ATTRIBUTES[(turn + 1) % len(ATTRIBUTES)]):
            # The step names what was read: it makes no claim about what was to be read.
            wrong = f"{block[: found.start(1)]}{attribute}{block[found.end(1) :]}"
            yield Proposal(wrong, f"{attribute} of {steps[i]}", "attribute")

    def told(self, question: str) -> str:
        """Return what the question tells of the missing part, "" if this family's does not.

        Raises:
            ValueError: it should, and does not.
        """
        if self.asked is None:
            return ""
        found = re.search(self.asked[0], question)
        if found is None or found[1] not in self.asked[1]:
            raise ValueError(f"`question` must tell what the missing part of a {self.family} is; got {question!r}.")
        return found[1]


assert set(ATTRIBUTES) <= set(METHODS)


def _head(step: str) -> str:
    """Return what a perception step is about: ``row 1`` of ``row 1 : {} {} {}``, with its slots named."""
    return step.partition(" : ")[0].replace("{}", "line")


def _answer(comment: str, expression: str, kind: str) -> Proposal:
    return Proposal(f"# {comment}\n{ANSWER} = {expression}\n{ANSWER}", "answer : {}", kind)


#: Blocks that have nothing to do with any question.
STRAYS = (
    Proposal(
        '# Count the circles.\ncircles_seen = len(image.find("circle"))\n[circles_seen]',
        "number of circles : {}", "stray",
    ),
    Proposal(
        '# Look at the first object.\nfirst_size = image.find("object")[0].size()\n[first_size]',
        "size of top left part : {}", "stray",
    ),
)  # fmt: skip


@lru_cache(maxsize=1024)
def fill(proposal: Proposal, told: str) -> Proposal:
    """Return a proposal with ``ASKED`` replaced by what the question tells."""
    return Proposal(proposal.block.replace("ASKED", told), proposal.says, proposal.kind)
