"""Calls of a policy or reward model that always give one outcome for each request.

A model that raises on a batch is asked again one request at a time, so that a fault stays with the
request that causes it, and a search takes the same course whatever it shared a batch with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import fields
from typing import Any

from ._budget import Usage
from ._errors import PolicyError, RewardError
from ._types import Policy, Prefix, ProposeRequest, Question, RewardModel

_NOTHING = Usage()
#: Paths of one question: what a reward model is asked.
Item = tuple[Question, Sequence[Prefix]]


def propose(policy: Policy, requests: Sequence[ProposeRequest]) -> list[Any]:
    """Return one outcome a request: continuations, or the exception that stands for them."""
    try:
        return _checked_proposals(policy.propose(requests), len(requests))
    except Exception as error:
        if len(requests) == 1:
            return [error]
    return [propose(policy, [request])[0] for request in requests]


async def apropose(policy: Any, requests: Sequence[ProposeRequest], timeout: float | None) -> list[Any]:
    """Return what `propose` returns from a policy with a coroutine ``apropose``."""
    try:
        return _checked_proposals(await _within(policy.apropose(requests), timeout), len(requests))
    except Exception as error:
        if len(requests) == 1:
            return [error]
    return [(await apropose(policy, [request], timeout))[0] for request in requests]


def evaluate(reward: RewardModel, items: Sequence[Item]) -> list[list[Any]]:
    """Return for each item one outcome a path: rewards, or the exception that stands for them.

    Items of several questions go into one call where the model has ``evaluate_many``.
    """
    if len(items) > 1 and callable(many := getattr(reward, "evaluate_many", None)):
        try:
            return _checked_items(many(items), items)
        except Exception:  # each item by itself will show which one it is
            pass
    return [_evaluate_one(reward, *item) for item in items]


def _evaluate_one(reward: RewardModel, question: Question, paths: Sequence[Prefix]) -> list[Any]:
    try:
        return _checked_rewards(reward.evaluate(question, paths), len(paths))
    except Exception as error:
        if len(paths) == 1:
            return [error]
    return [_evaluate_one(reward, question, [path])[0] for path in paths]


async def aevaluate(reward: Any, items: Sequence[Item], timeout: float | None) -> list[list[Any]]:
    """Return what `evaluate` returns from a reward model with a coroutine ``aevaluate_many``."""
    try:
        return _checked_items(await _within(reward.aevaluate_many(items), timeout), items)
    except Exception as error:
        if len(items) == 1 and len(items[0][1]) == 1:
            return [[error]]
    if len(items) > 1:
        return [(await aevaluate(reward, [item], timeout))[0] for item in items]
    question, paths = items[0]
    return [[(await aevaluate(reward, [(question, [path])], timeout))[0][0] for path in paths]]


async def _within(answer: Awaitable[Any], timeout: float | None) -> Any:
    import asyncio  # only where coroutines are awaited is its cost due

    try:
        async with asyncio.timeout(timeout):  # not wait_for, whose task would let a SystemExit stop the loop
            return await answer
    except TimeoutError:
        raise TimeoutError(f"no answer within {timeout:g} s") from None


def _checked_proposals(outcomes: Any, count: int) -> list[Any]:
    if not isinstance(outcomes, (list, tuple)) or len(outcomes) != count:
        raise PolicyError(f"`propose` must return a list of {count} entries, one a request")
    return list(outcomes)


def _checked_rewards(rewards: Any, count: int) -> list[Any]:
    # An array [K] of an outcome model is as good as a list.
    if isinstance(rewards, (str, bytes)) or len(rewards) != count:
        raise RewardError(f"`evaluate` must return {count} entries, one a path")
    return list(rewards)


def _checked_items(rewards: Any, items: Sequence[Item]) -> list[list[Any]]:
    if not isinstance(rewards, (list, tuple)) or len(rewards) != len(items):
        raise RewardError(f"`evaluate_many` must return a list of {len(items)} entries, one an item")
    return [_checked_rewards(one, len(paths)) for one, (_, paths) in zip(rewards, items, strict=True)]


def reported(model: Any) -> Usage:
    """Return what a model says it has spent until now, nothing where it does not say."""
    usage = getattr(model, "usage", None)
    return usage + Usage() if isinstance(usage, Usage) else Usage()


def share(spent: Usage, weights: Sequence[int]) -> list[Usage]:
    """Split whole numbers in proportion to the weights, so that they add up exactly."""
    if spent == _NOTHING:
        return [Usage() for _ in weights]
    total, position, shares = sum(weights), 0, []
    for weight in weights:
        part = Usage()
        for f in fields(Usage):
            amount = int(getattr(spent, f.name))
            setattr(part, f.name, amount * (position + weight) // total - amount * position // total)
        position += weight
        shares.append(part)
    return shares
