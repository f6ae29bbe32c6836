"""A decoded clip, and the part of a file that it is made of: nothing of how it is decoded."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lora_deploy.errors import ClipError

Frames = NDArray[np.uint8]
"""RGB frames, uint8, [..., height, width, 3]."""

Effort = Literal["exact", "fast", "whole"]
"""How much of a file a decoder works through. ``exact``: the right frames, decoding no more than
they need. ``fast``: frames at most about one frame period off, scaled while they are converted.
``whole``: the frames of ``exact``, but every picture is decoded, so that all damage is told."""


LATEST_SECONDS = 1e9
"""Thirty years: no time in a video is later."""


@dataclass(frozen=True)
class Stretch:
    """A part of a video: what a player shows from its start on and before its end.

    Raises:
        ClipError: ``not_found``: no video has such a part, whatever its length.
    """

    start_seconds: float = 0.0
    """From when the file's first picture appears."""
    end_seconds: float | None = None
    """On the same clock; where the video is shorter, and for None, the end of the video."""

    def __post_init__(self) -> None:
        # Written so that NaN fails, of which every comparison is false.
        ends = LATEST_SECONDS if self.end_seconds is None else self.end_seconds
        if 0 <= self.start_seconds < ends <= LATEST_SECONDS:
            return
        end = "its end" if self.end_seconds is None else f"{self.end_seconds:g} seconds"
        raise ClipError(
            "not_found",
            f"no video has a part from {self.start_seconds:g} seconds to {end}; give seconds from "
            f"0 to {LATEST_SECONDS:g}, the end after the start",
        )

    @property
    def longest_seconds(self) -> float:
        """How long it is where the video does not end within it."""
        end_seconds = math.inf if self.end_seconds is None else self.end_seconds
        return end_seconds - self.start_seconds


WHOLE_FILE = Stretch()


@dataclass(frozen=True)
class Footage:
    """What a clip is made of: a video file, or a part of it."""

    path: Path
    stretch: Stretch | None = None
    """None: the whole file."""

    def __str__(self) -> str:
        """The path; of a part with ``#t=START,END`` behind it, as the W3C's Media Fragments have it."""
        if self.stretch is None:
            return str(self.path)
        end_seconds = self.stretch.end_seconds
        end = "" if end_seconds is None else f",{end_seconds!r}"
        return f"{self.path}#t={self.stretch.start_seconds!r}{end}"

    @property
    def footage(self) -> "Footage":
        """Itself."""
        return self


class HasFootage(Protocol):
    """Whatever knows which footage it is made of."""

    @property
    def footage(self) -> Footage:
        """What is decoded."""


@dataclass(frozen=True)
class DecodedClip:
    """What one video file, or a part of it, gave."""

    frames: Frames
    """Upright RGB, uint8 [frames, crop_height, crop_width, 3], resized and cropped."""
    times_seconds: tuple[float, ...]
    """When each frame appears, from the beginning of the clip; never falling."""
    duration_seconds: float
    """From the beginning of the clip, where its first picture is shown, to the end of its last."""
    warning: str | None
    """What could not be decoded, in one line; None where all went well."""
    file_frames: int | None = None
    """How many pictures of the file decode; None unless the effort was ``whole``."""
    start_seconds: float = 0.0
    """Where in the file the clip begins."""
