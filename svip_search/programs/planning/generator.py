"""The generator of planning programs: the picture is read, then a plan is made move by move, rightly or not."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..._types import Question
from ...datasets.planning import FAMILIES, Plans, grid_of
from ...datasets.planning._family import State, plans_of
from ..generate import assigned, ends
from ._families import RECIPES
from ._recipe import PlanRecipe, answer

#: What wrong blocks are: a move against the rules; a legal one off the shortest plans; a right one whose state is
#: wrong; an answer too early; a block that is beside the point; one that repeats a reading.
MISTAKES = ("illegal", "detour", "slip", "premature", "stray", "repeat")
#: How often a move that wastes is taken back at once.  Whoever follows sees no waste later, as labels of chains have
#: it: what a wasted move leaves of the value of a plan is `RECOVERS`.
TURNS_BACK = 0.2
#: Moves beyond the shortest plan after which a lost one is given up.
_PATIENCE = 2

_HEAD = re.compile(r"# (?:\d+ : (?P<action>.+)|back to (?P<back>\d+))(?:\n|$)")
_STRAY = "# cells\ncells_seen = len(image.find('object'))\ncells_seen"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block that may come next, and its kind: ``right``, ``back`` or one of `MISTAKES`."""

    block: str
    kind: str = "right"
    #: How likely it is among those that are no mistakes.
    share: float = 1.0


class PlanProgramGenerator:
    """Writes the programs of planning puzzles.

    First come the blocks that read the picture, then one move a block, then what leads to the answer.  With
    probability ``error_rate`` a wrong block comes in place of a right one, each kind of `MISTAKES` that fits there
    being as likely as any other.  The writer knows the puzzle and believes that its moves did what they should:
    where the program has read or reckoned something else, the plan goes on regardless.

    Args:
        error_rate: share of wrong blocks, in [0, 1].
        cells: what is in the cells of the picture, as `Plan.cells`: the plans are for these.
        family: name of the family, where it is known; by default the words of the question tell.

    Raises:
        ValueError: ``error_rate`` lies outside of [0, 1], or there is no such family.

    Example:
        >>> from svip_search.datasets.planning import generate_plan
        >>> plan = generate_plan(seed=1, index=0, families=["tower_of_hanoi"], moves=(2, 2))
        >>> writer = PlanProgramGenerator(0.0, cells=plan.cells)
        >>> blocks = []
        >>> while found := writer.next_blocks(plan.question, plan.image, blocks, 1):
        ...     blocks += found
        >>> print(blocks[1])
        # 1 : 2 > 1
        state_1 = move(state_0, 2, 1)
        state_1
    """

    def __init__(self, error_rate: float = 0.3, *, cells: Sequence[str], family: str | None = None) -> None:
        if not 0 <= error_rate <= 1:
            raise ValueError(f"`error_rate` must lie in [0, 1]; got {error_rate}.")
        if family is not None and family not in RECIPES:
            raise ValueError(f"`family` must be one of {', '.join(RECIPES)}; got {family!r}.")
        self.error_rate = error_rate
        self.cells = tuple(cells)
        self.family = family

    def next_blocks(self, question: Question, image: Any, blocks: Sequence[str], n: int, *, seed: int = 0) -> list[str]:
        """Return ``n`` independent draws of the next block; none after the answer.

        Raises:
            ValueError: the question is of no planning family, or does not fit the cells.
        """
        options = self.exhaustive(question, blocks)
        if not options:
            return []
        rng = random.Random(repr((seed, tuple(blocks))))
        return rng.choices([b for b, _ in options], [p for _, p in options], k=n)

    def exhaustive(self, question: Question, blocks: Sequence[str]) -> list[tuple[str, float]]:
        """Return every block that may come next with its probability, a right one first; they add up to 1.

        Raises:
            ValueError: as `next_blocks`.
        """
        proposals = self.proposals(question, blocks)
        wrong = {kind: [p for p in proposals if p.kind == kind] for kind in MISTAKES}
        kinds = [kind for kind in wrong if wrong[kind]]
        right = [p for p in proposals if p.kind not in MISTAKES]
        shares: dict[str, float] = defaultdict(float)
        for proposal in right:
            sound = 1 - self.error_rate if kinds else 1.0
            shares[proposal.block] += sound * proposal.share / sum(p.share for p in right)
        for kind in kinds:
            for proposal in wrong[kind]:
                shares[proposal.block] += self.error_rate / len(kinds) / len(wrong[kind])
        return [(block, share) for block, share in shares.items() if share > 0]

    def proposals(self, question: Question, blocks: Sequence[str]) -> list[Proposal]:
        """Return every block that may come next with its kind, a right one first; no mistakes at a rate of 0.

        Raises:
            ValueError: as `next_blocks`.
        """
        if any(ends(block) for block in blocks):
            return []
        writer = _Writer(self._plans(question), blocks)
        right = list(writer.right())
        good = {proposal.block for proposal in right}
        wrong = dict.fromkeys(writer.wrong()) if self.error_rate else ()
        return [*right, *(p for p in wrong if p.block not in good)]

    def _plans(self, question: Question) -> Plans:
        grid = grid_of(question.text)
        if grid is None or self.family not in (None, grid.family):
            raise ValueError(f"`question` must be of {self.family or 'a planning family'}; got {question.text[:60]!r}.")
        if len(grid) != len(self.cells):
            raise ValueError(f"`cells` must be one a cell of the question's grid, {len(grid)}; got {len(self.cells)}.")
        family = FAMILIES[grid.family]
        return plans_of(family, family.task(grid, question.text, self.cells))


