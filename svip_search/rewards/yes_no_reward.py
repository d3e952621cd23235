"""YesNoReward: step rewards read off the vocabulary, from the logits of a "yes" and a "no" behind each step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._aggregate import Aggregate
from .._errors import ModelFileError
from ._backbone_reward import StepReward, image_ids
from ._reward_files import line, read_model, read_settings
from ._step_layout import StepFormat, StepText


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkerStyle(StepFormat):
    r"""How a model is asked about steps, and in which two tokens it answers.

    Three forms, by ``chat``: in ``"none"`` and ``"reply"`` the steps are one text with ``after`` behind each, and
    the model is read at the last token of ``after``; in ``"turns"`` each step is a turn of the user, and the model is
    read where its answer would begin, ``answer`` standing for its answers to the steps before.

    Args:
        chat: ``"none"`` one plain text, ``"reply"`` one turn of the assistant, ``"turns"`` a turn a step.
        system: words of the system's turn; None leaves it to the chat template.
        user: the user's turn, in plain text the beginning; ``{question}`` is the question with its options.
        reply: what stands before the first step in the assistant's turn.
        first: before the first step.
        between: between what follows a step and the next step.
        after: after every step.
        answer: with ``"turns"``, the answer that stands behind every step that was judged.
        positive: the token of a right step, as it is written behind ``after``.
        negative: the token of a wrong one.
        marker: whether ``after`` is one token that may stand nowhere else; False: a question in words.
        aggregate: the rule over the steps that the model was published with.

    Example:
        >>> MarkerStyle.math_shepherd().after
        ' ки'
        >>> MarkerStyle(chat="none", after="\nRight so far?", positive=" Yes", negative=" No", marker=False).aggregate
        'mean'
    """

    positive: str = "+"
    negative: str = "-"
    marker: bool = True
    aggregate: Aggregate = "mean"

    @classmethod
    def visual_prm(cls, system: str | None = None) -> MarkerStyle:
        """Return the style of VisualPRM: a turn a step, "+" or "-", mean over the steps (arXiv 2503.10291).

        Args:
            system: the instruction the model was trained with, where its chat template does not bring it.
        """
        user = "### Question:\n{question}\n\n### Solution Process:\n"
        return cls(chat="turns", system=system, user=user, answer="+", marker=False)

    @classmethod
    def mm_prm(cls) -> MarkerStyle:
        """Return the style of MM-PRM: ``<prm>`` behind each step, "Yes" or "No" (arXiv 2505.13427)."""
        reply = "Question: {question}\nProcess: "
        return cls(chat="reply", user="", reply=reply, after="<prm>", positive="Yes", negative="No")

    @classmethod
    def math_shepherd(cls) -> MarkerStyle:
        """Return the style of Math-Shepherd: plain text, `` ки`` behind each step, minimum (arXiv 2312.08935)."""
        return cls(
            chat="none", first=" ", between="\n", after=" ки", positive=" +", negative=" -", aggregate="min"
        )  # fmt: skip

    @classmethod
    def rlhflow(cls) -> MarkerStyle:
        """Return the style of RLHFlow's PRMs: a turn a step, the question before the first one."""
        return cls(chat="turns", user="{question} ", answer="+", marker=False)


