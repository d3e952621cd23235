"""Deterministic fakes of policies and reward models, some of them faulty, for tests and benchmarks.

They depend on what they are asked and on nothing else, so any batching gives the same answers.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._types import Candidate, Policy, Prefix, ProposeRequest, Question, RewardModel

if TYPE_CHECKING:
    from .strategies import Search

PolicyFault = Literal["raises", "empty", "too_many", "nan", "wrong_type", "wrong_length"]
RewardFault = Literal["raises", "wrong_shape", "out_of_range", "nan", "wrong_type", "wrong_length"]


def hash_int(*parts: object) -> int:
    """Return a 64-bit number that depends on the parts alone, the same in every process.

    Example:
        >>> hash_int("a", 1) == hash_int("a", 1), hash_int("a", 1) == hash_int("a", 2)
        (True, False)
    """
    digest = blake2b(repr(parts).encode("utf-8", "backslashreplace"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


class HashPolicy:
    """A policy whose steps are drawn by a hash of the prefix and the request's seed.

    Args:
        branching: distinct steps after every prefix.
        depth: steps of a trajectory; the last one states an answer.
        answers: drawn from where the question has no options.
        distinct: give the steps in order and each once, rather than drawn with repetition.
        tokens: of every step.
        seed: another seed is another policy.

    Example:
        >>> from svip_search import Question, ProposeRequest
        >>> request = ProposeRequest(Question("Which?"), (), 2, seed=0)
        >>> HashPolicy(distinct=True).propose([request])[0][1][0].text
        'step 1, branch 1'
    """

    def __init__(
        self,
        branching: int = 3,
        depth: int = 4,
        answers: Sequence[str] = ("red", "green", "blue", "yellow"),
        *,
        distinct: bool = False,
        tokens: int = 5,
        seed: int = 0,
    ) -> None:
        self.branching = branching
        self.depth = depth
        self.answers = tuple(answers)
        self.distinct = distinct
        self.tokens = tokens
        self.seed = seed

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        """Return the continuations of each request."""
        return [self._one(request) for request in requests]

    def _one(self, request: ProposeRequest) -> list[tuple[Candidate, ...]]:
        n = min(request.n, self.branching) if self.distinct and not request.whole else request.n
        return [self._continuation(request, i) for i in range(n)]

    def _continuation(self, request: ProposeRequest, i: int) -> tuple[Candidate, ...]:
        prefix = request.prefix
        steps: list[Candidate] = []
        while not steps or (request.whole and not steps[-1].finished):
            steps.append(self._step(request, prefix, i))
            prefix += (steps[-1].text,)
        return tuple(steps)

    def _step(self, request: ProposeRequest, prefix: Prefix, i: int) -> Candidate:
        if request.temperature == 0:
            branch = 0
        elif self.distinct and not request.whole:
            branch = i
        else:
            branch = hash_int(self.seed, request.seed, prefix, i) % self.branching
        text = f"step {len(prefix) + 1}, branch {branch}"
        log_prob = -self.tokens * (1 + hash_int(self.seed, prefix, branch) % 8) / 4
        if len(prefix) + 1 < self.depth:
            return Candidate(text, log_prob, self.tokens)
        answers = request.question.options or self.answers
        answer = answers[hash_int(self.seed, prefix, branch, "answer") % len(answers)]
        return Candidate(f"{text}. Answer: {answer}", log_prob, self.tokens, "stop")


class HashReward:
    """A reward model whose rewards are a hash of each prefix of the path, uniform in [0, 1].

    Args:
        seed: another seed is another model.
        kind: "prm" gives [T, 3], "orm" one number a path.
    """

    def __init__(self, seed: int = 0, kind: Literal["prm", "orm"] = "prm") -> None:
        self.seed = seed
        self.kind: Literal["prm", "orm"] = kind

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path."""
        return [self._path(path) for path in paths]

    def _path(self, path: Prefix) -> NDArray[np.float32]:
        steps = [self._step(path[: t + 1]) for t in range(len(path))]
        return np.array(steps if self.kind == "prm" else steps[-1][0], dtype=np.float32)

    def _step(self, prefix: Prefix) -> list[float]:
        bits = hash_int(self.seed, prefix)
        return [((bits >> 16 * c) & 0xFFFF) / 0xFFFF for c in range(3)]


