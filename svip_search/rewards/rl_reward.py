"""Rewards for training a policy by reinforcement learning, in the shape that TRL's trainers call.

::

    completion -> steps                  split where policies split, empty lines dropped
    equal questions of the batch         judged in one call: a group shares picture and prefix
    rewards [T, 3] of each completion -> one number, by `Scoring` or of one dimension

What a policy is rewarded for it will learn to please, so a completion earns nothing unless its last
step states an answer and it has at most ``max_steps`` steps: the aggregates compare chains of
different length, and without the two a chain that stops early can score best.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring, step_value
from .._errors import RewardError
from .._question_key import question_key
from .._types import DIMENSIONS, Prefix, Question, RewardModel
from .._vote import extract_answer, normalise
from ..models.prompt import STEP_SEPARATOR

Split = Callable[[str], Sequence[str]]
#: The rewards of a completion: [T, C], a scalar array [], or None where it could not be judged.
Judged = NDArray[np.float32] | None


def split_steps(text: str) -> Prefix:
    r"""Return the steps of a completion: split at the separator that policies write, without empty ones.

    Example:
        >>> split_steps("left : 4\n\n right : 9 \nanswer : 5\n")
        ('left : 4', 'right : 9', 'answer : 5')
    """
    return tuple(part.strip() for part in text.split(STEP_SEPARATOR) if part.strip())


class RewardFunction:
    r"""A reward model as a function of a batch of completions, as ``GRPOTrainer(reward_funcs=…)`` takes it.

    ::

        reward(completion) = scoring.score(rewards [T, 3])     or of one dimension alone

    Args:
        reward: the reward model; one of kind ``"orm"`` gives its number as it is.
        scoring: how the rewards become one number; default: the reward model's own, else the mean.
        dimension: ``"relevance"``, ``"logic"`` or ``"attribute"`` for that dimension alone.
        max_steps: a completion of more steps earns 0 and is not judged.
        require_answer: a completion whose last step states no answer (one of the options, where
            there are any) earns 0 and is not judged.
        split: from the text of a completion to its steps.
        name: under which a trainer logs it; default ``"svip"`` or ``"svip_<dimension>"``.

    Raises:
        ValueError: an unknown dimension, one of a reward model of kind ``"orm"``, or ``max_steps`` < 1.

    Notes:
        True answers are never read, so the reward needs no labels.  Cost: one call of the reward
        model for each distinct question of a batch.

    Example:
        >>> from svip_search.testing import HashReward
        >>> reward = RewardFunction(HashReward())
        >>> rewards = reward(["Which?"] * 2, ["a clue\nanswer : red", "no idea"], options=[["red", "blue"]] * 2)
        >>> 0 < rewards[0] < 1, rewards[1]
        (True, 0.0)
    """

    def __init__(
        self,
        reward: RewardModel,
        scoring: Scoring | None = None,
        *,
        dimension: str | None = None,
        max_steps: int = 64,
        require_answer: bool = True,
        split: Split = split_steps,
        name: str | None = None,
    ) -> None:
        if dimension is not None and dimension not in DIMENSIONS:
            raise ValueError(f"`dimension` must be one of {', '.join(DIMENSIONS)}; got {dimension!r}.")
        if dimension is not None and reward.kind != "prm":
            raise ValueError(f"`dimension` needs a reward model of kind 'prm'; got one of kind {reward.kind!r}.")
        if max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1; got {max_steps}.")
        base = scoring or getattr(reward, "scoring", None) or Scoring()
        weights: Any = [float(d == dimension) for d in DIMENSIONS] if dimension else base.weights
        self.scoring = Scoring(aggregate=base.aggregate, weights=weights, veto=base.veto)
        self.reward, self.max_steps, self.require_answer, self.split = reward, max_steps, require_answer, split
        # Trainers log a function under its `__name__`.
        self.__name__ = name or ("svip" if dimension is None else f"svip_{dimension}")

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Return one reward a completion; None where the reward model could not judge it.

        Args:
            prompts: texts or lists of messages, one a completion.
            completions: texts or lists of messages; of messages, those of the assistant count.
            columns: lists as long as ``completions``, of which are read: ``question`` (texts, or
                `Question` objects that bring everything along; default: the last user message),
                ``images`` or ``image`` (default: the pictures in the messages) and ``options``.

        Raises:
            TypeError: a prompt or completion is neither text nor messages.
            ValueError: a column has another length.
            ImageError: a picture cannot be read.
            RewardError: the reward model gave something other than rewards.
        """
        questions = questions_of(prompts, completions, **columns)
        paths = [tuple(self.split(completion_text(c))) for c in completions]
        passed = [i for i, path in enumerate(paths) if self._admits(questions[i], path)]
        rewards: list[float | None] = [0.0] * len(paths)
        judged = _judge(self.reward, [questions[i] for i in passed], [paths[i] for i in passed])
        for i, array in zip(passed, judged, strict=True):
            rewards[i] = None if array is None else float(array) if array.ndim == 0 else self._score(array)
        return rewards

    def step_values(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[NDArray[np.float64] | None]:
        """Return the value of every step of each completion, for trainers that credit steps.

        Args:
            prompts: as in a call.
            completions: as in a call.
            columns: as in a call.

        Returns:
            For each completion float64 [T] in [0, 1], the dimensions weighed as in ``scoring``; zeros where a call
            would give 0 without asking, None where it gives none.

        Raises:
            ValueError: the reward model is of kind ``"orm"``.
        """
        if self.reward.kind != "prm":
            raise ValueError(f"`reward` must be of kind 'prm' where steps are valued; got {self.reward.kind!r}.")
        questions = questions_of(prompts, completions, **columns)
        paths = [tuple(self.split(completion_text(c))) for c in completions]
        values: list[NDArray[np.float64] | None] = [np.zeros(len(path)) for path in paths]
        passed = [i for i, path in enumerate(paths) if self._admits(questions[i], path)]
        judged = _judge(self.reward, [questions[i] for i in passed], [paths[i] for i in passed])
        for i, array in zip(passed, judged, strict=True):
            values[i] = None if array is None else step_value(array, self.scoring.weights, self.scoring.veto)
        return values

    def _admits(self, question: Question, path: Prefix) -> bool:
        if not path or len(path) > self.max_steps:
            return False
        return not self.require_answer or extract_answer(path[-1], question.options) is not None

    def _score(self, rewards: NDArray[np.float32]) -> float:
        # A sum of logarithms or log-odds is brought back to [0, 1], where groups are comparable.
        return float(self.scoring.value(self.scoring.score(rewards)))


def reward_functions(reward: RewardModel, **options: Any) -> list[RewardFunction]:
    """Return one `RewardFunction` a dimension: relevance, logic, attribute.

    Args:
        reward: a reward model of kind ``"prm"``.
        options: for `RewardFunction`.

    Example:
        >>> from svip_search.testing import HashReward
        >>> [f.__name__ for f in reward_functions(HashReward())]
        ['svip_relevance', 'svip_logic', 'svip_attribute']
    """
    return [RewardFunction(reward, dimension=name, **options) for name in DIMENSIONS]


def step_rewards(
    reward: RewardModel, questions: Sequence[Question], completions: Sequence[str], split: Split = split_steps
) -> list[NDArray[np.float32] | None]:
    r"""Return the rewards of every step of a batch of completions.

    Args:
        reward: a reward model of kind ``"prm"``.
        questions: one a completion; equal ones are judged in one call.
        completions: texts.
        split: from the text of a completion to its steps.

    Returns:
        For each completion float32 [T, 3] (relevance, logic, attribute), T = 0 for an empty one;
        None where the reward model could not judge it, for example for its length.

    Raises:
        TypeError: a completion is not a text.
        ValueError: ``reward`` is of another kind, or the lengths differ.

    Example:
        >>> from svip_search.testing import HashReward
        >>> rewards = step_rewards(HashReward(), [Question("Which?")] * 2, ["a clue\nanswer : red", ""])
        >>> [r.shape for r in rewards]
        [(2, 3), (0, 3)]
    """
    if reward.kind != "prm":
        raise ValueError(f"`reward` must be of kind 'prm'; got {reward.kind!r}.")
    if len(questions) != len(completions):
        raise ValueError(f"`questions` must have length {len(completions)}; got {len(questions)}.")
    return _judge(reward, questions, [tuple(split(completion_text(c))) for c in completions])


def answer_reward(
    prompts: Sequence[Any], completions: Sequence[Any], *, answer: Sequence[Any],
    options: Sequence[Any] | None = None, **columns: Any,
) -> list[float | None]:  # fmt: skip
    """Return 1 for each completion whose last step states the true answer, else 0: outcome alone.

    Args:
        prompts: not read.
        completions: texts or lists of messages.
        answer: the true answers; None where there is none, and then the reward is None.
        options: the admissible answers of each.
        columns: not read.

    Example:
        >>> answer_reward(["", ""], ["Answer: 4", "The answer is 5."], answer=["4", 4])
        [1.0, 0.0]
    """
    for name, column in (("answer", answer), ("options", options)):
        _check_length(name, column, len(completions))
    rewards: list[float | None] = []
    for i, (completion, truth) in enumerate(zip(completions, answer, strict=True)):
        steps = split_steps(completion_text(completion))
        admissible = [str(o) for o in (options[i] if options is not None else None) or ()]
        stated = extract_answer(steps[-1], admissible) if steps else None
        right = stated is not None and truth is not None and normalise(stated) == normalise(str(truth))
        rewards.append(None if truth is None else float(right))
    return rewards


def completion_text(completion: Any) -> str:
    """Return the text of a completion: itself, or what its assistant messages say.

    Raises:
        TypeError: it is neither text nor a list of messages.

    Example:
        >>> completion_text([{"role": "assistant", "content": "Answer: 4"}])
        'Answer: 4'
    """
    if isinstance(completion, str):
        return completion
    said = [m for m in _messages(completion, "completions") if m.get("role", "assistant") == "assistant"]
    return STEP_SEPARATOR.join(_text(m.get("content")) for m in said)


def questions_of(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[Question]:
    """Return the question of each completion, from the columns where they are given, else from the prompt.

    Raises:
        TypeError: a prompt is neither text nor a list of messages.
        ValueError: a column has another length.
    """
    count = len(completions)
    columns = {n: columns.get(n) for n in ("question", "images", "image", "options")}
    for name, column in {"prompts": prompts, **columns}.items():
        _check_length(name, column, count)
    return [_question(p, {n: c[i] if c is not None else None for n, c in columns.items()})
            for i, p in enumerate(prompts)]  # fmt: skip


def _check_length(name: str, column: Any, count: int) -> None:
    if column is not None and (isinstance(column, str) or len(column) != count):
        got = f"the text {column!r}" if isinstance(column, str) else len(column)
        raise ValueError(f"`{name}` must be a list with one entry a completion, {count}; got {got}.")


def _question(prompt: Any, row: Mapping[str, Any]) -> Question:
    if isinstance(row["question"], Question):
        return row["question"]
    images = row["images"] if row["images"] is not None else [row["image"]] if row["image"] is not None else None
    text = row["question"] or (prompt if isinstance(prompt, str) else None)
    if text is None or (images is None and not isinstance(prompt, str)):
        users = [m for m in _messages(prompt, "prompts") if m.get("role", "user") == "user"]
        text = text or _text(users[-1].get("content") if users else None)
        images = images if images is not None else [i for m in users for i in _pictures(m.get("content"))]
    return Question(text, images=images or (), options=row["options"] or ())


def _messages(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, (list, tuple)) or any(not isinstance(m, Mapping) for m in value):
        raise TypeError(f"`{name}` must hold texts or lists of messages; got {value!r:.80}.")
    return list(value)


def _parts(content: Any) -> list[Mapping[str, Any]]:
    return [p for p in content if isinstance(p, Mapping)] if isinstance(content, (list, tuple)) else []


def _text(content: Any) -> str:
    """Return the words of a message's content: a text, a list of parts, or nothing."""
    if isinstance(content, str):
        return content
    return "".join(str(p.get("text") or "") for p in _parts(content) if p.get("type", "text") == "text")


def _pictures(content: Any) -> list[Any]:
    return [p["image"] for p in _parts(content) if p.get("type") == "image" and p.get("image") is not None]


def _judge(reward: RewardModel, questions: Sequence[Question], paths: Sequence[Prefix]) -> list[Judged]:
    """Return the rewards of each path, in one call of the reward model for each distinct question.

    An empty path is not shown to the model: it has no step to reward.
    """
    groups: dict[str, list[int]] = {}
    keys: dict[int, str] = {}
    for i, question in enumerate(questions):
        if not paths[i]:
            continue
        key = keys[id(question)] = keys.get(id(question)) or question_key(question)
        groups.setdefault(key, []).append(i)
    judged: list[Judged] = [np.zeros((0, len(DIMENSIONS)), np.float32)] * len(paths)
    for members in groups.values():
        found = _evaluate(reward, questions[members[0]], [paths[i] for i in members])
        for i, array in zip(members, found, strict=True):
            judged[i] = array
    return judged


def _evaluate(reward: RewardModel, question: Question, paths: list[Prefix]) -> list[Judged]:
    try:
        found: list[Any] = list(reward.evaluate(question, paths))
    except RewardError as error:
        if len(paths) == 1:
            return [_unjudged(error)]
        # One of them is to blame, as a rule for its length: the others keep their rewards.
        return [array for path in paths for array in _evaluate(reward, question, [path])]
    if len(found) != len(paths):
        raise RewardError(f"{type(reward).__name__}.evaluate must return {len(paths)} rewards; got {len(found)}.")
    return [_checked(reward, value, path) for value, path in zip(found, paths, strict=True)]


def _checked(reward: RewardModel, value: Any, path: Prefix) -> Judged:
    if isinstance(value, Exception):
        return _unjudged(value)
    array = np.asarray(value, dtype=np.float32)
    wanted = (len(path), len(DIMENSIONS)) if reward.kind == "prm" else ()
    if array.shape != wanted or not ((array >= 0) & (array <= 1)).all():
        shown = list(array.shape) if array.shape != wanted else array.tolist()
        raise RewardError(
            f"{type(reward).__name__}.evaluate must return rewards of shape {list(wanted)} in [0, 1]; got {shown}."
        )
    return array


def _unjudged(error: Exception) -> Judged:
    warnings.warn(f"A completion has no reward: {error}", RuntimeWarning, stacklevel=2)
    return None
