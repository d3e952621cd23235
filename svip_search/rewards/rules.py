"""Rules that an answer or a step may be rewarded by, see `RuleReward`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._errors import RewardError
from .._types import Prefix, Question
from .._vote import extract_answer, match_option, normalise

Target = Literal["answer", "text"]
Embed = Callable[[Sequence[str]], Any]


@dataclass(frozen=True, slots=True)
class Passage:
    """What a rule is asked about.

    Args:
        question: without its answer.
        steps: the whole path, or one step.
        answer: what they state as the answer, None where they state none.
        reference: what to compare with, None where the rule needs nothing.
    """

    question: Question
    steps: Prefix
    answer: str | None
    reference: str | None = None

    @property
    def text(self) -> str:
        """The steps, one a line."""
        return "\n".join(self.steps)


@dataclass(frozen=True)
class Rule:
    """A rule: a number in [0, 1] for a path or a step.

    Args:
        name: for messages.
        check: gives the number.
        target: ``"answer"`` where it is about the stated answer (``passage.answer`` is a text then), ``"text"``
            where it is about the words of the steps.
        needs_reference: whether it reads ``passage.reference`` (a text then).

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> polite = Rule("polite", lambda passage: float("please" in passage.text), target="text")
        >>> RuleReward(polite).evaluate(Question("Which?"), [("please wait",), ("wait",)])
        [array(1., dtype=float32), array(0., dtype=float32)]
    """

    name: str
    check: Callable[[Passage], float]
    target: Target = "answer"
    needs_reference: bool = False

    def scores(self, passages: Sequence[Passage]) -> Sequence[float]:
        """Return the number of each of several passages."""
        return [self.check(passage) for passage in passages]


def stated_answer(question: Question, steps: Sequence[str]) -> str | None:
    """Return the answer that some steps state last; a last step that is a bare option states it too.

    Example:
        >>> stated_answer(Question("Which?", options=["red", "blue"]), ("look", "Answer: (b)"))
        'blue'
    """
    found = extract_answer("\n".join(steps), question.options)
    if found is None and question.options and steps:
        found = match_option(steps[-1], question.options)
    return found


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of the choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")


def states_answer() -> Rule:
    """Return the rule that an answer is stated: one of the options, where there are any.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> RuleReward(states_answer()).evaluate(Question("Which?"), [("Answer: red",), ("no idea",)])
        [array(1., dtype=float32), array(0., dtype=float32)]
    """
    return Rule("states_answer", lambda passage: float(passage.answer is not None), target="text")


def exact_match() -> Rule:
    """Return the rule that the answer is the reference, whatever its case, punctuation and number format.

    Among options, an answer and a reference may name theirs by its text, number or letter.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> reward = RuleReward(exact_match(), reference=lambda question: "4")
        >>> reward.evaluate(Question("How many?"), [("Answer: 4.0",), ("Answer: 5",)])
        [array(1., dtype=float32), array(0., dtype=float32)]
    """

    def check(passage: Passage) -> float:
        options = passage.question.options
        return float(meaning(passage.answer or "", options) == meaning(passage.reference or "", options))

    return Rule("exact_match", check, needs_reference=True)


def meaning(answer: str, options: Sequence[str] = ()) -> str:
    """Return the form in which answers are compared: that of the option that is named, where there are options.

    Example:
        >>> meaning("(b)", ["red", "Blue"]), meaning("4.0")
        ('blue', '4')
    """
    text = (match_option(answer, options) if options else None) or answer
    return normalise(text) or text.strip()


def numeric(tolerance: float = 0.0, relative: float = 1e-6) -> Rule:
    r"""Return the rule that the answer is a number near the reference: |a - r| <= max(tolerance, relative * |r|).

    Args:
        tolerance: absolute, >= 0.
        relative: to the reference, >= 0.

    Raises:
        ValueError: a tolerance is negative or no number.

    Notes:
        Thousands separators, units and signs such as % or $ are passed over, fractions (``3/4``, ``\frac{3}{4}``)
        are read; an answer with no number, or with several, gets 0.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> reward = RuleReward(numeric(tolerance=0.5), reference=lambda question: "12 cm")
        >>> reward.evaluate(Question("How long?"), [("Answer: about 12.4 cm",), ("Answer: 12 or 13",)])
        [array(1., dtype=float32), array(0., dtype=float32)]
    """
    for name, value in (("tolerance", tolerance), ("relative", relative)):
        if not 0 <= value < math.inf:
            raise ValueError(f"`{name}` must be a finite number >= 0; got {value!r}.")

    def check(passage: Passage) -> float:
        true, given = _number(passage.reference or ""), _number(passage.answer or "")
        if true is None:
            raise RewardError(f"the reference must hold one number; got {passage.reference!r:.80}")
        return float(given is not None and abs(given - true) <= max(tolerance, relative * abs(true)))

    return Rule("numeric", check, needs_reference=True)


_FRACTION = re.compile(r"\\d?frac\s*\{\s*([-+]?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?:\s*/\s*\d+)?", re.IGNORECASE)
#: Characters of an answer that are read; none that a model would state is longer.
_LONGEST = 4096


def _number(text: str) -> float | None:
    """Return the one number in a text, None where there is none, or more than one."""
    text = _FRACTION.sub(r"\1/\2", text[:_LONGEST].replace("\N{MINUS SIGN}", "-"))
    found = _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
    if len(found) != 1:
        return None
    above, _, below = found[0].partition("/")
    divisor = float(below) if below else 1.0
    value = float(above) / divisor if divisor else math.inf
    return value if math.isfinite(value) else None


def iou(threshold: float | None = None) -> Rule:
    """Return the rule of boxes: how far those of the answer cover those of the reference.

    ::

        IoU(a, b) = area(a ∩ b) / area(a ∪ b)
        reward    = sum of IoU over boxes matched best first / the larger number of boxes

    Args:
        threshold: 1 from this IoU on and 0 below; None gives the IoU itself.

    Raises:
        ValueError: ``threshold`` is not in (0, 1].

    Notes:
        Boxes are written ``[x1, y1, x2, y2]``, corners in any order, in the unit of the reference.  An answer
        without a box gets 0; at most 64 boxes are read.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> reward = RuleReward(iou(), reference=lambda question: "[0, 0, 10, 10]")
        >>> reward.evaluate(Question("Where?"), [("Answer: [0, 0, 10, 5]",), ("Answer: left",)])
        [array(0.5, dtype=float32), array(0., dtype=float32)]
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"`threshold` must be in (0, 1] or None; got {threshold!r}.")

    def check(passage: Passage) -> float:
        true, given = _boxes(passage.reference or ""), _boxes(passage.answer or "")
        if not len(true):
            raise RewardError(f"the reference must hold a box [x1, y1, x2, y2]; got {passage.reference!r:.80}")
        return _matched(_overlaps(given, true), threshold)

    return Rule("iou", check, needs_reference=True)


