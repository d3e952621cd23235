"""Planning puzzles: eight families in the manner of AlgoPuzzleVQA, generated with exact plans and step labels."""

from ._cut import cut
from ._family import Plans, Task, Unreadable
from ._grid import CELL_WORDS, LARGEST, Grid, grid_of
from .corrupt import FAULTS, corrupt
from .generate import FAMILIES, Plan, generate_plan, phrases, vocabulary
from .labels import Follower, is_right, label_steps, trace
from .oracle import PlanOracle
from .states import state_of

__all__ = [
    "CELL_WORDS", "FAMILIES", "FAULTS", "LARGEST", "Follower", "Grid", "Plan", "PlanOracle", "Plans", "Task",
    "Unreadable", "corrupt", "cut", "generate_plan", "grid_of", "is_right", "label_steps", "phrases", "state_of",
    "trace", "vocabulary",
]  # fmt: skip
