"""The loop between a search and the models: ask, check the budget, call, tell.

`solve`, `asolve` and `solve_many` are one loop.  A model that raises on a batch is asked again one
request at a time, so that a fault stays with the request that causes it, and a search takes the same
course whatever it shared a batch with.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from ._budget import POLICY_LIMITS, REWARD_LIMITS, Budget, Usage
from ._errors import PolicyError, RewardError
from ._types import Policy, ProposeRequest, Question, Result, RewardModel
from .strategies import MCTS, Evaluate, Expand, Request, Search, Strategy, make

#: Nodes of one search in one call of a model.
BATCH = 64

Progress = Callable[[Search, Usage], None]
Interrupt = Callable[[], bool]


def solve(
    question: Question | str,
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
) -> Result:
    """Return the answer that a search finds, with the tree and what it cost.

    ::

        search = strategy.start(question, seed)
        while budget allows and (requests := search.ask()):
            search.tell(request.id, policy.propose(...) or reward.evaluate(...))  # for each request
        return search.result()

    Args:
        question: what to answer.
        policy: proposes steps.
        reward: scores them; may be None for strategies that do not use it.
        strategy: a strategy, or its name with default settings; None is `MCTS()`.
        budget: limits; None is none.
        seed: the same seed, models and settings give the same tree.
        progress: called with the search and its usage after every round of calls.
        interrupt: asked before every round of calls; true ends the search.

    Returns:
        The `Result`.  A search cut by its budget answers from what it has, see `Budget.completion`.
        ``KeyboardInterrupt`` ends it with ``stopped_by="interrupted"``; a second one is raised.

    Raises:
        ValueError: the strategy needs a reward model and there is none, or its name is unknown.
        TypeError: an argument is of the wrong kind.

    Notes:
        Whatever a model raises or returns ends up in `Result.degraded` and never ends the search.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> question = Question("Which colour?", options=["red", "blue"])
        >>> result = solve(question, HashPolicy(), HashReward(), "beam", Budget(policy_calls=20))
        >>> result.answer in question.options
        True
    """
    many = _solve_many([question], policy, reward, strategy, budget, seed, 1, progress, interrupt)
    try:
        return next(many)[1]
    finally:
        many.close()


async def asolve(
    question: Question | str,
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
) -> Result:
    """Return what `solve` returns without blocking the running event loop.

    The search runs in a worker thread, from which ``progress`` and ``interrupt`` are called.  When
    the task is cancelled, the thread ends after the model call it is in.

    Example:
        >>> import asyncio
        >>> from svip_search.testing import HashPolicy
        >>> asyncio.run(asolve("Which?", HashPolicy(), strategy="greedy")).stopped_by
        'finished'
    """
    import asyncio  # a running loop has imported it already; everybody else is spared its cost

    cancelled = threading.Event()

    def check() -> bool:
        if cancelled.is_set():
            raise _CancelledError
        return interrupt is not None and interrupt()

    try:
        return await asyncio.to_thread(
            solve, question, policy, reward, strategy, budget, seed=seed, progress=progress, interrupt=check
        )
    except asyncio.CancelledError:
        cancelled.set()
        raise


def solve_many(
    questions: Iterable[Question | str],
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    batch: int = 8,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yield (index, `Result`) for every question, in the order they are finished.

    Up to ``batch`` searches are open at a time, and their policy requests are merged into one call.
    A result has the same tree as that of `solve` with the same seed.

    Args:
        questions: may be an endless iterator; no more than needed are taken.
        policy: see `solve`.
        reward: see `solve`.
        strategy: see `solve`.
        budget: for each question; ``seconds`` count from the moment its search is opened.
        seed: of every search.
        batch: open searches.
        progress: see `solve`; called for every open search.
        interrupt: see `solve`; true ends all open searches, and no more are opened.

    Notes:
        What the models report in ``usage`` for a merged call is shared out by number of requests.
        ``KeyboardInterrupt`` ends the open searches, yields them, and is raised again.

    Example:
        >>> from svip_search.testing import HashPolicy
        >>> results = dict(solve_many(["Which?", "How many?"], HashPolicy(), strategy="greedy"))
        >>> sorted(results)
        [0, 1]
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"`batch` must be a positive integer; got {batch!r}.")
    if isinstance(questions, (str, Question)):
        raise TypeError("`questions` must be a list of questions; use `solve` for a single one.")
    return _solve_many(questions, policy, reward, strategy, budget, seed, batch, progress, interrupt, True)


class _CancelledError(Exception):
    """The task that wanted the result is gone."""


def _solve_many(
    questions: Iterable[Question | str],
    policy: Policy,
    reward: RewardModel | None,
    strategy: Strategy | str | None,
    budget: Budget | None,
    seed: int,
    batch: int,
    progress: Progress | None,
    interrupt: Interrupt | None,
    raise_interrupt: bool = False,
) -> Generator[tuple[int, Result], None, None]:
    chosen = _check(policy, reward, strategy, budget, seed)
    waiting = enumerate(questions)
    runs: list[_Run] = []
    interrupted = keyboard = False
    while True:
        try:
            while len(runs) < batch and not interrupted and (item := next(waiting, None)) is not None:
                runs.append(_Run(item[0], chosen.start(_as_question(item[1]), seed), budget))
            if not runs:
                break
            if not interrupted and interrupt is not None and interrupt():
                interrupted = True
                for run in runs:
                    run.cut("interrupted")
            _call_models(runs, policy, reward)
            if progress is not None:
                for run in runs:
                    progress(run.search, run.usage())
        except KeyboardInterrupt:
            if interrupted or not runs:
                raise
            interrupted = keyboard = True
            for run in runs:
                run.cut("interrupted")
        finished = [run for run in runs if run.search.done]
        runs = [run for run in runs if not run.search.done]
        for run in finished:
            yield run.index, run.result()
    if keyboard and raise_interrupt:
        raise KeyboardInterrupt


def _check(policy: Any, reward: Any, strategy: Any, budget: Any, seed: Any) -> Strategy:
    if not callable(getattr(policy, "propose", None)):
        hint = "; wrap a function in CallablePolicy" if callable(policy) else ""
        raise TypeError(f"`policy` must have a method `propose`; got {type(policy).__name__}{hint}.")
    if reward is not None and not callable(getattr(reward, "evaluate", None)):
        hint = "; wrap a function in CallableReward" if callable(reward) else ""
        raise TypeError(f"`reward` must have a method `evaluate`; got {type(reward).__name__}{hint}.")
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"`budget` must be a Budget or None; got {type(budget).__name__}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"`seed` must be an integer; got {seed!r}.")
    if isinstance(strategy, str):
        strategy = make(strategy)
    strategy = MCTS() if strategy is None else strategy
    if not isinstance(strategy, Strategy):
        raise TypeError(f"`strategy` must be a strategy or its name; got {type(strategy).__name__}.")
    if strategy.needs_reward and reward is None:
        raise ValueError(
            f"`reward` must be given for the strategy {strategy.name!r}; got None. "
            "'greedy' and 'self-consistency' need none."
        )
    return strategy.scored_by(reward)


def _as_question(question: Question | str) -> Question:
    if isinstance(question, str):
        return Question(question)
    if not isinstance(question, Question):
        raise TypeError(f"`question` must be a Question; got {type(question).__name__}.")
    return question


class _Run:
    """A search with its budget and what it has spent."""

    def __init__(self, index: int, search: Search, budget: Budget | None) -> None:
        self.index = index
        self.search = search
        self.budget = budget
        self.told = Usage()  # what the models report themselves
        self.start = time.monotonic()
        self._completing = False

    def usage(self) -> Usage:
        """Return all that was spent until now."""
        used = self.search.usage + self.told
        used.seconds = time.monotonic() - self.start
        return used

    def result(self) -> Result:
        return replace(self.search.result(), usage=self.usage())

    def ask(self) -> list[Request]:
        """Return the next request, as large as the budget allows; [] where the search has ended."""
        search = self.search
        while search.wants() is not None:
            if self.budget is None or self._completing:
                return search.ask(BATCH)
            limit, n, reason = self._room(self.budget)
            if reason is None:
                return search.ask(limit, n)
            self.cut(reason)
        return []

    def _room(self, budget: Budget) -> tuple[int, int | None, str | None]:
        """Return how many nodes the next request may have, how many candidates each, and what forbids it."""
        search, used = self.search, self.usage()
        left = budget.remaining(used)
        if search.wants() is Evaluate:
            reason = budget.exceeded(used, REWARD_LIMITS)
            return int(min(BATCH, left["reward_calls"])), None, reason
        reason = budget.exceeded(used, POLICY_LIMITS)
        # One call is held back for the completion, unless this request itself finishes trajectories.
        held = int(budget.completion and search.wants() is Expand and not search.finished)
        calls, nodes = left["policy_calls"] - held, left["nodes"] - search.reserved
        if reason is None and (calls < 1 or nodes < 1):
            reason = "policy_calls" if calls < 1 else "nodes"
        n = int(min(search.width(), max(nodes, 1)))
        fitting = max(nodes, 1) // n if math.isfinite(nodes) else math.inf
        return int(min(BATCH, max(calls, 1), fitting)), n, reason

    def cut(self, reason: str) -> None:
        """End the search; where nothing is finished, begin a completion."""
        search = self.search
        if self._completing:
            search.abort()
            return
        search.stop(reason)
        allowed = self.budget is None or (
            self.budget.completion and self.budget.exceeded(self.usage(), ("seconds",)) is None
        )
        self._completing = allowed and not search.finished and search.complete()


def _call_models(runs: Sequence[_Run], policy: Policy, reward: RewardModel | None) -> None:
    """Let every run make its next request, and tell the outcomes."""
    proposals: list[tuple[_Run, Request, list[ProposeRequest]]] = []
    evaluations: list[tuple[_Run, Request]] = []
    for run in runs:
        for request in run.ask():
            if isinstance(request, Evaluate):
                evaluations.append((run, request))
            else:
                proposals.append((run, request, run.search.requests_for(request)))
    if proposals:
        before = _reported(policy)
        outcomes = _propose(policy, [one for _, _, asked in proposals for one in asked])
        shares = _share(_reported(policy) - before, [len(asked) for _, _, asked in proposals])
        position = 0
        for (run, request, asked), share in zip(proposals, shares, strict=True):
            run.told += Usage(prompt_tokens=share.prompt_tokens, cached_policy_tokens=share.cached_policy_tokens)
            run.search.tell(request.id, outcomes[position : position + len(asked)])
            position += len(asked)
    for run, request in evaluations:
        assert reward is not None
        before = _reported(reward)
        rewards = _evaluate(reward, run.search.question, run.search.paths(request))
        spent = _reported(reward) - before
        run.told += Usage(reward_tokens=spent.reward_tokens, cached_reward_tokens=spent.cached_reward_tokens)
        run.search.tell(request.id, rewards)


def _propose(policy: Policy, requests: list[ProposeRequest]) -> list[Any]:
    """Return one outcome a request; where the call as a whole failed, each request is asked alone."""
    try:
        outcomes: Any = policy.propose(requests)
        if isinstance(outcomes, (list, tuple)) and len(outcomes) == len(requests):
            return list(outcomes)
        outcomes = PolicyError(f"`propose` must return a list of {len(requests)} entries, one a request")
    except Exception as error:
        outcomes = error
    return [outcomes] if len(requests) == 1 else [_propose(policy, [r])[0] for r in requests]


def _evaluate(reward: RewardModel, question: Question, paths: list[Any]) -> list[Any]:
    """Return one outcome a path; where the call as a whole failed, each path is scored alone."""
    try:
        rewards: Any = reward.evaluate(question, paths)
        # An array [K] of an outcome model is as good as a list.
        if not isinstance(rewards, (str, bytes)) and len(rewards) == len(paths):
            return list(rewards)
        rewards = RewardError(f"`evaluate` must return {len(paths)} entries, one a path")
    except Exception as error:
        rewards = error
    return [rewards] if len(paths) == 1 else [_evaluate(reward, question, [p])[0] for p in paths]


def _reported(model: Any) -> Usage:
    usage = getattr(model, "usage", None)
    return usage + Usage() if isinstance(usage, Usage) else Usage()


def _share(spent: Usage, weights: list[int]) -> list[Usage]:
    """Split whole numbers in proportion to the weights, so that they add up exactly."""
    total, position, shares = sum(weights), 0, []
    for weight in weights:
        part = Usage()
        for f in fields(Usage):
            amount = int(getattr(spent, f.name))
            setattr(part, f.name, amount * (position + weight) // total - amount * position // total)
        position += weight
        shares.append(part)
    return shares
