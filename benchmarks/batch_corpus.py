"""A pile of clips to be classified in one run, made from real ones; hostile files lie among them.

    python benchmarks/batch_corpus.py --media MEDIA --clips 2000 --seed 0 --out CORPUS

MEDIA is a folder with real videos in `clips`, `dataset/fight300` and `dataset/weizmann4`, and other
files in `hostile`, `attack` and `malformed`, which are all mixed in where the pile is large enough,
half of it at most. The rest are real clips, cut, rescaled and encoded anew, some of them truncated;
real clips as they are, and parts of them by start and end; files under two names; names of no file
and of a pipe; two pictures that last five hours. The same seed gives the same pile.
"""

import csv
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import click
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lora_deploy.clips.dataset import find_videos

STRANGE = ("hostile", "attack", "malformed")
"""Folders of MEDIA whose files are mixed in as they are."""

REAL = ("clips", "dataset/fight300", "dataset/weizmann4")
"""Folders of MEDIA that clips are made from, in equal parts."""

LIST = "list.csv"
"""Names the clips in their order, with `path`, `start` and `end`."""

FRAMES_HELD = 90
SOURCES = 12
"""Of each folder of `REAL`."""

Kind = Literal[
    "cut", "truncated", "real", "part", "second name", "nothing", "pipe", "too long", "strange"
]

WEIGHTS: dict[Kind, int] = {
    "cut": 80, "truncated": 7, "real": 4, "part": 4, "second name": 4, "nothing": 1,
}  # fmt: skip

WAYS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("mp4", "libx264", {"preset": "ultrafast"}),
    ("mkv", "libx264", {"preset": "ultrafast", "g": "12"}),
    ("avi", "mpeg4", {}),
    ("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
)
"""Ending, codec and options that a clip may be encoded with."""

ODD_NAMES = (
    "-dash",
    " space ",
    'comma, quote"',
    "two\nlines",
    "é测试",
    os.fsdecode(b"\xff\xfe"),
    "[a]*",
)


@dataclass(frozen=True)
class Clip:
    """One row that is to come."""

    kind: Kind
    source: Path
    """A real video, or a strange file; for a second name the clip that has the first."""
    path: str = ""
    """In the corpus."""
    start: float | None = None
    end: float | None = None


def make_corpus(media: Path, out: Path, clips: int, seed: int) -> Counter[str]:
    """Make so many clips in a new folder, and `LIST`; how many there are of each kind."""
    chance = random.Random(seed)
    planned = named(plan(media, clips, chance), chance)
    out.mkdir(parents=True)
    for clip in planned:
        (out / clip.path).parent.mkdir(exist_ok=True)
    for source in dict.fromkeys(
        clip.source for clip in planned if clip.kind in ("cut", "truncated")
    ):
        pictures = decoded(source)
        for clip in planned:
            if clip.source == source and clip.kind in ("cut", "truncated"):
                # By its name, so that a clip is the same whatever else is in the pile.
                encode(pictures, out / clip.path, random.Random(f"{seed} {clip.path!r}"))
                if clip.kind == "truncated":
                    truncate(out / clip.path, random.Random(f"{seed} {clip.path!r}"))
    for clip in planned:
        if clip.kind == "pipe":
            os.mkfifo(out / clip.path)
        elif clip.kind == "too long":
            write_long(out / clip.path)
        elif clip.kind == "second name":
            os.link(out / clip.source, out / clip.path)
        elif clip.kind in ("real", "part", "strange"):
            shutil.copy(clip.source, out / clip.path)
    with (out / LIST).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end"])
        writer.writerows((clip.path, clip.start, clip.end) for clip in planned)
    return Counter(clip.kind for clip in planned)


