"""transformers' preprocessor files: read as a pixel contract, and a contract written as one of them.

Each processor class has values of its own for what its file leaves out, and two of them calculate
in their own way: ViViT's scales to -1..1 before it normalises, which is folded into mean and
spread here, and V-JEPA 2's resizes by a fixed part more than it crops, whatever its file says.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from lora_deploy import atomic, regular
from lora_deploy.clips.contract import IMAGENET_MEAN, IMAGENET_STD, PixelContract, ResizeFilter
from lora_deploy.clips.transforms import PILLOW_FILTERS
from lora_deploy.errors import BaseConfigError

IMAGE_FILE, VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"
COMMON_FILE = "processor_config.json"
"""Holds the processors of a model in one file, each under a key of its own."""

PROCESSOR_FILES = (IMAGE_FILE, VIDEO_FILE, COMMON_FILE)

Family = Literal["videomae", "timesformer", "vivit", "vjepa2"]
"""A processor class without its ending, in small letters; each is a ``model_type`` too."""

ThreeNumbers = tuple[float, float, float]


@dataclass(frozen=True)
class _Defaults:
    """What a processor class takes for what its file leaves out."""

    short_side: int = 224
    crop: int = 224
    mean: ThreeNumbers = (0.5, 0.5, 0.5)
    std: ThreeNumbers = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255


_FAMILIES: Final[dict[Family, _Defaults]] = {
    "videomae": _Defaults(),
    "timesformer": _Defaults(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "vivit": _Defaults(short_side=256, rescale_factor=1 / 127.5),
    "vjepa2": _Defaults(short_side=292, crop=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
}


def read_processor(folder: Path, model_type: str) -> dict[str, object] | None:
    """The processor file that transformers would open for a model; None where there is none.

    Raises:
        BaseConfigError: It is torn.
    """
    # Only V-JEPA 2 has no image processor, so that its video file goes first.
    first, second = (VIDEO_FILE, IMAGE_FILE) if model_type == "vjepa2" else (IMAGE_FILE, VIDEO_FILE)
    for name in (first, second):
        if (folder / name).is_file():
            return _read_json(folder / name)
    if (folder / COMMON_FILE).is_file():
        common = _read_json(folder / COMMON_FILE)
        for key in ("video_processor", "image_processor"):
            nested = common.get(key)
            if isinstance(nested, dict):
                return nested
    return None


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(regular.read_text(path))
    except (OSError, ValueError) as error:
        raise BaseConfigError(f"{path} can't be read: {error}") from None
    if not isinstance(values, dict):
        raise BaseConfigError(f"{path} holds a {type(values).__name__}; allowed is a mapping")
    return values


def contract_from_processor(
    config: Mapping[str, object], frames: int, *, model_type: str = "videomae"
) -> PixelContract:
    """Read a transformers ``preprocessor_config.json`` or ``video_preprocessor_config.json``.

    What is missing has the value that the processor class gives it which the file names.

    Args:
        config: The parsed file.
        frames: Frames per clip; the file does not say.
        model_type: Decides where the file names no processor class that is known here.

    Raises:
        BaseConfigError: It asks for something that the pixel contract can't express; a fixed
            ``height`` and ``width`` to resize to is one, because it distorts the picture.
    """
    family = _family(config, model_type)
    defaults = _FAMILIES[family]
    for key, value in config.items():
        _refuse_unknown(key, value, family, config)
    height = _crop_side(config.get("crop_size"), "height", defaults.crop)
    width = _crop_side(config.get("crop_size"), "width", defaults.crop)
    mean = _three_numbers(config, "image_mean", defaults.mean)
    std = _three_numbers(config, "image_std", defaults.std)
    if family == "vivit":
        mean, std = _from_scaled(mean, std, *_scaling(config))
    return PixelContract(
        frames=frames,
        short_side=_vjepa2_short_side(height)
        if family == "vjepa2"
        else _short_side(config.get("size"), defaults.short_side),
        crop_height=height,
        crop_width=width,
        resize_filter=_filter_name(config.get("resample")),
        mean=mean,
        std=std,
    )


def usual_contract(model_type: str, frames: int, height: int, width: int) -> PixelContract:
    """The contract of a model whose folder has no processor file, from what its class does."""
    crop: dict[str, object] = {"crop_size": {"height": height, "width": width}}
    if model_type == "vivit":
        short_side = min(height, width) * 256 // 224
        return contract_from_processor(
            {**crop, "size": {"shortest_edge": short_side}}, frames, model_type=model_type
        )
    if model_type == "vjepa2":
        return contract_from_processor(crop, frames, model_type=model_type)
    # As the published VideoMAE and TimeSformer: resized to the crop, ImageNet's mean and spread.
    return PixelContract(
        frames=frames, short_side=min(height, width), crop_height=height, crop_width=width
    )


def contract_to_processor(
    contract: PixelContract, model_type: str = "videomae"
) -> dict[str, object]:
    """Write a contract as a file that transformers opens for a model of this type.

    Its own processor class is named where that can express the contract, else VideoMAE's, whose
    numbers are right and whose output is always called ``pixel_values``.
    """
    plain: dict[str, object] = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": contract.short_side},
        "resample": int(PILLOW_FILTERS[contract.resize_filter]),
        "do_center_crop": True,
        "crop_size": {"height": contract.crop_height, "width": contract.crop_width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(contract.mean),
        "image_std": list(contract.std),
    }
    own = dict(plain)
    if model_type == "vivit":
        own |= {
            "image_processor_type": "VivitImageProcessor",
            "rescale_factor": 1 / 127.5,
            "offset": True,
            "image_mean": [2 * value - 1 for value in contract.mean],
            "image_std": [2 * value for value in contract.std],
        }
    elif model_type == "vjepa2":
        del own["image_processor_type"]
        own["video_processor_type"] = "VJEPA2VideoProcessor"
    # Frames and sampling are in no processor file.
    read = contract_from_processor(own, contract.frames)
    return own if read == contract.model_copy(update={"sampling": read.sampling}) else plain


def write_processor(contract: PixelContract, folder: Path, model_type: str) -> Path:
    """Write the processor file of a model's folder, where transformers looks for it."""
    values = contract_to_processor(contract, model_type)
    path = folder / (VIDEO_FILE if "video_processor_type" in values else IMAGE_FILE)
    atomic.write_text(path, json.dumps(values, indent=1) + "\n")
    return path


