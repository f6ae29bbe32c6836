"""Ways of getting 16 frames of 224×224 out of a file, interleaved on the same clips.

One thread each. Every way but the bare ``get_batch`` ends in the same resized frames. decord is
run in this process, and it hangs on some files: give it only clips that you know.

    python benchmarks/decoding.py --clips CLIPS --repeats 5
"""

import importlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import click
import numpy as np
from av.video.stream import VideoStream

from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.decode import decode
from lora_deploy.clips.example import write_example
from lora_deploy.clips.guard import open_clip
from lora_deploy.clips.pool import DecodePool
from lora_deploy.clips.transforms import resize_and_crop

CONTRACT = PixelContract(frames=16, short_side=224, crop_height=224, crop_width=224)
REFERENCE = "decord `get_batch`, resized"
GENERATED_CLIPS = 8

Way = Callable[[Path], object]


def everything_with_pyav(path: Path) -> object:
    """Decode every frame, convert and resize those that are wanted: the plain way."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, VideoStream)
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
    wanted = evenly(len(frames))
    pictures = (frames[at].to_ndarray(format="rgb24", threads=1) for at in wanted)
    return resize_and_crop(cast(Any, pictures), CONTRACT)


def evenly(frames: int) -> list[int]:
    """Indices spread evenly over a clip."""
    return [int((at + 0.5) * frames / CONTRACT.frames) for at in range(CONTRACT.frames)]


def ways_with_decord() -> dict[str, Way]:
    """decord as its manual has it, and behind our interface; none where it is not installed."""
    if importlib.util.find_spec("decord") is None:
        return {}
    decord = importlib.import_module("decord")
    ours = importlib.import_module("lora_deploy.clips.decode_decord")

    def get_batch(path: Path) -> Any:
        reader = decord.VideoReader(str(path), num_threads=1)
        return reader.get_batch(evenly(len(reader))).asnumpy()

    def behind_our_interface(path: Path) -> object:
        with open_clip(path) as file:
            return ours.decode_file(file, CONTRACT)

    return {
        "decord `get_batch`, bare": get_batch,
        REFERENCE: lambda path: resize_and_crop(get_batch(path), CONTRACT),
        "ours with decord, exact": behind_our_interface,
    }


def measure(
    ways: Mapping[str, Way], clips: Sequence[Path], repeats: int
) -> dict[str, list[list[float]]]:
    """Seconds by way, clip and repeat; each clip goes through all ways before the next one."""
    for way in ways.values():  # what is loaded at the first use, and files into memory
        for clip in clips:
            way(clip)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in clips] for name in ways}
    names = list(ways)
    for repeat in range(repeats):
        for number, clip in enumerate(clips):
            first = (repeat + number) % len(names)  # nobody is always the first
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                ways[name](clip)
                seconds[name][number].append(time.perf_counter() - start)
    return seconds


def as_markdown(seconds: Mapping[str, list[list[float]]]) -> Iterator[str]:
    """A table: milliseconds a clip, and how many times the reference's."""
    reference = REFERENCE if REFERENCE in seconds else next(iter(seconds))
    yield f"| way | ms a clip, min | median | times {reference}, min | median |"
    yield "|---|---|---|---|---|"
    for name, times in seconds.items():
        cells = []
        for summary in (min, statistics.median):
            mean = statistics.mean(summary(clip) for clip in times)
            base = statistics.mean(summary(clip) for clip in seconds[reference])
            cells.append((mean * 1000, mean / base))
        (fastest, fastest_ratio), (usual, usual_ratio) = cells
        yield f"| {name} | {fastest:.1f} | {usual:.1f} | {fastest_ratio:.2f} | {usual_ratio:.2f} |"


def write_720p(path: Path) -> Path:
    """Ten seconds of H.264 in 1280×720 at 30 frames a second: a texture that drifts, and noise."""
    generator = np.random.default_rng(0)
    texture = generator.integers(60, 200, (90, 160, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(30), options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for at in range(300):
            drifted = texture[at : at + 720, 3 * at : 3 * at + 1280]
            noise = generator.integers(0, 12, (720, 1280, 1), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(drifted + noise, format="rgb24")))
        out.mux(stream.encode(None))
    return path


@click.command()
@click.option(
    "--clips",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Real clips; drawn ones by default.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
def main(folder: Path | None, repeats: int) -> None:
    """Print two tables in Markdown: the clips of a folder, and ten seconds of 720p."""
    with tempfile.TemporaryDirectory() as work, DecodePool(1) as pool:
        if folder is None:
            clips = find_videos(write_example(Path(work) / "data"))[:GENERATED_CLIPS]
        else:
            clips = find_videos(folder)
        ways: dict[str, Way] = {
            "ours, exact": lambda path: decode(path, CONTRACT),
            "ours, fast": lambda path: decode(path, CONTRACT, "fast"),
            "ours, whole": lambda path: decode(path, CONTRACT, "whole"),
            "ours, exact, in the pool": lambda path: pool.decode(path, CONTRACT),
            **ways_with_decord(),
            "PyAV, every frame": everything_with_pyav,
        }
        cores = len(os.sched_getaffinity(0))
        click.echo(f"{repeats} repeats, {cores} cores, PyAV {av.__version__}\n")
        for title, group in (
            (f"{len(clips)} clips", clips),
            ("10 seconds of 720p", [write_720p(Path(work) / "720p.mp4")]),
        ):
            click.echo(f"{title}:\n")
            click.echo("\n".join(as_markdown(measure(ways, group, repeats))) + "\n")


if __name__ == "__main__":
    main()
