"""Calls of the models that a run has made before, kept in its journal.

A run that was killed in the middle of a search makes the same search again; what the models have said to it
comes from here, so that nothing is paid twice.  Entries are written behind the searches, many at a time,
and those of a search that has ended in the meantime are not written at all.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from .._budget import Usage
from .._calls import Item
from .._errors import PolicyError, RewardError
from .._question_key import QuestionKeys
from .._types import Candidate, Prefix, ProposeRequest, Question

#: Entries that are written together, unless time is up before.
BATCH = 512
#: Stands before the id of a question of which there are calls.
_BEGUN = "begun/"


class CallStore(Protocol):
    """The part of a journal that keeps calls."""

    def cached(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there."""
        ...

    def cache(self, entries: Mapping[str, bytes]) -> None:
        """Keep entries."""
        ...


#: A call that is not written yet: the question, what else names it, the outcome, and how it is written.
_Call = tuple[Question, tuple[object, ...], Any, Callable[[Any], bytes | None]]


class CallCache:
    """What `CachedPolicy` and `CachedReward` look calls up in and write them to.

    Args:
        store: a journal.

    Attributes:
        served: what did not have to be asked: calls, and tokens of the policy.

    Notes:
        Thread-safe; `flush` may be called from any thread.  Until then a call costs next to nothing: it is
        named and put into bytes when it is written.
    """

    def __init__(self, store: CallStore) -> None:
        self.store = store
        self.served = Usage()
        self._lock = threading.Lock()
        self._new: dict[str, list[_Call]] = {}  # by id of the question
        self._count = 0
        self._fresh: set[str] = set()
        self._keys = QuestionKeys()

    def open(self, ids: Sequence[str]) -> None:
        """Note that questions are searched; those of which no call was ever written are not looked up."""
        begun = self.store.cached([_BEGUN + id for id in ids])
        self._fresh.update(id for id in ids if _BEGUN + id not in begun)
        self._fresh.difference_update(id for id in ids if _BEGUN + id in begun)

    def drop(self, id: str) -> None:
        """Forget what was not written yet of a question: its search has ended, and has its result."""
        with self._lock:
            self._count -= len(self._new.pop(id, ()))
            self._fresh.discard(id)

    def key(self, question: Question, what: tuple[object, ...]) -> str:
        """Return the name of a call."""
        found = blake2b(self._keys(question).encode(), digest_size=16)
        found.update(repr(what).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def find(self, question: Question, calls: Sequence[tuple[object, ...]]) -> list[bytes | None]:
        """Return the value of each call, None where it is not known."""
        if question.id in self._fresh:
            return [None] * len(calls)
        keys = [self.key(question, what) for what in calls]
        found = self.store.cached(keys)
        return [found.get(key) for key in keys]

    def keep(
        self,
        question: Question,
        calls: Sequence[tuple[tuple[object, ...], Any]],
        write: Callable[[Any], bytes | None],
    ) -> None:
        """Keep calls and their outcomes, not necessarily at once.

        Args:
            question: what was asked about.
            calls: what else names the call, and its outcome.
            write: puts an outcome into bytes; None: it is not to be kept.
        """
        if not calls:
            return
        with self._lock:
            self._new.setdefault(question.id, []).extend((question, what, outcome, write) for what, outcome in calls)
            self._count += len(calls)
            full = self._count >= BATCH
        if full:
            self.flush()

    def flush(self) -> None:
        """Write everything now."""
        with self._lock:
            new, self._new, self._count = self._new, {}, 0
        entries: dict[str, bytes] = {}
        for id, calls in new.items():
            for question, what, outcome, write in calls:
                if (value := write(outcome)) is not None:
                    entries[self.key(question, what)] = value
                    entries[_BEGUN + id] = b""
        if entries:
            self.store.cache(entries)


class CachedPolicy:
    """A policy that is not asked again what a journal knows it has said.

    It has whatever the wrapped policy has, coroutines included.

    Args:
        policy: is asked for the rest.
        cache: a `CallCache`, or a journal.
        revision: stands for the policy and its settings: another one is another policy.

    Notes:
        Errors, and answers that are not candidates, are not kept.  ``usage`` is what the policy itself
        reports, `CallCache.served` what it was spared; a search is charged the tokens of its candidates
        wherever they come from, so that its budget cuts it where it would have without a cache.

    Example:
        >>> from svip_search._types import ProposeRequest, Question
        >>> from svip_search.testing import HashPolicy
        >>> cache = CallCache(DictStore())
        >>> policy = CachedPolicy(HashPolicy(), cache, "hash")
        >>> request = ProposeRequest(Question("Which?"), (), 2, seed=0)
        >>> first = policy.propose([request])
        >>> cache.flush()
        >>> policy.propose([request]) == first == HashPolicy().propose([request])
        True
        >>> cache.served.policy_calls
        1
    """

    def __init__(self, policy: Any, cache: CallCache | CallStore, revision: str) -> None:
        self.model = policy
        self.cache = cache if isinstance(cache, CallCache) else CallCache(cache)
        self.revision = revision

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # while it is unpickled
            raise AttributeError(name)
        value = getattr(self.model, name)
        wrapper = {"propose": self._propose, "apropose": self._apropose}.get(name)
        return value if wrapper is None else partial(wrapper, value)

    def _propose(self, call: Callable[..., Any], requests: Sequence[ProposeRequest]) -> list[Any]:
        known = self._look(requests)
        missing = [i for i, outcome in enumerate(known) if outcome is None]
        return self._merge(requests, known, missing, call([requests[i] for i in missing]) if missing else [])

    async def _apropose(self, call: Callable[..., Any], requests: Sequence[ProposeRequest]) -> list[Any]:
        known = self._look(requests)
        missing = [i for i, outcome in enumerate(known) if outcome is None]
        return self._merge(requests, known, missing, await call([requests[i] for i in missing]) if missing else [])

    def _named(self, request: ProposeRequest) -> tuple[object, ...]:
        return self.revision, request.prefix, request.n, request.seed, float(request.temperature), request.whole

    def _look(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]] | None]:
        known: list[list[tuple[Candidate, ...]] | None] = []
        for request in requests:
            (value,) = self.cache.find(request.question, [self._named(request)])
            known.append(None if value is None else self._served(read_candidates(value)))
        return known

    def _served(self, outcome: list[tuple[Candidate, ...]]) -> list[tuple[Candidate, ...]]:
        self.cache.served.policy_calls += 1
        self.cache.served.policy_tokens += sum(c.tokens for steps in outcome for c in steps)
        return outcome

    def _merge(self, requests: Sequence[ProposeRequest], known: list[Any], missing: list[int], new: Any) -> list[Any]:
        if not isinstance(new, (list, tuple)) or len(new) != len(missing):
            raise PolicyError(f"`propose` must return a list of {len(missing)} entries, one a request")
        for i, outcome in zip(missing, new, strict=True):
            known[i] = outcome
            self.cache.keep(requests[i].question, [(self._named(requests[i]), outcome)], write_candidates)
        return known


