"""The folder for what visitors send: where it is, how full it may be, and when its files go."""

import atexit
import functools
import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PUBLIC = "uploads"
"""How the folder is called in every message to and from a visitor."""

IDLE_SECONDS = 60.0
"""A file that is still arriving grows; one that does not for so long was given up."""

_MOST_FILES = 5_000
"""Of visitors, however small: each costs time whenever the folder is looked through."""

_LOOK_SECONDS = 1.0
"""After which the folder is looked through again; what arrives in between is added."""

_SPARE_BYTES = 64_000_000
"""Of the disk that visitors can't fill."""


@functools.cache
def settle() -> Path:
    """Make the folder, one a process, and tell Gradio of it; its components ask when they are made.

    So call this before a page is built. The folder is gone at the end of the process. Gradio is
    told, too, to report nothing to anybody.
    """
    folder = Path(tempfile.mkdtemp(prefix="lora-deploy-demo-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    return folder


def keep(file: Path) -> Path:
    """A copy of one of our own files that the page may show, such as an example clip.

    It stays as long as the process does, if it is made before the page is served.
    """
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    copy = settle() / "kept" / digest / file.name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return copy


class Uploads:
    """What one server keeps in the folder.

    Files that are there at the start belong to the page (examples, first values) and stay.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int,
        keep_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._expected_bytes = 0
        """What uploads that are under way may still write."""
        self._arriving = 0
        self._looked_at = -math.inf
        self._taken_bytes = 0
        self._taken_files = 0
        self._ours = frozenset(_files(folder))

    def used_bytes(self) -> int:
        """What visitors' files take now."""
        return sum(_size(file) for file in self._theirs())

    def _theirs(self) -> list[Path]:
        return [file for file in _files(self.folder) if file not in self._ours]

    @contextmanager
    def room_for(self, size_bytes: int) -> Iterator[bool]:
        """Set room apart while an upload arrives; yields whether there is any."""
        if not self._has_room_for(size_bytes):
            yield False
            return
        self._expected_bytes += size_bytes
        self._arriving += 1
        try:
            yield True
        finally:
            self._arriving -= 1
            self._expected_bytes -= size_bytes
            if size_bytes > self._most_bytes / 100:  # it may have failed, so that is looked at
                self._looked_at = -math.inf
            self._taken_bytes += size_bytes
            self._taken_files += 1

    def _has_room_for(self, size_bytes: int) -> bool:
        if not 0 <= self._clock() - self._looked_at <= _LOOK_SECONDS:
            theirs = self._theirs()
            self._taken_bytes, self._taken_files = sum(map(_size, theirs)), len(theirs)
            self._looked_at = self._clock()
        taken = self._taken_bytes + self._expected_bytes
        free = shutil.disk_usage(self.folder).free - self._expected_bytes
        return (
            self._taken_files < _MOST_FILES
            and taken + size_bytes <= self._most_bytes
            and free >= size_bytes + _SPARE_BYTES
        )

    def real(self, public: str) -> Path | None:
        """The file that a visitor calls ``public``; None for anything else than one in the folder."""
        first, *parts = public.split("/")
        if first != PUBLIC or not parts or any(_is_odd(part) for part in parts):
            return None
        path = self.folder.joinpath(*parts)
        try:
            sound = path.resolve(strict=True) == path and path.is_file()
        except (OSError, ValueError):  # not there, or a name that no disk takes
            return None
        return path if sound else None

    def sweep(self) -> list[Path]:
        """Delete what is too old or was given up, and say which."""
        now = self._clock()
        gone = []
        for file in self._theirs():
            arriving = file.parent == self.folder  # finished ones lie in a folder each
            with suppress(OSError):
                age = now - file.stat().st_mtime
                if age > (
                    min(IDLE_SECONDS, self._keep_seconds) if arriving else self._keep_seconds
                ):
                    file.unlink()
                    gone.append(file)
        self._remove_empty_folders(now)
        return gone

    def clear_torn(self) -> None:
        """Delete what uploads left that did not end well, if none is under way."""
        if self._arriving == 0:
            for file in self.folder.iterdir():
                if file.is_file() and file not in self._ours:
                    file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything that visitors sent."""
        for file in self._theirs():
            file.unlink(missing_ok=True)
        self._remove_empty_folders(float("inf"))

    def _remove_empty_folders(self, now: float) -> None:
        # A fresh one may be about to get its file.
        for folder in sorted(self.folder.rglob("*"), reverse=True):
            with suppress(OSError):
                if folder.is_dir() and now - folder.stat().st_mtime > IDLE_SECONDS:
                    folder.rmdir()


def _files(folder: Path) -> list[Path]:
    # a third of the time that Path.rglob takes
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # swept meanwhile
        return 0


def _is_odd(part: str) -> bool:
    return part in ("", ".", "..") or "\\" in part or not part.isprintable()
