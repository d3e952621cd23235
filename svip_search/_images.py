"""One door for every picture that enters the library.

Whatever a picture is stored as (palette, 16 bit, CMYK, transparent, rotated by an EXIF note), what
leaves here is a plain 8-bit RGB picture; whatever cannot become one is an `ImageError` of one line.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ._errors import ImageError
from ._video import Video

#: Largest accepted picture: 7680 x 4320, read from the header before anything is decoded.
MAX_PIXELS = 7680 * 4320
#: Accepted file formats, by their Pillow names.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

_MEGAPIXELS = MAX_PIXELS // 10**6
_ACCEPTED = "PNG, JPEG, WebP, GIF or BMP"


def open_image(source: Any) -> Image.Image:
    """Return a picture as an 8-bit RGB `PIL.Image.Image`.

    Transparency is laid over white, 16-bit greys are scaled to 8 bits, CMYK and palettes are
    converted and the EXIF orientation is applied.  An RGB `PIL.Image.Image` is returned as it is,
    without a copy.

    Args:
        source: a file path, the bytes of a file, a ``PIL.Image.Image`` or a uint8 array
            [height, width], [height, width, 1], [height, width, 3] or [height, width, 4].

    Returns:
        The picture, fully decoded.

    Raises:
        ImageError: the file is missing, truncated, of another format, larger than
            `MAX_PIXELS` or animated, the array has another shape or dtype, or it is a `Video`.
        TypeError: ``source`` is none of the above.

    Notes:
        A file of several frames is an error rather than its first frame: a part of the input is
        never dropped in silence.  Choose a frame with ``PIL.Image.open(path).seek(k)`` and pass
        that image; an image object always means its current frame.  What takes several frames takes a
        `Video`.

    Example:
        >>> import numpy as np
        >>> picture = open_image(np.zeros((4, 6, 3), np.uint8))
        >>> picture.mode, picture.size
        ('RGB', (6, 4))
        >>> open_image("nowhere.png")
        Traceback (most recent call last):
        ...
        svip_search._errors.ImageError: Cannot read image 'nowhere.png': there is no such file.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _converted(source, "the PIL image")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(bytes(source)), "the given bytes")
    if isinstance(source, (str, os.PathLike)):
        return _from_path(os.fspath(source))
    if isinstance(source, Video):
        raise ImageError(f"One picture is taken here, and {source!r} is several; give one of its frames.")
    raise TypeError(
        f"An image must be a path, bytes, a PIL image or a uint8 array [height, width, 3]; got {type(source).__name__}."
    )


def _fail(name: str, reason: str) -> ImageError:
    return ImageError(f"Cannot read image {name}: {reason}.")


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _fail(name, f"it is empty ({width} x {height} pixels)")
    if width * height > MAX_PIXELS:
        raise _fail(name, f"at most {_MEGAPIXELS} megapixels are accepted; it has {width} x {height} pixels")


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    shape = array.shape
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        raise ImageError(f"An image array must be uint8 [height, width, 3]; got {array.dtype} {list(shape)}.")
    _check_size((shape[1], shape[0]), "the array")
    if array.ndim == 3 and shape[2] == 1:
        array = array[:, :, 0]
    return _converted(Image.fromarray(np.ascontiguousarray(array)), "the array")


def _from_path(path: str | bytes) -> Image.Image:
    text = os.fsdecode(path)
    name = repr(text)
    if text.startswith(("http://", "https://", "data:")):
        raise _fail(repr(text[:100]), "addresses are not fetched, give a file")
    try:
        if os.path.isdir(text):
            raise _fail(name, "it is a folder")
        if not os.path.exists(text):
            raise _fail(name, "there is no such file")
        if not os.path.isfile(text):
            raise _fail(name, "it is not a regular file")
        with Path(text).open("rb") as stream:
            return _decoded(stream, name)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise _fail(name, getattr(error, "strerror", None) or str(error) or type(error).__name__) from None


def _decoded(stream: Any, name: str) -> Image.Image:
    """Decode one file; anything that Pillow raises on foreign bytes becomes an ImageError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large sizes and odd metadata: judged below
        try:
            image = Image.open(stream, formats=FORMATS)
        except Image.DecompressionBombError:
            raise _fail(name, f"at most {_MEGAPIXELS} megapixels are accepted; it has more") from None
        except Exception:
            stream.seek(0)
            empty = not stream.read(1)
            raise _fail(name, "it is empty" if empty else f"it is not a readable {_ACCEPTED} file") from None
        _check_size(image.size, name)
        try:
            # A phone's JPEG may carry previews behind the picture (MPO): those are no animation.
            frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        except Exception:
            raise _fail(name, "it is damaged or truncated") from None
        if frames > 1:
            raise _fail(name, f"it has {frames} frames; pass the one that is meant as a PIL image, or a Video")
        return _converted(image, name)


def _converted(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image.load()
            return _to_rgb(_upright(image))
        except Exception as error:  # Pillow raises a dozen kinds on damaged data
            full = isinstance(error, MemoryError)
            raise _fail(name, "memory is too small" if full else "it is damaged or truncated") from None


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; unreadable EXIF data is no reason to refuse a good picture."""
    try:
        if image.getexif().get(0x0112, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion clips at 255 instead of scaling
        values = np.asarray(image, dtype=np.float64)
        grey = np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