def _family(config: Mapping[str, object], model_type: str) -> Family:
    """Whose processor a file names; that of ``model_type`` where it names none."""
    names = [config.get(key) for key in _CLASS_KEYS if config.get(key) is not None]
    for name in (*names, model_type):
        stem = re.sub(r"((Image|Video)Processor(Fast|Pil)?|FeatureExtractor)$", "", str(name))
        if (family := stem.lower()) in _FAMILIES:
            return family
        if name in names:
            break  # of a class that is not known here all must be told, whatever the model is
    return "videomae"


def _scaling(config: Mapping[str, object]) -> tuple[float, float]:
    """ViViT's factor for a pixel, and what is subtracted before mean and spread."""
    factor = config.get("rescale_factor")
    if factor is None:
        factor = _FAMILIES["vivit"].rescale_factor
    if not (isinstance(factor, int | float) and math.isfinite(factor) and factor > 0):
        raise BaseConfigError(
            f"the model's preprocessing says rescale_factor: {factor!r}; allowed is a number above 0"
        )
    offset = config.get("offset")
    if offset is not None and not isinstance(offset, bool):
        raise BaseConfigError(
            f"the model's preprocessing says offset: {offset!r}; allowed are true and false"
        )
    # transformers' VivitVideoProcessor knows no such key and always subtracts 1.
    if offset is False and config.get("video_processor_type") is not None:
        raise BaseConfigError(
            "the model's preprocessing says offset: false, which transformers' VivitVideoProcessor "
            "does not obey; allowed is true"
        )
    return float(factor), 0.0 if offset is False else 1.0


def _from_scaled(
    mean: ThreeNumbers, std: ThreeNumbers, factor: float, offset: float
) -> tuple[ThreeNumbers, ThreeNumbers]:
    """Mean and spread of pixels scaled to 0..1 that give (pixel·factor - offset - mean) / std."""
    reach = round(255 * factor, 9)  # of pixels scaled by factor; 2 for ViViT's 1/127.5
    red, green, blue = ((value + offset) / reach for value in mean)
    red_std, green_std, blue_std = (value / reach for value in std)
    return (red, green, blue), (red_std, green_std, blue_std)


