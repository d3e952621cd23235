"""``svip-search train policy|reward``: trains an embedded model on generated puzzles."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_dataclass_flags, dataclass_from_flags


def add_command(commands: Any, with_flags: bool) -> None:
    """Add the command; the flags of its two kinds come from their configurations, which need torch."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train an embedded policy or reward model",
        description="Train on generated puzzles alone. An interrupted run continues where it stopped.",
    )
    kinds = parser.add_subparsers(metavar="policy|reward", dest="kind", required=True)
    for kind in ("policy", "reward"):
        sub: argparse.ArgumentParser = kinds.add_parser(kind, help=f"train a {kind} model")
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
    from ..training.reward import TrainRewardConfig, train_reward

    return TrainRewardConfig, train_reward
