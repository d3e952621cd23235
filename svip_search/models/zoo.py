"""The models that come with the package, and how a name or a folder becomes a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import ModelFileError

if TYPE_CHECKING:
    from ..policies.transformers_policy import TransformersPolicy
    from ..rewards.svip_reward import SvipReward

_DESCRIPTIONS = {
    "puzzle-nano": ("policy", "smallest vision-language policy for pattern puzzles"),
    "puzzle-tiny": ("policy", "vision-language policy for pattern puzzles"),
    "plan-nano": ("policy", "smallest vision-language policy for planning puzzles"),
    "plan-small": ("policy", "vision-language policy for planning puzzles"),
    "svip-tiny": ("reward", "SVIP-Reward for the steps of pattern puzzles"),
    "svip-plan": ("reward", "SVIP-Reward for the steps of planning puzzles"),
}


#: Tokens whose keys and values an embedded model keeps: half a gigabyte at four kilobytes a token.
EMBEDDED_CACHE = 131_072


@dataclass(frozen=True)
class ModelCard:
    """An embedded model: ``training`` holds seed, samples, hardware and time of its training."""

    name: str
    kind: str
    description: str
    parameters: int
    path: Path
    training: dict[str, Any]


def weights_folder() -> Path:
    """Return the folder of the embedded weights."""
    return Path(str(resources.files("svip_search") / "weights"))


def list_models() -> list[ModelCard]:
    """Return the cards of the embedded models, policies first.

    Example:
        >>> [m.name for m in list_models()]
        ['puzzle-nano', 'puzzle-tiny', 'plan-nano', 'plan-small', 'svip-tiny', 'svip-plan']
    """
    cards = []
    for name, (kind, description) in _DESCRIPTIONS.items():
        path = weights_folder() / name
        if not path.is_dir():
            continue
        training = json.loads((path / "training.json").read_text(encoding="utf-8"))
        cards.append(ModelCard(name, kind, description, training["parameters"], path, training))
    return cards


def model_folder(name: str, kind: str) -> str:
    """Return the folder of an embedded model, or ``name`` itself for a folder or hub id."""
    known = {c.name: c for c in list_models()}
    if name in known:
        if known[name].kind != kind:
            raise ModelFileError(f"`{kind}` must name a {kind} model; {name!r} is a {known[name].kind}.")
        return str(known[name].path)
    if Path(name).is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return name
    choices = "".join(f"{n}, " for n, c in known.items() if c.kind == kind)
    raise ModelFileError(f"`{kind}` must be {choices}a model folder or a hub id; got {name!r}.")


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Show no progress bar where an embedded model loads, and no report but the error of one line."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled() and name in _DESCRIPTIONS, logging.get_verbosity()
    if shown:
        logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def load_policy(name: str, **options: Any) -> TransformersPolicy:
    """Return a policy by the name of an embedded model, a local folder or a hub id.

    Args:
        name: ``"puzzle-nano"``, ``"puzzle-tiny"``, ``"plan-nano"``, ``"plan-small"``, a folder, or ``owner/model``.
        options: for ``TransformersPolicy.load``.

    Raises:
        ModelFileError: there is no such model, or its files are corrupt.
    """
    from ..policies.transformers_policy import TransformersPolicy
    from . import plan_processor, puzzle_processor  # noqa: F401  registers the embedded classes

    if name in _DESCRIPTIONS:
        options.setdefault("cache_tokens", EMBEDDED_CACHE)
    with _quiet(name):
        return TransformersPolicy.load(model_folder(name, "policy"), **options)


def reward_for(policy: str) -> str:
    """Return the embedded reward model that goes with a policy: that of planning puzzles for ``plan-…``.

    Example:
        >>> reward_for("plan-nano"), reward_for("puzzle-tiny"), reward_for("http://host/v1")
        ('svip-plan', 'svip-tiny', 'svip-tiny')
    """
    return "svip-plan" if Path(policy).name.startswith("plan-") else "svip-tiny"


def load_reward(name: str, **options: Any) -> SvipReward:
    """Return a reward model by the name of an embedded model or a local folder.

    Args:
        name: ``"svip-tiny"``, ``"svip-plan"`` or a folder written by ``SvipReward.save``.
        options: for ``SvipReward.load``.

    Raises:
        ModelFileError: there is no such model, or its files are corrupt.
    """
    from ..rewards.svip_reward import SvipReward
    from . import plan_processor, puzzle_processor  # noqa: F401  registers the embedded classes

    if name in _DESCRIPTIONS:
        options.setdefault("cache_tokens", EMBEDDED_CACHE)
    with _quiet(name):
        return SvipReward.load(model_folder(name, "reward"), **options)
