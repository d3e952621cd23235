"""Policies and reward models of the study by name, and stand-ins of both that need no weights."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import svip_search as ss
from svip_search import Question, Scoring
from svip_search._types import Candidate, Prefix
from svip_search.datasets.planning import FAMILIES, Follower, Plan
from svip_search.datasets.planning.oracle import PlanOracle
from svip_search.evaluation._shuffled import ShuffledReward
from svip_search.policies import CallablePolicy

#: A chain of the longest plans with some going back, and a step of the largest board.
MAX_TOKENS, MAX_STEP_TOKENS = 640, 96
SLIPS = "slips"  # of a policy: moves of the families, a share of them at random; ``slips:0.2``
ORACLE = "oracle"  # of a reward; ``oracle:0.2`` errs on a fifth of the steps


class Truth(Mapping[str, Plan]):
    """The puzzles of the study by the id of their question, made when they are asked for."""

    def __init__(self, questions: Any) -> None:
        self.questions = questions
        self.items_by_id = {item.id: item for item in questions.items}

    def __getitem__(self, name: str) -> Plan:
        return self.questions.plan(self.items_by_id[name])

    def __iter__(self) -> Any:
        return iter(self.items_by_id)

    def __len__(self) -> int:
        return len(self.items_by_id)


class Oracle(PlanOracle):
    """What a prefix is worth: the truth's logic of its last step, 0 once anything it rests on is wrong.

    `PlanOracle` judges each step from what was stated before, as the labels of training do.  That calls a sound plan
    for a misread picture good, so it is no upper bound; this is.
    """

    scoring = Scoring(aggregate="last", weights=(0, 1, 0))

    def __init__(self, truth: Truth, error: float = 0.0) -> None:
        super().__init__({}, error=error)
        self.plans = truth  # type: ignore[assignment]  # made one by one

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        plan = self.plans[question.id]
        return [self._spoilt(question.id, path, worth(plan, path)[:, None].repeat(3, axis=1)) for path in paths]


def worth(plan: Any, steps: Sequence[str]) -> NDArray[np.float32]:
    """Return [T], what is left of the chance of a right answer after each step."""
    follower = Follower(plan)
    values = []
    for step in steps:
        follower.read(step)
        values.append(follower.value())
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Model:
    """A policy or reward model, its short name, and what tells it from another of the same name."""

    label: str
    model: Any
    identity: str


def policy(name: str, truth: Truth, device: str | None) -> Model:
    """Return a policy: an embedded model, a folder, or ``slips``."""
    if name.partition(":")[0] == SLIPS:
        return Model(name, CallablePolicy(_Slips(truth, _share(name, 0.1)), max_steps=64), name)
    loaded = ss.load_policy(name, max_tokens=MAX_TOKENS, max_step_tokens=MAX_STEP_TOKENS, device=device)
    return Model(Path(name).name, loaded, _print_of(name, "policy"))


def reward(kind: str, name: str | None, truth: Truth, device: str | None) -> Model:
    """Return the reward model of a kind: ``learned``, ``shuffled`` (both of ``name``), ``oracle`` or ``oracle:E``."""
    if kind.partition(":")[0] == ORACLE:
        return Model(kind, Oracle(truth, _share(kind, 0.0)), kind)
    if name is None:
        raise SystemExit(f"`--reward` must name a reward model for the rewards {kind!r}.")
    if name.partition(":")[0] == ORACLE:
        model, identity = Oracle(truth, _share(name, 0.0)), name
    else:
        model, identity = _reward_model(name, device), _print_of(name, "reward")
    return Model(kind, ShuffledReward(model) if kind == "shuffled" else model, identity)


@lru_cache(maxsize=2)
def _reward_model(name: str, device: str | None) -> Any:
    return ss.load_reward(name, **({} if device is None else {"device": device}))


def _share(name: str, default: float) -> float:
    text = name.partition(":")[2]
    return float(text) if text else default


def _print_of(name: str, kind: str) -> str:
    """Return a fingerprint of the weights, so that records of an older training are not taken for these."""
    from svip_search.models.zoo import model_folder

    digest = blake2b(digest_size=8)
    for path in sorted(Path(model_folder(name, kind)).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Slips:
    """Continues a chain by the truth, now and then by any other legal move; no picture is looked at."""

    def __init__(self, truth: Truth, slips: float) -> None:
        self.truth, self.slips = truth, slips

    def __call__(self, question: Question, prefix: Prefix, n: int, seed: int) -> list[Candidate]:
        plan, follower = self.truth[question.id], Follower(self.truth[question.id])
        for step in prefix:
            follower.read(step)
        return [self._step(plan, follower, prefix, random.Random(f"{seed}/{i}")) for i in range(n)]

    def _step(self, plan: Plan, follower: Follower, prefix: Prefix, rng: random.Random) -> Candidate:
        family, task = FAMILIES[plan.family], plan.task
        readings = family.readings(task)
        if len(prefix) < len(readings):
            return _candidate(readings[len(prefix)])
        state, depth = follower.states[-1], follower.depth
        if state is None:
            return _candidate(f"answer : {rng.choice(plan.question.options)}")
        closing = family.closing(task, state, depth) if family.ended(task, state) else []
        if closing:
            at = closing.index(prefix[-1]) + 1 if prefix[-1] in closing else 0
            return _candidate(closing[min(at, len(closing) - 1)])
        options = list(family.moves(task, state))
        left = plan.plans.left
        good = [m for m in options if left.get(m[1], 10**6) == left.get(state, 0) - 1] or options
        if not good or depth > 3 * plan.length + 4:
            return _candidate(f"answer : {rng.choice(plan.question.options)}")
        action, after = rng.choice(options if rng.random() < self.slips else good)
        return _candidate(f"{depth + 1} : {action} : {family.show(task, after)}")


def _candidate(text: str) -> Candidate:
    reason = "stop" if text.startswith("answer :") else "step"
    return Candidate(text, tokens=len(text.split()) + 1, finish_reason=reason)  # type: ignore[arg-type]
