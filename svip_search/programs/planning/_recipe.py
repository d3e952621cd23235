"""What a recipe is: how a family's plan is written as a program, block by block, and how its blocks go wrong.

The comment that opens a block is the head of its step, the value of the block the rest; a block without comment is told
by its value alone.  ``state_3`` is the state after three moves: a plan that goes back writes over what it takes back,
so that the data flow knows which moves the answer rests on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ...datasets.planning import FAMILIES, Task
from ...datasets.planning._family import State


class PlanRecipe(ABC):
    """How the plans of one family are written."""

    name: str
    #: Expressions that hold in a state ``S`` where the plan has arrived, and where it has not.
    reached = "S == goal"
    missed = "S != goal"

    # ---- reading -------------------------------------------------------------------------------------

    @abstractmethod
    def start(self, task: Task) -> str:
        """Return the code of the first block: the rules of the game, and ``state_0`` as the picture shows it."""

    def goal(self, task: Task) -> str:
        """Return the code that reads ``goal`` from the picture; "" where it shows none."""
        return ""

    # ---- moving --------------------------------------------------------------------------------------

    @abstractmethod
    def move(self, action: str, before: str, last: str) -> str:
        """Return the expression of the state after ``action`` from the variable ``before``.

        Args:
            action: in the words of the step.
            before: the variable.
            last: the action before this one; "" at the start.
        """

    @abstractmethod
    def tried(self, task: Task, state: State) -> Sequence[str]:
        """Return actions that one might think of in a state; those that are legal do no harm."""

    @abstractmethod
    def slips(self, task: Task, action: str, after: State) -> list[str]:
        """Return what goes wrong when a move is carried out: statements that spoil the state ``S``.

        As far as the recipe can tell, they change what the plan comes to: a slip that heals is none.
        """

    # ---- answering -----------------------------------------------------------------------------------

    def closing(self, task: Task, state: State, depth: int) -> list[str]:
        """Return the blocks from the end of a plan to the answer, in which ``S`` is its last state.

        A plan that has not arrived after all, for a slip or a misreading on its way, is one move short.
        """
        return [answer(f"{depth} + ({self.missed})")]

    def slipped(self, block: str) -> str:
        """Return a block of the closing with its arithmetic wrong; "" for one without."""
        head, equals, expression = next((line for line in block.split("\n") if " + " in line), "").partition(" = ")
        spoilt = f"{head}{equals}{expression} + 1"
        return block.replace(f"{head}{equals}{expression}", spoilt) if equals and not head.startswith("answer") else ""

    def guess(self, task: Task, depth: int) -> str:
        """Return the expression of a number that is answered before the plan is complete."""
        return f"{depth} - ({self.reached})"

    def legal(self, task: Task, state: State) -> dict[str, State]:
        """Return the legal moves from a state, and where they lead."""
        return dict(FAMILIES[self.name].moves(task, state))


def answer(expression: str) -> str:
    """Return the block that answers with the number of an expression."""
    return f"# answer\nanswer = str({expression})\nanswer"


def sums(count: int, first: str = "") -> list[str]:
    """Return the blocks that add up ``count`` numbers one by one, then answer; ``first`` opens the first of them."""
    if count == 1:
        return [answer("numbers[0]") if not first else f"# answer\n{first}\nanswer = str(numbers[0])\nanswer"]
    blocks, total = [], "numbers[0]"
    for i in range(1, count):
        code = f"total_{i} = {total} + numbers[{i}]\n[{total}, '+', numbers[{i}], '=', total_{i}]"
        blocks.append(f"{first}\n{code}" if first and i == 1 else code)
        total = f"total_{i}"
    return [*blocks, answer(total)]
