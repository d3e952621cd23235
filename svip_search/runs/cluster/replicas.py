"""Models in processes of their own, which all workers of a run ask.

A replica merges what several workers ask at the same time into one call of its model.  All requests about
one question go to the same replica while it is well, so that what it keeps of a question is of use.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal, TypeVar

from ... import _calls
from ..._budget import Usage
from ..._calls import Item
from ..._errors import PolicyError, RewardError, SvipSearchError
from ..._http import gathered
from ..._question_key import QuestionKeys
from ..._types import ProposeRequest, Question
from ..._video import Video
from ...serving._batcher import Batcher
from ..settings import model_identity
from ._ray import load_ray, one_line, unwrapped
from .store import Files

T = TypeVar("T")
#: Candidates or paths that a replica works on at a time.
BATCH = 64
_QUESTIONS = 4096


class Replica:
    """A model in an actor of its own.

    Args:
        kind: ``"policy"`` or ``"reward"``.
        load: makes the model.
        journal: name of the `JournalActor`, which has the pictures of questions.
        root: folder for those that are brought from there.
        batch: most candidates or paths in one call of the model.
    """

    def __init__(self, kind: str, load: Callable[[], Any], journal: str, root: str, batch: int = BATCH) -> None:
        self.model = load()
        self._files = Files(journal, root)
        self._questions: OrderedDict[str, Question] = OrderedDict()
        calls = self._policy_calls() if kind == "policy" else self._reward_calls()
        self._batcher: Batcher[Any] = Batcher(self.model, *calls, batch)

    def _policy_calls(self) -> tuple[Any, Any]:
        model = self.model
        if not callable(getattr(model, "apropose", None)):
            return lambda requests: _calls.propose(model, requests), None
        return None, lambda requests: _calls.apropose(model, requests, None)

    def _reward_calls(self) -> tuple[Any, Any]:
        model = self.model
        if not callable(getattr(model, "aevaluate_many", None)):
            return lambda items: _calls.evaluate(model, items), None
        return None, lambda items: _calls.aevaluate(model, items, None)

    async def pid(self) -> int:
        """Return the number of the process."""
        return os.getpid()

    async def describe(self) -> dict[str, Any]:
        """Return what callers need to know of the model."""
        found = {name: getattr(self.model, name, None) for name in ("kind", "scoring")}
        return {**found, "identity": model_identity(self.model)}

    async def propose(self, key: str, question: Question | None, request: Sequence[Any]) -> Any:
        """Return the continuations of a prefix and what they cost; None asks for the question."""
        known = await self._question(key, question)
        if known is None:
            return None
        prefix, n, seed, temperature, whole = request
        asked = ProposeRequest(known, prefix, n, seed=seed, temperature=temperature, whole=whole)
        return await self._ask(asked, n)

    async def evaluate(self, key: str, question: Question | None, paths: Sequence[Any]) -> Any:
        """Return the rewards of paths and what they cost; None asks for the question."""
        known = await self._question(key, question)
        return None if known is None else await self._ask((known, paths), len(paths))

    async def forget(self, key: str) -> None:
        """Drop what is kept for a question."""
        question = self._questions.pop(key, None)
        if question is not None:
            await self._batcher.forget(question)

    async def _ask(self, item: Any, weight: int) -> tuple[Any, Usage]:
        outcome, spent = await self._batcher.ask(item, weight)
        if isinstance(outcome, list):  # of a reward model, a path each
            return [_portable(one) for one in outcome], spent
        return _portable(outcome), spent

    async def _question(self, key: str, question: Question | None) -> Question | None:
        if question is not None:
            self._questions[key] = await asyncio.to_thread(self._localised, question)
        known = self._questions.get(key)
        if known is not None:
            self._questions.move_to_end(key)
        if len(self._questions) > _QUESTIONS:
            self._questions.popitem(last=False)
        return known

    def _localised(self, question: Question) -> Question:
        """Return a question whose files are on this machine."""
        return replace(question, images=[self._local(image) for image in question.images])

    def _local(self, image: Any) -> Any:
        if isinstance(image, Video) and isinstance(image.source, str):
            return replace(image, source=self._files.local(image.source))
        return self._files.local(image) if isinstance(image, str) else image


def _portable(outcome: Any) -> Any:
    """Return an outcome that another process can read; an exception of any kind as one of this library."""
    if not isinstance(outcome, BaseException) or isinstance(outcome, SvipSearchError):
        return outcome
    return SvipSearchError(f"{type(outcome).__name__}: {outcome}")


class _Replicas:
    """Asks the replicas of one model; several event loops and threads may."""

    def __init__(self, replicas: Sequence[Any], error: type[SvipSearchError]) -> None:
        if not replicas:
            raise ValueError("`replicas` must not be empty.")
        self.replicas = list(replicas)
        self.usage = Usage()
        self._error = error
        self._lock = threading.Lock()
        self._keys = QuestionKeys(_QUESTIONS)
        #: The replicas that have a question, by its key; what is dropped here is sent once more.
        self._sent: OrderedDict[str, set[int]] = OrderedDict()
        self._about: dict[str, Any] | None = None

    @property
    def identity(self) -> dict[str, Any] | None:
        """Who the model is, wherever it is."""
        found: dict[str, Any] | None = self._describe()["identity"]
        return found

    def _describe(self) -> dict[str, Any]:
        if self._about is None:
            ray = load_ray()
            try:
                self._about = ray.get(self.replicas[0].describe.remote())
            except ray.exceptions.RayError as error:
                raise self._error(f"a replica of the model cannot be started: {_line(unwrapped(error))}") from None
        return self._about

    async def _ask(self, question: Question, call: Callable[[Any, str, Question | None], Awaitable[Any]]) -> Any:
        """Return what a replica answers; where it has died, another is asked."""
        ray = load_ray()
        key = await asyncio.to_thread(self._keys, question) if question.images else self._keys(question)
        fault: BaseException | None = None
        for place in self._order(key):
            try:
                answer = await call(self.replicas[place], key, None if self._has(key, place) else question)
                if answer is None:  # it has begun anew since
                    answer = await call(self.replicas[place], key, question)
                self._note(key, place)
            except ray.exceptions.RayActorError as error:
                self._lost(place)
                fault = error
                continue
            except ray.exceptions.RayTaskError as error:
                raise self._error(_line(unwrapped(error))) from None
            outcome, spent = answer
            with self._lock:
                self.usage += spent
            return outcome
        raise self._error(f"all {len(self.replicas)} replicas of the model have died: {_line(fault)}")

    def _order(self, key: str) -> list[int]:
        """Return the replicas, the one that a question belongs to first (rendezvous hashing); twice round."""
        places = range(len(self.replicas))
        order = sorted(places, key=lambda place: blake2b(f"{key} {place}".encode(), digest_size=8).digest())
        return order + order

    def _has(self, key: str, place: int) -> bool:
        with self._lock:
            return place in self._sent.get(key, ())

    def _note(self, key: str, place: int) -> None:
        """Take note that a replica has a question."""
        with self._lock:
            self._sent.setdefault(key, set()).add(place)
            self._sent.move_to_end(key)
            if len(self._sent) > _QUESTIONS:
                self._sent.popitem(last=False)

    def _lost(self, place: int) -> None:
        """Take note that a replica has died, and what it had with it."""
        with self._lock:
            for places in self._sent.values():
                places.discard(place)

    def forget(self, question: Question) -> None:
        """Let the replicas drop what they keep for a question."""
        key = self._keys.forget(question)
        with self._lock:
            places = self._sent.pop(key, set())
        for place in places:
            self.replicas[place].forget.remote(key)


class RayPolicy(_Replicas):
    """A policy of which there are replicas.

    Args:
        replicas: handles of actors `Replica`.
        slots: candidates in flight, of all replicas together.
    """

    def __init__(self, replicas: Sequence[Any], slots: int = BATCH) -> None:
        super().__init__(replicas, PolicyError)
        self.slots = slots

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        """Return the continuations of each request."""
        return await gathered(map(self._one, requests))

    async def _one(self, request: ProposeRequest) -> Any:
        asked = tuple(request.prefix), request.n, request.seed, request.temperature, request.whole
        outcome = await self._ask(request.question, lambda r, key, question: r.propose.remote(key, question, asked))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class RayReward(_Replicas):
    """A reward model of which there are replicas.

    Args:
        replicas: handles of actors `Replica`.
    """

    def __init__(self, replicas: Sequence[Any]) -> None:
        super().__init__(replicas, RewardError)
        self.concurrent_calls = 2 * len(replicas)
        self.kind: Literal["prm", "orm"] = self._describe()["kind"]
        if (scoring := self._describe()["scoring"]) is not None:
            self.scoring = scoring

    async def aevaluate_many(self, items: Sequence[Item]) -> list[Any]:
        """Return the rewards of each item's paths."""
        return await gathered(self._one(*item) for item in items)

    async def _one(self, question: Question, paths: Sequence[Any]) -> Any:
        asked = [tuple(path) for path in paths]
        return await self._ask(question, lambda r, key, question: r.evaluate.remote(key, question, asked))


def _line(error: BaseException | None) -> str:
    return one_line(f"{type(error).__name__}: {error}")
