"""Vision modules: what programs ask when they look at a picture.

========================= ===========================================================================
`TruthVision`             answers of generated puzzles from what was drawn: the verifier
`CellVision`              planning puzzles from what is in their cells: the verifier of these
`ClassicalVision`         drawn figures from pixels, without learning (extra ``programs``)
`NoisyVision`             another module with errors at a known rate
`AugmentedVision`         another module asked about several views of the picture; how far they agree
`TransformersVision`      detectors and image-text-to-text models of transformers (extra ``models``)
========================= ===========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._things import KINDS, SHADES, SHAPES, Thing, ThingScene, same_answer
from .augmented import VIEWS, AugmentedScene, AugmentedVision, View
from .cells import CellScene, CellVision
from .noisy import NoisyVision, Vision, wrong_answer
from .truth import TruthVision

if TYPE_CHECKING:
    from .classical import ClassicalVision
    from .transformers_vision import ImageTextAnswerer, ObjectDetector, TransformersVision, ZeroShotDetector

_LAZY = {
    "ClassicalVision": "classical",
    "ImageTextAnswerer": "transformers_vision",
    "ObjectDetector": "transformers_vision",
    "TransformersVision": "transformers_vision",
    "ZeroShotDetector": "transformers_vision",
}

__all__ = [
    "KINDS",
    "SHADES",
    "SHAPES",
    "VIEWS",
    "AugmentedScene",
    "AugmentedVision",
    "CellScene",
    "CellVision",
    "ClassicalVision",
    "ImageTextAnswerer",
    "NoisyVision",
    "ObjectDetector",
    "Thing",
    "ThingScene",
    "TransformersVision",
    "TruthVision",
    "View",
    "Vision",
    "ZeroShotDetector",
    "same_answer",
    "wrong_answer",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise ImportError(f"`{name}` needs OpenCV: pip install svip-search[programs]") from error
