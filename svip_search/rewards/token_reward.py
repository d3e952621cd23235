"""TokenClassificationReward: step rewards from a head on the token that separates steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ._backbone_reward import StepReward, image_ids
from ._reward_head import Head, HeadReward
from ._step_layout import StepFormat, StepText

#: What Qwen2.5-Math-PRM was trained with (arXiv 2501.07301).
QWEN_MATH_PRM = StepFormat(
    chat="reply",
    system="Please reason step by step, and put your final answer within \\boxed{}.",
    after="<extra_0>",
)


class TokenClassificationReward(StepReward, HeadReward):
    """A process reward model with a head on the token behind each step, like Qwen2.5-Math-PRM.

    ::

        reward of a step = softmax(head(h))[positive_class]     h: last hidden state of the separator behind it
                           sigmoid(head(h))                     of a head with a single logit

    Args:
        model: a token classification model of transformers, or a decoder whose ``head`` is given.
        processor: its processor, or its tokenizer where it reads text alone.
        head: a module from hidden states to logits; None takes ``model.score`` or ``model.classifier``.
        separator: the token behind every step; it may stand nowhere else.
        style: where question and steps stand; its ``after`` is the separator.  Default: one turn of the assistant,
            with the instruction of Qwen2.5-Math-PRM.
        positive_class: which of several logits is that of a right step.
        dimensions: those that the number stands for; the others are 1.
        threshold: number above which a step is held to be right, where a yes or no is asked for.
        scoring: how strategies should fold the rewards; default: the product over the steps, as Qwen2.5-Math-PRM was
            published with.
        options: ``device``, ``dtype``, ``batch_size``, ``cache_tokens`` as for `YesNoReward`.

    Attributes:
        kind: ``"prm"``.
        usage: grows with every call.

    Raises:
        ValueError: the separator is not one token, there is no head or it does not fit, the model has no chat
            template for the style or is not a decoder that can be cut by token, or a number is out of range.

    Notes:
        As `YesNoReward`.  ``load`` reads heads of one linear layer and of several, wherever the checkpoint has
        them, so that Qwen2.5-Math-PRM needs none of its own code.

    Example:
        >>> import torch
        >>> from svip_search._types import Question
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> processor = new_processor()
        >>> model, head = new_model("puzzle-nano", processor), torch.nn.Linear(80, 2)
        >>> from svip_search.rewards._step_layout import StepFormat
        >>> style = StepFormat(chat="none")
        >>> reward = TokenClassificationReward(model, processor, head=head, separator=" answer", style=style)
        >>> reward.evaluate(Question("what is missing ?"), [("it is red", "circle")])[0].shape
        (2, 3)
    """

    form = "token-classification"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        head: nn.Module | None = None,
        separator: str | None = None,
        style: StepFormat = QWEN_MATH_PRM,
        positive_class: int = 1,
        **options: Any,
    ) -> None:
        style = style if separator is None else replace(style, after=separator)
        if style.chat == "turns" or not style.after:
            raise ValueError(f"`style` must have one text of all steps and a separator `after` them; got {style!r}.")
        text = StepText(processor, style, style.after, image_ids(model.config))
        options.setdefault("aggregate", "product")
        super().__init__(model, processor, text, **options)
        self.style = style
        self.head = Head(self.model, head, positive_class)

    def numbers(self, hidden: Tensor) -> Tensor:
        """Return the share of the positive class at each of the last hidden states [N, D]."""
        logits = self.logits(hidden)
        return logits[:, 0].sigmoid() if self.head.classes == 1 else self.head.share(logits)
