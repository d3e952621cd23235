"""What a puzzle family is: facts that are sampled, drawn, perceived and reasoned about."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ._canvas import Canvas

MISSING = "?"
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
SIZES = ("small", "medium", "large")
SIDES = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6,
         "heptagon": 7, "octagon": 8, "nonagon": 9}  # fmt: skip


class Inconsistent(ValueError):
    """The stated facts admit no answer under the family's pattern."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One puzzle before it is drawn.

    ``facts`` are the visual facts in the order in which the chain of thought perceives them: one
    word each (a number, a colour, a shape, a size), ``"?"`` for the missing one.
    """

    facts: tuple[str, ...]
    answer: str
    options: tuple[str, ...]
    question: str


class Family(ABC):
    """One family of pattern puzzles.

    The chain of thought of a puzzle is ``perceive`` filled with the facts, followed by
    ``reason(facts, question)``: a pure function of what is *stated*, so that it also tells what
    follows from a misread picture.  That is what the step labels rest on.
    """

    name: str
    #: One template a perception step; ``{}`` stands for the next fact.
    perceive: tuple[str, ...]

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Instance:
        """Return a random puzzle of this family."""

    @abstractmethod
    def draw(self, canvas: Canvas, facts: tuple[str, ...]) -> None:
        """Draw the facts and note every object that carries one of them."""

    @abstractmethod
    def reason(self, facts: tuple[str, ...], question: str) -> list[str]:
        """Return the steps from pattern to answer that follow from the stated facts.

        Raises:
            Inconsistent: the facts admit no answer (as after a misreading).
        """

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """Number of facts in each perception step."""
        return tuple(t.count("{}") for t in self.perceive)

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        parts = (re.escape(t).replace(r"\{\}", r"(\S+)") for t in self.perceive)
        return tuple(re.compile(p + r"\Z") for p in parts)

    def perception(self, facts: tuple[str, ...]) -> list[str]:
        """Return the perception steps that state ``facts``."""
        steps, start = [], 0
        for template, count in zip(self.perceive, self.slots, strict=True):
            steps.append(template.format(*facts[start : start + count]))
            start += count
        return steps

    def parse(self, index: int, step: str) -> tuple[str, ...] | None:
        """Return the facts that perception step ``index`` states, or None where it is malformed."""
        found = self._patterns[index].match(step)
        return found.groups() if found else None

    def steps(self, facts: tuple[str, ...], question: str) -> list[str]:
        """Return the whole chain of thought for ``facts``."""
        return self.perception(facts) + self.reason(facts, question)


def choices(rng: np.random.Generator, answer: str, pool: list[str] | tuple[str, ...], n: int = 4) -> tuple[str, ...]:
    """Return ``n`` distinct options in random order, ``answer`` among them."""
    others = [p for p in dict.fromkeys(pool) if p != answer]
    picked = [others[i] for i in rng.permutation(len(others))[: n - 1]] + [answer]
    return tuple(picked[i] for i in rng.permutation(len(picked)))


def pick(rng: np.random.Generator, pool: list[str] | tuple[str, ...], n: int) -> list[str]:
    """Return ``n`` distinct members of ``pool`` in random order."""
    return [pool[i] for i in rng.permutation(len(pool))[:n]]


def hide(facts: list[str], index: int) -> tuple[str, ...]:
    """Return ``facts`` with the one at ``index`` replaced by the question mark."""
    return tuple(MISSING if i == index else f for i, f in enumerate(facts))


def missing_index(facts: tuple[str, ...]) -> int:
    """Return where the one ``"?"`` is, or raise Inconsistent if there is not exactly one."""
    if facts.count(MISSING) != 1:
        raise Inconsistent(f"expected one '?' among the facts; got {facts.count(MISSING)}")
    return facts.index(MISSING)


def number(fact: str) -> int:
    """Return the value of a stated number, or raise Inconsistent for any other word."""
    if not fact.isdigit():
        raise Inconsistent(f"expected a number; got {fact!r}")
    return int(fact)
