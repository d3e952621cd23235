"""Candidates of a policy as the choices of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._types import Candidate
from ._requests import Asked

End = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of a choice: its text with what follows it, the log-probability and number of its tokens."""

    text: str
    log_prob: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Text:
    """A choice: its steps, and why it ends."""

    pieces: list[Piece]
    end: End
    stop: str | None

    @property
    def content(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def tokens(self) -> int:
        """Number of its tokens."""
        return sum(piece.tokens for piece in self.pieces)


def finish(steps: Sequence[Candidate], asked: Asked, separator: str) -> Text:
    r"""Return a choice of an answer: the steps in one text, cut as the request says.

    ::

        steps -> one text                      the separator between them
        cut before the first other stop text
        cut after max_tokens tokens            a step that is cut keeps its share of letters: of its tokens a
                                               policy tells no more than their number
    """
    last = len(steps) - 1
    pieces = [
        Piece(_encodable(step.text) + (separator if i < last else ""), step.log_prob, step.tokens)
        for i, step in enumerate(steps)
    ]
    end: End = "stop"
    stop: str | None = None
    if steps[-1].finish_reason == "length" or (asked.whole and steps[-1].finish_reason == "step"):
        end = "length"
    elif not asked.whole and steps[-1].finish_reason == "step":
        stop = separator
        if asked.keep_stop:
            pieces[-1] = Piece(pieces[-1].text + separator, pieces[-1].log_prob, pieces[-1].tokens)
    found = Text(pieces, end, stop)
    return _within(_before_stops(found, asked), asked.max_tokens)


def _before_stops(text: Text, asked: Asked) -> Text:
    """Cut before the first of the other stop texts."""
    content = text.content
    places = [(at, stop) for stop in asked.stops if (at := content.find(stop)) >= 0]
    if not places:
        return text
    at, stop = min(places)
    left = at + len(stop) * asked.keep_stop
    pieces = []
    for piece in text.pieces:
        if left <= 0:
            break
        pieces.append(Piece(piece.text[:left], piece.log_prob, piece.tokens))
        left -= len(piece.text)
    return Text(pieces, "stop", stop)


def _within(text: Text, most: int | None) -> Text:
    """Cut after a number of tokens."""
    if most is None or text.tokens <= most:
        return text
    pieces = []
    for piece in text.pieces:
        if piece.tokens > most:
            pieces.append(Piece(piece.text[: len(piece.text) * most // piece.tokens], piece.log_prob, most))
            break
        pieces.append(piece)
        most -= piece.tokens
    return Text(pieces, "length", None)


def _encodable(text: str) -> str:
    """Return a text that can be sent: halves of surrogate pairs cannot."""
    return text.encode("utf-8", "replace").decode()


def as_json(index: int, text: Text, asked: Asked) -> dict[str, Any]:
    """Return a choice as an answer has it."""
    choice: dict[str, Any] = {"index": index}
    if asked.form == "chat":
        choice["message"] = {"role": "assistant", "content": text.content}
    else:
        choice["text"] = text.content
    choice["logprobs"] = _log_probs(text, asked.form) if asked.log_probs else None
    return choice | {"finish_reason": text.end, "stop_reason": text.stop}


def _log_probs(text: Text, form: str) -> dict[str, Any]:
    """Return one entry a token, as clients count them.

    A policy tells the log-probability of a step, not of its tokens: the first entry of a step has its text and
    log-probability, the others are empty and certain.
    """
    entries: list[tuple[str, float]] = []
    for piece in text.pieces:
        entries += [(piece.text, min(piece.log_prob, 0.0))] + [("", 0.0)] * (piece.tokens - 1)
    if form == "completion":
        tokens, values = [token for token, _ in entries], [value for _, value in entries]
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": None}
    content: list[dict[str, Any]] = [
        {"token": token, "logprob": value, "bytes": None, "top_logprobs": []} for token, value in entries
    ]
    return {"content": content, "refusal": None}
