"""The same frames by decord: PyAV reads the packets and guards, decord decodes the pictures.

decord finds frames by number and believes that packet and frame, order in the file and order on
the screen, are one. Where that does not hold it silently gives other frames. So the times come from
the packets, and where the numbers can't be trusted decord is made to read forward without a seek.
"""

import io
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import BinaryIO

import decord
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips import guard
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
from lora_deploy.clips.picture import believed_aspect, hdr_transfer, orientation
from lora_deploy.clips.sampling import (
    TIE_SECONDS,
    Part,
    last_step_seconds,
    mend_timeline,
    part_of,
)
from lora_deploy.clips.transforms import resize_and_crop, resized_size
from lora_deploy.clips.units import VideoPacket
from lora_deploy.errors import ClipError

MAX_FILE_BYTES = 128 << 20
"""decord takes the file as a whole, and six copies of it are there for a moment."""

_SEEKABLE = frozenset({"mov", "matroska"})
"""Containers in which decord's seeks were found to land where they say; in WMV they don't."""

_NOT_REWOUND = frozenset({"mpegts", "mpeg"})
"""decord looks through a file and goes back to its start; in these it lands after the first frame,
and most fail while some begin with grey pictures."""

_HIDING = frozenset({"vp8"})
"""Decoders to which a packet may be a picture that is never shown, so that numbers shift."""

_LOOKED_INTO = frozenset({"h264", "hevc"})
"""Decoders whose packets `read_packets` looks into, and does not only believe the header."""

_NO_REPEATS = 1e-12
"""decord's ``fault_tol``: a part of all frames, and so small that one repeated frame is an error."""

_AS_STORED = (-1, -1)
"""decord's ``width`` and ``height`` where it shall not scale."""

# decord and its FFmpeg write to stderr otherwise, and may name what they read.
decord.logging.set_level(decord.logging.QUIET)


@dataclass(frozen=True)
class _Plan:
    """What to ask of decord, and what it must agree to."""

    chosen: Sequence[int]
    """Numbers of the frames of the clip, counted as they are shown."""
    times_seconds: tuple[float, ...]
    part: Part
    """Of the file, that the clip is made of."""
    warning: str | None
    frames: int
    """That the file shows."""
    packets: int
    """In the file, those too that are decoded and not shown."""
    pts_seconds: tuple[float, ...] | None
    """Of all frames, where their numbers hold after a seek too; None where they may not."""
    shown_size: tuple[int, int]
    """Width and height of the pictures as decord gives them: turned, their pixels not stretched."""
    pixel_aspect: Fraction
    """Width of such a picture's pixel by its height."""


def decode_file(
    file: BinaryIO,
    contract: PixelContract,
    effort: Effort = "exact",
    stretch: Stretch = WHOLE_FILE,
) -> DecodedClip:
    """Decode the frames of an open file that ``contract`` asks for, with decord.

    The frames that `lora_deploy.clips.decode.decode_file` gives, or an error that names the other
    decoder. A damaged file is such an error: decord stops at the damage, or repeats a frame. Of
    damage that its FFmpeg paints over nothing is told.

    Args:
        file: As `guard.open_clip` gives it.
        contract: Which frames, and how large.
        effort: ``fast`` scales in the decoder; ``whole`` decodes every picture.
        stretch: The part of the file that becomes the clip, as if it were all of it.

    Raises:
        ClipError: The file gives no clip; see its kind. Nothing else is raised for any content.
    """
    with only_clip_errors():
        data = _read(file)
        # From the same bytes that decord will see: what PyAV refuses never reaches decord.
        plan = _plan_for(io.BytesIO(data), contract, stretch)
        frames = _decoded(data, plan, contract, effort)
    return DecodedClip(
        frames=frames,
        times_seconds=plan.times_seconds,
        duration_seconds=plan.part.duration_seconds,
        warning=plan.warning,
        file_frames=plan.frames if effort == "whole" else None,
        start_seconds=plan.part.start_seconds,
    )


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ClipError(
            "too_large",
            f"the file has more than {MAX_FILE_BYTES >> 20} MB, and decord needs all of it in "
            "memory; use the decoder av",
        )
    return data


def _plan_for(file: BinaryIO, contract: PixelContract, stretch: Stretch) -> _Plan:
    """Read the packets, decode the first picture, and choose."""
    with opened(file) as (container, stream):
        formats = set(container.format.name.split(","))
        if formats & _NOT_REWOUND:
            raise _refusal("MPEG program and transport streams, whose beginning decord may miss")
        packets = read_packets(container, stream)
        with replayed(file, stream, packets) as (again, replay):
            first = _first_picture(again, replay)
        aspect, codec = believed_aspect(stream.sample_aspect_ratio), stream.codec_context.name
    turns, mirrored = orientation(first)
    if mirrored:
        raise _refusal("mirrored video, which decord shows as it is stored")
    if hdr_transfer(first):
        raise _refusal("HDR video, which decord does not tone-map")
    shown = _as_shown(packets)
    pts_seconds = [
        None if packets.ticks[at] is None else seconds(packets.ticks[at] or 0, packets.time_base)
        for at in shown
    ]
    timeline = mend_timeline(pts_seconds)
    last_seconds = packets.durations[shown[-1]] * float(packets.time_base)
    duration_seconds = timeline[-1] + last_step_seconds(last_seconds, timeline)
    guard.check_duration(duration_seconds)
    part = part_of(stretch, duration_seconds)
    chosen = part.chosen(contract, timeline)
    known = tuple(pts for pts in pts_seconds if pts is not None)
    numbered = len(known) == len(packets.ticks) and _seeks_hold(packets, shown, formats, codec)
    sideways = turns % 2 == 1
    return _Plan(
        chosen=chosen,
        times_seconds=part.times(timeline, chosen),
        part=part,
        warning=told([*losses(packets, duration_seconds), *part.shortfall()]),
        frames=len(shown),
        packets=len(packets.ticks),
        pts_seconds=known if numbered else None,
        shown_size=(first.height, first.width) if sideways else (first.width, first.height),
        pixel_aspect=1 / aspect if sideways else aspect,
    )


