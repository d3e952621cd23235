"""Programs of the embedded domain: a recipe for each puzzle family, and a generator that follows it or does not."""

from __future__ import annotations

from .generator import MISTAKES, RECIPES, PuzzleProgramGenerator, templates

__all__ = ["MISTAKES", "RECIPES", "PuzzleProgramGenerator", "templates"]
