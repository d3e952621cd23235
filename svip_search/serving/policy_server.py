"""A server that speaks OpenAI's protocol, around any policy of this library.

::

user's texts                    -> Question.text      (its pictures -> Question.images)
last message of the assistant   -> the steps so far
stop holds the separator        -> one step a choice, else whole trajectories
requests that come together     -> one call of `propose`
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .. import _calls
from .._budget import Usage
from .._errors import ImageError
from .._types import Policy, ProposeRequest, Question
from ..strategies._door import check_continuations
from ._app import answer, body_of, make_app, unless_gone
from ._batcher import Batcher
from ._choices import Text, as_json, finish
from ._limits import Limits, Refusal
from ._pictures import Pictures
from ._requests import Asked, read_chat, read_completion, take_apart

logger = logging.getLogger("svip_search.serving")

Read = Callable[[bytes, str, str, Limits], Asked]


def policy_app(
    policy: Policy,
    *,
    name: str = "policy",
    token: str | None = None,
    limits: Limits | None = None,
    batch: int = 256,
    separator: str | None = None,
) -> Starlette:
    r"""Return an application that serves a policy: chat completions, completions, models, health.

    Args:
        policy: any policy of this library.
        name: of the model; a request that names another is refused.
        token: that clients must send as a bearer token, for everything but ``/healthz``; None lets everybody in.
        limits: what a request may ask.
        batch: most candidates of one call of the policy.
        separator: text that ends a step; default: the policy's own, else ``"\n"``.

    Raises:
        ValueError: an argument is out of range.

    Notes:
        A question in the words of ``question_text``, as `OpenAIPolicy` writes it, is taken apart into what it was
        made of, so that the policy's prompt is byte for byte what it is for the same question here: options are
        options, and instructions are there once, or not at all for a model that wants none.  Any other text is
        the question as it is.  With the same seed, and all candidates asked for in one request, so are the draws.

        Requests that come while the policy works make up its next call; a policy with ``apropose`` is called
        for each of them at once.

    Example:
        >>> from svip_search.testing import HashPolicy
        >>> [route.path for route in policy_app(HashPolicy()).routes]
        ['/healthz', '/v1/models', '/v1/chat/completions', '/v1/completions']
    """
    limits = limits or Limits()
    if not callable(getattr(policy, "propose", None)):
        raise ValueError(f"`policy` must have a method `propose`; got {type(policy).__name__}.")
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1; got {batch}.")
    separator = getattr(policy, "separator", "\n") if separator is None else separator
    if not separator:
        raise ValueError("`separator` must be a non-empty text; got ''.")
    server = _PolicyServer(policy, name, separator, limits, batch)
    routes = [
        Route("/v1/models", server.models, methods=["GET"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.completion, methods=["POST"]),
    ]
    app = make_app(routes, token=token, limits=limits, closing=server.close)
    app.state.server = server
    return app


class _PolicyServer:
    """The routes of a policy."""

    def __init__(self, policy: Policy, name: str, separator: str, limits: Limits, batch: int) -> None:
        self.policy, self.name, self.separator, self.limits, self.batch = policy, name, separator, limits, batch
        self.pictures = Pictures(limits)
        self.started = int(time.time())
        self._batcher: Batcher[ProposeRequest] | None = None
        # In a text it would stand for a picture that is not there.
        self._image_token: str | None = getattr(getattr(policy, "processor", None), "image_token", None)

    @property
    def batcher(self) -> Batcher[ProposeRequest]:
        """What calls the policy, in the event loop that serves now."""
        if self._batcher is None:
            several = callable(getattr(self.policy, "apropose", None))
            acall = (lambda asked: _calls.apropose(self.policy, asked, None)) if several else None
            self._batcher = Batcher(self.policy, lambda asked: _calls.propose(self.policy, asked), acall, self.batch)
        return self._batcher

    async def close(self) -> None:
        """End what was begun in this event loop."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await batcher.close()

    async def models(self, request: Request) -> Response:
        """List the one model."""
        model = {"id": self.name, "object": "model", "created": self.started, "owned_by": "svip-search"}
        return answer({"object": "list", "data": [model]})

    async def chat(self, request: Request) -> Response:
        """Answer a chat request."""
        return await self._complete(request, read_chat)

    async def completion(self, request: Request) -> Response:
        """Answer a completions request."""
        return await self._complete(request, read_completion)

    async def _complete(self, request: Request, read: Read) -> Response:
        body = await body_of(request, self.limits)
        # A long body holds pictures: reading and decoding them would keep everybody waiting.
        if len(body) > 4096:
            asked, question = await asyncio.to_thread(self._question, body, read)
        else:
            asked, question = self._question(body, read)
        del body
        wanted = ProposeRequest(question, asked.prefix, asked.n, asked.seed, asked.temperature, asked.whole)
        outcome, usage = await unless_gone(request, self.batcher.ask(wanted, asked.n), self.limits)
        return answer(self._answer(asked, outcome, usage))

    def _question(self, body: bytes, read: Read) -> tuple[Asked, Question]:
        asked = read(body, self.name, self.separator, self.limits)
        if self._image_token and self._image_token in asked.text + "".join(asked.prefix):
            raise Refusal(400, f"A text must not hold {self._image_token!r}, which stands for a picture.", "messages")
        question = take_apart(asked.text)
        return asked, Question(question.text, self.pictures.load(asked.images), question.options)

    def _answer(self, asked: Asked, outcome: Any, usage: Usage) -> dict[str, Any]:
        if isinstance(outcome, ImageError):
            raise Refusal(400, str(outcome), "messages")
        if isinstance(outcome, BaseException):
            logger.warning("the policy failed: %s: %s", type(outcome).__name__, outcome)
            raise Refusal(500, f"The policy failed with {type(outcome).__name__}.")
        continuations, _, complaints = check_continuations(outcome, asked.n)
        if complaints:
            logger.info("the policy: %s", "; ".join(complaints))
        texts = [finish(steps, asked, self.separator) for steps in continuations]
        # A candidate that the policy left out had no words: the model ended at once.
        texts += [Text([], "stop", None)] * (asked.n - len(texts))
        chat = asked.form == "chat"
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [as_json(i, text, asked) for i, text in enumerate(texts)],
            "usage": _usage(sum(text.tokens for text in texts), usage),
        }


def _usage(tokens: int, usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": usage.prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": min(usage.cached_policy_tokens, usage.prompt_tokens)},
    }
