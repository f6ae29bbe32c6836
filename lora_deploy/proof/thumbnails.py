"""Small pictures of clips, for a page."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGER_SIDE = 128
"""In pixels; a page with a hundred of them stays under a megabyte."""

QUALITY = 70


def thumbnail(frames: NDArray[np.uint8]) -> bytes:
    """A JPEG of the middle frame, shrunk to `LONGER_SIDE`; a smaller frame stays as it is.

    Args:
        frames: [frames, height, width, 3], red first.
    """
    picture = Image.fromarray(frames[len(frames) // 2])
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=QUALITY, optimize=True)
    return content.getvalue()
