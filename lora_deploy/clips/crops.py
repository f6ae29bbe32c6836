"""Where crops are cut out of a resized frame: the centre, or three along the longer side."""

from math import ceil

import numpy as np

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract


def cut(frame: Frames, contract: PixelContract) -> list[Frames]:
    """The crops that ``contract`` asks for; those of three stand in the order first, middle, last.

    The three lie at the beginning, the middle and the end of the longer side, each at the middle of
    the other: "uniform crop" of SlowFast (Feichtenhofer et al., 2019, section 4), which VideoMAE
    tests with too (Tong et al., 2022, appendix). The middle one is the centre crop to the pixel.

    Args:
        frame: uint8 [height, width, 3], resized.
        contract: Gives the size and the number.

    Returns:
        Each uint8 [crop_height, crop_width, 3]. Outside a frame that is smaller the pixels are zero.
    """
    height, width, _ = frame.shape
    crop_height, crop_width = contract.crop_height, contract.crop_width
    rows, columns = _places(height, crop_height), _places(width, crop_width)
    padded = _padded(frame, crop_height, crop_width)
    if contract.crops_per_clip == 1:
        places = [(rows[1], columns[1])]
    elif height > width:
        places = [(row, columns[1]) for row in rows]
    else:
        places = [(rows[1], column) for column in columns]
    return [padded[top : top + crop_height, left : left + crop_width] for top, left in places]


def _places(side: int, crop: int) -> tuple[int, int, int]:
    """Where a crop begins on a side of the padded frame: first, middle, last."""
    middle = (side - crop) // 2 + _padding(side, crop)
    return 0, middle, max(side, crop) - crop


def _padding(side: int, crop: int) -> int:
    """Pixels before a side that is shorter than the crop, rounding as transformers does."""
    return ceil((max(side, crop) - side) / 2)


def _padded(frame: Frames, crop_height: int, crop_width: int) -> Frames:
    """Zeros around a frame that is smaller than the crop."""
    height, width, _ = frame.shape
    if height >= crop_height and width >= crop_width:
        return frame
    top, left = _padding(height, crop_height), _padding(width, crop_width)
    padded = np.zeros((max(crop_height, height), max(crop_width, width), 3), np.uint8)
    padded[top : top + height, left : left + width] = frame
    return padded
