"""From decoded frames to the numbers that a model is given: numpy and Pillow, no video, no torch.

The numbers equal those of transformers' ``VideoMAEImageProcessorPil`` bit for bit.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract, ResizeFilter
from lora_deploy.errors import ClipError, ModelError

MAX_RESIZED_PIXELS = 4096 * 4096
"""Pixels of one resized frame (50 MB): a strip of 16384×1 would otherwise grow without bound."""

_PILLOW_FILTERS: Final[dict[ResizeFilter, Image.Resampling]] = {
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
        uint8 [frames, crop_height, crop_width, 3]. Outside a frame that is smaller than the
        crop the pixels are zero.

    Raises:
        ClipError: A frame is so long and thin that resizing it would need too much memory.
    """
    if isinstance(frames, np.ndarray) and frames.ndim == 3:
        frames = frames[None]
    sized = [_centre_crop(_resize(frame, contract, pixel_aspect), contract) for frame in frames]
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


def normalise(frames: Frames, contract: PixelContract) -> NDArray[np.float32]:
    """Scale to 0..1, subtract the mean, divide by the spread.

    Args:
        frames: RGB uint8 [..., frames, height, width, 3].
        contract: Gives mean and std.

    Returns:
        float32 [..., frames, 3, height, width], contiguous.
    """
    table = _value_table(contract.mean, contract.std)
    *leading, height, width, channels = frames.shape
    values = np.empty((*leading, channels, height, width), np.float32)
    for channel in range(channels):
        values[..., channel, :, :] = table[channel][frames[..., channel]]
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


def contract_from_processor(config: Mapping[str, object], frames: int) -> PixelContract:
    """Read a transformers ``preprocessor_config.json``.

    What is missing has the value that transformers' VideoMAE processor gives it: short side
    and crop 224, bilinear, mean and std 0.5.

    Args:
        config: The parsed file.
        frames: Frames per clip; the file does not say.

    Raises:
        ModelError: It asks for something that the pixel contract can't express; a fixed
            ``height`` and ``width`` to resize to is one, because it distorts the picture.
    """
    for key, value in config.items():
        _refuse_unknown(key, value)
    return PixelContract(
        frames=frames,
        short_side=_short_side(config.get("size")),
        crop_height=_crop_side(config.get("crop_size"), "height"),
        crop_width=_crop_side(config.get("crop_size"), "width"),
        resize_filter=_filter_name(config.get("resample")),
        mean=_three_numbers(config, "image_mean"),
        std=_three_numbers(config, "image_std"),
    )


