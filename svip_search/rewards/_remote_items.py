"""What a client of reward models keeps: questions ready to be sent, and rewards that came back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._types import Prefix, Question

Reward = NDArray[np.float32]
#: Pictures of at most so many characters are sent each time: their digest would save little.
SMALL = 2048


def picture_digest(url: str) -> str:
    """Return the name by which a picture that was sent before may be sent again."""
    return blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Sendable:
    """A question with its pictures encoded.

    Args:
        question: as it was given.
        pictures: one entry a picture, its address and its digest; of a video a list of them, each with the
            seconds at which it is shown.
    """

    question: Question
    pictures: list[Any]
    digests: frozenset[str] = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        flat = list(_flat(self.pictures))
        object.__setattr__(self, "digests", frozenset(digest for _, digest in flat))
        object.__setattr__(self, "size", sum(len(url) for url, _ in flat))

    def body(self, known: Callable[[str], bool]) -> dict[str, Any]:
        """Return the question as JSON; of pictures that the server knows, digests alone."""
        images = [_film(e, known) if isinstance(e, list) else _sent(e, known) for e in self.pictures]
        return {"text": self.question.text, "images": images, "options": list(self.question.options)}


def _flat(pictures: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for entry in pictures:
        yield from (frame[:2] for frame in entry) if isinstance(entry, list) else (entry,)


def _film(frames: Sequence[tuple[str, str, float | None]], known: Callable[[str], bool]) -> dict[str, Any]:
    film: dict[str, Any] = {"frames": [_sent(frame[:2], known) for frame in frames]}
    seconds = [frame[2] for frame in frames]
    return film if seconds == [None] * len(frames) else {**film, "seconds": seconds}


def _sent(picture: tuple[str, str], known: Callable[[str], bool]) -> str | dict[str, str]:
    url, digest = picture
    return {"digest": digest} if len(url) > SMALL and known(digest) else url


def encode(question: Question) -> Sendable:
    """Return a question with its pictures encoded.

    Raises:
        ImageError: a picture cannot be read.
    """
    return Sendable(question, [_encoded(image) for image in question.images])


def _encoded(image: Any) -> Any:
    from .._http import data_url
    from .._video import Video

    if isinstance(image, Video):
        return [(*_encoded(frame.image), frame.seconds) for frame in image.read()]
    url = data_url(image)
    return url, picture_digest(url)


class Scores:
    """Rewards by question and path, the questions asked last the longest.

    Args:
        entries: most paths; of a causal model, most steps.
    """

    def __init__(self, entries: int) -> None:
        self.entries = entries
        #: Whether the reward of a step depends on the steps up to it alone: then steps are kept, not paths.
        self.causal = False
        self._held = 0
        self._questions: OrderedDict[str, dict[Prefix, Reward]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str, path: Prefix) -> Reward | None:
        """Return the rewards of a path, None where they are not known."""
        with self._lock:
            known = self._questions.get(key)
            if known is None:
                return None
            self._questions.move_to_end(key)
            if not self.causal:
                found = known.get(path)
                return None if found is None else found.copy()
            if path not in known:
                return None
            rows = [known.get(path[: i + 1]) for i in range(len(path))]
            return None if any(row is None for row in rows) else np.stack(rows)  # type: ignore[arg-type]

    def keep(self, key: str, path: Prefix, reward: Reward) -> None:
        """Keep the rewards of a path."""
        if not self.entries:
            return
        with self._lock:
            known = self._questions.setdefault(key, {})
            self._questions.move_to_end(key)
            self._held -= len(known)
            if self.causal:
                known.update((path[: i + 1], row) for i, row in enumerate(reward))
            else:
                known[path] = reward.copy()
            self._held += len(known)
            while self._held > self.entries:
                self._drop_one()

    def _drop_one(self) -> None:
        key, known = next(iter(self._questions.items()))
        del known[next(iter(known))]
        self._held -= 1
        if not known:
            del self._questions[key]

    def forget(self, key: str) -> None:
        """Drop what is known of a question."""
        with self._lock:
            self._held -= len(self._questions.pop(key, ()))
