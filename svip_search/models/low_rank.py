"""Low-rank updates of a backbone's language model, through peft (the extra ``lora``)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn


def add_updates(backbone: Any, rank: int, alpha: float, dropout: float = 0.0) -> Any:
    """Return a backbone as peft has it; the linear layers of its language model are wrapped in place.

    Raises:
        ImportError: peft is not installed.
        ValueError: there is no linear layer.
    """
    with _peft() as peft:
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules(backbone)
        )
        return peft.get_peft_model(backbone, config)


def read_updates(backbone: Any, folder: Path) -> Any:
    """Return a backbone with the updates that peft saved to a folder added to its weights.

    Raises:
        ImportError: peft is not installed.
    """
    with _peft() as peft:
        return peft.PeftModel.from_pretrained(backbone, str(folder)).merge_and_unload()


def target_modules(backbone: Any) -> str:
    """Return the pattern of the linear layers of a backbone's language model, as peft takes it.

    Raises:
        ValueError: it has none.
    """
    decoder = backbone.get_decoder()
    prefix = next(name for name, module in backbone.named_modules() if module is decoder)
    linear = {name.rsplit(".", 1)[-1] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    if not linear:
        raise ValueError(
            f"`backbone` must have linear layers in its language model; {type(decoder).__name__} has none."
        )
    return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(linear))})"


@contextmanager
def _peft() -> Iterator[Any]:
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"Low-rank updates need peft: pip install 'svip-search[lora]' ({error}).") from error
    with warnings.catch_warnings():  # peft asks transformers for a name that is about to change
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield peft