_COORDINATE = r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_BOX = re.compile(rf"[\[(]{_COORDINATE},{_COORDINATE},{_COORDINATE},{_COORDINATE}[\])]")
_BOXES = 64
#: Largest coordinate; areas of larger boxes would overflow.
_FARTHEST = 1e9


def _boxes(text: str) -> NDArray[np.float64]:
    """Return the boxes in a text, float64 [n, 4], the smaller corner first."""
    found = _BOX.findall(text[:_LONGEST].replace("\N{MINUS SIGN}", "-"))[:_BOXES]
    numbers = np.array(found, dtype=np.float64).reshape(-1, 4)
    corners = numbers[(np.abs(numbers) <= _FARTHEST).all(axis=1)].reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of each box of ``a`` with each of ``b``; of two points or lines, 1 if they are the same."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - shared
    same = (a[:, None] == b[None, :]).all(axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(union > 0, shared / union, same.astype(np.float64))
    clipped: NDArray[np.float64] = np.clip(found, 0, 1)
    return clipped


def _matched(overlaps: NDArray[np.float64], threshold: float | None) -> float:
    """Return the mean overlap of boxes that are matched one to one, the best pair first."""
    left, total, most = overlaps.copy(), 0.0, max(len(overlaps), overlaps.shape[1])
    for _ in range(min(overlaps.shape)):
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        value = float(left[i, j])
        total += value if threshold is None else float(value >= threshold)
        left[i, :] = left[:, j] = -1.0
    return float(min(total / most, 1.0))


@dataclass(frozen=True)
class _EmbeddingRule(Rule):
    """Embeds answers and references of many passages in one call."""

    embed: Embed = tuple

    def scores(self, passages: Sequence[Passage]) -> Sequence[float]:
        texts = [text or "" for p in passages for text in (self._text(p), p.reference)]
        distinct = list(dict.fromkeys(texts))
        vectors = np.asarray(self.embed(distinct), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(distinct) or not np.isfinite(vectors).all():
            raise RewardError(f"`embed` must return finite numbers [{len(distinct)}, D]; got {list(vectors.shape)}")
        row = dict(zip(distinct, _unit(vectors), strict=True))
        pairs = zip(texts[::2], texts[1::2], strict=True)
        return [min(max(float(row[a] @ row[b]), 0.0), 1.0) for a, b in pairs]

    def _text(self, passage: Passage) -> str | None:
        return passage.answer if self.target == "answer" else passage.text


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    longest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    vectors = vectors / np.where(longest > 0, longest, 1)  # squares of huge numbers would overflow
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1)
    return scaled


def embedding_similarity(embed: Embed, target: Target = "answer") -> Rule:
    """Return the rule that the answer means what the reference means: max(0, cosine of their embeddings).

    Args:
        embed: from n texts to finite numbers [n, D]; distinct texts of a call come together.
        target: ``"answer"`` compares the stated answer, ``"text"`` all the words.

    Raises:
        TypeError: ``embed`` is not callable.
        ValueError: an unknown ``target``.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> letters = lambda texts: [[text.count(c) for c in "abcdefghij"] for text in texts]
        >>> reward = RuleReward(embedding_similarity(letters), reference=lambda question: "cab")
        >>> [float(r) for r in reward.evaluate(Question("Which?"), [("Answer: abc",), ("Answer: hig",)])]
        [1.0, 0.0]
    """
    if not callable(embed):
        raise TypeError(f"`embed` must be callable; got {type(embed).__name__}.")
    check_choice("target", target, get_args(Target))

    def alone(passage: Passage) -> float:
        return rule.scores([passage])[0]

    rule = _EmbeddingRule("embedding_similarity", alone, target, needs_reference=True, embed=embed)
    return rule


def regex(pattern: str | re.Pattern[str], target: Target = "text") -> Rule:
    r"""Return the rule that a pattern is found in the words, or in the stated answer.

    Args:
        pattern: a regular expression; a pattern that backtracks without end is not stopped.
        target: ``"text"`` or ``"answer"``.

    Raises:
        ValueError: it is no regular expression, or an unknown ``target``.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> RuleReward(regex(r"\d+ cm", "answer")).evaluate(Question("How long?"), [("Answer: 12 cm",)])
        [array(1., dtype=float32)]
    """
    check_choice("target", target, get_args(Target))
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"`pattern` must be a regular expression; got {pattern!r:.80}: {error}.") from None

    def check(passage: Passage) -> float:
        return float(compiled.search(passage.text if target == "text" else passage.answer or "") is not None)

    return Rule("regex", check, target)


