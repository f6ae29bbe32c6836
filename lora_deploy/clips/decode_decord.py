"""The same frames by decord: PyAV reads the packets and guards, decord decodes the pictures.

decord finds frames by number and believes that every packet becomes one frame with the packet's
timestamp. Where that does not hold it silently gives other frames. So the times come from the
packets, and where decord's numbering can't be trusted it is made to read forward without a seek.
"""

import io
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import decord
import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips import guard
from lora_deploy.clips.clip import DecodedClip, Effort, Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.decode import (
    _last_step,
    _only_clip_errors,
    _opened,
    _Pass,
    _promised_seconds,
    _warning,
)
from lora_deploy.clips.picture import _HDR, _believed, _orientation
from lora_deploy.clips.sampling import TIE_SECONDS, mend_timeline, nearest_frames, sample_times
from lora_deploy.clips.transforms import resize_and_crop, resized_size
from lora_deploy.errors import ClipError

MAX_FILE_BYTES = 256 << 20
"""decord takes the file as a whole and holds up to three copies of it for a moment."""

_SEEKABLE = frozenset({"mov", "matroska"})
"""Containers in which decord's seeks were found to land where they say; in WMV they don't."""

_NOT_REWOUND = frozenset({"mpegts", "mpeg"})
"""decord looks through a file and goes back to its start; in these it lands after the first frame,
and most fail while some begin with grey pictures."""

_NO_REPEATS = 1e-12
"""decord's ``fault_tol``: a part of all frames, and so small that one repeated frame is an error."""

_AS_STORED = (-1, -1)
"""decord's ``width`` and ``height`` where it shall not scale."""

# decord and its FFmpeg write to stderr otherwise, and may name what they read.
decord.logging.set_level(decord.logging.QUIET)


class _Packet(NamedTuple):
    """One packet without its data."""

    pts: int | None
    duration: int
    key: bool
    hidden: bool
    """An edit list cuts it out, but others may need it."""


@dataclass(frozen=True)
class _Packets:
    """What a file says of its frames before decord sees it."""

    pts_seconds: tuple[float | None, ...]
    """Of the packets that become frames, in the order shown."""
    total: int
    """Packets, those too that are decoded and not shown."""
    numbered: bool
    """Whether decord's n-th frame is the n-th that is shown after a seek, too."""
    last_frame_seconds: float
    promised_seconds: float | None
    breaks_off: bool
    shown_size: tuple[int, int]
    """Width and height of the pictures, turned as they are shown."""
    pixel_aspect: Fraction
    """Width of such a picture's pixel by its height."""


