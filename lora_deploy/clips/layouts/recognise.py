"""The door to all layouts: the one that was named, or the first whose annotations are there."""

from pathlib import Path

from lora_deploy.clips.folders import find_videos, known_endings, read_folder
from lora_deploy.clips.layouts.frames import FRAMES
from lora_deploy.clips.layouts.hmdb51 import HMDB51
from lora_deploy.clips.layouts.kinetics import KINETICS
from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.lists import LISTS, PLAIN_LISTS
from lora_deploy.clips.layouts.something import SOMETHING
from lora_deploy.clips.layouts.ucf101 import UCF101
from lora_deploy.clips.layouts.videofolder import VIDEOFOLDER
from lora_deploy.clips.manifests import is_manifest, read_manifest
from lora_deploy.clips.rows import Row
from lora_deploy.config import DataFormat
from lora_deploy.errors import DataFormatError, NoSuchDataError, NoVideosError

MANIFEST = Layout(
    "manifest",
    "a .csv or .jsonl file whose lines name path and label",
    is_manifest,
    lambda source, _: read_manifest(source),
)

FOLDERS = Layout(
    "folders",
    "a folder per class with videos in it, or train, val and test with such folders in them",
    lambda source: source.is_dir() and bool(find_videos(source)),
    lambda source, asked: read_folder(source, needs_train=asked.needs_train),
)

LAYOUTS = (MANIFEST, UCF101, HMDB51, KINETICS, SOMETHING, VIDEOFOLDER, LISTS, FOLDERS, FRAMES)
"""In the order in which they are tried: those with annotations of their own before bare folders."""


def read_rows(source: Path, data_format: DataFormat, asked: Asked) -> list[Row]:
    """The labelled clips of a data set.

    Raises:
        NoSuchDataError: Nothing is there.
        DataFormatError: It is not laid out as was said.
        NoVideosError: It is laid out in no known way, or holds no clip.
        DataError: As the layout's reader.
    """
    if not source.exists():
        raise NoSuchDataError(f"there is nothing at {source}")
    if data_format != "auto":
        layout = next(one for one in LAYOUTS if one.name == data_format)
        if not layout.fits(source):
            raise DataFormatError(
                f"{source} is not laid out as {data_format}; looked for {layout.looked_for}"
            )
    else:
        layout = recognise(source)
    rows = layout.read(source, asked)
    if not rows:
        beside = f", nor annotations of {_with_annotations()}" if source.is_dir() else ""
        raise NoVideosError(
            f"no videos are in {source}{beside}; known endings are {known_endings()}"
        )
    return rows


def recognise(source: Path) -> Layout:
    """The layout of data that are there; where none fits, the plain one, whose reader says what is wrong."""
    plain = FOLDERS
    if source.is_file():
        plain = LISTS if source.suffix.lower() in PLAIN_LISTS else MANIFEST
    return next((layout for layout in LAYOUTS if layout.fits(source)), plain)


def _with_annotations() -> str:
    return ", ".join(layout.name for layout in (UCF101, HMDB51, KINETICS, SOMETHING, VIDEOFOLDER))
