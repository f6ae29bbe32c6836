"""Several looks at one video, whose probabilities are averaged: clips over time, crops over the picture."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import ValidationError

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import ViewsError


@dataclass(frozen=True)
class Views:
    """How many looks a model takes at one video."""

    clips: int = 1
    """Each goes over the whole video, a little later than the one before."""
    crops: Literal[1, 3] = 1
    """1: the centre; 3: both ends and the middle of the longer side."""

    @property
    def count(self) -> int:
        """Of all."""
        return self.clips * self.crops

    def __str__(self) -> str:
        """As ``--views`` takes it."""
        return f"{self.clips}x{self.crops}"


ONE_VIEW = Views()


def parse_views(text: str) -> Views:
    """Read ``CLIPSxCROPS``.

    Raises:
        ViewsError: It is something else, or crops are neither 1 nor 3.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,3})\s*[x×]\s*([13])", text.strip())
    if found is None:
        raise ViewsError(f"views can't be {text!r}")
    return Views(int(found[1]), 3 if found[2] == "3" else 1)


def contract_of(views: Views, contract: PixelContract) -> PixelContract:
    """What to decode of a video, so that `views_of` finds all views in it.

    Clip number j of n takes its i-th frame, of f, at (i + (j + 1/2) / n) / f of the video's length:
    it is spread over the whole video as in training, and the clips stand between each other. So
    VideoMAE tests models of uniform sampling (Something-Something V2, 2 clips × 3 crops: Tong et
    al., 2022; sampling after TSN, Wang et al., 2016). One clip is the one that training saw.
    Of a model that looks at one frame, clip number j looks at (j + 1/2) / n of the length.

    Raises:
        ViewsError: They are more than can be decoded at once.
    """
    values = contract.model_dump()
    of_one = 1 if contract.sampling == "middle_frame" else contract.frames
    values["frames"] = of_one * views.clips
    values["sampling"] = "uniform"
    values["crops_per_clip"] = views.crops
    try:
        return PixelContract.model_validate(values)
    except ValidationError as error:
        raise ViewsError(
            f"{views} views are too many for clips of {contract.frames} frames of "
            f"{contract.crop_width}×{contract.crop_height} ({error.errors()[0]['msg']})"
        ) from None


def views_of(frames: Frames, views: Views, contract: PixelContract) -> Frames:
    """The views of one decoded video.

    Args:
        frames: Decoded by `contract_of`.
        views: As given there.
        contract: The model's.

    Returns:
        uint8 [views, frames, crop_height, crop_width, 3]; the crops of a clip one after the other.
    """
    picture = frames.shape[1:]
    split = frames.reshape(-1, views.clips, views.crops, *picture)
    ordered = split.transpose(1, 2, 0, 3, 4, 5)  # [clips, crops, frames, height, width, 3]
    together = ordered.reshape(views.count, -1, *picture)
    if contract.sampling == "middle_frame":
        return np.repeat(together, contract.frames, axis=1)
    return np.ascontiguousarray(together)
