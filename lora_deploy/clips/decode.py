"""The frames of one video file that a pixel contract asks for: PyAV, one thread, by timestamp.

Frames are chosen by when they are shown, never by index or from a header, so a truncated, live or
variable-rate file still gives evenly spread frames.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips import guard, sparse
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip, Effort, Frames, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.packets import (
    PacketList,
    losses,
    only_clip_errors,
    opened,
    read_packets,
    replayed,
    seconds,
    told,
)
from lora_deploy.clips.picture import picture
from lora_deploy.clips.sampling import (
    Part,
    last_step_seconds,
    mend_timeline,
    part_of,
    usual_step_seconds,
)
from lora_deploy.clips.units import VideoPacket
from lora_deploy.errors import ClipError


@dataclass
class Pass:
    """What one forward pass over a file met."""

    pts_seconds: list[float | None] = field(default_factory=list)
    """Raw timestamps of the decoded frames, in the order shown."""
    kept: dict[int, Frames] = field(default_factory=dict)
    """Position of a frame to its pixels [1, crop_height, crop_width, 3]."""
    last_frame_seconds: float = 0.0
    failed_packets: int = 0
    damaged_frames: int = 0


def decode(
    path: Path,
    contract: PixelContract,
    effort: Effort = "exact",
    stretch: Stretch = WHOLE_FILE,
) -> DecodedClip:
    """Open a file and decode the frames that ``contract`` asks for, in this process.

    Raises:
        ClipError: As `guard.open_clip` and `decode_file`.
    """
    with guard.open_clip(path) as file:
        return decode_file(file, contract, effort, stretch)


def decode_file(
    file: BinaryIO,
    contract: PixelContract,
    effort: Effort = "exact",
    stretch: Stretch = WHOLE_FILE,
) -> DecodedClip:
    """Decode the frames of an open file that ``contract`` asks for.

    Pictures are turned, and have the proportions, as a player shows them; HDR becomes SDR. A file
    that decodes in part gives what it has, with a warning; of damage in pictures that need no
    decoding only ``whole`` tells. A clip of fewer frames than asked repeats some of them.

    Args:
        file: As `guard.open_clip` gives it.
        contract: Which frames, and how large.
        effort: How much of the file to work through.
        stretch: The part of the file that becomes the clip, as if it were all of it. Its pictures
            are decoded from the key frame before; ``whole`` goes through the whole file still.

    Raises:
        ClipError: The file gives no clip; see its kind. Nothing else is raised for any content.
    """
    with only_clip_errors():
        with opened(file) as (container, stream):
            packets = read_packets(container, stream)
            plan = None
            if effort != "whole":
                plan = sparse.plan_for(packets, stream, contract, stretch, nearby=effort == "fast")
                if plan and losses(packets, plan.file_seconds):
                    plan = None  # something is lost, so look at everything
            if plan is None:
                clip = _decode_whole(file, stream, packets, contract, stretch)
                return clip if effort == "whole" else replace(clip, file_frames=None)
            with replayed(file, stream, packets) as (again, replay):
                pictures = sparse.carry_out(
                    plan, packets, again, replay, contract, scale_first=effort == "fast"
                )
        if pictures is None:
            # With a fresh decoder, so that nothing of the attempt is left in it.
            return replace(decode_file(file, contract, "whole", stretch), file_frames=None)
    return DecodedClip(
        frames=np.concatenate([pictures[tick] for tick in plan.chosen]),
        times_seconds=plan.times_seconds,
        duration_seconds=plan.part.duration_seconds,
        warning=told(plan.part.shortfall()),
        start_seconds=plan.part.start_seconds,
    )


def _decode_whole(
    file: BinaryIO,
    stream: VideoStream,
    packets: PacketList,
    contract: PixelContract,
    stretch: Stretch,
) -> DecodedClip:
    """Decode everything, and choose from what really decodes."""
    # 1. Guess from the packets what will be chosen.
    guessed = _guess(packets, contract, stretch)
    # 2. Decode all, keep what was guessed.
    with replayed(file, stream, packets) as (again, replay):
        seen = _decode_pass(again, replay, contract, keep_ticks=guessed)
    if not seen.pts_seconds:
        raise ClipError("unreadable", "the file opens, yet no picture in it can be decoded")
    # 3. Choose from what decoded; where the guess was wrong, decode once more.
    timeline = mend_timeline(seen.pts_seconds)
    duration_seconds = timeline[-1] + last_step_seconds(seen.last_frame_seconds, timeline)
    guard.check_duration(duration_seconds)
    part = part_of(stretch, duration_seconds)
    chosen = part.chosen(contract, timeline)
    missing = set(chosen) - seen.kept.keys()
    if missing:
        with opened(file) as (container, fresh):
            found = read_packets(container, fresh)
            with replayed(file, fresh, found) as (again, replay):
                seen.kept |= _decode_pass(again, replay, contract, keep_positions=missing).kept
    return DecodedClip(
        frames=np.concatenate([seen.kept[position] for position in chosen]),
        times_seconds=part.times(timeline, chosen),
        duration_seconds=part.duration_seconds,
        warning=warning_of(seen, packets, duration_seconds, part),
        file_frames=len(seen.pts_seconds),
        start_seconds=part.start_seconds,
    )


def _guess(packets: PacketList, contract: PixelContract, stretch: Stretch) -> set[int]:
    """Ticks of the frames that will most likely be chosen."""
    ticks = sorted(
        tick
        for tick, hidden in zip(packets.ticks, packets.hidden, strict=True)
        if tick is not None and not hidden
    )
    if not ticks or not packets.time_base:
        return set()
    timeline = mend_timeline([seconds(tick, packets.time_base) for tick in ticks])
    duration_seconds = timeline[-1] + usual_step_seconds(timeline)
    guard.check_duration(duration_seconds)
    if stretch.start_seconds >= duration_seconds:
        return set()  # whether it is beyond the end is seen when all is decoded
    return {ticks[at] for at in part_of(stretch, duration_seconds).chosen(contract, timeline)}


def _decode_pass(
    stream: VideoStream,
    replay: Iterator[VideoPacket],
    contract: PixelContract,
    *,
    keep_ticks: Set[int] = frozenset(),
    keep_positions: Set[int] = frozenset(),
) -> Pass:
    """Decode forward, keeping the pixels of the frames named by timestamp or by position.

    With positions it ends after the last of them; otherwise it goes through the whole file.
    """
    seen = Pass()
    for position, frame in passed_over(stream, replay, seen):
        if frame.pts in keep_ticks or position in keep_positions:
            seen.kept[position] = picture(frame, contract, pixel_aspect=stream.sample_aspect_ratio)
        if keep_positions and position >= max(keep_positions):
            break
    return seen


def passed_over(
    stream: VideoStream, replay: Iterator[VideoPacket], seen: Pass
) -> Iterator[tuple[int, VideoFrame]]:
    """Every frame that decodes, with its number; what is met is put down in ``seen``.

    Raises:
        ClipError: ``too_long``.
    """
    time_base = stream.time_base
    for position, frame in enumerate(_frames(stream, replay, seen)):
        guard.check_frame_count(position + 1)
        seen.pts_seconds.append(
            seconds(frame.pts, time_base) if frame.pts is not None and time_base else None
        )
        seen.last_frame_seconds = seconds(frame.duration or 0, time_base) if time_base else 0.0
        seen.damaged_frames += frame.is_corrupt
        yield position, frame


def _frames(stream: VideoStream, replay: Iterator[VideoPacket], seen: Pass) -> Iterator[VideoFrame]:
    """All frames that decode, in the order shown; packets that don't are counted and passed over."""
    for packet in chain(replay, [None]):
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise  # PyAV's is an FFmpegError too
        except FFmpegError:
            seen.failed_packets += 1
            continue
        yield from frames


def warning_of(seen: Pass, packets: PacketList, duration_seconds: float, part: Part) -> str | None:
    """All that was lost of a file and of the part of it, in one line."""
    found = []
    if seen.failed_packets:
        found.append(f"{seen.failed_packets} damaged pieces of the video could not be decoded")
    if seen.damaged_frames:
        found.append(f"{seen.damaged_frames} pictures of the video are damaged")
    return told([*found, *losses(packets, duration_seconds), *part.shortfall()])
