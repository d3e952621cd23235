"""From the text of an answer to steps: where they end, what the model merely thought, and how likely they were."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._types import Candidate, FinishReason, Prefix, Question
from .._vote import extract_answer
from ._chat import Choice, spread

_THOUGHT = re.compile(r"<think>.*?</think>|^(?:(?!<think>).)*?</think>|<think>.*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Piece:
    """A step within a text: its words, where they stand, and whether a boundary follows."""

    text: str
    start: int
    stop: int
    closed: bool


class Boundary:
    r"""Where a step ends and how steps are joined.

    Args:
        separator: stands between steps, and after each.
        pattern: a regular expression that finds the boundary; None looks for the separator.
        tokens: every step has this many tokens; 0 where boundaries are in the text.

    Example:
        >>> [p.text for p in Boundary("\n").pieces("One.\n\n Two. \nThr")]
        ['One.', 'Two.', 'Thr']
    """

    def __init__(self, separator: str, pattern: str | None = None, tokens: int = 0) -> None:
        self.separator = separator
        self.tokens = tokens
        #: The text at which a server may stop.
        self.stop = separator if pattern is None and not tokens else None
        self._find: Callable[..., Any] = re.compile(re.escape(separator) if pattern is None else pattern).finditer

    def join(self, prefix: Prefix) -> str:
        """Return the steps as the model would have written them; empty where there are none."""
        if self.tokens:
            return "".join(prefix)
        return "".join(step + self.separator for step in prefix)

    def pieces(self, text: str) -> list[Piece]:
        """Return the steps of a text; those without words are left out."""
        found, start = [], 0
        for match in self._find(text):
            if words := text[start : match.start()].strip():
                found.append(Piece(words, start, match.end(), True))
            start = match.end()
        if words := text[start:].strip():
            found.append(Piece(words, start, len(text), False))
        return found


def without_echo(text: str, so_far: str) -> str:
    """Return a text without the steps so far, which some servers repeat before what they generated."""
    return text[len(so_far) :] if so_far and text.startswith(so_far) else text


def without_thoughts(text: str) -> tuple[str, str]:
    """Return a text without what stands between ``<think>`` and ``</think>``, and that.

    Example:
        >>> without_thoughts("<think>Hm.</think>Four.")
        ('Four.', 'Hm.')
    """
    if "think>" not in text:
        return text, ""
    thoughts = [m.removeprefix("<think>").removesuffix("</think>").strip() for m in _THOUGHT.findall(text)]
    return _THOUGHT.sub("", text), "\n".join(t for t in thoughts if t)


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes candidates of the choices of one request.

    Args:
        boundary: where a step ends.
        question: what is to be answered.
        so_far: the steps so far, as they were sent; empty where the model was not asked to continue them.
        whole: whether all further steps were asked for.
        one_step: whether the model was asked for one step and no more: then its end is not the trajectory's.
        keep_thoughts: whether thinking becomes part of whole trajectories.
    """

    boundary: Boundary
    question: Question
    so_far: str
    whole: bool
    one_step: bool
    keep_thoughts: bool

    def is_blank(self, choice: Choice) -> bool:
        """Whether a choice has no words, and the stop text may be why."""
        return choice.text is not None and choice.end in ("unclear", "separator") and not self.candidates(choice)

    def candidates(self, choice: Choice) -> tuple[Candidate, ...]:
        """Return the steps of a choice, none where it has no words."""
        if choice.text is None:
            return ()
        raw = without_echo(choice.text, self.so_far)
        text, thought = without_thoughts(raw)
        if self.whole:
            return self._trajectory(choice, raw, text, "\n".join(t for t in (choice.thought, thought) if t))
        if self.boundary.tokens:  # a step that ends anywhere keeps its blanks, or words would run together
            pieces = [Piece(text, 0, len(text), False)] if text.strip() else []
        else:
            pieces = self.boundary.pieces(text)
        if not pieces:
            return ()
        log_prob = _log_prob(choice, raw, text, pieces[0].start, pieces[0].stop)
        return (Candidate(pieces[0].text, log_prob, choice.tokens, self._reason(choice, pieces[0])),)

    def _trajectory(self, choice: Choice, raw: str, text: str, thought: str) -> tuple[Candidate, ...]:
        pieces = self.boundary.pieces(text)
        found = [(p.text, _log_prob(choice, raw, text, p.start, p.stop)) for p in pieces]
        if self.keep_thoughts and thought:
            found = [(p.text, 0.0) for p in self.boundary.pieces(thought)] + found
        if not found:
            return ()
        last: FinishReason = "length" if choice.end == "length" else "stop"
        reasons: list[FinishReason] = [*(["step"] * (len(found) - 1)), last]  # type: ignore[list-item]
        shares = spread(choice.tokens, [len(words) + 1 for words, _ in found])
        return tuple(
            Candidate(words, log_prob, tokens, reason)
            for (words, log_prob), tokens, reason in zip(found, shares, reasons, strict=True)
        )

    def _reason(self, choice: Choice, piece: Piece) -> FinishReason:
        if piece.closed or choice.end == "separator":
            return "step"
        if choice.end == "length":
            return "step" if self.boundary.tokens else "length"
        if choice.end == "end" and not self.one_step:
            return "stop"
        # The server does not say whether the stop text or the model ended it.
        return "stop" if extract_answer(piece.text, self.question.options) is not None else "step"


def _log_prob(choice: Choice, raw: str, text: str, start: int, stop: int) -> float:
    """Return the log-probability of the tokens that begin within [start, stop) of a text, 0 where unknown."""
    if choice.log_probs is None:
        return 0.0
    shift = raw.find(text) if text else 0  # thoughts before the text
    total, at = 0.0, -max(shift, 0)
    for token, log_prob in choice.log_probs:
        if start <= at < stop:
            total += log_prob
        at += len(token)
    return total
