"""One name for a question by its content: what caches and journals know it by."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from ._types import Question


def question_key(question: Question) -> str:
    """Return a digest of everything of a question that a model may see, not of its ``answer``.

    Pictures count by content where they are arrays or PIL images, and by path, size and time of
    change where they are paths.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in (question.text, *question.options):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    for image in question.images:
        if isinstance(image, (str, os.PathLike)):
            path = os.fspath(image)
            stat = os.stat(path) if os.path.exists(path) else None
            digest.update(repr((path, stat and (stat.st_size, stat.st_mtime_ns))).encode())
        else:
            mode = getattr(image, "mode", "")
            array = np.ascontiguousarray(np.asarray(image))
            digest.update(repr((mode, array.shape, array.dtype.str)).encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
