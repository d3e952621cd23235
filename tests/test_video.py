"""Videos: the frames that are due, from any kind of source, or an error of one line."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svip_search._errors import ImageError
from svip_search._images import MAX_PIXELS, open_image
from svip_search._question_key import question_key
from svip_search._types import Question
from svip_search._video import MAX_FRAMES, Frame, Video, _read, is_video, pictures
from svip_search._video._sampling import on_display, sample_indices, sample_times

BITS, BAND = 11, 6
SIZE = (BITS * BAND, 48)
FILMS = {"mp4": "mp4v", "mov": "mp4v", "avi": "MJPG", "mkv": "MJPG", "webm": "VP80"}
ANIMATIONS = {"gif": "GIF", "webp": "WEBP", "png": "PNG"}


def numbered(i: int) -> np.ndarray[Any, Any]:
    """A frame that shows its number in black and white bands, which survive compression."""
    array = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for bit in range(BITS):
        array[:, bit * BAND : (bit + 1) * BAND] = 255 * (i >> bit & 1)
    return array


def number(image: Image.Image) -> int:
    row = np.asarray(image)[:, :, 0].mean(0).reshape(BITS, BAND)[:, 1:-1].mean(1)
    return int(sum(int(value > 127) << bit for bit, value in enumerate(row)))


def film(path: Path, count: int, fps: float = 10.0, size: tuple[int, int] = SIZE) -> Path:
    pytest.importorskip("cv2")
    from svip_search._video._opencv import opencv

    cv2 = opencv()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*FILMS[path.suffix[1:]]), fps, size)
    assert writer.isOpened()
    for i in range(count):
        writer.write(numbered(i) if size == SIZE else np.full((size[1], size[0], 3), i % 256, np.uint8))
    writer.release()
    return path


def animation(path: Path, durations: list[int]) -> Path:
    frames = [Image.fromarray(numbered(i)) for i in range(len(durations))]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    frames[0].save(path, ANIMATIONS[path.suffix[1:]], save_all=True, append_images=frames[1:], duration=durations,
                   **options)  # fmt: skip
    return path


def shown(video: Video) -> list[tuple[int, float | None]]:
    return [(number(frame.image), frame.seconds) for frame in video.read()]


def numbers(video: Video) -> list[int]:
    return [number(frame.image) for frame in video.read()]


# ---- which moments ---------------------------------------------------------------------------------

#: Frames of a film of so many, at 10 a second, for so many wanted: read off by hand.
GOLDEN = {
    (1, 1): [0],
    (1, 8): [0],
    (2, 1): [0],
    (2, 8): [0, 1],
    (5, 1): [2],
    (5, 2): [0, 4],
    (5, 3): [0, 2, 4],
    (9, 8): [0, 1, 2, 3, 4, 5, 6, 8],
    (10, 4): [0, 3, 6, 9],
    (10, 8): [0, 1, 2, 3, 5, 6, 7, 9],
    (30, 8): [0, 4, 8, 12, 16, 20, 24, 29],
    (1000, 8): [0, 142, 285, 428, 570, 713, 856, 999],
    (1000, 3): [0, 499, 999],
}


@pytest.mark.parametrize(("count", "frames"), GOLDEN)
def test_golden_indices(count: int, frames: int) -> None:
    assert sample_indices(count, frames) == GOLDEN[count, frames]
    times = sample_times(0.0, (count - 1) / 10, frames)
    assert on_display([i / 10 for i in range(count)], times) == GOLDEN[count, frames]


@given(first=st.floats(0, 1e4), length=st.floats(0, 1e5), frames=st.integers(1, MAX_FRAMES),
       fps=st.none() | st.floats(1e-3, 1e3))  # fmt: skip
def test_times_rise_stay_inside_and_are_no_more_than_wanted(
    first: float, length: float, frames: int, fps: float | None
) -> None:
    times = sample_times(first, first + length, frames, fps)
    assert 1 <= len(times) <= frames
    assert times == sorted(times)
    assert first <= times[0]
    assert times[-1] <= first + length + 1e-3 * max(1.0, 1 / (fps or 1.0)) + 1e-6 * length
    if fps is None:
        assert len(times) == frames
        assert frames == 1 or times[0] == first


@given(stamps=st.lists(st.floats(0, 100), min_size=1, max_size=50, unique=True).map(sorted),
       times=st.lists(st.floats(0, 120), min_size=1, max_size=50).map(sorted))  # fmt: skip
def test_what_is_on_display_began_before_and_was_not_followed(stamps: list[float], times: list[float]) -> None:
    expected = [max([i for i, stamp in enumerate(stamps) if stamp <= time + 1e-3], default=0) for time in times]
    assert on_display(stamps, times) == sorted(set(expected))


# ---- films -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILMS)
@pytest.mark.parametrize("count", [1, 2, 10, 30, 1000])
def test_films_give_the_frames_that_are_due(kind: str, count: int, tmp_path: Path) -> None:
    path = film(tmp_path / f"film.{kind}", count)
    for frames in (1, 3, 8):
        expected = GOLDEN.get((count, frames), sample_indices(count, frames))
        found = shown(Video(path, frames=frames))
        assert [i for i, _ in found] == expected
        np.testing.assert_allclose([s for _, s in found], np.array(expected) / 10, atol=1e-3)
    assert found[0][1] == 0.0
    assert all(f.image.mode == "RGB" and f.image.size == SIZE for f in Video(path).read())


@pytest.mark.parametrize("kind", ["mp4", "avi", "webm"])
def test_time_windows_and_rates(kind: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"film.{kind}", 100)  # 9.9 s to the start of the last frame
    assert numbers(Video(path, frames=3, start=2.0, end=4.0)) == [20, 30, 40]
    assert numbers(Video(path, frames=2, start=9.5)) == [95, 99]
    assert numbers(Video(path, frames=8, start=9.95)) == [99]  # the last frame is still on display
    assert numbers(Video(path, frames=1, end=1.0)) == [5]
    assert numbers(Video(path, frames=2, end=1e6)) == [0, 99]
    assert numbers(Video(path, frames=256, fps=1.0)) == list(range(0, 100, 10))
    assert numbers(Video(path, frames=256, fps=2.5, start=1.0, end=3.0)) == [10, 14, 18, 22, 26, 30]
    assert numbers(Video(path, frames=3, fps=1.0)) == [0, 49, 99]  # as many as may be, over all of it
    assert numbers(Video(path, frames=256, fps=1000.0)) == list(range(100))
    with pytest.raises(ImageError, match=r"`start` is 10 s, and it lasts 10 s"):
        Video(path, start=10.0).read()


def test_leaps_and_steps_give_the_same_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svip_search._video import _opencv

    path = film(tmp_path / "film.mp4", 900)
    leaps: list[int] = []
    leap = _opencv._Capture.leap
    monkeypatch.setattr(_opencv._Capture, "leap", lambda self, i: leaps.append(i) or leap(self, i))
    quick = shown(Video(path, frames=5))
    assert leaps == [223, 448, 673, 898]
    monkeypatch.setattr(_opencv, "_LEAP", 10**9)
    monkeypatch.setattr(_read, "_kept", type(_read._kept)())
    assert shown(Video(path, frames=5)) == quick
    assert len(leaps) == 4
    assert [i for i, _ in quick] == [0, 224, 449, 674, 899]


def blocks(data: bytes, start: int, end: int) -> Any:
    """The places of the frames' times in a Matroska file, which lie in blocks of clusters."""
    place = start
    while place < end:
        length_of_id = 9 - data[place].bit_length()
        name = data[place : place + length_of_id]
        place += length_of_id
        count = 9 - data[place].bit_length()
        length = int.from_bytes(data[place : place + count], "big") & ((1 << 7 * count) - 1)
        unknown = length == (1 << 7 * count) - 1
        place += count
        stop = end if unknown else place + length
        if name in (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"):
            yield from blocks(data, place, stop)
        elif name == b"\xa3":
            yield place + 1  # behind the number of the track
        place = stop


def test_frames_of_different_lengths_are_chosen_by_time(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv", 20)
    data = bytearray(path.read_bytes())
    for i, place in enumerate(blocks(bytes(data), 0, len(data))):
        (old,) = struct.unpack(">h", data[place : place + 2])  # in milliseconds of its cluster
        data[place : place + 2] = struct.pack(">h", i * i * 10 + old - i * 100)  # 0, 0.01, 0.04 ... 3.61 s
    path.write_bytes(data)
    stamps = [i * i / 100 for i in range(20)]
    for frames in (1, 2, 4, 8):
        expected = on_display(stamps, sample_times(0.0, stamps[-1], frames))
        assert expected != sample_indices(20, frames) or frames == 2
        found = shown(Video(path, frames=frames))
        assert [i for i, _ in found] == expected
        np.testing.assert_allclose([s for _, s in found], [stamps[i] for i in expected], atol=1e-3)


def test_jittering_times_need_no_second_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from svip_search._video import _opencv

    path = film(tmp_path / "film.mkv", 400)
    data, random = bytearray(path.read_bytes()), np.random.default_rng(0)
    stamps = [round(0.1 * i + (int(random.integers(-30, 31)) / 1000 if 0 < i < 399 else 0.0), 3) for i in range(400)]
    for i, place in enumerate(blocks(bytes(data), 0, len(data))):
        (old,) = struct.unpack(">h", data[place : place + 2])
        data[place : place + 2] = struct.pack(">h", old + round(1000 * stamps[i]) - i * 100)
    path.write_bytes(data)
    monkeypatch.setattr(_opencv, "_exact", None)  # must not be called
    for frames in (1, 2, 5, 8, 100):
        expected = on_display(stamps, sample_times(0.0, stamps[-1], frames))
        found = shown(Video(path, frames=frames))
        assert [i for i, _ in found] == expected
        np.testing.assert_allclose([s for _, s in found], [stamps[i] for i in expected], atol=1e-3)


@pytest.mark.parametrize("claim", [0, 3, 500, 2**31 - 1, 2**32 - 1])
def test_a_header_that_counts_wrongly_is_not_believed(claim: int, tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", 40)
    data = bytearray(path.read_bytes())
    # The number of frames of the file, and of its only stream (strh, whose length is 8 fields in).
    data[(place := data.index(b"avih") + 8 + 16) : place + 4] = struct.pack("<I", claim)
    data[(place := data.index(b"strh") + 8 + 32) : place + 4] = struct.pack("<I", claim)
    path.write_bytes(data)
    assert numbers(Video(path, frames=4)) == [0, 13, 26, 39]


def test_long_films_are_read_in_small_memory(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 1500, size=(640, 480))  # 1.4 GB of frames
    code = (
        "import resource, sys; from svip_search import _video; from svip_search._video import Video, _opencv\n"
        "_opencv.opencv(); from PIL import Image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "_opencv._fast = lambda *_: (_ for _ in ()).throw(_opencv._Mismatch())\n"  # the way that decodes all
        "frames = Video(sys.argv[1], frames=8).read(); assert len(frames) == 8\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert int(out) < 150_000  # kilobytes


# ---- animations, folders, lists --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_animations_show_what_is_on_display(kind: str, tmp_path: Path) -> None:
    path = animation(tmp_path / f"a.{kind}", [100, 2000, 100, 100, 700])
    assert shown(Video(path)) == [(0, 0.0), (1, 0.1), (3, 2.2), (4, 2.3)][:2] + shown(Video(path))[2:]
    assert shown(Video(path, frames=256)) == [(0, 0.0), (1, 0.1), (2, 2.1), (3, 2.2), (4, 2.3)]
    assert numbers(Video(path, frames=1)) == [1]
    assert numbers(Video(path, frames=3)) == [0, 1, 4]
    assert numbers(Video(path, frames=8, start=2.15, end=2.25)) == [2, 3]
    assert numbers(Video(path, fps=1.0)) == [0, 1]
    assert shown(Video(path, start=2.9)) == [(4, 2.3)]
    with pytest.raises(ImageError, match=r"`start` is 3 s, and it lasts 3 s"):
        Video(path, start=3.0).read()


def test_frames_without_a_duration_last_a_tenth_of_a_second(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", [0, 0, 0])
    assert shown(Video(path)) == [(0, 0.0), (1, 0.1), (2, 0.2)]


def test_the_still_picture_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(numbered(i)) for i in range(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], default_image=True, duration=500)
    assert shown(Video(tmp_path / "a.png")) == [(1, 0.0), (2, 0.5), (3, 1.0)]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_a_still_picture_is_a_video_of_one_frame(name: str, tmp_path: Path) -> None:
    Image.fromarray(numbered(5)).save(tmp_path / name)
    assert shown(Video(tmp_path / name, frames=3)) == [(5, 0.0)]


def test_transparent_frames_lie_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (8, 8), (255, 0, 0, alpha)) for alpha in (0, 255)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100)
    assert [f.image.getpixel((0, 0)) for f in Video(tmp_path / "a.png").read()] == [(255, 255, 255), (255, 0, 0)]


def test_a_folder_is_taken_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for i in range(12):
        Image.fromarray(numbered(i)).save(tmp_path / f"frame_{i}.png")
    (tmp_path / ".thumbs").write_text("hidden", encoding="utf-8")
    assert shown(Video(tmp_path, frames=256)) == [(i, None) for i in range(12)]
    assert numbers(Video(str(tmp_path), frames=4)) == sample_indices(12, 4)
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    with pytest.raises(ImageError, match=r"notes\.txt.*not a readable PNG"):
        Video(tmp_path, frames=256).read()
    with pytest.raises(ImageError, match="must not be given for a folder"):
        Video(tmp_path, fps=1.0).read()


def test_lists_and_arrays_of_frames() -> None:
    frames = [numbered(i) for i in range(20)]
    for source in (frames, tuple(frames), np.stack(frames), [Image.fromarray(f) for f in frames]):
        assert shown(Video(source, frames=4)) == [(i, None) for i in sample_indices(20, 4)]
    assert numbers(Video(frames, frames=256)) == list(range(20))


def test_frames_may_bring_their_times() -> None:
    film = Video([Frame(numbered(i), i / 4) for i in range(5)], frames=3)
    assert shown(film) == [(0, 0.0), (2, 0.5), (4, 1.0)]
    found = pictures(Question("What?", images=[film]))
    assert [p.label for p in found] == [f"Video 1, frame {i + 1} of 3, {i / 2:.2f} s" for i in range(3)]
    again = Video([Frame(p.image, f.seconds) for p, f in zip(found, film.read(), strict=True)])
    assert shown(again) == shown(film)


# ---- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"frames": 0}, "`frames` must be 1 to 256; got 0"),
    ({"frames": 257}, "`frames` must be 1 to 256; got 257"),
    ({"frames": 2.5}, "`frames` must be a whole number; got 2.5"),
    ({"frames": True}, "`frames` must be a whole number; got True"),
    ({"fps": 0.0}, "`fps` must be a number above 0, or None; got 0.0"),
    ({"fps": float("nan")}, "`fps` must be a number above 0"),
    ({"fps": float("inf")}, "`fps` must be a number above 0"),
    ({"start": -1.0}, "`start` must be a number of seconds of at least 0; got -1.0"),
    ({"start": float("nan")}, "`start` must be a number of seconds"),
    ({"start": 2.0, "end": 2.0}, "`end` must be after `start`, 2.0; got 2.0"),
    ({"end": float("nan")}, "`end` must be after `start`"),
])  # fmt: skip
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Video("a.mp4", **options)


