"""Which windows a video is looked at through: arithmetic only.

A window shows ``frames`` pictures, one every ``window / frames`` seconds. Where the stride is a multiple
of that, windows that overlap show the same pictures, so these are converted and resized once.
"""

import math
from dataclasses import dataclass

from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import TimelineOptionsError

MOST_HELD_BYTES = 512 << 20
"""Pixels of the windows that are put together at one time."""


@dataclass(frozen=True)
class TimelineOptions:
    """How a video is looked through.

    Raises:
        TimelineOptionsError: A value that no window can have.
    """

    window_seconds: float = 2.0
    """How long each window is: about as long as the clips that the model learnt from."""
    stride_seconds: float = 1.0
    """From the beginning of one window to that of the next."""
    at_most_windows: int | None = 1000
    """Where there would be more, the stride is widened; None: however many there are."""
    smoothing_windows: int = 3
    """Each window's probabilities become the mean of so many around it, the nearest counting most;
    odd."""
    lead: float = 0.1
    """By how much another label must be more probable than the one that stands, to take its place;
    and how far a label that stands may fall below the threshold for `UNKNOWN`."""
    patience_seconds: float = 0.0
    """How long a first window may be waited for while the decoder shows that it gets on; what is
    damaged is decoded all through first."""

    def __post_init__(self) -> None:
        for name, seconds in (("window", self.window_seconds), ("stride", self.stride_seconds)):
            if not 0 < seconds < math.inf:
                raise TimelineOptionsError(
                    f"the {name} is {seconds:g} seconds long; allowed: more than 0"
                )
        if self.at_most_windows is not None and self.at_most_windows < 2:
            raise TimelineOptionsError(
                f"at most {self.at_most_windows} windows were asked for; allowed: 2 or more"
            )
        if self.smoothing_windows < 1 or self.smoothing_windows % 2 == 0:
            raise TimelineOptionsError(
                f"{self.smoothing_windows} windows are to be smoothed into one; allowed: 1, 3, 5 …"
            )
        if not 0 <= self.lead < 1:
            raise TimelineOptionsError(f"the lead is {self.lead:g}; allowed: 0 to less than 1")


def step_seconds(options: TimelineOptions, contract: PixelContract) -> float | None:
    """From one picture of a window to the next; None where it shows one alone."""
    if contract.sampling == "middle_frame":
        return None
    return options.window_seconds / contract.frames


def check_memory(options: TimelineOptions, contract: PixelContract) -> None:
    """Refuse windows of which so many overlap that their pictures are too many to hold.

    Raises:
        TimelineOptionsError: They are.
    """
    step = step_seconds(options, contract) or options.window_seconds
    picture_bytes = math.prod(contract.frames_shape) // contract.frames
    held = options.window_seconds / min(step, options.stride_seconds)
    if held * picture_bytes > MOST_HELD_BYTES:
        least = options.window_seconds * picture_bytes / MOST_HELD_BYTES
        raise TimelineOptionsError(
            f"the stride is {options.stride_seconds:g} seconds: with windows of "
            f"{options.window_seconds:g} seconds {held:.0f} pictures would be held at one time; "
            f"allowed: {math.ceil(least * 1000) / 1000:g} seconds and more"
        )


def window_stretches(
    duration_seconds: float, options: TimelineOptions, step: float | None = None
) -> tuple[float, list[Stretch]]:
    """The windows of a video of this length, and the stride that was taken.

    The last one ends with the video; the one before it may be less than a stride earlier.

    Args:
        duration_seconds: Of the video.
        options: What was asked for.
        step: As `step_seconds`; the stride becomes the nearest multiple of it, or where it is
            less than that, the nearest whole part of it.
    """
    room_seconds = duration_seconds - options.window_seconds
    if room_seconds <= 0:
        return options.stride_seconds, [Stretch(0.0, duration_seconds)]
    least_seconds = least_stride_seconds(duration_seconds, options)
    stride_seconds = max(options.stride_seconds, least_seconds)
    if step is not None:
        stride_seconds = _on_grid(stride_seconds, step, least_seconds)
    # A thousandth, so that no last window begins where the one before it does but for rounding.
    count = math.ceil(room_seconds / stride_seconds - 1e-3)
    starts = [number * stride_seconds for number in range(count)] + [room_seconds]
    return stride_seconds, [Stretch(start, start + options.window_seconds) for start in starts]


def least_stride_seconds(duration_seconds: float, options: TimelineOptions) -> float:
    """At which there are no more windows than allowed."""
    if options.at_most_windows is None:
        return 0.0
    return (duration_seconds - options.window_seconds) / (options.at_most_windows - 1)


def _on_grid(stride: float, step: float, least: float) -> float:
    """The nearest stride at which windows share their pictures, and no less than ``least``."""
    if stride >= step:
        steps = round(stride / step)
        steps += steps * step < least * (1 - 1e-9)
        found = steps * step
    else:
        parts = round(step / stride)
        parts -= parts > 1 and step / parts < least * (1 - 1e-9)
        found = step / parts
    # As it was asked for, where only the rounding of its last digit differs.
    return stride if math.isclose(found, stride, rel_tol=1e-9) else found
