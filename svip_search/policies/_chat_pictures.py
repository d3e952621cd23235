"""What the user's message says of a question, with its pictures encoded once."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import Any, Literal

from .._errors import ImageError
from .._http import data_url
from .._question_key import question_key
from .._types import Question
from ..models.prompt import question_text
from ._chat import Content

#: Characters of encoded pictures that are kept, and questions whose key is.
KEPT_SIZE = 1 << 27
KEPT_KEYS = 1024


class Contents:
    """The messages of questions: words alone, or pictures before them.

    Args:
        most: most pictures of a question, frames included; None has no limit.
        video: "frames" sends the frames of videos with their labels, "error" refuses videos.

    Notes:
        Pictures are read outside the event loop.  Those of the questions used last are kept, up to `KEPT_SIZE`.
    """

    def __init__(self, most: int | None, video: Literal["frames", "error"]) -> None:
        self.most, self.video = most, video
        self.encoded = 0  # questions whose pictures were encoded
        self._size = 0
        self._kept: OrderedDict[str, tuple[list[dict[str, Any]], int]] = OrderedDict()
        # Hashing pictures is dear: an object that is still alive need not be hashed again.
        self._keys: OrderedDict[int, tuple[Question, str]] = OrderedDict()
        self._lock = threading.Lock()
        self._work = threading.Lock()

    async def of(self, question: Question) -> tuple[str, Content]:
        """Return the question's key and the content of its message.

        Raises:
            ImageError: a picture cannot be read, or there are more than allowed.
        """
        if not question.images:
            return question_key(question), question_text(question).rstrip("\n")
        found = self._find(question)
        return await asyncio.to_thread(self._make, question) if found is None else found

    def forget(self, question: Question) -> None:
        """Drop what was kept for a question."""
        with self._lock:
            _, key = self._keys.pop(id(question), (None, ""))
            _, size = self._kept.pop(key, (None, 0))
            self._size -= size

    def _find(self, question: Question) -> tuple[str, Content] | None:
        with self._lock:
            _, key = self._keys.get(id(question), (None, ""))
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return key, self._kept[key][0]

    def _make(self, question: Question) -> tuple[str, Content]:
        with self._work:  # requests of one question come together: the first encodes for all
            if found := self._find(question):
                return found
            key = question_key(question)
            with self._lock:
                self._keys[id(question)] = (question, key)
                if len(self._keys) > KEPT_KEYS:
                    self._keys.popitem(last=False)
            if found := self._find(question):  # an equal question was there
                return found
            parts = self._parts(question)
            self._keep(key, parts)
            return key, parts

    def _keep(self, key: str, parts: list[dict[str, Any]]) -> None:
        size = sum(len(part["image_url"]["url"]) for part in parts if "image_url" in part)
        with self._lock:
            self.encoded += 1
            self._kept[key] = (parts, size)
            self._size += size
            while self._size > KEPT_SIZE and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._size -= dropped

    def _parts(self, question: Question) -> list[dict[str, Any]]:
        from .._video import Video, pictures

        if self.video == "error" and any(isinstance(image, Video) for image in question.images):
            raise ImageError("`video` is 'error', and the question has a video.")
        shown = pictures(question)
        if self.most is not None and len(shown) > self.most:
            raise ImageError(f"`max_images` is {self.most}; the question has {len(shown)} pictures.")
        parts: list[dict[str, Any]] = []
        for picture in shown:
            if picture.label:
                parts.append({"type": "text", "text": picture.label})
            parts.append({"type": "image_url", "image_url": {"url": data_url(picture.image)}})
        return [*parts, {"type": "text", "text": question_text(question).rstrip("\n")}]