@pytest.mark.parametrize(("source", "kind", "message"), [
    ([], ValueError, "at least one frame; got an empty list"),
    (np.zeros((0, 4, 4, 3), np.uint8), ValueError, "at least one frame"),
    (b"RIFF", TypeError, "a path, a folder or a list of pictures; got bytes"),
    (None, TypeError, "got NoneType"),
    (7, TypeError, "got int"),
    (np.zeros((4, 4, 3), np.uint8), TypeError, re.escape("[frames, height, width, 3]; got [4, 4, 3]")),
    ([Video("a.mp4")], TypeError, "got a Video in it"),
])  # fmt: skip
def test_sources_of_other_kinds(source: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Video(source)


def test_lists_have_no_times() -> None:
    for options in ({"fps": 1.0}, {"start": 1.0}, {"end": 1.0}):
        with pytest.raises(ValueError, match="they have no times"):
            Video([numbered(0)], **options)


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    names = ("empty.mp4", "text.mp4", "list.m3u8", "script.mp4", "pipe.mp4", "huge.mp4", "bare", "link.mp4")
    empty, text, playlist, script, pipe, huge, bare, link = (folder / name for name in names)
    empty.write_bytes(b"")
    text.write_text("This is no film.", encoding="utf-8")
    playlist.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", encoding="utf-8")
    script.write_text("ffconcat version 1.0\nfile other.mp4\n", encoding="utf-8")
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(5 << 30)  # takes no room on the disk
    bare.mkdir()
    link.symlink_to(folder / "nowhere.mp4")
    return {
        "missing": (folder / "gone.mp4", "there is no such file"),
        "empty": (empty, "it is empty"),
        "text": (text, "it is not a readable MP4"),
        "playlist": (playlist, "it is not a readable MP4"),
        "script": (script, "it is not a readable MP4"),
        "pipe": (pipe, "it is not a regular file"),
        "huge": (huge, "at most 4 GiB are accepted"),
        "bare": (bare, "the folder is empty"),
        "link": (link, "there is no such file"),
        "url": (Path("https:/example.org/a.mp4"), "there is no such file"),
        "pattern": (folder / "a%02d.png", "there is no such file"),
        "nul": (Path("a\0b.mp4"), "there is no such file|embedded null"),
    }


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    Image.fromarray(numbered(1)).save(tmp_path / "a01.png")  # what the pattern would find
    for path, reason in unreadable(tmp_path).values():
        with pytest.raises(ImageError, match=f"^Cannot read video .*({reason})") as caught:
            Video(path).read()
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="addresses are not fetched"):
        Video("https://example.org/a.mp4").read()