class CachedReward:
    """A reward model that is not asked again about paths a journal has rewards of.

    It has whatever the wrapped model has; so has its ``outcome``, the second one of a pair.

    Args:
        reward: is asked for the rest.
        cache: see `CachedPolicy`.
        revision: stands for the reward model and its settings.

    Example:
        >>> from svip_search._types import Question
        >>> from svip_search.testing import HashReward
        >>> cache = CallCache(DictStore())
        >>> reward = CachedReward(HashReward(), cache, "hash")
        >>> for _ in range(2):
        ...     rewards = reward.evaluate(Question("Which?"), [("a",), ("a", "b")])
        ...     cache.flush()
        >>> [r.shape for r in rewards], cache.served.reward_calls
        ([(1, 3), (2, 3)], 2)
    """

    def __init__(self, reward: Any, cache: CallCache | CallStore, revision: str) -> None:
        self.model = reward
        self.cache = cache if isinstance(cache, CallCache) else CallCache(cache)
        self.revision = revision

    def __getattr__(self, name: str) -> Any:
        if name == "model":
            raise AttributeError(name)
        value = getattr(self.model, name)
        if name == "outcome":
            return CachedReward(value, self.cache, f"{self.revision}/outcome")
        wrappers: dict[str, Callable[..., Any]] = {
            "evaluate": self._evaluate, "evaluate_many": self._evaluate_many, "aevaluate_many": self._aevaluate_many
        }  # fmt: skip
        return partial(wrappers[name], value) if name in wrappers else value

    def _evaluate(self, call: Callable[..., Any], question: Question, paths: Sequence[Prefix]) -> list[Any]:
        asked = _Paths(self, [(question, paths)])
        return asked.merged([call(*asked.missing[0])] if asked.missing else [])[0]

    def _evaluate_many(self, call: Callable[..., Any], items: Sequence[Item]) -> list[list[Any]]:
        asked = _Paths(self, items)
        return asked.merged(call(asked.missing) if asked.missing else [])

    async def _aevaluate_many(self, call: Callable[..., Any], items: Sequence[Item]) -> list[list[Any]]:
        asked = _Paths(self, items)
        return asked.merged(await call(asked.missing) if asked.missing else [])


