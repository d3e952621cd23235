"""One name for a question by its content: what caches and journals know it by."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from ._types import Question
from ._video import Frame, Video


def question_key(question: Question) -> str:
    """Return a digest of everything of a question that a model may see, not of its ``answer``.

    Pictures count by content where they are arrays or PIL images, and by path, size and time of
    change where they are paths.  Videos count by their source in the same way, the files of a folder
    one by one, and by which of their frames are chosen.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in (question.text, *question.options):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    for image in question.images:
        _add(digest, image)
    return digest.hexdigest()


class QuestionKeys:
    """`question_key` of the question objects that were asked about last: hashing pictures is dear.

    Args:
        most: objects that are known; they stay alive as long, so that the id of each stays its own.

    Notes:
        Thread-safe.

    Example:
        >>> keys, question = QuestionKeys(), Question("Which?")
        >>> keys.known(question), keys(question) == question_key(question) == keys.known(question)
        (None, True)
    """

    def __init__(self, most: int = 4096) -> None:
        self.most = most
        self._known: OrderedDict[int, tuple[Question, str]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, question: Question) -> str:
        """Return the key of a question, hashed only if the object is not known."""
        key = self.known(question)
        if key is None:
            key = question_key(question)
            with self._lock:
                self._known[id(question)] = question, key
                if len(self._known) > self.most:
                    self._known.popitem(last=False)
        return key

    def known(self, question: Question) -> str | None:
        """Return the key of an object that is known."""
        with self._lock:
            if (found := self._known.get(id(question))) is None:
                return None
            self._known.move_to_end(id(question))
            return found[1]

    def forget(self, question: Question) -> str:
        """Drop an object; return its key."""
        with self._lock:
            _, key = self._known.pop(id(question), (None, None))
        return question_key(question) if key is None else key


def _add(digest: hashlib.blake2b, image: Any) -> None:
    """Add a picture or a video."""
    if isinstance(image, Video):
        _add_video(digest, image)
    elif isinstance(image, Frame):
        digest.update(repr(("frame", None if image.seconds is None else float(image.seconds))).encode())
        _add(digest, image.image)
    elif isinstance(image, (str, os.PathLike)):
        _add_path(digest, os.fspath(image))
    else:
        mode = getattr(image, "mode", "")
        array = np.ascontiguousarray(np.asarray(image))
        digest.update(repr((mode, array.shape, array.dtype.str)).encode())
        digest.update(array.tobytes())


def _add_path(digest: hashlib.blake2b, path: str | bytes) -> None:
    stat = os.stat(path) if os.path.exists(path) else None
    digest.update(repr((path, stat and (stat.st_size, stat.st_mtime_ns))).encode())


def _add_video(digest: hashlib.blake2b, video: Video) -> None:
    frames = video.source if isinstance(video.source, tuple) else _frames(video.source)
    fps, end = (None if number is None else float(number) for number in (video.fps, video.end))
    digest.update(repr(("video", int(video.frames), fps, float(video.start), end, len(frames))).encode())
    for frame in frames:
        _add(digest, frame)


def _frames(path: str) -> tuple[str, ...]:
    """Return the path of a video, and with it those of the pictures where it is a folder."""
    if not os.path.isdir(path):
        return (path,)
    return (path, *(os.path.join(path, name) for name in sorted(os.listdir(path))))
