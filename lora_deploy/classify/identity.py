"""By what a clip is known from run to run: path, size and time of its file, or its content."""

import functools
import hashlib
import os
import stat
from pathlib import Path

from lora_deploy.clips.clip import Footage
from lora_deploy.clips.guard import open_regular
from lora_deploy.errors import ClipError

MOST_HASHED_BYTES = 64 << 30
"""Of one file; a larger one is known by path, size and time, whatever was asked for."""

_PIECE_BYTES = 1 << 20


def known_by(footage: Footage, state: str) -> str:
    """One key for a clip: of ``state``, of its file, and of the part of it."""
    stretch = footage.stretch
    part = "" if stretch is None else f"{stretch.start_seconds!r},{stretch.end_seconds!r}"
    told = f"{state}\0{part}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def state_of(path: Path) -> str:
    """Real path, size and time of a file; of a folder of pictures, of what is in it.

    What is not there, or can't be looked at, has a state too: it changes when that does.
    """
    real = _real(path)
    try:
        status = os.stat(real)  # noqa: PTH116 (a text, which may be no path at all)
        if stat.S_ISDIR(status.st_mode):
            return f"{real}\0{_state_of_folder(real)}"
    except ValueError:
        return f"{real}\0no name of a file"
    except OSError as error:
        return f"{real}\0error {error.errno}"
    return f"{real}\0{status.st_size}\0{status.st_mtime_ns}"


def content_of(path: Path) -> str | None:
    """Hash of what a file holds; None where it is no file that could be a clip, or too large.

    Neither a pipe nor a device is waited for.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_HASHED_BYTES:
                return None
            digest = hashlib.sha256()
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
            return f"sha256:{digest.hexdigest()}"
    except (ClipError, OSError):
        return None


def inode_of(path: Path) -> str | None:
    """What changes whenever a file is written to, even if its time is set back afterwards."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    numbers = (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip
    return " ".join(map(str, numbers))


def _real(path: Path) -> str:
    """Links resolved; a folder's once, whatever number of files it holds."""
    # Not `abspath`, which takes `link/..` away as text: what is behind the link is another folder.
    text = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 (as below)
    folder, name = os.path.split(text)
    try:
        if name in ("", ".", "..") or os.path.islink(text):  # noqa: PTH114
            return os.path.realpath(text)
        return os.path.join(_real_folder(folder), name)  # noqa: PTH118
    except (OSError, ValueError):
        return text


@functools.lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _state_of_folder(folder: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with os.scandir(folder) as entries:
        found = sorted((os.fsencode(entry.name), entry.stat()) for entry in entries)
    for name, status in found:
        digest.update(b"%s\0%d\0%d\0" % (name, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()
