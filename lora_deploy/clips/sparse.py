"""Only the pictures that are wanted, and what they are predicted from: a plan, and its proof.

The plan is made from packets alone. While it is carried out every decoded picture is held against
it: its time, its duration, its order, its being a key frame where one was announced. At the first
difference the plan is given up (None), and the caller decodes the whole file. So a picture that
comes out is the one that decoding everything would give.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips import guard
from lora_deploy.clips.clip import WHOLE_FILE, Frames, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.packets import PacketList, seconds
from lora_deploy.clips.picture import picture
from lora_deploy.clips.sampling import (
    SWAP_REACH,
    Part,
    last_step_seconds,
    mend_timeline,
    part_of,
    usual_step_seconds,
)
from lora_deploy.clips.units import VideoPacket, referenced

_ENTERED = frozenset(
    {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "vp8", "vp9", "libdav1d", "av1"}
    | {"mjpeg", "prores", "ffv1"}
)
"""Decoders in which a key frame leaves nothing of what came before it."""

_SKIPPING = frozenset({"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"})
"""Decoders that pass over a picture from which no other is predicted, when they are asked to."""

_PROGRESSIVE = 1
"""FFmpeg's ``AV_FIELD_PROGRESSIVE``; less is unknown, more is some kind of interlacing."""


@dataclass(frozen=True)
class Plan:
    """Which packets to decode for a clip."""

    chosen: tuple[int, ...]
    """Ticks of the pictures of the clip, in order."""
    times_seconds: tuple[float, ...]
    """When each of them appears, from the beginning of ``part``."""
    file_seconds: float
    """How long the whole file is."""
    part: Part
    """Of the file, that the clip is made of."""
    runs: tuple[tuple[int, int], ...]
    """First and last position of the packets of each run that is decoded in one go."""
    positions: dict[int, int]
    """Tick of each picture that is shown to the position of its packet."""


class DoubtError(Exception):
    """The decoder did not give what the packets announce."""


@dataclass(frozen=True)
class Shown:
    """The pictures that a file shows, as its packets tell; whatever part of it is wanted."""

    positions: dict[int, int]
    """Tick of each picture to the position of its packet."""
    ticks: list[int]
    """Of the pictures, rising."""
    timeline: list[float]
    """When each is shown, in seconds from the first one, rising."""
    file_seconds: float
    """How long the whole file is."""
    _instead: "_Neighbours | None"

    def chosen(self, contract: PixelContract, part: Part) -> list[int]:
        """Positions in ``ticks`` of the pictures that ``contract`` asks for of a part of the file."""
        chosen = part.chosen(contract, self.timeline)
        return chosen if self._instead is None else self._instead.of(chosen, part)


def shown_in(packets: PacketList, stream: VideoStream, *, nearby: bool) -> Shown | None:
    """What a file shows; None where its packets can't be relied on.

    Args:
        packets: What `read_packets` gave for ``stream``.
        stream: The stream that will be decoded.
        nearby: As in `plan_for`.

    Raises:
        ClipError: ``too_long``.
    """
    positions = _positions(packets)
    if positions is None:
        return None
    ticks = sorted(positions)
    timeline = mend_timeline([seconds(tick, packets.time_base) for tick in ticks])
    last_seconds = seconds(packets.durations[positions[ticks[-1]]], packets.time_base)
    duration_seconds = timeline[-1] + last_step_seconds(last_seconds, timeline)
    guard.check_duration(duration_seconds)
    instead = None
    if nearby and packets.kept is not None:
        pictures = [packets.kept[positions[tick]] for tick in ticks]
        furthest_seconds = 1.5 * usual_step_seconds(timeline)
        instead = _Neighbours(timeline, pictures, stream, furthest_seconds)
    return Shown(positions, ticks, timeline, duration_seconds, instead)


