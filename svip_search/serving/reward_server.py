"""A server around any reward model of this library; `RemoteReward` is its client.

    GET  /v1/reward     what kind of model it is
    POST /v1/rewards    {"items": [{"question": {"text", "images", "options"}, "paths": [[step, ...], ...]}, ...]}
                     -> {"rewards": [[[[r, l, a], ...] or number or {"error": text}, ... a path], ... an item], "usage"}

Requests that come together go into one call of ``evaluate_many``, where the model has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import _calls
from .._aggregate import Scoring
from .._errors import ImageError
from .._types import DIMENSIONS, Prefix, Question, RewardModel
from .._video import Frame, Video
from ..rewards._remote_protocol import as_reward
from ._app import answer, body_of, make_app, unless_gone
from ._batcher import Batcher
from ._limits import Limits, Refusal, check_most, decode
from ._pictures import Pictures

logger = logging.getLogger("svip_search.serving")

Item = tuple[Question, Sequence[Prefix]]


class Sent(msgspec.Struct, forbid_unknown_fields=True):
    """A picture that came before, by its digest (`picture_digest`), or the frames of a video, with their times."""

    digest: str | None = None
    frames: list[str | Sent] | None = None
    seconds: list[float | None] | None = None


class SentQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """A question."""

    text: str
    images: list[str | Sent] = []
    options: list[str] = []


class SentItem(msgspec.Struct, forbid_unknown_fields=True):
    """A question with its paths."""

    question: SentQuestion
    paths: list[list[str]]


class SentItems(msgspec.Struct, forbid_unknown_fields=True):
    """A request."""

    items: list[SentItem]


def reward_app(
    reward: RewardModel,
    *,
    name: str = "reward",
    token: str | None = None,
    limits: Limits | None = None,
    batch: int = 256,
    causal: bool | None = None,
) -> Starlette:
    """Return an application that serves a reward model; `RemoteReward` is its client.

    Args:
        reward: any reward model of this library.
        name: of the model, for messages.
        token: that clients must send as a bearer token, for everything but ``/healthz``; None lets everybody in.
        limits: what a request may ask.
        batch: most paths of one call of the model.
        causal: whether the reward of a step depends on the steps up to it alone, so that clients may keep the rewards
            of beginnings of paths; default: the model's attribute of that name, else False.

    Raises:
        ValueError: an argument is out of range.

    Notes:
        Requests that come while the model works make up its next call: one of ``evaluate_many`` where the model
        has it, else one of ``evaluate`` for each question.  A path that fails has its error in its place.

    Example:
        >>> from svip_search.testing import HashReward
        >>> [route.path for route in reward_app(HashReward()).routes]
        ['/healthz', '/v1/reward', '/v1/rewards']
    """
    limits = limits or Limits()
    if not callable(getattr(reward, "evaluate", None)):
        raise ValueError(f"`reward` must have a method `evaluate`; got {type(reward).__name__}.")
    if reward.kind not in ("prm", "orm"):
        raise ValueError(f"`reward` must be of kind 'prm' or 'orm'; got {reward.kind!r}.")
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1; got {batch}.")
    causal = getattr(reward, "causal", False) is True if causal is None else causal
    server = _RewardServer(reward, name, limits, batch, causal)
    routes = [
        Route("/v1/reward", server.describe, methods=["GET"]),
        Route("/v1/rewards", server.rewards, methods=["POST"]),
    ]
    app = make_app(routes, token=token, limits=limits, closing=server.close)
    app.state.server = server
    return app


class _RewardServer:
    """The routes of a reward model."""

    def __init__(self, reward: RewardModel, name: str, limits: Limits, batch: int, causal: bool) -> None:
        self.reward, self.name, self.limits, self.batch, self.causal = reward, name, limits, batch, causal
        self.pictures = Pictures(limits)
        self._batcher: Batcher[list[Item]] | None = None

    @property
    def batcher(self) -> Batcher[list[Item]]:
        """What calls the model, in the event loop that serves now."""
        if self._batcher is None:
            several = callable(getattr(self.reward, "aevaluate_many", None))
            self._batcher = Batcher(self.reward, self._evaluate, self._aevaluate if several else None, self.batch)
        return self._batcher

    def _evaluate(self, requests: Sequence[list[Item]]) -> list[Any]:
        """Return the outcomes of several requests from one call."""
        return _parted(_calls.evaluate(self.reward, [item for request in requests for item in request]), requests)

    async def _aevaluate(self, requests: Sequence[list[Item]]) -> list[Any]:
        items = [item for request in requests for item in request]
        return _parted(await _calls.aevaluate(self.reward, items, None), requests)

    async def close(self) -> None:
        """End what was begun in this event loop."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await batcher.close()

    async def describe(self, request: Request) -> Response:
        """Say what kind of model this is."""
        scoring = getattr(self.reward, "scoring", None)
        return answer(
            {
                "object": "reward_model",
                "name": self.name,
                "kind": self.reward.kind,
                "dimensions": list(DIMENSIONS),
                "scoring": asdict(scoring) if isinstance(scoring, Scoring) else None,
                "causal": self.causal,
            }
        )

    async def rewards(self, request: Request) -> Response:
        """Answer a request for rewards."""
        body = await body_of(request, self.limits)
        # As for policies: a long body is read beside the event loop.
        items = await asyncio.to_thread(self._read, body) if len(body) > 4096 else self._read(body)
        del body
        count = sum(len(paths) for _, paths in items)
        outcomes, usage = await unless_gone(request, self.batcher.ask(items, count), self.limits)
        if isinstance(outcomes, BaseException):
            logger.warning("the reward model failed: %s: %s", type(outcomes).__name__, outcomes)
            raise Refusal(500, f"The reward model failed with {type(outcomes).__name__}.")
        rewards = [
            [self._encoded(value, path) for value, path in zip(values, paths, strict=True)]
            for values, (_, paths) in zip(outcomes, items, strict=True)
        ]
        counts = {
            "reward_calls": count,
            "reward_tokens": usage.reward_tokens,
            "cached_reward_tokens": usage.cached_reward_tokens,
        }
        return answer({"rewards": rewards, "usage": counts})

    def _encoded(self, value: Any, path: Prefix) -> Any:
        """Return the rewards of a path as numbers, or why there are none."""
        if isinstance(value, ImageError):
            return {"error": str(value)}
        if isinstance(value, BaseException):
            logger.warning("the reward model failed: %s: %s", type(value).__name__, value)
            return {"error": f"the reward model failed with {type(value).__name__}"}
        try:
            return as_reward(value, len(path), self.reward.kind).tolist()
        except ValueError as error:
            logger.warning("the reward model's answer cannot be used: %s", error)
            return {"error": f"the reward model's answer cannot be used: {error}"}

    # -- what comes in ----------------------------------------------------------------------------

    def _read(self, body: bytes) -> list[Item]:
        """Return the questions and paths of a request.

        Raises:
            Refusal: it cannot be answered.
        """
        sent = decode(body, SentItems, self.limits).items
        check_most(len(sent), self.limits.items, "entries", "items")
        check_most(sum(len(item.paths) for item in sent), self.limits.paths, "paths", "items")
        for i, item in enumerate(sent):
            longest = max(map(len, item.paths), default=0)
            check_most(longest, self.limits.steps, "steps a path", f"items[{i}].paths")
        pictures = self._pictures(sent)
        items: list[Item] = []
        for i, item in enumerate(sent):
            try:
                images = [_image(entry, pictures) for entry in item.question.images]
                question = Question(item.question.text, images, item.question.options)
            except ValueError as error:
                raise Refusal(400, str(error), f"items[{i}].question") from None
            items.append((question, [tuple(path) for path in item.paths]))
        return items

    def _pictures(self, items: Sequence[SentItem]) -> dict[str, Image.Image]:
        """Return the pictures of a whole request by their addresses and digests."""
        urls: dict[str, str] = {}
        found: dict[str, Image.Image] = {}
        for i, item in enumerate(items):
            where = f"items[{i}].question.images"
            sent = list(_flat(item.question.images, where))
            check_most(len(sent), self.limits.images, "pictures", where)
            for one in sent:
                if isinstance(one, str):
                    urls.setdefault(one, where)
                elif (image := self.pictures.recall(one.digest or "")) is not None:
                    found[one.digest or ""] = image
                else:
                    raise Refusal(409, "A picture is not known here (any more): send it in full.", where)
        return found | dict(zip(urls, self.pictures.load(list(urls.items())), strict=True))


