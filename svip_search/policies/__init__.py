"""Ways to reach a policy, one file each."""

from __future__ import annotations

from .callable_policy import CallablePolicy

__all__ = ["CallablePolicy"]