def contract_to_processor(contract: PixelContract) -> dict[str, object]:
    """Write a contract as the ``preprocessor_config.json`` that transformers opens for VideoMAE."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": contract.short_side},
        "resample": int(_PILLOW_FILTERS[contract.resize_filter]),
        "do_center_crop": True,
        "crop_size": {"height": contract.crop_height, "width": contract.crop_width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(contract.mean),
        "image_std": list(contract.std),
    }


def _resize(frame: Frames, contract: PixelContract, pixel_aspect: Fraction) -> Frames:
    height, width, _ = frame.shape
    new_size = resized_size(width, height, contract, pixel_aspect)
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize(new_size, _PILLOW_FILTERS[contract.resize_filter]))


def _centre_crop(frame: Frames, contract: PixelContract) -> Frames:
    height, width, _ = frame.shape
    crop_height, crop_width = contract.crop_height, contract.crop_width
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    if top >= 0 and left >= 0:
        return frame[top : top + crop_height, left : left + crop_width]
    # Padded up to the crop where smaller, rounding as transformers does.
    padded_height, padded_width = max(crop_height, height), max(crop_width, width)
    pad_top, pad_left = ceil((padded_height - height) / 2), ceil((padded_width - width) / 2)
    padded = np.zeros((padded_height, padded_width, 3), np.uint8)
    padded[pad_top : pad_top + height, pad_left : pad_left + width] = frame
    top, left = top + pad_top, left + pad_left
    return padded[top : top + crop_height, left : left + crop_width]


@lru_cache(maxsize=16)
def _value_table(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """float32 [3, 256]: what each of the 256 values of each channel becomes."""
    # In the order and precision of transformers: times 1/255 in float64, the rest in float32.
    scaled = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    means, stds = np.array(mean, np.float32), np.array(std, np.float32)
    table: NDArray[np.float32] = (scaled[None, :] - means[:, None]) / stds[:, None]
    return table


_READ_KEYS = frozenset({"size", "crop_size", "resample", "image_mean", "image_std"})
_STEPS = frozenset({"do_resize", "do_center_crop", "do_rescale", "do_normalize"})
_NAMES = frozenset(
    {"image_processor_type", "feature_extractor_type", "video_processor_type", "processor_class"}
)
_WITHOUT_EFFECT = frozenset(
    {"data_format", "input_data_format", "return_tensors", "device", "do_convert_rgb"}
)


def _refuse_unknown(key: str, value: object) -> None:
    if key in _READ_KEYS or key in _NAMES or key in _WITHOUT_EFFECT or value is None:
        return
    if key in _STEPS:
        if value is not True:
            raise ModelError(
                f"the model's preprocessing says {key}: {value!r}; only true is supported"
            )
    elif key == "rescale_factor":
        if not (isinstance(value, int | float) and abs(value - 1 / 255) < 1e-9):
            raise ModelError(
                f"the model's preprocessing says rescale_factor: {value!r}; only 1/255 is supported"
            )
    elif key == "default_to_square":
        if value is not False:
            raise ModelError(
                "the model's preprocessing says default_to_square, which distorts the picture; "
                "only resizing the short side is supported"
            )
    elif value is not False:
        raise ModelError(
            f"the model's preprocessing says {key}: {value!r}, which is not known here; known are "
            f"{', '.join(sorted(_READ_KEYS | _STEPS | {'rescale_factor'}))}"
        )


def _short_side(size: object) -> int:
    if size is None:
        return 224
    if isinstance(size, Mapping):
        given = {key: value for key, value in size.items() if value is not None}
        if set(given) == {"shortest_edge"}:
            size = given["shortest_edge"]
    if _is_whole(size):
        return cast(int, size)
    raise ModelError(
        f"the model's preprocessing says size: {size!r}; allowed are a whole number or "
        '{"shortest_edge": number} (a fixed height and width would distort the picture)'
    )


def _crop_side(crop_size: object, side: str) -> int:
    if crop_size is None:
        return 224
    value = crop_size.get(side) if isinstance(crop_size, Mapping) else crop_size
    if _is_whole(value):
        return cast(int, value)
    raise ModelError(
        f"the model's preprocessing says crop_size: {crop_size!r}; allowed are a whole number or "
        '{"height": number, "width": number}'
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 4096


def _filter_name(resample: object) -> ResizeFilter:
    if resample is None:
        return "bilinear"
    for name, number in _PILLOW_FILTERS.items():
        if resample == int(number) and not isinstance(resample, bool):
            return name
    allowed = ", ".join(f"{int(number)} ({name})" for name, number in _PILLOW_FILTERS.items())
    raise ModelError(
        f"the model's preprocessing says resample: {resample!r}; allowed are {allowed}"
    )


def _three_numbers(config: Mapping[str, object], key: str) -> tuple[float, float, float]:
    values = config.get(key)
    if values is None:
        return (0.5, 0.5, 0.5)
    if (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(value, int | float) and np.isfinite(value) for value in values)
        and not (key == "image_std" and any(value <= 0 for value in values))
    ):
        red, green, blue = values
        return (float(red), float(green), float(blue))
    raise ModelError(
        f"the model's preprocessing says {key}: {values!r}; allowed are three numbers, one for "
        "red, green and blue" + (", each above zero" if key == "image_std" else "")
    )
