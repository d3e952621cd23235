"""Kinds of reward models, one file each."""

from __future__ import annotations

from .callable_reward import CallableReward

__all__ = ["CallableReward"]
