"""Training of the head and of low-rank updates of any backbone's language model.

Every attention and feed-forward map W of the language model becomes W + (alpha / r) B A with A [r, in] and
B [out, r], and only A, B and the head are trained (Hu et al. 2021, arXiv 2106.09685)::

    row   = prompt with pictures, then the steps of one path to a leaf     one row a leaf of the tree
    state = last hidden states of base(rows, padded on the right)
    logit = head of each node on the first row that holds it

A saved model is an ordinary one: the updates are added to the weights.  It takes the extra ``lora`` (peft).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.low_rank import add_updates
from ..models.prompt import encode_step
from ..rewards._reading import forget_positions, image_token, model_inputs
from ..rewards._triatt_cot import IMAGE, PADDING, PROMPT, QUESTION, STEP, TriAttCoT, surprise_of
from ..rewards.svip_reward import ADAPTER, SvipReward
from .step_scorer import StepScorer, head_optimizer
from .step_trees import StepTree


class LoraScorer(StepScorer):
    """A backbone whose language model gets low-rank updates, and the head.

    Args:
        backbone: an image-text-to-text model of transformers; its linear layers are wrapped in place.
        processor: its processor.
        head: the TriAtt-CoT module on its hidden states.
        rank: r of the updates.
        alpha: their scale is ``alpha / rank``; default: twice the rank.
        dropout: of what goes into the updates, while training.
        gradient_checkpointing: compute the layers again in the backward pass instead of keeping them:
            about a third more time for the memory of one layer.
        source: a name or path under which ``SvipReward.load`` finds the backbone as it was; then only the
            updates are saved, default: the whole backbone with the updates added.

    Raises:
        ImportError: peft is not installed.
        ValueError: ``rank`` is not positive, the language model has no linear layer, or its layers cannot be
            computed again.

    Notes:
        A tree costs a pass over each path to a leaf, pictures included; the picture's own encoder gets no
        gradient.  Memory grows with leaves x tokens of one tree: trees go through the backbone one by one.
    """

    def __init__(
        self,
        backbone: Any,
        processor: Any,
        head: TriAttCoT,
        *,
        rank: int = 16,
        alpha: float | None = None,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        source: str | None = None,
    ) -> None:
        if rank < 1:
            raise ValueError(f"`rank` must be at least 1; got {rank}.")
        super().__init__(backbone, processor, head)
        self.source = source
        # In a tuple: as a module of its own it would bring every weight a second time.
        self._adapted = (add_updates(backbone, rank, 2 * rank if alpha is None else alpha, dropout),)
        if gradient_checkpointing:
            _checkpoint_layers(backbone)

    @property
    def adapted(self) -> Any:
        """The backbone as peft has it."""
        return self._adapted[0]

    def make_optimizers(self, learning_rate: float, head_learning_rate: float) -> list[torch.optim.Optimizer]:
        updates = [p for p in self.backbone.parameters() if p.requires_grad]
        own = torch.optim.AdamW(updates, learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        return [own, head_optimizer(self.head, head_learning_rate)]

    def reward_model(self) -> SvipReward:
        return _LoraReward(self)

    def forward(self, trees: Sequence[StepTree]) -> tuple[Tensor, Tensor]:
        logits = torch.cat([self._judge(tree) for tree in trees])
        return logits, logits.new_zeros(())

    def _judge(self, tree: StepTree) -> Tensor:
        """Return the logits [N, 3] of the nodes of a tree."""
        backbone = self.backbone
        prompt = model_inputs(backbone, self.processor, tree.question())
        rows = _Rows(tree, prompt["input_ids"][0], self.processor.tokenizer, image_token(backbone.config))
        forget_positions(backbone)
        out = backbone.base_model(**_repeat(prompt, rows), use_cache=False)
        hidden = out.last_hidden_state.float()
        forget_positions(backbone)  # they are those of many rows
        heard = hidden if self.head.surprise is None else self.head.hear(hidden, self._surprise(hidden, rows))
        logits: Tensor = self.head(heard, rows.segments, rows.owner, rows.separators)
        return logits[rows.row, rows.depth]

    @torch.no_grad()
    def _surprise(self, hidden: Tensor, rows: _Rows) -> Tensor:
        """Return the surprise [rows, tokens] of step tokens, 0 elsewhere: a measurement, without gradient."""
        steps = rows.segments[:, 1:] == STEP
        guessed = self.backbone.get_output_embeddings()(hidden[:, :-1][steps].to(self.backbone.dtype))
        surprise = hidden.new_zeros(hidden.shape[:2])
        surprise[:, 1:][steps] = surprise_of(guessed, rows.ids[:, 1:][steps])
        return surprise


class _Rows:
    """The paths to the leaves of a tree as rows, padded on the right; all tensors on one device.

    Attributes:
        ids, segments, owner: int64 [B, L], as `TriAttCoT.forward` takes them.
        separators: int64 [B, S].
        row, depth: int64 [N], where each node is judged.
    """

    def __init__(self, tree: StepTree, prompt: Tensor, tokenizer: Any, image: int) -> None:
        steps = [torch.tensor(encode_step(tokenizer, text)) for text in tree.steps]
        paths = list(_leaf_paths(tree))
        words = prompt.cpu()
        asked = torch.where(words == image, IMAGE, QUESTION)
        ids, segments, owner, separators = [], [], [], []
        at: dict[int, tuple[int, int]] = {}
        for row, path in enumerate(paths):
            parts = [steps[n] for n in path]
            sizes = torch.tensor([len(p) for p in parts])
            ids.append(torch.cat([words, *parts]))
            segments.append(torch.cat([asked, torch.full((int(sizes.sum()),), STEP)]))
            own = torch.arange(len(path)).repeat_interleave(sizes)
            owner.append(torch.cat([torch.full(words.shape, PROMPT), own]))
            separators.append(len(words) + sizes.cumsum(0) - 1)
            for depth, node in enumerate(path):
                at.setdefault(node, (row, depth))
        place = torch.tensor([at[n] for n in range(len(tree))])
        device = prompt.device
        self.ids, self.segments = _pad(ids, int(words[-1])).to(device), _pad(segments, STEP).to(device)
        self.owner, self.separators = _pad(owner, PADDING).to(device), _pad(separators, -1).to(device)
        self.row, self.depth = place[:, 0].to(device), place[:, 1].to(device)


def _leaf_paths(tree: StepTree) -> Iterator[list[int]]:
    for leaf in sorted(set(range(len(tree))) - set(tree.parent.tolist())):
        path, node = [], leaf
        while node >= 0:
            path.append(node)
            node = int(tree.parent[node])
        yield path[::-1]


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _repeat(prompt: dict[str, Any], rows: _Rows) -> dict[str, Any]:
    """Return the inputs of one prompt for all rows: what goes with tokens grows with them, pictures are repeated."""
    count, length = rows.ids.shape
    old = prompt["input_ids"].shape[1]
    inputs: dict[str, Any] = {}
    for name, value in prompt.items():
        if not isinstance(value, Tensor):
            inputs[name] = value
        elif value.shape == (1, old):
            inputs[name] = nn.functional.pad(value.expand(count, -1), (0, length - old))
        else:
            inputs[name] = value.repeat(count, *[1] * (value.ndim - 1))
    mask = (rows.owner != PADDING).to(torch.int64)
    return {**inputs, "input_ids": rows.ids, "attention_mask": mask}


class _LoraReward(SvipReward):
    """The model in training; what it saves has the updates added, or beside the name of a backbone."""

    def __init__(self, scorer: LoraScorer) -> None:
        super().__init__(scorer.backbone, scorer.processor, scorer.head)
        self._source, self._peft_model = scorer.source, scorer.adapted

    def _save_backbone(self, folder: Path, backbone: str | None) -> dict[str, Any]:
        source = backbone or self._source
        if source is not None:
            self._peft_model.save_pretrained(str(folder / ADAPTER))
            return {"version": 2, "backbone": source, "adapter": ADAPTER}
        # A copy: added and taken away again, the updates would leave rounding errors in what is trained on.
        plain = copy.deepcopy(self._peft_model).merge_and_unload()
        return SvipReward(plain, self.processor, self.head)._save_backbone(folder, None)


def _checkpoint_layers(backbone: Any) -> None:
    enable = getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ValueError(f"`gradient_checkpointing` must be off for {type(backbone).__name__}: {error}") from None
