"""From decoded frames to the numbers that a model is given: numpy and Pillow, no video, no torch.

The numbers equal those of transformers' ``VideoMAEImageProcessorPil`` bit for bit.
"""

from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract, ResizeFilter
from lora_deploy.clips.crops import cut
from lora_deploy.errors import ClipError

MAX_RESIZED_PIXELS = 4096 * 4096
"""Pixels of one resized frame (50 MB): a strip of 16384×1 would otherwise grow without bound."""

_CROP_TRIES = 10

_GREY = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue in what Pillow and ITU-R BT.601 call grey."""

PILLOW_FILTERS: Final[dict[ResizeFilter, Image.Resampling]] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def resize_and_crop(
    frames: Frames | Iterable[Frames],
    contract: PixelContract,
    pixel_aspect: Fraction = Fraction(1),
) -> Frames:
    """Bring frames to the size that ``contract`` names, in the proportions in which they are shown.

    Args:
        frames: RGB uint8; one frame [height, width, 3], a clip [frames, height, width, 3], or
            frames one by one, which may then differ in size.
        contract: Gives short side, filter and crop.
        pixel_aspect: Width of a pixel by its height.

    Returns:
        uint8 [frames, crop_height, crop_width, 3]; of three crops, those of a frame one after the
        other, [frames × 3, crop_height, crop_width, 3]. Outside a frame that is smaller than the
        crop the pixels are zero.

    Raises:
        ClipError: A frame is so long and thin that resizing it would need too much memory.
    """
    if isinstance(frames, np.ndarray) and frames.ndim == 3:
        frames = frames[None]
    sized = [
        crop for frame in frames for crop in cut(_resize(frame, contract, pixel_aspect), contract)
    ]
    if not sized:
        return np.zeros((0, contract.crop_height, contract.crop_width, 3), np.uint8)
    return np.stack(sized)  # [frames, crop_height, crop_width, 3]


def resized_size(
    width: int, height: int, contract: PixelContract, pixel_aspect: Fraction = Fraction(1)
) -> tuple[int, int]:
    """Width and height after resizing: the shorter side as shown becomes the contract's.

    Raises:
        ClipError: ``too_large``: so long and thin that resizing it would need too much memory.
    """
    shown_width, shown_height = width * pixel_aspect, Fraction(height)
    short, long = min(shown_height, shown_width), max(shown_height, shown_width)
    # transformers cuts the long side with int() where torchvision would round.
    new_short, new_long = contract.short_side, int(contract.short_side * long / short)
    if new_short * new_long > MAX_RESIZED_PIXELS:
        raise ClipError(
            "too_large",
            f"a picture of {width}×{height} is {new_long}×{new_short} after resizing its short "
            f"side to {new_short}; at most {MAX_RESIZED_PIXELS} pixels are allowed, so crop it first",
        )
    return (new_short, new_long) if shown_width <= shown_height else (new_long, new_short)


def normalise(
    frames: Frames, contract: PixelContract, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Scale to 0..1, subtract the mean, divide by the spread.

    Args:
        frames: RGB uint8 [..., frames, height, width, 3].
        contract: Gives mean and std.
        out: Where the result goes, contiguous; new memory by default.

    Returns:
        float32 [..., frames, 3, height, width], contiguous.
    """
    table = value_table(contract.mean, contract.std)
    *leading, height, width, channels = frames.shape
    values = np.empty((*leading, channels, height, width), np.float32) if out is None else out
    # One plane after the other stays in the cache: three times as fast as all at once.
    pictures = frames.reshape(-1, height, width, channels)
    planes = values.reshape(-1, channels, height, width)
    for picture, its_planes in zip(pictures, planes, strict=True):
        for channel in range(channels):
            # Of 256 values none is outside; "clip" spares numpy a copy that "raise" makes.
            np.take(table[channel], picture[..., channel], out=its_planes[channel], mode="clip")
    return values


def random_crop(frames: Frames, padding_fraction: float, generator: np.random.Generator) -> Frames:
    """Shift a clip by a random amount, the same in all its frames.

    The frames are padded on each side by ``padding_fraction`` of their height and width with
    the pixels of their edges, and one window of the old size is cut out.

    Args:
        frames: uint8 [frames, height, width, 3].
        padding_fraction: 0 leaves the clip as it is.
        generator: Two numbers are drawn from it, whatever the fraction.

    Returns:
        uint8, shape as given.
    """
    _, height, width, _ = frames.shape
    pad_y, pad_x = round(height * padding_fraction), round(width * padding_fraction)
    top = int(generator.integers(0, 2 * pad_y, endpoint=True))
    left = int(generator.integers(0, 2 * pad_x, endpoint=True))
    # Clamped positions are edge replication without building the padded clip.
    rows = np.clip(np.arange(top - pad_y, top - pad_y + height), 0, height - 1)
    columns = np.clip(np.arange(left - pad_x, left - pad_x + width), 0, width - 1)
    return np.ascontiguousarray(frames[:, rows[:, None], columns[None, :], :])


