"""What the user's message says of a question, with its pictures encoded once."""

from __future__ import annotations

from typing import Any, Literal

from .._errors import ImageError
from .._http import Encoded, parts_size, picture_parts
from .._types import Question
from ..models.prompt import question_text
from ._chat import Content


class Contents(Encoded[list[dict[str, Any]]]):
    """The messages of questions: words alone, or pictures before them.

    Args:
        most: most pictures of a question, frames included; None has no limit.
        video: "frames" sends the frames of videos with their labels, "error" refuses videos.
    """

    def __init__(self, most: int | None, video: Literal["frames", "error"]) -> None:
        super().__init__(self._parts, parts_size)
        self.most, self.video = most, video

    async def message(self, question: Question) -> tuple[str, Content]:
        """Return the question's key and the content of its message.

        Raises:
            ImageError: a picture cannot be read, or there are more than allowed.
        """
        words = question_text(question).rstrip("\n")
        key, parts = await self.of(question)
        return key, [*parts, {"type": "text", "text": words}] if question.images else words

    def _parts(self, question: Question) -> list[dict[str, Any]]:
        from .._video import Video, pictures

        if self.video == "error" and any(isinstance(image, Video) for image in question.images):
            raise ImageError("`video` is 'error', and the question has a video.")
        shown = pictures(question)
        if self.most is not None and len(shown) > self.most:
            raise ImageError(f"`max_images` is {self.most}; the question has {len(shown)} pictures.")
        return picture_parts(shown)
