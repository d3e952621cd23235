"""Files of videos, decoded by OpenCV: only what is needed, in bounded memory and time.

fast     the header gives the length and the rate: go near each moment, and play up to it
exact    where that does not come true, note the times of all frames, then fetch the chosen ones
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .._images import open_image
from ._read import check_total, fail
from ._sampling import EPSILON, on_display, sample_times
from ._video import Frame

if TYPE_CHECKING:
    from ._video import Video

#: Most frames that are decoded to find the chosen ones, and most seconds for a whole file.
MAX_DECODED, MAX_SECONDS = 200_000, 120.0
#: From so many frames on it is quicker to seek than to decode what lies between.
_LEAP = 64
_TIMEOUT_MS = 10_000
_FASTEST = 1000.0

_quiet_lock = threading.Lock()


class _Mismatch(Exception):
    """The file is not what its header says."""


def opencv() -> Any:
    """Return the module cv2, its decoder told to print nothing.

    The decoder reads this setting once, when a process first opens a video.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    return cv2


def read_file(video: Video, path: str, name: str) -> tuple[Frame, ...]:
    """Return the chosen frames of a file in a container that `container` knows."""
    try:
        opencv()
    except ImportError:
        raise fail(name, "OpenCV is missing: pip install 'svip-search[programs]'") from None
    deadline = time.monotonic() + MAX_SECONDS
    try:
        with _Capture(path, name, deadline) as capture:
            return _fast(video, capture)
    except _Mismatch:
        with _Capture(path, name, deadline) as capture:
            stamps = capture.stamps()
        with _Capture(path, name, deadline) as capture:
            return _exact(video, capture, stamps)


def _fast(video: Video, capture: _Capture) -> tuple[Frame, ...]:
    """Return the chosen frames by the header's word on how long the film is; _Mismatch where it is wrong."""
    count, rate = capture.count, capture.rate
    if not (0 < count <= 2**31 and 0.0 < rate <= _FASTEST):
        raise _Mismatch
    last = (count - 1) / rate
    times = _times(video, capture.name, last, count / rate)
    check_total(capture.name, min(len(times), count), capture.size)
    film = _Film(capture, 1 / rate)
    found = [film.at(time) for time in times]
    if video.end is None or video.end > last:
        film.check_end(last)
    return tuple({id(frame): frame for frame in found}.values())


class _Film:
    """Plays a film up to the moments that are asked for, which must rise.

    Which frame is on display is known when the next one has come: two are held at most.

    Args:
        capture: the file.
        interval: seconds from one frame to the next, on average.
    """

    def __init__(self, capture: _Capture, interval: float) -> None:
        self._capture, self._interval = capture, interval
        self._held: Frame | None = None
        self._ahead: Frame | None = None
        self._now, self._ended = -1.0, False

    def at(self, time: float) -> Frame:
        """Return the frame on display at a time."""
        index = int((time + EPSILON) / self._interval)
        if index - self._capture.place > _LEAP:
            self._capture.leap(index - 1)
            self._held = self._ahead = None
        while not self._ended and (self._ahead is None or _start(self._ahead) <= time + EPSILON):
            self._held, self._ahead = self._ahead, self._next(time)
        if self._held is None or (self._ended and _start(self._held) + 1.5 * self._interval < time):
            raise _Mismatch  # a long frame, a leap to a wrong place, or fewer frames than announced
        return self._held

    def check_end(self, last: float) -> None:
        """Make sure that no frames come long after what should be the last one."""
        while not self._ended:
            self._ahead = self._next(last) or self._ahead
            if self._ahead is not None and _start(self._ahead) > last + 1.5 * self._interval:
                raise _Mismatch

    def _next(self, time: float) -> Frame | None:
        """Decode the next frame, and return it where the one after it may begin later than a time."""
        if not self._capture.grab():
            self._ended = True
            return None
        before, self._now = self._now, self._capture.seconds
        if self._now <= before:  # no times, or times that jump
            raise _Mismatch
        return self._capture.frame(self._now) if self._now > time - 2 * self._interval else None


