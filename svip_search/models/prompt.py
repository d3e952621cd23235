"""How a question becomes the input of an image-text-to-text model, one way for all of them."""

from __future__ import annotations

from typing import Any

from .._images import open_image
from .._types import Question

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

    A processor with a chat template gets one user turn with the images first, and the generation
    prompt; one without gets the image placeholders followed by the plain words.
    """
    images = [open_image(i) for i in question.images]
    words = question_text(question, getattr(processor, "wants_instructions", True))
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": words.rstrip("\n")}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    else:
        text = getattr(processor, "image_token", "<image>") * len(images) + words
    return dict(processor(images=images or None, text=text, return_tensors="pt"))


def encode_step(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of one step with its separator, without special tokens."""
    ids: list[int] = tokenizer.encode(text + STEP_SEPARATOR, add_special_tokens=False)
    return ids
