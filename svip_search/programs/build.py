"""Builds SVIP-Train and SVIP-Test: programs of many questions, run, labelled and told as reasoning steps.

::

    for each puzzle:                                               # of the split, by its scene
        tree     = grow(generator, question)                       # some right blocks, some wrong ones
        labelled = assess(paths of the tree, scene, verifier)      # two runs a program at most
        records += narrated, one a distinct trajectory; and the policy's own samples, if there is one

of a planning puzzle also its generator's own chains, and all labels are exact (`_make_plans`).

A data set is a folder of shards.  What is in a shard depends on the settings and its number alone; a shard gets
its name when it is complete, so that a build that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .. import __version__
from ..datasets._drawn import generator_version
from ..datasets.svip import VERSION, replacing, write_svip
from ._make import SPLITS, BuildConfig, Worker, split_of
from ._processes import work
from .card import write_card

__all__ = ["BuildConfig", "build", "fingerprint", "split_of"]

#: Called with (trajectories done, in all, a text).
Progress = Callable[[int, int, str], None]

_PLACES = ("out", "jobs", "parquet")  # settings that change no record
_Shard = tuple[str, str, int, int]  # name, split, number, trajectories


def build(config: BuildConfig, progress: Progress | None = None) -> Path:
    """Build a data set, or finish one that was begun, and return its folder.

    Args:
        config: what to build.
        progress: called with (trajectories done, in all, a text).

    Returns:
        The folder: ``train-*.jsonl``, ``test-*.jsonl``, ``settings.json`` and the data card, ``README.md`` and
        ``card.json``.

    Raises:
        ValueError: the folder holds a data set of other settings.
        OSError: a file cannot be written, as on a full disk, or another build is at work there.  What is
            finished stays; the same call goes on.

    Notes:
        The same settings give the same bytes, whatever ``jobs`` is and however often it was interrupted.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        _settle(config, out)
        shards = _shards(config)
        missing = [shard for shard in shards if not _finished(config, out, shard[0])]
        done = sum(size for *_, size in shards) - sum(size for *_, size in missing)
        tell = progress or (lambda *_: None)
        tell(done, config.n, "trajectories")
        for size in work(partial(Worker, config), _make_shard, missing, config.jobs):
            done += size
            tell(done, config.n, "trajectories")
        write_card(out)
    return out


# ---- shards ------------------------------------------------------------------------------------------


def _shards(config: BuildConfig) -> list[_Shard]:
    test = round(config.n * config.test_share)
    return [
        (f"{split}-{number:05}", split, number, min(config.shard, total - number * config.shard))
        for split, total in zip(SPLITS, (config.n - test, test), strict=True)
        for number in range(math.ceil(total / config.shard))
    ]


def _finished(config: BuildConfig, out: Path, name: str) -> bool:
    kinds = ("jsonl", "parquet") if config.parquet else ("jsonl",)
    return all((out / f"{name}.{kind}").exists() for kind in kinds)


def _make_shard(worker: Worker, shard: _Shard) -> int:
    """Write one shard and return how many trajectories are in it."""
    name, split, number, size = shard
    config, records = worker.config, worker.shard(split, number, size)
    out = Path(config.out)
    try:
        if config.parquet:  # first, so that a finished .jsonl means a finished shard
            write_svip(records, out / f"{name}.parquet")
        write_svip(records, out / f"{name}.jsonl")
    except OSError as error:
        reason = f"{error.strerror or error} while writing {name}; the same command goes on from here"
        raise OSError(error.errno, reason, str(out)) from None
    return len(records)


# ---- the folder --------------------------------------------------------------------------------------


def fingerprint(settings: dict[str, Any]) -> str:
    """Return a short name for settings."""
    return blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()


def _settings(config: BuildConfig) -> dict[str, Any]:
    """Return all that the records depend on."""
    chosen = {name: value for name, value in asdict(config).items() if name not in _PLACES}
    chosen |= {"families": list(config.families), "moves": list(config.moves)}
    if config.domain == "puzzles":  # as it was before there were others: a folder that was begun can be finished
        del chosen["domain"], chosen["moves"]
    return chosen | {"format": VERSION, "generator": generator_version(config.domain), "svip_search": __version__}


def _settle(config: BuildConfig, out: Path) -> None:
    """Write the settings down, or compare them with those that the folder was begun with."""
    wanted = _settings(config)
    path = out / "settings.json"
    for left in out.glob(".*.tmp"):  # of a build that was killed
        left.unlink(missing_ok=True)
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"`out` must be a folder of this command; '{path}' is none of its files.") from None
        differ = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
        if differ:
            told = ", ".join(f"{name} {found.get(name)!r} there and {wanted.get(name)!r} here" for name in differ)
            raise ValueError(
                f"`out` must hold a data set of the same settings; '{out}' has fingerprint {fingerprint(found)}, "
                f"this build {fingerprint(wanted)}: {told}."
            )
        return
    with replacing(path) as stream:
        text = json.dumps({"fingerprint": fingerprint(wanted), "settings": wanted}, indent=1)
        stream.write((text + "\n").encode())


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder: two builds in it would do the same work twice."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system; shards are replaced whole all the same
        yield
        return
    with (out / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(error.errno, "another build is at work in", str(out)) from None
        yield
