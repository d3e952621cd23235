"""Critique and rewrite: each trajectory is criticised, and written anew with the criticism at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._types import DIMENSIONS, Question
from ._base import Rollout, Round, Scores, Strategy
from .best_of_n import SamplingSearch

#: Called with the question, the steps of a trajectory and their rewards [T, 3] (NaN where there is
#: none); returns what is wrong, or "" where nothing is and nothing has to be rewritten.
Critic = Callable[[Question, Sequence[str], NDArray[np.float32]], str]

#: A step with a reward below this is named by `reward_critic`.
DOUBTFUL = 0.5

CRITIQUE = """{question}

This is an attempt at the question:
{steps}

What is wrong with this attempt? Say which of its steps are mistaken, and why. Do not answer the question."""

REWRITE = """{question}

This is an earlier attempt at the question:
{steps}

This was said about it:
{critique}

Answer the question anew, step by step, without the mistakes of the attempt."""


def reward_critic(question: Question, steps: Sequence[str], rewards: NDArray[np.float32]) -> str:
    """Return a critique that names the steps with rewards below 0.5; "" where there are none.

    Of a reward model with one number a trajectory it says that number.

    Example:
        >>> reward_critic(Question("Which?"), ("Look.", "Add."), np.array([[0.9, 0.8, 0.9], [0.7, 0.12, 0.4]]))
        'Step 2 looks wrong: logic 0.12, attribute 0.40.'
    """
    if len(steps) > 1 and np.isnan(rewards[:-1]).all():
        whole = float(rewards[-1].mean())
        return f"The attempt as a whole looks wrong: {whole:.2f}." if whole < DOUBTFUL else ""
    lines = []
    for i, row in enumerate(rewards.tolist(), 1):
        low = [f"{name} {value:.2f}" for name, value in zip(DIMENSIONS, row, strict=True) if value < DOUBTFUL]
        if low:
            lines.append(f"Step {i} looks wrong: {', '.join(low)}.")
    return "\n".join(lines)


@dataclass(slots=True)
class Attempt:
    """A trajectory that may be rewritten: where it ends, and how many rewrites are left, this one included."""

    end: int
    left: int


class CritiqueRewriteSearch(SamplingSearch):
    """Draws trajectories, and rewrites each on its own.

    The tag of a round that asks for a critique is the `Attempt`; that of a rewrite, how many further
    rewrites it may have.
    """

    def _setup(self) -> None:
        super()._setup()
        self._attempts = [Attempt(f.node, self.config.rounds) for f in self._finished]

    def _choose(self) -> Round | None:
        r = super()._choose()
        while r is None and self._attempts:
            r = self._improve(self._attempts.pop(0))
        return r

    def _improve(self, attempt: Attempt) -> Round | None:
        """Return the round that asks for a critique, or for the rewrite where the critic has spoken."""
        if self.config.critic is not None:
            return self._rewrite(attempt, self._criticise(attempt.end))
        prompt = self._prompt(CRITIQUE, attempt)
        return Round(Rollout, [0], prompts=[prompt], place="text", tag=attempt)

    def _criticise(self, end: int) -> str:
        """Return what the critic says; "" where it failed."""
        path = self.tree.arena.path(end)[1:]
        try:
            critique = self.config.critic(self.question, self.tree.texts(end), self.tree.arena.reward[path])
            if isinstance(critique, str):
                return critique
            reason = f"critic must return text; got {type(critique).__name__}"
        except Exception as error:  # user code
            reason = f"critic failed: {type(error).__name__}: {error}"
        self.degraded.append(f"node {end}: {reason}")
        return ""

    def _rewrite(self, attempt: Attempt, critique: str) -> Round | None:
        if not critique.strip():
            return None
        prompt = self._prompt(REWRITE, attempt, critique=critique.strip())
        return Round(Rollout, [0], prompts=[prompt], tag=attempt.left - 1)

    def _prompt(self, template: str, attempt: Attempt, **parts: str) -> Question:
        """Return the question with another text, and the same images and options."""
        steps = "\n".join(f"{i}. {text}" for i, text in enumerate(self.tree.texts(attempt.end), 1))
        return replace(self.question, text=template.format(question=self.question.text, steps=steps, **parts))

    def _grown(self, round: Round, ends: list[int]) -> Round | None:
        if round.place != "text":
            return super()._grown(round, ends)
        said = round.texts[0]
        return self._rewrite(round.tag, said[0]) if said else None

    def _scored(self, round: Round, nodes: list[int], scores: Scores) -> None:
        if round.place == "text":  # nothing was criticised
            return
        left = self.config.rounds if round.tag is None else round.tag
        if left:
            self._attempts += [Attempt(f.node, left) for f in round.ended]


@dataclass(frozen=True, kw_only=True)
class CritiqueRewrite(Strategy):
    """Returns the best of ``n`` trajectories and of what they become when they are criticised and rewritten.

    ::

        for each of n trajectories from the policy, on its own, `rounds` times:
            critique   = policy("what is wrong with this?", question, trajectory)   # or the critic
            trajectory = policy("answer anew", question, trajectory, critique)      # the old one stays
        answer = that of the best-scored of all trajectories

    Args:
        n: trajectories to draw.
        rounds: rewrites that a trajectory may have.
        critic: asked for the critique instead of the policy: a callable that can be pickled, with the
            question, the steps and their rewards [T, 3], see `reward_critic`.  Where it returns ""
            the trajectory is left as it is.  None asks the policy.

    Notes:
        1 + 2 * n * rounds policy calls (1 + n * rounds with a critic) and at most n * (rounds + 1) reward
        calls.  The policy sees question, attempt and critique as the text of a `Question` with the
        same images and options.  A critic that raises is reported in ``degraded``, and that trajectory
        is left as it is.

    Reference:
        A. Madaan et al., "Self-Refine: iterative refinement with self-feedback", arXiv 2303.17651.
        There a prompt holds all earlier attempts and critiques, here the last of each; and the reward
        model, not the last attempt, has the last word.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> strategy = CritiqueRewrite(n=3, critic=reward_critic)
        >>> result = solve(Question("Which?"), HashPolicy(), HashReward(), strategy)
        >>> len(result.trajectories), result.usage.policy_calls
        (6, 4)
    """

    name = "critique-rewrite"
    search = CritiqueRewriteSearch

    n: int = 4
    rounds: int = 1
    critic: Critic | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        critic: Any = self.critic
        if critic is not None and not callable(critic):
            raise TypeError(f"`critic` must be a callable or None; got {type(critic).__name__}.")