class YesNoReward(StepReward):
    """A process reward model that answers every step with one of two tokens.

    ::

        reward of a step = exp(y) / (exp(y) + exp(n))     y, n: logits of positive and negative token behind it

    Args:
        model: a causal language model of transformers, with or without eyes.
        processor: its processor, or its tokenizer where it reads text alone.
        style: how it is asked, one of `MarkerStyle`'s own or one made by hand.
        dimensions: those that the number stands for, of relevance, logic, attribute; the others are 1, so that no
            minimum is theirs.  The default, all three, gives the number back whatever the weights are.
        threshold: number above which a step is held to be right, where a yes or no is asked for.
        scoring: how strategies should fold the rewards; default: the style's rule, the given dimensions alone.
        device: where to compute; None leaves the model where it is.
        dtype: floating-point type of the weights; None leaves it.
        batch_size: most chains of steps in one pass.
        cache_tokens: tokens whose keys and values are kept, over all questions; 0 keeps none.

    Attributes:
        kind: ``"prm"``.
        usage: grows with every call.

    Raises:
        ValueError: a token of the style is not one token, the model has no chat template for it, is not a decoder
            that can be cut by token, or a number is out of range.

    Notes:
        A path goes through the model once, and only what is new of it: a later step never changes an earlier reward.
        Batching changes rewards by rounding only (below 3e-5 in float32).  A step or question that contains the text
        of the marker or of a special token is read with a space behind that text's first character, so that it
        stays text; nothing is cut off.  Threads take turns.

    Example:
        >>> from svip_search._types import Question
        >>> from svip_search.models.embedded import new_model, new_processor
        >>> processor = new_processor()
        >>> style = MarkerStyle(chat="none", after=" answer", positive="1", negative="2")
        >>> reward = YesNoReward(new_model("puzzle-nano", processor), processor, style)
        >>> [r.shape for r in reward.evaluate(Question("what is missing ?"), [("it is red", "circle"), ()])]
        [(2, 3), (0, 3)]
    """

    form = "yes-no"

    def __init__(self, model: Any, processor: Any, style: MarkerStyle, **options: Any) -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise ValueError(f"`model` must be a causal language model; {type(model).__name__} has no output words.")
        marker = style.after if style.marker and style.chat != "turns" else ""
        text = StepText(processor, style, marker, image_ids(model.config))
        self.style = style
        before = text.around()
        self.tokens = tuple(text.single(name, before, getattr(style, name)) for name in ("positive", "negative"))
        if self.tokens[0] == self.tokens[1]:
            raise ValueError(f"`positive` and `negative` must be two tokens; got {style.positive!r} twice.")
        super().__init__(model, processor, text, aggregate=style.aggregate, **options)

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        style: MarkerStyle | None = None,
        *,
        dtype: torch.dtype | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> YesNoReward:
        """Return the reward model of a folder or of a published name.

        Args:
            name_or_folder: where the weights (safetensors), the configuration and the processor are.
            style: how it is asked; None takes what ``save`` noted.
            dtype: floating-point type to load the weights in; None takes the saved one.
            local_files_only: never look beyond this machine.
            trust_remote_code: run code that comes with the model; never unless you say so.
            options: further arguments of the class; default: what ``save`` noted.

        Raises:
            ModelFileError: files are missing, damaged, of another kind, or do not fit the model.
            ValueError: as the class; or no ``style`` is given and none was noted.
        """
        where = str(name_or_folder)
        noted = read_settings(where, cls.form)
        known = noted.pop("style", None)
        try:
            chosen = style or (known and MarkerStyle(**known))
        except TypeError as error:
            raise ModelFileError(f"The settings in {where!r} have a wrong `style`: {line(error)}") from None
        if not chosen:
            raise ValueError("`style` must be given for a model that was not saved by this library; got None.")
        model, processor = read_model(where, True, dtype, local_files_only, trust_remote_code)
        return cls(model, processor, chosen, **{**noted, **options})

    def numbers(self, hidden: Tensor) -> Tensor:
        """Return the share of the positive token behind each of the last hidden states [N, D]."""
        head, ids = self.model.get_output_embeddings(), list(self.tokens)
        bias = getattr(head, "bias", None)
        logits = hidden.float() @ head.weight[ids].float().T
        logits = logits if bias is None else logits + bias[ids].float()
        return _as_published(logits, self.model.config.get_text_config()).softmax(-1)[:, 0]

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "style": asdict(self.style)}


def _as_published(logits: Tensor, config: Any) -> Tensor:
    """Return logits as the model would give them: some scale theirs (Cohere, Granite) or bend them (Gemma)."""
    if (factor := getattr(config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
