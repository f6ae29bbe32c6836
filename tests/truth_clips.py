"""Clips that say which picture is which: the frame number is drawn into each of them.

Which numbers a contract must give is computed here from the times that were written, not from
what any decoder says.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Literal, cast

import av
import numpy as np
from av.video.stream import VideoStream

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.numbered import cells_of
from lora_deploy.clips.sampling import TIE_SECONDS

PICTURES = 44
HEIGHT, WIDTH = 96, 128
"""Of the upright picture, as shown."""

ROUNDING_SECONDS = 0.0008
"""What a container may do to a time (Matroska: half a millisecond) and a float adds."""

CONTRACTS = [
    PixelContract(frames=frames, short_side=48, crop_height=48, crop_width=64)
    for frames in (1, 3, 8, 10)
]
"""Show the whole picture, and ask at no time at which either of two pictures would do."""

Rate = Literal["25", "ntsc", "variable", "gap", "slow_first"]

SMALL_SIDE, SMALL_SLOW_PICTURES = 64, 6


@dataclass(frozen=True)
class Recipe:
    """One cell of the matrix."""

    codec: str
    container: str
    """The ending of the file; ``frag.mp4`` is a fragmented one."""
    rate: Rate = "25"
    gop: int = 10
    b_frames: int = 0
    clockwise: int = 0
    """Degrees that a player must turn the stored picture by."""
    mirrored: bool = False
    """Whether it must be mirrored left to right after that."""
    start_seconds: int = 0
    cut_head: int = 0
    cut_tail: int = 0
    """Pictures that an edit list hides."""
    sample_aspect: Fraction = Fraction(1)
    open_gop: bool = False
    negative_dts: bool = False
    sound: bool = False
    intra_refresh: bool = False
    """Entries are announced where no picture stands alone."""
    interlaced: bool = False
    no_index_of_keys: bool = False
    """An MP4 without the table of key frames: every packet is announced as one."""
    pictures: int = PICTURES
    small: bool = False
    """A square of few bytes in flat, warm colours."""

    @property
    def name(self) -> str:
        parts = [self.codec, self.rate, f"gop{self.gop}"]
        parts += [f"b{self.b_frames}"] * (self.b_frames > 0)
        parts += [f"turn{self.clockwise}"] * (self.clockwise > 0)
        parts += ["mirrored"] * self.mirrored
        parts += [f"start{self.start_seconds}"] * (self.start_seconds > 0)
        parts += [f"cut{self.cut_head}-{self.cut_tail}"] * (self.cut_head + self.cut_tail > 0)
        parts += ["anamorphic"] * (self.sample_aspect != 1)
        parts += ["opengop"] * self.open_gop + ["negdts"] * self.negative_dts
        parts += ["sound"] * self.sound
        parts += ["interlaced"] * self.interlaced
        parts += [f"small{self.pictures}"] * self.small
        parts += ["refresh"] * self.intra_refresh + ["nokeys"] * self.no_index_of_keys
        return "_".join(parts) + "." + self.container

    def times(self) -> list[Fraction]:
        """When each picture appears, in seconds on the file's clock."""
        if self.rate == "ntsc":
            steps = [Fraction(1001, 30000)] * (self.pictures - 1)
        elif self.rate == "variable":
            steps = [Fraction(20 * (1, 3, 2, 1, 2, 5, 2)[at % 7], 1000) for at in range(42)]
            steps += [Fraction(40, 1000)]  # as long as the usual step, as is the last picture
        else:
            steps = [Fraction(1, 25)] * (self.pictures - 1)
            if self.rate == "gap":
                steps[self.pictures // 3] = Fraction(3)
            if self.rate == "slow_first":
                steps[:SMALL_SLOW_PICTURES] = [Fraction(4, 25)] * SMALL_SLOW_PICTURES
        times = [Fraction(self.start_seconds)]
        for step in steps:
            times.append(times[-1] + step)
        return times


@dataclass(frozen=True)
class TruthClip:
    """A written clip and what it shows when."""

    name: str
    path: Path
    recipe: Recipe
    numbers: tuple[int, ...]
    """Of the pictures that a player shows, in order."""
    times: tuple[Fraction, ...]
    """When each of them appears, in seconds."""

    @property
    def seconds(self) -> Fraction:
        """How long it is, the last picture being shown for the usual step."""
        usual_step = median(b - a for a, b in zip(self.times, self.times[1:], strict=False))
        return self.times[-1] - self.times[0] + usual_step

    def expected(
        self, contract: PixelContract, start: Fraction = Fraction(0), end: Fraction | None = None
    ) -> list[int]:
        """The numbers that ``contract`` must give: what is on the screen in the middle of each
        of equal stretches from ``start`` to ``end``, in seconds from the first picture."""
        length = (self.seconds if end is None else end) - start
        shown = []
        for at in range(contract.frames):
            wanted = self.times[0] + start + length * (2 * at + 1) / (2 * contract.frames)
            begun = [
                number
                for number, time in zip(self.numbers, self.times, strict=True)
                if time <= wanted
            ]
            shown.append(begun[-1])
            # Between a tie and TIE_SECONDS after it either picture would do: don't ask there.
            late = [time - wanted for time in self.times if time > wanted]
            assert not late or min(late) > TIE_SECONDS + ROUNDING_SECONDS, (self.name, contract)
        return shown


def recipes() -> list[Recipe]:
    """The matrix; what a container can't hold is left out."""
    h264 = Recipe("libx264", "mp4")
    homes = {
        "libx264": ["mp4", "mov", "mkv", "ts", "frag.mp4"],
        "libx265": ["mp4", "mov", "mkv", "ts", "frag.mp4"],
        "mpeg4": ["mp4", "mov", "mkv", "avi", "ts"],
        "libvpx-vp9": ["webm", "mkv", "mp4", "frag.mp4"],
        "libvpx": ["webm"],
        "libsvtav1": ["webm", "mp4", "mkv"],
        "mjpeg": ["mov", "mkv", "avi"],
        "ffv1": ["mkv", "avi"],
        "mpeg2video": ["ts", "mkv", "mpg"],
    }
    all_recipes = [Recipe(codec, home) for codec, ends in homes.items() for home in ends]
    for home in ("mp4", "mov", "mkv", "ts", "frag.mp4"):
        all_recipes += [
            replace(h264, container=home, rate="ntsc", b_frames=2),
            replace(h264, container=home, rate="variable", b_frames=3, gop=12),
            replace(h264, container=home, rate="gap", b_frames=1),
            replace(h264, container=home, start_seconds=7, b_frames=2),
        ]
    for home in ("mp4", "mov", "mkv"):
        all_recipes += [replace(h264, container=home, clockwise=turn) for turn in (90, 180, 270)]
    for home in ("mp4", "mov"):
        all_recipes += [
            replace(h264, container=home, cut_head=13),
            replace(h264, container=home, cut_head=13, cut_tail=6, b_frames=3),
            replace(h264, container=home, cut_head=3, b_frames=2, clockwise=90),
            replace(h264, container=home, cut_tail=9),
            replace(h264, container=home, sample_aspect=Fraction(2)),
            replace(h264, container=home, sample_aspect=Fraction(1, 2), clockwise=270),
        ]
    return [
        *all_recipes,
        replace(h264, container="mkv", sample_aspect=Fraction(2)),
        replace(h264, container="ts", sample_aspect=Fraction(2)),
        replace(h264, container="mov", mirrored=True),
        replace(h264, container="mov", mirrored=True, clockwise=90),
        replace(h264, negative_dts=True, b_frames=3),
        replace(h264, container="mkv", open_gop=True, b_frames=3),
        replace(h264, container="ts", open_gop=True, b_frames=3),
        replace(h264, open_gop=True, b_frames=3, rate="ntsc"),
        replace(h264, gop=250, b_frames=3),
        replace(h264, gop=1),
        replace(h264, sound=True, b_frames=2),
        replace(h264, container="mkv", sound=True),
        replace(h264, container="ts", sound=True, b_frames=2),
        replace(h264, interlaced=True, b_frames=2),
        replace(h264, container="ts", interlaced=True, b_frames=2),
        replace(h264, intra_refresh=True),
        replace(h264, container="mkv", intra_refresh=True),
        replace(h264, container="ts", intra_refresh=True),
        replace(h264, no_index_of_keys=True, b_frames=2),
        Recipe("mpeg4", "mp4", no_index_of_keys=True),
        Recipe("libx265", "mp4", no_index_of_keys=True, b_frames=2),
        Recipe("libx265", "mp4", rate="ntsc", b_frames=3, open_gop=True),
        Recipe("libx265", "mkv", rate="variable", b_frames=3, open_gop=True),
        Recipe("libx265", "mp4", clockwise=90, b_frames=2),
        Recipe("libx265", "ts", b_frames=3),
        Recipe("mpeg4", "mp4", b_frames=2, rate="ntsc"),
        Recipe("mpeg4", "mkv", b_frames=2),
        Recipe("mpeg4", "avi", b_frames=2),
        Recipe("mpeg2video", "ts", b_frames=2, rate="ntsc"),
        Recipe("mpeg2video", "mpg", b_frames=2),
        Recipe("libvpx-vp9", "webm", rate="variable"),
        Recipe("libvpx-vp9", "webm", rate="gap", start_seconds=3),
        Recipe("libsvtav1", "mp4", rate="ntsc"),
        Recipe("libsvtav1", "mkv", rate="variable"),
        Recipe("mjpeg", "mov", rate="variable", clockwise=180),
    ]


def write_truth_clips(folder: Path) -> list[TruthClip]:
    """Write the whole matrix into ``folder``, one small file a clip."""
    return [write_truth_clip(folder, recipe) for recipe in recipes()]


def write_truth_clip(folder: Path, recipe: Recipe) -> TruthClip:
    path = folder / recipe.name
    times = recipe.times()
    _encode(path, recipe, times)
    last = recipe.pictures - recipe.cut_tail
    if recipe.cut_head or recipe.cut_tail:
        _cut(path, times[recipe.cut_head] - times[0], last - recipe.cut_head)
    if recipe.no_index_of_keys:
        data = path.read_bytes()
        assert data.count(b"stss") == 1
        path.write_bytes(data.replace(b"stss", b"free"))
    numbers = range(recipe.cut_head, last)
    return TruthClip(
        name=recipe.name,
        path=path,
        recipe=recipe,
        numbers=tuple(numbers),
        times=tuple(times[number] for number in numbers),
    )


def draw_number(number: int) -> Frames:
    """uint8 [HEIGHT, WIDTH, 3]: the cells, over a slope that moves so that the codec has work."""
    picture = np.kron(cells_of(number), np.ones((HEIGHT // 4, WIDTH // 4))) * 180 + 20
    slope = (np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) + 5 * number) % 64
    tinted = picture[:, :, None] + slope[:, :, None] * np.array([0.6, 0.5, 0.4])
    return cast(Frames, np.clip(tinted, 0, 255).astype(np.uint8))


def draw_small(number: int) -> Frames:
    """uint8 [SMALL_SIDE, SMALL_SIDE, 3]: the cells alone, with more red than blue in each."""
    grid = np.kron(cells_of(number), np.ones((SMALL_SIDE // 4, SMALL_SIDE // 4)))[:, :, None]
    light, dark = np.array([240, 200, 140]), np.array([90, 30, 0])
    return cast(Frames, np.where(grid == 1, light, dark).astype(np.uint8))


def _encode(path: Path, recipe: Recipe, times: Sequence[Fraction]) -> None:
    # Constant rates count pictures, because some encoders know nothing else; others milliseconds.
    tick = 1 / _rate(recipe) if recipe.rate in ("25", "ntsc") else Fraction(1, 1000)
    muxer = recipe.container.removeprefix("frag.")
    options = {}
    if recipe.container == "frag.mp4":
        options["movflags"] = "frag_keyframe+empty_moov+default_base_moof"
    if recipe.negative_dts:
        options["avoid_negative_ts"] = "disabled"
    muxer = {"mkv": "matroska", "ts": "mpegts", "mpg": "mpeg"}.get(muxer, muxer)
    with ordinary_priority(), av.open(str(path), "w", format=muxer, options=options) as out:
        stream = cast(VideoStream, out.add_stream(recipe.codec, rate=_rate(recipe)))
        turns = recipe.clockwise // 90
        draw = draw_small if recipe.small else draw_number
        height, width, _ = np.rot90(draw(0), turns).shape
        width = int(width / recipe.sample_aspect)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if recipe.codec == "mjpeg" else "yuv420p"
        stream.sample_aspect_ratio = recipe.sample_aspect
        stream.codec_context.time_base = tick
        stream.codec_context.gop_size = recipe.gop
        stream.codec_context.max_b_frames = recipe.b_frames
        stream.codec_context.thread_count = 1
        if recipe.codec != "libsvtav1" and not recipe.small:
            stream.codec_context.bit_rate = 600_000
        stream.codec_context.options = _encoder_options(recipe)
        if turns or recipe.mirrored:
            # PyAV counts counterclockwise.
            stream.set_display_rotation(-recipe.clockwise, hflip=recipe.mirrored)
        if recipe.sound:
            _add_sound(out, times)
        for number, time in enumerate(times):
            upright = draw(number)
            mirrored = upright[:, ::-1] if recipe.mirrored else upright
            stored = np.rot90(mirrored, turns)  # counterclockwise, to be turned back
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            picture = picture.reformat(width=width, height=height, format=stream.pix_fmt)
            assert (time / tick).denominator == 1
            picture.pts, picture.time_base = int(time / tick), tick
            picture.duration = int(1 / _rate(recipe) / tick)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Started by root, SVT-AV1 makes the thread that calls it the first of the whole computer.

    Every thread and process that comes from that thread is so too, and starves all others.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def _rate(recipe: Recipe) -> Fraction:
    return Fraction(30000, 1001) if recipe.rate == "ntsc" else Fraction(25)


def _encoder_options(recipe: Recipe) -> dict[str, str]:
    gop, b_frames = recipe.gop, recipe.b_frames
    if recipe.codec == "libx264":
        more = f"open-gop={int(recipe.open_gop)}" + ":tff=1" * recipe.interlaced
        return {
            "preset": "veryfast",
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:"
            f"b-adapt=0:{more}:intra-refresh={int(recipe.intra_refresh)}",
        }
    if recipe.codec == "libx265":
        return {
            "preset": "ultrafast",
            "x265-params": f"log-level=none:pools=none:frame-threads=1:keyint={gop}:"
            f"min-keyint={gop}:scenecut=0:bframes={b_frames}:b-adapt=0:"
            f"open-gop={int(recipe.open_gop)}:"
            # Decodable pictures that are shown before the key frame that they follow.
            f"radl={0 if recipe.open_gop else b_frames}",
        }
    if recipe.codec.startswith("libvpx"):
        return {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
    if recipe.codec == "libsvtav1":
        return {"preset": "7", "crf": "10", "svtav1-params": f"lp=1:keyint={gop}"}
    return {}


def _add_sound(out: av.container.OutputContainer, times: Sequence[Fraction]) -> None:
    """A tone as long as the pictures."""
    sound = out.add_stream("aac", rate=16000)
    seconds = float(times[-1] - times[0]) + 1 / 25
    tone = np.sin(np.arange(int(seconds * 16000)) / 20).astype(np.float32)[None]
    frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    out.mux(sound.encode(frame))
    out.mux(sound.encode(None))


def _cut(path: Path, head: Fraction, pictures: int) -> None:
    """Let the edit list begin ``head`` seconds later and end after ``pictures`` at 25 a second."""
    data = bytearray(path.read_bytes())
    media_scale = _timescale(data, b"mdhd")
    movie_scale = _timescale(data, b"mvhd")
    at = data.index(b"elst")
    version, entries = data[at + 4], struct.unpack_from(">I", data, at + 8)[0]
    assert entries == 1
    form = ">Qq" if version else ">Ii"
    _, media_time = struct.unpack_from(form, data, at + 12)
    struct.pack_into(
        form,
        data,
        at + 12,
        pictures * movie_scale // 25,
        media_time + int(head * media_scale),
    )
    path.write_bytes(data)


def _timescale(data: bytearray, box: bytes) -> int:
    at = data.index(box)
    scale: int = struct.unpack_from(">I", data, at + (24 if data[at + 4] else 16))[0]
    return scale
