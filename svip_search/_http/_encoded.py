"""What requests say of questions with pictures, made once: reading, hashing and encoding pictures is dear."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from .._question_key import QuestionKeys
from .._types import Question
from .._video import Picture
from ._images import data_url

T = TypeVar("T")
#: Characters that are kept, those of texts around pictures estimated.
KEPT_SIZE = 1 << 27
_OVERHEAD = 1024


class Encoded(Generic[T]):
    """What was made of the questions asked about last, by their content.

    Args:
        make: of a question; called outside the event loop where there are pictures.
        size: characters of what was made.

    Attributes:
        made: how often something was.
    """

    def __init__(self, make: Callable[[Question], T], size: Callable[[T], int]) -> None:
        self._make, self._sized = make, size
        self.made = 0
        self._keys = QuestionKeys()
        self._size = 0
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._lock, self._work = threading.Lock(), threading.Lock()

    async def of(self, question: Question) -> tuple[str, T]:
        """Return the question's key, and what was made of it; raises what ``make`` raises."""
        if (found := self._find(question)) is not None:
            return found
        if question.images:
            return await asyncio.to_thread(self._once, question)
        return self._new(question)  # without the lock, which a thread may hold for long

    def forget(self, question: Question) -> str:
        """Drop what is kept for a question; return its key."""
        key = self._keys.forget(question)
        with self._lock:
            self._drop(key)
        return key

    def _find(self, question: Question) -> tuple[str, T] | None:
        key = self._keys.known(question)
        with self._lock:
            if key is None or key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return key, self._kept[key]

    def _once(self, question: Question) -> tuple[str, T]:
        with self._work:  # requests about one question come together: the first encodes for all
            self._keys(question)
            return self._find(question) or self._new(question)  # an equal question may have been there

    def _new(self, question: Question) -> tuple[str, T]:
        key, made = self._keys(question), self._make(question)
        with self._lock:
            self.made += 1
            self._drop(key)
            self._kept[key] = made
            self._size += self._sized(made) + _OVERHEAD
            while self._size > KEPT_SIZE and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return key, made

    def _drop(self, key: str) -> None:
        if key in self._kept:
            self._size -= self._sized(self._kept.pop(key)) + _OVERHEAD


def picture_parts(shown: Sequence[Picture]) -> list[dict[str, Any]]:
    """Return the parts of a chat message that show pictures, each frame of a video after its label."""
    parts: list[dict[str, Any]] = []
    for picture in shown:
        if picture.label:
            parts.append({"type": "text", "text": picture.label})
        parts.append({"type": "image_url", "image_url": {"url": data_url(picture.image)}})
    return parts


def parts_size(parts: Sequence[dict[str, Any]]) -> int:
    """Return the characters of the pictures among the parts of a message."""
    return sum(len(part["image_url"]["url"]) for part in parts if "image_url" in part)
