"""Whether there is room where libraries write without being asked: temporary files, the hub's cache, shared memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.doctor.complaint import Complaint
from lora_deploy.doctor.packages import look_up

MEGABYTE = 1_000_000
LEAST_TEMPORARY_BYTES = 256 * MEGABYTE
LEAST_CACHE_BYTES = 1000 * MEGABYTE
"""VideoMAE-B is 0.35 GB, and is written beside its place first."""
LEAST_SHARED_BYTES = 256 * MEGABYTE
"""Two batches of 8 clips of 16×224×224 as float32 are 154 MB; Docker gives 64 unless asked."""

_TRIAL_BYTES = 1 << 16


@dataclass(frozen=True)
class Room:
    """A folder, and what can be written there."""

    use: str
    folder: Path
    free_bytes: int
    trouble: str | None
    """Why nothing can be written; None where a trial went well."""

    def __str__(self) -> str:
        return f"{self.free_bytes / 1e9:.1f} GB in {self.folder}"


def look(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> tuple[Room, ...]:
    """Try each place with a file that is gone at once; ``root`` is where the system's files lie."""
    return tuple(_rooms(root, environment))


def complaints(rooms: tuple[Room, ...]) -> Iterator[Complaint]:
    """What is missing, and how to take another place."""
    for room in rooms:
        least_bytes, remedy = _NEEDS[room.use]
        serious = room.use != SHARED
        if room.trouble is not None:
            found = f"{room.use} can't be written: {room.folder} {room.trouble}"
            yield Complaint("no-room", found, remedy, serious=serious)
        elif room.free_bytes < least_bytes:
            found = (
                f"{room.use} {room.folder} has {room.free_bytes / MEGABYTE:.0f} MB free; "
                f"{least_bytes / MEGABYTE:.0f} may be needed"
            )
            if not serious:
                found += ", or loading workers die with a bus error"
            yield Complaint("no-room", found, remedy, serious=serious)


TEMPORARY, CACHE, SHARED = "the temporary folder", "the hub's cache", "shared memory"

_NEEDS = {
    TEMPORARY: (LEAST_TEMPORARY_BYTES, "make room, or type: export TMPDIR=A_FOLDER_WITH_ROOM"),
    CACHE: (LEAST_CACHE_BYTES, "make room, or type: export HF_HOME=A_FOLDER_WITH_ROOM"),
    SHARED: (
        LEAST_SHARED_BYTES,
        "start the container with --shm-size=2g, or leave training.workers at 0",
    ),
}


def _rooms(root: Path, environment: Mapping[str, str]) -> Iterator[Room]:
    temporary = next(
        (environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)), None
    )
    yield _room(TEMPORARY, Path(temporary or _usual_temporary()))
    if look_up("torch"):
        yield _room(CACHE, _cache(environment))
        shared = root / "dev/shm"
        if shared.is_dir():
            yield _room(SHARED, shared)


def _usual_temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # none of the usual folders can be written
        return "/tmp"  # noqa: S108 (to be told about)


def _cache(environment: Mapping[str, str]) -> Path:
    for name, below in (
        ("HF_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if value := environment.get(name):
            return Path(value).expanduser() / below
    return Path("~/.cache/huggingface/hub").expanduser()


def _room(use: str, folder: Path) -> Room:
    """A folder that is not there yet would be made: its nearest parent is looked at."""
    try:
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if use == TEMPORARY and not folder.exists():
            return Room(use, folder, 0, "is not there")
        if not place.is_dir():
            return Room(use, folder, 0, f"can't be made, because {place} is no folder")
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(_TRIAL_BYTES))
            file.flush()
            os.fsync(file.fileno())
        return Room(use, folder, shutil.disk_usage(place).free, None)
    except (OSError, StopIteration, RuntimeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Room(use, folder, 0, f"refuses a file ({said or type(error).__name__})")
