"""SvipReward: a vision-language backbone with TriAtt-CoT on its hidden states.

Scoring is incremental.  Every prefix of steps is a node; its keys and values, those of the backbone
and those of TriAtt-CoT, are kept, so a picture is encoded once a question and a step runs through
the backbone once.  What is new in a call is cut into *runs*, chains of new steps without a fork, and
all runs whose beginning is known go through the backbone together, those of several questions too:

    while steps are missing:
        runs  = maximal unforked chains of missing steps below known ones
        batch = the known keys and values of their paths, padded on the left
        keep the new keys, values and queries of backbone(runs | batch)
    score all new nodes with one call of the kernel `triatt`, which reads what it was given before in place
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from .._aggregate import Scoring
from .._budget import Usage
from .._errors import ModelFileError, RewardError, SvipSearchError
from .._question_key import question_key
from .._types import Prefix, Question
from ..models.kv_cache import KeyValues, Node, PrefixTrie
from ..models.low_rank import read_updates
from ._reading import Piece, Reader, Reading, States, image_token, read_states
from ._triatt_cot import C, TriAttConfig, TriAttCoT
from ._triatt_memory import TriattMemory, triatt_memory

__all__ = ["SvipReward", "image_token"]

CONFIG, HEAD, BACKBONE = "config.json", "head.safetensors", "backbone"
#: Low-rank updates of a backbone that is saved elsewhere; a configuration that names them has version 2.
ADAPTER = "adapter"


class SvipReward:
    """A process reward model: relevance, logic and attribute rewards of every step of a path.

    Args:
        backbone: an image-text-to-text model of transformers with ordinary attention layers.
        processor: its processor.
        head: the TriAtt-CoT module; its ``hidden_size`` is the width of the backbone.
        cache_tokens: tokens whose keys and values are kept, over all questions: steps go before prompts,
            least recently used first (see `PrefixTrie`); 0 keeps none.
        batch_size: most runs of steps in one pass through the backbone.
        scoring: how strategies should fold its rewards into a score, where they are not told.
        thresholds: of each dimension, the reward above which a step is held to be right, where a yes or no is
            asked for; None: one half.
        backend: backend of the kernel, see ``svip_search.kernels.explain("triatt")``.

    Attributes:
        kind: ``"prm"``.
        usage: grows with every call.  ``reward_tokens`` counts the tokens that ran through the
            backbone, ``cached_reward_tokens`` those of paths and prompts that did not have to.

    Raises:
        ValueError: ``head`` does not fit ``backbone``, or a number is out of range.

    Notes:
        Rewards depend on question and path alone; batching changes them by rounding only (below
        3e-5 in float32).  A call from several threads is legal, one at a time runs.  After
        changing weights call ``clear()``.

    Example:
        >>> import numpy as np
        >>> from svip_search._types import Question
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> processor = new_processor()
        >>> reward = SvipReward(new_model("puzzle-nano", processor), processor, TriAttCoT(hidden_size=80))
        >>> question = Question("what is missing ?", images=[np.zeros((128, 128, 3), np.uint8)])
        >>> [r.shape for r in reward.evaluate(question, [("it is red",), ("it is red", "answer : 1")])]
        [(1, 3), (2, 3)]
    """

    kind: Literal["prm", "orm"] = "prm"

    def __init__(
        self,
        backbone: Any,
        processor: Any,
        head: TriAttCoT,
        *,
        cache_tokens: int = 32_768,
        batch_size: int = 32,
        backend: str = "auto",
        scoring: Scoring | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        width = int(backbone.config.get_text_config().hidden_size)
        if head.config.hidden_size != width:
            raise ValueError(f"`head` must have the hidden_size of `backbone`, {width}; got {head.config.hidden_size}.")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
        self.backbone, self.processor, self.head = backbone.eval(), processor, head.eval()
        self.batch_size, self.backend, self.scoring = batch_size, backend, scoring
        self.thresholds = _thresholds(thresholds)
        self.usage = Usage()
        self._trie = PrefixTrie(cache_tokens)
        self._memory: TriattMemory | None = None
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        """Where the backbone runs."""
        return torch.device(self.backbone.device)

    def clear(self) -> None:
        """Forget everything that was kept; needed after the weights have changed."""
        with self._lock:
            self._trie.clear()
            self._memory = None

    def forget(self, question: Question) -> None:
        """Drop all that was kept for a question, for example when its search has ended.

        Other questions keep theirs, and a question of which nothing is known changes nothing.  Rewards stay what
        they are: a later call computes them again.
        """
        with self._lock:
            self._trie.forget(question_key(question))

    def to(self, device: str | torch.device) -> SvipReward:
        """Move backbone and head to a device and return self."""
        self.clear()
        self.backbone.to(device)
        self.head.to(device)
        return self

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[NDArray[np.float32]]:
        """Return the rewards of each path, float32 [T, 3] in [0, 1].

        Args:
            question: the question with its pictures; its ``answer`` is not read.
            paths: sequences of step texts; may be empty, repeat and share beginnings.

        Returns:
            One array a path, in order; dimensions are relevance, logic, attribute.

        Raises:
            TypeError: a path is not made of texts.
            ImageError: a picture cannot be read.
            RewardError: a path is longer than the backbone's context, or the backbone raised.
        """
        (rewards,) = self.evaluate_many([(question, paths)])
        return rewards

    def evaluate_many(self, items: Sequence[tuple[Question, Sequence[Prefix]]]) -> list[list[NDArray[np.float32]]]:
        """Return what ``evaluate`` returns for each of several questions, computed together.

        ::

            [evaluate(question, paths) for question, paths in items]

        Args:
            items: questions with their paths; a question may come more than once.

        Returns:
            For each item one float32 array [T, 3] a path, in order.

        Raises:
            TypeError: an item is no pair of a question and paths, or a path is not made of texts.
            ImageError, RewardError: as ``evaluate``; one bad item fails the whole call, and what was
                kept before it is as it was.

        Notes:
            Rewards differ from those of separate calls by rounding only (below 3e-5 in float32), ``usage``
            grows by what those would add as long as nothing is evicted between them.  Cost: new steps of all
            questions share passes of ``batch_size`` runs, new prompts of equal shapes passes of up to 8, and the
            head scores all in one call.  Nothing is evicted during a call, so that it holds the keys and values
            of all its paths, whatever ``cache_tokens`` is.

        Example:
            >>> import numpy as np
            >>> from svip_search._types import Question
            >>> from svip_search.models.embedded import new_model, new_processor
            >>> processor = new_processor()
            >>> reward = SvipReward(new_model("puzzle-nano", processor), processor, TriAttCoT(hidden_size=80))
            >>> one, two = (Question("which ?", images=[np.full((128, 128, 3), i, np.uint8)]) for i in (0, 9))
            >>> found = reward.evaluate_many([(one, [("it is red",)]), (two, [(), ("it is red", "answer : 1")])])
            >>> [[r.shape for r in rewards] for rewards in found]
            [[(1, 3)], [(0, 3), (2, 3)]]
        """
        pairs = [_pair(item) for item in items]
        if not any(any(paths) for _, paths in pairs):
            return [[_rewards(None, path) for path in paths] for _, paths in pairs]
        with self._running():
            evaluation = _Evaluation(self)
            found = [evaluation.add(question, paths) if any(paths) else None for question, paths in pairs]
            evaluation.run()
        return [[_rewards(item, path) for path in paths] for item, (_, paths) in zip(found, pairs, strict=True)]

    def hidden_states(self, question: Question, paths: Sequence[Prefix]) -> dict[Prefix, States]:
        """Return what the head is given: the hidden states of the prompt and of every step of some paths.

        Args:
            question: the question with its pictures.
            paths: sequences of step texts; may be empty, repeat and share beginnings.

        Returns:
            For the prompt, ``()``, and every prefix of a path: float32 hidden states [L, D] of its own tokens,
            their surprises [L] and segments [L].  They are those that ``evaluate`` reads, whatever the head.

        Raises:
            TypeError, ImageError, RewardError: as ``evaluate``.

        Notes:
            Nothing is kept, and nothing that was kept is used: one pass for the prompt, one for each fork.
        """
        paths = _checked(paths)
        with self._running():
            return read_states(self.backbone, self.processor, question, paths, self.batch_size)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Hold the model for one call; what its backbone raises becomes a RewardError."""
        with self._lock, torch.inference_mode():
            training = bool(self.backbone.training)
            if training:  # a walk over all modules that most calls can spare
                self.backbone.eval()
            try:
                yield
            except SvipSearchError:
                raise
            except Exception as error:
                name = type(self.backbone).__name__
                raise RewardError(f"the reward model's backbone {name} raised {_line(error)}") from error
            finally:
                if training:
                    self.backbone.train()

    def save(self, folder: str | Path, backbone: str | None = None) -> None:
        """Write the model to a folder: config.json, head.safetensors and the backbone.

        Args:
            folder: made if it is missing; files of an earlier model are replaced.
            backbone: where ``load`` finds the backbone, a name or a path; default: it is saved too.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        where = self._save_backbone(folder, backbone)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        save_file(weights, folder / HEAD)
        config: dict[str, Any] = {"format": "svip-reward", "version": 1, **where}
        if self.scoring is not None:
            config["scoring"] = asdict(self.scoring)
        if self.thresholds is not None:
            config["thresholds"] = self.thresholds
        text = json.dumps({**config, "head": asdict(self.head.config)}, indent=2)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")

    def _save_backbone(self, folder: Path, backbone: str | None) -> dict[str, Any]:
        """Write the backbone unless it is named, and return what the configuration says of it."""
        if backbone is None:
            self.backbone.save_pretrained(folder / BACKBONE)
            self.processor.save_pretrained(folder / BACKBONE)
        return {"backbone": backbone or BACKBONE}

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        **options: Any,
    ) -> SvipReward:
        """Return the model that ``save`` wrote to a folder.

        Args:
            folder: the folder.
            device: where to put it.
            dtype: number type of the backbone, default as saved; the head stays float32.
            options: ``cache_tokens``, ``batch_size``, ``backend``, ``scoring`` and ``thresholds`` (default: as saved).

        Raises:
            ModelFileError: a file is missing, damaged, or of another model.
        """
        folder = Path(folder)
        config, where, adapter, saved = _read_config(folder)
        options = saved | options
        head = TriAttCoT(**asdict(config))
        _read_head(folder / HEAD, head)
        backbone, processor = read_backbone(folder / where if (folder / where).is_dir() else where, dtype)
        if adapter is not None:
            backbone = _adapted(backbone, folder / adapter)
        try:
            return cls(backbone, processor, head, **options).to(device)
        except ValueError as error:
            if "`head`" in str(error):
                raise ModelFileError(f"{folder / HEAD} does not fit its backbone: {error}") from None
            raise


@dataclass(frozen=True, eq=False)
class _StepCache(KeyValues):
    """Keys and values of a step: those of the backbone, and the node that holds those of TriAtt-CoT."""

    triatt: Any


class _Item(Reading):
    """A question of a call, with all its paths."""

    def __init__(self, question: Question, key: str) -> None:
        super().__init__(question)
        self.key = key
        self.nodes: dict[Prefix, Node] = {}
        self.queries: dict[Prefix, Tensor] = {}
        self.scores: dict[Prefix, NDArray[np.float32]] = {}
        #: Prefixes without rewards.
        self.new: list[Prefix] = []

    def recall(self, trie: PrefixTrie) -> None:
        """Take what the trie holds, and find out what is missing."""
        for path in self.paths:
            for i, node in enumerate(trie.find(self.key, path)):
                self._recall_node(path[:i], node)
        prefixes = {p[:i] for p in self.paths for i in range(1, len(p) + 1)}
        self.new = sorted(prefixes - self.scores.keys(), key=len)
        needed = {p[:i] for p in self.new for i in range(len(p) + 1)}
        self.missing = sorted(needed - self.kv.keys(), key=len)

    def _recall_node(self, prefix: Prefix, node: Node) -> None:
        self.nodes[prefix], self.ids[prefix] = node, node.ids
        if isinstance(node.kv, _StepCache):
            self.kv[prefix] = node.kv
        value, self.last[prefix] = node.extra
        if prefix:
            self.scores[prefix] = value
        else:
            self.offset = value

    def remember(self, trie: PrefixTrie) -> None:
        """Put what was computed into the trie."""
        for prefix in self.missing:
            if prefix:
                parent = self.nodes[prefix[:-1]]
                node = trie.add(parent, prefix[-1], self.ids[prefix], self.kv[prefix])
                node.extra = (self.scores[prefix], self.last[prefix].clone())
            else:
                node = trie.add_root(self.key, self.ids[prefix], self.kv[prefix], (self.offset, self.last[()].clone()))
            self.nodes[prefix] = node


class _Evaluation(Reader):
    """One call of ``SvipReward.evaluate_many``."""

    def __init__(self, model: SvipReward) -> None:
        surprised = model.head.surprise is not None
        super().__init__(model.backbone, model.processor, model.batch_size, surprised)
        self.model = model
        if model._memory is None:
            model._memory = triatt_memory(model.head, model.device, model.backend)
        self.memory = model._memory
        self.items: dict[str, _Item] = {}

    def add(self, question: Question, paths: list[Prefix]) -> _Item:
        """Return the item of a question, which has these paths too from now on."""
        key = question_key(question)
        item = self.items.setdefault(key, _Item(question, key))
        item.paths += paths
        return item

    def run(self) -> None:
        """Give every item the rewards [3] of every prefix of its paths."""
        items, trie = list(self.items.values()), self.model._trie
        for item in items:
            item.recall(trie)
        self.read([(item, item.missing) for item in items])
        self._score([(item, prefix) for item in items for prefix in item.new])
        for item in items:
            item.remember(trie)
            item.count(self.model.usage)

    def take(self, pieces: Sequence[Piece], hidden: Tensor, surprise: Tensor | None) -> None:
        head = self.model.head
        k, v, q = head.project(hidden if surprise is None else head.hear(hidden, surprise))
        for p in pieces:
            item = cast(_Item, p.reading)
            own = (p.row, slice(p.start, p.stop))
            above = item.kv[p.prefix[:-1]].triatt if p.prefix else None
            node = self.memory.keep(above, self.segments(p), k[own], v[own])
            item.kv[p.prefix] = _StepCache(p.columns.groups, p.columns.layout, node)
            if p.prefix:
                item.queries[p.prefix] = q[p.row, p.stop - 1]

    def _score(self, new: list[tuple[_Item, Prefix]]) -> None:
        if not new:
            return
        q = torch.stack([item.queries[prefix] for item, prefix in new])
        scores = self.memory.score([item.kv[prefix].triatt for item, prefix in new], q)
        for (item, prefix), reward in zip(new, scores, strict=True):
            item.scores[prefix] = reward


def _pair(item: Any) -> tuple[Question, list[Prefix]]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(f"`items` must hold pairs of a question and its paths; got {item!r}.")
    return item[0], _checked(item[1])


def _rewards(item: _Item | None, path: Prefix) -> NDArray[np.float32]:
    """Return the rewards [T, 3] of one path."""
    if item is None or not path:
        return np.zeros((0, C), np.float32)
    return np.stack([item.scores[path[: i + 1]] for i in range(len(path))])


def _checked(paths: Sequence[Any]) -> list[Prefix]:
    for path in paths:
        if isinstance(path, str) or any(not isinstance(step, str) for step in path):
            raise TypeError(f"`paths` must hold tuples of step texts; got {path!r}.")
    return [tuple(p) for p in paths]


def _thresholds(given: Sequence[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    if len(given) != C or not all(isinstance(t, (int, float)) and 0 <= t <= 1 for t in given):
        raise ValueError(f"`thresholds` must be {C} numbers in 0..1; got {given!r}.")
    return tuple(float(t) for t in given)


def _read_config(folder: Path) -> tuple[TriAttConfig, str, str | None, dict[str, Any]]:
    """Return the head's configuration, where backbone and adapter are, and options that were saved."""
    path = folder / CONFIG
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing.") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {_line(error)}") from None
    if not isinstance(data, dict) or data.get("format") != "svip-reward":
        raise ModelFileError(f"{path} does not describe a reward model: `format` must be 'svip-reward'.")
    adapter = data.get("adapter")
    if data.get("version") != (1 if adapter is None else 2):
        raise ModelFileError(
            f"{path} has version {data.get('version')!r}; this library reads version 1, and 2 with an `adapter`."
        )
    if not isinstance(data.get("head"), dict) or not isinstance(data.get("backbone"), str):
        raise ModelFileError(f"{path} must have an object `head` and a text `backbone`.")
    if not isinstance(adapter, str | None):
        raise ModelFileError(f"{path} has a wrong `adapter`: it must be the name of a folder.")
    try:
        head = TriAttConfig(**data["head"])
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path} has a wrong `head`: {_line(error)}") from None
    try:
        scoring = Scoring(**data["scoring"]) if data.get("scoring") is not None else None
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path} has a wrong `scoring`: {_line(error)}") from None
    try:
        thresholds = _thresholds(data.get("thresholds"))
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"{path} has wrong `thresholds`: {_line(error)}") from None
    return head, data["backbone"], adapter, {"scoring": scoring, "thresholds": thresholds}


