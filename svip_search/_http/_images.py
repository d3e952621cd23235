"""Pictures as text, the way model servers take them."""

from __future__ import annotations

import base64
import io
from typing import Any


def data_url(image: Any) -> str:
    """Return a picture as a ``data:`` address of a PNG file.

    Args:
        image: a path, the bytes of a file, a ``PIL.Image.Image`` or a uint8 array, as in ``Question.images``.

    Raises:
        ImageError: it cannot be read.
        TypeError: it is none of these.

    Example:
        >>> import numpy as np
        >>> data_url(np.zeros((2, 2, 3), np.uint8))[:22]
        'data:image/png;base64,'
    """
    from .._images import open_image

    buffer = io.BytesIO()
    open_image(image).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