def plan(media: Path, clips: int, chance: random.Random) -> list[Clip]:
    """Which clips there are, in the order of their rows.

    Raises:
        SystemExit: A folder that clips are made from is not there.
    """
    if missing := [folder for folder in (*STRANGE, *REAL) if not (media / folder).is_dir()]:
        raise SystemExit(f"{media} has no folder {', '.join(missing)}")
    strange = sorted(
        path
        for folder in STRANGE
        for path in (media / folder).rglob("*")
        if path.is_file() and path.suffix != ".py"
    )
    planned = [Clip("strange", path) for path in sample(strange, clips // 2, chance)]
    planned += [Clip("pipe", Path("pipe.mp4")), Clip("too long", Path("long.mkv"))]
    sources = [sample(find_videos(media / folder), SOURCES, chance) for folder in REAL]
    while len(planned) < clips:
        [kind] = chance.choices([*WEIGHTS], [*WEIGHTS.values()])
        source = chance.choice(chance.choice(sources))
        if kind == "part":
            start = round(chance.uniform(0, 1.5), 2)
            planned.append(
                Clip(kind, source, start=start, end=round(start + chance.uniform(0.3, 2), 2))
            )
        else:
            planned.append(Clip(kind, source))
    chance.shuffle(planned)
    return planned


def named(planned: Sequence[Clip], chance: random.Random) -> list[Clip]:
    """The same clips with their names, one in a hundred of them an odd one."""
    clips: list[Clip] = []
    for number, clip in enumerate(planned):
        ending = clip.source.suffix or ".mp4"
        if clip.kind in ("cut", "truncated"):
            ending = f".{chance.choice(WAYS)[0]}"
        name = chance.choice(ODD_NAMES) if chance.random() < 0.01 else clip.source.stem
        path = f"{number // 500:02}/{name}-{number:06}{ending}"
        if clip.kind == "second name":
            first = [one for one in clips if one.kind == "cut"]
            if not first:
                clip = replace(clip, kind="nothing")
            else:
                other = chance.choice(first)
                clip = replace(clip, source=Path(other.path))
                path = f"{number // 500:02}/second-{number:06}{Path(other.path).suffix}"
        clips.append(replace(clip, path=path))
    return clips


def sample(paths: Sequence[Path], most: int, chance: random.Random) -> list[Path]:
    """Some of them, or all where there are no more."""
    return sorted(chance.sample(paths, min(most, len(paths))))


def decoded(source: Path) -> list[VideoFrame]:
    """The first pictures of a video, no larger than needed."""
    with av.open(str(source)) as container:
        frames = [
            frame for frame, _ in zip(container.decode(video=0), range(FRAMES_HELD), strict=False)
        ]
    short = min(160, frames[0].width, frames[0].height)
    scale = short / min(frames[0].width, frames[0].height)
    width, height = (int(side * scale) // 2 * 2 for side in (frames[0].width, frames[0].height))
    return [frame.reformat(width, height, "rgb24") for frame in frames]


def encode(pictures: Sequence[VideoFrame], path: Path, chance: random.Random) -> None:
    """Write a part of a clip, at a size and a rate of its own."""
    ending, codec, options = next(way for way in WAYS if way[0] == path.suffix[1:])
    first = chance.randrange(max(len(pictures) - 16, 1))
    chosen = pictures[first : first + chance.randint(12, 48)]
    scale = chance.uniform(0.4, 1.0)
    width, height = (
        max(16, int(side * scale) // 2 * 2) for side in (pictures[0].width, pictures[0].height)
    )
    with (
        path.open("wb") as file,
        av.open(
            file,
            "w",
            format={"mkv": "matroska"}.get(ending, ending),
            options={"fflags": "+bitexact"},
        ) as out,
    ):
        rate = chance.choice((10, 15, 25, 30))
        stream = out.add_stream(codec, rate=Fraction(rate))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {**options, "flags": "+bitexact"}
        stream.thread_count = 1
        for at, picture in enumerate(chosen):
            frame = picture.reformat(width, height, "yuv420p")
            frame.pts, frame.time_base = at, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def write_long(path: Path) -> None:
    """Write two small pictures, the second one five hours behind the first."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"flags": "+bitexact"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for seconds in (0, 5 * 60 * 60):
            frame = VideoFrame(32, 32, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = seconds, Fraction(1)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def truncate(path: Path, chance: random.Random) -> None:
    """Cut off some of a file, as a copy that was broken off."""
    os.truncate(path, int(path.stat().st_size * chance.uniform(0.02, 0.98)))


def paths_of(corpus: Path) -> Iterator[str]:
    """The paths in the corpus's list, in order."""
    with (corpus / LIST).open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from (row["path"] for row in csv.DictReader(file))


@click.command()
@click.option(
    "--media", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--clips", type=click.IntRange(min=2), default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(media: Path, out: Path, clips: int, seed: int) -> None:
    """Make the pile, and say what it holds."""
    counts = make_corpus(media, out, clips, seed)
    click.echo(
        f"{out / LIST}: {clips} clips, "
        + ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
    )


if __name__ == "__main__":
    main()
