"""Which files a folder or a pattern stands for: found while they are asked for, always in the same order."""

# Names stay as they were given, which pathlib would tidy, and there may be millions of them.
# ruff: noqa: PTH112, PTH118, PTH119, PTH122

import fnmatch
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from lora_deploy.clips.folders import VIDEO_ENDINGS

logger = logging.getLogger(__name__)

Kind = Literal["file", "folder", "linked folder", "unreadable folder"]

_MAGIC = re.compile(r"[*?[]")
_ANY_DEPTH = "**"


def videos_in(folder: str) -> Iterator[str]:
    """Whatever bears a video's name under ``folder``, sorted by the parts of its path.

    Hidden files and folders are passed over. What can't be read later is given all the same, and so
    is a folder that can't be read now: each becomes an error row. Links to folders are not followed,
    so no loop is; that is told in one warning. One folder's names at a time are held.
    """
    linked: list[str] = []
    stack = [_entries(folder)]
    while stack:
        for path, kind in stack[-1]:
            if kind == "folder":
                stack.append(_entries(path))
                break
            if kind == "linked folder":
                linked.append(path)
            elif kind == "unreadable folder" or _is_video_name(path):
                yield path
        else:
            stack.pop()
    if linked:
        more = f" and {len(linked) - 1} more" if len(linked) > 1 else ""
        logger.warning(
            "passed over under %s: %s%s, because links to folders are not followed; name one as an "
            "input, and it is searched",
            folder,
            linked[0],
            more,
        )


def is_pattern(name: str) -> bool:
    """Whether a name is one of a pattern, ``*``, ``?`` or ``[…]``, and of no file that is there."""
    return bool(_MAGIC.search(name)) and not os.path.lexists(name)


def matching(pattern: str) -> Iterator[str]:
    """Files and folders that a pattern stands for, sorted within each folder.

    ``**`` stands for any folders, or none; a pattern with it gives files alone, as it looks into
    folders itself. Hidden ones are given only to a part of the pattern that begins with a dot.
    """
    parts: list[str] = []
    for part in pattern.split("/"):
        if part and not (part == _ANY_DEPTH and parts[-1:] == [_ANY_DEPTH]):
            parts.append(part)
    root = "/" if pattern.startswith("/") else ""
    return _matching(root, parts, files_only=_ANY_DEPTH in parts)


def _matching(folder: str, parts: Sequence[str], *, files_only: bool) -> Iterator[str]:
    first, rest = parts[0], parts[1:]
    if first == _ANY_DEPTH:
        for deeper in _folders(folder):
            yield from _matching(deeper, rest or ["*"], files_only=files_only)
        return
    for path, kind in _fitting(folder, first):
        is_folder = kind in ("folder", "linked folder")
        if kind == "unreadable folder":
            yield path
        elif rest and is_folder:
            yield from _matching(path, rest, files_only=files_only)
        elif not rest and not (files_only and is_folder):
            yield path


def _folders(folder: str) -> Iterator[str]:
    """A folder and all in it, at any depth, in the order of `videos_in`."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        yield folder
        inner = [path for path, kind in _entries(folder) if kind == "folder"]
        waiting += reversed(inner)


def _fitting(folder: str, part: str) -> Iterator[tuple[str, Kind]]:
    """What a folder holds that one part of a pattern fits."""
    if _MAGIC.search(part):
        fits = re.compile(fnmatch.translate(part)).match
        for path, kind in _entries(folder, hidden=part.startswith(".")):
            if kind == "unreadable folder" or fits(os.path.basename(path)):
                yield path, kind
    elif os.path.lexists(path := os.path.join(folder, part)):
        yield path, "folder" if os.path.isdir(path) else "file"


def _entries(folder: str, *, hidden: bool = False) -> Iterator[tuple[str, Kind]]:
    """Path and kind of what a folder holds, sorted: folder, linked folder, file; or itself, unreadable."""
    found: list[tuple[str, Kind]] = []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name.startswith(".") == hidden:
                    found.append((entry.name, _kind(entry)))
    except OSError:
        # As a clip it becomes a row that says why; silence would hide what is in it.
        yield folder or ".", "unreadable folder"
        return
    found.sort()
    yield from ((os.path.join(folder, name), kind) for name, kind in found)


def _kind(entry: "os.DirEntry[str]") -> Kind:
    try:
        if not entry.is_dir():
            return "file"
        return "linked folder" if entry.is_symlink() else "folder"
    except OSError:  # a link that leads to itself
        return "file"


def _is_video_name(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEO_ENDINGS
