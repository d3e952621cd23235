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
from ._drive import Run
from ._errors import (
    BackendUnavailable,
    BudgetExhausted,
    ImageError,
    JournalError,
    ModelFileError,
    PolicyError,
    RewardError,
    SvipSearchError,
    TrainingError,
)
from ._rules import PlanRules, Standing, StateOf
from ._schedule import RunStats, Schedule, Task
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
from .rewards import CallableReward, HybridReward
from .strategies import (
    ABMCTS,
    DVTS,
    MCTS,
    STRATEGIES,
    UCT,
    Action,
    AnnealedBeam,
    Beam,
    BestOfN,
    CritiqueRewrite,
    EmbeddingRetriever,
    Evaluate,
    Example,
    Expand,
    Greedy,
    GuidedGreedy,
    Hybrid,
    Lookahead,
    ParticleFiltering,
    Rebase,
    RefinedBestOfN,
    ReflectiveMCTS,
    RetrievalMCTS,
    Retriever,
    Rollout,
    Round,
    Search,
    SelfConsistency,
    Strategy,
    WeightedVote,
    make,
    reward_critic,
)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ._journal import Journal, new_owner
    from ._video import Frame, Video
    from .datasets.puzzles import Puzzle, generate_puzzle
    from .datasets.puzzlevqa import load_puzzlevqa
    from .evaluation import Report, ShuffledReward, evaluate
    from .models.zoo import list_models, load_policy, load_reward
    from .policies.openai_policy import OpenAIPolicy
    from .policies.transformers_policy import TransformersPolicy
    from .rewards._step_layout import StepFormat
    from .rewards.judge_reward import JudgeReward
    from .rewards.remote_reward import RemoteReward
    from .rewards.rl_reward import RewardFunction, answer_reward, reward_functions, step_rewards
    from .rewards.rule_reward import RuleReward, true_answer
    from .rewards.rules import Rule
    from .rewards.scalar_reward import ScalarReward
    from .rewards.svip_reward import SvipReward
    from .rewards.token_reward import TokenClassificationReward
    from .rewards.weighted_reward import WeightedReward
    from .rewards.yes_no_reward import MarkerStyle, YesNoReward
    from .serving import policy_app, reward_app, serve
    from .viewer import render_html, write_html

# Imported when first used, so that the search itself needs numpy alone.
_LAZY = {
    "Puzzle": "datasets.puzzles",
    "generate_puzzle": "datasets.puzzles",
    "load_puzzlevqa": "datasets.puzzlevqa",
    "Report": "evaluation",
    "ShuffledReward": "evaluation",
    "evaluate": "evaluation",
    "list_models": "models.zoo",
    "load_policy": "models.zoo",
    "load_reward": "models.zoo",
    "TransformersPolicy": "policies.transformers_policy",
    "OpenAIPolicy": "policies.openai_policy",
    "YesNoReward": "rewards.yes_no_reward",
    "MarkerStyle": "rewards.yes_no_reward",
    "TokenClassificationReward": "rewards.token_reward",
    "ScalarReward": "rewards.scalar_reward",
    "StepFormat": "rewards._step_layout",
    "Video": "_video",
    "Frame": "_video",
    "JudgeReward": "rewards.judge_reward",
    "RuleReward": "rewards.rule_reward",
    "true_answer": "rewards.rule_reward",
    "Rule": "rewards.rules",
    "WeightedReward": "rewards.weighted_reward",
    "Journal": "_journal",
    "new_owner": "_journal",
    "RemoteReward": "rewards.remote_reward",
    "policy_app": "serving",
    "reward_app": "serving",
    "serve": "serving",
    "RewardFunction": "rewards.rl_reward",
    "answer_reward": "rewards.rl_reward",
    "reward_functions": "rewards.rl_reward",
    "step_rewards": "rewards.rl_reward",
    "SvipReward": "rewards.svip_reward",
    "render_html": "viewer",
    "write_html": "viewer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "ABMCTS",
    "Action",
    "AnnealedBeam",
    "BackendUnavailable",
    "Beam",
    "BestOfN",
    "Budget",
    "BudgetExhausted",
    "CallablePolicy",
    "CallableReward",
    "Candidate",
    "CritiqueRewrite",
    "DIMENSIONS",
    "DVTS",
    "EmbeddingRetriever",
    "Evaluate",
    "Example",
    "Expand",
    "Frame",
    "Greedy",
    "GuidedGreedy",
    "Hybrid",
    "HybridReward",
    "ImageError",
    "Journal",
    "JournalError",
    "JudgeReward",
    "Lookahead",
    "MarkerStyle",
    "MCTS",
    "ModelFileError",
    "OpenAIPolicy",
    "ParticleFiltering",
    "PlanRules",
    "Policy",
    "PolicyError",
    "ProposeRequest",
    "Puzzle",
    "Question",
    "Rebase",
    "RefinedBestOfN",
    "ReflectiveMCTS",
    "RemoteReward",
    "Report",
    "Result",
    "RetrievalMCTS",
    "Retriever",
    "RewardError",
    "RewardFunction",
    "RewardModel",
    "Rollout",
    "Round",
    "Rule",
    "RuleReward",
    "Run",
    "RunStats",
    "ScalarReward",
    "Schedule",
    "Scoring",
    "Search",
    "SelfConsistency",
    "ShuffledReward",
    "Standing",
    "StateOf",
    "Status",
    "Step",
    "StepFormat",
    "STRATEGIES",
    "Strategy",
    "SvipReward",
    "SvipSearchError",
    "Task",
    "TokenClassificationReward",
    "TrainingError",
    "Trajectory",
    "TransformersPolicy",
    "Tree",
    "UCT",
    "Usage",
    "Video",
    "Vote",
    "WeightedReward",
    "WeightedVote",
    "YesNoReward",
    "__version__",
    "aggregate",
    "answer_reward",
    "asolve",
    "evaluate",
    "extract_answer",
    "generate_puzzle",
    "list_models",
    "load_policy",
    "load_puzzlevqa",
    "load_reward",
    "make",
    "new_owner",
    "policy_app",
    "render_html",
    "reward_app",
    "reward_critic",
    "reward_functions",
    "select_answer",
    "serve",
    "solve",
    "solve_many",
    "step_rewards",
    "step_value",
    "true_answer",
    "write_html",
]
