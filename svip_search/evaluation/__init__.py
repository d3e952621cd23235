"""Accuracy of strategies on a set of questions, at equal cost, with intervals."""

from ._report import Report
from ._run import evaluate
from ._shuffled import ShuffledReward

__all__ = ["Report", "ShuffledReward", "evaluate"]
