"""Clips that a visitor may try at once: the operator's own, or drawn gestures for the example model."""

import re
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.clips.clip import Frames
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.example import write_example, write_sequence
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError

MOST_EXAMPLES = 12

IN_A_ROW = ("nod_up", "nod_up", "wave_left", "circle_right", "circle_right", "nod_down")

_PICTURE = PixelContract(
    frames=1, sampling="middle_frame", short_side=96, crop_height=96, crop_width=96
)


@dataclass(frozen=True)
class Example:
    """One clip to try."""

    name: str
    path: Path
    picture: Frames
    """[height, width, 3], for its button."""


def read_examples(folder: Path, pool: DecodePool) -> tuple[Example, ...]:
    """The first `MOST_EXAMPLES` videos of a folder; what can't be decoded is passed over.

    Each is called as its file, without the number at the end.
    """
    found = []
    for path in find_videos(folder)[:MOST_EXAMPLES]:
        try:
            clip = pool.decode(path, _PICTURE)
        except ClipError:
            continue
        name = re.sub(r"[_ -]*\d+$", "", path.stem).replace("_", " ") or path.stem
        found.append(Example(name, path, clip.frames[0]))
    return tuple(found)


def draw_examples(folder: Path, pool: DecodePool) -> tuple[Example, ...]:
    """A clip of each gesture that the example model knows, and one with several, for the timeline."""
    write_example(folder, train_clips=0, val_clips=0, test_clips=1)
    write_sequence(folder / "several_in_a_row.mp4", IN_A_ROW, seed=2)
    return read_examples(folder, pool)
