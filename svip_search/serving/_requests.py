"""What a chat or completions request asks of a policy.

Requests are read from bytes into plain values here, without a server, so that they can be tested with any bytes.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from .._types import Prefix, Question
from ..models.prompt import question_text
from ._limits import Limits, Refusal, check_most, decode

MOST_STOPS = 16

#: Fields that change nothing here.
HARMLESS = frozenset((
    "user", "metadata", "store", "service_tier", "stream_options", "request_id", "priority", "safety_identifier",
    "prompt_cache_key", "cache_salt", "cache_prompt", "return_token_ids", "parallel_tool_calls", "add_special_tokens",
    "skip_special_tokens", "spaces_between_special_tokens",
))  # fmt: skip
#: Fields that would change the answer, with the values at which they do not; null never does.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "typical_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "bad_words": ([],),
    "stop_token_ids": ([],),
    "chat_template_kwargs": ({},),
}


class ImageUrl(msgspec.Struct):
    """Where a picture is."""

    url: str


class Part(msgspec.Struct):
    """A part of what a user says."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class Message(msgspec.Struct):
    """A message of a conversation."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Any] | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """What both kinds of requests say."""

    model: str | None = None
    n: int | None = None
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None


class Chat(Sampling, kw_only=True):
    """A chat request."""

    messages: list[Message]
    logprobs: bool | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class Completion(Sampling, kw_only=True):
    """A completions request."""

    prompt: str
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks, but for the pictures, which are still addresses.

    Args:
        text: of the question.
        images: addresses of pictures, each with the name of its field.
        prefix: the steps so far.
        n: how many choices.
        seed: of the draw.
        temperature: 0 is greedy.
        whole: whether whole trajectories are wanted, rather than steps.
        max_tokens: most tokens of a choice, None for as many as the policy gives.
        stops: texts before which a choice ends, but for the separator.
        keep_stop: whether what ended a choice is part of it.
        log_probs: whether they are wanted.
        form: which kind of answer.
    """

    text: str
    images: tuple[tuple[str, str], ...]
    prefix: Prefix
    n: int
    seed: int
    temperature: float
    whole: bool
    max_tokens: int | None
    stops: tuple[str, ...]
    keep_stop: bool
    log_probs: bool
    form: Literal["chat", "completion"]


S = TypeVar("S", bound=Sampling)


def read_chat(body: bytes, name: str, separator: str, limits: Limits) -> Asked:
    """Return what a chat request asks.

    Raises:
        Refusal: it cannot be answered.
    """
    chat = _read(body, Chat, name, limits)
    check_most(len(chat.messages), limits.messages, "entries", "messages")
    messages = list(chat.messages)
    so_far = _so_far(messages, chat)
    while messages and messages[0].role in ("system", "developer") and not _words(messages[0], "messages[0]").strip():
        messages.pop(0)
    if len(messages) != 1 or messages[0].role != "user":
        roles = ", ".join(message.role[:20] for message in chat.messages[:8])
        raise Refusal(
            400,
            "`messages` must be one message of the user with the question, then at most one of the assistant with the "
            f"steps so far; got roles {roles or 'of none'}.",
            "messages",
        )
    where = f"messages[{chat.messages.index(messages[0])}].content"
    text, images = _question(messages[0], where)
    check_most(len(images), limits.images, "pictures", "messages")
    return _asked(chat, text, images, _steps(so_far, separator, limits), bool(chat.logprobs), "chat", separator, limits)


def read_completion(body: bytes, name: str, separator: str, limits: Limits) -> Asked:
    """Return what a completions request asks: its prompt is the question.

    Raises:
        Refusal: it cannot be answered.
    """
    asked = _read(body, Completion, name, limits)
    # Zero is a number of alternatives here: the log-probabilities themselves are wanted.
    return _asked(asked, asked.prompt, (), (), asked.logprobs is not None, "completion", separator, limits)


def _read(body: bytes, kind: type[S], name: str, limits: Limits) -> S:
    """Return a request whose fields are all known."""
    fields = decode(body, dict[str, msgspec.Raw], limits)
    for field in fields.keys() - set(kind.__struct_fields__) - HARMLESS:
        value = msgspec.json.decode(fields[field])
        if value is not None and not any(_same(value, neutral) for neutral in NEUTRAL.get(field, ())):
            raise Refusal(400, f"`{field[:80]}` is not supported by this server.", field[:80])
    request = decode(body, kind, limits)
    if request.model not in (None, "", name):
        raise Refusal(404, f"The model {request.model[:80]!r} does not exist; this server has {name!r}.", "model")
    return request


