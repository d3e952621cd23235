"""Pictures that clients send: ``data:`` addresses in, decoded pictures out, each decoded once."""

from __future__ import annotations

import base64
import binascii
import io
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image

from .._errors import ImageError
from .._images import FORMATS, MAX_PIXELS, open_image
from ..rewards._remote_items import picture_digest
from ._limits import Limits, Refusal

_HEAD = re.compile(r"data:image/(?:png|jpe?g|webp|gif|bmp|x-ms-bmp);base64,", re.IGNORECASE)
_WANTED = "must be a data: address of a PNG, JPEG, WebP, GIF or BMP file in base64"


class Pictures:
    """Decodes pictures, and keeps those that came last: a search sends the same one again and again.

    Args:
        limits: how many pictures, and pixels, a request may have.
        kept: pixels that are kept.
    """

    def __init__(self, limits: Limits, kept: int = 2 * MAX_PIXELS) -> None:
        self.limits = limits
        self._kept, self._held = kept, 0
        self._known: OrderedDict[str, Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, digest: str) -> Image.Image | None:
        """Return a picture that came before, None where it is not kept."""
        with self._lock:
            if (found := self._known.get(digest)) is not None:
                self._known.move_to_end(digest)
            return found

    def load(self, urls: Sequence[tuple[str, str]]) -> list[Image.Image]:
        """Return the pictures of one request.

        Args:
            urls: each address with the name of its field.

        Raises:
            Refusal: one is no such address, cannot be read, or all together are too large.
        """
        digests = [picture_digest(url) for url, _ in urls]
        found = {digest: image for digest in digests if (image := self.recall(digest)) is not None}
        files = {d: (_bytes(*u), u[1]) for d, u in zip(digests, urls, strict=True) if d not in found}
        left = self.limits.pixels - sum(i.width * i.height for i in found.values())
        for data, param in files.values():
            left -= _pixels(data)
            if left < 0:
                raise Refusal(413, f"All pictures together must have at most {self.limits.pixels} pixels.", param)
        for digest, (data, param) in files.items():
            try:
                found[digest] = open_image(data)
            except ImageError as error:
                raise Refusal(400, str(error), param) from None
            self._keep(digest, found[digest])
        return [found[digest] for digest in digests]

    def _keep(self, digest: str, image: Image.Image) -> None:
        with self._lock:
            if digest in self._known:
                return
            self._known[digest] = image
            self._held += image.width * image.height
            while self._held > self._kept:
                _, dropped = self._known.popitem(last=False)
                self._held -= dropped.width * dropped.height


def _bytes(url: str, param: str) -> bytes:
    head = _HEAD.match(url)
    if head is None:
        raise Refusal(400, f"`{param}` {_WANTED}; addresses are not fetched.", param)
    try:
        return base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Refusal(400, f"`{param}` {_WANTED}; its base64 is damaged.", param) from None


def _pixels(data: bytes) -> int:
    """Return the size that a file says it has, 0 where it cannot be read: `open_image` says why."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # Pillow raises a dozen kinds on foreign bytes
        return 0
