"""Training of all weights of an embedded backbone: a tree of chains in one row of a batch.

Picture, question and all nodes of a tree stand in one row, and a token sees what is on its path::

    [visual tokens][question][node 0][node 1]…     node n sees the prompt, its ancestors and itself

so the picture is encoded and every step is read once, however many chains lead through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .._errors import TrainingError
from ..datasets._drawn import Drawn
from ..datasets.planning import Plan
from ..datasets.puzzles import Puzzle
from ..models.plan_vlm import PlanVLMModel
from ..models.prompt import STEP_SEPARATOR, question_text
from ..models.puzzle_processor import PuzzleProcessor
from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from ..rewards._triatt_cot import IMAGE, QUESTION, STEP, surprise_of
from .data import IGNORE, cell_labels, padded, to_pixels
from .domains import perception_loss
from .plan_data import cell_loss, cells_of
from .policy import make_optimizers
from .step_scorer import Forest, StepScorer, forest, head_optimizer
from .step_trees import StepTree

#: In ``Rows.node``.
PROMPT, PADDING = -1, -2


@dataclass(frozen=True, eq=False)
class Rows:
    """Trees as rows of tokens.

    Attributes:
        ids: int64 [B, L], placeholders where visual tokens belong.
        node: int64 [B, L], the node of each token, `PROMPT` or `PADDING`.
        positions: int64 [B, L], position of each token on its path.
        ancestors: bool [B, 1 + N, 1 + N], whether a node (0 is the prompt) sees another.
        expected: int64 [tokens], for each token of the forest its id where the language model should have
            expected it, else `IGNORE`: steps of chains that are faultless so far.
        forest: of prompts and nodes, in the order of the rows' tokens without padding.
    """

    ids: Tensor
    node: Tensor
    positions: Tensor
    ancestors: Tensor
    expected: Tensor
    forest: Forest


class PuzzleScorer(StepScorer):
    """An embedded backbone and its head, all weights trained.

    Its own loss is that of the eye (see ``training.policy``), half, plus the cross-entropy of the steps of chains
    that are faultless so far: the backbone stays able to tell what it would have written itself, and what surprises
    it may be a fault.
    """

    backbone: PuzzleVLMForConditionalGeneration
    processor: PuzzleProcessor
    puzzles: ClassVar[type[Drawn]] = Puzzle
    kind: ClassVar[str] = "pattern puzzles"

    def make_optimizers(self, learning_rate: float, head_learning_rate: float) -> list[torch.optim.Optimizer]:
        return [*make_optimizers(self.backbone, learning_rate), head_optimizer(self.head, head_learning_rate)]

    def forward(self, trees: Sequence[StepTree]) -> tuple[Tensor, Tensor]:
        puzzles = [self._drawn(tree) for tree in trees]
        device, inner = self.backbone.device, self.backbone.model
        rows = pack(trees, self.processor)
        visual, seen = self.look(puzzles)
        ids = rows.ids.to(device)
        hidden = inner.language_model(
            inputs_embeds=inner.place_tokens(ids, inner.get_input_embeddings()(ids), visual),
            attention_mask=visible(rows).to(device),
            position_ids=rows.positions.to(device),
            use_cache=False,
        ).last_hidden_state
        real = rows.node.to(device) != PADDING
        logits, language = self._judge(hidden[real], ids[real], rows)
        return logits, 0.5 * seen + language

    def look(self, puzzles: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens of some pictures, and what the eye loses on them."""
        pixels = torch.from_numpy(np.stack([np.asarray(p.image) for p in puzzles])).to(self.backbone.device)
        visual, guesses = self.backbone.model.get_image_features(to_pixels(pixels))
        cells = torch.from_numpy(np.stack([cell_labels(p) for p in puzzles])).to(self.backbone.device)
        return visual, perception_loss(guesses, cells)

    def _drawn(self, tree: StepTree) -> Drawn:
        drawn = tree.drawn()
        if not isinstance(drawn, self.puzzles):
            got = "has a picture of its own" if drawn is None else "is none"
            raise TrainingError(
                f"`data` must hold generated puzzles where an embedded backbone is trained, {self.kind} here; "
                f"{tree.record.id!r} {got} (train the head alone: --tune frozen)."
            )
        return drawn

    def _judge(self, hidden: Tensor, ids: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the logits of the nodes and the language loss, of the hidden states [T, D] of the forest."""
        trees, device = rows.forest, hidden.device
        segments = np.full(len(hidden), STEP, np.uint8)
        for root in np.flatnonzero(trees.parent < 0):
            segments[trees.token_ptr[root] : trees.token_ptr[root + 1]] = QUESTION
        segments[(ids == self.backbone.config.image_token_id).cpu().numpy()] = IMAGE
        step = torch.from_numpy(np.flatnonzero(segments == STEP)).to(device)
        before = torch.from_numpy(trees.before).to(device)[step]
        guessed = self.backbone.lm_head(hidden[before])
        language = functional.cross_entropy(guessed.float(), rows.expected.to(device)[step], ignore_index=IGNORE)
        # The likelihood is a measurement here: judging must not change what the language model expects.
        surprise = torch.zeros(len(hidden), device=device)
        surprise[step] = surprise_of(guessed.detach(), ids[step])
        heard = self.head.hear(hidden, surprise)
        logits = self.head.forward_tree(heard, trees.parent, trees.token_ptr, segments, trees.nodes)
        return logits, language.nan_to_num()  # nothing without a fault: nothing to learn from


class PlanScorer(PuzzleScorer):
    """The same for planning puzzles, whose pictures come as cells."""

    puzzles = Plan
    kind = "planning puzzles"

    def look(self, puzzles: Sequence[Any]) -> tuple[Tensor, Tensor]:
        inner, device = self.backbone.model, self.backbone.device
        assert isinstance(inner, PlanVLMModel)
        pixels, cells, grids = cells_of(puzzles, self.processor.image_processor.side)
        visual, logits = inner.get_image_features(to_pixels(pixels.to(device)), grids)
        return visual, cell_loss(logits, cells.to(device))


def pack(trees: Sequence[StepTree], processor: PuzzleProcessor) -> Rows:
    """Return trees as rows."""
    tokenizer = processor.tokenizer
    ids: list[list[int]] = []
    node: list[list[int]] = []
    positions: list[list[int]] = []
    expected: list[int] = []
    lengths: list[list[int]] = []
    for tree in trees:
        words = question_text(tree.question(), instructions=False)
        prompt = list(_ids(tokenizer, processor.expand(processor.image_token + words)))
        row, own, place = list(prompt), [PROMPT] * len(prompt), list(range(len(prompt)))
        expected += [IGNORE] * len(prompt)
        lengths.append([])
        ends: list[int] = []
        faultless = tree.faultless
        for n, text in enumerate(tree.steps):
            step = _ids(tokenizer, text + STEP_SEPARATOR)
            start = ends[tree.parent[n]] if tree.parent[n] >= 0 else len(prompt)
            ends.append(start + len(step))
            row += step
            own += [n] * len(step)
            place += range(start, ends[n])
            expected += step if faultless[n] else [IGNORE] * len(step)
            lengths[-1].append(len(step))
        ids.append(row)
        node.append(own)
        positions.append(place)
    prompts = [own.count(PROMPT) for own in node]
    return Rows(
        padded(ids, tokenizer.pad_token_id), padded(node, PADDING), padded(positions, 0), _ancestors(trees),
        torch.tensor(expected), forest(trees, prompts, lengths),
    )  # fmt: skip


@lru_cache(maxsize=100_000)
def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _ancestors(trees: Sequence[StepTree]) -> Tensor:
    most = 1 + max(len(tree) for tree in trees)
    seen: NDArray[np.bool_] = np.zeros((len(trees), most, most), bool)
    for b, tree in enumerate(trees):
        seen[b, :, 0] = True
        for n, up in enumerate(tree.parent):
            seen[b, 1 + n] |= seen[b, 1 + up]  # the parent of a first step is the prompt, 0
            seen[b, 1 + n, 1 + n] = True
    return torch.from_numpy(seen)


def visible(rows: Rows) -> Tensor:
    """Return the attention mask bool [B, 1, L, L]: a token sees what is before it on its path."""
    node = rows.node.clamp(min=PROMPT) + 1  # 0 is the prompt
    batch = torch.arange(len(node))[:, None, None]
    causal = torch.ones(node.shape[1], node.shape[1], dtype=torch.bool).tril()
    return (rows.ancestors[batch, node[:, :, None], node[:, None, :]] & causal)[:, None]
