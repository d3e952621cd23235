"""How a judge is asked: a question with its pictures as a message, several votes, and what they cost."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from .._budget import Usage
from .._errors import RewardError
from .._http import HttpClient, gathered
from ._judging import Ask

#: Statuses of a server that takes no `n`.
_REFUSED = (400, 422, 501)


@dataclass
class JudgeCounts:
    """What became of the votes of a judge.

    Attributes:
        answers: that came.
        parsed: of those, the ones that could be read.
        marked: of those, the ones that held the mark of their request (see `JudgeReward`).
        dropped: that could not be read, or only in a way that what is judged could have forged.
        failed: requests without an answer.
    """

    answers: int = 0
    parsed: int = 0
    marked: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Asked:
    """A question as its requests begin."""

    key: str
    parts: Sequence[dict[str, Any]]  # pictures, with their labels
    text: str

    def message(self, rest: str) -> dict[str, Any]:
        """Return the message of a request that goes on with ``rest``."""
        text = _encodable(self.text + rest)
        return {"role": "user", "content": [*self.parts, {"type": "text", "text": text}] if self.parts else text}


class JudgeServer:
    """One or several equal servers that are asked for votes.

    Args:
        client: talks to them.
        fields: of every request, beside the messages; one that is None is left out.
        system: the first message.
        slots: most requests in flight.
        structured: whether to send the schema of the answer.
    """

    def __init__(
        self, client: HttpClient, fields: Mapping[str, Any], system: str, slots: int, structured: bool
    ) -> None:
        self.client, self.system, self.slots, self.structured = client, system, slots, structured
        self.fields = {name: value for name, value in fields.items() if value is not None}
        self.usage, self.counts = Usage(), JudgeCounts()
        self.lock = threading.Lock()  # of usage and counts
        self._single = False  # whether they give one choice a request, whatever they are asked
        self._doors: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def answers(self, asked: Asked, ask: Ask, votes: int, seed: int) -> list[str]:
        """Return up to ``votes`` answers, at least one.

        Raises:
            RewardError: there is none.
        """
        texts: list[str] = []
        if votes > 1 and not self._single:
            texts = await self._together(asked, ask, votes, seed)
        found = await gathered([self._tried(asked, ask, seed + i) for i in range(len(texts), votes)])
        failed = [one for one in found if isinstance(one, RewardError)]
        texts += [one for one in found if isinstance(one, str)]
        if not texts:
            raise failed[0]
        return texts

    async def _together(self, asked: Asked, ask: Ask, votes: int, seed: int) -> list[str]:
        """Return what one request for all votes gives, nothing from a server that refuses it."""
        try:
            texts = await self._request(asked, ask, votes, seed)
        except RewardError as error:
            if getattr(error.__cause__, "status", None) not in _REFUSED:
                raise
            texts = []
        self._single = len(texts) < 2
        return texts

    async def _tried(self, asked: Asked, ask: Ask, seed: int) -> str | RewardError:
        try:
            return (await self._request(asked, ask, 1, seed))[0]
        except RewardError as error:
            return error

    async def _request(self, asked: Asked, ask: Ask, n: int, seed: int) -> list[str]:
        """Return up to ``n`` answers of one request."""
        messages = [{"role": "system", "content": self.system}, asked.message(ask.text)]
        body = {"messages": messages, "seed": seed % (1 << 31)} | self.fields | ({"n": n} if n > 1 else {})
        if self.structured:
            form = {"name": "judgement", "strict": True, "schema": ask.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        # The client's time runs from when it is asked: what must wait for a slot waits here.
        with self.lock:
            door = self._doors.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.slots))
        try:
            async with door:
                texts, spent = await self.client.post("/chat/completions", body, _completions, key=asked.key)
        except RewardError:
            with self.lock:
                self.counts.failed += 1
            raise
        with self.lock:
            self.usage += spent
        return texts[:n]

    def count(self, answers: int, parsed: int, marked: int) -> None:
        """Note what became of some answers."""
        with self.lock:
            self.counts.answers += answers
            self.counts.parsed += parsed
            self.counts.marked += marked
            self.counts.dropped += answers - parsed

    async def arelease(self) -> None:
        """Close what was opened in the running event loop."""
        with self.lock:
            self._doors.pop(asyncio.get_running_loop(), None)
        await self.client.arelease()


class Recent:
    """Values by question and whatever else, the least recently used dropped first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[tuple[str, Any], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, what: Any) -> Any:
        """Return what is kept, None where nothing is."""
        with self._lock:
            if (key, what) in self._kept:
                self._kept.move_to_end((key, what))
            return self._kept.get((key, what))

    def put(self, key: str, what: Any, value: Any) -> None:
        """Keep a value."""
        with self._lock:
            self._kept[key, what] = value
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def forget(self, key: str) -> None:
        """Drop all that is kept of a question."""
        with self._lock:
            for known in [known for known in self._kept if known[0] == key]:
                del self._kept[known]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()


def _completions(answer: Any) -> tuple[list[str], Usage]:
    """Return the texts of an answer and what they cost.

    Raises:
        ValueError: it is not of the protocol's form.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("it has no choices")
    return [_text(choice) for choice in choices], _spent(answer.get("usage"))


def _text(choice: Any) -> str:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("a choice has no message")
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        raise ValueError("the content of a choice is no text")
    return text or ""  # a refusal, or a judge that only thought


def _spent(usage: Any) -> Usage:
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = min(_count(details.get("cached_tokens")) if isinstance(details, dict) else 0, read)
    return Usage(reward_tokens=read - cached + written, cached_reward_tokens=cached)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


def _encodable(text: str) -> str:
    """Return a text without halves of characters, which no server takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
