"""Visual programs: written block by block, run on the picture, checked, and told as reasoning steps."""

from __future__ import annotations

from ._types import ERROR_KINDS, METHODS, BlockRun, Call, Method, Program, Region, Run, Scene

__all__ = ["ERROR_KINDS", "METHODS", "BlockRun", "Call", "Method", "Program", "Region", "Run", "Scene"]
