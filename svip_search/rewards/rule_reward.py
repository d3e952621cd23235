"""Rewards by rules: what an answer or a step must be like, checked without a model.

::

    orm:  reward of a path      = combine(rule(path)     for rule in rules)
    prm:  reward of a step [3]  = combine(rule(step)     for rule in the rules of each dimension)

Some rules compare with a *reference*, which the caller gives by a function of the question.  No rule sees
`Question.answer`: a search that did would be measured on what it was told.  `true_answer` as ``reference`` asks
for it in so many words, for training and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._errors import RewardError
from .._types import DIMENSIONS, Prefix, Question
from .rules import Passage, Rule, check_choice, stated_answer

Combine = Literal["mean", "min", "product"]
Reference = Callable[[Question], "str | None"]

#: Reward of a step by rules on answers, where the step states none.
NEUTRAL = 0.5

_COMBINE: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "mean": lambda values: np.sort(values, axis=0).mean(axis=0),  # sorted: the order of the rules changes no bit
    "min": lambda values: values.min(axis=0),
    "product": lambda values: np.sort(values, axis=0).prod(axis=0),
}


def true_answer(question: Question) -> str | None:
    """Return the true answer of a question, as ``reference`` of a `RuleReward`.

    For training and evaluation only: a search guided by it has been told what it is asked.
    """
    return question.answer


class RuleReward:
    """A reward model made of rules.

    Args:
        rules: one or several; for kind ``"prm"`` also a mapping from dimensions (relevance, logic, attribute) to
            one or several: a dimension that is not in it gets the mean of those that are.
        kind: ``"orm"`` gives one number a path, ``"prm"`` three a step.
        reference: gives what rules compare with; None only where no rule does.  `true_answer` for training
            and evaluation.
        combine: how the numbers of several rules become one: ``"mean"``, ``"min"`` or ``"product"``.
        scoring: how strategies should fold the rewards of steps into a score.

    Raises:
        TypeError: ``rules`` are no rules, or ``reference`` is not callable.
        ValueError: a setting is unknown, or a rule needs a reference and there is none.

    Notes:
        A path without an answer gets 0 from rules on answers; a step without one gets 0.5, since most steps of a
        good path state none.  Deterministic; costs no model call unless a rule makes one.

    Example:
        >>> from svip_search import BestOfN, Question, solve
        >>> from svip_search.rewards.rules import regex, states_answer
        >>> from svip_search.testing import HashPolicy
        >>> reward = RuleReward([states_answer(), regex(r"step 1, branch 0")])
        >>> solve(Question("Which?"), HashPolicy(), reward, BestOfN(n=8)).trajectory.score
        1.0
    """

    kind: Literal["prm", "orm"]

    def __init__(
        self,
        rules: Rule | Sequence[Rule] | Mapping[str, Rule | Sequence[Rule]],
        kind: Literal["prm", "orm"] = "orm",
        *,
        reference: Reference | None = None,
        combine: Combine = "mean",
        scoring: Scoring | None = None,
    ) -> None:
        check_choice("kind", kind, ("prm", "orm"))
        check_choice("combine", combine, get_args(Combine))
        if reference is not None and not callable(reference):
            raise TypeError(f"`reference` must be a function of a question; got {type(reference).__name__}.")
        self.rules = _by_dimension(rules, kind)
        self.kind, self.reference, self.combine, self.scoring = kind, reference, combine, scoring
        wanting = [rule.name for rule in self._all() if rule.needs_reference]
        if wanting and reference is None:
            raise ValueError(f"`reference` must be given for the rule {wanting[0]}: a function of a question.")

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path: float32 [] for kind "orm", [T, 3] for "prm".

        Raises:
            RewardError: there is no reference for the question, or a rule raised or gave no number in [0, 1].
        """
        blind, reference = replace(question, answer=None), self._reference_of(question)
        if self.kind == "orm":
            passages = [_passage(blind, tuple(path), reference) for path in paths]
            return [np.asarray(v, np.float32) for v in self._judged(self.rules[""], passages, 0.0)]
        steps = list(dict.fromkeys(step for path in paths for step in path))
        passages = [_passage(blind, (step,), reference) for step in steps]
        named = {d: self._judged(rules, passages, NEUTRAL) for d, rules in self.rules.items()}
        rest = np.sort(list(named.values()), axis=0).mean(axis=0)
        table = np.stack([named.get(d, rest) for d in DIMENSIONS], axis=1).astype(np.float32)
        row = {step: i for i, step in enumerate(steps)}
        return [table[[row[step] for step in path]] if path else np.zeros((0, 3), np.float32) for path in paths]

    def _all(self) -> list[Rule]:
        return [rule for rules in self.rules.values() for rule in rules]

    def _reference_of(self, question: Question) -> str | None:
        if self.reference is None or not any(rule.needs_reference for rule in self._all()):
            return None
        try:
            found = self.reference(question)
        except Exception as error:
            raise RewardError(f"`reference` raised {type(error).__name__}: {error}") from error
        if not isinstance(found, str) or not found.strip():
            name = question.id or question.text
            raise RewardError(f"`reference` must give a text for every question; got {found!r} for {name!r:.80}.")
        return found

    def _judged(self, rules: Sequence[Rule], passages: Sequence[Passage], unanswered: float) -> NDArray[np.float64]:
        """Return one number a passage, float64 [passages]."""
        return _COMBINE[self.combine](np.array([_applied(rule, passages, unanswered) for rule in rules]))


def _applied(rule: Rule, passages: Sequence[Passage], unanswered: float) -> NDArray[np.float64]:
    found = np.full(len(passages), unanswered)
    asked = [i for i, p in enumerate(passages) if rule.target == "text" or p.answer is not None]
    if not asked:
        return found
    try:
        values = np.asarray(rule.scores([passages[i] for i in asked]), dtype=np.float64)
    except RewardError as error:
        raise RewardError(f"The rule {rule.name}: {error}") from error
    except Exception as error:
        raise RewardError(f"The rule {rule.name} raised {type(error).__name__}: {error}") from error
    if values.shape != (len(asked),) or not ((values >= 0) & (values <= 1)).all():
        shown = values.tolist() if values.shape == (len(asked),) else list(values.shape)
        raise RewardError(f"The rule {rule.name} must give one number in [0, 1] a passage; got {shown!s:.80}.")
    found[asked] = values
    return found


def _passage(question: Question, steps: Prefix, reference: str | None) -> Passage:
    return Passage(question, steps, stated_answer(question, steps), reference)


def _by_dimension(rules: Any, kind: str) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of each dimension; under "" those of a whole path."""
    if isinstance(rules, Mapping):
        if kind == "orm":
            raise ValueError("`rules` by dimension need kind 'prm'; got kind 'orm'.")
        unknown = [name for name in rules if name not in DIMENSIONS]
        if unknown or not rules:
            raise ValueError(f"`rules` must be named by {', '.join(DIMENSIONS)}; got {list(rules)}.")
        return {name: _as_rules(some) for name, some in rules.items()}
    found = _as_rules(rules)
    return {"": found} if kind == "orm" else dict.fromkeys(DIMENSIONS, found)


def _as_rules(rules: Any) -> tuple[Rule, ...]:
    found = (rules,) if isinstance(rules, Rule) else tuple(rules) if isinstance(rules, Sequence) else ()
    wrong = [rule for rule in found if not isinstance(rule, Rule)]
    if wrong or not found:
        hint = ": call it to make a rule" if wrong and callable(wrong[0]) else ""
        raise TypeError(f"`rules` must be one or several `Rule`; got {(wrong or [rules])[0]!r:.80}{hint}.")
    return found
