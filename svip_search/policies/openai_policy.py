"""A policy behind a server that speaks the chat completions protocol of OpenAI: vLLM, SGLang, llama.cpp, others.

::

    the question, with its pictures     one user turn
    the steps so far                    the beginning of the assistant's turn, which the model continues
    n candidates                        one request with ``n``; what is missing is asked for once more
    a candidate                         what was generated up to the stop text

Every server is asked in the way that it understands: the first that it does not refuse is kept to.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from .._budget import Usage
from .._errors import ImageError, PolicyError
from .._http import ServerModel, gathered, settings_of
from .._types import Candidate, ProposeRequest, Question
from ..models.prompt import STEP_SEPARATOR
from ._chat import Answer, Choice, Content, Mode, messages, read_answer, read_models, server_seed
from ._chat_pictures import Contents
from ._chat_steps import Boundary, Reader

Continuation = Literal["auto", "prefix", "assistant", "completions", "ask"]
Template = Callable[[Question, str], str]

#: Fields of a request that the policy decides on.
OWN_FIELDS = frozenset(
    {
        *("model", "messages", "prompt", "n", "seed", "temperature", "max_tokens", "max_completion_tokens", "stop"),
        *("stream", "logprobs", "echo", "continue_final_message", "add_generation_prompt"),
        "include_stop_str_in_output",
    }
)
_AUTO: tuple[Mode, ...] = ("prefix", "assistant", "ask")
_REFUSALS = frozenset((400, 422))


@dataclass(frozen=True, slots=True)
class _Call:
    """One request of a search, while it is answered."""

    request: ProposeRequest
    content: Content
    so_far: str
    key: str
    end: float  # by time.monotonic


class OpenAIPolicy(ServerModel):
    """A policy that asks a server with the chat completions protocol of OpenAI.

    Args:
        base_url: the address up to and with its version, such as ``http://127.0.0.1:8000/v1``; several are equal
            servers of the same model, of which one that fails is left alone until it is well again.
        model: its name there.
        api_key: sent as a bearer token.  It travels with a pickle of the policy; that of ``api_key_env`` does not.
        api_key_env: the environment variable that holds it.
        continuation: how the steps so far reach the model.  "prefix": as the beginning of the assistant's turn,
            with ``continue_final_message`` (vLLM, SGLang, recent llama.cpp); "assistant": the same without that
            field (llama.cpp); "completions": as a text that ``/completions`` continues; "ask": shown in the user's
            turn with the request to write the next step, which every server understands; "auto": the first of
            "prefix", "assistant" and "ask" that is not refused.
        template: for "completions", makes the text of a question and the steps so far; None is the words of the
            question followed by the steps.
        system: what the system's message says; None sends none.
        separator: text that ends a step; sent as the stop text.
        step_pattern: a regular expression that finds where a step ends, instead; not sent, what comes after it is
            cut off.  Steps are still joined by ``separator``.
        step_tokens: every step has this many tokens, instead.
        max_step_tokens: a step longer than this is cut off (finish reason ``"length"``).
        max_tokens: the same for a complete trajectory (`ProposeRequest.whole`).
        max_n: most candidates of one request to the server; 1 for one that ignores ``n``.  None sends what the
            search asks for, halved where the server refuses that many.
        log_probs: whether to ask for log-probabilities.
        max_images: most pictures of a question, frames of videos included; None has no limit.
        video: "frames" sends a video as pictures with their times, "error" refuses it.
        keep_reasoning: whether what a reasoning model thinks becomes steps of whole trajectories.  It is never part
            of a single step.
        extra_body: further fields of every request, such as ``{"top_p": 0.9}``.
        token_field: the field that limits the tokens; some servers want ``"max_completion_tokens"``.
        slots: most candidates in flight.
        timeout: seconds for a call, with all tries and waits.
        retries: how many more tries after a passing fault.
        max_bytes: largest accepted answer.

    Attributes:
        usage: what the server reports it has spent.
        notes: what was found out about the server, each thing said once.
        counters: how often something went not as asked: ``"refused"`` (text withheld), ``"blank"`` (no words),
            ``"fewer"`` (choices missing), ``"no usage"``, ``"no log-probabilities"``.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an argument is of another type.

    Notes:
        The seed that a server gets is a hash of the request's seed and prefix: the same request is the same draw as
        far as the server keeps to it.  Usable from several threads and from several event loops one after another.
        A pickle holds the settings alone.

    Example:
        >>> policy = OpenAIPolicy("http://127.0.0.1:9/v1", "some-model", timeout=1, retries=0)
        >>> policy.propose([ProposeRequest(Question("2 + 2?"), (), n=1, seed=0)])
        Traceback (most recent call last):
        ...
        svip_search._errors.PolicyError: ...
        >>> policy.close()
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        continuation: Continuation = "auto",
        template: Template | None = None,
        system: str | None = None,
        separator: str = STEP_SEPARATOR,
        step_pattern: str | None = None,
        step_tokens: int | None = None,
        max_step_tokens: int = 128,
        max_tokens: int = 1024,
        max_n: int | None = None,
        log_probs: bool = False,
        max_images: int | None = None,
        video: Literal["frames", "error"] = "frames",
        keep_reasoning: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        slots: int = 64,
        timeout: float = 120.0,
        retries: int = 3,
        max_bytes: int = 1 << 24,
    ) -> None:
        self._settings = settings_of(locals())
        _check_texts(model, system, separator, step_pattern)
        _check_counts(
            step_tokens=step_tokens,
            max_step_tokens=max_step_tokens,
            max_tokens=max_tokens,
            max_n=max_n,
            max_images=max_images,
            slots=slots,
        )
        _check_choice("continuation", continuation, get_args(Continuation))
        _check_choice("video", video, ("frames", "error"))
        _check_choice("token_field", token_field, ("max_tokens", "max_completion_tokens"))
        if step_pattern is not None and step_tokens is not None:
            raise ValueError("`step_pattern` and `step_tokens` exclude each other; got both.")
        if template is not None and (continuation != "completions" or not callable(template)):
            raise ValueError("`template` must be a function, and `continuation` be 'completions'.")
        self.model, self.system, self.template = model, system, template
        self.max_step_tokens = max_step_tokens if step_tokens is None else step_tokens
        self.max_tokens = max_tokens
        self.log_probs, self.keep_reasoning = log_probs, keep_reasoning
        self.extra_body = _checked_extra(extra_body)
        self.slots, self.separator = slots, separator
        self.usage = Usage()
        self.notes: list[str] = []
        self.counters: Counter[str] = Counter()
        self._boundary = Boundary(separator, step_pattern, step_tokens or 0)
        self._modes: tuple[Mode, ...] = _AUTO if continuation == "auto" else (continuation,)
        self._token_field = token_field
        self._refused_n = math.inf if max_n is None else max_n + 1
        self._accepted_n = 1
        self._lock = threading.Lock()
        self._contents = Contents(max_images, video)
        self._connect(PolicyError, "policy server")
        self.timeout = timeout

    # -- what a search calls ----------------------------------------------------------------------

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        """Return, for each request, up to ``n`` continuations of its prefix.

        A candidate without text is left out, as is one whose text the server withholds.

        Args:
            requests: any questions and prefixes.

        Returns:
            For each request its continuations in candidate order.  ``tokens`` are those generated for a
            candidate, also where they were cut off; an estimate where the server does not tell.

        Raises:
            ValueError: a request has a negative ``n`` or temperature.
            ImageError: a picture cannot be read, or there are more than the model takes.
            PolicyError: the server refuses, cannot be reached, or withholds every text.

        Notes:
            Cost: one request to the server for each of ``requests``, and further ones of one candidate where it
            gave fewer than it was asked for or where a candidate began with the separator.
        """
        for request in requests:
            if request.n < 0 or not 0.0 <= request.temperature < math.inf:
                raise ValueError(
                    f"`n` and `temperature` of a request must be >= 0; got {request.n} and {request.temperature}."
                )
        return await gathered(map(self._one, requests))

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        """Return what `apropose` returns, from any thread."""
        return self._client.run(self.apropose(requests))

    def forget(self, question: Question) -> None:
        """Drop the encoded pictures of a question, for example when its search has ended."""
        self._contents.forget(question)

    # -- what is served ---------------------------------------------------------------------------

    async def amodels(self) -> list[str]:
        """Return the names of the models that the server lists."""
        return await self._client.get("/models", read_models)

    def models(self) -> list[str]:
        """Return the names of the models that the server lists."""
        return self._client.run(self.amodels())

    async def acheck(self) -> None:
        """Do what `check` does."""
        names = await self.amodels()
        if self.model not in names:
            listed = ", ".join(map(repr, names)) or "none"
            raise PolicyError(
                f"`model` {self.model!r} is not served at {self._settings['base_url']!r}; served: {listed}."
            )

    def check(self) -> None:
        """Ask the server for its models.

        Raises:
            PolicyError: it cannot be asked, or does not list this model.  A server of one model, such as llama.cpp,
                may answer under any name all the same.
        """
        self._client.run(self.acheck())

    # -- one request ------------------------------------------------------------------------------

    async def _one(self, request: ProposeRequest) -> list[tuple[Candidate, ...]]:
        with self._lock:
            self.usage.policy_calls += 1
        if not request.n:
            return []
        end = time.monotonic() + self.timeout
        if request.question.images and self._modes[0] == "completions":
            raise ImageError("`continuation` 'completions' sends a text alone; the question has pictures.")
        key, content = await self._contents.message(request.question)
        call = _Call(request, content, self._boundary.join(request.prefix), key, end)
        # At temperature 0 all are the same, and some servers refuse to write it more than once.
        asked = request.n if request.temperature > 0 else 1
        found = await self._ask(call, 0, asked)
        await self._ask_for_the_rest(call, found, [i for i in range(asked) if i not in found])
        continuations = await self._continuations(call, [found[i] for i in sorted(found)])
        if request.temperature > 0:
            return continuations
        copies = [tuple(Candidate(c.text, c.log_prob, 0, c.finish_reason) for c in steps) for steps in continuations]
        return continuations + copies * (request.n - 1)

    async def _ask_for_the_rest(self, call: _Call, found: dict[int, Choice], missing: list[int]) -> None:
        """Ask once more for each candidate that the server left out, and make do with those that come."""
        if not missing:
            return
        self._count("fewer", len(missing), "the server gives fewer choices than `n`; `max_n=1` saves a round")
        for further in await gathered([self._ask(call, i, 1) for i in missing], keep=Exception):
            if isinstance(further, Exception):
                self._note(f"some of the missing choices did not come: {further}")
            else:
                found |= further

    async def _continuations(self, call: _Call, choices: list[Choice]) -> list[tuple[Candidate, ...]]:
        """Return the steps of the choices that have any."""
        reader = self._reader(call)
        if self._stop(call) is not None:
            await self._look_behind(call, choices, reader)
        refused = sum(c.text is None for c in choices)
        if refused:
            self._count("refused", refused, "the server withholds some texts")
        if refused == len(choices):
            raise PolicyError(f"The policy server withheld the text of all {refused} candidates.")
        steps = [reader.candidates(choice) for choice in choices]
        with self._lock:
            self.counters["blank"] += sum(not s for s in steps) - refused
        return [s for s in steps if s]

    async def _look_behind(self, call: _Call, choices: list[Choice], reader: Reader) -> None:
        """Ask again, without the stop text, for the choices that began with it."""
        blank = [i for i, choice in enumerate(choices) if reader.is_blank(choice)]
        if not blank:
            return
        self._note("some texts begin with `separator`; they are asked for again without a stop text")
        further = await gathered([self._ask(call, i, 1, again=1) for i in blank], keep=Exception)
        for i, found in zip(blank, further, strict=True):
            if not isinstance(found, BaseException):
                spent = choices[i].tokens
                choices[i] = found[i]
                choices[i].tokens += spent

    def _reader(self, call: _Call) -> Reader:
        request = call.request
        one_step = bool(request.prefix) and self._modes[0] == "ask" and not request.whole
        return Reader(self._boundary, request.question, call.so_far, request.whole, one_step, self.keep_reasoning)

    async def _ask(self, call: _Call, start: int, count: int, again: int = 0) -> dict[int, Choice]:
        """Return candidates [start, start + count), or some of them."""
        if count < self._refused_n:
            try:
                found = await self._post(call, start, count, again)
                self._accepted_n = max(self._accepted_n, count)
                return found
            except PolicyError as error:
                if not _is_refusal(error) or count <= self._accepted_n:
                    raise
        half = (count + 1) // 2
        parts: list[dict[int, Choice]] = await gathered(
            [self._ask(call, start, half, again), self._ask(call, start + half, count - half, again)]
        )
        if count < self._refused_n:
            self._refused_n = count
            self._note("the server refuses so large an `n`; it is asked for fewer at a time")
        return parts[0] | parts[1]

    async def _post(self, call: _Call, start: int, count: int, again: int) -> dict[int, Choice]:
        """Send one request in the first way that is not refused."""
        modes = self._modes
        for mode in modes:
            try:
                answer = await self._send(call, mode, start, count, again)
            except PolicyError as error:
                if mode == modes[-1] or not call.so_far or not _is_refusal(error):
                    raise
                continue
            if call.so_far and len(self._modes) > 1:
                self._modes = (mode,)
                self._note(f"the steps so far are sent by continuation {mode!r}")
            self._spend(answer)
            return dict(enumerate(answer.choices[:count], start))
        raise AssertionError("unreachable")

    async def _send(self, call: _Call, mode: Mode, start: int, count: int, again: int) -> Answer:
        left = call.end - time.monotonic()
        if left <= 0:
            raise PolicyError(f"The policy server did not give all candidates within {self.timeout:g} s.")
        stop = None if again else self._stop(call)
        body = self._body(call, mode) | {
            "n": count,
            "seed": server_seed(call.request.seed, call.request.prefix, start, again),
        }
        if stop is not None:
            body["stop"] = [stop]
        path = "/completions" if mode == "completions" else "/chat/completions"
        return await self._client.post(path, body, partial(read_answer, separator=stop), key=call.key, timeout=left)

    def _stop(self, call: _Call) -> str | None:
        """Return the text at which the server is told to stop."""
        return None if call.request.whole else self._boundary.stop

    def _body(self, call: _Call, mode: Mode) -> dict[str, Any]:
        request = call.request
        body = dict(self.extra_body)
        body |= {"model": self.model, "temperature": request.temperature}
        body[self._token_field] = self.max_tokens if request.whole else self.max_step_tokens
        if mode == "completions":
            body["prompt"] = self._prompt(call)
        else:
            body["messages"] = messages(mode, self.system, call.content, call.so_far, request.whole)
        if mode == "prefix" and call.so_far:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if self.log_probs:
            body["logprobs"] = 1 if mode == "completions" else True
        return body

    def _prompt(self, call: _Call) -> str:
        if self.template is not None:
            return self.template(call.request.question, call.so_far)
        system = "" if self.system is None else self.system + "\n"
        return f"{system}{call.content}\n{call.so_far}"

    # -- the ledger -------------------------------------------------------------------------------

    def _spend(self, answer: Answer) -> None:
        with self._lock:
            self.usage.prompt_tokens += answer.prompt_tokens or 0
            self.usage.cached_policy_tokens += answer.cached_tokens
            self.usage.policy_tokens += answer.completion_tokens or 0
        if answer.completion_tokens is None:
            self._count("no usage", 1, "the server does not report all tokens; those of candidates are estimated")
        elif answer.estimated:
            self._note("the server reports the tokens of the first choice alone; those of the others are estimated")
        if self.log_probs:
            lacking = sum(c.log_probs is None for c in answer.choices)
            if lacking:
                self._count("no log-probabilities", lacking, "the server gives no usable log-probabilities")

    def _count(self, what: str, times: int, note: str) -> None:
        with self._lock:
            self.counters[what] += times
        self._note(note)

    def _note(self, note: str) -> None:
        with self._lock:
            if note not in self.notes:
                self.notes.append(note)


