"""ScalarReward: one number for a whole answer, from a head on its last token."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .._types import Prefix
from ..models.prompt import STEP_SEPARATOR
from ._backbone_call import Item
from ._backbone_reward import image_ids
from ._reward_head import Head, HeadReward
from ._step_layout import Layout, StepFormat, StepText


class ScalarReward(HeadReward):
    """An outcome reward model: a value head on the last token of the answer.

    ::

        reward of a path = sigmoid((head(h) - mean) / scale)     h: last hidden state of question and answer
                           softmax(head(h))[positive_class]      of a head with several logits

    Args:
        model: a sequence classification model of transformers, or a decoder whose ``head`` is given.
        processor: its processor, or its tokenizer where it reads text alone.
        head: a module from hidden states to logits; None takes ``model.score`` or ``model.classifier``.
        mean: what a middling answer gets from the head: it becomes a reward of one half.
        scale: how far from it is far, above 0.  Published heads give numbers of any size, so fit both to a sample
            of answers (its mean and standard deviation): the order of paths is the same whatever they are, but
            strategies that sample or average need rewards that are neither all 0 nor all 1.
        style: where question and answer stand; ``after`` follows the end of the turn, ``between`` is not
            used.  Default: one turn each.
        separator: between the steps of an answer.
        positive_class: which of several logits is that of a right answer.
        options: ``device``, ``dtype``, ``batch_size``, ``cache_tokens``, ``scoring`` as for `YesNoReward`.

    Attributes:
        kind: ``"orm"``.
        usage: grows with every call.

    Raises:
        ValueError: there is no head or it does not fit, the model has no chat template for the style or is not a
            decoder that can be cut by token, or a number is out of range.

    Notes:
        As `YesNoReward`.  The prompt with its pictures is kept between calls, the answer is read in one piece.  The
        last token is that which ends the assistant's turn in the chat template, as these models are trained.

    Example:
        >>> import torch
        >>> from svip_search._types import Question
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> processor = new_processor()
        >>> model, head = new_model("puzzle-nano", processor), torch.nn.Linear(80, 1)
        >>> from svip_search.rewards._step_layout import StepFormat
        >>> reward = ScalarReward(model, processor, head=head, style=StepFormat(chat="none"))
        >>> reward.evaluate(Question("what is missing ?"), [("it is red", "circle")])[0].shape
        ()
    """

    kind: Literal["prm", "orm"] = "orm"
    form = "scalar"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        head: nn.Module | None = None,
        mean: float = 0.0,
        scale: float = 1.0,
        style: StepFormat | None = None,
        separator: str = STEP_SEPARATOR,
        positive_class: int = 1,
        **options: Any,
    ) -> None:
        style = style or StepFormat()
        if style.chat == "turns":
            raise ValueError("`style` must have the answer in one piece, not in turns; got 'turns'.")
        if not math.isfinite(mean) or not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"`mean` must be a finite number and `scale` one above 0; got {mean} and {scale}.")
        super().__init__(model, processor, StepText(processor, style, "", image_ids(model.config)), **options)
        self.mean, self.scale, self.style, self.separator = float(mean), float(scale), style, separator
        self.head = Head(self.model, head, positive_class)

    def numbers(self, hidden: Tensor) -> Tensor:
        """Return the reward at each of the last hidden states [N, D]."""
        logits = self.logits(hidden)
        if self.head.classes > 1:
            return self.head.share(logits)
        return ((logits[:, 0].double() - self.mean) / self.scale).sigmoid()

    def _pieces(self, layout: Layout, path: Prefix) -> tuple[Prefix, list[tuple[int, ...]]]:
        answer = self.separator.join(path)
        ids = self.text.answer_ids(layout, answer)
        return ((answer,), [ids]) if ids else ((), [])

    def _rewards(self, item: Item, path: Prefix) -> NDArray[np.float32]:
        answer = (self.separator.join(path),)
        return np.array(item.scores[answer if answer in item.scores else ()], np.float32)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "mean": self.mean, "scale": self.scale, "separator": self.separator}
