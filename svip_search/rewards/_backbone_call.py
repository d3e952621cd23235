"""One call of a reward model around a decoder: what is known of its paths, what is missing, and reading that."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._errors import RewardError
from .._question_key import question_key
from .._types import Prefix, Question
from ..models.kv_cache import Node, PrefixTrie
from ._reading import Piece, Reader, Reading, image_token
from ._step_layout import Layout, StepText

if TYPE_CHECKING:
    from ._backbone_reward import BackboneReward


class Item(Reading):
    """A question of a call with its paths: what is known of it, and what is missing."""

    def __init__(self, question: Question, key: str, text: StepText) -> None:
        super().__init__(question)
        self.key, self.text = key, text
        self.nodes: dict[Prefix, Node] = {}
        self.scores: dict[Prefix, float] = {}

    @cached_property
    def layout(self) -> Layout:
        """The texts around the steps, made when there is a step."""
        return self.text.layout(self.question)

    def recall(self, trie: PrefixTrie) -> None:
        """Take what the trie holds, and find out what is missing: nothing behind a gap can be used."""
        for path in self.paths:
            for i, node in enumerate(trie.find(self.key, path)):
                self.nodes[path[:i]], self.ids[path[:i]] = node, node.ids
                if node.kv is not None:
                    self.kv[path[:i]] = node.kv
                score, offset = node.extra
                self.scores[path[:i]] = score
                self.offset = self.offset if i else offset
        wanted = {p[:i] for p in self.paths for i in range(len(p) + 1)}
        new = wanted - self.scores.keys()
        needed = {p[:i] for p in new for i in range(len(p) + 1)}
        self.missing = sorted(needed - self.kv.keys(), key=len)

    def remember(self, trie: PrefixTrie) -> None:
        """Put what was computed into the trie."""
        for prefix in self.missing:
            extra = (self.scores[prefix], self.offset)
            if prefix:
                parent = self.nodes[prefix[:-1]]
                node = trie.add(parent, prefix[-1], self.ids[prefix], self.kv[prefix], extra)
            else:
                node = trie.add_root(self.key, self.ids[prefix], self.kv[prefix], extra)
            self.nodes[prefix] = node


class Call(Reader):
    """One call of ``evaluate_many``."""

    def __init__(self, owner: BackboneReward) -> None:
        shim = SimpleNamespace(tokenizer=owner.text.tokenizer)  # ids are made here, in `add`
        super().__init__(owner.model, shim, owner.batch_size, False)
        self.owner = owner
        self.items: dict[str, Item] = {}

    def add(self, question: Question, paths: list[Prefix]) -> Item:
        """Return the item of a question, which has these paths too from now on."""
        key = question_key(question)
        item = self.items.setdefault(key, Item(question, key, self.owner.text))
        for path in paths:
            if not path and self.owner.kind == "prm":
                continue
            pieces, ids = self.owner._pieces(item.layout, path)
            item.ids |= {pieces[: i + 1]: row for i, row in enumerate(ids)}
            item.paths.append(pieces)
        return item

    def run(self) -> None:
        """Give every item the number of every piece of its paths."""
        items, trie = [item for item in self.items.values() if item.paths], self.owner._trie
        for item in items:
            item.recall(trie)
        self.read([(item, item.missing) for item in items])
        for item in items:
            item.remember(trie)
            item.count(self.owner.usage)

    def take(self, pieces: Sequence[Piece], hidden: Tensor, surprise: Tensor | None) -> None:
        rows = torch.stack([hidden[p.row, p.stop - 1] for p in pieces])
        numbers = self.owner.numbers(rows).float().cpu().tolist()
        for p, number in zip(pieces, numbers, strict=True):
            if not 0 <= number <= 1:  # written so that NaN fails too
                raise RewardError(f"the model gave {number} for {(p.prefix or ('the prompt',))[-1][:60]!r}.")
            item = p.reading
            assert isinstance(item, Item)
            item.kv[p.prefix], item.scores[p.prefix] = p.columns, number

    def inputs(self, reading: Reading) -> dict[str, Any]:
        assert isinstance(reading, Item)
        inputs = self.owner.text.prompt_inputs(reading.layout)
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                dtype = self.backbone.dtype if value.is_floating_point() else None
                inputs[name] = value.to(self.backbone.device, dtype)
        if "image_grid_thw" in inputs and "mm_token_type_ids" not in inputs:
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token(self.backbone.config)).int()
        return inputs
