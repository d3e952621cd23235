"""Adaptive branching MCTS: at every node, Thompson sampling decides between wider and deeper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from .._tree import Status
from ._base import Expand, Round, Scores, Search, Strategy

_CLOSED = (int(Status.TERMINAL), int(Status.FAILED))


class Posterior:
    """A Beta posterior of values in [0, 1], each a fractional success."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Take in one more value."""
        self.count += 1
        self.total += value


class ABMCTSSearch(Search):
    """Descends by Thompson sampling, generates one child, backs its value up; the tag is the node it grew."""

    resumes = revisits = True

    def _setup(self) -> None:
        self.how = self.config.select
        self._iterations = self._busy = 0
        self._generated: dict[int, Posterior] = {}  # the values of children, by the node they were generated at
        self._continued: dict[int, Posterior] = {}  # the values of what was generated below these children
        self._reached: dict[int, Posterior] = {}  # a node's own value, and the values of all below it
        self._take_in_the_tree()

    def _take_in_the_tree(self) -> None:
        """Observe what an earlier search has generated."""
        nodes = np.arange(1, len(self.tree))
        values = self.scoring.value(self.scores_of(nodes))
        for node, value in zip(nodes.tolist(), values.tolist(), strict=True):
            if not math.isnan(value):
                self._observe(int(self.tree.arena.parent[node]), node, value)

    def _choose(self) -> Round | None:
        config = self.config
        if self._busy >= config.parallel or self._iterations >= config.iterations:
            return None
        if self.tree.arena.status[0] == Status.FAILED:
            return None
        node = self._descend(Random(f"{self.seed}/{self._iterations}"))
        self._iterations += 1
        self._busy += 1
        return Round(Expand, [node], tag=node)

    def _descend(self, rng: Random) -> int:
        """Return the node at which GEN won."""
        node = 0
        while children := self._continuable(node):
            wider = self._sample(self._generated.get(node), rng)
            if wider >= self._sample(self._continued.get(node), rng):
                break
            values = [self._sample(self._reached[child], rng) for child in children]
            node = children[values.index(max(values))]
        return node

    def _continuable(self, node: int) -> list[int]:
        """Return the children that have a value and may have children.

        All below an EXHAUSTED node is finished, yet another child may be generated at it.
        """
        children = [child for child in self.tree.children(node) if child in self._reached]
        status = self.tree.arena.status[children].tolist() if children else []
        return [child for child, kind in zip(children, status, strict=True) if kind not in _CLOSED]

    def _sample(self, known: Posterior | None, rng: Random) -> float:
        """Draw from Beta(a + sum of values, b + sum of 1 - values)."""
        a, b = self.config.prior
        if known is None:
            return rng.betavariate(a, b)
        return rng.betavariate(a + known.total, b + max(known.count - known.total, 0.0))

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        self._busy -= 1
        if nodes:
            value = float(self.scoring.value(scores)[0])
            self.tree.arena.backup(nodes, [value])
            self._observe(round.tag, nodes[0], value)
        elif round.kind is Expand:
            self._observe_repeats(round)

    def _observe_repeats(self, round: Round) -> None:
        """Observe a step that the node had already: it says what GEN gives, and nothing new about that child."""
        for child in self.children_reached(round)[0]:
            value = float(self.scoring.value(self.scores_of([child]))[0])
            if not math.isnan(value):
                self._generated.setdefault(round.tag, Posterior()).add(value)

    def _observe(self, node: int, child: int, value: float) -> None:
        """Back up the value of a child that was generated at ``node``."""
        self._generated.setdefault(node, Posterior()).add(value)
        self._reached.setdefault(child, Posterior()).add(value)
        while node > 0:
            self._reached.setdefault(node, Posterior()).add(value)
            node = int(self.tree.arena.parent[node])
            self._continued.setdefault(node, Posterior()).add(value)


@dataclass(frozen=True, kw_only=True)
class ABMCTS(Strategy):
    """Returns the answer of an adaptive branching MCTS, which goes wider or deeper as the values suggest.

    ::

        repeat `iterations` times:
            node = root
            until sample(GEN, node) >= sample(CONT, node):       # no child to continue: GEN
                node = the child with the largest sample(child)
            child = one candidate after node                     # a step the node has counts as well
            backup(value(child))

        sample(arm) ~ Beta(a + sum of v, b + sum of (1 - v)) over the values v of the arm:
        GEN    the children generated at the node
        CONT   everything generated below these children
        child  the child itself and everything below it

    Args:
        iterations: candidates to generate.
        prior: a and b; the default is Jeffreys' prior.  The larger, the longer all arms look alike.
        select: how the finished trajectories answer: "weighted" or "max".
        parallel: iterations under way at a time.  Those that are pending do not keep others from the
            same node.  The tree depends on it.

    Notes:
        `iterations` policy calls for one candidate each, and one reward call for each that is new.
        Selection costs O(depth * branching).  The paper refines whole answers and leaves a child's own
        value to GEN alone; here nodes are steps, whose own value says what to expect below them.

    Reference:
        Y. Inoue et al., "Wider or deeper? Scaling LLM inference-time compute with adaptive branching
        tree search", arXiv 2503.04412, section 3.4: AB-MCTS-A with Beta priors.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), ABMCTS(iterations=16))
        >>> result.usage.policy_calls
        16
    """

    name = "ab-mcts"
    search = ABMCTSSearch

    iterations: int = 32
    prior: tuple[float, float] = (0.5, 0.5)
    select: Literal["weighted", "max"] = "weighted"
    parallel: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("select", ("weighted", "max"))
        prior = self.prior
        if not isinstance(prior, (tuple, list)) or len(prior) != 2 or not all(map(_positive, prior)):
            raise ValueError(f"`prior` must be two finite numbers > 0; got {prior!r}.")
        object.__setattr__(self, "prior", tuple(prior))


def _positive(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < math.inf
