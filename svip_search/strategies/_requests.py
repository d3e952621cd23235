"""What a search asks of the models: requests, and the rounds they are cut from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from .._types import Candidate, Prefix, Question

Model = Literal["policy", "reward"]


@dataclass(frozen=True, slots=True)
class Expand:
    """Ask the policy for one further step after each node, ``n`` candidates each.

    Outcome: for each node a list of tuples of one `Candidate`.  Where ``tails`` is not empty, each
    path continues with steps that are not in the tree; `Search.requests_for` includes them.
    """

    id: int
    nodes: tuple[int, ...]
    n: int
    tails: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """Ask the policy to complete each node to the end, ``n`` times each.

    Outcome: for each node a list of tuples of `Candidate`, the steps after the node (and its tail,
    see `Expand`).
    """

    id: int
    nodes: tuple[int, ...]
    n: int
    tails: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Ask the reward model for the rewards of each node's path.

    Outcome: for each node rewards [T, 3], or one number.  Where ``tails`` is not empty, each path
    continues with steps that are not in the tree; `Search.paths` includes them.  ``model`` is
    "outcome" where the reward model is a pair and its second one is meant (`HybridReward`).
    """

    id: int
    nodes: tuple[int, ...]
    tails: tuple[Prefix, ...] = ()
    model: Literal["process", "outcome"] = "process"


Request = Expand | Rollout | Evaluate


@dataclass(slots=True)
class Finished:
    """A trajectory that has ended: at a node, or beyond it along a rollout kept aside."""

    node: int
    answer: str | None
    tail: tuple[Candidate, ...] = ()
    score: float = math.nan
    rewards: NDArray[Any] | None = None


class Round:
    """What a strategy asks about many nodes at once: what was handed out, what came back.

    A round may be asked in pieces and told in any order; it is applied as a whole, in the order of
    its nodes.

    Args:
        kind: `Expand`, `Rollout` or `Evaluate`.
        nodes: may repeat.
        n: candidates a node; one number for all, or one a node.
        place: where what the policy returns goes: "tree" adds it as nodes; "aside" keeps one
            continuation a node beside the tree, behind its tail, to estimate a value; "text" hands it
            to the strategy (`texts`), it is no part of a solution.
        tails: steps behind each node that are not in the tree, one tuple of `Candidate` a node.  With
            place "tree" they are added first.
        tag: whatever the strategy wants to find again; a round that follows inherits it.
        temperature: instead of the strategy's.
        prompts: what to ask instead of the search's question, one a node.
        model: see `Evaluate`.

    Attributes:
        ended: the trajectories that ended in this round, or in those it follows.
        behind: with place "aside", the tails after growth, by the position of their node.
    """

    def __init__(
        self,
        kind: type[Request],
        nodes: Sequence[int],
        n: int | Sequence[int] = 1,
        *,
        place: Literal["tree", "aside", "text"] = "tree",
        tails: Sequence[tuple[Candidate, ...]] = (),
        tag: Any = None,
        temperature: float | None = None,
        prompts: Sequence[Question] = (),
        model: Literal["process", "outcome"] = "process",
    ) -> None:
        self.kind = kind
        self.nodes = list(nodes)
        self.counts = [n] * len(self.nodes) if isinstance(n, int) else list(n)
        self.place = place
        self.tails = list(tails)
        self.tag = tag
        self.temperature = temperature
        self.prompts = list(prompts)
        self.model = model
        self.offsets: list[int] = []
        self.taken = 0  # nodes handed out
        self.told = 0  # nodes whose outcome is known
        self.outcomes: list[Any] = [None] * len(self.nodes)
        self.ended: list[Finished] = []
        self.behind: dict[int, tuple[Candidate, ...]] = {}
        self.whole = kind is Rollout  # whether whole trajectories were grown, here or by what this follows

    @property
    def asks(self) -> Model:
        """Which model this round is for."""
        return "reward" if self.kind is Evaluate else "policy"

    @property
    def texts(self) -> list[list[str]]:
        """What the policy said for each node, the steps of a continuation joined to one text."""
        return [["\n".join(c.text for c in steps) for steps in outcome[0]] for outcome in self.outcomes]

    def follow(self, earlier: Round) -> Round:
        """Go on where an earlier round ended."""
        self.tag = earlier.tag if self.tag is None else self.tag
        self.ended = earlier.ended
        self.whole = self.whole or earlier.whole
        return self

    def next(self, most: int) -> tuple[int, int, int]:
        """Hand out up to ``most`` nodes that want the same n; return where they start and stop, and that n."""
        start = self.taken
        n = self.counts[start]
        stop = start + 1
        while stop < len(self.nodes) and stop - start < most and self.counts[stop] == n:
            stop += 1
        self.taken = stop
        return start, stop, n

    @property
    def new_nodes(self) -> int:
        """How many nodes this may add to the tree, where every candidate is a single step."""
        if self.place != "tree" or self.kind is Evaluate:
            return 0
        return sum(self.counts) + sum(map(len, self.tails))

    def cut(self, calls: float, nodes: float) -> None:
        """Keep as many as there are calls and new nodes for, the last one perhaps with fewer candidates."""
        kept: list[int] = []
        for i, count in enumerate(self.counts):
            if self.place == "tree" and self.kind is not Evaluate:
                count = int(min(count, nodes - (len(self.tails[i]) if self.tails else 0)))
                nodes -= count + (len(self.tails[i]) if self.tails else 0)
            if i >= calls or count < 1:
                break
            kept.append(count)
        self.keep(range(len(kept)))
        self.counts = kept

    def keep(self, positions: Sequence[int]) -> None:
        """Forget all nodes but those at these positions."""
        for name in ("nodes", "counts", "outcomes", "tails", "prompts"):
            column = getattr(self, name)
            setattr(self, name, [column[i] for i in positions] if column else [])

    def keep_told(self) -> bool:
        """Forget the nodes whose outcome is not known; return whether any is left."""
        told = [i for i, outcome in enumerate(self.outcomes[: self.taken]) if outcome is not None]
        self.keep(told)
        self.taken = self.told = len(told)
        return bool(told)
