"""From finished steps to an answer: what a trajectory answers, and what many of them answer together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, get_args

from ._types import Trajectory, Vote

Select = Literal["max", "majority", "weighted", "last"]

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# Possessive, or neighbouring optional blanks would backtrack quadratically.
_STATED = re.compile(
    r"\banswers?\b[ \t]*+(?:\([^()\n]*\))?[ \t*_`]*+(?::|=|\bis\b)[ \t:*_`]*+((?:[^\n.]|\.(?=\S))+)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"^(?:option|choice)?\s*\(?([A-Za-z])(?:\)|[.:](?!\w)|$)", re.IGNORECASE)
_NOISE = re.compile(r"[^\w.+\-/%<>= ]+")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)


def normalise(answer: str) -> str:
    """Return the form in which answers are compared: case, punctuation and number format removed.

    Example:
        >>> normalise(" **Blue**. "), normalise("4.0"), normalise("1,250")
        ('blue', '4', '1250')
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer)
    text = " ".join(_NOISE.sub(" ", text).split()).casefold().strip(" .")
    if _NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return f"{value:.12g}" if value else "0"
    return text


def match_option(answer: str, options: Sequence[str]) -> str | None:
    """Return the one option that ``answer`` names, by its text, its number or its letter; else None.

    Text comes before letters: among the options "B" and "A", the answer "A" is the second one.

    Example:
        >>> match_option("(b) Red.", ["blue", "red"]), match_option("4.0", ["3", "4"])
        ('red', '4')
    """
    wanted = normalise(answer)
    forms = [normalise(o) for o in options]
    if forms.count(wanted) == 1:
        return options[forms.index(wanted)]
    letter = _LETTER.match(answer.strip().strip("*_`$ "))
    if letter is None:
        return None
    index = ord(letter[1].upper()) - ord("A")
    rest = normalise(answer.strip().strip("*_`$ ")[letter.end() :])
    if index >= len(options) or (rest in forms and rest != forms[index]):
        return None
    return options[index]


def extract_answer(text: str, options: Sequence[str] = ()) -> str | None:
    r"""Return the answer that ``text`` states last, or None.

    Stated means ``Answer: X``, ``the answer is X`` or ``\boxed{X}``, in any case.

    Args:
        text: one step or many, one a line.
        options: if given, only an answer that matches one of them counts, and that option is returned.

    Example:
        >>> extract_answer("So the answer is 4.0.", ["3", "4"])
        '4'
        >>> extract_answer("Answer: (A)", ["red", "blue"])
        'red'
        >>> extract_answer("I cannot tell.") is None
        True
    """
    lowered = text.lower()
    if "answer" not in lowered and "boxed" not in lowered:
        return None
    found = [*_STATED.finditer(text), *_BOXED.finditer(text)]
    for match in sorted(found, key=lambda m: m.end(), reverse=True):
        stated = match[1].strip().strip("*_`$").strip()
        boxed = _BOXED.search(stated)
        stated = boxed[1].strip() if boxed else stated.rstrip(".")
        if options:
            option = match_option(stated, options)
            if option is not None:
                return option
        elif stated:
            return stated
    return None


def select_answer(
    trajectories: Sequence[Trajectory],
    how: Select = "max",
    weights: Sequence[float] | None = None,
) -> tuple[str | None, tuple[Vote, ...]]:
    """Return the answer that the trajectories give together, and all votes, the winner first.

    ::

        max       the answer of the best-scored trajectory
        majority  the answer of most trajectories
        weighted  the answer with the largest sum of weights
        last      the answer of the last trajectory

    Trajectories without an answer do not vote.  Where no trajectory has a score, all weigh 1, and
    "max" becomes a majority.

    Args:
        trajectories: in the order they were finished.
        how: the rule.
        weights: one for each trajectory; None takes the scores.  NaN and negative weights count as 0.

    Returns:
        The answer (None where nobody voted) and one `Vote` for each distinct answer: how many, and
        their summed weight.  Ties go to the larger weight, then to the earlier trajectory.

    Example:
        >>> say = lambda a, s: Trajectory((), a, s, 0)
        >>> select_answer([say("A", 0.9), say("B", 0.5), say("b", 0.6)], "weighted")
        ('B', (Vote(answer='B', votes=2, weight=1.1), Vote(answer='A', votes=1, weight=0.9)))
        >>> select_answer([say("A", 0.9), say("B", 0.5), say("B", 0.6)], "max")[0]
        'A'
    """
    if how not in get_args(Select):
        raise ValueError(f"`how` must be one of {', '.join(get_args(Select))}; got {how!r}.")
    raw = [t.score for t in trajectories] if weights is None else list(weights)
    if len(raw) != len(trajectories):
        raise ValueError(f"`weights` must have length {len(trajectories)}; got {len(raw)}.")
    scored = any(not math.isnan(w) for w in raw)
    tally: dict[str, _Tally] = {}
    for i, (trajectory, weight) in enumerate(zip(trajectories, raw, strict=True)):
        if trajectory.answer is not None:
            key = normalise(trajectory.answer) or trajectory.answer
            entry = tally.setdefault(key, _Tally(trajectory.answer))
            entry.add(i, weight if scored else 1.0, trajectory.score)
    if how == "max" and not scored:
        how = "majority"
    # `sorted` is stable and the tally is in order of first appearance: ties go to the earlier one.
    ranked = sorted(tally.values(), key=lambda e: e.key(how), reverse=True)
    return (ranked[0].answer if ranked else None), tuple(Vote(e.answer, e.votes, e.weight) for e in ranked)


class _Tally:
    """What one answer has gathered."""

    __slots__ = ("answer", "best", "last", "votes", "weight")

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.votes = 0
        self.weight = 0.0
        self.best = (-math.inf, 0)  # score, and minus the index of the first trajectory that has it
        self.last = -1

    def add(self, index: int, weight: float, score: float) -> None:
        self.votes += 1
        self.last = index
        self.weight += weight if weight > 0 else 0.0
        if not math.isnan(score):
            self.best = max(self.best, (score, -index))

    def key(self, how: Select) -> tuple[float, float]:
        if how == "majority":
            return self.votes, self.weight
        if how == "weighted":
            return self.weight, 0.0
        return self.best if how == "max" else (self.last, 0.0)
