"""Models that continue a text: behind an OpenAI-compatible server, or loaded with transformers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .._errors import PolicyError, SvipSearchError
from .._http import HttpClient, data_url

if TYPE_CHECKING:
    from torch import Tensor

#: ``{"role": "system" | "user" | "assistant", "content": text}``.
Message = Mapping[str, str]
#: A text to continue, or a conversation to answer.
Prompt = str | Sequence[Message]


@runtime_checkable
class TextModel(Protocol):
    """A model that continues a text or answers a conversation."""

    def complete(
        self,
        prompt: Prompt,
        n: int,
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        images: Sequence[Any] = (),
    ) -> list[str]:
        """Return up to ``n`` completions.

        Args:
            prompt: a text, or messages of which the last is the user's.
            n: how many, >= 0.
            temperature: 0 is greedy.
            max_tokens: longest completion, >= 1.
            stop: a completion ends before the first of these.
            seed: the same arguments give the same completions, as far as the model keeps to it.
            images: pictures that the last message is about, as in ``Question.images``.

        Raises:
            ValueError: an argument is out of range.
            PolicyError: the model failed.
        """
        ...


class OpenAITextModel:
    """A model behind a server that speaks the chat completions or completions protocol of OpenAI.

    Args:
        base_url: the address up to and with its version, such as ``http://127.0.0.1:8080/v1``; several
            addresses are equal servers.
        model: its name there.
        api_key: sent as a bearer token; None sends none.
        timeout: seconds for a call of :meth:`complete`, with all tries and waits.
        retries: how many more tries after a passing fault: an error status 408, 425, 429 or 5xx, a broken
            connection, an answer that is not what the protocol says.  ``Retry-After`` is kept to.
        max_bytes: largest accepted answer, after decompression.

    Raises:
        ValueError: an argument is out of range.
        ImportError: aiohttp is not installed.

    Notes:
        A server that gives fewer choices than it was asked for is asked again for the rest, with
        another seed.  Threads may share one object.  Connections are kept for the next request.

    Example:
        >>> model = OpenAITextModel("http://127.0.0.1:9/v1", "some-model", timeout=1, retries=0)
        >>> model.complete("def add(a, b):", 1)
        Traceback (most recent call last):
        ...
        svip_search._errors.PolicyError: The model server at 127.0.0.1:9 cannot be talked to ...
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        max_bytes: int = 1 << 24,
    ) -> None:
        if not model:
            raise ValueError("`model` must name a model; got ''.")
        self.model = model
        self._client = HttpClient(base_url, api_key=api_key, timeout=timeout, retries=retries, max_bytes=max_bytes)

    def complete(
        self,
        prompt: Prompt,
        n: int,
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        images: Sequence[Any] = (),
    ) -> list[str]:
        """Return ``n`` completions; see :class:`TextModel`."""
        _check(prompt, n, temperature, max_tokens, stop, images)
        chat = not isinstance(prompt, str)
        body: dict[str, Any] = {"model": self.model, "temperature": temperature, "max_tokens": max_tokens}
        body |= {"messages": _with_images(prompt, images)} if chat else {"prompt": prompt}
        if stop:
            body["stop"] = list(stop)
        path = "/chat/completions" if chat else "/completions"
        return self._client.run(self._ask(path, body, n, seed)) if n else []

    async def _ask(self, path: str, body: dict[str, Any], n: int, seed: int) -> list[str]:
        """Return the texts of as many requests as it takes, all before one deadline."""
        texts: list[str] = []
        end = time.monotonic() + self._client.timeout
        while len(texts) < n:
            rest = {"n": n - len(texts), "seed": (seed + len(texts)) % (1 << 31)}
            texts += await self._client.post(path, body | rest, _choices, timeout=end - time.monotonic())
        return texts[:n]

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._client.close()


def _check(
    prompt: Prompt, n: int, temperature: float, max_tokens: int, stop: Sequence[str], images: Sequence[Any]
) -> None:
    if not prompt:
        raise ValueError("`prompt` must not be empty.")
    if n < 0 or max_tokens < 1:
        raise ValueError(f"`n` must be >= 0 and `max_tokens` >= 1; got {n} and {max_tokens}.")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"`temperature` must be >= 0 and finite; got {temperature}.")
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"`stop` must be a list of non-empty texts; got {stop!r}.")
    if images and isinstance(prompt, str):
        raise ValueError("`images` need a `prompt` of messages; got a text.")


