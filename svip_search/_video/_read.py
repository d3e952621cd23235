"""From a source to its chosen frames: one door for files, folders and lists of pictures."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import ImageError
from .._images import MAX_PIXELS, open_image
from ._container import container
from ._sampling import sample_indices
from ._video import Frame

if TYPE_CHECKING:
    from ._video import Video

#: Largest accepted file of a video.
MAX_BYTES = 4 << 30
#: Most pixels in all chosen frames of a video: what they take is three bytes each.
MAX_TOTAL_PIXELS = 8 * MAX_PIXELS
#: Most pixels of frames that are kept for the next reader of the same file, over all videos.
KEPT_PIXELS = MAX_PIXELS

_kept: OrderedDict[Any, tuple[Frame, ...]] = OrderedDict()
_lock = threading.Lock()


def read_video(video: Video) -> tuple[Frame, ...]:
    """Return the chosen frames of a video; see `Video.read`."""
    if isinstance(video.source, tuple):
        return _pictures(video, video.source, "the list of frames")
    path, name = os.path.abspath(video.source), repr(video.source)
    try:
        if os.path.isdir(path):
            return _folder(video, path, name)
        return _file(video, path, name)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise fail(name, getattr(error, "strerror", None) or str(error) or type(error).__name__) from None


def is_video(path: str) -> bool:
    """Return whether a path is that of a folder, a film or an animation; what cannot be read is none."""
    if os.path.isdir(path):
        return True
    if not os.path.isfile(path):
        return False
    try:
        with Path(path).open("rb") as stream:
            if container(stream, repr(path)) is not None:
                return True
            from ._animation import is_animation

            return is_animation(stream)
    except ImageError:
        return True  # a film that was cut off: reading it says so
    except OSError:
        return False


def fail(name: str, reason: str) -> ImageError:
    """Return the error of a video that cannot be read."""
    return ImageError(f"Cannot read video {name}: {reason}.")


def check_total(name: str, count: int, size: tuple[int, int]) -> None:
    """Refuse frames that would take too much memory, before they are decoded."""
    width, height = size
    if width < 1 or height < 1:
        raise fail(name, f"its frames are empty ({width} x {height} pixels)")
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // 10**6
        raise fail(name, f"at most {most} megapixels a frame are accepted; it has {width} x {height} pixels")
    if count * width * height > MAX_TOTAL_PIXELS:
        most = MAX_TOTAL_PIXELS // 10**6
        raise fail(
            name, f"at most {most} megapixels in all are accepted; {count} frames of {width} x {height} are more"
        )


def _file(video: Video, path: str, name: str) -> tuple[Frame, ...]:
    if not os.path.exists(path):
        web = video.source.startswith(("http://", "https://", "data:"))
        raise fail(name[:100], "addresses are not fetched, give a file" if web else "there is no such file")
    if not os.path.isfile(path):
        raise fail(name, "it is not a regular file")
    stat = os.stat(path)
    if not 0 < stat.st_size <= MAX_BYTES:
        raise fail(name, f"at most {MAX_BYTES >> 30} GiB are accepted" if stat.st_size else "it is empty")
    key = (path, stat.st_size, stat.st_mtime_ns, stat.st_ino, video.frames, video.fps, video.start, video.end)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    frames = _decoded(video, path, name)
    _keep(key, frames)
    return frames


def _decoded(video: Video, path: str, name: str) -> tuple[Frame, ...]:
    with Path(path).open("rb") as stream:
        kind = container(stream, name)
        if kind is None:
            from ._animation import read_animation

            return read_animation(video, stream, name)
    from ._opencv import read_file

    return read_file(video, path, name)


def _keep(key: Any, frames: tuple[Frame, ...]) -> None:
    """Keep frames for the next reader: a policy and a reward model both look at a question."""
    with _lock:
        _kept[key] = frames
        while sum(map(_pixels, _kept.values())) > KEPT_PIXELS:
            _kept.popitem(last=False)


def _pixels(frames: Iterable[Frame]) -> int:
    return sum(frame.image.width * frame.image.height for frame in frames)


def _folder(video: Video, path: str, name: str) -> tuple[Frame, ...]:
    if video.timed:
        raise fail(name, "`fps`, `start` and `end` must not be given for a folder: its pictures have no times")
    with os.scandir(path) as entries:
        names = sorted((entry.name for entry in entries if not entry.name.startswith(".")), key=_natural)
    if not names:
        raise fail(name, "the folder is empty")
    return _pictures(video, [os.path.join(path, each) for each in names], name)


def _natural(name: str) -> tuple[Any, ...]:
    """Sort "frame 2" before "frame 10"; equal ones by their letters."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p.lower()) for p in parts], name


def _pictures(video: Video, sources: Any, name: str) -> tuple[Frame, ...]:
    return tuple(_opened([sources[i] for i in sample_indices(len(sources), video.frames)], name))


def _opened(sources: list[Any], name: str) -> Iterator[Frame]:
    total = 0
    for source in sources:
        image, seconds = open_image(source.image if isinstance(source, Frame) else source), None
        if isinstance(source, Frame) and source.seconds is not None:
            seconds = float(source.seconds)
        total += image.width * image.height
        if total > MAX_TOTAL_PIXELS:
            raise fail(name, f"at most {MAX_TOTAL_PIXELS // 10**6} megapixels in all are accepted; its frames are more")
        yield Frame(image, seconds)
