"""Labels of reasoning steps from scene truth: relevance, logic and attribute correctness.

Scene truth decides here because the pictures are drawn by us: so the samples of a policy can be labelled, which
come without a program.  Labels are float32 [T, 3], NaN where a dimension says nothing about a step.

* **attribute**: the share of the visual facts that a perception step states and that are true.
  A step that states none is unlabelled (NaN), not 1.
* **logic**: whether a step follows by the family's pattern, from the facts as *stated* or from the
  facts as they *are*: a misread picture never counts as bad logic.
* **relevance**: 1 for a step of a chain that leads to the answer, halved where it repeats what is
  already known, 0 for one that has nothing to do with the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._family import COLORS, MISSING, SIDES, SIZES, Family, Inconsistent
from .generate import FAMILIES, Puzzle, generate_puzzle

NAN = float("nan")


@dataclass
class _Reader:
    """Follows a chain of thought and remembers which facts it has stated."""

    family: Family
    puzzle: Puzzle
    stated: dict[int, tuple[str, ...]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def truth(self, index: int) -> tuple[str, ...]:
        start = sum(self.family.slots[:index])
        return self.puzzle.facts[start : start + self.family.slots[index]]

    def perceives(self, step: str) -> tuple[int, tuple[str, ...]] | None:
        """Return which perception step this is and what it states; an unstated one first."""
        fits = [(i, self.family.parse(i, step)) for i in range(len(self.family.perceive))]
        known = [(i, facts) for i, facts in fits if facts is not None]
        fresh = [(i, facts) for i, facts in known if i not in self.stated]
        found = fresh or known
        return found[0] if found else None

    def conclusions(self) -> list[list[str]]:
        """Return the reasoning that follows from the truth and, if it does, from what is stated."""
        chains = [list(self.puzzle.steps[len(self.family.perceive) :])]
        if len(self.stated) == len(self.family.perceive):
            facts = tuple(f for i in sorted(self.stated) for f in self.stated[i])
            with suppress(Inconsistent):  # nothing follows from contradictory facts
                chains.append(self.family.reason(facts, self.puzzle.question.text))
        return chains


def label_steps(puzzle: Puzzle, steps: Sequence[str]) -> NDArray[np.float32]:
    """Return [T, 3] labels (relevance, logic, attribute) in [0, 1], NaN where unlabelled.

    Example:
        >>> puzzle = generate_puzzle(seed=1, index=0, families=["venn"])
        >>> label_steps(puzzle, puzzle.steps)[:, 0].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    reader = _Reader(FAMILIES[puzzle.family], puzzle)
    labels = [_label(reader, step) for step in steps]
    return np.array(labels, np.float32).reshape(len(labels), 3)


def _label(reader: _Reader, step: str) -> tuple[float, float, float]:
    repeated = step in reader.seen
    reader.seen.add(step)
    perceived = reader.perceives(step)
    if perceived is not None:
        index, facts = perceived
        repeated = index in reader.stated
        reader.stated.setdefault(index, facts)
        right = np.mean([a == b for a, b in zip(facts, reader.truth(index), strict=True)])
        return (0.5 if repeated else 1.0), 1.0, float(right)
    chains = reader.conclusions()
    follows = any(step in chain for chain in chains)
    if follows:
        return (0.5 if repeated else 1.0), 1.0, NAN
    kinds = {_kind(s) for chain in chains for s in chain}
    belongs = _kind(step) in kinds
    return (1.0 if belongs else 0.0), 0.0, NAN


def _kind(step: str) -> str:
    """Return the opening words that tell steps of one family apart: pattern, missing, answer, …"""
    words = re.sub(r"\d+", "#", step).split()
    return " ".join(words[:1])


def is_right(puzzle: Puzzle, steps: Sequence[str]) -> bool:
    """Return whether the chain ends in the true answer."""
    return bool(steps) and steps[-1] == f"answer : {puzzle.answer}"


# ---- corrupted chains: re-run with something changed, never relabelled ----------------------


def corrupt(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    """Return a wrong or wasteful chain of thought for ``puzzle``; `label_steps` says what is wrong."""
    kinds = (
        _misread,
        _misread,
        _misread,
        _miscalculate,
        _miscalculate,
        _other_answer,
        _repeat,
        _stray,
        _skip,
    )
    return kinds[int(rng.integers(len(kinds)))](puzzle, rng)


def _like(fact: str, rng: np.random.Generator, puzzle: Puzzle) -> str:
    """Return another word of the same sort, from the same picture or from the same word class."""
    if fact.isdigit():
        value = int(fact)
        near = [v for v in (value - 1, value + 1, int(rng.integers(1, 10))) if v >= 0 and v != value]
        return str(near[int(rng.integers(len(near)))])
    classes: tuple[Sequence[str], ...] = (
        COLORS, SIZES, tuple(SIDES), ("short", "medium", "long"),
        ("lightest", "light", "dark", "darkest"), ("row", "column"),
    )  # fmt: skip
    same = [w for c in classes if fact in c for w in c if w != fact]
    return same[int(rng.integers(len(same)))] if same else fact


def _misread(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    family, facts = FAMILIES[puzzle.family], list(puzzle.facts)
    places = [i for i, f in enumerate(facts) if f != MISSING]
    for i in rng.permutation(places)[: int(rng.integers(1, 3))]:
        facts[i] = _like(facts[i], rng, puzzle)
    stated = tuple(facts)
    try:
        return family.steps(stated, puzzle.question.text)
    except Inconsistent:  # as a policy does: claim the usual pattern and go on
        return family.perception(stated) + list(puzzle.steps[len(family.perceive) :])


def _replace_word(step: str, rng: np.random.Generator, puzzle: Puzzle) -> str:
    words = step.split()
    places = [i for i, w in enumerate(words) if i > 0 and _like(w, rng, puzzle) != w]
    if not places:
        return step
    place = places[int(rng.integers(len(places)))]
    words[place] = _like(words[place], rng, puzzle)
    return " ".join(words)


def _miscalculate(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    steps, first = list(puzzle.steps), len(FAMILIES[puzzle.family].perceive)
    at = int(rng.integers(first, len(steps) - 1)) if first < len(steps) - 1 else first
    steps[at] = _replace_word(steps[at], rng, puzzle)
    last = steps[at].split()[-1]
    if at == len(steps) - 2 and last in puzzle.question.options:
        steps[-1] = f"answer : {last}"  # the error is carried on to the answer
    return steps


def _other_answer(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    others = [o for o in puzzle.question.options if o != puzzle.answer]
    return [*puzzle.steps[:-1], f"answer : {others[int(rng.integers(len(others)))]}"]


def _repeat(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    steps = list(puzzle.steps)
    at = int(rng.integers(len(steps) - 1))
    steps.insert(int(rng.integers(at + 1, len(steps))), steps[at])
    return steps


def _stray(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    other = generate_puzzle(int(rng.integers(2**31)), 0, pixels=16)
    steps = list(puzzle.steps)
    stray = other.steps[int(rng.integers(len(other.steps) - 1))]
    steps.insert(int(rng.integers(len(steps))), stray)
    return steps


def _skip(puzzle: Puzzle, rng: np.random.Generator) -> list[str]:
    steps: list[Any] = list(puzzle.steps)
    del steps[int(rng.integers(len(steps) - 1))]
    return steps