def decode_file(file: BinaryIO, contract: PixelContract, effort: Effort = "exact") -> DecodedClip:
    """Decode the frames of an open file that ``contract`` asks for, with decord.

    The same frames as `lora_deploy.clips.decode.decode_file` gives, upright too. A damaged file
    gives no clip: decord stops at the first damage, or repeats the frame before it.

    Args:
        file: As `guard.open_clip` gives it.
        contract: Which frames, and how large.
        effort: ``fast`` scales in the decoder; ``whole`` decodes every picture.

    Raises:
        ClipError: The file gives no clip; see its kind. Nothing else is raised for any content.
    """
    with _only_clip_errors():
        data = _read(file)
        # 1. From the same bytes that decord will see: what PyAV refuses never reaches decord.
        packets = _packets(io.BytesIO(data))
        timeline = mend_timeline(packets.pts_seconds)
        seen = _Pass(
            last_frame_seconds=packets.last_frame_seconds,
            breaks_off=packets.breaks_off,
            promised_seconds=packets.promised_seconds,
        )
        duration_seconds = timeline[-1] + _last_step(seen, timeline)
        guard.check_duration(duration_seconds)
        chosen = nearest_frames(sample_times(contract, duration_seconds), timeline)
        # 2. The pictures, by number.
        wanted = sorted(set(chosen))
        frames = _decord(data, packets, wanted, contract, effort)
    return DecodedClip(
        frames=frames[np.searchsorted(wanted, chosen)],
        times_seconds=tuple(timeline[position] for position in chosen),
        duration_seconds=duration_seconds,
        warning=_warning(seen, duration_seconds),
        file_frames=len(timeline) if effort == "whole" else None,
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


def _packets(file: BinaryIO) -> _Packets:
    """Read all packets as far as the file can be read; decode the first picture alone."""
    packets: list[_Packet] = []  # in the order of the file
    first: VideoFrame | None = None
    breaks_off = False
    with _opened(file) as (container, stream):
        formats = set(container.format.name.split(","))
        if formats & _NOT_REWOUND:
            raise ClipError(
                "unreadable",
                "decord does not read MPEG program and transport streams reliably; use the "
                "decoder av",
            )
        try:
            for packet in container.demux(stream):
                if packet.size:
                    first = first or _first_of(stream, packet)
                    packets.append(
                        _Packet(
                            packet.pts,
                            packet.duration or 0,
                            packet.is_keyframe,
                            packet.is_discard,
                        )
                    )
                    guard.check_frame_count(len(packets))
        except FFmpegError:
            breaks_off = True
        first = first or _first_of(stream, None)
        if first is None:
            raise ClipError("unreadable", "the file opens, yet no picture in it can be decoded")
        shown = _as_shown([packet for packet in packets if not packet.hidden])
        seekable = bool(formats & _SEEKABLE) or sum(packet.key for packet in packets) <= 1
        turned = _check_picture(first)
        aspect = _believed(stream.sample_aspect_ratio)
        tick_seconds = float(stream.time_base or 0)
        return _Packets(
            pts_seconds=tuple(p.pts if p.pts is None else p.pts * tick_seconds for p in shown),
            total=len(packets),
            numbered=seekable and len(shown) == len(packets) and _in_place(packets, shown),
            last_frame_seconds=shown[-1].duration * tick_seconds,
            promised_seconds=_promised_seconds(container, stream),
            breaks_off=breaks_off,
            shown_size=(first.height, first.width) if turned else (first.width, first.height),
            pixel_aspect=1 / aspect if turned else aspect,
        )


def _first_of(stream: VideoStream, packet: "Packet[VideoStream] | None") -> VideoFrame | None:
    """The first picture that a packet brings out of the decoder; None flushes it."""
    with suppress(FFmpegError):
        return next(iter(stream.codec_context.decode(packet)), None)
    return None


def _check_picture(frame: VideoFrame) -> bool:
    """Refuse what decord would not bring out right; tell whether it turns the picture sideways."""
    turns, mirrored = _orientation(frame)
    if mirrored:
        raise ClipError(
            "unreadable",
            "the video is stored mirrored, which decord passes over; use the decoder av",
        )
    if frame.color_trc in _HDR and frame.format.components[0].bits >= 10:
        raise ClipError(
            "unreadable", "the video is HDR, which decord does not tone-map; use the decoder av"
        )
    return turns % 2 == 1


def _as_shown(packets: list[_Packet]) -> list[_Packet]:
    """Packets in the order in which their frames are shown."""
    known = [packet.pts for packet in packets if packet.pts is not None]
    if len(set(known)) < len(known):
        raise ClipError(
            "unreadable",
            "some frames of the video share one time, and decord may wait for ever for the "
            "second; use the decoder av",
        )
    if len(known) < len(packets):
        return packets
    return sorted(packets, key=lambda packet: packet.pts or 0)


def _in_place(packets: Sequence[_Packet], shown: Sequence[_Packet]) -> bool:
    """Whether all before a keyframe is shown before it, too; decord's seeks take that for granted.

    Not so in open groups of pictures, which x265 makes by default.
    """
    return all(
        not packet.key or packet is other for packet, other in zip(packets, shown, strict=True)
    )


def _decord(
    data: bytes,
    packets: _Packets,
    wanted: Sequence[int],
    contract: PixelContract,
    effort: Effort,
) -> Frames:
    """Frames by their rising numbers, uint8 [len(wanted), crop_height, crop_width, 3]."""
    size, aspect = _AS_STORED, packets.pixel_aspect
    if effort == "fast" and min(packets.shown_size) > contract.short_side:
        size, aspect = resized_size(*packets.shown_size, contract, aspect), Fraction(1)
    try:
        reader = decord.VideoReader(
            io.BytesIO(data), width=size[0], height=size[1], num_threads=1, fault_tol=_NO_REPEATS
        )
        if len(reader) != packets.total:
            raise ClipError(
                "unreadable",
                f"decord finds {len(reader)} frames where PyAV finds {packets.total}, so it may "
                "read another stream; use the decoder av",
            )
        if effort == "whole" or not _numbers_hold(reader, packets):
            pictures = _forward(reader, frozenset(wanted), len(packets.pts_seconds))
        else:
            pictures = _by_number(reader, wanted)
        return resize_and_crop(pictures, contract, aspect)
    except (
        decord.DECORDError,
        decord.DECORDLimitReachedError,  # a repeated frame; no kind of DECORDError
        AssertionError,
        RuntimeError,
        StopIteration,
    ):
        raise ClipError(
            "unreadable",
            "decord can't decode this file: it is damaged or of a kind that decord does not "
            "master; try the decoder av",
        ) from None


def _numbers_hold(reader: "decord.VideoReader", packets: _Packets) -> bool:
    """Whether frames can be asked for by number: decord must have understood the times as well."""
    if not packets.numbered or None in packets.pts_seconds:
        return False
    ours = np.array(packets.pts_seconds, np.float64)
    # decord counts in float32 from the stream's start; what has no time is far off.
    theirs = reader.get_frame_timestamp(range(packets.total))[:, 0].astype(np.float64)
    return np.allclose(theirs - theirs[0], ours - ours[0], rtol=1e-6, atol=TIE_SECONDS)


def _by_number(reader: "decord.VideoReader", wanted: Sequence[int]) -> Iterator[Frames]:
    for number in wanted:
        yield _picture(reader[number])


def _forward(reader: "decord.VideoReader", wanted: Set[int], frames: int) -> Iterator[Frames]:
    """Read without a seek and to the end, for where a packet gives no frame it shows only there."""
    for number in range(frames):
        frame = reader.next()
        if number in wanted:
            yield _picture(frame)


def _picture(frame: "decord.nd.NDArray") -> Frames:
    """RGB, uint8 [height, width, 3]."""
    pixels: Frames = frame.asnumpy()
    height, width, depth = pixels.shape
    # Where the padded length of a row divides by the width, decord takes the padding for channels.
    return pixels.reshape(height, width * depth)[:, : width * 3].reshape(height, width, 3)
