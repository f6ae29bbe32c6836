"""Many parts of one video file in one go: each picture is decoded once, however many clips show it.

Each clip is the one that `lora_deploy.clips.decode` gives of the same part. Memory holds the pictures
of the clips that are being put together; what else there is of a long file is some numbers a picture.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream

from lora_deploy.clips import guard, sparse
from lora_deploy.clips.clip import DecodedClip, Effort, Frames, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import Pass, passed_over, warning_of
from lora_deploy.clips.packets import (
    Beat,
    losses,
    only_clip_errors,
    opened,
    read_packets,
    replayed,
    told,
    unwatched,
)
from lora_deploy.clips.picture import picture
from lora_deploy.clips.sampling import Part, last_step_seconds, mend_timeline, part_of
from lora_deploy.errors import ClipError

LEFT_BYTES = 32 << 20
"""Of decoded pictures that are not needed any more, and not freed yet."""

_LEAST_FRAME_BYTES = 1 << 18
"""A search for what can be freed takes as long as to convert a picture; with it, one in 128 is made."""


def decode_parts(
    file: BinaryIO,
    contract: PixelContract,
    effort: Effort,
    stretches: Sequence[Stretch],
    beat: Beat = unwatched,
) -> Iterator[DecodedClip | ClipError]:
    """One clip or error for each stretch, in their order.

    Args:
        file: As `guard.open_clip` gives it.
        contract: Which frames of each part, and how large.
        effort: As in `lora_deploy.clips.decode.decode_file`.
        stretches: The later ones should begin later: a picture is held until no clip wants it more.
        beat: Sees that it goes on.
    """
    done = 0
    try:
        with only_clip_errors():
            for outcome in _by_packets(file, contract, effort, stretches, beat):
                done += 1
                yield outcome
            for outcome in _by_pictures(file, contract, effort, stretches[done:], beat):
                done += 1
                yield outcome
            if done < len(stretches):
                raise ClipError("unreadable", "the video decodes to other pictures each time")
    except ClipError as error:
        for _ in stretches[done:]:
            yield error


def _by_packets(
    file: BinaryIO,
    contract: PixelContract,
    effort: Effort,
    stretches: Sequence[Stretch],
    beat: Beat,
) -> Iterator[DecodedClip | ClipError]:
    """As long as the packets can be relied on."""
    if effort == "whole":
        return
    with opened(file) as (container, stream):
        packets = read_packets(container, stream, keep=effort == "fast", beat=beat)
        shown = sparse.shown_in(packets, stream, nearby=effort == "fast")
        if shown is None or losses(packets, shown.file_seconds):
            return  # something is lost, so look at everything

        def chosen(part: Part) -> Sequence[int]:
            return [shown.ticks[at] for at in shown.chosen(contract, part)]

        def clip_of(part: Part, frames: Frames) -> DecodedClip:
            times_seconds = part.times(shown.timeline, shown.chosen(contract, part))
            return _clip(part, frames, times_seconds, told(part.shortfall()))

        cut = _Cut(stretches, shown.file_seconds, _frame_bytes(stream), chosen, clip_of)
        runs = sparse.runs_to({shown.positions[tick] for tick in cut.wanted}, packets, stream)
        try:
            with replayed(file, stream, packets, beat) as (again, replay):
                for tick, pixels in sparse.decode_runs(
                    runs, shown.positions, cut.wanted.keys(), packets, again, replay, contract,
                    scale_first=effort == "fast",
                ):  # fmt: skip
                    yield from cut.outcomes(tick, pixels)
        except MemoryError:
            raise  # PyAV's is an FFmpegError too
        except (sparse.DoubtError, FFmpegError):
            return
        yield from cut.outcomes()  # those that no picture was needed for


def _by_pictures(
    file: BinaryIO,
    contract: PixelContract,
    effort: Effort,
    stretches: Sequence[Stretch],
    beat: Beat,
) -> Iterator[DecodedClip | ClipError]:
    """Everything is decoded twice: to see what there is and when it is shown, then to have it."""
    if not stretches:
        return
    with opened(file) as (container, stream):
        packets = read_packets(container, stream, keep=False, beat=beat)
        # 1. See what decodes, and when it is shown.
        seen = Pass()
        with replayed(file, stream, packets, beat) as (again, replay):
            for _ in passed_over(again, replay, seen):
                pass
        if not seen.pts_seconds:
            raise ClipError("unreadable", "the file opens, yet no picture in it can be decoded")
        timeline = mend_timeline(seen.pts_seconds)
        file_seconds = timeline[-1] + last_step_seconds(seen.last_frame_seconds, timeline)
        guard.check_duration(file_seconds)

        def chosen(part: Part) -> Sequence[int]:
            return part.chosen(contract, timeline)

        def clip_of(part: Part, frames: Frames) -> DecodedClip:
            file_frames = len(seen.pts_seconds) if effort == "whole" else None
            warning = warning_of(seen, packets, file_seconds, part)
            return _clip(part, frames, part.times(timeline, chosen(part)), warning, file_frames)

        # 2. Have it.
        cut = _Cut(stretches, file_seconds, _frame_bytes(stream), chosen, clip_of)
        with replayed(file, stream, packets, beat) as (again, replay):
            for position, frame in passed_over(again, replay, Pass()):
                pixels = None
                if position in cut.wanted:
                    pixels = picture(frame, contract, pixel_aspect=again.sample_aspect_ratio)
                yield from cut.outcomes(position, pixels)
        yield from cut.outcomes()


def _clip(
    part: Part,
    frames: Frames,
    times_seconds: tuple[float, ...],
    warning: str | None,
    file_frames: int | None = None,
) -> DecodedClip:
    return DecodedClip(
        frames=frames,
        times_seconds=times_seconds,
        duration_seconds=part.duration_seconds,
        warning=warning,
        file_frames=file_frames,
        start_seconds=part.start_seconds,
    )


class _Cut:
    """Clips that are put together from pictures as these come by, in whatever order they come."""

    def __init__(
        self,
        stretches: Sequence[Stretch],
        file_seconds: float,
        frame_bytes: int,
        chosen: Callable[[Part], Sequence[int]],
        clip_of: Callable[[Part, Frames], DecodedClip],
    ) -> None:
        """See which pictures are wanted.

        Args:
            stretches: Of which clips are wanted.
            file_seconds: How long the file is.
            frame_bytes: About as many are in a decoded picture.
            chosen: Numbers of the pictures of a part, whatever a number stands for.
            clip_of: Makes a clip of a part and its pixels [frames, height, width, 3].
        """
        self._clip_of = clip_of
        self._clips = [_Wanted.of(stretch, file_seconds, chosen) for stretch in stretches]
        self._held: dict[int, Frames] = {}
        self._next = 0
        self._frame_bytes, self._left_bytes = frame_bytes, 0
        self.wanted: dict[int, int] = {}
        """Number of each picture to the last clip that shows it."""
        for at, clip in enumerate(self._clips):
            self.wanted.update(dict.fromkeys(clip.pictures, at))

    def outcomes(
        self, number: int | None = None, pixels: Frames | None = None
    ) -> Iterator[DecodedClip | ClipError]:
        """What is finished by a picture, or by one that no clip shows."""
        if number is not None and pixels is not None:
            self._held[number] = pixels
            self._sweep()
        while self._next < len(self._clips):
            clip = self._clips[self._next]
            if clip.error is not None:
                yield clip.error
            elif clip.part is not None and all(one in self._held for one in clip.pictures):
                yield self._clip_of(
                    clip.part, np.concatenate([self._held[one] for one in clip.pictures])
                )
            else:
                break
            for one in set(clip.pictures):
                if self.wanted[one] == self._next:
                    del self._held[one]
            self._next += 1

    def _sweep(self) -> None:
        """Free the pictures whose pixels were taken.

        PyAV's frame and its side data, which tells how it is turned, hold one another, so they stay
        until Python looks for such circles: hundreds of pictures later, if left to itself.
        """
        self._left_bytes += self._frame_bytes
        if self._left_bytes > LEFT_BYTES:
            gc.collect()
            self._left_bytes = 0


def _frame_bytes(stream: VideoStream) -> int:
    return 3 * stream.codec_context.width * stream.codec_context.height + _LEAST_FRAME_BYTES


class _Wanted:
    """A clip that is to be put together, or why there is none."""

    __slots__ = ("error", "part", "pictures")  # there may be a hundred thousand

    def __init__(
        self, part: Part | None, pictures: tuple[int, ...], error: ClipError | None
    ) -> None:
        self.part, self.pictures, self.error = part, pictures, error

    @classmethod
    def of(
        cls, stretch: Stretch, file_seconds: float, chosen: Callable[[Part], Sequence[int]]
    ) -> "_Wanted":
        try:
            part = part_of(stretch, file_seconds)
        except ClipError as error:
            return cls(None, (), error)
        return cls(part, tuple(chosen(part)), None)