class _Paths:
    """One call of a reward model: what is known of it, and what is ``missing``."""

    def __init__(self, owner: CachedReward, items: Sequence[Item]) -> None:
        self.cache = owner.cache
        self.items = items
        self.names = [[(owner.revision, tuple(path)) for path in paths] for _, paths in items]
        self.rewards: list[list[Any]] = []
        self.gaps: list[tuple[int, list[int]]] = []
        self.missing: list[Item] = []
        for index, ((question, paths), names) in enumerate(zip(items, self.names, strict=True)):
            found = self.cache.find(question, names)
            self.rewards.append([None if value is None else read_reward(value) for value in found])
            gap = [i for i, value in enumerate(found) if value is None]
            self.cache.served.reward_calls += len(found) - len(gap)
            if gap:
                self.gaps.append((index, gap))
                self.missing.append((question, [paths[i] for i in gap]))

    def merged(self, new: Any) -> list[list[Any]]:
        """Return all rewards, and keep those that are new."""
        if not isinstance(new, (list, tuple)) or len(new) != len(self.gaps):
            raise RewardError(f"`evaluate_many` must return a list of {len(self.gaps)} entries, one an item")
        for (index, gap), rewards in zip(self.gaps, new, strict=True):
            if isinstance(rewards, (str, bytes)) or len(rewards) != len(gap):
                raise RewardError(f"`evaluate` must return {len(gap)} entries, one a path")
            calls: list[tuple[tuple[object, ...], Any]] = []
            for i, reward in zip(gap, rewards, strict=True):
                self.rewards[index][i] = reward
                calls.append((self.names[index][i], reward))
            self.cache.keep(self.items[index][0], calls, write_reward)
        return self.rewards


def write_candidates(outcome: Any) -> bytes | None:
    """Return continuations as bytes, None where they are something else."""
    if not isinstance(outcome, (list, tuple)):
        return None
    rows = []
    for steps in outcome:
        if not isinstance(steps, (list, tuple)) or not all(type(c) is Candidate for c in steps):
            return None
        rows.append([(c.text, c.log_prob, c.tokens, c.finish_reason) for c in steps])
    try:
        return json.dumps(rows, separators=(",", ":")).encode()
    except (TypeError, ValueError):  # a number or text of another kind, which the door will judge
        return None


def read_candidates(value: bytes) -> list[tuple[Candidate, ...]]:
    """Return what `write_candidates` wrote."""
    return [tuple(Candidate(*row) for row in steps) for steps in json.loads(value)]


def write_reward(reward: Any) -> bytes | None:
    """Return rewards of a path as bytes, with their dtype, None where they are something else."""
    if not isinstance(reward, (float, np.floating, np.ndarray)):
        return None
    array = np.asarray(reward)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or array.ndim > 2:
        return None
    return json.dumps([array.dtype.str, array.tolist()], separators=(",", ":")).encode()


def read_reward(value: bytes) -> Any:
    """Return what `write_reward` wrote."""
    dtype, numbers = json.loads(value)
    return np.array(numbers, dtype=dtype)


class DictStore:
    """Keeps calls in memory."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}

    def cached(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of those keys that are there."""
        return {key: self.entries[key] for key in keys if key in self.entries}

    def cache(self, entries: Mapping[str, bytes]) -> None:
        """Keep entries."""
        self.entries.update(entries)
