"""What runtimes compile is kept in the user's cache, in folders that nobody else can write to."""

import contextlib
import os
import time
from pathlib import Path


def cache_folder(runtime: str = "") -> Path:
    """Where a runtime's part of the cache is, or all of it, by the usual variable."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "lora-deploy" / runtime


def ready_folder(folder: Path, pattern: str, most_bytes: int) -> Path | None:
    """A folder of the cache, made for this user alone and not too full; None where it can't be used.

    Args:
        folder: Which one; that it lies in must not be others' either.
        pattern: Names of the files in the folder above it, and below, of which old ones are removed.
        most_bytes: What these may have altogether.
    """
    root = folder.parent
    try:
        make_own(folder)
        if not all(map(is_own, (root, folder))):
            return None  # others could put a compiled model there
    except OSError:
        return None
    left = most_bytes
    for path in sorted(root.rglob(pattern), key=_age_seconds):
        with contextlib.suppress(OSError):
            left -= path.stat().st_size
            if left < 0:
                path.unlink()
    return folder


def make_own(folder: Path) -> None:
    """Make a folder, and whatever is missing above it, for this user alone.

    ``parents`` of `Path.mkdir` obeys the umask, and one that is open to a group would leave folders
    that nothing is trusted in.
    """
    for one in (*reversed(folder.parents), folder):
        one.mkdir(mode=0o700, exist_ok=True)


def is_own(file: int | Path) -> bool:
    """Whether a file or folder is this user's, and nobody else may write to it."""
    found = os.fstat(file) if isinstance(file, int) else file.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
