"""Animated GIF, WebP and PNG files, and still pictures, read with Pillow."""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from .._errors import ImageError
from .._images import FORMATS, open_image
from ._read import check_total, fail
from ._sampling import on_display, sample_times
from ._video import Frame

if TYPE_CHECKING:
    from ._video import Video

#: Most frames of an animation, all of which have to be decoded; and most seconds for them.
MAX_DECODED, MAX_SECONDS = 100_000, 120.0
#: Seconds of a frame that gives no time of its own, as browsers show it.
_DEFAULT_SECONDS = 0.1


def read_animation(video: Video, stream: BinaryIO, name: str) -> tuple[Frame, ...]:
    """Return the chosen frames of an animation, or a still picture as the only frame of its video."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large sizes and odd metadata: judged below
        try:
            image = Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError:
            raise fail(name, "at most 33 megapixels a frame are accepted; it has more") from None
        except Exception:
            accepted = "MP4, MOV, AVI, WebM or MKV video, GIF, WebP or PNG"
            raise fail(name, f"it is not a readable {accepted} file") from None
        check_total(name, 1, image.size)
        try:
            return _chosen(video, image, name)
        except ImageError:
            raise
        except Exception as error:  # Pillow raises a dozen kinds on damaged data
            full = isinstance(error, MemoryError)
            raise fail(name, "memory is too small" if full else "it is damaged or truncated") from None


def is_animation(stream: BinaryIO) -> bool:
    """Return whether a file of a picture holds several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(stream, formats=FORMATS)
            return image.format != "MPO" and int(getattr(image, "n_frames", 1)) > 1
        except Exception:  # damaged: no animation, and no picture either
            return False


def _chosen(video: Video, image: Image.Image, name: str) -> tuple[Frame, ...]:
    count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if count > MAX_DECODED:
        raise fail(name, f"at most {MAX_DECODED} frames are accepted; it has {count}")
    # The picture that readers without animation show is no part of the film.
    skipped = int(bool(getattr(image, "default_image", False)) and count > 1)
    stamps, end = _stamps(image, skipped, count, name)
    if video.start >= end and video.start > 0.0:
        raise fail(name, f"`start` is {video.start:g} s, and it lasts {end:g} s")
    last = stamps[-1] if video.end is None else min(video.end, stamps[-1])
    wanted = on_display(stamps, sample_times(video.start, last, video.frames, video.fps))
    check_total(name, len(wanted), image.size)
    frames = []
    for i in wanted:
        image.seek(i + skipped)
        image.load()
        frames.append(Frame(open_image(image.copy()), stamps[i]))
    return tuple(frames)


def _stamps(image: Image.Image, skipped: int, count: int, name: str) -> tuple[list[float], float]:
    """Return when each frame is first shown, and when the last one ends."""
    stamps, now = [], 0.0
    started = time.monotonic()
    for i in range(skipped, count):
        image.seek(i)
        image.load()  # a WebP file tells the times of a frame when it has been decoded
        stamps.append(round(now, 6))
        now += float(image.info.get("duration") or 0) / 1000 or _DEFAULT_SECONDS
        if time.monotonic() - started > MAX_SECONDS:
            raise fail(name, f"reading it takes more than {MAX_SECONDS:.0f} s")
    return stamps, now
