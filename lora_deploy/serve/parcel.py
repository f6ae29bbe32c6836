"""Where an upload lies while it is asked about: a file without a name, and room for it on the disk.

It is gone with the process, however that ends, so there is nothing to sweep.
"""

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora_deploy import open_files
from lora_deploy.serve.refusals import no_room

SPARE_BYTES = 64_000_000
"""Of the disk that uploads can't fill."""

MOST_AT_ONCE = 8
"""Uploads of the largest size for which there is room at once; of smaller ones, more."""

_WRITTEN_AT_ONCE = 1 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(eq=False)
class Place:
    """Of one upload."""

    bytes: int
    """That are set apart; fewer once it is whole and turns out smaller."""
    written_bytes: int = 0
    """Of those, which the disk counts among its own."""


class Room:
    """Sets room apart on the disk; used in the event loop only."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._places: set[Place] = set()

    @property
    def taken_bytes(self) -> int:
        """That are set apart for all."""
        return sum(place.bytes for place in self._places)

    @contextmanager
    def of(self, size_bytes: int) -> Iterator[Place]:
        """Set room apart for one upload.

        Raises:
            Turned: There is none.
        """
        free = shutil.disk_usage(tempfile.gettempdir()).free
        to_come = sum(place.bytes - place.written_bytes for place in self._places)
        if (
            self.taken_bytes + size_bytes > self._most_bytes
            or free < to_come + size_bytes + SPARE_BYTES
        ):
            raise no_room()
        place = Place(size_bytes)
        self._places.add(place)
        try:
            yield place
        finally:
            self._places.discard(place)


@contextmanager
def lack_of_room_told() -> Iterator[None]:
    """Turn away an upload for which the disk, or this process, takes no more.

    Raises:
        Turned: It does not.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or open_files.ran_out(error):
            raise no_room() from None
        raise


class Parcel:
    """One upload. It is written in order, then read under its `path` by others of this process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed by `close_after`
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.bytes = 0
        """Of the video."""
        self.written_bytes = 0
        """Of those, to the disk."""

    @classmethod
    def of(cls, data: bytes) -> "Parcel":
        """One that is whole already."""
        parcel = cls()
        parcel._write(data)
        return parcel

    @property
    def path(self) -> Path:
        """By which it can be opened as long as it is not closed."""
        return Path(f"/proc/self/fd/{self._file.fileno()}")

    async def add(self, data: bytes) -> None:
        """Add some of the video.

        Raises:
            Turned: The disk is full.
        """
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.bytes += len(data)
        if self._waiting_bytes >= _WRITTEN_AT_ONCE:
            await self.flush()

    async def flush(self) -> None:
        """Write what was added; beside the event loop, because a disk may be slow.

        Raises:
            Turned: The disk is full.
        """
        waiting, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
        with lack_of_room_told():
            await asyncio.to_thread(self._write, waiting)
        self.written_bytes = self.bytes

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def close_after(self, reading: "Future[object] | None") -> None:
        """Close it when nobody reads it any more.

        Its number may be given to another file then, which nobody may mistake for this one.
        """
        if reading is None:
            self._file.close()
        else:
            reading.add_done_callback(lambda _: self._file.close())
