"""Visual programs: written block by block, run on the picture, checked, and told as reasoning steps.

=================== ==========================================================================================
generate            ``ProgramGenerator``, ``grow``: a tree of programs; ``PuzzleProgramGenerator`` for the
                    embedded puzzles, ``PlanProgramGenerator`` for plans, ``LlmProgramGenerator`` over a
                    language model
vision              what programs ask when they look at a picture: ``ClassicalVision`` and others
sandbox             ``Sandbox``: runs a program that nobody has read
assess              ``assess.assess``: relevance, logic and attribute correctness of every block
narrate             ``narrate.narrate``: what a block did, as a step of a chain of thought
program_reward      ``ProgramReward``: programs vote on the answer of a path
build               ``build.build``: a labelled data set, resumable
=================== ==========================================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._types import ERROR_KINDS, METHODS, BlockRun, Call, Method, Program, Region, Run, Scene

if TYPE_CHECKING:
    from ._text_models import OpenAITextModel, TextModel, TransformersTextModel
    from .assess import Assessment
    from .build import BuildConfig
    from .generate import ProgramGenerator, ProgramNode, ProgramTree, grow
    from .label import label_programs
    from .llm import LlmProgramGenerator
    from .narrate import Narrator, PolicyNarrator
    from .planning import PlanProgramGenerator
    from .program_reward import ProgramReward
    from .puzzles import PuzzleProgramGenerator
    from .sandbox import Sandbox
    from .vision import (
        AugmentedVision,
        CellVision,
        ClassicalVision,
        NoisyVision,
        TransformersVision,
        TruthVision,
        Vision,
    )

# `assess`, `build` and `narrate` are modules, and functions in them: they are imported from there.
_HOMES = {
    "_text_models": ("OpenAITextModel", "TextModel", "TransformersTextModel"),
    "assess": ("Assessment",),
    "build": ("BuildConfig",),
    "generate": ("ProgramGenerator", "ProgramNode", "ProgramTree", "grow"),
    "label": ("label_programs",),
    "llm": ("LlmProgramGenerator",),
    "narrate": ("Narrator", "PolicyNarrator"),
    "planning": ("PlanProgramGenerator",),
    "program_reward": ("ProgramReward",),
    "puzzles": ("PuzzleProgramGenerator",),
    "sandbox": ("Sandbox",),
    "vision": (
        "AugmentedVision", "CellVision", "ClassicalVision", "NoisyVision", "TransformersVision", "TruthVision",
        "Vision",
    ),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ERROR_KINDS",
    "METHODS",
    "Assessment",
    "AugmentedVision",
    "BlockRun",
    "BuildConfig",
    "Call",
    "CellVision",
    "ClassicalVision",
    "LlmProgramGenerator",
    "Method",
    "Narrator",
    "NoisyVision",
    "OpenAITextModel",
    "PlanProgramGenerator",
    "PolicyNarrator",
    "Program",
    "ProgramGenerator",
    "ProgramNode",
    "ProgramReward",
    "ProgramTree",
    "PuzzleProgramGenerator",
    "Region",
    "Run",
    "Sandbox",
    "Scene",
    "TextModel",
    "TransformersTextModel",
    "TransformersVision",
    "TruthVision",
    "Vision",
    "grow",
    "label_programs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
