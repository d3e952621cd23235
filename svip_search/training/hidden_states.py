"""Hidden states of step trees on disk: a backbone reads every tree once, heads train on what it saw.

A folder of *shards*; each holds some trees, is written whole under a name made of its content, and never
changes.  What is in a folder is what its shards say, so there is no index that could be lost or lie::

    states-<digest>.safetensors
        hidden     [T, D]     the tokens of all its trees: prompt, node 0, node 1, …
        surprise   [T]        float32, how unlikely the backbone held each token
        segment    [T]        uint8
        token_ptr  [P + 1]    the tokens of each prompt and node
        tree_ptr   [K + 1]    the prompts and nodes of each tree
        metadata              version, fingerprint of the backbone, type of the numbers, key of each tree

A process that is killed leaves at most a temporary file and loses the trees since the last shard.  Reading
maps the shards and copies the trees of a batch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._errors import TrainingError
from .._types import Question
from ..datasets.svip import replacing
from ..models.prompt import build_inputs, encode_step
from ..rewards.svip_reward import SvipReward
from .step_trees import StepTree

#: Of the files; one that differs is refused.
VERSION = "1"
StatesType = Literal["float16", "bfloat16", "float32"]
#: Called with trees done, trees to do, and what it costs.
Report = Callable[[int, int, str], None]
#: A shard is written when it holds so much or is so old: what a kill may cost.
SHARD_BYTES, SHARD_SECONDS = 256 << 20, 120.0
_SAMPLED_TREES = 32


@dataclass(frozen=True)
class Estimate:
    """What a cache of some trees needs, extrapolated from a sample of them.

    Attributes:
        trees: number of trees.
        trajectories: number of chains of thought in them.
        tokens: tokens of prompts and nodes, each once.
        bytes: on disk.
    """

    trees: int
    trajectories: int
    tokens: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.trees} trees, {self.tokens} tokens, {_size(self.bytes)}"


@dataclass(frozen=True, eq=False)
class TreeStates:
    """What the backbone makes of one tree.

    Attributes:
        hidden: float32 [T, D], prompt first, then node after node.
        surprise: float32 [T].
        segment: uint8 [T].
        token_ptr: int64 [1 + N + 1], the tokens of the prompt and of each node.
    """

    hidden: Tensor
    surprise: Tensor
    segment: NDArray[np.uint8]
    token_ptr: NDArray[np.int64]


@dataclass(frozen=True)
class _Place:
    """Where a tree lies: rows of ``token_ptr`` in a shard."""

    path: Path
    first: int
    stop: int


class HiddenStateCache:
    """The hidden states of step trees under one backbone, computed once and kept in a folder.

    Args:
        folder: of the shards; made when the first is written.
        reward: the model whose ``hidden_states`` are kept; its head does not matter.
        dtype: of the numbers on disk.  ``float16`` rounds each by at most 1/2048 of itself and
            ``bfloat16`` by 1/256; ``float32`` keeps those of a float32 backbone as they are.
        shard_bytes: of hidden states, after which a shard is written; as much is held in memory.

    Raises:
        ValueError: ``dtype`` is another.

    Notes:
        Equal trees (question, pictures, steps) have one entry, whatever their labels.  A picture in a file
        counts by name, size and time of change.  Several processes may fill one folder.

    Example:
        >>> import tempfile
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> from svip_search.rewards._triatt_cot import TriAttCoT
        >>> from svip_search.training.step_trees import record_of_chain, step_trees
        >>> processor = new_processor()
        >>> reward = SvipReward(new_model("puzzle-nano", processor), processor, TriAttCoT(80))
        >>> puzzle = generate_puzzle(0, 0)
        >>> trees = step_trees([record_of_chain(puzzle, puzzle.steps)])
        >>> cache = HiddenStateCache(tempfile.mkdtemp(), reward)
        >>> cache.fill(trees), cache.fill(trees)
        (1, 0)
        >>> cache.read(trees[0]).hidden.shape[1]
        80
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        reward: SvipReward,
        dtype: StatesType = "float16",
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        if dtype not in get_args(StatesType):
            raise ValueError(f"`dtype` must be one of {list(get_args(StatesType))}; got {dtype!r}.")
        self.folder, self.reward = Path(folder), reward
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.shard_bytes = shard_bytes
        self._places: dict[str, _Place] | None = None
        self._damaged: list[Path] = []
        self._fingerprint = ""
        self._open = lru_cache(maxsize=64)(_open)

    @property
    def fingerprint(self) -> str:
        """A name for the backbone and how it is prompted: equal names, equal states."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(self.reward.backbone, self.reward.processor)
        return self._fingerprint

    def estimate(self, trees: Sequence[StepTree]) -> Estimate:
        """Return what the states of some trees need on disk."""
        step = max(1, len(trees) // _SAMPLED_TREES)
        sampled = [self._tokens(tree) for tree in trees[::step]]
        tokens = round(float(np.mean(sampled)) * len(trees)) if sampled else 0
        width = int(self.reward.backbone.config.get_text_config().hidden_size)
        a_token = width * self.dtype.itemsize + 4 + 1
        return Estimate(len(trees), sum(len(t.chains) for t in trees), tokens, tokens * a_token)

    def missing(self, trees: Sequence[StepTree]) -> list[StepTree]:
        """Return the trees, each once, whose states are not there.

        Raises:
            TrainingError: the folder holds states of another backbone, type or version.
        """
        known = self._index()
        return list({key: tree for tree in trees if (key := tree_key(tree)) not in known}.values())

    def fill(self, trees: Sequence[StepTree], progress: Report | None = None) -> int:
        """Compute what is missing, and return how many trees that were.

        Raises:
            TrainingError: as `missing`; a number does not fit the type; or the disk is too small.
            RewardError, ImageError: the backbone cannot read a tree.
        """
        todo = self.missing(trees)
        if not todo:
            return 0
        expected = self.estimate(todo)
        self._make_room(expected)
        shard, started, written, begun = _Shard(self.dtype), time.monotonic(), 0, time.monotonic()
        try:
            for done, tree in enumerate(todo):
                if progress is not None:
                    progress(done, len(todo), _text(expected, done, len(todo), time.monotonic() - begun))
                shard.add(tree_key(tree), self._states(tree))
                if shard.bytes >= self.shard_bytes or time.monotonic() - started > SHARD_SECONDS:
                    written += self._write(shard)
                    shard, started = _Shard(self.dtype), time.monotonic()
        finally:  # what was computed before a fault is kept
            written += self._write(shard)
        if progress is not None:
            progress(len(todo), len(todo), f"{_size(written)} of hidden states written")
        return len(todo)

    def read(self, tree: StepTree) -> TreeStates:
        """Return the states of a tree.

        Raises:
            KeyError: they are not there.
            TrainingError: the file was damaged since it was opened.
        """
        place = self._index()[tree_key(tree)]
        shard, token_ptr = self._open(place.path)
        ptr = token_ptr[place.first : place.stop + 1]
        own = slice(int(ptr[0]), int(ptr[-1]))
        hidden: Tensor = shard.get_slice("hidden")[own]
        segment: Tensor = shard.get_slice("segment")[own]
        return TreeStates(hidden.float(), shard.get_slice("surprise")[own], segment.numpy(), ptr - ptr[0])

    def _tokens(self, tree: StepTree) -> int:
        processor = self.reward.processor
        prompt = build_inputs(processor, tree.question())["input_ids"].shape[1]
        return int(prompt) + sum(len(encode_step(processor.tokenizer, text)) for text in tree.steps)

    def _states(self, tree: StepTree) -> TreeStates:
        paths = [tree.path(n) for n in range(len(tree))]
        found = self.reward.hidden_states(tree.question(), paths)
        parts = [found[()], *(found[path] for path in paths)]
        return TreeStates(
            torch.cat([p.hidden for p in parts]), torch.cat([p.surprise for p in parts]),
            np.concatenate([p.segments for p in parts]), np.cumsum([0, *(len(p.hidden) for p in parts)]),
        )  # fmt: skip

    def _write(self, shard: _Shard) -> int:
        if not shard.keys:
            return 0
        data = save(shard.tensors(), {**self._facts(), "keys": json.dumps(shard.keys)})
        path = self.folder / f"states-{blake2b(''.join(shard.keys).encode(), digest_size=10).hexdigest()}.safetensors"
        with replacing(path) as stream:
            stream.write(data)
        self._index().update(_places(path, shard.keys, shard.tree_ptr))
        return len(data)

    def _facts(self) -> dict[str, str]:
        dtype = str(self.dtype).removeprefix("torch.")
        return {"format": "svip-hidden-states", "version": VERSION, "dtype": dtype, "backbone": self.fingerprint}

    def _index(self) -> dict[str, _Place]:
        if self._places is None:
            places: dict[str, _Place] = {}
            for path in sorted(self.folder.glob("states-*.safetensors")):
                places.update(self._look_into(path))
            self._places = places
        return self._places

    def _look_into(self, path: Path) -> dict[str, _Place]:
        """Return the trees of a shard, none where it is damaged: it will be written again."""
        try:
            with safe_open(path, "pt") as shard:
                found: dict[str, str] = shard.metadata() or {}
                tree_ptr = shard.get_tensor("tree_ptr").tolist()
                keys: list[str] = json.loads(found["keys"])
        except (OSError, SafetensorError, KeyError, ValueError):
            self._damaged.append(path)
            return {}
        for name, wanted in self._facts().items():
            if found.get(name) != wanted:
                raise TrainingError(
                    f"{self.folder} must hold hidden states of {name} {wanted!r}; {path.name} has {found.get(name)!r} "
                    "(use another folder, or delete this one)."
                )
        return dict(_places(path, keys, tree_ptr))

    def _make_room(self, expected: Estimate) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self._damaged:
            path.unlink(missing_ok=True)
        self._damaged.clear()
        for path in self.folder.glob(".states-*.tmp"):  # left by a process that was killed
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)
        disk = os.statvfs(self.folder)
        if (free := disk.f_bavail * disk.f_frsize) < expected.bytes:
            raise TrainingError(f"{self.folder} must have room for {expected}; the disk has {_size(free)} left.")


class _Shard:
    """Trees that will be written as one file."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.bytes = dtype, 0
        self.keys: list[str] = []
        self.trees: list[TreeStates] = []
        self.tree_ptr = [0]

    def add(self, key: str, states: TreeStates) -> None:
        hidden = states.hidden.to(self.dtype).cpu()
        if not bool(torch.isfinite(hidden).all()):
            raise TrainingError(
                f"hidden states must be finite in {self.dtype}; the backbone reaches "
                f"{float(states.hidden.abs().max()):.3g} (bfloat16 and float32 hold more)."
            )
        self.keys.append(key)
        self.trees.append(TreeStates(hidden, states.surprise.cpu(), states.segment, states.token_ptr))
        self.tree_ptr.append(self.tree_ptr[-1] + len(states.token_ptr) - 1)
        self.bytes += hidden.nbytes

    def tensors(self) -> dict[str, Tensor]:
        sizes = np.concatenate([np.diff(t.token_ptr) for t in self.trees])
        return {
            "hidden": torch.cat([t.hidden for t in self.trees]),
            "surprise": torch.cat([t.surprise for t in self.trees]),
            "segment": torch.from_numpy(np.concatenate([t.segment for t in self.trees])),
            "token_ptr": torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
            "tree_ptr": torch.tensor(self.tree_ptr),
        }


