"""What a run of many searches is told (`Schedule`, `Task`) and what it tells (`RunStats`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ._budget import Budget, Usage
from ._types import Question
from .strategies import Strategy


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How many searches are open at a time, and how their requests are put together.

    Args:
        searches: open at a time; the more, the fuller the batches, and the more memory.
        policy_batch: most candidates in one call of the policy.
        policy_slots: most candidates in flight; None takes what the policy says (its ``slots``), or
            else as many as one call holds.  A policy that answers requests one by one, such as a
            server, is best kept a little ahead: about twice its own slots.
        policy_wait: seconds that a call may wait to become fuller while others are in flight.  A
            model that has nothing to do is never kept waiting.
        reward_batch: most paths in one call of the reward model.
        reward_slots: most paths in flight; None as for the policy.
        reward_wait: as ``policy_wait``.
        timeout: seconds after which a call of an asynchronous model counts as failed; None never.

    Raises:
        TypeError, ValueError: a setting is no number, or not positive.

    Example:
        >>> Schedule(searches=64, reward_wait=0.005).policy_batch
        256
    """

    searches: int = 16
    policy_batch: int = 256
    policy_slots: int | None = None
    policy_wait: float = 0.0
    reward_batch: int = 256
    reward_slots: int | None = None
    reward_wait: float = 0.0
    timeout: float | None = 600.0

    def __post_init__(self) -> None:
        for name in ("searches", "policy_batch", "policy_slots", "reward_batch", "reward_slots"):
            value = getattr(self, name)
            if value is None and name.endswith("slots"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer; got {value!r}.")
        for name in ("policy_wait", "reward_wait", "timeout"):
            value = getattr(self, name)
            if value is None and name == "timeout":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be a number of seconds >= 0; got {value!r}.")


@dataclass(frozen=True, slots=True)
class Task:
    """A question with settings of its own, for `solve_many`; None takes those of the run.

    Args:
        question: what to answer.
        strategy: how to search.
        budget: limits of this search.
        seed: of this search.
        priority: requests of a higher one go first.
        tree: what an earlier search has grown, to be searched further.
    """

    question: Question
    strategy: Strategy | None = None
    budget: Budget | None = None
    seed: int | None = None
    priority: float = 0.0
    tree: Any = None


@dataclass(slots=True)
class LaneStats:
    """What a model was asked in a run: calls, requests in them, and how long requests waited.

    ``size`` counts candidates for the policy and paths for the reward model.
    """

    calls: int = 0
    size: int = 0
    searches: int = 0
    waited: float = 0.0
    requests: int = 0
    busy: float = 0.0  # integral of what is in flight, over time

    @property
    def mean_size(self) -> float:
        """Candidates or paths in a call."""
        return self.size / self.calls if self.calls else 0.0

    @property
    def mean_wait(self) -> float:
        """Seconds from a request being ready to its call."""
        return self.waited / self.requests if self.requests else 0.0


@dataclass
class RunStats:
    """A run as it stands: for progress views and records.

    Attributes:
        done, open, total: questions; ``total`` is None where nobody knows.
        usage: all that was spent, searches that are open or were cancelled included.
        late: the part of ``usage`` that came back after its search had ended, and is in no result.
        policy, reward: see `LaneStats`.
        slots: most candidates in flight.
        in_flight: candidates in flight now.
        seconds: since the run began.
    """

    done: int = 0
    open: int = 0
    total: int | None = None
    usage: Usage = field(default_factory=Usage)
    late: Usage = field(default_factory=Usage)
    policy: LaneStats = field(default_factory=LaneStats)
    reward: LaneStats = field(default_factory=LaneStats)
    slots: int = 1
    in_flight: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of policy and reward model a second, over the whole run."""
        return self.usage.tokens / self.seconds if self.seconds else 0.0

    @property
    def busy(self) -> float:
        """Share of the policy's slots that were in use, over the whole run."""
        return self.policy.busy / (self.slots * self.seconds) if self.seconds else 0.0

    @property
    def cached(self) -> float:
        """Share of the tokens that models read which came from their caches."""
        hits = self.usage.cached_policy_tokens + self.usage.cached_reward_tokens
        read = self.usage.prompt_tokens + self.usage.reward_tokens + self.usage.cached_reward_tokens
        return hits / read if read else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that the rest will take at the pace so far, None where that is unknown."""
        if self.total is None or not self.done:
            return None
        return self.seconds / self.done * (self.total - self.done)
