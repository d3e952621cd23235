"""Servers around the library's own models: policies that speak OpenAI's protocol, and reward models."""

from __future__ import annotations

from ._limits import Limits
from ._serve import running, serve
from .policy_server import policy_app
from .reward_server import reward_app

__all__ = ["Limits", "policy_app", "reward_app", "running", "serve"]
