"""Every picture becomes 8-bit RGB or an error of one line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svip_search._errors import ImageError
from svip_search._images import MAX_PIXELS, open_image


def noise(height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_lossless_formats_keep_every_pixel(kind: str, tmp_path: Path) -> None:
    array = np.repeat(noise(channels=1) // 16 * 16, 3, axis=2)  # 16 greys: a palette keeps them
    path = tmp_path / f"x.{kind.lower()}"
    Image.fromarray(array).save(path)
    for source in (path, str(path), path.read_bytes()):
        image = open_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), array)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(kind: str) -> None:
    array = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    image = open_image(encoded(Image.fromarray(array), kind, quality=95))
    assert np.abs(np.asarray(image).astype(int) - array).max() < 8


def test_arrays_and_rgb_images_take_the_fast_path() -> None:
    array = noise()
    np.testing.assert_array_equal(np.asarray(open_image(array)), array)
    np.testing.assert_array_equal(np.asarray(open_image(array[::-1, ::2])), array[::-1, ::2])
    image = Image.fromarray(array)
    assert open_image(image) is image
    assert open_image(array[:, :, 0]).mode == "RGB"
    assert open_image(array[:, :, :1]).mode == "RGB"


def test_alpha_lies_over_white() -> None:
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, 0] = (255, 0, 0, 255)
    array[1, 1] = (0, 0, 0, 128)
    for source in (array, encoded(Image.fromarray(array), "PNG")):
        pixels = np.asarray(open_image(source))
        assert tuple(pixels[0, 0]) == (255, 0, 0)
        assert tuple(pixels[0, 1]) == (255, 255, 255)
        assert abs(int(pixels[1, 1, 0]) - 127) <= 1


def test_transparent_palette_and_grey_alpha() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.putpixel((1, 0), 1)
    pixels = np.asarray(open_image(encoded(palette, "PNG", transparency=0)))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert tuple(pixels[0, 1]) == (10, 200, 30)
    assert open_image(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_greys_are_scaled_not_clipped() -> None:
    values = np.array([[0, 128 * 257, 65535]], np.uint16)
    image = open_image(encoded(Image.fromarray(values), "PNG"))
    assert [image.getpixel((i, 0)) for i in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


def test_cmyk_becomes_its_colour() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = open_image(encoded(cmyk, "JPEG", quality=95)).getpixel((8, 8))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_exif_orientation_is_applied() -> None:
    image = Image.fromarray(np.full((16, 32, 3), 9, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert open_image(encoded(image, "JPEG", exif=exif)).size == (16, 32)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animation_is_an_error_but_one_frame_is_not(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="3 frames"):
        open_image(data)
    chosen = Image.open(io.BytesIO(data))
    chosen.seek(1)
    assert open_image(chosen).getpixel((0, 0))[1] > 100


@pytest.mark.parametrize(("width", "height"), [(30_000, 30_000), (12_000, 12_000), (MAX_PIXELS + 1, 1)])
def test_huge_pictures_are_refused_from_the_header(width: int, height: int) -> None:
    with pytest.raises(ImageError, match="at most 33 megapixels") as caught:
        open_image(png_header(width, height))
    assert "\n" not in str(caught.value)


def test_largest_accepted_size_passes_the_header_check() -> None:
    with pytest.raises(ImageError, match="damaged or truncated"):
        open_image(png_header(7680, 4320))


def test_unusable_files_name_themselves_and_the_requirement(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    cut = tmp_path / "cut.png"
    cut.write_bytes(encoded(Image.fromarray(noise()), "PNG")[:600])
    tiff = tmp_path / "scan.tiff"
    Image.fromarray(noise()).save(tiff)
    for path, reason in [
        (text, "PNG, JPEG, WebP, GIF or BMP"),
        (tiff, "PNG, JPEG, WebP, GIF or BMP"),
        (empty, "it is empty"),
        (cut, "damaged or truncated"),
        (tmp_path, "it is a folder"),
        (tmp_path / "gone.png", "no such file"),
    ]:
        with pytest.raises(ImageError, match=reason) as caught:
            open_image(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["https://example.org/x.png", "a\0b.png", "x" * 5000])
def test_odd_paths(path: str) -> None:
    with pytest.raises(ImageError):
        open_image(path)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_wrong_arrays(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ImageError):
        open_image(array)


def test_wrong_type() -> None:
    with pytest.raises(TypeError, match="got int"):
        open_image(3)


SAMPLES = [
    encoded(Image.fromarray(noise()), "PNG"),
    encoded(Image.fromarray(noise(channels=1)[:, :, 0]).convert("P"), "PNG", transparency=3),
    encoded(Image.fromarray(noise()), "JPEG"),
    encoded(Image.fromarray(noise()), "JPEG", progressive=True),
    encoded(Image.fromarray(noise()), "WEBP"),
    encoded(Image.fromarray(noise()), "GIF"),
    encoded(Image.fromarray(noise()), "BMP"),
]


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(SAMPLES),
    cut=st.floats(0, 1),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    early=st.booleans(),
)
def test_damaged_files_give_a_picture_or_an_image_error(
    data: bytes, cut: float, edits: list[tuple[float, int]], early: bool
) -> None:
    damaged = bytearray(data)
    reach = 64 if early else len(damaged)  # half of the damage goes to the headers
    for place, value in edits:
        damaged[int(place * reach)] = value
    try:
        image = open_image(bytes(damaged[: max(1, int(cut * len(damaged)))]))
    except ImageError as error:
        message, mode = str(error), "RGB"
    else:
        message, mode = "", image.mode
    assert "\n" not in message
    assert mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        open_image(data)
