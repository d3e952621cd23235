"""Kinds of reward models, one file each."""

from __future__ import annotations

from .callable_reward import CallableReward
from .hybrid_reward import HybridReward

__all__ = ["CallableReward", "HybridReward"]