def plan_for(
    packets: PacketList,
    stream: VideoStream,
    contract: PixelContract,
    stretch: Stretch = WHOLE_FILE,
    *,
    nearby: bool,
) -> Plan | None:
    """What to decode for ``contract``; None where the packets can't be relied on.

    Args:
        packets: What `read_packets` gave for ``stream``.
        stream: The stream that will be decoded.
        contract: How many pictures.
        stretch: Of which part of the file.
        nearby: In place of a wanted picture from which no other is predicted take the one before or
            after it where that must be decoded anyway; not in files too large to keep.

    Raises:
        ClipError: ``too_long``; ``not_found`` where the file ends before the stretch begins.
    """
    shown = shown_in(packets, stream, nearby=nearby)
    if shown is None:
        return None
    part = part_of(stretch, shown.file_seconds)
    chosen = shown.chosen(contract, part)
    ticks = tuple(shown.ticks[at] for at in chosen)
    return Plan(
        chosen=ticks,
        times_seconds=part.times(shown.timeline, chosen),
        file_seconds=shown.file_seconds,
        part=part,
        runs=runs_to({shown.positions[tick] for tick in ticks}, packets, stream),
        positions=shown.positions,
    )


def carry_out(
    plan: Plan,
    packets: PacketList,
    stream: VideoStream,
    replay: Iterator[VideoPacket],
    contract: PixelContract,
    *,
    scale_first: bool,
) -> dict[int, Frames] | None:
    """Decode what ``plan`` asks for.

    Args:
        plan: What to decode.
        packets: What it was made from.
        stream: Its decoder, with nothing decoded yet.
        replay: The packets themselves, from the first on.
        contract: How large the pictures become.
        scale_first: As in `lora_deploy.clips.picture.picture`.

    Returns:
        Tick to pixels [1, crop_height, crop_width, 3]; None where anything was not as announced.
    """
    wanted = set(plan.chosen)
    pictures: dict[int, Frames] = {}
    decoded = decode_runs(
        plan.runs, plan.positions, wanted, packets, stream, replay, contract,
        scale_first=scale_first,
    )  # fmt: skip
    try:
        for tick, pixels in decoded:
            if pixels is not None:
                pictures[tick] = pixels
    except MemoryError:
        raise  # PyAV's is an FFmpegError too
    except (DoubtError, FFmpegError):
        return None
    return pictures if wanted <= pictures.keys() else None


def decode_runs(
    runs: Sequence[tuple[int, int]],
    positions: Mapping[int, int],
    wanted: Set[int],
    packets: PacketList,
    stream: VideoStream,
    replay: Iterator[VideoPacket],
    contract: PixelContract,
    *,
    scale_first: bool,
) -> Iterator[tuple[int, Frames | None]]:
    """Each decoded picture's tick, and pixels [1, crop_height, crop_width, 3] of the wanted ones.

    Args:
        runs: First and last packet of each run.
        positions: As in `Plan`.
        wanted: Ticks of the pictures that become pixels.
        packets: What ``runs`` were made from.
        stream: Its decoder, with nothing decoded yet.
        replay: The packets themselves, from the first on.
        contract: How large the pictures become.
        scale_first: As in `lora_deploy.clips.picture.picture`.

    Raises:
        DoubtError: Something was not as announced.
        FFmpegError: Something does not decode.
    """
    numbered = enumerate(replay)
    interlaced = stream.codec_context.field_order > _PROGRESSIVE
    for first, last in runs:
        seen = 0
        entry_tick = packets.ticks[first] if first else None
        before: int | None = None
        for frame in _decoded(stream, numbered, first, last, wanted):
            tick = frame.pts
            if entry_tick is not None and tick is not None and tick < entry_tick:
                continue  # predicted from before the entry, and not wanted from here
            if before is None and entry_tick not in (None, tick):
                raise DoubtError
            if frame.interlaced_frame and not interlaced:
                raise DoubtError
            _check(frame, before, entry_tick, positions, packets)
            seen += 1
            assert tick is not None
            before = tick
            if tick in wanted:
                yield (
                    tick,
                    picture(
                        frame,
                        contract,
                        pixel_aspect=stream.sample_aspect_ratio,
                        scale_first=scale_first,
                    ),
                )
            else:
                yield tick, None
        # Two packets may hold the two fields of one picture: then times are not what they seem.
        if interlaced and seen < _shown_between(first, last, packets):
            raise DoubtError


