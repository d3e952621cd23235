"""Values that travel between policies, reward models, strategies and callers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ._budget import Usage
    from ._tree import Tree

#: Names of the reward dimensions, in the order used by every array of the library.
DIMENSIONS = ("relevance", "logic", "attribute")

#: What may have ended a search other than a limit of its budget.
NO_LIMITS = ("finished", "converged", "stalled", "interrupted", "cancelled")

Prefix = tuple[str, ...]
FinishReason = Literal["step", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about zero or more pictures and videos, with optional answer options.

    Args:
        text: the question, not empty.
        images: pictures and videos in the order in which a model is to see them: file paths,
            ``PIL.Image.Image`` objects or uint8 arrays [height, width, 3], and `Video` objects.
        options: the admissible answers, or empty for an open question; numbers become text.
        answer: the true answer where it is known.  Never shown to a policy or reward model.
        id: a name for reports.

    Raises:
        ValueError: ``text`` is empty or an option is empty or repeated.
    """

    text: str
    images: Sequence[Any] = ()
    options: Sequence[str] = ()
    answer: str | None = field(default=None, compare=False)
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise ValueError(f"`text` must be a non-empty question; got {self.text!r}.")
        for name in ("images", "options"):
            if isinstance(getattr(self, name), (str, bytes)):
                raise TypeError(f"`{name}` must be a list, not a single {type(getattr(self, name)).__name__}.")
        options = tuple(str(o).strip() for o in self.options)
        if "" in options or len(set(options)) != len(options):
            raise ValueError(f"`options` must be distinct and not empty; got {list(self.options)}.")
        object.__setattr__(self, "images", tuple(self.images))
        object.__setattr__(self, "options", options)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One step that a policy proposes.

    Args:
        text: the step, without its separator.
        log_prob: sum of the log-probabilities of its tokens (<= 0), 0 where unknown.
        tokens: number of tokens generated for it.
        finish_reason: ``"step"`` more steps follow, ``"stop"`` the trajectory ends here,
            ``"length"`` the policy was cut off.
    """

    text: str
    log_prob: float = 0.0
    tokens: int = 0
    finish_reason: FinishReason = "step"

    @property
    def finished(self) -> bool:
        """Whether the trajectory ends with this step."""
        return self.finish_reason != "step"


@dataclass(frozen=True, slots=True)
class ProposeRequest:
    """What a policy is asked: ``n`` candidates after ``prefix``.

    ``seed`` identifies the draw: the same (question, prefix, seed, index) must give the same
    candidate whatever else is in the batch.  ``whole`` asks for complete trajectories instead of
    single steps; ``temperature`` 0 is greedy.
    """

    question: Question
    prefix: Prefix
    n: int
    seed: int
    temperature: float = 1.0
    whole: bool = False


@runtime_checkable
class Policy(Protocol):
    """A model that proposes next steps."""

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        """Return, for each request, up to ``n`` continuations.

        A continuation is the tuple of steps that follow the prefix: one step, or all steps to
        the end where ``whole`` is set.  Fewer than ``n`` (even none) is allowed.
        """
        ...


@runtime_checkable
class RewardModel(Protocol):
    """A model that scores paths of steps.

    ``kind`` is ``"prm"`` (``evaluate`` gives one [T, C] array a path, C = 3 dimensions) or
    ``"orm"`` (one number a path).  All rewards lie in [0, 1].
    """

    kind: Literal["prm", "orm"]

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path, [T, 3] or a scalar array [] for an ORM."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step with its rewards (None where no reward model was used)."""

    text: str
    reward: tuple[float, float, float] | None = None
    log_prob: float = 0.0
    node: int = -1


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Finished steps from the root to an answer (None where no answer was stated)."""

    steps: tuple[Step, ...]
    answer: str | None
    score: float
    node: int

    @property
    def text(self) -> str:
        """The steps, one a line."""
        return "\n".join(s.text for s in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; what is no number, and a reward that is not there, is None."""
        return {"answer": self.answer, "score": _number(self.score), "steps": [_step_dict(s) for s in self.steps]}


@dataclass(frozen=True, slots=True)
class Vote:
    """One distinct answer with what spoke for it."""

    answer: str
    votes: int
    weight: float


@dataclass(frozen=True)
class Result:
    """What a search found.

    ``answer`` is None only where no trajectory stated one.  ``stopped_by`` is one of ``"finished"``,
    ``"converged"`` (`patience`), ``"stalled"`` (the strategy got nowhere), ``"interrupted"``,
    ``"cancelled"``, or a limit of the budget: ``"tokens"``, ``"policy_tokens"``, ``"policy_calls"``,
    ``"reward_calls"``, ``"seconds"``, ``"nodes"``, with ``"run_"`` before it where it is one of the
    whole run.  ``degraded`` lists, in order, everything that went wrong without ending the search.
    """

    question: Question
    answer: str | None
    trajectory: Trajectory | None
    trajectories: tuple[Trajectory, ...]
    votes: tuple[Vote, ...]
    tree: Tree
    usage: Usage
    stopped_by: str
    degraded: tuple[str, ...]
    seed: int
    strategy: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the pictures as plain JSON values; the tree is that of `Tree.to_dict`."""
        return {
            "question": self.question.text,
            "options": list(self.question.options),
            "answer": self.answer,
            "true_answer": self.question.answer,
            "trajectory": None if self.trajectory is None else self.trajectory.to_dict(),
            "trajectories": [t.to_dict() for t in self.trajectories],
            "votes": [asdict(vote) for vote in self.votes],
            "usage": asdict(self.usage),
            "stopped_by": self.stopped_by,
            "degraded": list(self.degraded),
            "strategy": self.strategy,
            "seed": self.seed,
            "tree": self.tree.to_dict(),
        }


def _step_dict(step: Step) -> dict[str, Any]:
    reward = None if step.reward is None else dict(zip(DIMENSIONS, step.reward, strict=True))
    return {"text": step.text, "reward": reward, "log_prob": _number(step.log_prob)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
