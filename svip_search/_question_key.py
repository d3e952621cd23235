"""One name for a question by its content: what caches and journals know it by."""

from __future__ import annotations

import hashlib
import os
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
