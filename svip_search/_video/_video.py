"""The public names: a video, its frames, and the pictures of a question."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Question

if TYPE_CHECKING:
    from PIL import Image

#: Most frames that may stand for one video.
MAX_FRAMES = 256


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Args:
        image: an 8-bit RGB picture; anything that `open_image` takes where it is given to `Video`.
        seconds: when it is first shown, from the start of the video; None where frames have no times.
    """

    image: Any
    seconds: float | None = None


@dataclass(frozen=True)
class Picture:
    """One picture that a model is shown.

    Args:
        image: an 8-bit RGB picture.
        label: what stands before it, as ``"Video 1, frame 3 of 8, 1.25 s"``; empty for a plain picture.
    """

    image: Image.Image
    label: str = ""


@dataclass(frozen=True, repr=False)
class Video:
    """A video of a question: some of its frames, evenly spread over time, are what a model is shown.

    ::

        times  = first, ..., last          `frames` of them at equal distances, both ends included
        times  = first, first + 1/fps, ... where `fps` is given and that makes no more than `frames`
        frames = those on display at these times, each once

    Args:
        source: the path of a video file (MP4, MOV, AVI, WebM, MKV), of an animated GIF, WebP or PNG, of a
            folder of pictures, or a list of pictures as in ``Question.images`` or of `Frame` objects.  A
            folder is taken in the order of its names, numbers in them counting as numbers; hidden files
            are passed over.
        frames: how many frames, 1 to 256; a shorter video gives all of its own.  One frame is that of the middle.
        fps: frames a second of the video, `frames` being the most; None: spread `frames` over all of it.
        start: seconds from its beginning, where sampling begins.
        end: seconds from its beginning, where sampling ends; None: at its last frame.

    Raises:
        ValueError: a number is out of range, the list of pictures is empty, or pictures in a list, which have no
            times, are to be chosen by time.
        TypeError: ``source`` is none of the above.

    Notes:
        Nothing is read before it is needed.  Files of videos are decoded by OpenCV, of the extra ``programs``.
        A file may have up to 4 GiB, a frame 33 megapixels, all frames of one video together 265 megapixels.
        Both ends are covered as in the video inputs of Qwen2-VL (``linspace(0, total - 1, n)``) and
        LLaVA-NeXT-Video: questions often ask how something begins or ends.

    Example:
        >>> import numpy as np
        >>> film = [np.full((4, 4, 3), shade, np.uint8) for shade in range(9)]
        >>> [frame.image.getpixel((0, 0))[0] for frame in Video(film, frames=3).read()]
        [0, 4, 8]
        >>> Video("film.mp4", frames=16, start=2.5)
        Video('film.mp4', frames=16, start=2.5)
    """

    source: Any
    frames: int = 8
    fps: float | None = None
    start: float = 0.0
    end: float | None = None

    def __init__(
        self, source: Any, *, frames: int = 8, fps: float | None = None, start: float = 0.0, end: float | None = None
    ) -> None:
        values = {"source": _source(source), "frames": frames, "fps": fps, "start": start, "end": end}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        if isinstance(self.frames, bool) or not isinstance(self.frames, (int, np.integer)):
            raise ValueError(f"`frames` must be a whole number; got {self.frames!r}.")
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ValueError(f"`frames` must be 1 to {MAX_FRAMES}; got {self.frames}.")
        if self.fps is not None and not 0.0 < self.fps < math.inf:
            raise ValueError(f"`fps` must be a number above 0, or None; got {self.fps}.")
        if not 0.0 <= self.start < math.inf:
            raise ValueError(f"`start` must be a number of seconds of at least 0; got {self.start}.")
        if self.end is not None and not self.start < self.end:
            raise ValueError(f"`end` must be after `start`, {self.start}; got {self.end}.")
        if isinstance(self.source, tuple) and self.timed:
            raise ValueError("`fps`, `start` and `end` must not be given for pictures in a list: they have no times.")

    @property
    def timed(self) -> bool:
        """Whether frames are asked for by time, so that the source must know of times."""
        return self.fps is not None or self.start > 0.0 or self.end is not None

    def read(self) -> tuple[Frame, ...]:
        """Return the chosen frames, in order of time.

        Raises:
            ImageError: the source is missing, damaged, cut off, without frames, too large, of a format that is not
                read, or a folder with something else than pictures; or OpenCV is needed and is not installed.
        """
        from ._read import read_video

        return read_video(self)

    def __repr__(self) -> str:
        shown = f"<{len(self.source)} frames>" if isinstance(self.source, tuple) else repr(self.source)
        others = {"fps": (self.fps, None), "start": (self.start, 0.0), "end": (self.end, None)}
        extra = "".join(f", {name}={value}" for name, (value, default) in others.items() if value != default)
        return f"Video({shown}, frames={self.frames}{extra})"


def _source(source: Any) -> Any:
    """Check the kind of a source; what is a list of frames becomes a tuple."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, np.ndarray) and source.ndim != 4:
        raise TypeError(f"An array of frames must be uint8 [frames, height, width, 3]; got {list(source.shape)}.")
    if not isinstance(source, (Sequence, np.ndarray)) or isinstance(source, (bytes, bytearray, memoryview)):
        raise TypeError(f"`source` must be a path, a folder or a list of pictures; got {type(source).__name__}.")
    if len(source) == 0:
        raise ValueError("`source` must hold at least one frame; got an empty list.")
    if any(isinstance(frame, Video) for frame in source):
        raise TypeError("`source` must be a list of pictures; got a Video in it.")
    return tuple(source)


def pictures(question: Question) -> list[Picture]:
    """Return every picture of a question in order, the chosen frames of its videos among them.

    Args:
        question: its ``images`` are pictures (`open_image`) and videos (`Video`).

    Returns:
        One 8-bit RGB picture each.  Frames are labelled with the number of their video in the question, their own
        number among the chosen ones, and their time where it is known.

    Raises:
        ImageError: a picture or a video cannot be read.
        TypeError: something is neither.

    Example:
        >>> import numpy as np
        >>> grey, film = np.zeros((4, 4, 3), np.uint8), Video(np.zeros((2, 4, 4, 3), np.uint8))
        >>> [picture.label for picture in pictures(Question("What moved?", images=[grey, film]))]
        ['', 'Video 1, frame 1 of 2', 'Video 1, frame 2 of 2']
    """
    found: list[Picture] = []
    videos = 0
    for image in question.images:
        videos += isinstance(image, Video)
        found += pictures_of(image, videos)
    return found


def pictures_of(image: Any, number: int) -> list[Picture]:
    """Return the pictures of one entry of ``Question.images``, which is the ``number``-th video if it is one.

    Raises:
        ImageError: it cannot be read.
        TypeError: it is neither a picture nor a video.
    """
    from .._images import open_image

    if not isinstance(image, Video):
        return [Picture(open_image(image))]
    frames = image.read()
    return [Picture(f.image, _label(number, i, len(frames), f.seconds)) for i, f in enumerate(frames, 1)]


def is_video(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is one of a video rather than of a picture: a folder, a film or an animation."""
    from ._read import is_video

    return is_video(os.fspath(path))


def _label(video: int, number: int, count: int, seconds: float | None) -> str:
    time = "" if seconds is None else f", {seconds:.2f} s"
    return f"Video {video}, frame {number} of {count}{time}"
