"""Generated pattern puzzles: twenty families, deterministic by seed, with scene truth and steps."""

from __future__ import annotations

from ._canvas import SceneObject
from ._family import Family, Inconsistent
from .generate import FAMILIES, Puzzle, generate_puzzle, vocabulary

__all__ = ["FAMILIES", "Family", "Inconsistent", "Puzzle", "SceneObject", "generate_puzzle", "vocabulary"]
