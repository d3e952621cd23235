"""Runs strategies on questions so that they can be compared.

::

    for each batch of questions:
        samples   n trajectories a question, drawn once (and scored once where a strategy needs it)
        greedy    one trajectory at temperature 0
        self-consistency, best-of-n, weighted    three ways to answer from the same samples
        beam, mcts    searches that may generate as many tokens as the samples of that question did

Equal cost is per question: a search gets ``Budget(policy_tokens=tokens of its n samples)``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from os import PathLike
from typing import Any

from .._aggregate import Scoring
from .._budget import Budget
from .._schedule import Schedule, Task
from .._solve import solve_many
from .._types import Policy, Question, Result, RewardModel
from .._vote import match_option, normalise, select_answer
from ..datasets.puzzlevqa import family_of
from ..strategies import STRATEGIES, Strategy, make
from ._records import Record, RecordFile
from ._report import Report, build_report
from ._shuffled import ShuffledReward

#: What is compared unless told otherwise.
USUAL = ("greedy", "self-consistency", "best-of-n", "weighted", "beam", "mcts")
#: Strategies that only differ in how they answer from the shared samples.
SAMPLED = {"self-consistency": "majority", "best-of-n": "max", "weighted": "weighted"}
#: Sizes with which searches come near the tokens of n samples: siblings with the same text are one
#: node, so they grow wider than their candidates suggest; their budget is what stops them.
SETTINGS: dict[str, Callable[[int], dict[str, Any]]] = {
    "beam": lambda n: {"width": max(1, n // 2), "expand": max(2, n // 2)},
    # c and select: the better of a few, on generated puzzles.
    "mcts": lambda n: {"iterations": 16 * n, "expand": max(2, n // 2), "rollout": True, "c": 0.4, "select": "max"},
}

Progress = Callable[[int, int, Mapping[str, float]], None]


def evaluate(
    questions: Sequence[Question],
    policy: Policy,
    reward: RewardModel | None = None,
    strategies: Sequence[str] = USUAL,
    n: int = 16,
    seed: int = 0,
    *,
    batch: int = 8,
    shuffled_reward: bool = False,
    records: str | PathLike[str] | None = None,
    labels: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Return the accuracy of every strategy on the same questions at the same cost.

    Args:
        questions: with their true answers, and ids that differ.
        policy: proposes steps.
        reward: scores them; may be None where no strategy needs it.
        strategies: names, see `svip_search.strategies.STRATEGIES`.
        n: trajectories sampled a question.
        seed: the samples of a question depend on this, its id and the models alone.
        batch: questions searched at a time, their policy requests merged.
        shuffled_reward: control: permute the rewards, see `ShuffledReward`.
        records: a JSON-lines file of one record a question.  What it holds already is not run again.
        labels: names of ``policy`` and ``reward`` for the report.
        progress: called with (questions done, questions, accuracy so far) after every batch.

    Returns:
        The `Report`.  After ``KeyboardInterrupt`` it covers the batches that were finished.

    Raises:
        ValueError: no questions, one without an answer, equal ids, an unknown strategy, ``n`` or
            ``batch`` below 1, a missing reward model, or records of another run.

    Notes:
        ``seconds_per_question`` is the time of a batch divided by its questions: throughput, not
        latency.  Sampling strategies share the time of the samples; only those that use the rewards
        are charged for the reward model.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> colours = ["red", "blue"]
        >>> questions = [Question("Which?", options=colours, answer="red", id=f"a/{i}") for i in range(6)]
        >>> report = evaluate(questions, HashPolicy(), HashReward(), ["greedy", "weighted"], n=4)
        >>> sorted(report.to_dict()["strategies"])
        ['greedy', 'weighted']
    """
    names = _check(questions, strategies, n, batch, reward)
    settings: dict[str, Any] = {"policy": type(policy).__name__, "reward": type(reward).__name__}
    settings |= dict(labels or {}) | {"n": n, "seed": seed, "shuffled_reward": shuffled_reward}
    settings |= {"strategies": names, "batch": batch}
    if shuffled_reward and reward is not None:
        reward = ShuffledReward(reward, seed)
    timed = None if reward is None else _Timed(reward)
    file = RecordFile(records, settings, Record)
    done = {q.id: file.known[q.id] for q in questions if q.id in file.known}
    open_questions = [q for q in questions if q.id not in done]
    interrupted = False
    try:
        for start in range(0, len(open_questions), batch):
            if progress is not None:
                progress(len(done), len(questions), _accuracies(done.values()))
            for record in _run_batch(open_questions[start : start + batch], policy, timed, names, n, seed):
                done[record.id] = record
                file.append(record)
    except KeyboardInterrupt:
        if not done:
            raise
        interrupted = True
    if progress is not None:
        progress(len(done), len(questions), _accuracies(done.values()))
    kept = [done[q.id] for q in questions if q.id in done]
    return build_report(kept, settings, complete=not interrupted)


def is_right(question: Question, answer: str | None) -> bool:
    """Whether an answer is the true one, compared as votes are: case, punctuation and 4 == 4.0 aside.

    Example:
        >>> is_right(Question("?", options=["4", "8"], answer="4.0"), "4")
        True
    """
    if answer is None or question.answer is None:
        return False
    truth = match_option(question.answer, question.options) or question.answer
    return normalise(answer) == normalise(truth)


