"""Small sound files to make mutants of: one moving picture in each container and codec."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

WIDTH, HEIGHT, FRAMES, RATE = 64, 48, 24, 25

_KINDS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("plain.mp4", "mp4", "libx264", {}),
    ("fragmented.mp4", "mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ("based.mp4", "mp4", "libx264", {"movflags": "frag_keyframe+default_base_moof"}),
    ("mpeg4.mp4", "mp4", "mpeg4", {}),
    ("plain.mov", "mov", "libx264", {}),
    ("plain.mkv", "matroska", "libx264", {}),
    ("vp8.webm", "webm", "libvpx", {}),
    ("vp9.webm", "webm", "libvpx-vp9", {"live": "1"}),
    ("plain.ts", "mpegts", "libx264", {}),
    ("mpeg4.avi", "avi", "mpeg4", {}),
    ("mjpeg.avi", "avi", "mjpeg", {}),
)
"""File name, container, encoder and options of the container."""

_ENCODER_OPTIONS = {
    "libx264": {"g": "8", "bf": "2", "preset": "veryfast", "threads": "1"},
    "libvpx": {"g": "8", "deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"g": "8", "deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "mpeg4": {"g": "8", "bf": "2", "threads": "1"},
    "mjpeg": {"threads": "1"},
}


def write_seeds(folder: Path) -> list[Path]:
    """Write the files, about 10 KB each, and give their paths."""
    paths = []
    for name, container_format, codec, options in _KINDS:
        paths.append(folder / name)
        # Bit-exact: no date and no random numbers, so a mutant's seed number names it for good.
        with av.open(
            str(paths[-1]), "w", container_format, options={"fflags": "+bitexact", **options}
        ) as out:
            stream = cast(VideoStream, out.add_stream(codec, RATE))
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.options = {"flags": "+bitexact", **_ENCODER_OPTIONS[codec]}
            for frame in _pictures(stream.pix_fmt):
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return paths


def _pictures(pixel_format: str) -> Iterator[VideoFrame]:
    """A bright square that wanders over a slope."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    for at in range(FRAMES):
        picture = np.stack([rows * 4, columns * 3, rows + columns], axis=-1).astype(np.uint8)
        picture[at : at + 12, 2 * at : 2 * at + 12] = 255
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
        frame.pts = at
        frame.time_base = Fraction(1, RATE)
        yield frame
