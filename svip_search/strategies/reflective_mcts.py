"""MCTS that offers a prefix of little value to reconsider, beside going on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._types import Candidate
from ._base import Round, Scores
from .mcts import MCTS, MCTSSearch


@dataclass(frozen=True, slots=True)
class Action:
    """One way to go on from a prefix.

    Args:
        name: for people.
        cue: a step that is put after the prefix, and after which the policy goes on; "" for none.
    """

    name: str
    cue: str


#: What `ReflectiveMCTS` offers unless told otherwise.
ACTIONS = (
    Action("continue", ""),
    Action("reflect", "Wait. Let me check the steps above against the picture."),
    Action("decompose", "Let me break the rest into smaller parts."),
)


class ReflectiveMCTSSearch(MCTSSearch):
    """Expands a leaf by plain candidates, and one of low value by what follows each cue as well."""

    def _setup(self) -> None:
        self._cues = [action.cue for action in self.config.actions if action.cue]
        super()._setup()

    def _expansion(self, leaves: list[int]) -> Round:
        plain = super()._expansion(leaves)
        asked = [(leaf, count, tail) for leaf in leaves for count, tail in self._offers(leaf)]
        if len(asked) == len(leaves):
            return plain
        nodes, counts, tails = zip(*asked, strict=True)
        return Round(plain.kind, nodes, counts, tails=tails, tag=plain.tag)

    def _offers(self, leaf: int) -> Iterator[tuple[int, tuple[Candidate, ...]]]:
        """Yield the candidates and the tail of each action that a leaf gets."""
        yield self.config.expand, ()
        if self._is_doubtful(leaf):
            for cue in self._cues:
                yield self.config.reflect, (Candidate(cue),)

    def _is_doubtful(self, leaf: int) -> bool:
        """Whether a leaf gets reflection actions; the root has no value, and so it never does."""
        has_room = self.tree.arena.depth[leaf] + 2 <= self.config.max_depth  # for the cue and a step
        return bool(has_room) and self.tree.value(leaf) < self.config.reflect_below

    def evaluated(self, r: Round) -> tuple[list[int], Scores]:
        """Store the rewards, those of the cues too, which come with the steps after them."""
        nodes, scores = super().evaluated(r)
        arena = self.tree.arena
        outcomes = dict(zip(r.nodes, r.outcomes, strict=True))
        for node in nodes:
            cue = int(arena.parent[node])
            if self.tree.text[cue] in self._cues and np.isnan(arena.reward[cue, 0]):
                rewards = np.asarray(outcomes[node], np.float32)
                if rewards.ndim == 2:  # one number for the whole path says nothing about the cue
                    arena.set_reward([cue], rewards[[arena.depth[cue] - 1]])
        return nodes, scores

    def _priors(self, candidates: list[Candidate]) -> NDArray[np.float32]:
        if len(candidates) == 1 and candidates[0].text in self._cues:
            # A cue is added alone; it is to count as one candidate among those of the plain action.
            return np.full(1, 1 / self.config.expand, np.float32)
        return super()._priors(candidates)


@dataclass(frozen=True, kw_only=True)
class ReflectiveMCTS(MCTS):
    """Returns the answer of an MCTS that also reconsiders prefixes of low value.

    ::

        as MCTS, but where a leaf is expanded:
            children = expand(leaf)                          # `expand` candidates
            if value(leaf) < reflect_below:
                for each action with a cue:
                    children += expand(leaf + cue)           # `reflect` candidates, below a node of the cue
            backup(child, value(child)) for each child       # through the cue's node

    Args:
        actions: the ways to go on; one with the cue "" stands for plain continuation.  The cues should
            fit the policy and the language it answers in.
        reflect_below: only leaves of a smaller value, in [0, 1], get actions with a cue, so that good
            prefixes cost nothing extra.  0 is plain MCTS.
        reflect: candidates after each cue.

    Notes:
        For each leaf of low value, one more policy call and `reflect` more reward calls for each action
        with a cue.  A cue is a step: it counts for ``max_depth``, and the reward model sees it.

    Reference:
        Z. Qi et al., "Mutual reasoning makes smaller LLMs stronger problem-solvers" (rStar), arXiv
        2408.06195: MCTS over several reasoning actions, sub-questions and rephrasing among them.
        H. Yao et al., "Mulberry", arXiv 2412.18319, "CoMCTS for reflective reasoning": paths that
        lead from a wrong step over a reflection prompt to a better one; there such paths are put
        together for training, here the policy goes on from the prompt while it searches.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> strategy = ReflectiveMCTS(iterations=8, reflect_below=1.0)
        >>> result = solve(Question("Which?"), HashPolicy(depth=4), HashReward(), strategy)
        >>> any(text.startswith("Wait.") for text in result.tree.text)
        True
    """

    name = "reflective-mcts"
    search = ReflectiveMCTSSearch

    actions: tuple[Action, ...] = ACTIONS
    reflect_below: float = 0.5
    reflect: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_number("reflect_below", 0, 1)
        object.__setattr__(self, "actions", tuple(self.actions))
        for action in self.actions:
            if not isinstance(action, Action):
                raise TypeError(f"`actions` must be of type Action; got {type(action).__name__}.")
        cues = [action.cue for action in self.actions]
        if "" not in cues:
            raise ValueError(f"`actions` must include one with the cue ''; got the cues {cues}.")
        if len(set(cues)) < len(cues) or any(cue.isspace() for cue in cues):
            raise ValueError(f"`actions` must have distinct cues, none of them blank; got {cues}.")