class TableReward:
    """A reward model that looks rewards up.

    Args:
        table: from a prefix of steps to the reward of its last step: a number, or one a dimension.
        default: the reward of prefixes that are not in the table.

    Example:
        >>> TableReward({("a",): 1.0}).evaluate(Question("?"), [("a", "b")])[0].tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """

    kind: Literal["prm", "orm"] = "prm"

    def __init__(self, table: Mapping[Prefix, ArrayLike], default: float = 0.0) -> None:
        self.table = dict(table)
        self.default = default

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path."""
        return [np.stack([self._step(path[: t + 1]) for t in range(len(path))]) for path in paths]

    def _step(self, prefix: Prefix) -> NDArray[np.float32]:
        reward = np.asarray(self.table.get(prefix, self.default), dtype=np.float32)
        return np.broadcast_to(reward, (3,))


class FaultyPolicy:
    """Wraps a policy and spoils some of its answers, chosen by a hash of what is asked.

    Args:
        policy: the one to spoil.
        fault: what goes wrong.
        rate: share of the requests that are spoilt.

    Raises:
        ValueError: an unknown fault.
    """

    def __init__(self, policy: Policy, fault: PolicyFault, rate: float = 1.0) -> None:
        if fault not in get_args(PolicyFault):
            raise ValueError(f"`fault` must be one of {', '.join(get_args(PolicyFault))}; got {fault!r}.")
        self.policy = policy
        self.fault = fault
        self.rate = rate

    def propose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        """Return the continuations of each request, or something worse."""
        spoilt = [hash_int(r.prefix, r.seed) / 2**64 < self.rate for r in requests]
        if any(spoilt) and self.fault == "raises":
            raise RuntimeError("the policy broke")
        outcomes: list[Any] = list(self.policy.propose(requests))
        if any(spoilt) and self.fault == "wrong_length":
            return outcomes + outcomes[:1]
        return [self._spoil(o) if bad else o for o, bad in zip(outcomes, spoilt, strict=True)]

    def _spoil(self, outcome: list[tuple[Candidate, ...]]) -> Any:
        if self.fault == "empty":
            return []
        if self.fault == "too_many":
            return outcome * 3
        if self.fault == "nan":
            return [tuple(replace(c, log_prob=float("nan")) for c in one) for one in outcome]
        return [("just text",), None, *outcome[:1]]


class FaultyReward:
    """Wraps a reward model and spoils some of its answers, chosen by a hash of the path.

    Args:
        reward: the one to spoil.
        fault: what goes wrong.
        rate: share of the paths that are spoilt.

    Raises:
        ValueError: an unknown fault.
    """

    def __init__(self, reward: RewardModel, fault: RewardFault, rate: float = 1.0) -> None:
        if fault not in get_args(RewardFault):
            raise ValueError(f"`fault` must be one of {', '.join(get_args(RewardFault))}; got {fault!r}.")
        self.reward = reward
        self.kind = reward.kind
        self.fault = fault
        self.rate = rate

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[Any]:
        """Return the rewards of each path, or something worse."""
        spoilt = [hash_int(path) / 2**64 < self.rate for path in paths]
        if any(spoilt) and self.fault == "raises":
            raise RuntimeError("the reward model broke")
        rewards: list[Any] = list(self.reward.evaluate(question, paths))
        if any(spoilt) and self.fault == "wrong_length":
            return rewards + rewards[:1]
        return [self._spoil(r) if bad else r for r, bad in zip(rewards, spoilt, strict=True)]

    def _spoil(self, rewards: NDArray[np.float32]) -> Any:
        if self.fault == "wrong_shape":
            return np.zeros((len(rewards) + 1, 3), dtype=np.float32)
        if self.fault == "out_of_range":
            return rewards + 1.5
        return rewards * np.nan if self.fault == "nan" else "good"


class InstantPolicy:
    """A policy that costs almost nothing, for timing a search: the same steps after every prefix.

    Args:
        branching: candidates after every prefix, whatever ``n`` is.
        depth: steps of a trajectory.
    """

    def __init__(self, branching: int = 6, depth: int = 16) -> None:
        self.depth = depth
        self.steps: list[tuple[Candidate, ...]] = [(Candidate(f"step {i}", -1.0, 8),) for i in range(branching)]
        self.last: list[tuple[Candidate, ...]] = [
            (Candidate(f"Answer: {i}", -1.0, 8, "stop"),) for i in range(branching)
        ]

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        """Return the continuations of each request."""
        return [self.last if len(r.prefix) + 1 >= self.depth else self.steps for r in requests]


class InstantReward:
    """A reward model that costs almost nothing: random rewards in the order of the calls.

    Args:
        seed: of the random numbers.
    """

    kind: Literal["prm", "orm"] = "prm"

    def __init__(self, seed: int = 0) -> None:
        self.table = np.random.default_rng(seed).random((4096, 3), dtype=np.float32)
        self.calls = 0

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path."""
        return self.rewards([len(path) for path in paths])

    def rewards(self, lengths: Sequence[int]) -> list[NDArray[np.float32]]:
        """Return random rewards [T, 3] for each length T."""
        table, position = self.table, self.calls
        found = []
        for length in lengths:
            position = (position + 7) % 4000
            found.append(table[position : position + length])
        self.calls = position
        return found


def play(
    search: Search,
    policy: Policy,
    reward: RewardModel | None = None,
    *,
    limit: int = 64,
    rng: Random | None = None,
    copy: bool = False,
) -> Search:
    """Return a search played to its end, without budget.

    Args:
        search: is changed, unless ``copy``.
        policy: asked one request at a time.
        reward: asked one path at a time.
        limit: nodes in flight.
        rng: draws how much is asked at once and which request is told next; None keeps the order.
        copy: pickle and unpickle the search before every step.

    Example:
        >>> from svip_search import BestOfN, Question
        >>> play(BestOfN(n=2).start(Question("Which?")), HashPolicy(), HashReward()).done
        True
    """
    pending: list[Any] = []
    while not search.done:
        if copy:
            search = pickle.loads(pickle.dumps(search))
        pending += search.ask(limit if rng is None else rng.randint(1, limit))
        request = pending.pop(0 if rng is None else rng.randrange(len(pending)))
        search.tell(request.id, answer_request(search, request, policy, reward))
    return search


def answer_request(search: Search, request: Any, policy: Policy, reward: RewardModel | None) -> list[Any]:
    """Return the outcome of one request, an exception where a model raised.

    Where the outcome model of a pair is meant and ``reward`` is no pair, it is asked itself.
    """
    try:
        if hasattr(request, "n"):
            return list(policy.propose(search.requests_for(request)))
        assert reward is not None
        model = getattr(reward, "outcome", reward) if request.model == "outcome" else reward
        return list(model.evaluate(search.question, search.paths(request)))
    except Exception as error:
        return [error] * len(request.nodes)