class _Writer:
    """Who has written some blocks of a program: where the plan stands, and what may come next."""

    def __init__(self, plans: Plans, blocks: Sequence[str]) -> None:
        self.plans, self.blocks, self.task = plans, blocks, plans.task
        self.recipe: PlanRecipe = RECIPES[plans.family.name]
        self.known = frozenset[str]().union(*(assigned(block) or () for block in blocks))
        self.states: list[State] = [plans.task.start]
        self.actions = [""]
        self.wasted = False  # whether the last block is a move that wastes
        for block in blocks:
            self._follow(block)

    def _follow(self, block: str) -> None:
        head = _HEAD.match(block)
        before, self.wasted = self._waste(), False
        if head and head["back"]:
            good = int(head["back"])
            self.states, self.actions = self.states[: good + 1], self.actions[: good + 1]
        elif head:
            state = self.states[-1]
            self.states.append(self.recipe.legal(self.task, state).get(head["action"], state))
            self.actions.append(head["action"])
            self.wasted = self._waste() > before

    @property
    def depth(self) -> int:
        return len(self.states) - 1

    def _waste(self, state: State | None = None, depth: int | None = None) -> float:
        """Return how many moves longer than the shortest the plan becomes; infinite where it cannot arrive."""
        state = self.states[-1] if state is None else state
        excess = self.plans.excess(state, self.depth if depth is None else depth)
        return math.inf if excess is None else excess

    def _readings(self) -> list[str]:
        """Return the reading blocks."""
        goal = self.recipe.goal(self.task)
        blocks = [f"# start\n{self.recipe.start(self.task)}\nstate_0"]
        return [*blocks, f"# goal\n{goal}\ngoal"] if goal else blocks

    # ---- what is right -------------------------------------------------------------------------------

    def right(self) -> Iterator[Proposal]:
        unread = self._unread()
        if unread:
            yield Proposal(unread[0])
            return
        onward = list(self._onward())
        if self.wasted:
            yield from (Proposal(block, "right", (1 - TURNS_BACK) / len(onward)) for block in onward)
            good = next(d for d in range(self.depth, -1, -1) if self._waste(self.states[d], d) == 0)
            yield Proposal(f"# back to {good}\nstate_{good} = list(state_{good})\nstate_{good}", "back", TURNS_BACK)
        else:
            yield from map(Proposal, onward)

    def _unread(self) -> list[str]:
        return [block for block in self._readings() if block not in self.blocks]

    def _onward(self) -> Iterator[str]:
        """Yield the blocks by which a plan goes on: along a shortest one, or as it may."""
        state, moves = self.states[-1], self.recipe.legal(self.task, self.states[-1])
        left = self.plans.left.get(state)
        if left == 0 or (left is None and self.plans.family.ended(self.task, state)):
            yield next(b for b in self._closing() if not (assigned(b) or frozenset()) <= self.known)
        elif left is not None:
            yield from (self._move(a) for a, after in moves.items() if self.plans.left.get(after) == left - 1)
        elif moves and self.depth < (self.plans.length or 0) + _PATIENCE:
            yield from map(self._move, moves)
        else:
            yield self._guess()

    def _closing(self) -> list[str]:
        return [_named(block, self.depth) for block in self.recipe.closing(self.task, self.states[-1], self.depth)]

    def _move(self, action: str, slip: str = "") -> str:
        number, expression = self.depth + 1, self.recipe.move(action, f"state_{self.depth}", self.actions[-1])
        lines = [f"# {number} : {action}", f"S = {expression}", *filter(None, [slip]), "S"]
        return _named("\n".join(lines), number)

    # ---- what is wrong -------------------------------------------------------------------------------

    def wrong(self) -> Iterator[Proposal]:
        if not self.blocks:
            return
        if not self._unread():
            yield from self._wrong_moves()
        if _STRAY not in self.blocks:
            yield Proposal(_STRAY, "stray")
        readings = [block for block in self._readings() if block in self.blocks]
        # A start that is read again after moves would be where they are forgotten.
        repeated = readings[-1:] if len(readings) > 1 or not self.depth else []
        yield from (Proposal(block, "repeat") for block in repeated if self.blocks.count(block) == 1)

    def _wrong_moves(self) -> Iterator[Proposal]:
        state, closing = self.states[-1], self._closing() if self._ended() else []
        moves, right = self.recipe.legal(self.task, state), set(self._onward())
        if not any((assigned(block) or frozenset()) & self.known for block in closing):
            for action in self.recipe.tried(self.task, state):
                if action not in moves:
                    yield Proposal(self._move(action), "illegal")
            for action, after in moves.items():
                if self._waste(after, self.depth + 1) > self._waste():
                    yield Proposal(self._move(action), "detour")
            yield Proposal(self._guess(), "premature")
        for action, after in moves.items():
            if self._move(action) in right:
                slips = self.recipe.slips(self.task, action, after)
                yield from (Proposal(self._move(action, slip), "slip") for slip in slips)
        for block in right & set(closing):
            if spoilt := self.recipe.slipped(block):
                yield Proposal(spoilt, "slip")

    def _ended(self) -> bool:
        return bool(self.plans.family.ended(self.task, self.states[-1]))

    def _guess(self) -> str:
        return answer(_named(self.recipe.guess(self.task, self.depth), self.depth))


def _named(code: str, depth: int) -> str:
    """Return code with the variable of a state in place of ``S``."""
    return re.sub(r"\bS\b", f"state_{depth}", code)