def test_a_link_to_a_film_is_followed(tmp_path: Path) -> None:
    film(tmp_path / "film.avi", 5)
    (tmp_path / "link.avi").symlink_to("film.avi")
    assert numbers(Video(tmp_path / "link.avi")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", [*FILMS, *ANIMATIONS])
def test_what_was_cut_off_is_an_error_and_nothing_is_printed(kind: str, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / f"a.{kind}"
    data = (animation(path, [100] * 6) if kind in ANIMATIONS else film(path, 30)).read_bytes()
    capfd.readouterr()  # the writer does print
    for part in (0.02, 0.3, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ImageError) as caught:
            Video(path).read()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("side", "message"), [
    (6_000, "at most 33 megapixels a frame are accepted; it has 6000 x 6000 pixels"),
    (60_000, "damaged|no frames|its frames are empty"),  # more than its decoder takes
])  # fmt: skip
def test_films_of_huge_frames_are_refused_before_decoding(side: int, message: str, tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", 5)
    data = path.read_bytes().replace(struct.pack("<II", *SIZE), struct.pack("<II", side, side))
    small, large = (b"\xff\xc0\0\x11\x08" + struct.pack(">HH", *s) for s in (SIZE[::-1], (side, side)))
    assert data.count(small) == 5  # the header of every picture
    path.write_bytes(data.replace(small, large))
    with pytest.raises(ImageError, match=message):
        Video(path).read()


@pytest.mark.parametrize("kind", ["avi", "mp4"])
def test_a_header_that_exaggerates_is_refused_or_corrected(kind: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"film.{kind}", 5)
    form = "<II" if kind == "avi" else ">HH"
    data = path.read_bytes()
    assert struct.pack(form, *SIZE) in data
    path.write_bytes(data.replace(struct.pack(form, *SIZE), struct.pack(form, 60_000, 60_000)))
    assert numbers(Video(path)) == [0, 1, 2, 3, 4]


def test_huge_animations_are_refused_before_decoding(tmp_path: Path) -> None:
    data = bytearray(animation(tmp_path / "a.gif", [100, 100]).read_bytes())
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(ImageError, match="at most 33 megapixels a frame"):
        Video(tmp_path / "a.gif").read()


def test_all_frames_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read.MAX_TOTAL_PIXELS == 8 * MAX_PIXELS
    monkeypatch.setattr(_read, "MAX_TOTAL_PIXELS", 4 * SIZE[0] * SIZE[1])
    sources = [film(tmp_path / "film.mp4", 9), animation(tmp_path / "a.gif", [100] * 9), [numbered(0)] * 9]
    for source in sources:
        assert len(Video(source, frames=4).read()) == 4
        with pytest.raises(ImageError, match="megapixels in all are accepted"):
            Video(source, frames=5).read()


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(tmp_path / "film.mp4", 3)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImageError, match=re.escape("OpenCV is missing: pip install 'svip-search[programs]'")):
        Video(path).read()
    assert numbers(Video(animation(tmp_path / "a.gif", [100, 100]))) == [0, 1]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("films")
    films = [film(folder / f"film.{kind}", 6).read_bytes() for kind in FILMS]
    return films + [animation(folder / f"a.{kind}", [100] * 4).read_bytes() for kind in ANIMATIONS]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject, samples: list[bytes], tmp_path: Path) -> None:
    bytes_ = bytearray(data.draw(st.sampled_from(samples), "file"))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=30)):
        bytes_[place % len(bytes_)] = value
    path = tmp_path / "damaged"
    path.write_bytes(bytes_[: data.draw(st.none() | st.integers(0, len(bytes_)), "cut")])
    with contextlib.suppress(ImageError):
        frames = Video(path, frames=3, start=data.draw(st.sampled_from([0.0, 0.2]))).read()
        assert 1 <= len(frames) <= 3
        assert all(f.image.mode == "RGB" and min(f.image.size) > 0 for f in frames)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from([b"", b"\0\0\0\x18ftypisom", b"RIFF\0\0\0\0AVI LIST", b"\x1a\x45\xdf\xa3\x80",
                             b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", b"GIF89a"]),
       rest=st.binary(max_size=200))  # fmt: skip
def test_foreign_bytes_are_refused(head: bytes, rest: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(head + rest)
    if not head:
        is_video(path)
    with pytest.raises(ImageError):
        Video(path).read()


# ---- in questions ----------------------------------------------------------------------------------


def test_pictures_are_labelled_and_in_order(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4", 30)
    question = Question("Which?", images=[numbered(7), Video(path, frames=3), Video([numbered(1)]), numbered(8)])
    found = pictures(question)
    assert [(number(p.image), p.label) for p in found] == [
        (7, ""),
        (0, "Video 1, frame 1 of 3, 0.00 s"),
        (14, "Video 1, frame 2 of 3, 1.40 s"),
        (29, "Video 1, frame 3 of 3, 2.90 s"),
        (1, "Video 2, frame 1 of 1"),
        (8, ""),
    ]
    assert pictures(Question("Which?")) == []
    with pytest.raises(TypeError, match="got int"):
        pictures(Question("Which?", images=[3]))


def test_one_picture_is_not_several() -> None:
    with pytest.raises(
        ImageError, match=re.escape("One picture is taken here, and Video('a.mp4', frames=8) is several")
    ):
        open_image(Video("a.mp4"))


def test_keys_of_questions_with_videos(tmp_path: Path) -> None:
    path, other = film(tmp_path / "film.mp4", 5), film(tmp_path / "other.mp4", 5)
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.fromarray(numbered(1)).save(folder / "1.png")

    def key(*images: Any) -> str:
        return question_key(Question("what?", images=images))

    frames = [numbered(0), numbered(1)]
    videos = [
        *(Video(path), Video(other), Video(path, frames=4), Video(path, fps=2.0), Video(path, start=0.1)),
        *(Video(path, end=0.3), Video(folder), Video(frames), Video(frames[::-1]), Video(frames[:1])),
        *(Video([Frame(frames[0]), frames[1]]), Video([Frame(f, i) for i, f in enumerate(frames)])),
    ]
    keys = [key(v) for v in videos] + [key(*frames), key(frames[0]), key(path), key(Video(path), path)]
    assert len(set(keys)) == len(keys)
    assert key(Video(path)) == key(Video(str(path), frames=np.int64(8)))
    assert Video(path) == Video(str(path))
    assert key(Video(frames)) == key(Video([f.copy() for f in frames]))
    Image.fromarray(numbered(2)).save(folder / "2.png")
    assert key(Video(folder)) != keys[6]
    os.utime(path, ns=(1, 1))
    assert key(Video(path)) != keys[0]
    assert key(Video(tmp_path / "gone.mp4")) == key(Video(tmp_path / "gone.mp4"))


def test_videos_travel_and_describe_themselves(tmp_path: Path) -> None:
    video = Video(film(tmp_path / "film.mp4", 5), frames=2, fps=3.0, start=0.1, end=0.4)
    again = pickle.loads(pickle.dumps(video))
    assert again == video
    assert hash(again) == hash(video)
    assert shown(again) == shown(video)
    assert repr(Video("film.mp4", frames=2, fps=3.0, start=0.1, end=0.4)) == (
        "Video('film.mp4', frames=2, fps=3.0, start=0.1, end=0.4)"
    )
    assert repr(Video([numbered(0)] * 200)) == "Video(<200 frames>, frames=8)"
    with pytest.raises(AttributeError):
        video.frames = 3  # type: ignore[misc]


def test_a_film_is_decoded_once_until_it_changes(tmp_path: Path) -> None:
    path = film(tmp_path / "film.avi", 5)
    first = Video(path).read()
    assert Video(path).read() is first
    film(path, 9)
    assert numbers(Video(path, frames=9)) == list(range(9))
    assert sum(map(_read._pixels, _read._kept.values())) <= _read.KEPT_PIXELS


def test_frames_too_many_to_keep_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_read, "KEPT_PIXELS", 3 * SIZE[0] * SIZE[1])
    path = film(tmp_path / "film.avi", 5)
    assert Video(path, frames=5).read() is not Video(path, frames=5).read()
    assert Video(path, frames=3).read() is Video(path, frames=3).read()


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    films = [film(tmp_path / f"{n}.{kind}", n) for n in (7, 40) for kind in ("mp4", "avi", "webm")]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: numbers(Video(path, frames=3)), films * 5))
    assert found == [sample_indices(int(path.stem), 3) for path in films] * 5


