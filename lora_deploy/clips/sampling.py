"""Which times of a video make a clip: arithmetic only, no decoding and no files."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.errors import ClipError

LONGEST_STEP_SECONDS = 3600.0
"""Two neighbouring frames further apart than an hour are a broken timestamp, not a pause."""

SWAP_REACH = 16
"""A decoder reorders within 16 frames; a timestamp further off is a leap, not a swap."""

TIE_SECONDS = 0.001
"""Matroska rounds timestamps to milliseconds and sums of floats round too: times and frames often
fall together, and without this the same clip would give other frames in another container."""

FALLBACK_STEP_SECONDS = 1 / 25
"""Spacing of frames in a file from which none can be told."""

SHORTFALL_WARNED = 0.1
"""Warn where more than this part of what was promised or asked for is not there."""


def uniform(duration_seconds: float, frames: int) -> list[float]:
    """Spread ``frames`` times evenly over a clip, in seconds from its start.

    Each time is the middle of one of ``frames`` equal stretches, so neither the
    first nor the last frame of a fade decides alone.

    Raises:
        ClipError: The clip has no length.
    """
    length_seconds = _checked_length(duration_seconds)
    return [(index + 0.5) * length_seconds / frames for index in range(frames)]


def middle_frame(duration_seconds: float, frames: int) -> list[float]:
    """The middle of a clip, ``frames`` times over, in seconds from its start.

    Raises:
        ClipError: The clip has no length.
    """
    return [_checked_length(duration_seconds) / 2] * frames


def sample_times(contract: PixelContract, duration_seconds: float) -> list[float]:
    """The times that ``contract`` asks of a clip of this length, in seconds from its start.

    Raises:
        ClipError: The clip has no length.
    """
    if contract.sampling == "middle_frame":
        return middle_frame(duration_seconds, contract.frames)
    return uniform(duration_seconds, contract.frames)


@dataclass(frozen=True)
class Part:
    """A stretch of a file whose length is known; without a stretch, all of the file."""

    start_seconds: float
    """From the file's first frame."""
    duration_seconds: float
    reaches_end: bool
    """Whether it goes on to the end of the file."""
    missing_seconds: float
    """Of what was asked for, after the end of the file."""

    @property
    def end_seconds(self) -> float:
        """From the file's first frame."""
        return self.start_seconds + self.duration_seconds

    def chosen(self, contract: PixelContract, timeline: Sequence[float]) -> list[int]:
        """Positions in ``timeline``, that of the file, of the frames that ``contract`` asks for.

        The times of ``timeline`` must rise, as those of `mend_timeline` do. The frames are those on the screen at the contract's times; the first may have begun before.
        """
        times = sample_times(contract, self.duration_seconds)
        return frames_shown([self.start_seconds + time for time in times], timeline)

    def begun(self, timeline: Sequence[float]) -> range:
        """Positions of the frames that begin within the part."""
        first = bisect_left(timeline, self.start_seconds - TIE_SECONDS)
        end = bisect_left(timeline, self.end_seconds - TIE_SECONDS, first)
        return range(first, len(timeline) if self.reaches_end else end)

    def times(self, timeline: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
        """When frames appear, in seconds from the beginning of the part."""
        return tuple(max(timeline[at] - self.start_seconds, 0.0) for at in chosen)

    def shortfall(self) -> list[str]:
        """That the file ends long before the stretch does, in words."""
        asked_seconds = self.duration_seconds + self.missing_seconds
        if self.missing_seconds <= SHORTFALL_WARNED * asked_seconds:
            return []
        return [
            f"the video ends after {self.end_seconds:.2f} seconds, before the end of the part "
            f"that was asked for ({self.start_seconds + asked_seconds:.2f} seconds)"
        ]


def part_of(stretch: Stretch, duration_seconds: float) -> Part:
    """The part that ``stretch`` is of a file of this length.

    Raises:
        ClipError: The file has no length, or ``not_found``: it ends before the stretch begins.
    """
    length_seconds = _checked_length(duration_seconds)
    start_seconds = stretch.start_seconds
    if start_seconds >= length_seconds:
        raise ClipError(
            "not_found",
            f"the part that was asked for begins after {start_seconds:.2f} seconds, and the video "
            f"ends after {length_seconds:.2f}; choose an earlier one",
        )
    asked_seconds = length_seconds if stretch.end_seconds is None else stretch.end_seconds
    end_seconds = min(asked_seconds, length_seconds)
    return Part(
        start_seconds=start_seconds,
        duration_seconds=end_seconds - start_seconds,
        reaches_end=asked_seconds >= length_seconds,
        missing_seconds=asked_seconds - end_seconds,
    )


def nearest_frames(times: Sequence[float], pts_seconds: Sequence[float]) -> list[int]:
    """Which frame is on the screen at each time.

    That is the frame with the latest timestamp that is not after the time; before the
    first timestamp it is the earliest frame. A frame that begins within `TIE_SECONDS` after
    the time counts as begun. Timestamps may stand in any order; of frames that share one, the
    last is shown.

    Args:
        times: Seconds, on the same clock as ``pts_seconds``.
        pts_seconds: One timestamp a frame, at least one.

    Returns:
        Positions in ``pts_seconds``, one for each time.
    """
    by_time = sorted(range(len(pts_seconds)), key=pts_seconds.__getitem__)
    rising = [pts_seconds[index] for index in by_time]
    return [by_time[at] for at in frames_shown(times, rising)]


def frames_shown(times: Sequence[float], rising: Sequence[float]) -> list[int]:
    """As `nearest_frames`, of timestamps that rise; in a time that hardly grows with their number."""
    return [max(bisect_right(rising, time + TIE_SECONDS) - 1, 0) for time in times]


def mend_timeline(pts_seconds: Sequence[float | None]) -> list[float]:
    """Timestamps of frames in the order shown, as seconds from the first one, always rising.

    Honest timestamps keep their distances. Where neighbours are swapped (AVI with B-frames)
    the same times are given out in rising order, because decoders put the pictures right and
    not the times. A step that still runs backwards, stands still, leaps by more than
    `LONGEST_STEP_SECONDS` or has no timestamp at one end becomes the usual step of the file.
    """
    times = _unswapped(pts_seconds)
    usual_step = usual_step_seconds(times)
    timeline = [0.0] if times else []
    for before, after in pairwise(times):
        step = _step(before, after)
        timeline.append(timeline[-1] + (usual_step if step is None else step))
    return timeline


def usual_step_seconds(pts_seconds: Sequence[float | None]) -> float:
    """The median distance of neighbouring frames whose timestamps can be believed, in seconds."""
    steps = [_step(before, after) for before, after in pairwise(pts_seconds)]
    believed = [step for step in steps if step is not None]
    return median(believed) if believed else FALLBACK_STEP_SECONDS


def last_step_seconds(stored_seconds: float, timeline: Sequence[float]) -> float:
    """How long the last frame is shown, in seconds.

    Args:
        stored_seconds: What the file says; 0 where it does not.
        timeline: From `mend_timeline`, at least one frame.
    """
    usual_step = usual_step_seconds(timeline)
    # MPEG-TS gives the last frame a tick or two; nothing is shown for so short.
    shortest = usual_step / 2 if len(timeline) > 1 else 0.0
    if shortest < stored_seconds <= LONGEST_STEP_SECONDS:
        return stored_seconds
    return usual_step


def _unswapped(pts_seconds: Sequence[float | None]) -> Sequence[float | None]:
    """The same times in rising order, if no frame is further than `SWAP_REACH` from its place."""
    known = [time for time in pts_seconds if time is not None]
    if len(known) < len(pts_seconds):
        return pts_seconds
    by_time = sorted(range(len(known)), key=known.__getitem__)
    if all(abs(place - index) <= SWAP_REACH for place, index in enumerate(by_time)):
        return [known[index] for index in by_time]
    return pts_seconds


def _step(before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    step = after - before
    return step if 0 < step <= LONGEST_STEP_SECONDS else None


def _checked_length(duration_seconds: float) -> float:
    if not (math.isfinite(duration_seconds) and duration_seconds > 0):
        raise ClipError(
            "unreadable",
            f"the clip has no length ({duration_seconds} seconds); a longer one is needed",
        )
    return duration_seconds
