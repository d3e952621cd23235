"""A policy made of a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._types import Candidate, Prefix, ProposeRequest, Question
from .._vote import extract_answer

Proposer = Callable[[Question, Prefix, int, int], Iterable[Any]]


class CallablePolicy:
    """Makes a policy of ``fn(question, prefix, n, seed)``.

    Args:
        fn: returns up to ``n`` continuations of ``prefix``, the steps so far.  Each is a str or a
            `Candidate` (one step), or a tuple of them (several).  A str that states an answer is
            the last step.
        max_steps: where whole trajectories are asked for and ``fn`` gives unfinished ones, it is
            asked for one more step of each, up to this many.

    Raises:
        TypeError: ``fn`` is not callable.

    Example:
        >>> from svip_search import Question, solve
        >>> policy = CallablePolicy(lambda question, prefix, n, seed: ["Answer: 4"] * n)
        >>> solve(Question("2 + 2?"), policy, strategy="greedy").answer
        '4'
    """

    def __init__(self, fn: Proposer, *, max_steps: int = 32) -> None:
        if not callable(fn):
            raise TypeError(f"`fn` must be callable; got {type(fn).__name__}.")
        self.fn = fn
        self.max_steps = max_steps

    def propose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        """Return the continuations of each request; an exception of ``fn`` stands for its request."""
        return [self._one(request) for request in requests]

    def _one(self, request: ProposeRequest) -> Any:
        try:
            found = self.fn(request.question, request.prefix, request.n, request.seed)
            if isinstance(found, str):
                raise TypeError("`fn` must return a list of continuations; got a str")
            continuations = [self._steps(one, request.question) for one in found]
            if not request.whole:
                return [steps[:1] for steps in continuations]
            return [self._complete(request, steps, i) for i, steps in enumerate(continuations)]
        except Exception as error:
            return error

    def _steps(self, one: Any, question: Question) -> tuple[Any, ...]:
        steps = one if isinstance(one, (tuple, list)) else (one,)
        return tuple(_as_candidate(step, question) if isinstance(step, str) else step for step in steps)

    def _complete(self, request: ProposeRequest, steps: tuple[Any, ...], index: int) -> tuple[Any, ...]:
        while steps and len(steps) < self.max_steps and not steps[-1].finished:
            prefix = request.prefix + tuple(step.text for step in steps)
            # Another seed for each continuation, or equal ones would stay equal for ever.
            seed = (request.seed + index * 0x9E3779B97F4A7C15) % 2**64
            further = next(iter(self.fn(request.question, prefix, 1, seed)), ())
            if not further:
                break
            steps += self._steps(further, request.question)
        return steps


def _as_candidate(text: str, question: Question) -> Candidate:
    stated = extract_answer(text, question.options) is not None
    return Candidate(text, finish_reason="stop" if stated else "step")
