"""``svip-search train policy|reward|ablations``: trains models, and compares the parts of the reward model."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_dataclass_flags, dataclass_from_flags

_KINDS = {
    "policy": "train an embedded policy on generated puzzles",
    "reward": "train a reward model on labelled trajectories (svip-search data build)",
    "ablations": "train variants of the reward model's head side by side and write a table",
}


def add_command(commands: Any, with_flags: bool) -> None:
    """Add the command; the flags of its two kinds come from their configurations, which need torch."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a policy or a reward model",
        description="Train models. An interrupted run continues where it stopped.",
    )
    kinds = parser.add_subparsers(metavar="|".join(_KINDS), dest="kind", required=True)
    for kind, meaning in _KINDS.items():
        sub: argparse.ArgumentParser = kinds.add_parser(kind, help=meaning, description=meaning)
        sub.add_argument("--debug", action="store_true", help="show where an error came from")
        if with_flags:
            add_dataclass_flags(sub, _parts(kind)[0])
        sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train with a progress bar and say where the model is."""
    from ._progress import training_bar
    from ._show import console

    config_type, train = _parts(arguments.kind)
    config = dataclass_from_flags(arguments, config_type)
    with training_bar(arguments.kind) as progress:
        folder = train(config, progress=progress)
    console().print(f"saved to {folder}", markup=False)
    return 0


def _parts(kind: str) -> tuple[type[Any], Any]:
    if kind == "policy":
        from ..training.policy import TrainPolicyConfig, train_policy

        return TrainPolicyConfig, train_policy
    if kind == "ablations":
        from ..training.ablations import AblationConfig, train_ablations

        return AblationConfig, train_ablations
    from ..training.reward import TrainRewardConfig, train_reward

    return TrainRewardConfig, train_reward