def test_which_paths_are_videos(tmp_path: Path) -> None:
    Image.fromarray(numbered(1)).save(tmp_path / "still.png")
    (tmp_path / "text").write_text("x", encoding="utf-8")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(film(tmp_path / "film.avi", 5).read_bytes()[:-100])
    videos = [tmp_path, cut, film(tmp_path / "a.webm", 2), animation(tmp_path / "a.gif", [100, 100])]
    assert [is_video(path) for path in videos] == [True] * 4
    others = [tmp_path / "still.png", tmp_path / "text", tmp_path / "gone", "https://example.org/a.mp4"]
    assert [is_video(path) for path in others] == [False] * 4


def test_a_gif_that_ends_anywhere_but_at_its_end_is_cut_off(tmp_path: Path) -> None:
    data = animation(tmp_path / "a.gif", [100] * 6).read_bytes()
    for length in range(6, len(data)):
        (tmp_path / "a.gif").write_bytes(data[:length])
        with pytest.raises(ImageError, match="truncated"):
            Video(tmp_path / "a.gif").read()
    (tmp_path / "a.gif").write_bytes(data + b"something behind")
    assert numbers(Video(tmp_path / "a.gif")) == [0, 1, 2, 3, 4, 5]


def test_bytes_of_a_still_are_not_taken_for_a_film() -> None:
    buffer = io.BytesIO()
    Image.fromarray(numbered(1)).save(buffer, "WEBP")  # RIFF, as AVI is
    from svip_search._video._container import container

    assert container(buffer, "x") is None
