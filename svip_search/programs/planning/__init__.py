"""Programs of planning puzzles: one move a block, written along shortest plans or not, told as steps of the domain."""

from __future__ import annotations

from ._families import RECIPES
from .generator import MISTAKES, PlanProgramGenerator, Proposal
from .narrate import narrate_plan

__all__ = ["MISTAKES", "RECIPES", "PlanProgramGenerator", "Proposal", "narrate_plan"]
