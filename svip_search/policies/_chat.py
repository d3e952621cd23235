"""What a chat or completions request says, and what is read out of the answer.

Nothing here talks to a server: requests are plain dictionaries, answers plain JSON values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from .._types import Prefix

#: How the steps so far reach the model.
Mode = Literal["prefix", "assistant", "completions", "ask"]
#: What ended a choice: a stop text, the model, the limit of tokens, or the server did not say which of the first two.
End = Literal["separator", "end", "length", "unclear"]
#: What a message says: a text, or parts of which the last is a text.
Content = str | list[dict[str, Any]]

ASK_STEP = "Write only the next step, on one line, without repeating any of these."
ASK_REST = "Write only the steps that are missing, one step per line, without repeating any of these."

_ENDS = frozenset(("eos", "eos_token", "end_turn", "end_of_text"))


@dataclass(slots=True)
class Choice:
    """One of the texts of an answer.

    Args:
        text: what was generated; None where the server withheld it.
        end: what ended it.
        thought: reasoning that the server keeps apart from the text.
        log_probs: each token with its log-probability, None where that is missing or no log-probability.
        tokens: how many were generated for it; 0 where unknown.
    """

    text: str | None
    end: End
    thought: str = ""
    log_probs: list[tuple[str, float]] | None = None
    tokens: int = 0


@dataclass(slots=True)
class Answer:
    """Choices in their order, with the token counts that the server reports (None where it does not)."""

    choices: list[Choice]
    prompt_tokens: int | None
    cached_tokens: int
    completion_tokens: int | None
    estimated: bool = False


# -- the request ----------------------------------------------------------------------------------


def server_seed(seed: int, prefix: Prefix, index: int, again: int = 0) -> int:
    """Return the 31-bit seed that a server gets for the candidates from ``index`` on.

    Example:
        >>> server_seed(7, (), 0) == server_seed(7, (), 0), server_seed(7, (), 0) == server_seed(7, ("a",), 0)
        (True, False)
    """
    digest = blake2b(f"{seed} {index} {again}".encode(), digest_size=4)
    for step in prefix:
        digest.update(b"\0" + step.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little") >> 1


def messages(mode: Mode, system: str | None, content: Content, so_far: str, whole: bool) -> list[dict[str, Any]]:
    """Return the conversation: the system's message, the user's, and where the mode says so the assistant's.

    Args:
        mode: how the steps so far are told.
        system: what the system's message says; None leaves it out.
        content: the question: a text, or parts of which the last is a text.
        so_far: the steps so far, as the model would have written them; empty at the beginning.
        whole: whether all further steps are asked for rather than one.
    """
    turns: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    if so_far and mode == "ask":
        content = _with_words(content, f"\nThe steps so far:\n{so_far.rstrip()}\n{ASK_REST if whole else ASK_STEP}")
    turns.append({"role": "user", "content": content})
    if so_far and mode != "ask":
        turns.append({"role": "assistant", "content": so_far})
    return turns


def _with_words(content: Content, words: str) -> Content:
    if isinstance(content, str):
        return content + words
    *pictures, text = content
    return [*pictures, {**text, "text": text["text"] + words}]


# -- the answer -----------------------------------------------------------------------------------


def read_answer(answer: Any, separator: str | None) -> Answer:
    """Return the choices of an answer to a chat or completions request.

    Args:
        answer: the parsed JSON.
        separator: the stop text that was sent, None where none was.

    Raises:
        ValueError: it is not an answer to such a request.
    """
    found = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(c, dict) for c in found):
        raise ValueError("no list of `choices`")
    if all(type(c.get("index")) is int for c in found):
        found = sorted(found, key=lambda c: int(c["index"]))
    choices = [_read_choice(choice, separator) for choice in found]
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    # llama.cpp, known by its timings, counts the tokens of the first choice only.
    first_only = "timings" in answer and len(choices) > 1
    completion = _count(usage.get("completion_tokens"))
    estimated = _give_tokens(choices, completion, first_only)
    if first_only and completion is not None:
        completion = sum(c.tokens for c in choices)
    return Answer(choices, _count(usage.get("prompt_tokens")), cached or 0, completion, estimated)


def read_models(answer: Any) -> list[str]:
    """Return the names of a list of models, other names of the same model included.

    Raises:
        ValueError: it is no such list.
    """
    found = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in found):
        raise ValueError("no list of models in `data`")
    names: dict[str, None] = {}
    for model in found:
        aliases = model.get("aliases")
        for name in [model["id"], *(aliases if isinstance(aliases, list) else [])]:
            names[str(name)] = None
    return list(names)


def _read_choice(choice: dict[str, Any], separator: str | None) -> Choice:
    message = choice.get("message", choice)
    if not isinstance(message, dict) or ("content" not in message and "text" not in message):
        raise ValueError("a choice has neither `message.content` nor `text`")
    text = message.get("content", message.get("text"))
    if isinstance(text, list):  # parts, of which some servers make a message
        text = "".join(str(part.get("text", "")) for part in text if isinstance(part, dict))
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the text of a choice is a {type(text).__name__}")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if choice.get("finish_reason") == "content_filter" or (text is None and not thought):
        text = None
    elif text is None:  # all that was generated was thinking
        text = ""
    return Choice(
        text,
        _read_end(choice, separator),
        thought if isinstance(thought, str) else "",
        _read_log_probs(choice.get("logprobs")),
    )


def _read_end(choice: dict[str, Any], separator: str | None) -> End:
    reason = choice.get("finish_reason")
    if reason == "length":
        return "length"
    if separator is None or (isinstance(reason, str) and reason in _ENDS):
        return "end"  # nothing else could have stopped it
    for field in ("stop_reason", "matched_stop"):  # of vLLM and of SGLang
        if field in choice:
            matched = choice[field]
            # A stop text, else a token or nothing: the model ended by itself.
            if isinstance(matched, str):
                return "separator" if separator in matched or matched in separator else "end"
            if field == "stop_reason" or matched is not None:
                return "end"
    return "unclear"


def _read_log_probs(found: Any) -> list[tuple[str, float]] | None:
    """Return tokens and log-probabilities in the form of chats or in the older one of completions."""
    if not isinstance(found, dict):
        return None
    entries = found.get("content")
    if isinstance(entries, list):
        pairs: list[tuple[Any, Any]] = [
            (e.get("token"), e.get("logprob")) if isinstance(e, dict) else (None, None) for e in entries
        ]
    elif isinstance(found.get("tokens"), list) and isinstance(found.get("token_logprobs"), list):
        pairs = list(zip(found["tokens"], found["token_logprobs"], strict=False))
    else:
        return None
    if not pairs or not all(isinstance(token, str) and _is_log_prob(p) for token, p in pairs):
        return None
    return [(token, min(float(p), 0.0)) for token, p in pairs]


def _is_log_prob(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and -math.inf < value <= 1e-6  # rounding may lift a certain token above 0


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _give_tokens(choices: list[Choice], total: int | None, first_only: bool) -> bool:
    """Give each choice its number of tokens; return whether that is an estimate by length."""
    if all(c.log_probs is not None for c in choices):
        for c in choices:
            c.tokens = len(c.log_probs or ())
        return False
    sizes = [len(c.text or "") + len(c.thought) for c in choices]
    if total is None:
        for c, size in zip(choices, sizes, strict=True):
            c.tokens = max(1, size // 4)
        return True
    if first_only:
        for c, size in zip(choices, sizes, strict=True):
            c.tokens = max(1, round(total * (size + 1) / (sizes[0] + 1)))
        choices[0].tokens = total
        return True
    for c, tokens in zip(choices, spread(total, [size + 1 for size in sizes]), strict=True):
        c.tokens = tokens
    return False


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number in proportion to the weights, so that the parts add up.

    Example:
        >>> spread(10, [1, 1, 2])
        [2, 3, 5]
    """
    whole, position, parts = sum(weights), 0, []
    for weight in weights:
        parts.append(total * (position + weight) // whole - total * position // whole)
        position += weight
    return parts