def _positions(packets: PacketList) -> dict[int, int] | None:
    """Tick of each shown picture to its packet; None unless each has its own and order is kept."""
    if packets.breaks_off or packets.damaged or packets.resets_decoder or not packets.time_base:
        return None
    positions: dict[int, int] = {}
    shown = 0
    for position, (tick, hidden) in enumerate(zip(packets.ticks, packets.hidden, strict=True)):
        if tick is None:
            return None
        if not hidden:
            positions[tick] = position
            shown += 1
    if not positions or len(positions) < shown:
        return None
    # Python keeps the order of insertion: that of the file.
    by_time = sorted(range(shown), key=list(positions).__getitem__)
    if any(abs(place - index) > SWAP_REACH for place, index in enumerate(by_time)):
        return None
    return positions


def runs_to(
    wanted: Iterable[int], packets: PacketList, stream: VideoStream
) -> tuple[tuple[int, int], ...]:
    """For each wanted packet the way to it from the last entry before it, joined where they touch.

    A picture that is shown before the entry that it follows is predicted from before that.
    """
    entries = packets.entries if stream.codec_context.name in _ENTERED else []
    ticks = [tick or 0 for tick in packets.ticks]

    def entry_for(position: int) -> int:
        for at in range(bisect_right(entries, position) - 1, -1, -1):
            if ticks[entries[at]] <= ticks[position]:
                return entries[at]
        return 0

    ways = [(entry_for(position), position) for position in wanted]
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ways):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


@dataclass(frozen=True)
class _Neighbours:
    """For each picture from which no other is predicted a near one that must be decoded anyway."""

    timeline: Sequence[float]
    pictures: Sequence[VideoPacket]
    """In the order of ``timeline``."""
    stream: VideoStream
    furthest_seconds: float

    def of(self, chosen: Sequence[int], part: Part) -> list[int]:
        allowed = part.begun(self.timeline)  # where the part ends there may be more of the file

        def near(at: int) -> int:
            if referenced(self.pictures[at], self.stream):
                return at
            for other in (at - 1, at + 1):
                if (
                    other in allowed
                    and abs(self.timeline[other] - self.timeline[at]) <= self.furthest_seconds
                    and referenced(self.pictures[other], self.stream)
                ):
                    return other
            return at

        return [near(at) for at in chosen]


def _decoded(
    stream: VideoStream,
    numbered: Iterator[tuple[int, VideoPacket]],
    first: int,
    last: int,
    wanted: Set[int],
) -> Iterator[VideoFrame]:
    """The pictures of one run, in the order shown; unwanted ones may be missing."""
    context = stream.codec_context
    skips = (
        context.name in _SKIPPING
        # Every picture is needed to see that there is one in each packet.
        and context.field_order <= _PROGRESSIVE
        # AVI has times of decoding only: every picture is needed to see that their order holds.
        and stream.container.format.name != "avi"
    )
    for position, packet in numbered:
        if position >= first:
            if skips:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from context.decode(packet)
        if position >= last:
            break
    yield from context.decode(None)
    context.flush_buffers()


def _shown_between(first: int, last: int, packets: PacketList) -> int:
    """How many pictures the packets of a run announce, from the time of its first one on."""
    entry_tick = packets.ticks[first] if first else None
    return sum(
        not packets.hidden[at] and (entry_tick is None or (packets.ticks[at] or 0) >= entry_tick)
        for at in range(first, last + 1)
    )


def _check(
    frame: VideoFrame,
    before: int | None,
    entry_tick: int | None,
    positions: Mapping[int, int],
    packets: PacketList,
) -> None:
    position = positions.get(frame.pts) if frame.pts is not None else None
    if (
        position is None
        or frame.pts is None
        or frame.is_corrupt
        or frame.duration != packets.durations[position]
        or (before is not None and frame.pts <= before)
        or (before is None and entry_tick is not None and not frame.key_frame)
    ):
        raise DoubtError
