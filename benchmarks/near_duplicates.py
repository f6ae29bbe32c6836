"""How many changed copies `near_duplicates` finds, and how many other clips it takes for copies.

python benchmarks/near_duplicates.py --data weizmann4.csv --data fight300.csv
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import click
import numpy as np
from numpy.typing import NDArray

from lora_deploy.clips.cache import build_cache
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import ClipDataset, LabelledClip, read_dataset
from lora_deploy.clips.duplicates import near_duplicates

CONTRACT = PixelContract(frames=16, short_side=64, crop_height=64, crop_width=64)
MOST_ORIGINALS = 12
"""Of each data set."""

Pictures = NDArray[np.uint8]
"""[frames, height, width, 3]"""


def _cut(pictures: Pictures) -> Pictures:
    height, width = pictures.shape[1] // 20, pictures.shape[2] // 20
    return pictures[:, height:-height, width:-width]


CHANGES: dict[str, tuple[Callable[[Pictures], Pictures], float, int]] = {
    "encoded anew, coarsely": (lambda pictures: pictures, 1.0, 40),
    "half as large": (lambda pictures: pictures, 0.5, 30),
    "brighter by a tenth": (
        lambda pictures: (pictures.clip(0, 230) + 25).astype(np.uint8),
        1.0,
        30,
    ),
    "mirrored": (lambda pictures: pictures[:, :, ::-1], 1.0, 30),
    "a twentieth cut off each side": (_cut, 1.0, 30),
    "the first tenth of its time missing": (lambda one: one[len(one) // 10 :], 1.0, 30),
}
"""What is done to the pictures, the scale, and the constant rate factor of H.264."""


def changed(source: Path, place: Path, change: str) -> None:
    """Write a changed copy of a clip."""
    change_pictures, scale, rate_factor = CHANGES[change]
    with av.open(str(source)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    shown = change_pictures(np.stack(pictures))
    height, width = (int(size * scale) // 2 * 2 for size in shown.shape[1:3])
    with av.open(str(place), "w") as out:
        stream = out.add_stream("h264", rate=25, options={"crf": str(rate_factor)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in shown:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            out.mux(stream.encode(frame.reformat(width, height)))
        out.mux(stream.encode())


@click.command()
@click.option(
    "--data", "sources", type=click.Path(path_type=Path, exists=True), multiple=True, required=True
)
def main(sources: tuple[Path, ...]) -> None:
    """Print both counts; splits are the data's own."""
    originals = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in sources:
            dataset = read_dataset(source, val_fraction=0.15, test_fraction=0.15, seed=0)
            cache = build_cache(dataset.clips, CONTRACT, Path(scratch) / "frames")
            found = near_duplicates(dataset, dict.fromkeys(("train", "val", "test"), cache))
            train, val, test = (len(dataset.of(split)) for split in ("train", "val", "test"))
            pairs = train * val + train * test + val * test
            click.echo(f"{source.name}: {len(found)} of {pairs} pairs across its splits")
            step = -(-len(dataset.clips) // MOST_ORIGINALS)
            originals += [clip.path for clip in dataset.clips[::step]]
        for change in CHANGES:
            clips = []
            for number, original in enumerate(originals):
                place = Path(scratch) / f"{change} {number}.mp4"
                changed(original, place, change)
                clips.append(LabelledClip(original, "x", "train", None))
                clips.append(LabelledClip(place, "x", "test", None))
            dataset = ClipDataset(tuple(clips), ("x",))
            cache = build_cache(dataset.clips, CONTRACT, Path(scratch) / "frames")
            found = near_duplicates(dataset, dict.fromkeys(("train", "test"), cache))
            copies = {clips[at].path: clips[at + 1].path for at in range(0, len(clips), 2)}
            right = sum(copies[pair.first.path] == pair.other.path for pair in found)
            click.echo(f"{change}: {right} of {len(originals)} copies found")


if __name__ == "__main__":
    main()