def _is_refusal(error: PolicyError) -> bool:
    """Whether the server understood the request and will not have it in this form."""
    status = getattr(error.__cause__, "status", None)
    # llama.cpp answers so where its template cannot continue a message.
    return status in _REFUSALS or (status == 500 and "prefill" in str(error).lower())


def _check_texts(model: Any, system: Any, separator: Any, pattern: Any) -> None:
    for name, value in (("model", model), ("separator", separator)):
        if not isinstance(value, str) or not value:
            raise ValueError(f"`{name}` must be a non-empty text; got {value!r}.")
    if not (system is None or isinstance(system, str)):
        raise TypeError(f"`system` must be a text or None; got {type(system).__name__}.")
    if pattern is None:
        return
    try:
        empty = re.compile(pattern).fullmatch("")
    except (re.error, TypeError) as error:
        raise ValueError(f"`step_pattern` must be a regular expression; got {pattern!r} ({error}).") from None
    if empty:
        raise ValueError(f"`step_pattern` must not match the empty text; got {pattern!r}.")


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"`{name}` must be a whole number; got {value!r}.")
        if value < (0 if name == "max_images" else 1):
            raise ValueError(f"`{name}` must be >= {int(name != 'max_images')}; got {value}.")


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")


def _checked_extra(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    if extra is None:
        return {}
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        raise TypeError("`extra_body` must map names of fields to values.")
    if own := sorted(OWN_FIELDS & set(extra)):
        raise ValueError(f"`extra_body` must not set what the policy sets; got {own[0]!r}.")
    return dict(extra)
