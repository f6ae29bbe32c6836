"""The frames of one video file that a pixel contract asks for: PyAV, one thread, by timestamp.

Frames are chosen from the timestamps of what really decodes, never from a header or by
index, so a truncated, live or variable-rate file still gives evenly spread frames.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips import guard
from lora_deploy.clips.clip import DecodedClip, Effort, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.picture import picture
from lora_deploy.clips.sampling import (
    LONGEST_STEP_SECONDS,
    mend_timeline,
    nearest_frames,
    sample_times,
    usual_step_seconds,
)
from lora_deploy.errors import ClipError

SHORTFALL_WARNED = 0.1
"""Warn where more than this part of the promised duration did not decode."""

_BUFFER_BYTES = 1 << 18

# FFmpeg's own text goes to stderr otherwise, and may name paths.
av.logging.set_level(av.logging.PANIC)


@dataclass
class _Pass:
    """What one forward pass over a file met."""

    pts_seconds: list[float | None] = field(default_factory=list)
    """Raw timestamps of the decoded frames, in the order shown."""
    kept: dict[int, Frames] = field(default_factory=dict)
    """Position of a frame to its pixels [1, crop_height, crop_width, 3]."""
    last_frame_seconds: float = 0.0
    failed_packets: int = 0
    breaks_off: bool = False
    promised_seconds: float | None = None


def decode(path: Path, contract: PixelContract, effort: Effort = "exact") -> DecodedClip:
    """Open a file and decode the frames that ``contract`` asks for, in this process.

    Raises:
        ClipError: As `guard.open_clip` and `decode_file`.
    """
    with guard.open_clip(path) as file:
        return decode_file(file, contract, effort)


def decode_file(file: BinaryIO, contract: PixelContract, effort: Effort = "exact") -> DecodedClip:
    """Decode the frames of an open file that ``contract`` asks for.

    Pictures are turned, and have the proportions, as a player shows them. A file that decodes in part gives what it has, with a
    warning. A clip of fewer frames than asked repeats some of them.

    Args:
        file: As `guard.open_clip` gives it.
        contract: Which frames, and how large.
        effort: How much of the file to work through.

    Raises:
        ClipError: The file gives no clip; see its kind. Nothing else is raised for any content.
    """
    with _only_clip_errors():
        # 1. Guess from the packets, which costs no decoding, what will be chosen.
        guessed_pts = _guess(file, contract)
        # 2. Decode all, keep what was guessed.
        seen = _decode_pass(file, contract, keep_pts=guessed_pts)
        if not seen.pts_seconds:
            raise ClipError("unreadable", "the file opens, yet no picture in it can be decoded")
        # 3. Choose from what really decoded; where the guess was wrong, decode once more.
        timeline = mend_timeline(seen.pts_seconds)
        duration_seconds = timeline[-1] + _last_step(seen, timeline)
        guard.check_duration(duration_seconds)
        chosen = nearest_frames(sample_times(contract, duration_seconds), timeline)
        missing = set(chosen) - seen.kept.keys()
        if missing:
            seen.kept |= _decode_pass(file, contract, keep_positions=missing).kept
    return DecodedClip(
        frames=np.concatenate([seen.kept[position] for position in chosen]),
        times_seconds=tuple(timeline[position] for position in chosen),
        duration_seconds=duration_seconds,
        warning=_warning(seen, duration_seconds),
        file_frames=len(seen.pts_seconds) if effort == "whole" else None,
    )


def _guess(file: BinaryIO, contract: PixelContract) -> set[int]:
    """Timestamps, in the stream's own ticks, of the frames that will most likely be chosen."""
    ticks: list[int] = []
    with _opened(file) as (container, stream):
        # A file that breaks off gives the packets up to there.
        with suppress(FFmpegError):
            for packet in container.demux(stream):
                if packet.pts is not None and not packet.is_discard:
                    ticks.append(packet.pts)
                    guard.check_frame_count(len(ticks))
        time_base = stream.time_base
    if not ticks or not time_base:
        return set()
    ticks.sort()
    timeline = mend_timeline([float(tick * time_base) for tick in ticks])
    duration_seconds = timeline[-1] + usual_step_seconds(timeline)
    guard.check_duration(duration_seconds)
    return {ticks[at] for at in nearest_frames(sample_times(contract, duration_seconds), timeline)}


