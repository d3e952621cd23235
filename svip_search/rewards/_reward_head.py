"""The head of a reward model that does not read its answer off the vocabulary: found, checked, applied, saved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .._errors import ModelFileError, RewardError
from ._backbone_reward import BackboneReward
from ._reward_files import APART, activation_of, head_state, line, read_head, read_model, read_settings
from ._step_layout import StepFormat

H = TypeVar("H", bound="HeadReward")


class Head:
    """A module from last hidden states [N, D] to logits [N, C], on the model's device.

    Args:
        model: the decoder, or a model of transformers that has the head as ``score`` or ``classifier``.
        module: the head; None takes that of ``model``.
        positive_class: which of several logits is that of a right step.

    Raises:
        ValueError: there is no head, or it does not fit the model or the class.
    """

    def __init__(self, model: Any, module: nn.Module | None, positive_class: int) -> None:
        own = next((m for n in ("score", "classifier") if (m := getattr(model, n, None)) is not None), None)
        if module is None and own is None:
            raise ValueError(f"`head` must be given for a model without one; {type(model).__name__} has none.")
        self.own = module is None
        self.module: nn.Module = own if module is None else module.to(model.device)  # type: ignore[assignment]
        self.module.eval()
        self.positive = positive_class
        self.classes = self._classes(int(model.config.get_text_config().hidden_size), model.device)
        if self.classes > 1 and not 0 <= positive_class < self.classes:
            raise ValueError(f"`positive_class` must be one of the head's {self.classes}; got {positive_class}.")

    def _classes(self, width: int, device: torch.device) -> int:
        probe = torch.zeros(1, width, device=device)
        try:
            with torch.inference_mode():
                logits = self(probe)
        except RuntimeError:
            raise ValueError(f"`head` must take hidden states of width {width}, those of `model`.") from None
        if logits.ndim != 2 or logits.shape[0] != 1:
            raise ValueError(f"`head` must make [N, C] of [N, {width}]; got {list(logits.shape)}.")
        return int(logits.shape[1])

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits [N, C] in float32."""
        weight = next(self.module.parameters(), hidden)
        logits: Tensor = self.module(hidden.to(weight.dtype)).float()
        return logits

    def share(self, logits: Tensor) -> Tensor:
        """Return the softmax of the positive class of several."""
        return logits.softmax(-1)[:, self.positive]


class HeadReward(BackboneReward):
    """Base of reward models with a head: they are read from files alike."""

    head: Head
    style: StepFormat
    form: ClassVar[str]

    @classmethod
    def load(
        cls: type[H],
        name_or_folder: str | Path,
        *,
        head: nn.Module | str | None = None,
        activation: str = "relu",
        dtype: torch.dtype | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> H:
        """Return the reward model of a folder or of a published name.

        Args:
            name_or_folder: where the weights (safetensors), the configuration and the processor are.
            head: a module, or what the names of the head's tensors begin with; None looks for the usual names.
            activation: between the layers of a head of several: ``"relu"``, ``"silu"``, ``"gelu"`` or ``"tanh"``.
            dtype: floating-point type to load the weights in; None takes the saved one.
            local_files_only: never look beyond this machine.
            trust_remote_code: run code that comes with the model; never unless you say so.
            options: further arguments of the class; default: what ``save`` noted.

        Raises:
            ModelFileError: files are missing, damaged, of another kind, or do not fit the model.
            ValueError: as the class.
        """
        where = str(name_or_folder)
        noted = read_settings(where, cls.form)
        activation = noted.pop("activation", activation)
        try:
            noted |= {"style": StepFormat(**noted["style"])} if "style" in noted else {}
        except TypeError as error:
            raise ModelFileError(f"The settings in {where!r} have a wrong `style`: {line(error)}") from None
        model, processor = read_model(where, False, dtype, local_files_only, trust_remote_code)
        module = head if isinstance(head, nn.Module) else read_head(where, head, activation, local_files_only)
        return cls(model, processor, head=module, **{**noted, **options})  # type: ignore[call-arg]

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that ``load`` reads: weights, head, processor and settings.

        Args:
            folder: made if it is missing; files of an earlier model are replaced.

        Raises:
            ValueError: the head is not made of linear layers.
        """
        state = {} if self.head.own else head_state(self.head.module)
        super().save(folder)
        (Path(folder) / APART).unlink(missing_ok=True)
        if state:
            save_file(state, Path(folder) / APART)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return what the head makes of last hidden states [N, D]: float32 [N, C].

        Raises:
            RewardError: it is not a number.
        """
        logits = self.head(hidden)
        if not bool(torch.isfinite(logits).all()):
            raise RewardError("the head of the reward model gave a logit that is not a number.")
        return logits

    def _parts(self) -> list[Any]:
        return [self.model, self.head.module]

    def _settings(self) -> dict[str, Any]:
        own = {"positive_class": self.head.positive, "activation": activation_of(self.head.module)}
        return {**super()._settings(), **own, "style": asdict(self.style)}
