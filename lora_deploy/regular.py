"""Ordinary files only: what a strange folder holds may be a pipe or a device, which hang or never end."""

import errno
import os
import stat
from io import FileIO
from pathlib import Path

MOST_TEXT_BYTES = 64 << 20
"""Of a manifest, a certificate or a configuration; the largest that is written is far below."""


def opened(path: Path, *, follow: bool = True) -> FileIO:
    """Open a file to be read, unbuffered, without waiting for whoever writes into a pipe.

    Args:
        path: Which one.
        follow: Whether its last part may be a link.

    Raises:
        OSError: It can't be opened, is no ordinary file, or is a link where none may be.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path) -> bytes:
    """The content of a small file.

    Raises:
        OSError: It can't be opened, is no ordinary file, or is larger than `MOST_TEXT_BYTES`.
    """
    with opened(path) as file:
        content = _whole(file, MOST_TEXT_BYTES + 1)
    if len(content) > MOST_TEXT_BYTES:
        raise OSError(errno.EINVAL, f"it is larger than {MOST_TEXT_BYTES >> 20} MiB", str(path))
    return content


def read_text(path: Path) -> str:
    """The content of a small file in UTF-8.

    Raises:
        OSError: As `read_bytes`.
        ValueError: It is not UTF-8.
    """
    return read_bytes(path).decode("utf-8")


def _whole(file: FileIO, most: int) -> bytes:
    parts = []
    while most > 0 and (part := file.read(min(most, 1 << 20))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