def _decode_pass(
    file: BinaryIO,
    contract: PixelContract,
    *,
    keep_pts: Set[int] = frozenset(),
    keep_positions: Set[int] = frozenset(),
) -> _Pass:
    """Decode forward, keeping the pixels of the frames named by timestamp or by position.

    With positions it ends after the last of them; otherwise it goes through the whole file.
    """
    seen = _Pass()
    with _opened(file) as (container, stream):
        seen.promised_seconds = _promised_seconds(container, stream)
        for frame in _frames(container, stream, seen):
            position = len(seen.pts_seconds)
            guard.check_frame_count(position + 1)
            time_base = frame.time_base or stream.time_base or Fraction(0)
            seen.pts_seconds.append(None if frame.pts is None else float(frame.pts * time_base))
            seen.last_frame_seconds = float((frame.duration or 0) * time_base)
            if frame.pts in keep_pts or position in keep_positions:
                seen.kept[position] = picture(
                    frame, contract, pixel_aspect=stream.sample_aspect_ratio
                )
            if keep_positions and position >= max(keep_positions):
                break
    return seen


def _frames(container: InputContainer, stream: VideoStream, seen: _Pass) -> Iterator[VideoFrame]:
    """All frames that decode, in the order shown; packets that don't are counted and passed over."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except FFmpegError:
            seen.breaks_off = True
            return
        try:
            frames = packet.decode()
        except FFmpegError:
            seen.failed_packets += 1
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                yield frame


@contextmanager
def _opened(file: BinaryIO) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container in ``file`` and the stream in it that is the video."""
    file.seek(0)
    try:
        container = av.open(
            file,
            "r",
            options=guard.OPEN_OPTIONS,
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
            io_open=guard.refuse_other_files,
        )
    except ArgumentError:
        # FFmpeg's answer for a container that is not on the list.
        raise ClipError(
            "forbidden",
            "the file is of a kind that is not read; allowed are MP4, MOV, Matroska, WebM, AVI, "
            "MPEG, MPEG-TS, FLV, Ogg, WMV and GIF",
        ) from None
    with container:
        stream = _video_stream(container)
        guard.check_picture_size(stream.codec_context.width, stream.codec_context.height)
        guard.check_duration(_promised_seconds(container, stream) or 0.0)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = guard.CODEC_OPTIONS
        yield container, stream


def _video_stream(container: InputContainer) -> VideoStream:
    """The stream that FFmpeg calls the best; never the cover picture of a piece of music."""
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise ClipError("no_video", "the file holds no video")
    best = container.streams.best("video")
    for stream in streams:
        if best is not None and stream.index == best.index:
            return stream
    return max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """How long the video is by its header; None where it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska says when the stream ends, as 00:00:02.133000000, on a clock that may start late.
    late_seconds = max(float((stream.start_time or 0) * (stream.time_base or 0)), 0.0)
    tagged = stream.metadata.get("DURATION", "").split(":")
    with suppress(ValueError):
        hours, minutes, seconds = (float(part) for part in tagged)
        return hours * 3600 + minutes * 60 + seconds - late_seconds
    if container.duration and len(container.streams) == 1:  # with sound it may be the sound's
        return container.duration / av.time_base - late_seconds
    return None


def _last_step(seen: _Pass, timeline: Sequence[float]) -> float:
    """How long the last frame is shown, in seconds."""
    usual_step = usual_step_seconds(timeline)
    # MPEG-TS gives the last frame a tick or two; nothing is shown for so short.
    shortest = usual_step / 2 if len(timeline) > 1 else 0.0
    if shortest < seen.last_frame_seconds <= LONGEST_STEP_SECONDS:
        return seen.last_frame_seconds
    return usual_step


def _warning(seen: _Pass, duration_seconds: float) -> str | None:
    found = []
    if seen.failed_packets:
        found.append(f"{seen.failed_packets} damaged pieces of the video could not be decoded")
    if seen.breaks_off:
        found.append(f"the file can't be read beyond {duration_seconds:.2f} seconds")
    promised = seen.promised_seconds
    if (
        promised is not None
        and promised <= guard.BELIEVABLE_SECONDS
        and duration_seconds < promised * (1 - SHORTFALL_WARNED)
    ):
        found.append(f"only {duration_seconds:.2f} of {promised:.2f} seconds could be decoded")
    return "; ".join(found) + "; the rest was used" if found else None


@contextmanager
def _only_clip_errors() -> Iterator[None]:
    """Turn whatever a broken file causes into a `ClipError` without FFmpeg's text."""
    try:
        yield
    except ClipError:
        raise
    except MemoryError:
        raise ClipError("too_large", "the video needs more memory than there is") from None
    except (FFmpegError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError):
        raise ClipError("unreadable", "the file is no video, or a damaged one") from None