def _choices(answer: Any) -> list[str]:
    """Return the texts of an answer.

    Raises:
        ValueError: it is not of the protocol's form.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("it has no choices")
    return [_text(choice) for choice in choices]


def _text(choice: Any) -> str:
    if not isinstance(choice, dict):
        raise ValueError("a choice is no object")
    message = choice.get("message")
    holder, key = (message, "content") if isinstance(message, dict) else (choice, "text")
    if key not in holder:
        raise ValueError(f"a choice has no {key}")
    text = holder[key]
    if text is None:  # a refusal, or a model that only thought
        return ""
    if not isinstance(text, str):
        raise ValueError(f"the {key} of a choice is no text")
    return text


def _with_images(messages: Prompt, images: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the messages, the last one with the pictures in front of its text."""
    found: list[dict[str, Any]] = [dict(m) for m in messages if not isinstance(m, str)]
    if images:
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_url(i)}} for i in images]
        found[-1]["content"] = [*parts, {"type": "text", "text": found[-1]["content"]}]
    return found


class TransformersTextModel:
    """A causal language model of transformers, with or without eyes.

    Args:
        model: a model with ``generate``; it is used where it is, as it is.
        processor: its tokenizer, or its processor if it takes pictures.  Conversations need one with a chat
            template; without it they are written as ``role: content``.

    Notes:
        Deterministic for a fixed seed on one device; the global random state is left as it was.

    Example:
        >>> TransformersTextModel(object(), None)
        Traceback (most recent call last):
        ...
        ValueError: `model` must have a method `generate`; got object.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        if not callable(getattr(model, "generate", None)):
            raise ValueError(f"`model` must have a method `generate`; got {type(model).__name__}.")
        if not callable(processor):
            raise ValueError(f"`processor` must be a tokenizer or processor; got {type(processor).__name__}.")
        self.model, self.processor = model, processor
        self.tokenizer = getattr(processor, "tokenizer", processor)

    def complete(
        self,
        prompt: Prompt,
        n: int,
        *,
        temperature: float = 1.0,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        images: Sequence[Any] = (),
    ) -> list[str]:
        """Return ``n`` completions; see :class:`TextModel`."""
        _check(prompt, n, temperature, max_tokens, stop, images)
        if images and getattr(self.processor, "image_processor", None) is None:
            raise ValueError(f"`images` need a processor that takes pictures; got {type(self.processor).__name__}.")
        if n == 0:
            return []
        try:
            inputs = self._inputs(prompt, images)
            size = inputs["input_ids"].shape[1]
            self._check_room(size, max_tokens)
            rows = self._generate(inputs, n, temperature, max_tokens, stop, seed)[:, size:]
            texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        except SvipSearchError:
            raise
        except Exception as error:
            name = type(self.model).__name__
            raise PolicyError(f"The text model {name} raised {type(error).__name__}: {error}") from error
        return [_cut(text, stop) for text in texts]

    def _inputs(self, prompt: Prompt, images: Sequence[Any]) -> Any:
        """Return the tokens of a prompt, and its pictures, on the model's device."""
        from .._images import open_image

        pictures = {"images": [open_image(i) for i in images]} if images else {}
        text = prompt if isinstance(prompt, str) else self._template(prompt, len(images))
        return self.processor(text=[text], return_tensors="pt", **pictures).to(self.model.device)

    def _template(self, messages: Sequence[Message], images: int) -> str:
        if getattr(self.processor, "chat_template", None) is None:
            pictures = str(getattr(self.processor, "image_token", "<image>")) * images
            return pictures + "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"
        turns: list[dict[str, Any]] = [dict(m) for m in messages]
        if images:
            turns[-1]["content"] = [{"type": "image"}] * images + [{"type": "text", "text": turns[-1]["content"]}]
        return str(self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def _check_room(self, size: int, max_tokens: int) -> None:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and size + max_tokens > room:
            raise PolicyError(
                f"The text model has room for {room} tokens; the prompt has {size} and `max_tokens` is {max_tokens}."
            )

    def _generate(
        self, inputs: Any, n: int, temperature: float, max_tokens: int, stop: Sequence[str], seed: int
    ) -> Tensor:
        """Return token ids [n, prompt + new]."""
        import torch

        options: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            # top_k and top_p of a model's own configuration would sample from another distribution.
            options = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if stop:
            options |= {"stop_strings": list(stop), "tokenizer": self.tokenizer}
        if self.tokenizer.pad_token_id is None:
            options["pad_token_id"] = self.tokenizer.eos_token_id
        copies = n if temperature > 0 else 1  # greedy completions are all the same
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode():
            torch.manual_seed(seed)
            rows: Tensor = self.model.generate(
                **inputs, num_return_sequences=copies, max_new_tokens=max_tokens, **options
            )
        return rows.expand(n, -1) if copies < n else rows


def _cut(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(ends, default=len(text))]