def _flat(images: Sequence[str | Sent], where: str, within: bool = False) -> Iterator[str | Sent]:
    """Yield every picture, those of videos too."""
    for entry in images:
        if isinstance(entry, str):
            yield entry
        elif entry.frames is not None and entry.digest is None and not within:
            yield from _flat(entry.frames, where, within=True)
        elif entry.digest is not None and entry.frames is None:
            yield entry
        else:
            raise Refusal(400, f"`{where}` must hold addresses, digests, or frames that are one of these.", where)


def _image(entry: str | Sent, pictures: Mapping[str, Image.Image]) -> Any:
    """Return an entry of a question's ``images``: a picture or a video."""
    if isinstance(entry, str):
        return pictures[entry]
    if entry.frames is None:
        return pictures[entry.digest or ""]
    seconds = [None] * len(entry.frames) if entry.seconds is None else entry.seconds
    if len(seconds) != len(entry.frames):
        raise ValueError(f"`seconds` must be one a frame; got {len(seconds)} for {len(entry.frames)} frames.")
    shown = [Frame(_image(frame, pictures), at) for frame, at in zip(entry.frames, seconds, strict=True)]
    return Video(shown, frames=max(len(shown), 1))


def _parted(outcomes: list[Any], requests: Sequence[list[Item]]) -> list[list[Any]]:
    """Return the outcomes of items request by request."""
    found = iter(outcomes)
    return [[next(found) for _ in request] for request in requests]