def _same(value: Any, neutral: Any) -> bool:
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _so_far(messages: list[Message], chat: Chat) -> str:
    """Take the assistant's message from the end; return its words."""
    last = len(messages) - 1
    if messages and messages[-1].role == "assistant":
        if messages[-1].tool_calls:
            raise Refusal(400, "`tool_calls` are not supported by this server.", f"messages[{last}].tool_calls")
        if chat.continue_final_message is False and chat.add_generation_prompt:
            raise Refusal(400, "This server only continues a last message of the assistant.", "continue_final_message")
        return _words(messages.pop(), f"messages[{last}].content")
    if chat.continue_final_message:
        raise Refusal(400, "`continue_final_message` needs a last message of the assistant.", "continue_final_message")
    return ""


def _words(message: Message, where: str) -> str:
    """Return the words of a message without pictures."""
    if isinstance(message.content, list):
        text, images = _question(message, where)
        if images:
            raise Refusal(400, f"`{where}` must be text.", where)
        return text
    return message.content or ""


def _question(message: Message, where: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the words, and the addresses of the pictures, of a message."""
    if not isinstance(message.content, list):
        return message.content or "", ()
    texts, images = [], []
    for i, part in enumerate(message.content):
        here = f"{where}[{i}]"
        if part.type == "text" and part.text is not None:
            texts.append(part.text)
        elif part.type == "image_url" and part.image_url is not None:
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            images.append((url, f"{here}.image_url.url"))
        else:
            raise Refusal(400, f"`{here}` must be a text or an image_url; got type {part.type[:40]!r}.", here)
    return "\n".join(texts), tuple(images)


def _steps(so_far: str, separator: str, limits: Limits) -> Prefix:
    steps = so_far.removesuffix(separator).split(separator) if so_far else []
    check_most(len(steps), limits.steps, "steps in the last message", "messages")
    return tuple(steps)


def _asked(
    request: Sampling,
    text: str,
    images: tuple[tuple[str, str], ...],
    prefix: Prefix,
    log_probs: bool,
    form: Literal["chat", "completion"],
    separator: str,
    limits: Limits,
) -> Asked:
    """Check what both kinds of requests say."""
    # A prompt ends with one separator, which the policy adds; a client that has written it gets no second one.
    text = text.removesuffix("\n")
    if not text.strip():
        raise Refusal(400, "The question must have words.", "messages" if form == "chat" else "prompt")
    n = 1 if request.n is None else request.n
    if not 1 <= n <= limits.n:
        raise Refusal(400, f"`n` must be between 1 and {limits.n}; got {n}.", "n")
    temperature = 1.0 if request.temperature is None else request.temperature
    if not (math.isfinite(temperature) and 0 <= temperature <= 100):
        raise Refusal(400, f"`temperature` must be between 0 and 100; got {temperature}.", "temperature")
    seed = secrets.randbits(63) if request.seed is None else request.seed
    if not -(2**63) <= seed < 2**64:
        raise Refusal(400, f"`seed` must fit into 64 bits; got {str(seed)[:80]}.", "seed")
    stops = _stops(request.stop)
    return Asked(
        text=text,
        images=images,
        prefix=prefix,
        n=n,
        seed=seed % 2**64,
        temperature=temperature,
        whole=separator not in stops,
        max_tokens=_max_tokens(request),
        stops=tuple(stop for stop in stops if stop != separator),
        keep_stop=bool(request.include_stop_str_in_output),
        log_probs=log_probs,
        form=form,
    )


def take_apart(text: str) -> Question:
    r"""Return the question of which a text is the ``question_text``, with or without instructions.

    Example:
        >>> take_apart("What is missing?\nOptions: 1, 4").options
        ('1', '4')
        >>> take_apart("What is missing?\nOptions:  1, 4").options
        ()
    """
    lines = text.split("\n")
    for instructions in (1, 0):
        for with_options in (1, 0):
            head = lines[: max(len(lines) - instructions - with_options, 0)]
            options = lines[len(head)].removeprefix("Options: ").split(", ") if with_options and head else []
            try:
                question = Question("\n".join(head), options=options)
            except ValueError:
                continue
            if question_text(question, bool(instructions)) == text + "\n":
                return question
    return Question(text)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    check_most(len(stops), MOST_STOPS, "texts", "stop")
    if "" in stops:
        raise Refusal(400, "`stop` must hold non-empty texts.", "stop")
    return stops


def _max_tokens(request: Sampling) -> int | None:
    given: Mapping[str, int | None] = {
        "max_tokens": request.max_tokens,
        "max_completion_tokens": request.max_completion_tokens,
    }
    for name, value in given.items():
        if value is not None and value < 1:
            raise Refusal(400, f"`{name}` must be at least 1; got {value}.", name)
    return min((value for value in given.values() if value is not None), default=None)
