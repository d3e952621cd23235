"""Reading the files of reward models: a decoder, the head on it, and what the library noted beside them.

Heads are read by their tensors' names and shapes, so that a published checkpoint needs none of its own code: a linear
layer (``score.weight``, with or without ``score.bias``) or several (``score.0.weight``, ``score.2.weight``, …).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from .._errors import ModelFileError

#: What the library notes beside a model.
SETTINGS = "svip_search_reward.json"
#: Names that heads have in published checkpoints, in the order they are looked for.
HEADS = ("score", "classifier", "v_head.summary", "v_head", "value_head", "reward_head")
_INDEX, _SINGLE, APART = "model.safetensors.index.json", "model.safetensors", "value_head.safetensors"
_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def read_model(
    where: str, generates: bool, dtype: Any, local_files_only: bool, trust_remote_code: bool
) -> tuple[Any, Any]:
    """Return a model and its processor, or its tokenizer where the model reads text alone.

    Args:
        where: a folder or the name of a published model.
        generates: whether its output embeddings are wanted; else the decoder alone.
        dtype: floating-point type to load the weights in; None takes the saved one.
        local_files_only: never look beyond this machine.
        trust_remote_code: run code that comes with the model.

    Raises:
        ModelFileError: files are missing, damaged, not of safetensors, or do not fit the model.
    """
    import transformers as hf
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as SEEING

    with contextlib.suppress(ImportError):  # they register the embedded models
        from ..models import plan_processor, puzzle_processor  # noqa: F401

    options = {"local_files_only": local_files_only, "trust_remote_code": trust_remote_code}
    try:
        config = hf.AutoConfig.from_pretrained(where, **options)
        sees = type(config) in SEEING
        auto = hf.AutoModel if not generates else hf.AutoModelForImageTextToText if sees else hf.AutoModelForCausalLM
        model, info = auto.from_pretrained(
            where, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True, **options
        )
        processor = (hf.AutoProcessor if sees else hf.AutoTokenizer).from_pretrained(where, **options)
    except Exception as error:  # transformers raises a dozen kinds on damaged folders
        raise ModelFileError(f"Cannot load a reward model from {where!r}: {line(error)}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelFileError(f"The weights in {where!r} lack {len(missing)} tensors, among them {missing[0]!r}.")
    return model, processor


def read_head(where: str, name: str | None, activation: str, local_files_only: bool = False) -> nn.Module:
    """Return the head that the safetensors files of a model hold beside the decoder.

    Args:
        where: a folder or the name of a published model.
        name: of the head, what its tensors' names begin with; None looks for the usual ones.
        activation: between the layers of a head of several: ``"relu"``, ``"silu"``, ``"gelu"`` or ``"tanh"``.
        local_files_only: never look beyond this machine.

    Raises:
        ModelFileError: there is no head, or it is not made of linear layers.
        ValueError: an unknown activation.
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(_ACTIVATIONS)}; got {activation!r}.")
    try:
        tensors = _head_tensors(where, (name,) if name else HEADS, local_files_only)
    except Exception as error:
        raise ModelFileError(f"Cannot read a head from {where!r}: {line(error)}") from error
    if not tensors:
        looked = name or ", ".join(HEADS)
        raise ModelFileError(f"The weights in {where!r} hold no head; looked for {looked}.")
    return make_head(tensors, activation)


def make_head(tensors: Mapping[str, Tensor], activation: str) -> nn.Module:
    """Return the module of the linear layers named ``weight``, ``bias`` or ``0.weight``, ``0.bias``, …

    Raises:
        ModelFileError: the tensors are not those of linear layers that follow one another.
    """
    names = sorted({n.rpartition(".")[0] for n in tensors}, key=lambda n: (len(n), n))
    layers: list[nn.Module] = []
    width = None
    for name in names:
        before = f"{name}." if name else ""
        weight, bias = tensors.get(before + "weight"), tensors.get(before + "bias")
        if weight is None or weight.ndim != 2 or width not in (None, weight.shape[1]):
            shapes = {n: list(t.shape) for n, t in tensors.items()}
            raise ModelFileError(f"A head must be made of linear layers that follow one another; got {shapes}.")
        width = weight.shape[0]
        linear = nn.Linear(weight.shape[1], width, bias=bias is not None, dtype=weight.dtype)
        linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers += [_ACTIVATIONS[activation](), linear] if layers else [linear]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def head_state(head: nn.Module, name: str = "score") -> dict[str, Tensor]:
    """Return the tensors of a head under the names that ``read_head`` looks for.

    Raises:
        ValueError: the head is not made of linear layers with one kind of activation between them.
    """
    inner = list(head) if isinstance(head, nn.Sequential) else [head]
    if not all(isinstance(m, nn.Linear) for m in inner[::2]) or len({type(m) for m in inner[1::2]}) > 1:
        raise ValueError(f"`head` must be made of linear layers to be saved; got {type(head).__name__}.")
    return {f"{name}.{key}": value.detach().cpu().contiguous() for key, value in head.state_dict().items()}


def activation_of(head: nn.Module) -> str:
    """Return the name of the activation between the layers of a head."""
    inner = list(head) if isinstance(head, nn.Sequential) else []
    names = [name for name, kind in _ACTIVATIONS.items() if any(isinstance(m, kind) for m in inner)]
    return names[0] if names else "relu"


def read_settings(where: str, form: str) -> dict[str, Any]:
    """Return what ``save`` noted in a folder, nothing where it noted nothing.

    Raises:
        ModelFileError: the file is damaged, or of another kind of reward model.
    """
    path = Path(where) / SETTINGS
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {line(error)}") from None
    if not isinstance(found, dict) or found.get("format") != "svip-search-reward" or found.get("version") != 1:
        raise ModelFileError(f"{path} does not describe a reward model of version 1.")
    if found.get("form") != form:
        raise ModelFileError(f"{path} describes a reward model of form {found.get('form')!r}; this one is {form!r}.")
    return {name: value for name, value in found.items() if name not in ("format", "version", "form")}


def _head_tensors(where: str, names: Sequence[str], local: bool) -> dict[str, Tensor]:
    found: dict[str, dict[str, Tensor]] = {}
    for path in _weight_files(where, names, local):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                for name in names:
                    if key.startswith(f"{name}."):
                        found.setdefault(name, {})[key.removeprefix(f"{name}.")] = file.get_tensor(key)
    return next((found[name] for name in names if name in found), {})


def _weight_files(where: str, names: Sequence[str], local: bool) -> list[str]:
    """Return the files that may hold a head: of many parts of a model only those."""
    from transformers.utils import cached_file

    def get(name: str) -> str | None:
        options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        return cached_file(where, name, local_files_only=local, **options)  # type: ignore[no-any-return]

    files = [path for name in (APART, _SINGLE) if (path := get(name))]
    if index := get(_INDEX):
        parts = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        wanted = {part for key, part in parts.items() if key.startswith(tuple(f"{name}." for name in names))}
        files += [path for part in sorted(wanted) if (path := get(part))]
    return files


def line(error: BaseException) -> str:
    """Return the first line of an error's message, ended by a full stop."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if text.endswith(".") else text + "."
