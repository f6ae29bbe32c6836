"""A folder per class, in split folders or not: which videos are there and what they show."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from lora_deploy.clips.rows import SPLIT_WORDS, Row, Split, allowed_splits, first_few
from lora_deploy.errors import EmptyClassError, FolderLayoutError

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = frozenset(
    {
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogg",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    }
)
"""Endings, in lower case, by which a folder is searched for videos."""


def find_videos(folder: Path) -> list[Path]:
    """All files under ``folder`` with a video ending, sorted; hidden files and folders are skipped."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=_tell_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_ENDINGS
        ]
    return sorted(path for path in found if path.is_file())


def _tell_unreadable(error: OSError) -> None:
    logger.warning("passed over: the folder %s can't be read (%s)", error.filename, error.strerror)


Find = Callable[[Path], list[Path]]
"""Gives the clips under a folder, sorted."""


def known_endings() -> str:
    """The endings of videos, for an error."""
    return " ".join(sorted(VIDEO_ENDINGS))


def read_folder(source: Path, *, needs_train: bool, find: Find = find_videos) -> list[Row]:
    """The clips of class folders, which may lie in ``train``, ``val`` and ``test``.

    Args:
        source: A folder.
        needs_train: Whether splits without ``train`` are no splits but classes.
        find: Gives the clips under a folder.

    Raises:
        FolderLayoutError: Videos lie outside of any class, or classes beside splits.
        EmptyClassError: A class folder holds no video.
    """
    parts = [folder for folder in visible_folders(source) if find(folder)]
    splits = {folder: SPLIT_WORDS.get(folder.name.lower()) for folder in parts}
    has_splits = any(
        (split == "train" or (split and not needs_train and all(splits.values())))
        and any(find(inner) for inner in visible_folders(folder))
        for folder, split in splits.items()
    )
    if not has_splits:
        return _read_class_folders(source, None, find)
    strangers = [folder.name for folder, split in splits.items() if split is None]
    if strangers:
        raise FolderLayoutError(
            f"{source} holds folders of splits beside {first_few(strangers)}; allowed beside them "
            f"are only {allowed_splits()}"
        )
    return [row for folder in parts for row in _read_class_folders(folder, splits[folder], find)]


def _read_class_folders(source: Path, split: Split | None, find: Find) -> list[Row]:
    loose = [path.name for path in find(source) if path.parent == source]
    if loose:
        raise FolderLayoutError(
            f"{source} holds videos outside of any class folder ({first_few(loose)})"
        )
    rows = []
    folders = visible_folders(source)
    for folder in folders:
        rows += [Row(path, folder.name.strip(), split, None) for path in find(folder)]
    empty = sorted({folder.name.strip() for folder in folders} - {row.label for row in rows})
    if rows and empty:
        raise EmptyClassError(
            f"no videos are in the class folder {first_few(empty)} of {source} "
            f"(known endings are {known_endings()})"
        )
    return rows


def visible_folders(source: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(
        path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