def crop_box(
    height: int, width: int, smallest_area: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a window of a frame: top, left, height and width, in pixels.

    Its area is drawn evenly from ``smallest_area`` to all of the frame, the logarithm of its shape
    (width to height, against that of the frame) from that of 3/4 to that of 4/3, and then its
    place. What does not fit is drawn again, `_CROP_TRIES` times in all; then it is all of the frame.
    """
    for _ in range(_CROP_TRIES):
        area = height * width * generator.uniform(smallest_area, 1)
        shape = width / height * np.exp(generator.uniform(-np.log(4 / 3), np.log(4 / 3)))
        crop_height, crop_width = (
            round(float(np.sqrt(area / shape))),
            round(float(np.sqrt(area * shape))),
        )
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(generator.integers(0, height - crop_height, endpoint=True))
            left = int(generator.integers(0, width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    return 0, 0, height, width


def random_resized_crop(
    frames: Frames, smallest_area: float, filter_name: ResizeFilter, generator: np.random.Generator
) -> Frames:
    """Cut one random window out of all frames of a clip, and resize it to the size that they had.

    Args:
        frames: uint8 [frames, height, width, 3].
        smallest_area: What part of a frame's area is kept at least, as in `crop_box`.
        filter_name: How it is resized.
        generator: Of the window.

    Returns:
        uint8, shape as given.
    """
    _, height, width, _ = frames.shape
    top, left, crop_height, crop_width = crop_box(height, width, smallest_area, generator)
    window = frames[:, top : top + crop_height, left : left + crop_width]
    if window.shape == frames.shape:
        return frames
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in window]
    resized = [picture.resize((width, height), PILLOW_FILTERS[filter_name]) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in resized])


def mirrored(frames: Frames) -> Frames:
    """The same clip with left and right exchanged; uint8 [..., height, width, 3]."""
    return np.ascontiguousarray(frames[..., ::-1, :])


def color_jitter(frames: Frames, strength: float, generator: np.random.Generator) -> Frames:
    """Change brightness, contrast and saturation of a clip, each by one factor for all its frames.

    The factors are drawn evenly from 1 - strength to 1 + strength. Brightness blends with black,
    contrast with the mean grey of the whole clip (so that nothing flickers), saturation with each
    pixel's own grey, as Pillow's ``ImageEnhance`` does; together they are one map of colours, in
    which their order does not matter, and are rounded and cut to 0..255 once.

    Args:
        frames: uint8 [frames, height, width, 3].
        strength: From 0, which leaves the clip as it is, to 1.
        generator: Three numbers are drawn from it.

    Returns:
        uint8, shape as given.
    """
    brightness, contrast, saturation = generator.uniform(1 - strength, 1 + strength, 3)
    means = frames.mean(axis=(0, 1, 2), dtype=np.float64)  # [3]
    to_grey = np.outer(np.ones(3), _GREY)  # [3, 3]: every channel becomes the grey of the pixel
    colours = saturation * np.eye(3) + (1 - saturation) * to_grey
    matrix = (brightness * contrast * colours).astype(np.float32)
    offset = np.float32(brightness * (1 - contrast) * (_GREY @ means))
    values = frames.astype(np.float32) @ matrix.T + offset
    changed: Frames = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return changed


def _resize(frame: Frames, contract: PixelContract, pixel_aspect: Fraction) -> Frames:
    height, width, _ = frame.shape
    new_size = resized_size(width, height, contract, pixel_aspect)
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize(new_size, PILLOW_FILTERS[contract.resize_filter]))


@lru_cache(maxsize=16)
def value_table(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """float32 [3, 256]: what each of the 256 values of each channel becomes."""
    # In the order and precision of transformers: times 1/255 in float64, the rest in float32.
    scaled = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    means, stds = np.array(mean, np.float32), np.array(std, np.float32)
    table: NDArray[np.float32] = (scaled[None, :] - means[:, None]) / stds[:, None]
    return table
