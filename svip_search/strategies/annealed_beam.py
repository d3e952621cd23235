"""Annealed beam: a beam search that begins wide and narrows with depth."""

from __future__ import annotations

from dataclasses import dataclass

from ._base import Round, Scores
from .beam import Beam, BeamSearch


class AnnealedBeamSearch(BeamSearch):
    """Sets the width anew at every step."""

    def _setup(self) -> None:
        super()._setup()
        self._step = 0
        self._share = 1.0  # of the beam, not taken by trajectories that have finished

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        self._width = max(1, self._places())
        super()._scored(round, nodes, scores)
        self._step += 1

    def _keep(self, kept: list[int]) -> None:
        places = self._width
        super()._keep(kept)
        self._share *= self._width / places

    def _places(self) -> int:
        """Return how many nodes may be kept now."""
        config = self.config
        width: int = max(config.least, round(config.width * config.decay**self._step))
        return round(width * self._share)


@dataclass(frozen=True, kw_only=True)
class AnnealedBeam(Beam):
    """Returns the best finished trajectory of a beam search that narrows with depth.

    ::

        width(t) = max(`least`, round(`width` * `decay`^t))

        a beam search that keeps the width(0) best children of the root, then the width(1) best
        children of these, and so on; finished ones among the kept take their share of all later
        widths with them

    Args:
        width: nodes kept after the first step.
        expand: candidates a node.
        decay: factor in (0, 1] by which the width shrinks with every further step; 1 is `Beam`.
        least: the width does not shrink below this; at most ``width``.
        select: how the finished trajectories answer: "max" or "weighted".

    Notes:
        The root costs 1 policy call, the step after width(t) was kept at most width(t), and each of
        these `expand` reward calls.  Halves are rounded to the even integer.

    Reference:
        The beam search of C. Snell et al., "Scaling LLM test-time compute optimally", arXiv
        2408.03314, section 5.2, with a geometric schedule for its width.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward, play
        >>> from svip_search import Question
        >>> policy = HashPolicy(branching=8, depth=4, distinct=True)
        >>> search = play(AnnealedBeam(width=8, expand=8).start(Question("Which?")), policy, HashReward())
        >>> [int((search.tree.arena.depth == d).sum()) for d in (1, 2, 3, 4)]
        [8, 64, 32, 16]
    """

    name = "annealed-beam"
    search = AnnealedBeamSearch

    width: int = 8
    decay: float = 0.5
    least: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("decay", 0, 1, above=True)
        if self.least > self.width:
            raise ValueError(f"`least` must not exceed `width`, {self.width}; got {self.least}.")