def _check(
    questions: Sequence[Question], strategies: Sequence[str], n: int, batch: int, reward: RewardModel | None
) -> list[str]:
    if not questions:
        raise ValueError("`questions` must hold at least one question.")
    seen = set()
    for question in questions:
        if question.answer is None:
            raise ValueError(f"`questions` must have answers; {question.id!r} has none.")
        if question.id in seen:
            raise ValueError(f"`questions` must have different ids; {question.id!r} occurs twice.")
        seen.add(question.id)
    names = list(dict.fromkeys(strategies))
    if not names:
        raise ValueError("`strategies` must name at least one strategy.")
    for name in names:
        if name not in STRATEGIES:
            raise ValueError(f"`strategies` must be among {', '.join(STRATEGIES)}; got {name!r}.")
        if name == "retrieval-mcts":
            raise ValueError("`strategies` must not name 'retrieval-mcts', which needs a retriever of its own.")
        if STRATEGIES[name].needs_reward and reward is None:
            raise ValueError(f"`reward` must be given for the strategy {name!r}; got None.")
    for name, value in (("n", n), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer; got {value!r}.")
    return names


class _Timed:
    """A reward model with a stopwatch."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model
        self.kind = model.kind
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.model, name)
        return self._watched(value) if name == "evaluate_many" else value

    def evaluate(self, question: Question, paths: Any) -> Any:
        return self._watched(self.model.evaluate)(question, paths)

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return watched


@dataclass
class _Pass:
    """The results of one strategy on one batch, with the seconds a question took."""

    results: list[Result]
    seconds: float
    reward_seconds: float


def _run_batch(
    questions: Sequence[Question], policy: Policy, reward: _Timed | None, names: list[str], n: int, seed: int
) -> Iterator[Record]:
    outcomes: list[dict[str, dict[str, Any]]] = [{} for _ in questions]
    samples: _Pass | None = None
    if set(names) - {"greedy"}:
        scored = "best-of-n" in names or "weighted" in names
        sampler = make("best-of-n" if scored else "self-consistency", n=n)
        samples = _search(questions, policy, reward, sampler, None, seed)
    for name in names:
        if name in SAMPLED and samples is not None:
            for outcome, question, result in zip(outcomes, questions, samples.results, strict=True):
                outcome[name] = _sampled_outcome(name, question, result, samples, reward)
            continue
        budgets = None
        settings: dict[str, Any] = {}
        if name != "greedy" and samples is not None:
            budgets = [Budget(policy_tokens=max(1, r.usage.policy_tokens)) for r in samples.results]
            settings = SETTINGS[name](n) if name in SETTINGS else {}
        found = _search(questions, policy, reward, make(name, n=n, **settings), budgets, seed)
        for outcome, question, result in zip(outcomes, questions, found.results, strict=True):
            tokens = result.usage.reward_tokens
            outcome[name] = _outcome(question, result, result.answer, found.seconds, tokens)
    for i, (question, outcome) in enumerate(zip(questions, outcomes, strict=True)):
        drawn = None
        if samples is not None:
            drawn = _sampled_outcome("self-consistency", question, samples.results[i], samples, reward)
        yield Record(question.id, family_of(question), len(question.options), drawn, outcome)


def _search(
    questions: Sequence[Question],
    policy: Policy,
    reward: _Timed | None,
    strategy: Strategy,
    budgets: Sequence[Budget] | None,
    seed: int,
) -> _Pass:
    """Search all questions side by side, each with a seed and a budget of its own.

    Models forget what an earlier strategy made them compute: every strategy pays for its own work.
    """
    for model in (policy, reward):
        if callable(clear := getattr(model, "clear", None)):
            clear()
    if reward is not None:
        reward.seconds = 0.0
    start = time.perf_counter()
    tasks = [
        Task(question, budget=budgets[i] if budgets else None, seed=_seed_of(seed, question))
        for i, question in enumerate(questions)
    ]
    results = dict(solve_many(tasks, policy, reward, strategy, schedule=Schedule(searches=len(tasks))))
    share = 1 / len(questions)
    reward_seconds = 0.0 if reward is None else reward.seconds
    ordered = [results[i] for i in range(len(tasks))]
    return _Pass(ordered, (time.perf_counter() - start) * share, reward_seconds * share)


def _seed_of(seed: int, question: Question) -> int:
    """Give every question draws of its own, whatever its place in the list."""
    digest = blake2b(f"{seed}/{question.id}".encode("utf-8", "replace"), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def _scoring_of(reward: RewardModel | None) -> Scoring:
    """Return the scoring that strategies use with this reward model."""
    return getattr(reward, "scoring", None) or Scoring()


def _sampled_outcome(
    name: str, question: Question, result: Result, samples: _Pass, reward: RewardModel | None
) -> dict[str, Any]:
    """Answer from the shared samples; a strategy without rewards is not charged for them."""
    strategy = STRATEGIES[name]
    scoring = _scoring_of(reward)
    weights = scoring.value([t.score for t in result.trajectories]).tolist()
    if not strategy.needs_reward:
        weights = [1.0] * len(weights)  # ties go to the answer that came first
    answer, _ = select_answer(result.trajectories, SAMPLED[name], weights)  # type: ignore[arg-type]
    seconds = samples.seconds if strategy.needs_reward else samples.seconds - samples.reward_seconds
    tokens = result.usage.reward_tokens if strategy.needs_reward else 0
    return _outcome(question, result, answer, seconds, tokens)


def _outcome(
    question: Question, result: Result, answer: str | None, seconds: float, reward_tokens: int
) -> dict[str, Any]:
    return {
        "answer": answer,
        "right": is_right(question, answer),
        "pass": any(is_right(question, t.answer) for t in result.trajectories),
        "trajectories": len(result.trajectories),
        "policy_tokens": result.usage.policy_tokens,
        "reward_tokens": reward_tokens,
        "seconds": round(seconds, 6),
        "stopped_by": result.stopped_by,
        "degraded": len(result.degraded),
    }


def _accuracies(records: Any) -> dict[str, float]:
    rows = [record.strategies for record in records]
    names = rows[0] if rows else {}
    return {name: sum(row[name]["right"] for row in rows) / len(rows) for name in names}
