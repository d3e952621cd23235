"""Search over reasoning steps at inference time, guided by a step-wise reward model.

::

    from svip_search import Budget, MCTS, Question, load_policy, load_reward, solve

    question = Question("What comes next?", images=["puzzle.png"], options=["red", "blue"])
    result = solve(question, load_policy(folder), load_reward(folder), MCTS(), Budget(tokens=4096))
    print(result.answer)

Names that need torch or transformers are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._aggregate import Scoring, aggregate, step_value
from ._budget import Budget, Usage
from ._errors import (
    BackendUnavailable,
    BudgetExhausted,
    ImageError,
    ModelFileError,
    PolicyError,
    RewardError,
    SvipSearchError,
)
from ._solve import asolve, solve, solve_many
from ._tree import Status, Tree
from ._types import (
    DIMENSIONS,
    Candidate,
    Policy,
    ProposeRequest,
    Question,
    Result,
    RewardModel,
    Step,
    Trajectory,
    Vote,
)
from ._vote import extract_answer, select_answer
from .policies import CallablePolicy
from .rewards import CallableReward
from .strategies import (
    MCTS,
    STRATEGIES,
    Beam,
    BestOfN,
    Evaluate,
    Expand,
    Greedy,
    Rollout,
    Search,
    SelfConsistency,
    Strategy,
    WeightedVote,
    make,
)

__version__ = "0.1.0"
