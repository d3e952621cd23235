"""What a search may know of the states that its steps reach, and what it makes of that: rules for plans.

Text alone tells whether two steps are alike; it does not tell that two ways lead to one state, or that a way leads
back to where it was.  A function that reads states from steps (`StateOf`) does.  No rules, no difference.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ._types import Question


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the steps so far have led, as far as they say themselves.

    Args:
        key: equal for any two ways after which the same can follow, for plans the state and the number of moves;
            None where that is unknown.
        length: moves of the plan so far.
        loop: whether the plan leads to where it has been before.
        back: whether the last step goes back to an earlier state.
        fault: why nothing right can follow without going back, in words; empty where nothing speaks against it.
        doubt: what is wrong with the steps, in words, where it closes nothing: a state that is none.
    """

    key: Hashable | None = None
    length: int = 0
    loop: bool = False
    back: bool = False
    fault: str = ""
    doubt: str = ""


class StateOf(Protocol):
    """Reads from a question and the steps so far where these have led; never from a picture or the true answer."""

    def __call__(self, question: Question, steps: Sequence[str], /) -> Hashable | None:
        """Return a `Standing`; or any other value, which counts as its ``key`` alone; or None where nothing is known.

        Must depend on the arguments alone, and be a function of a module or a value that can be pickled.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PlanRules:
    """What a search does with the states that its steps reach: ``Strategy.rules``.

    Args:
        state_of: reads states; ``svip_search.datasets.planning.state_of`` does for planning puzzles.
        transpositions: of the nodes with one key, expand one.  Those that are scored together leave it to the best
            score, ties to the earlier; after that the first one holds the key, so long as it can still be expanded
            or was.  The others are closed.
        loops: close what leads to where it has been before; an answer at the end of a loop does not count.
        backtracking: "keep" the policy's own steps back, or "drop" them: a tree goes back by itself.
        adaptive_depth: close what can no longer be right (``Standing.fault``), so that every question is searched as
            deep as its options allow.

    Raises:
        TypeError: ``state_of`` is not callable, or a switch is neither True nor False.
        ValueError: ``backtracking`` is neither "keep" nor "drop".

    Notes:
        A closed node has the status FAILED, costs no reward call and no policy call, and its answer does not count,
        unless nothing else was found: then `Result.degraded` says so.  Trajectories that the policy writes as a whole
        are judged by where they end, so that they may go back or leave a loop; nodes inside of them are never merged.

        Duplicates are closed rather than their statistics merged: with one parent a node, values go up one way, and
        the visits of a node remain those of its children.  As equal keys include the length of the plan, no shorter
        way is lost.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Beam, Question, solve
        >>> rules = PlanRules(state_of=lambda question, steps: steps[-1] if steps else None)  # one step, one state
        >>> strategy = Beam(width=9, expand=3, rules=rules)
        >>> result = solve(Question("Which?"), HashPolicy(depth=4, distinct=True), HashReward(), strategy)
        >>> result.usage.policy_calls  # 1 + 3 + 9 + 9 without rules
        10
    """

    state_of: StateOf
    transpositions: bool = True
    loops: bool = True
    backtracking: Literal["keep", "drop"] = "keep"
    adaptive_depth: bool = True

    def __post_init__(self) -> None:
        if not callable(self.state_of):
            raise TypeError(f"`state_of` must be callable; got {type(self.state_of).__name__}.")
        for name in ("transpositions", "loops", "adaptive_depth"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}` must be True or False; got {getattr(self, name)!r}.")
        if self.backtracking not in ("keep", "drop"):
            raise ValueError(f"`backtracking` must be one of keep, drop; got {self.backtracking!r}.")

    def ablations(self) -> dict[str, PlanRules | None]:
        """Return these rules, the rules with one switch changed at a time, and no rules, by name.

        Example:
            >>> list(PlanRules(state_of=lambda question, steps: None).ablations())
            ['rules', 'no transpositions', 'no loops', 'no adaptive depth', 'backtracking: drop', 'no rules']
        """
        other: Literal["keep", "drop"] = "drop" if self.backtracking == "keep" else "keep"
        return {
            "rules": self,
            "no transpositions": replace(self, transpositions=False),
            "no loops": replace(self, loops=False),
            "no adaptive depth": replace(self, adaptive_depth=False),
            f"backtracking: {other}": replace(self, backtracking=other),
            "no rules": None,
        }
