"""A folder of numbered pictures as a clip: which of them are shown, and their bytes for a worker.

Only names are read here, and bytes moved; what the bytes say is for `lora_deploy.clips.decode_pictures`.
"""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lora_deploy import open_files
from lora_deploy.clips import guard
from lora_deploy.clips.clip import WHOLE_FILE, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.sampling import FALLBACK_STEP_SECONDS, part_of
from lora_deploy.clips.wire import Pictures
from lora_deploy.errors import ClipError

PICTURE_ENDINGS = frozenset({".jpg", ".jpeg", ".png"})

MOST_PICTURE_BYTES = 64 << 20
"""Of one picture's file."""

MOST_PARCEL_BYTES = 512 << 20
"""Of all pictures of a clip together."""

SECONDS_PER_PICTURE = FALLBACK_STEP_SECONDS
"""Pictures bear no times; they are taken to be equally far apart, as far as this."""

_NAME = re.compile(r"(.*?)(\d+)$")
_FLOW = re.compile(r"flow|^[xy]_?$", re.IGNORECASE)
"""What optical flow is called, which lies beside the pictures that it was computed from."""


@dataclass(frozen=True)
class Parcel:
    """The pictures of a clip, one behind the other in a file without a name."""

    file: BinaryIO
    pictures: Pictures


def frame_folders(folder: Path) -> Iterator[Path]:
    """Every folder under ``folder``, or itself, that holds numbered pictures; hidden ones are passed over."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if any(_number_of(name) for name in files):
            yield Path(parent)


def find_frame_folders(folder: Path) -> list[Path]:
    """All of them, sorted."""
    return sorted(frame_folders(folder))


def is_frame_folder(path: Path) -> bool:
    """Whether this folder itself holds numbered pictures."""
    try:
        with os.scandir(path) as entries:
            return any(_number_of(entry.name) for entry in entries)
    except (OSError, ValueError):
        return False


def pictures_of(folder: Path) -> list[Path]:
    """The numbered pictures of a folder, in the order of their numbers.

    Raises:
        ClipError: ``forbidden``: there are none; ``unreadable``: there are several series, or two of
            one number; ``too_long``: there are too many.
    """
    try:
        found = [(*numbered, name) for name in _names(folder) if (numbered := _number_of(name))]
    except OSError as error:
        if open_files.ran_out(error):
            raise
        raise ClipError(
            "unreadable", f"the folder can't be read ({os.strerror(error.errno or 0)})"
        ) from None
    series = sorted({one for one, _, _ in found})
    if len(series) > 1:
        series = [one for one in series if not _FLOW.search(one)] or series
    if not series:
        raise ClipError("forbidden", "this is a folder; only regular files are read")
    if len(series) > 1:
        raise ClipError(
            "unreadable",
            f"the folder holds {len(series)} series of pictures, such as {series[0]}1 and "
            f"{series[1]}1; keep one",
        )
    numbers = {number: name for one, number, name in found if one == series[0]}
    repeated = Counter(number for one, number, _ in found if one == series[0]).most_common(1)[0]
    if repeated[1] > 1:
        raise ClipError("unreadable", f"the folder holds two pictures of the number {repeated[0]}")
    guard.check_frame_count(len(numbers))
    return [folder / numbers[number] for number in sorted(numbers)]


def size_and_time(folder: Path) -> tuple[int, int]:
    """Bytes of all pictures together, and when the last one was changed, in nanoseconds."""
    with os.scandir(folder) as entries:
        statuses = [entry.stat() for entry in entries if _number_of(entry.name)]
    return (
        sum(status.st_size for status in statuses),
        max((status.st_mtime_ns for status in statuses), default=0),
    )


@contextmanager
def packed(folder: Path, contract: PixelContract, stretch: Stretch) -> Iterator[Parcel]:
    """Put together the pictures that a contract asks for.

    Raises:
        ClipError: As `pictures_of` and `guard.open_regular`; ``too_large``: they are too many bytes;
            ``not_found``: a part was asked for, and pictures have no times.
    """
    found = pictures_of(folder)
    if stretch != WHOLE_FILE:
        raise ClipError(
            "not_found", "pictures have no times, so a part of a frame folder can't be told"
        )
    timeline = [at * SECONDS_PER_PICTURE for at in range(len(found))]
    duration_seconds = len(found) * SECONDS_PER_PICTURE
    part = part_of(WHOLE_FILE, duration_seconds)
    chosen = part.chosen(contract, timeline)
    distinct = sorted(set(chosen))
    places = {at: place for place, at in enumerate(distinct)}
    with _nameless() as file:
        pictures = Pictures(
            sizes=_copy([found[at] for at in distinct], file),
            shown=tuple(places[at] for at in chosen),
            times_seconds=part.times(timeline, chosen),
            duration_seconds=duration_seconds,
        )
        yield Parcel(file, pictures)


def _copy(pictures: Sequence[Path], file: BinaryIO) -> tuple[int, ...]:
    sizes: list[int] = []
    for path in pictures:
        with guard.open_regular(path) as picture:
            content = picture.read(MOST_PICTURE_BYTES + 1)
        if len(content) > MOST_PICTURE_BYTES or sum(sizes) + len(content) > MOST_PARCEL_BYTES:
            raise ClipError(
                "too_large",
                f"the pictures have too many bytes; at most {MOST_PICTURE_BYTES} are read of one "
                f"and {MOST_PARCEL_BYTES} of a clip",
            )
        file.write(content)
        sizes.append(len(content))
    file.flush()
    return tuple(sizes)


def _nameless() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pictures"), "w+b")
    return tempfile.TemporaryFile()


def _names(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _number_of(name: str) -> tuple[str, int] | None:
    """Series and number of a picture's name; None for anything else."""
    stem, ending = os.path.splitext(name)  # noqa: PTH122 (millions of names)
    if ending.lower() not in PICTURE_ENDINGS or name.startswith("."):
        return None
    found = _NAME.match(stem)
    # More digits than any clip has pictures are a name, not a number.
    return (found[1], int(found[2])) if found and len(found[2]) <= 12 else None
