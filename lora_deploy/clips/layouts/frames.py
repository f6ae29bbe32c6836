"""Frame folders: a folder per class, in split folders or not, and in it a folder of numbered pictures per clip."""

from pathlib import Path

from lora_deploy.clips.folders import read_folder
from lora_deploy.clips.frame_folder import find_frame_folders, frame_folders
from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.rows import Row


def _fits(source: Path) -> bool:
    return source.is_dir() and any(True for _ in frame_folders(source))


def _read(source: Path, asked: Asked) -> list[Row]:
    return read_folder(source, needs_train=asked.needs_train, find=find_frame_folders)


FRAMES = Layout(
    "frames",
    "folders of numbered .jpg, .jpeg or .png pictures, one a clip, in a folder per class",
    _fits,
    _read,
)
