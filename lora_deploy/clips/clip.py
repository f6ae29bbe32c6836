"""A decoded clip: what every decoder gives, and nothing of how it was decoded."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""RGB frames, uint8, [..., height, width, 3]."""

Effort = Literal["exact", "fast", "whole"]
"""``exact``: the right frames, decoding no more than needed; ``fast``: near frames will do, and
scaling in the decoder; ``whole``: as exact, but all of the file is decoded and all damage told."""


@dataclass(frozen=True)
class DecodedClip:
    """What one video file gave."""

    frames: Frames
    """Upright RGB, uint8 [frames, crop_height, crop_width, 3], resized and cropped."""
    times_seconds: tuple[float, ...]
    """When each frame appears, from the clip's first frame; never falling."""
    duration_seconds: float
    """From the first frame's appearance to the end of the last one."""
    warning: str | None
    """What could not be decoded, in one line; None where all went well."""
    file_frames: int | None = None
    """Pictures of the whole file that decode; None where not all were tried."""
