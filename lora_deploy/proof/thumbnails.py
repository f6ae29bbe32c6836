"""Small pictures of clips, for a page."""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGER_SIDE = 128
"""In pixels; a page with a hundred of them stays under a megabyte."""

QUALITY = 70


def of_clips(clips: Iterable[tuple[str, NDArray[np.uint8]]]) -> dict[str, bytes]:
    """A JPEG of each clip's middle frame, by the clip's name.

    Args:
        clips: Name and frames [frames, height, width, 3]; one clip is held at a time.
    """
    return {name: thumbnail(frames) for name, frames in clips}


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