def _first_picture(stream: VideoStream, replay: Iterator[VideoPacket]) -> VideoFrame:
    """The first that decodes; it tells what the header does not."""
    for packet in chain(replay, [None]):
        with suppress(FFmpegError):
            for frame in stream.codec_context.decode(packet):
                return frame
    raise ClipError("unreadable", "the file opens, yet no picture in it can be decoded")


def _as_shown(packets: PacketList) -> list[int]:
    """Positions of the packets whose frames are shown, in that order."""
    shown = [at for at, hidden in enumerate(packets.hidden) if not hidden]
    if not shown:
        raise ClipError("unreadable", "the file opens, yet no picture in it can be decoded")
    known = [tick for at in shown if (tick := packets.ticks[at]) is not None]
    if len(set(known)) < len(known):
        raise _refusal("video in which frames share one time; decord may wait for ever for one")
    if len(known) < len(shown):
        return shown
    return sorted(shown, key=lambda at: packets.ticks[at] or 0)


def _seeks_hold(packets: PacketList, shown: Sequence[int], formats: Set[str], codec: str) -> bool:
    """Whether decord's n-th frame is the n-th that is shown, after a seek too.

    decord takes the n-th packet, if its header calls it a key frame, for the n-th frame, and
    begins to decode there. Not so in open groups of pictures, which x265 makes by default: what
    follows a key frame in the file may be shown before it. And some headers call more a key frame
    than is one, or everything.
    """
    if packets.kept is None or codec in _HIDING:
        return False
    keys = [at for at, packet in enumerate(packets.kept) if packet.is_keyframe]
    if len(keys) > 1 and not formats & _SEEKABLE:
        return False
    believed = codec in _LOOKED_INTO or len(keys) < len(shown)
    return believed and keys == packets.entries and all(shown[at] == at for at in keys)


def _decoded(data: bytes, plan: _Plan, contract: PixelContract, effort: Effort) -> Frames:
    """The frames of the clip, uint8 [frames, crop_height, crop_width, 3]."""
    size, aspect = _AS_STORED, plan.pixel_aspect
    if effort == "fast" and min(plan.shown_size) > contract.short_side:
        size, aspect = resized_size(*plan.shown_size, contract, aspect), Fraction(1)
    wanted = sorted(set(plan.chosen))
    try:
        reader = decord.VideoReader(
            io.BytesIO(data), width=size[0], height=size[1], num_threads=1, fault_tol=_NO_REPEATS
        )
        if len(reader) != plan.packets:
            raise _refusal(
                "this video: it finds another number of frames, perhaps those of another stream"
            )
        if effort == "whole" or not _agrees(reader, plan):
            pictures = _forward(reader, frozenset(wanted), plan.frames)
        else:
            pictures = _by_number(reader, wanted)
        frames = resize_and_crop(pictures, contract, aspect)
    except (
        decord.DECORDError,
        decord.DECORDLimitReachedError,  # a repeated frame; no kind of DECORDError
        AssertionError,
        RuntimeError,
        StopIteration,
    ):
        raise ClipError(
            "unreadable",
            "decord can't decode this video: it is damaged, or made in a way that decord does not "
            "master; try the decoder av",
        ) from None
    of_frames = frames.reshape(len(wanted), contract.crops_per_clip, *frames.shape[1:])
    return of_frames[np.searchsorted(wanted, plan.chosen)].reshape(contract.frames_shape)


def _agrees(reader: "decord.VideoReader", plan: _Plan) -> bool:
    """Whether decord has understood the times as well: it seeks by them."""
    if plan.pts_seconds is None:
        return False
    ours = np.array(plan.pts_seconds)
    # float32, from the start of the stream; what has no time is far off.
    theirs = reader.get_frame_timestamp(range(plan.packets))[:, 0].astype(np.float64)
    return np.allclose(theirs - theirs[0], ours - ours[0], rtol=1e-6, atol=TIE_SECONDS)


def _by_number(reader: "decord.VideoReader", wanted: Sequence[int]) -> Iterator[Frames]:
    for number in wanted:  # one by one, what `get_batch` does at once and with more memory
        yield _pixels(reader[number])


def _forward(reader: "decord.VideoReader", wanted: Set[int], frames: int) -> Iterator[Frames]:
    """Read without a seek and to the end, for where a packet gives no frame it shows only there."""
    for number in range(frames):
        frame = reader.next()
        if number in wanted:
            yield _pixels(frame)


def _pixels(frame: "decord.nd.NDArray") -> Frames:
    """RGB, uint8 [height, width, 3]."""
    pixels: Frames = frame.asnumpy()
    height, width, depth = pixels.shape
    # Where the padded length of a row divides by the width, decord takes the padding for channels.
    return pixels.reshape(height, width * depth)[:, : width * 3].reshape(height, width, 3)


def _refusal(what: str) -> ClipError:
    return ClipError("unreadable", f"decord does not read {what}; use the decoder av")