def _places(path: Path, keys: Sequence[str], tree_ptr: Sequence[int]) -> Iterator[tuple[str, _Place]]:
    for key, (first, stop) in zip(keys, pairwise(tree_ptr), strict=True):
        yield key, _Place(path, first, stop)


def _open(path: Path) -> tuple[Any, NDArray[np.int64]]:
    try:
        shard: Any = safe_open(path, "pt")
        return shard, shard.get_tensor("token_ptr").numpy()
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} was changed while it was in use: {error}.") from None


def _text(expected: Estimate, done: int, todo: int, seconds: float) -> str:
    rate = f", {done / seconds:.1f} trees/s" if done and seconds > 0 else ""
    return f"hidden states: {_size(expected.bytes * done // todo)} of about {_size(expected.bytes)}{rate}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


# ---- names ---------------------------------------------------------------------------------------------


def tree_key(tree: StepTree) -> str:
    """Return a name for what a backbone reads of a tree: question, pictures and steps, not its labels."""
    record = tree.record
    asked = [record.question, record.options, *(_picture(record.folder, i, record.generator) for i in record.images)]
    digest = blake2b(digest_size=16)
    digest.update(json.dumps([asked, tree.steps, tree.parent.tolist()]).encode())
    return digest.hexdigest()


def _picture(folder: Path, image: Any, generator: str) -> Any:
    if not isinstance(image, str):
        return [generator, image]
    path = folder / image
    stat = path.stat() if path.exists() else None
    return [image, stat and (stat.st_size, stat.st_mtime_ns)]