def _vjepa2_short_side(crop_height: int) -> int:
    """What VJEPA2VideoProcessor resizes to; it overrides the ``size`` of its own file."""
    return int(crop_height * 256 / 224)


_READ_KEYS = frozenset({"size", "crop_size", "resample", "image_mean", "image_std"})
_STEPS = frozenset({"do_resize", "do_center_crop", "do_rescale", "do_normalize"})
_CLASS_KEYS = ("video_processor_type", "image_processor_type", "feature_extractor_type")
_WITHOUT_EFFECT = frozenset(
    {
        *_CLASS_KEYS, "processor_class", "data_format", "input_data_format", "return_tensors",
        "device", "do_convert_rgb", "model_valid_processing_keys", "_valid_kwargs_names",
    }
)  # fmt: skip


def _refuse_unknown(key: str, value: object, family: Family, config: Mapping[str, object]) -> None:
    if key in _READ_KEYS or key in _WITHOUT_EFFECT or value is None:
        return
    if family == "vivit" and key in ("rescale_factor", "offset"):
        return  # read by `_scaling`
    if key in _STEPS:
        if value is not True:
            raise BaseConfigError(
                f"the model's preprocessing says {key}: {value!r}; only true is supported"
            )
    elif key == "rescale_factor":
        if not (isinstance(value, int | float) and abs(value - 1 / 255) < 1e-9):
            raise BaseConfigError(
                f"the model's preprocessing says rescale_factor: {value!r}; only 1/255 is supported"
            )
    elif key == "default_to_square":
        # It says what a single number as ``size`` means, and nothing where the side is named.
        if value is not False and not isinstance(config.get("size"), Mapping):
            raise BaseConfigError(
                "the model's preprocessing says default_to_square, which distorts the picture; "
                "only resizing the short side is supported"
            )
    elif value is not False:
        raise BaseConfigError(
            f"the model's preprocessing says {key}: {value!r}, which is not known here; known are "
            f"{', '.join(sorted(_READ_KEYS | _STEPS | {'rescale_factor'}))}"
        )


def _short_side(size: object, default: int) -> int:
    if size is None:
        return default
    if isinstance(size, Mapping):
        given = {key: value for key, value in size.items() if value is not None}
        if set(given) == {"shortest_edge"}:
            size = given["shortest_edge"]
    if _is_whole(size):
        return cast(int, size)
    raise BaseConfigError(
        f"the model's preprocessing says size: {size!r}; allowed are a whole number or "
        '{"shortest_edge": number} (a fixed height and width would distort the picture)'
    )


def _crop_side(crop_size: object, side: str, default: int) -> int:
    if crop_size is None:
        return default
    value = crop_size.get(side) if isinstance(crop_size, Mapping) else crop_size
    if _is_whole(value):
        return cast(int, value)
    raise BaseConfigError(
        f"the model's preprocessing says crop_size: {crop_size!r}; allowed are a whole number or "
        '{"height": number, "width": number}'
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 4096


def _filter_name(resample: object) -> ResizeFilter:
    if resample is None:
        return "bilinear"
    for name, number in PILLOW_FILTERS.items():
        if resample == int(number) and not isinstance(resample, bool):
            return name
    allowed = ", ".join(f"{int(number)} ({name})" for name, number in PILLOW_FILTERS.items())
    raise BaseConfigError(
        f"the model's preprocessing says resample: {resample!r}; allowed are {allowed}"
    )


def _three_numbers(config: Mapping[str, object], key: str, default: ThreeNumbers) -> ThreeNumbers:
    values = config.get(key)
    if values is None:
        return default
    if (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        and not (key == "image_std" and any(value <= 0 for value in values))
    ):
        red, green, blue = values
        return (float(red), float(green), float(blue))
    raise BaseConfigError(
        f"the model's preprocessing says {key}: {values!r}; allowed are three numbers, one for "
        "red, green and blue" + (", each above zero" if key == "image_std" else "")
    )
