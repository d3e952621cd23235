"""Lookahead search: a beam search that scores a step by where it leads."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._tree import Status
from .._types import Candidate
from ._base import Evaluate, Expand, Round
from .beam import Beam, BeamSearch


@dataclass(slots=True)
class Ahead:
    """The children of one step of the beam, with the greedy steps taken behind each so far."""

    tails: dict[int, tuple[Candidate, ...]] = field(default_factory=dict)
    steps: int = 0


class LookaheadSearch(BeamSearch):
    """Takes greedy steps behind all new children, beside the tree, before these are evaluated."""

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        if round.place == "tree":
            ahead = Ahead(dict.fromkeys(ends, ()))
            status = self.tree.arena.status
            going = [e for e in ends if status[e] == Status.OPEN]
        else:
            ahead = round.tag
            ahead.tails |= {round.nodes[i]: tail for i, tail in round.behind.items()}
            ended = {f.node for f in round.ended}
            going = [e for e in ends if e not in ended]
        if going and ahead.steps < self.config.steps:
            ahead.steps += 1
            tails = [ahead.tails[e] for e in going]
            return Round(Expand, going, place="aside", tails=tails, tag=ahead, temperature=0.0)
        return self._evaluation(ahead)

    def _evaluation(self, ahead: Ahead) -> Round:
        """Return the round that scores the children by the path to the end of their lookahead."""
        status = self.tree.arena.status
        nodes = [e for e in ahead.tails if status[e] != Status.FAILED]
        tails = [ahead.tails[e] for e in nodes]
        return Round(Evaluate, nodes, tails=tails if any(tails) else ())


@dataclass(frozen=True, kw_only=True)
class Lookahead(Beam):
    """Returns the best finished trajectory of a beam search whose children are scored ahead.

    ::

        frontier = {root}
        while frontier:
            children = expand(frontier)                           # `expand` candidates each
            for each child:
                ahead = child and `steps` greedy steps behind it  # fewer where they reach an end
                score(child) = score of the path to the end of ahead
            keep the `width` best children, as `Beam` does

    Args:
        width: nodes kept after each step.
        expand: candidates a node.
        steps: greedy steps (temperature 0) behind a child before it is scored; 0 is `Beam`.
        select: how the finished trajectories answer: "max" or "weighted".

    Notes:
        A step of the beam costs at most width * (1 + expand * steps) policy calls and width * expand
        reward calls.  Greedy steps are no nodes of the tree; a trajectory that ends among them counts
        for the answer.  A child from which the policy cannot go on is dropped.

    Reference:
        C. Snell et al., "Scaling LLM test-time compute optimally", arXiv 2408.03314, section 5.2,
        "Lookahead search".

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> strategy = Lookahead(width=2, expand=2, steps=2)
        >>> result = solve(Question("Which?"), HashPolicy(depth=3), HashReward(), strategy)
        >>> sum(step.node == -1 for step in result.trajectories[0].steps)  # those beside the tree
        2
    """

    name = "lookahead"
    search = LookaheadSearch

    steps: int = 1

    def _check_count(self, name: str, optional: bool) -> None:
        if name != "steps":
            super()._check_count(name, optional)
        elif isinstance(self.steps, bool) or not isinstance(self.steps, int):
            raise TypeError(f"`steps` must be an integer; got {self.steps!r}.")
        elif self.steps < 0:
            raise ValueError(f"`steps` must be at least 0; got {self.steps}.")
