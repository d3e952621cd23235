"""A reward model behind a server of this library (`svip_search.serving.reward_app`).

::

    paths whose rewards are kept        -> from the cache
    the others, question by question    -> requests of up to `batch` paths, several at a time
    a picture                           -> in full once, by its digest from then on
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._budget import Usage
from .._errors import RewardError, SvipSearchError
from .._http import Encoded, ServerModel, gathered, settings_of
from .._types import Prefix, Question
from ._remote_items import Scores, Sendable, encode
from ._remote_protocol import About, Kind, as_reward, error_text, read_about, read_rewards

Outcome = NDArray[np.float32] | SvipSearchError

#: Questions, and characters of pictures, of one request: servers take no more than 256 and 20 MiB.
MOST_ITEMS, MOST_SIZE = 128, 12 << 20


@dataclass(frozen=True, slots=True)
class _Item:
    """A question of a request with its paths; the key is its name by content."""

    key: str
    sendable: Sendable
    paths: list[Prefix]


class RemoteReward(ServerModel):
    """A reward model behind one or several equal servers.

    Args:
        base_url: the address up to and with its version, such as ``http://127.0.0.1:8000/v1``; several are equal
            servers of the same model, and every question stays with one of them while that is well.
        kind: of the model, ``"prm"`` or ``"orm"``; None asks the server when it is first needed.
        api_key: sent as a bearer token.  It travels with a pickle of the model; that of ``api_key_env`` does not.
        api_key_env: the environment variable that holds it.
        batch: most paths of a request.
        concurrent_calls: calls that a search makes at a time.
        cache_size: paths whose rewards are kept (steps, where the server says that its model is causal); 0 keeps none.
        slots: most requests in flight a server.
        timeout: seconds for a request, with all tries and waits.
        retries: how many more tries after a passing fault.
        max_bytes: largest accepted answer.

    Attributes:
        usage: what the server says it has spent.

    Raises:
        ValueError: an argument is out of range.

    Notes:
        Rewards are those of the model bit for bit: a float32 has one shortest form in JSON.  They are checked
        (shape, in [0, 1]) before they are believed.  Usable from several threads and from several event loops one
        after another.  A pickle holds the settings alone.

    Example:
        >>> reward = RemoteReward("http://127.0.0.1:9/v1", kind="prm", timeout=1, retries=0)
        >>> reward.evaluate(Question("Which?"), [("a step",)])
        Traceback (most recent call last):
        ...
        svip_search._errors.RewardError: The reward server at 127.0.0.1:9 ...
        >>> reward.close()
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        kind: Kind | None = None,
        api_key: str | None = None,
        api_key_env: str | None = None,
        batch: int = 64,
        concurrent_calls: int = 4,
        cache_size: int = 65_536,
        slots: int = 64,
        timeout: float = 120.0,
        retries: int = 3,
        max_bytes: int = 1 << 24,
    ) -> None:
        self._settings = settings_of(locals())
        if kind not in (None, "prm", "orm"):
            raise ValueError(f"`kind` must be 'prm', 'orm' or None; got {kind!r}.")
        if batch < 1 or concurrent_calls < 1 or cache_size < 0:
            got = f"{batch}, {concurrent_calls} and {cache_size}"
            raise ValueError(f"`batch` and `concurrent_calls` must be >= 1, `cache_size` >= 0; got {got}.")
        self.batch, self.concurrent_calls = batch, concurrent_calls
        self.usage = Usage()
        self._kind = kind
        self._about: About | None = None
        self._sendables, self._scores = Encoded(encode, attrgetter("size")), Scores(cache_size)
        self._shown: set[str] = set()  # digests of pictures that servers have seen
        self._lock = threading.Lock()
        self._connect(RewardError, "reward server")

    # -- what the model is ------------------------------------------------------------------------

    @property
    def kind(self) -> Kind:
        """``"prm"`` or ``"orm"``; asks the server, where it was not given.

        Raises:
            RewardError: the server cannot be asked.
        """
        return self._kind or self.describe().kind

    @property
    def scoring(self) -> Scoring | None:
        """How strategies should fold the rewards of steps into a score, where the model recommends it.

        Raises:
            RewardError: the server cannot be asked.
        """
        return self.describe().scoring

    def describe(self) -> About:
        """Return what `adescribe` returns, from code that is no coroutine."""
        return self._about or self._client.run(self.adescribe())

    @property
    def identity(self) -> dict[str, Any]:
        """Who the server says its model is.

        Raises:
            RewardError: the server cannot be asked.
        """
        about = self.describe()
        return {"server": about.name, "kind": about.kind, "scoring": about.scoring and asdict(about.scoring)}

    async def adescribe(self) -> About:
        """Return what the server says of its model; it is asked once.

        Raises:
            RewardError: it cannot be asked, or its model is of another kind than was said.
        """
        if self._about is None:
            about = await self._client.get("/reward", read_about)
            if self._kind not in (None, about.kind):
                raise RewardError(
                    f"`kind` is {self._kind!r}, but the reward server at {self._client.where} has a model of kind "
                    f"{about.kind!r} ({about.name})."
                )
            self._scores.causal = about.causal and about.kind == "prm"
            self._about, self._kind = about, about.kind
        return self._about

    # -- rewards ----------------------------------------------------------------------------------

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path, float32 [T, 3], of an ``"orm"`` [], in [0, 1].

        Raises:
            TypeError: a path is not made of texts.
            ImageError: a picture cannot be read.
            RewardError: the server cannot be asked, or has no rewards for a path.
        """
        (rewards,) = self.evaluate_many([(question, paths)])
        return rewards

    def evaluate_many(self, items: Sequence[tuple[Question, Sequence[Prefix]]]) -> list[list[NDArray[np.float32]]]:
        """Return what `evaluate` returns for each of several questions; raises the same."""
        found = self._client.run(self.aevaluate_many(items))
        for outcome in (one for rewards in found for one in rewards):
            if isinstance(outcome, Exception):
                raise outcome
        return cast(list[list[NDArray[np.float32]]], found)

    async def aevaluate_many(self, items: Sequence[tuple[Question, Sequence[Prefix]]]) -> list[list[Outcome]]:
        """Return for each item one outcome a path: its rewards, or the error that stands for them.

        Args:
            items: questions with their paths.

        Raises:
            TypeError: a path is not made of texts.
        """
        asked = [(question, [_checked(path) for path in paths]) for question, paths in items]
        try:
            await self.adescribe()
        except RewardError as error:  # raised, it would have every path asked about alone
            return [[error for _ in paths] for _, paths in asked]
        sent = await gathered([self._sendables.of(question) for question, _ in asked], keep=SvipSearchError)
        found: dict[tuple[str, Prefix], Outcome] = {}
        wanted: dict[str, tuple[Sendable, dict[Prefix, None]]] = {}
        for one, (_, paths) in zip(sent, asked, strict=True):
            if isinstance(one, SvipSearchError):
                continue
            key, sendable = one
            for path in paths:
                if (known := self._scores.find(key, path)) is not None:
                    found[key, path] = known
                else:
                    wanted.setdefault(key, (sendable, {}))[1][path] = None
        chunks = self._chunks([_Item(key, sendable, list(paths)) for key, (sendable, paths) in wanted.items()])
        for outcomes in await gathered([self._ask(chunk) for chunk in chunks]):
            found.update(outcomes)
        return [
            [one if isinstance(one, SvipSearchError) else found[one[0], path] for path in paths]
            for one, (_, paths) in zip(sent, asked, strict=True)
        ]

    def _chunks(self, items: Sequence[_Item]) -> Iterator[list[_Item]]:
        """Yield requests, each of questions that belong to one server."""
        by_server: dict[str, list[_Item]] = {}
        for item in items:
            by_server.setdefault(self._client.place(item.key), []).append(item)
        for group in by_server.values():
            yield from _split(group, self.batch)

    async def _ask(self, items: Sequence[_Item]) -> dict[tuple[str, Prefix], Outcome]:
        """Send one request and return its outcomes."""
        try:
            rewards, spent = await self._post(items)
        except RewardError as error:
            return {(item.key, path): error for item in items for path in item.paths}
        with self._lock:
            self.usage += spent
            if len(self._shown) > 4096:  # a server keeps fewer
                self._shown.clear()
            self._shown.update(*(item.sendable.digests for item in items))
        found: dict[tuple[str, Prefix], Outcome] = {}
        for item, values in zip(items, rewards, strict=True):
            for path, value in zip(item.paths, values, strict=True):
                found[item.key, path] = self._outcome(item.key, path, value)
        return found

    async def _post(self, items: Sequence[_Item]) -> tuple[list[list[Any]], Usage]:
        read = partial(read_rewards, lengths=[len(item.paths) for item in items])
        send = partial(self._client.post, "/rewards", read=read, key=items[0].key)  # that of any leads to their server
        digests = frozenset[str]().union(*(item.sendable.digests for item in items))
        with self._lock:
            shown = digests & self._shown
        if shown:
            try:
                return await send(_body(items, shown))
            except RewardError as error:
                # The server has dropped a picture, or it is another one than the last time.
                if getattr(error.__cause__, "status", None) != 409:
                    raise
        return await send(_body(items, frozenset()))

    def _outcome(self, key: str, path: Prefix, value: Any) -> Outcome:
        """Return the rewards of a path, checked and kept, or what is wrong with them."""
        assert self._kind is not None
        if isinstance(value, dict):
            return RewardError(
                f"The reward server at {self._client.where} has no rewards for a path: {error_text(value)}"
            )
        try:
            reward = as_reward(value, len(path), self._kind)
        except ValueError as error:
            return RewardError(f"The reward server at {self._client.where} gave rewards that cannot be used: {error}.")
        self._scores.keep(key, path, reward)
        return reward

    def forget(self, question: Question) -> None:
        """Drop all that was kept for a question here, for example when its search has ended."""
        self._scores.forget(self._sendables.forget(question))


def _split(items: Sequence[_Item], batch: int) -> Iterator[list[_Item]]:
    """Yield the items in requests of limited size; an item of many paths comes in parts."""
    chunk: list[_Item] = []
    room, size = batch, 0
    for item in items:
        paths = item.paths
        while paths:
            if chunk and (not room or len(chunk) == MOST_ITEMS or size + item.sendable.size > MOST_SIZE):
                yield chunk
                chunk, room, size = [], batch, 0
            chunk.append(_Item(item.key, item.sendable, paths[:room]))
            paths, room, size = paths[room:], max(room - len(paths), 0), size + item.sendable.size
    if chunk:
        yield chunk


def _checked(path: Any) -> Prefix:
    if isinstance(path, str) or any(not isinstance(step, str) for step in path):
        raise TypeError(f"`paths` must hold tuples of step texts; got {path!r}.")
    return tuple(path)


def _body(items: Sequence[_Item], shown: Collection[str]) -> dict[str, Any]:
    return {"items": [{"question": i.sendable.body(shown.__contains__), "paths": i.paths} for i in items]}