def fingerprint(backbone: Any, processor: Any) -> str:
    """Return a name for a backbone and its processor, from their settings and every weight.

    Notes:
        Each tensor is read once: its bits are summed exactly, so that one weight more or less tells, and a
        sample of it stands as it is, so that their order does.
    """
    digest = blake2b(digest_size=16)
    settings = [_settings(backbone.config.to_dict()), _prompting(processor)]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, tensor in sorted(backbone.state_dict().items()):
            digest.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(_digest(tensor))
    return digest.hexdigest()


def _settings(config: Any) -> Any:
    """Return a configuration without what saving and loading change."""
    if not isinstance(config, dict):
        return config
    vague = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
    return {str(k): _settings(v) for k, v in config.items() if k not in vague}


def _digest(tensor: Tensor) -> bytes:
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().contiguous().flatten().view(bits)
    sample = flat[:: max(1, len(flat) // 256)].cpu().numpy().tobytes()
    return int(flat.sum(dtype=torch.int64)).to_bytes(8, "little", signed=True) + sample


def _prompting(processor: Any) -> list[Any]:
    """Return what tells one way to prompt from another, a question and a step as they arrive among it."""
    picture = np.zeros((64, 96, 3), np.uint8)
    asked = getattr(processor, "example", "How many?")
    inputs = build_inputs(processor, Question(asked, images=[picture], options=("1", "two")))
    images: Any = getattr(processor, "image_processor", None)
    return [
        {k: list(v.shape) for k, v in inputs.items() if isinstance(v, Tensor)},
        inputs["input_ids"].tolist(),
        encode_step(processor.tokenizer, "There are 2 red circles."),
        images.to_dict() if hasattr(images, "to_dict") else None,
    ]