def _read_head(path: Path, head: TriAttCoT) -> None:
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path} is missing.") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {_line(error)}") from None
    wanted = head.state_dict()
    if weights.keys() != wanted.keys():
        odd = sorted(weights.keys() ^ wanted.keys())
        raise ModelFileError(f"{path} must hold exactly the tensors of its config; {odd[0]!r} is missing or too many.")
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape:
            raise ModelFileError(
                f"{path}: `{name}` must have shape {list(wanted[name].shape)}; got {list(tensor.shape)}."
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{path}: `{name}` must hold finite floating-point numbers.")
    head.load_state_dict(weights)


def read_backbone(where: str | Path, dtype: str | torch.dtype) -> tuple[Any, Any]:
    """Return a backbone and its processor from a folder or a hub id.

    Raises:
        ModelFileError: there is none that can be used.
    """
    from ..models import plan_processor, puzzle_processor  # noqa: F401  (makes the embedded models known by name)

    try:
        backbone, report = AutoModelForImageTextToText.from_pretrained(
            str(where), dtype=dtype, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(str(where))
    except Exception as error:  # transformers raises a dozen kinds on damaged folders
        raise ModelFileError(f"{where} does not hold a usable backbone: {_line(error)}") from error
    if report["missing_keys"]:
        name = sorted(report["missing_keys"])[0]
        raise ModelFileError(f"{where} lacks weights of its backbone: {name!r} and maybe more.")
    return backbone, processor


def _adapted(backbone: Any, folder: Path) -> Any:
    """Return a backbone with the low-rank updates of a folder added to its weights."""
    try:
        return read_updates(backbone, folder)
    except Exception as error:  # as for backbones
        raise ModelFileError(f"{folder} does not hold a usable adapter: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """Return the first line of an error's message, ended by a full stop."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if text.endswith(".") else text + "."
