"""A video of an hour beside one of six minutes: memory, what is read of it, and windows a second.

Both are made of the same real clips: six minutes are encoded, and the hour is ten times that. Each is
looked through by a process of its own. Memory is that of the process and of those that decode for it,
added up, at its highest; what is read is counted by the kernel, cache or not.

    python benchmarks/hour.py --clips CLIPS
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
from av.error import FFmpegError
from numpy.typing import NDArray

from lora_deploy.artifact import bundle
from lora_deploy.classify.timeline import TimelineOptions, timeline
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.pool import DecodePool
from lora_deploy.runtime.load import load

TIMES = 10
"""How much longer the long video is."""

_LOOK_SECONDS = 0.1


@dataclass
class Watched:
    """What was seen of a process and of those that it started."""

    most_bytes: int = 0
    """Resident, of all of them together, at one time."""
    read_bytes: dict[int, int] = field(default_factory=dict)
    """By process."""


def pictures(clips: Sequence[Path], width: int, height: int) -> Iterator[NDArray[Any]]:
    """Those of all clips, again and again, each clip for ten seconds at most."""
    for path in itertools.cycle(clips):
        with suppress(FFmpegError), av.open(str(path)) as source:
            for frame in itertools.islice(source.decode(video=0), 100):
                yield frame.to_ndarray(width=width, height=height, format="rgb24")


def make_piece(clips: Sequence[Path], out: Path, seconds: int, rate: int, width: int) -> None:
    """Encode a film of real clips."""
    height = width * 3 // 4 // 2 * 2
    with av.open(str(out), "w") as target:
        stream = target.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "g": str(rate * 5)}
        for image in itertools.islice(pictures(clips, width, height), seconds * rate):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def repeat(piece: Path, out: Path, times: int) -> None:
    """The same packets, one time after the other; nothing is encoded again."""
    with av.open(str(piece)) as source, av.open(str(out), "w") as target:
        origin = source.streams.video[0]
        stream = target.add_stream_from_template(origin)
        packets = [packet for packet in source.demux(origin) if packet.size]
        kept = [
            (bytes(one), one.pts, one.dts, one.duration or 0, one.is_keyframe) for one in packets
        ]
        length = sum(duration for *_, duration, _ in kept)
        time_base = origin.time_base or Fraction(1)
        for turn in range(times):
            for content, pts, dts, duration, is_keyframe in kept:
                packet = av.Packet(content)
                packet.stream, packet.time_base = stream, time_base
                packet.pts = (pts or 0) + turn * length
                packet.dts = (dts or 0) + turn * length
                packet.duration, packet.is_keyframe = duration, is_keyframe
                target.mux(packet)


def watch(pid: int, ended: threading.Event, watched: Watched) -> None:
    """Look at a process and its descendants until it has ended."""
    while not ended.wait(_LOOK_SECONDS):
        seen = list(_family(pid))
        watched.most_bytes = max(watched.most_bytes, sum(map(_resident_bytes, seen)))
        for one in seen:
            watched.read_bytes[one] = max(watched.read_bytes.get(one, 0), _read_bytes(one))


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _family(int(child))


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _read_bytes(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return 0


def look(model: Path, film: Path, window: float, stride: float, workers: int) -> None:
    """In a process of its own: look through a film, and say how long it took."""
    options = TimelineOptions(window, stride, at_most_windows=None)
    recogniser = load(model)
    with DecodePool(workers) as pool:
        begun = time.perf_counter()
        found = timeline(recogniser, film, pool=pool, options=options)
        seconds = time.perf_counter() - begun
    told = {"windows": len(found.windows), "segments": len(found.segments), "seconds": seconds}
    click.echo(json.dumps(told))


def measure(arguments: Sequence[str], film: Path) -> dict[str, float]:
    """Look through a film in a process of its own, and watch that."""
    command = [sys.executable, __file__, *arguments, "--look", str(film)]
    watched, ended = Watched(), threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        thread = threading.Thread(target=watch, args=(process.pid, ended, watched))
        thread.start()
        told, _ = process.communicate()
        ended.set()
        thread.join()
    if process.returncode:
        raise click.ClickException(f"looking through {film.name} ended with {process.returncode}")
    watched.read_bytes.pop(process.pid, 0)  # the model's, and not the film's
    return {
        **json.loads(told),
        "peak_bytes": watched.most_bytes,
        "read_bytes": sum(watched.read_bytes.values()),
    }


@click.command()
@click.option("--clips", type=click.Path(path_type=Path, exists=True), help="A folder of clips.")
@click.option("--model", type=click.Path(path_type=Path, exists=True), default=bundle.EXAMPLE)
@click.option("--minutes", type=int, default=6, show_default=True, help="Of the short video.")
@click.option("--rate", type=int, default=10, show_default=True, help="Pictures a second.")
@click.option("--width", type=int, default=160, show_default=True)
@click.option("--window", type=float, default=2.0, show_default=True)
@click.option("--stride", type=float, default=1.0, show_default=True)
@click.option("--workers", type=int, default=1, show_default=True, help="That decode.")
@click.option("--look", "film", type=click.Path(path_type=Path), hidden=True)
def main(
    *,
    clips: Path | None,
    model: Path,
    minutes: int,
    rate: int,
    width: int,
    window: float,
    stride: float,
    workers: int,
    film: Path | None,
) -> None:
    """Make both videos, look through each, and print what it took."""
    if film is not None:
        look(model, film, window, stride, workers)
        return
    if clips is None:
        raise click.UsageError("name a folder of clips: --clips CLIPS")
    arguments = [
        "--model", str(model), "--window", str(window), "--stride", str(stride),
        "--workers", str(workers),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        short, long = Path(name) / "short.mp4", Path(name) / "long.mp4"
        make_piece(find_videos(clips), short, minutes * 60, rate, width)
        repeat(short, long, TIMES)
        click.echo("| minutes | file | windows | seconds | windows a second | peak memory |")
        click.echo("|---:|---:|---:|---:|---:|---:|")
        all_found = []
        for number, path in ((minutes, short), (minutes * TIMES, long)):
            found = measure(arguments, path)
            all_found.append(found)
            click.echo(
                f"| {number} | {path.stat().st_size / 1e6:.1f} MB | {found['windows']:.0f} "
                f"| {found['seconds']:.1f} | {found['windows'] / found['seconds']:.1f} "
                f"| {found['peak_bytes'] / 1e6:.0f} MB |"
            )
        # The difference, because what is read of the decoder's own files is the same for both.
        one, other = all_found
        read = (other["read_bytes"] - one["read_bytes"]) / (
            long.stat().st_size - short.stat().st_size
        )
        click.echo(f"of what the long video has more, every byte is read {read:.2f} times")


if __name__ == "__main__":
    main()