def _start(frame: Frame) -> float:
    return frame.seconds or 0.0


def _exact(video: Video, capture: _Capture, stamps: Sequence[float]) -> tuple[Frame, ...]:
    interval = (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1) or 1.0
    times = _times(video, capture.name, stamps[-1], stamps[-1] + interval)
    wanted = on_display(stamps, times)
    check_total(capture.name, len(wanted), capture.size)
    frames = []
    for index in wanted:
        while capture.place <= index:
            if not capture.grab():
                raise fail(capture.name, "it is damaged")
        frames.append(capture.frame(stamps[index]))
    return tuple(frames)


def _times(video: Video, name: str, last: float, end: float) -> list[float]:
    if video.start >= end:
        raise fail(name, f"`start` is {video.start:g} s, and it lasts {end:g} s")
    return sample_times(video.start, last if video.end is None else min(video.end, last), video.frames, video.fps)


class _Capture:
    """An open file: the frame that is current, and the way to the next.

    Attributes:
        count: number of frames by the header, 0 or nonsense where it does not say.
        rate: frames a second by the header.
        size: width and height by the header.
        place: index of the frame that the next `grab` takes.
    """

    def __init__(self, path: str, name: str, deadline: float) -> None:
        self.name, self.place, self._deadline = name, 0, deadline
        self.cv2 = cv2 = opencv()
        # One backend, for others take a path with "%02d" or an address for more than a file.
        settings = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS),
            *(cv2.CAP_PROP_N_THREADS, 1),
        ]
        with _quiet(cv2):
            try:
                self._capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, settings)
            except Exception:
                raise fail(name, "it is damaged") from None
        if not self._capture.isOpened():
            raise fail(name, "it is damaged, or of a format that is not supported")
        get = self._capture.get
        self.count = int(get(cv2.CAP_PROP_FRAME_COUNT))
        self.rate = float(get(cv2.CAP_PROP_FPS))
        self.size = (int(get(cv2.CAP_PROP_FRAME_WIDTH)), int(get(cv2.CAP_PROP_FRAME_HEIGHT)))
        try:
            check_total(name, 1, self.size)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._capture.release()

    @property
    def seconds(self) -> float:
        """When the current frame is first shown."""
        return float(self._capture.get(self.cv2.CAP_PROP_POS_MSEC)) / 1000

    def grab(self) -> bool:
        """Decode the next frame; False where there is none."""
        if time.monotonic() > self._deadline:
            raise fail(self.name, f"reading it takes more than {MAX_SECONDS:.0f} s")
        try:
            found = bool(self._capture.grab())
        except self.cv2.error:
            found = False
        self.place += 1
        return found

    def leap(self, index: int) -> None:
        """Go to a frame without decoding all that lie before it; whether it was found, its time tells."""
        if self._capture.set(self.cv2.CAP_PROP_POS_FRAMES, index):
            self.place = index

    def frame(self, seconds: float) -> Frame:
        """Return the current frame."""
        try:
            found, array = self._capture.retrieve()
        except self.cv2.error:
            found = False
        if not found or array is None or array.ndim != 3:
            raise fail(self.name, "it is damaged")
        return Frame(open_image(array[:, :, ::-1]), round(seconds, 6))

    def stamps(self) -> list[float]:
        """Return when each frame is first shown; decodes all of them and keeps none."""
        found: list[float] = []
        while self.grab():
            found.append(self.seconds)
            if len(found) > MAX_DECODED:
                raise fail(self.name, f"its header is wrong, and it has more than {MAX_DECODED} frames")
        if not found:
            raise fail(self.name, "it has no frames that OpenCV can decode")
        if any(b <= a for a, b in pairwise(found)):  # no times, or times that jump
            rate = self.rate if 0.0 < self.rate <= _FASTEST else 1.0
            return [i / rate for i in range(len(found))]
        return found


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """Keep OpenCV from printing that a file cannot be opened: an error says it."""
    with _quiet_lock:
        logging = cv2.utils.logging
        before = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            logging.setLogLevel(before)
