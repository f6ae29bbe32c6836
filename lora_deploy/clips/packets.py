"""The video of an open file as packets: what it holds and when it is shown, before any decoding."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO

import av

# PyAV imports it when it meets the first subtitles; inside the fence that would be too late.
import av.subtitles.codeccontext
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from lora_deploy.clips import guard
from lora_deploy.clips.sampling import SHORTFALL_WARNED
from lora_deploy.clips.units import VideoPacket, holds_picture, independent
from lora_deploy.errors import ClipError

KEPT_BYTES = 64 << 20
"""Packets of a file up to this size stay in memory; a larger one is read a second time."""

_PACKET_OVERHEAD_BYTES = 1024

_RESETTING = frozenset({"new_extradata", "param_change", "palette"})

_BUFFER_BYTES = 1 << 18

Beat = Callable[[], None]
"""Is called at every packet, to see that a file is gone through, however long that takes."""


def unwatched() -> None:
    """A `Beat` that tells nobody."""


# FFmpeg's own text goes to stderr otherwise, and may name paths.
av.logging.set_level(av.logging.PANIC)


@dataclass
class PacketList:
    """What the packets of a stream tell, in the order of the file; one entry a packet."""

    time_base: Fraction
    """Seconds a tick."""
    promised_seconds: float | None
    """How long the video is by its header; None where it does not say."""
    ticks: list[int | None] = field(default_factory=list)
    """When the picture in a packet is shown."""
    durations: list[int] = field(default_factory=list)
    """How long, in ticks; 0 where nothing says."""
    hidden: list[bool] = field(default_factory=list)
    """Whether it is decoded and not shown, by an edit list or because no picture is in it."""
    entries: list[int] = field(default_factory=list)
    """Positions of the packets at which decoding may begin."""
    breaks_off: bool = False
    """Whether reading ended in an error."""
    damaged: bool = False
    """Whether a packet is marked as incomplete."""
    resets_decoder: bool = False
    """Whether a packet carries new settings of the decoder, so none may be left out."""
    kept: list[VideoPacket] | None = field(default_factory=list)
    """The packets themselves; None where they were too many to keep."""


@contextmanager
def opened(file: BinaryIO) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container in ``file`` and the stream in it that is the video.

    Raises:
        ClipError: The file is of a kind that is not read, holds no video, or exceeds a limit.
    """
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
        guard.check_stream_count(len(container.streams))
        stream = _video_stream(container)
        guard.check_picture_size(stream.codec_context.width, stream.codec_context.height)
        guard.check_duration(_promised_seconds(container, stream) or 0.0)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = guard.CODEC_OPTIONS
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        yield container, stream


def read_packets(
    container: InputContainer, stream: VideoStream, *, keep: bool = True, beat: Beat = unwatched
) -> PacketList:
    """Go through the packets of ``stream`` once, decoding nothing.

    Args:
        container: As `opened` gives it.
        stream: Likewise.
        keep: Hold the packets in memory where they are not too many.
        beat: Sees that it goes on.

    Raises:
        ClipError: ``too_long``.
    """
    found = PacketList(
        time_base=stream.time_base or Fraction(0),
        promised_seconds=_promised_seconds(container, stream),
        kept=[] if keep else None,
    )
    kept_bytes = 0
    for packet in stream_packets(container, stream, found, beat):
        guard.check_frame_count(len(found.ticks) + 1)
        if packet.is_keyframe and independent(packet, stream):
            found.entries.append(len(found.ticks))
        found.ticks.append(packet.pts)
        found.durations.append(packet.duration or 0)
        found.hidden.append(packet.is_discard or not holds_picture(packet, stream))
        found.damaged = found.damaged or packet.is_corrupt
        found.resets_decoder = found.resets_decoder or _resets_decoder(packet)
        if found.kept is not None:
            found.kept.append(packet)
            kept_bytes += packet.size + _PACKET_OVERHEAD_BYTES
            if kept_bytes > KEPT_BYTES:
                found.kept = None
    return found


def stream_packets(
    container: InputContainer, stream: VideoStream, found: PacketList, beat: Beat = unwatched
) -> Iterator[VideoPacket]:
    """The packets of ``stream`` that hold something, up to where the file breaks off."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except MemoryError:
            raise  # PyAV's is an FFmpegError too
        except FFmpegError:
            found.breaks_off = True
            return
        beat()
        # An empty packet (AVI has them for repeated pictures) would end the decoding.
        if packet.size:
            yield packet


@contextmanager
def replayed(
    file: BinaryIO, stream: VideoStream, found: PacketList, beat: Beat = unwatched
) -> Iterator[tuple[VideoStream, Iterator[VideoPacket]]]:
    """The packets that `read_packets` met, once more, and a stream that can decode them."""
    if found.kept is not None:
        yield stream, _watched(found.kept, beat)
    else:
        with opened(file) as (container, again):
            yield again, stream_packets(container, again, found, beat)


def _watched(kept: Sequence[VideoPacket], beat: Beat) -> Iterator[VideoPacket]:
    for packet in kept:
        beat()
        yield packet


def losses(packets: PacketList, duration_seconds: float) -> list[str]:
    """What of a file is missing, as far as its packets tell, in words.

    Args:
        packets: All of the video.
        duration_seconds: How long it is by what was found.
    """
    found = []
    if packets.breaks_off:
        found.append(f"the file can't be read beyond {duration_seconds:.2f} seconds")
    promised = packets.promised_seconds
    if (
        promised is not None
        and promised <= guard.BELIEVABLE_SECONDS
        and duration_seconds < promised * (1 - SHORTFALL_WARNED)
    ):
        found.append(f"only {duration_seconds:.2f} of {promised:.2f} seconds could be decoded")
    return found


def told(found: Sequence[str]) -> str | None:
    """A clip's warning from all that was lost of it."""
    return "; ".join(found) + "; the rest was used" if found else None


@contextmanager
def only_clip_errors() -> Iterator[None]:
    """Turn whatever a broken file causes into a `ClipError` without FFmpeg's text."""
    try:
        yield
    except ClipError:
        raise
    except MemoryError:
        raise ClipError("too_large", "the video needs more memory than there is") from None
    except (FFmpegError, OSError, ValueError, ArithmeticError, LookupError, RuntimeError):
        raise ClipError("unreadable", "the file is no video, or a damaged one") from None


def _resets_decoder(packet: VideoPacket) -> bool:
    return any(data.data_type in _RESETTING for data in packet.iter_sidedata())


def seconds(tick: int, time_base: Fraction) -> float:
    """A tick in seconds, correctly rounded."""
    return tick * time_base.numerator / time_base.denominator


def _video_stream(container: InputContainer) -> VideoStream:
    """The stream that FFmpeg calls the best; never the cover picture of a piece of music."""
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        raise ClipError("no_video", "the file holds no video")
    # PyAV has no codec context where no decoder knows the codec.
    streams = [stream for stream in streams if getattr(stream, "codec_context", None) is not None]
    if not streams:
        raise ClipError("unreadable", "the video is in a format that is not known here")
    best = container.streams.best("video")
    for stream in streams:
        if best is not None and stream.index == best.index:
            return stream
    return max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
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
