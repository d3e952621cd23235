"""The configuration that all strategies share, and how settings are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .._aggregate import Scoring
from .._budget import Budget
from .._rules import PlanRules
from .._tree import Tree
from .._types import Question

if TYPE_CHECKING:
    from ._base import Search


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """The configuration that all strategies share.

    Args:
        temperature: of the policy's sampling; 0 is greedy.
        max_depth: steps after which a trajectory ends, finished or not.
        scoring: how the rewards of a path become its score; None takes what the reward model
            recommends (its ``scoring``), or else the mean over steps and dimensions.
        patience: end the search ("converged") once so many trajectories in a row have finished
            without changing the answer; None never does.
        relaxed: apply what comes back as it comes, rather than in the order it was asked.  Quicker
            where answers take different times and several rounds are under way; the tree then
            depends on these times.
        rules: what to make of the states that steps reach, see `PlanRules`; None knows no states.
    """

    name: ClassVar[str]
    needs_reward: ClassVar[bool] = True
    search: ClassVar[type[Search]]

    temperature: float = 1.0
    max_depth: int = 32
    scoring: Scoring | None = None
    patience: int | None = None
    relaxed: bool = False
    rules: PlanRules | None = None

    def __post_init__(self) -> None:
        self._check_number("temperature")
        if self.scoring is not None and not isinstance(self.scoring, Scoring):
            raise TypeError(f"`scoring` must be a Scoring or None; got {type(self.scoring).__name__}.")
        if self.rules is not None and not isinstance(self.rules, PlanRules):
            raise TypeError(f"`rules` must be PlanRules or None; got {type(self.rules).__name__}.")
        for f in fields(self):
            if f.type in ("int", "int | None"):
                self._check_count(f.name, optional=f.type == "int | None")
            elif f.type == "bool" and not isinstance(getattr(self, f.name), bool):
                raise TypeError(f"`{f.name}` must be True or False; got {getattr(self, f.name)!r}.")

    def _check_count(self, name: str, optional: bool) -> None:
        count = getattr(self, name)
        if count is None and optional:
            return
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"`{name}` must be an integer; got {count!r}.")
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1; got {count}.")

    def _check_number(self, name: str, least: float = 0, most: float = math.inf, *, above: bool = False) -> None:
        """Refuse a setting that is not a finite number in [least, most], or (least, most] where ``above``."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number; got {value!r}.")
        if not (least < value if above else least <= value) or not value <= most or math.isinf(value):
            end = "" if most == math.inf else f" and at most {most:g}"
            raise ValueError(f"`{name}` must be a number {'>' if above else '>='} {least:g}{end}; got {value!r}.")

    def _check_choice(self, name: str, allowed: Sequence[str]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}; got {value!r}.")

    def check_budget(self, budget: Budget) -> None:
        """Refuse a budget that this strategy could not even begin with; raises ValueError."""

    def _check_affordable(self, name: str, budget: Budget, limits: Sequence[str] = ("nodes",)) -> None:
        """Refuse a count that a limit of the budget does not allow even once."""
        for limit in limits:
            most = getattr(budget, limit)
            if most is not None and getattr(self, name) > most:
                raise ValueError(f"`{name}` must not exceed the budget's `{limit}`, {most}; got {getattr(self, name)}.")

    def start(
        self, question: Question, seed: int = 0, *, budget: Budget | None = None, tree: Tree | None = None
    ) -> Search:
        """Return a new search on ``question``; the same seed gives the same tree.

        Args:
            question: what is to be answered.
            seed: of all draws.
            budget: what it may spend.  ``seconds`` are for the caller to watch (`Search.stop`).
            tree: what an earlier search on the same question has grown, to be searched further; it is
                copied.  Its steps, rewards, values and finished trajectories count.

        Raises:
            ValueError: the strategy cannot go on from a tree, or could not even begin with the budget.
        """
        if budget is not None:
            self.check_budget(budget)
        if tree is not None and not self.search.resumes:
            raise ValueError(f"`tree` must be None for {self.name!r}, which cannot go on from a tree.")
        return self.search(self.scored_by(None), question, seed, budget, tree)

    def scored_by(self, reward: Any) -> Strategy:
        """Return this strategy with its scoring settled: its own, the reward model's, or the default."""
        if self.scoring is not None:
            return self
        return replace(self, scoring=getattr(reward, "scoring", None) or Scoring())
