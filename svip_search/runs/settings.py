"""What could change the results of a run, as plain JSON values: its fingerprint.

Part of it are the strategy with all its fields, the budget, the seed and who the models are.  No part of
it are the questions (each has a digest of its own), where a server stands, how many processes there are,
and everything else that changes how long a run takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

from .._budget import Budget
from ..strategies import Strategy

#: Version of what a journal of a run holds; journals of another one are not continued.
FORMAT = 1
#: Attributes of a model that say where it is and how fast, not what it answers.
IRRELEVANT = frozenset((
    "usage", "slots", "concurrent_calls", "batch_size", "max_rows", "cache_tokens", "base_url", "url", "urls",
    "api_key", "timeout", "retries", "max_bytes", "stats", "device", "backend", "calls", "served", "name", "notes",
    "counters", "batch", "cache", "cache_size",
))  # fmt: skip
#: Of a larger file of weights only the ends are read.
_WHOLE = 64 << 20
_END = 1 << 20


def fingerprint(
    strategy: Strategy, budget: Budget | None, seed: int, policy: Any, reward: Any, **more: Any
) -> dict[str, Any]:
    """Return the settings that could change results, as plain JSON values.

    Args:
        strategy: with all its fields.
        budget: of each search.
        seed: of the run.
        policy: who it is, see `model_identity` and `folder_identity`.
        reward: the same, or None.
        more: anything else that could.

    Example:
        >>> from svip_search import BestOfN
        >>> settings = fingerprint(BestOfN(n=4), None, 0, {"name": "puzzle-nano"}, None)
        >>> settings["strategy"]["n"], settings["budget"]
        (4, None)
    """
    chosen = {"name": strategy.name, **{f.name: _plain(getattr(strategy, f.name)) for f in fields(strategy)}}
    if chosen.get("rules") is None:  # runs that began before there were rules go on
        chosen.pop("rules", None)
    limits = None if budget is None else asdict(budget)
    settings = {"format": FORMAT, "strategy": chosen, "budget": limits, "seed": seed, "policy": policy}
    plain: dict[str, Any] = json.loads(json.dumps({**settings, "reward": reward, **more}))
    return plain


def digest(settings: Mapping[str, Any]) -> str:
    """Return 32 characters that stand for settings."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def model_identity(model: Any) -> dict[str, Any] | None:
    """Return who a model is: its class, and its public attributes that are plain values, or models themselves.

    A model that has an attribute ``identity``, a mapping, is taken at its word.

    Example:
        >>> from svip_search.testing import HashReward
        >>> model_identity(HashReward(seed=3))
        {'class': 'svip_search.testing.HashReward', 'kind': 'prm', 'seed': 3}
    """
    if model is None:
        return None
    if isinstance(identity := getattr(model, "identity", None), Mapping):
        return {str(name): _plain(value) for name, value in identity.items()}
    known = {n: v for n, v in sorted(_attributes(model).items()) if n not in IRRELEVANT and not n.startswith("_")}
    plain = {n: v if isinstance(v, (str, int, float, bool)) else _plain(v) for n, v in known.items() if _is_plain(v)}
    return {"class": _name_of(type(model)), **plain}


def folder_identity(folder: str | PathLike[str]) -> str:
    """Return a digest of the files of a model's folder: of their content, of large ones size and both ends."""
    found = blake2b(digest_size=16)
    root = Path(folder)
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")):
        found.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        _read_into(found, path)
    return found.hexdigest()


def _read_into(found: Any, path: Path) -> None:
    with path.open("rb") as stream:
        if path.stat().st_size <= _WHOLE:
            while block := stream.read(_END):
                found.update(block)
            return
        found.update(stream.read(_END))
        stream.seek(-_END, os.SEEK_END)
        found.update(stream.read(_END))


def _attributes(model: Any) -> dict[str, Any]:
    """Return the attributes of an object, those of its class that say what it is included."""
    own = dict(vars(model)) if hasattr(model, "__dict__") else {}
    # Not the instance's: a remote model may have to ask its server.
    return {"kind": type(model).kind, **own} if isinstance(getattr(type(model), "kind", None), str) else own


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool)) or is_dataclass(value) or _is_model(value)


def _is_model(value: Any) -> bool:
    """Whether a value is one of several models that make up another."""
    calls = ("propose", "apropose", "evaluate", "aevaluate_many")
    return not isinstance(value, type) and any(callable(getattr(value, name, None)) for name in calls)


def _plain(value: Any) -> Any:
    """Return JSON values that say what a setting is."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, Sequence):
        return [_plain(one) for one in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return _name_of(value)
    return model_identity(value)


def _name_of(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
