"""Searches driven with models: `solve`, `asolve` and `solve_many`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sized
from typing import Any

from ._budget import Budget
from ._drive import Interrupt, Progress, Run, Watch, policy_lane, reward_lane
from ._live import LiveLine
from ._schedule import Schedule, Task
from ._scheduler import Job, Scheduler
from ._tree import Tree
from ._types import Policy, Question, Result, RewardModel
from .strategies import MCTS, Strategy, make


def solve(
    question: Question | str,
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    tree: Tree | None = None,
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
        tree: what an earlier search on this question has grown (`Result.tree`), to be searched further.
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
    run = _run([Task(_as_question(question), tree=tree)], policy, reward, strategy, budget, seed, progress, interrupt)
    try:
        return next(run)[1]
    finally:
        run.close()


async def asolve(
    question: Question | str,
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    tree: Tree | None = None,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
) -> Result:
    """Return what `solve` returns without blocking the running event loop.

    Models without coroutines are called in a worker thread.  When the task is cancelled, the thread ends
    after the model call it is in.

    Example:
        >>> import asyncio
        >>> from svip_search.testing import HashPolicy
        >>> asyncio.run(asolve("Which?", HashPolicy(), strategy="greedy")).stopped_by
        'finished'
    """
    run = _run([Task(_as_question(question), tree=tree)], policy, reward, strategy, budget, seed, progress, interrupt)
    try:
        return (await anext(run))[1]
    finally:
        await run.aclose()


def solve_many(
    questions: Iterable[Question | str | Task],
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    schedule: Schedule | None = None,
    run_budget: Budget | None = None,
    progress: Watch | bool = False,
    interrupt: Interrupt | None = None,
) -> Run:
    """Yield (index, `Result`) for every question, in the order they are finished.

    Many searches are open at a time, and their requests are merged into calls of the models
    (`Schedule`).  No search waits for another: whatever is ready is asked.  A result has the same tree as
    that of `solve` with the same seed, whatever it was merged with and however long answers took.

    Args:
        questions: may be an endless iterator; no more than needed are taken.  A `Task` brings settings
            of its own: strategy, budget, seed, priority, a tree to go on from.
        policy: see `solve`.  With a coroutine ``apropose(requests)`` it is called without threads, one
            node a call, as many at a time as it has ``slots`` for.
        reward: see `solve`.  With ``evaluate_many(items)``, items of (question, paths), requests of
            several questions become one call; a coroutine ``aevaluate_many`` likewise, ``concurrent_calls``
            (1) at a time.
        strategy: of all searches that have none of their own.
        budget: for each search; ``seconds`` count from the moment it is opened, and end it at once.
        seed: of every search.
        schedule: open searches, batches, waits; None is `Schedule()`.
        run_budget: for all searches together.  Where it is spent, open searches end with
            ``stopped_by="run_..."`` and no more are opened.
        progress: true shows a line on the terminal; a function is called with the `RunStats` now and then.
        interrupt: asked before every round of calls; true ends all open searches, and no more are opened.

    Returns:
        A `Run`, to be iterated with ``for`` or ``async for``.

    Raises:
        TypeError, ValueError: as `solve`; ``questions`` is a single question.

    Notes:
        What a model reports in ``usage`` for a merged call is shared out by number of requests.
        ``KeyboardInterrupt`` ends the open searches, yields them, and is raised again.
        ``forget(question)`` of a model is called when a search has ended, so that it can free memory.

    Example:
        >>> from svip_search.testing import HashPolicy
        >>> results = dict(solve_many(["Which?", "How many?"], HashPolicy(), strategy="greedy"))
        >>> sorted(results)
        [0, 1]
    """
    if isinstance(questions, (str, Question, Task)):
        raise TypeError("`questions` must be a list of questions; use `solve` for a single one.")
    run = _run(questions, policy, reward, strategy, budget, seed, None, interrupt, schedule, run_budget)
    run.raise_interrupt = run.forget = True
    run.watch = LiveLine(sys.stderr).show if progress is True else progress or None
    return run


def _run(
    questions: Iterable[Question | str | Task],
    policy: Policy,
    reward: RewardModel | None,
    strategy: Strategy | str | None,
    budget: Budget | None,
    seed: int,
    progress: Progress | None,
    interrupt: Interrupt | None,
    schedule: Schedule | None = None,
    run_budget: Budget | None = None,
) -> Run:
    chosen = _check(policy, reward, strategy, budget, seed)
    if schedule is not None and not isinstance(schedule, Schedule):
        raise TypeError(f"`schedule` must be a Schedule or None; got {type(schedule).__name__}.")
    if run_budget is not None and not isinstance(run_budget, Budget):
        raise TypeError(f"`run_budget` must be a Budget or None; got {type(run_budget).__name__}.")
    schedule = schedule or Schedule()
    if isinstance(questions, (list, tuple)):
        questions = [item if isinstance(item, Task) else _as_question(item) for item in questions]
    jobs = (_job(index, item, chosen, reward, budget, seed) for index, item in enumerate(questions))
    total = len(questions) if isinstance(questions, Sized) else None
    lanes = policy_lane(policy, schedule), reward_lane(reward, schedule)
    scheduler = Scheduler(schedule, jobs, *lanes, run_budget, total)
    return Run(scheduler, policy, reward, progress, interrupt)


def _job(
    index: int, item: Any, strategy: Strategy, reward: Any, budget: Budget | None, seed: int
) -> Callable[[float], Job]:
    task = item if isinstance(item, Task) else Task(_as_question(item))
    chosen = strategy if task.strategy is None else _check_strategy(task.strategy, reward)
    limits = budget if task.budget is None else task.budget
    search = chosen.start(task.question, seed if task.seed is None else task.seed, budget=limits, tree=task.tree)
    return lambda now: Job(index, search, limits, task.priority, now)


def _check(policy: Any, reward: Any, strategy: Any, budget: Any, seed: Any) -> Strategy:
    if not callable(getattr(policy, "propose", None)) and not callable(getattr(policy, "apropose", None)):
        hint = "; wrap a function in CallablePolicy" if callable(policy) else ""
        raise TypeError(f"`policy` must have a method `propose`; got {type(policy).__name__}{hint}.")
    able = [callable(getattr(reward, name, None)) for name in ("evaluate", "aevaluate_many")]
    if reward is not None and not any(able):
        hint = "; wrap a function in CallableReward" if callable(reward) else ""
        raise TypeError(f"`reward` must have a method `evaluate`; got {type(reward).__name__}{hint}.")
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"`budget` must be a Budget or None; got {type(budget).__name__}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"`seed` must be an integer; got {seed!r}.")
    chosen = _check_strategy(strategy, reward)
    if budget is not None:
        chosen.check_budget(budget)
    return chosen


def _check_strategy(strategy: Any, reward: Any) -> Strategy:
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