_UNITS: dict[str, Callable[[Passage], int]] = {
    "words": lambda passage: len(passage.text.split()),
    "characters": lambda passage: len(passage.text),
    "steps": lambda passage: len(passage.steps),
}


def length(least: int = 0, most: int | None = None, unit: Literal["words", "characters", "steps"] = "words") -> Rule:
    """Return the rule of length: 1 within bounds, the shorter over the longer of length and bound outside.

    Args:
        least: lower bound, >= 0.
        most: upper bound, >= 1; None is none.
        unit: what is counted, in the whole path or in the step.

    Raises:
        ValueError: no length is within the bounds, or an unknown ``unit``.

    Example:
        >>> from svip_search.rewards.rule_reward import RuleReward
        >>> RuleReward(length(most=2)).evaluate(Question("Which?"), [("one two",), ("one two three four",)])
        [array(1., dtype=float32), array(0.5, dtype=float32)]
    """
    check_choice("unit", unit, tuple(_UNITS))
    if least < 0 or (most is not None and (most < 1 or most < least)):
        raise ValueError(f"`least` must be >= 0 and `most` at least 1 and `least`; got {least} and {most}.")

    def check(passage: Passage) -> float:
        n = _UNITS[unit](passage)
        if n < least:
            return n / least
        return most / n if most is not None and n > most else 1.0

    return Rule("length", check, target="text")
