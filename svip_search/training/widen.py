"""A larger model that begins where a smaller one is: what took hours to learn need not be learned again.

The smaller model becomes a part of the larger one, which computes the same function to begin with::

    width       [ what the smaller one knows | new dimensions, nothing in them yet ]
    heads, feed-forward units, layers, rounds of the eye:  the smaller one's first, then new ones that write nothing yet

New parts read at random and write zeros, so they get a gradient from the first step on.  After Chen et al. 2016,
"Net2Net", and Chen et al. 2022, "bert2BERT".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.puzzle_vlm import PuzzleVLMForConditionalGeneration

#: Maps that write into the width, by the end of their names: their new parts are zero.
_WRITERS = (
    "embed_tokens.weight", "o_proj.weight", "down_proj.weight", "project.weight", "project.bias", "row.weight",
    "column.weight", "lm_head.weight",
)  # fmt: skip


@torch.no_grad()
def widen(small: PuzzleVLMForConditionalGeneration, large: PuzzleVLMForConditionalGeneration) -> None:
    """Make ``large`` compute what ``small`` computes.

    Args:
        small: a trained model.
        large: a model of the same kind, eye and vocabulary, with heads as wide, and at least as wide and deep.

    Raises:
        ValueError: ``small`` does not fit into ``large``.

    Notes:
        Equal up to rounding, and the epsilon of the norms.

    Example:
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> processor = new_processor("plan-nano")
        >>> widen(new_model("plan-nano", processor), new_model("plan-small", processor))
    """
    a, b = small.config.text_config, large.config.text_config
    if type(small) is not type(large) or a.head_dim != b.head_dim or a.vocab_size != b.vocab_size:
        raise ValueError("`small` must have the kind, vocabulary and head width of `large`; got another model.")
    known, scale = small.state_dict(), math.sqrt(a.hidden_size / b.hidden_size)
    for name, new in large.state_dict().items():
        old = known.get(name)
        if old is not None and any(o > n for o, n in zip(old.shape, new.shape, strict=True)):
            raise ValueError(f"`small` must fit into `large`; got {name} {tuple(old.shape)} for {tuple(new.shape)}.")
        if old is None:
            _begin(name, new)
        else:
            # A norm divides by the root of the mean square, and the mean now counts the new dimensions too.
            _place(name, new, old * scale if "norm" in name and name.startswith("model.language_model") else old)


def _begin(name: str, new: Tensor) -> None:
    """Let a layer or a round that the smaller model has not got write nothing."""
    if name.endswith(_WRITERS) or "surroundings.rounds" in name:
        new.zero_()


def _place(name: str, new: Tensor, old: Tensor) -> None:
    if name.endswith(_WRITERS):
        new.zero_()
    new[tuple(slice(0, n) for n in old.shape)] = old
