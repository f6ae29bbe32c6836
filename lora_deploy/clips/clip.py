"""A decoded clip: what every decoder gives, and nothing of how it was decoded."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""RGB frames, uint8, [..., height, width, 3]."""

Effort = Literal["exact", "fast", "whole"]
"""How much of a file a decoder works through. ``exact``: the right frames, decoding no more than
they need. ``fast``: frames at most about one frame period off, scaled while they are converted.
``whole``: the frames of ``exact``, but every picture is decoded, so that all damage is told."""


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
    """How many pictures of the file decode; None unless the effort was ``whole``."""
