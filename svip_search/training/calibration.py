"""From logits on held-out questions to rewards that mean what they say, and to a way of scoring chains."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .._aggregate import Aggregate, Scoring
from ..datasets.svip import is_correct
from ..evaluation.metrics import best_threshold
from .step_trees import StepTree

Floats = NDArray[np.float32]
#: Temperatures are looked for in this range; nothing sensible lies outside.
RANGE = (0.1, 10.0)


def fit_temperatures(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the temperature of each dimension, float32 [3], that minimises the soft cross-entropy.

    Args:
        logits: [N, 3], of held-out steps.
        targets: [N, 3] in [0, 1], NaN where a label is missing; a dimension without labels keeps 1.

    Notes:
        One number a dimension cannot overfit, and it keeps the order of the rewards (Guo et al. 2017,
        "On calibration of modern neural networks", section 4.2).

    Example:
        >>> logits = torch.tensor([[4.0, 0.0, 0.0]]).repeat(4, 1)
        >>> targets = torch.tensor([[1.0, float("nan"), float("nan")]] * 3 + [[0.0, float("nan"), float("nan")]])
        >>> [round(t, 2) for t in fit_temperatures(logits, targets).tolist()]  # sigmoid(4 / 3.64) is 3/4
        [3.64, 1.0, 1.0]
    """
    found = torch.ones(logits.shape[1])
    for c in range(logits.shape[1]):
        known = ~targets[:, c].isnan()
        if known.any():
            found[c] = _best(logits[known, c].double(), targets[known, c].double())
    return found


def _best(logits: Tensor, targets: Tensor) -> float:
    """Golden-section search over log T: the loss is convex in 1 / T, so it has one minimum."""
    low, high = (float(np.log(bound)) for bound in RANGE)
    ratio = (5**0.5 - 1) / 2

    def loss(at: float) -> float:
        return float(functional.binary_cross_entropy_with_logits(logits / np.exp(at), targets))

    for _ in range(40):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        if loss(first) <= loss(second):
            high = second
        else:
            low = first
    return float(np.exp((low + high) / 2))


def fit_thresholds(rewards: Floats, labels: Floats) -> tuple[float, ...]:
    """Return for each dimension the reward above which a step is best held to be right.

    Args:
        rewards: [N, 3] of held-out steps.
        labels: [N, 3], NaN where missing; `is_correct` says which steps are right.

    Returns:
        The threshold of the best F1 of finding wrong steps, which are the fewer; one half where none is wrong.
    """
    right, found = is_correct(labels), []
    for c in range(rewards.shape[1]):
        cut = -best_threshold(-rewards[:, c], 1 - right[:, c])  # wrong: at most the cut
        found.append(0.5 if np.isnan(cut) else round(float(cut), 4))
    return tuple(found)


def fit_scoring(trees: Sequence[StepTree], rewards: Sequence[Floats], dimensions: Sequence[int] = (0, 1, 2)) -> Scoring:
    """Return the scoring under which the best-scored of a question's chains is most often right.

    Args:
        trees: held-out questions.  Only chains of policies are chosen among, where there are any: those
            are what a search meets.
        rewards: [N, 3] of each tree's nodes.
        dimensions: which may have weight.

    Returns:
        The best of all aggregates, weights in {0, 1, 2} and with or without veto; of equals the one with
        the larger margin between right and wrong chains.
    """
    choices = contests(trees, rewards)
    if not choices:
        return Scoring()
    best: tuple[tuple[float, float], Scoring] | None = None
    for how in get_args(Aggregate):
        for weights in _weightings(dimensions):
            for veto in (
                (False, True) if sum(w > 0 for w in weights) > 1 and len(set(weights) - {0.0}) == 1 else (False,)
            ):
                scoring = Scoring(aggregate=how, weights=weights, veto=veto)
                value = _worth(scoring, choices)
                if best is None or value > best[0]:
                    best = (value, scoring)
    assert best is not None
    return best[1]


def _weightings(dimensions: Sequence[int]) -> list[tuple[float, float, float]]:
    found = []
    for chosen in product((0.0, 1.0, 2.0), repeat=len(dimensions)):
        weights = [0.0, 0.0, 0.0]
        for c, w in zip(dimensions, chosen, strict=True):
            weights[c] = w
        if 1.0 in weights:  # without: a multiple of another, or nothing
            found.append((weights[0], weights[1], weights[2]))
    return found


#: Rewards of the chains of a question one after another, their lengths, and which are right.
Contest = tuple[Floats, list[int], NDArray[np.bool_]]


def contests(trees: Sequence[StepTree], rewards: Sequence[Floats]) -> list[Contest]:
    """Return the questions on which there is something to choose: right and wrong chains of policies."""
    return [c for c in map(_contest, trees, rewards) if c is not None]


def share_right(scoring: Scoring, choices: Sequence[Contest]) -> float:
    """Return how often the best-scored chain is right, NaN where there is nothing to choose."""
    return _worth(scoring, choices)[0] if choices else float("nan")


def _contest(tree: StepTree, rewards: Floats) -> Contest | None:
    """Return the rewards, lengths and outcomes of chains to choose among; None if there is no choice."""
    drawn = [i for i, source in enumerate(tree.sources) if source.startswith("policy")] or range(len(tree.chains))
    right = np.array([bool(tree.right[i]) for i in drawn])
    if right.all() or not right.any():
        return None
    chains = [list(tree.chains[i]) for i in drawn]
    return np.concatenate([rewards[c] for c in chains]), [len(c) for c in chains], right


def _worth(scoring: Scoring, choices: Sequence[Contest]) -> tuple[float, float]:
    scores = scoring.value(
        scoring.score_many(np.concatenate([c[0] for c in choices]), np.concatenate([c[1] for c in choices]))
    )
    wins, margins, start = [], [], 0
    for _, lengths, right in choices:
        own = scores[start : start + len(lengths)]
        start += len(lengths)
        wins.append(bool(right[int(np.argmax(own))]))
        margins.append(own[right].max() - own[~right].max())
    return float(np.mean(wins)), float(np.mean(margins))
