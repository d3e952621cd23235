"""Which moments of a video are shown, and which frames are on display then."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

#: Times that differ by less are equal: containers round them to a thousandth of a second.
EPSILON = 1e-3


def sample_times(first: float, last: float, frames: int, fps: float | None = None) -> list[float]:
    """Return up to ``frames`` moments from ``first`` to ``last``, both included, in rising order.

    Example:
        >>> sample_times(0.0, 3.0, 4), sample_times(0.0, 3.0, 1), sample_times(0.0, 3.0, 8, fps=0.5)
        ([0.0, 1.0, 2.0, 3.0], [1.5], [0.0, 2.0])
    """
    length = max(0.0, last - first)
    if fps is not None and length * fps + EPSILON < frames:
        return [first + k / fps for k in range(int(length * fps + EPSILON) + 1)]
    if frames == 1:
        return [first + length / 2]
    return [first + length * k / (frames - 1) for k in range(frames)]


def on_display(stamps: Sequence[float], times: Sequence[float]) -> list[int]:
    """Return the indices of the frames on display at some times, each once, in order.

    Args:
        stamps: when each frame is first shown, in rising order.
        times: moments, in rising order; one before the first frame shows the first.

    Example:
        >>> on_display([0.0, 0.1, 5.0], [0.0, 2.5, 5.0])
        [0, 1, 2]
    """
    return list(dict.fromkeys(max(0, bisect_right(stamps, time + EPSILON) - 1) for time in times))


def sample_indices(count: int, frames: int) -> list[int]:
    """Return which of ``count`` pictures without times are shown: as if one came a second.

    Example:
        >>> sample_indices(10, 4), sample_indices(3, 8), sample_indices(10, 1)
        ([0, 3, 6, 9], [0, 1, 2], [4])
    """
    if count <= frames:
        return list(range(count))
    return on_display(range(count), sample_times(0.0, count - 1.0, frames))
