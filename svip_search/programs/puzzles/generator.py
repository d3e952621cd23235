"""The generator of the embedded domain: right blocks, and plausible wrong ones at a known rate."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from ..._types import Question
from ...datasets.puzzles import FAMILIES, generate_puzzle
from .._types import Region
from ..generate import assigned, ends
from . import _colors, _numbers, _shapes
from ._recipe import STRAYS, Proposal, Recipe, fill

#: The right program of every family, and what can go wrong in it.
RECIPES: dict[str, Recipe] = {
    recipe.family: recipe
    for recipe in sorted((*_colors.RECIPES, *_numbers.RECIPES, *_shapes.RECIPES), key=lambda r: r.family)
}
#: What wrong blocks are: reading another attribute or place, another operator, comparison, object or index in
#: the reasoning, a later block too early, an answer too early, a block that does not run, one that is beside
#: the point, one that repeats another.
MISTAKES = ("attribute", "place", "reasoning", "order", "premature", "broken", "stray", "repeat")


class PuzzleProgramGenerator:
    """Writes the programs of generated puzzles.

    The next right block is the first of the family's program whose variables are not there yet; with
    probability ``error_rate`` a wrong one comes in its place, each kind of ``MISTAKES`` that fits there being as
    likely as any other.  What it writes depends on the question and the blocks so far alone; the picture is
    looked at once, where the wording of the question fits several families.

    Args:
        error_rate: share of wrong blocks, in [0, 1].
        family: name of the family, where it is known.
        vision: a vision module (``look(picture) -> Scene``) that tells families apart; `ClassicalVision` by
            default.

    Raises:
        ValueError: ``error_rate`` lies outside of [0, 1], or there is no such family.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> puzzle = generate_puzzle(10_000, 0, families=["venn"])
        >>> writer = PuzzleProgramGenerator(error_rate=0.0, family="venn")
        >>> print(writer.next_blocks(puzzle.question, puzzle.image, (), 1)[0])
        spots = sorted(image.find("object"), key=lambda spot: spot.x)
        # Read circles.
        circles = [spot.number() for spot in spots[::2]]
        circles
    """

    def __init__(self, error_rate: float = 0.3, *, family: str | None = None, vision: Any = None) -> None:
        if not 0 <= error_rate <= 1:
            raise ValueError(f"`error_rate` must lie in [0, 1]; got {error_rate}.")
        if family is not None and family not in RECIPES:
            raise ValueError(f"`family` must be one of {', '.join(RECIPES)}; got {family!r}.")
        self.error_rate = error_rate
        self.family = family
        self.vision = vision
        self._seen: tuple[Any, str] = (None, "")

    def next_blocks(self, question: Question, image: Any, blocks: Sequence[str], n: int, *, seed: int = 0) -> list[str]:
        """Return ``n`` independent draws of the next block; none after the answer.

        Raises:
            ValueError: the question is of no family.
        """
        options = self.exhaustive(question, blocks, image)
        if not options:
            return []
        rng = random.Random(repr((seed, tuple(blocks))))
        return rng.choices([b for b, _ in options], [p for _, p in options], k=n)

    def exhaustive(self, question: Question, blocks: Sequence[str], image: Any = None) -> list[tuple[str, float]]:
        """Return every block that may come next with its probability, the right one first; they add up to 1.

        Raises:
            ValueError: the question is of no family.
        """
        shares: dict[str, float] = defaultdict(float)
        proposals = self.proposals(question, blocks, image)
        wrong = {kind: [p for p in proposals if p.kind == kind] for kind in MISTAKES}
        kinds = [kind for kind in MISTAKES if wrong[kind]]
        for proposal in proposals:
            if proposal.kind == "right":
                shares[proposal.block] += 1 - self.error_rate
            else:
                shares[proposal.block] += self.error_rate / len(kinds) / len(wrong[proposal.kind])
        return [(block, share) for block, share in shares.items() if share > 0]

    def proposals(self, question: Question, blocks: Sequence[str], image: Any = None) -> list[Proposal]:
        """Return every block that may come next with its kind, the right one first.

        Raises:
            ValueError: the question is of no family.
        """
        if any(ends(block) for block in blocks):
            return []
        recipe = RECIPES[self.family or self.recognise(question, image, blocks)]
        told = recipe.told(question.text)
        stage = _stage(recipe, blocks)
        right = fill(recipe.right[stage], told)
        given = [fill(p, told) for p in recipe.wrong[stage]]
        given += [p for p in STRAYS if not any(s.block in blocks for s in STRAYS)]
        given += _repeats([fill(p, told) for p in recipe.right[:stage]], blocks)
        return [right, *(p for p in dict.fromkeys(given) if p.block != right.block)]

    def recognise(self, question: Question, image: Any, blocks: Sequence[str] = ()) -> str:
        """Return the family of a question: by its wording, else by the blocks, else by a look at the picture.

        Raises:
            ValueError: no family asks so, or several do and there is no picture.
        """
        names = _asking().get(_wording(question.text), ())
        if len(names) < 2 and names:
            return names[0]
        if not names:
            raise ValueError(
                f"`question` must be that of a generated puzzle, or `family` be given; got {question.text!r}."
            )
        written = Counter(name for name in names for block in blocks if block in _texts(name))
        if written:
            return written.most_common(1)[0][0]
        if image is None:
            raise ValueError(f"`image` or `family` must be given: {', '.join(names)} ask {question.text!r}.")
        if self._seen[0] is not image:
            self._seen = (image, self._look(image, names))
        return self._seen[1]

    def _look(self, image: Any, names: Sequence[str]) -> str:
        """Return the family whose pictures hold as many objects of such shapes as this one does."""
        if self.vision is None:
            from ..vision.classical import ClassicalVision

            self.vision = ClassicalVision()
        scene = self.vision.look(image)
        found = scene.call("find", Region(), ["object"])
        shapes = Counter(scene.call("shape", region, []) for region in found)

        def distance(name: str) -> tuple[int, int]:
            count, usual = _layout(name)
            return abs(count - len(found)), sum(n for shape, n in shapes.items() if shape not in usual)

        return min(names, key=distance)


def _stage(recipe: Recipe, blocks: Sequence[str]) -> int:
    """Return which right block comes next: the first that sets something which is not set yet."""
    known = frozenset().union(*(assigned(block) or () for block in blocks))
    return next(i for i, names in enumerate(recipe.sets) if not names <= known)


def _repeats(done: Sequence[Proposal], blocks: Sequence[str]) -> list[Proposal]:
    """Return the latest right block that is there, as a repetition of itself; a program repeats itself once."""
    if len(set(blocks)) < len(blocks):
        return []
    latest = [p for p in done if p.block in blocks][-1:]
    return [Proposal(p.block, p.says, "repeat") for p in latest]


def _wording(text: str) -> str:
    """Return a question with what differs between the puzzles of a family taken out."""
    text = re.sub(r"if it is an? \w+|number \d+", "#", text.lower())
    return " ".join(text.split())


@lru_cache(maxsize=1)
def _asking() -> dict[str, tuple[str, ...]]:
    """Return which families ask in which words."""
    pairs = sorted(
        (_wording(generate_puzzle(0, 0, families=[name], pixels=16).question.text), name) for name in FAMILIES
    )
    return {words: tuple(name for _, name in group) for words, group in groupby(pairs, key=lambda pair: pair[0])}


@lru_cache(maxsize=32)
def _layout(name: str) -> tuple[int, frozenset[str]]:
    """Return how many objects the pictures of a family hold, and the shapes that they can have."""
    puzzles = [generate_puzzle(0, i, families=[name], pixels=16) for i in range(20)]
    return len(puzzles[0].objects), frozenset(o.shape for p in puzzles for o in p.objects)


@lru_cache(maxsize=32)
def _texts(name: str) -> dict[str, str]:
    """Return every block of a family that can be proposed, with the template of its step."""
    recipe = RECIPES[name]
    words = recipe.asked[1] if recipe.asked else ("",)
    filled = (fill(p, word) for p in (*recipe.right, *(w for ws in recipe.wrong for w in ws)) for word in words)
    return {p.block: p.says for p in filled}


@lru_cache(maxsize=1)
def templates() -> dict[str, str]:
    """Return every block of the embedded domain with the template of its step."""
    return {p.block: p.says for p in STRAYS} | {b: says for name in RECIPES for b, says in _texts(name).items()}
