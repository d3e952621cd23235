"""How a question becomes the input of an image-text-to-text model, one way for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._errors import ImageError
from .._types import Question
from .._video import Picture, pictures

#: Ends every step, in what policies generate and in what reward models read.
STEP_SEPARATOR = "\n"

INSTRUCTIONS = (
    "Think step by step. Write one step per line. Finish with a line of the form 'Answer: X', where X is {target}."
)


def question_text(question: Question, instructions: bool = True) -> str:
    r"""Return the words of the prompt: question, options, and how to answer.

    Example:
        >>> question_text(Question("What is missing?", options=["1", "4"]), instructions=False)
        'What is missing?\nOptions: 1, 4\n'
    """
    lines = [question.text]
    if question.options:
        lines.append("Options: " + ", ".join(question.options))
    if instructions:
        target = "one of the options" if question.options else "the answer"
        lines.append(INSTRUCTIONS.format(target=target))
    return "\n".join(lines) + "\n"


def build_inputs(processor: Any, question: Question) -> dict[str, Any]:
    """Return the tensors of the prompt: input_ids, attention_mask [1, L], pixel_values, ….

    A processor with a chat template gets one user turn with the pictures first, and the generation
    prompt; one without gets the picture placeholders followed by the plain words.  The frames of a video
    are pictures in order, each behind its label.

    Raises:
        ImageError: a picture or video cannot be read, or they are more than the model takes.
    """
    shown = pictures(question)
    check_count(processor, len(shown))
    words = question_text(question, getattr(processor, "wants_instructions", True))
    parts = content_parts(shown, words)
    if getattr(processor, "chat_template", None):
        parts[-1]["text"] = parts[-1]["text"].rstrip("\n")
        text = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
    else:
        placeholder = getattr(processor, "image_token", "<image>")
        text = "".join(part.get("text", placeholder) for part in parts)
    return dict(processor(images=[p.image for p in shown] or None, text=text, return_tensors="pt"))


def check_count(processor: Any, count: int) -> None:
    """Refuse more or fewer pictures than a model has learned to take, where its processor says how many these are."""
    least, most = getattr(processor, "min_images", 0), getattr(processor, "max_images", None)
    name = getattr(processor, "model_name", type(processor).__name__)
    if count < least:
        raise ImageError(f"{name} needs {least} picture{'s' * (least != 1)}; the question has {count}.")
    if isinstance(most, int) and count > most:
        raise ImageError(f"{name} takes {most} picture{'s' * (most != 1)}; the question has {count}.")


def content_parts(shown: Sequence[Picture], words: str) -> list[dict[str, str]]:
    """Return the turn in parts: pictures, each labelled one on a line of its own, and the words."""
    parts: list[dict[str, str]] = []
    for picture in shown:
        if picture.label:
            parts.append({"type": "text", "text": ("\n" if parts else "") + picture.label + ": "})
        parts.append({"type": "image"})
    after_label = bool(shown) and bool(shown[-1].label)
    return [*parts, {"type": "text", "text": ("\n" if after_label else "") + words}]


def encode_step(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of one step with its separator, without special tokens."""
    ids: list[int] = tokenizer.encode(text + STEP_SEPARATOR, add_special_tokens=False)
    return ids
