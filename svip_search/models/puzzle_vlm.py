"""The embedded vision-language model: a convolutional eye and a small Llama.

The eye turns a 128 x 128 picture into 8 x 8 = 64 visual tokens.  Each token is the sum of a free
feature and of *grounded words*: the eye guesses what stands in its cell (a shape, a colour, a
numeral, a size), and the word embeddings of its guesses, weighted by their probabilities, go into
the token.  Reading a fact off the picture is then copying a word that is already there, and the
guesses can be trained directly against scene truth (``perception_logits``).

Importing this module registers the classes with transformers' Auto classes, so that
``AutoModelForImageTextToText.from_pretrained(folder)`` loads a saved model like any other.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationMixin,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

#: The attribute groups that the eye names, in the order of ``PuzzleVLMConfig.perception_words``.
PERCEPTION_GROUPS = ("shape", "color", "number", "size")


class PuzzleVLMConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of a puzzle model.

    Args:
        image_size: side of the picture in pixels; a multiple of 16.
        eye_channels: channels of the four convolution stages.
        perception_words: per attribute group, the token ids that the eye may name.
        image_token_id: id of the placeholder that a visual token replaces.
    """

    model_type = "svip_puzzle_vlm"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": LlamaConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        image_size: int = 128,
        eye_channels: tuple[int, ...] = (32, 64, 128, 128),
        perception_words: tuple[tuple[int, ...], ...] = ((), (), (), ()),
        image_token_id: int = 4,
        **kwargs: Any,
    ) -> None:
        if not isinstance(text_config, LlamaConfig):
            text_config = LlamaConfig(**(text_config or {}))
        self.text_config: LlamaConfig = text_config
        self.image_size = image_size
        self.eye_channels = list(eye_channels)
        self.perception_words = [list(words) for words in perception_words]
        self.image_token_id = image_token_id
        kwargs.setdefault("tie_word_embeddings", True)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            kwargs.setdefault(name, getattr(text_config, name, None))
        super().__init__(**kwargs)

    @property
    def n_visual_tokens(self) -> int:
        """Number of visual tokens of one picture."""
        return (self.image_size // 16) ** 2


class Eye(nn.Module):
    """Picture [B, 3, S, S] -> features [B, (S/16)^2, C] and what stands in each cell."""

    def __init__(self, config: PuzzleVLMConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels in config.eye_channels:
            groups = max(1, channels // 16)
            layers += [
                nn.Conv2d(previous, channels, 3, 2, 1),
                nn.GroupNorm(groups, channels),
                nn.GELU(),
                nn.Conv2d(channels, channels, 3, 1, 1, groups=groups),
                nn.GELU(),
            ]
            previous = channels
        self.stages = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(previous)
        self.heads = nn.ModuleList(nn.Linear(previous, 1 + len(w)) for w in config.perception_words)

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = self.norm(self.stages(pixels).flatten(2).transpose(1, 2))
        return features, [head(features) for head in self.heads]


class PuzzleVLMPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """Weight initialisation and the switches transformers asks for."""

    config_class = PuzzleVLMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["LlamaDecoderLayer"]


class PuzzleVLMModel(PuzzleVLMPreTrainedModel):
    """Eye and language model, without the language-modelling head."""

    def __init__(self, config: PuzzleVLMConfig) -> None:
        super().__init__(config)
        self.build_eye(config)
        self.language_model = LlamaModel(config.text_config)
        self.post_init()

    def build_eye(self, config: PuzzleVLMConfig) -> None:
        """Make what turns pictures into visual tokens."""
        width = config.text_config.hidden_size
        self.eye: nn.Module = Eye(config)
        self.project = nn.Linear(config.eye_channels[-1], width)
        self.place = nn.Embedding(config.n_visual_tokens, width)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.language_model.embed_tokens
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embed_tokens = value

    def get_image_features(self, pixel_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return visual tokens [B, V, D] and the eye's guesses, one [B, V, 1 + words] a group."""
        features, guesses = self.eye(pixel_values)
        tokens = self.project(features) + self.place.weight
        words = self.language_model.embed_tokens.weight
        for group, logits in zip(self.config.perception_words, guesses, strict=True):
            if group:
                tokens = tokens + logits.softmax(-1)[..., 1:] @ words[group]
        return tokens, guesses

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if pixel_values is not None:
                tokens, _ = self.get_image_features(pixel_values.to(inputs_embeds.dtype))
                inputs_embeds = self.place_tokens(input_ids, inputs_embeds, tokens)
        out: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return out

    def place_tokens(self, input_ids: Tensor, embeds: Tensor, tokens: Tensor) -> Tensor:
        """Return ``embeds`` with the visual ``tokens`` [P, V, D] at the image placeholders."""
        here = input_ids == self.config.image_token_id
        if int(here.sum()) != tokens.shape[0] * tokens.shape[1]:
            raise ValueError(
                f"`input_ids` must hold {self.config.n_visual_tokens} image tokens a picture; "
                f"got {int(here.sum())} for {tokens.shape[0]} pictures."
            )
        return embeds.masked_scatter(here[..., None], tokens.to(embeds.dtype))


class PuzzleVLMForConditionalGeneration(PuzzleVLMPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The policy's model: next-token logits after picture and text."""

    body: ClassVar[type[PuzzleVLMModel]] = PuzzleVLMModel
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: PuzzleVLMConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = self.body(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        out = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden = out.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, keep])
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        # The picture goes in once: afterwards its keys and values are in the cache.
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs


AutoConfig.register(PuzzleVLMConfig.model_type, PuzzleVLMConfig, exist_ok=True)
AutoModelForImageTextToText.register(PuzzleVLMConfig, PuzzleVLMForConditionalGeneration, exist_ok=True)
