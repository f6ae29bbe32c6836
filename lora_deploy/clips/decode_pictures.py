"""Frames from the pictures of a frame folder: JPEG and PNG alone, by Pillow, one after another.

It runs in a fenced worker only; `lora_deploy.clips.frame_folder` chose the pictures.
"""

import contextlib
import io
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin  # noqa: F401 (opened before the fence)

from lora_deploy.clips import guard
from lora_deploy.clips.clip import DecodedClip, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.transforms import resize_and_crop
from lora_deploy.clips.wire import Pictures
from lora_deploy.errors import ClipError

_ORIENTATION = 0x0112
"""The EXIF tag."""

FORMATS = ("JPEG", "PNG")
"""Pillow opens many more; none of the others is tried."""


def decode(file: BinaryIO, told: Pictures, contract: PixelContract) -> DecodedClip:
    """Decode the pictures that lie one behind the other in a file.

    Args:
        file: Open at its beginning.
        told: What lies in it, and when it is shown.
        contract: How large frames are.

    Raises:
        ClipError: ``unreadable`` or ``too_large``: one of the pictures.
    """
    return DecodedClip(
        frames=_frames(file, told, contract),
        times_seconds=told.times_seconds,
        duration_seconds=told.duration_seconds,
        warning=None,
    )


def warm_up() -> None:
    """Everything that Pillow imports only when it meets it, while files can still be opened."""
    tiny = PixelContract(frames=1, short_side=16, crop_height=16, crop_width=16)
    turned = Image.Exif()
    turned[_ORIENTATION] = 6
    for picture_format, mode in (("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P")):
        content = io.BytesIO()
        Image.new(mode, (16, 16)).save(content, picture_format, exif=turned)
        for part in (content.getvalue(), content.getvalue()[:-20], bytes(64)):
            with contextlib.suppress(Exception):
                _picture(part, tiny)


def _frames(file: BinaryIO, told: Pictures, contract: PixelContract) -> Frames:
    pictures = []
    for place, size in enumerate(told.sizes):
        try:
            pictures.append(_picture(file.read(size), contract))
        except ClipError:
            raise
        except MemoryError:
            raise
        except Exception as error:  # whatever Pillow makes of a stranger's bytes
            raise ClipError(
                "unreadable",
                f"picture {place + 1} of the {len(told.sizes)} that are shown can't be decoded "
                f"({type(error).__name__})",
            ) from None
    return np.concatenate([pictures[at] for at in told.shown])


def _picture(content: bytes, contract: PixelContract) -> Frames:
    """One picture upright in RGB, uint8 [1, crop_height, crop_width, 3]."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        guard.check_picture_size(*opened.size)  # nothing but the header has been read yet
        if opened.mode.startswith(("I", "F")):
            raise ClipError(
                "unreadable", f"a picture has pixels of the kind {opened.mode}; save it in 8 bits"
            )
        upright = ImageOps.exif_transpose(opened)
        return resize_and_crop(np.asarray(upright.convert("RGB")), contract)
