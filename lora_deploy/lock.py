"""One process at a time: a file beside what is worked on, whose lock the kernel takes back when its process is gone."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_deploy.errors import LoraDeployError

logger = logging.getLogger(__name__)

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_PATIENCE_SECONDS = 0.5
"""A process that its holder was just starting has the lock for a moment more, where the holder was killed."""

_held: dict[int, tuple[int, int]] = {}
"""Descriptors of the locks of this process, and of what: its device and number there."""


def _part_from_parent() -> None:
    # A fork inherits the descriptors, and with them the locks: they would outlive their owner.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_part_from_parent)


@contextmanager
def held(path: Path, busy: LoraDeployError) -> Iterator[None]:
    """Hold a lock against all other processes, and this one; in the end its file is taken away.

    Raises:
        LoraDeployError: ``busy``, in half a second, where somebody holds it.
    """
    descriptor = acquire(path, busy)
    try:
        yield
    finally:
        release(path, descriptor)


@contextmanager
def held_folder(folder: Path, busy: LoraDeployError) -> Iterator[None]:
    """Hold a folder itself, where no file may be added.

    Raises:
        LoraDeployError: ``busy``, in half a second, where somebody holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # closed on exec
    try:
        _lock(folder, descriptor, busy)
        _held[descriptor] = _identity(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    try:
        yield
    finally:
        if _held.pop(descriptor, None):  # not in a process that was forked meanwhile
            os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether this process holds that folder: asked for again, a lock refuses its own holder, too."""
    return _identity(folder.stat()) in tuple(_held.values())


def acquire(path: Path, busy: LoraDeployError, *, make_folder: bool = False) -> int:
    """Take a lock, for `release`; its folder is made where ``make_folder`` says so.

    Raises:
        LoraDeployError: ``busy``, where somebody holds it; nothing was touched.
    """
    while True:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed on exec
        except FileNotFoundError:
            if make_folder:
                continue  # its last holder took the folder away between two lines
            raise
        try:
            _lock(path, descriptor, busy)
            if _is_at(path, descriptor):
                _held[descriptor] = _identity(os.fstat(descriptor))
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def release(path: Path, descriptor: int) -> bool:
    """Give a lock back; False in a process that was forked meanwhile and never held it."""
    if descriptor not in _held:
        return False
    path.unlink(missing_ok=True)
    del _held[descriptor]
    os.close(descriptor)
    return True


def _lock(path: Path, descriptor: int, busy: LoraDeployError) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise busy from None
                time.sleep(_PATIENCE_SECONDS / 20)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        logger.warning(
            "the disk of %s knows no locks; see to it that nobody else works there", path.parent
        )


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the locked file is still the one at its place: its last holder took it away in the end."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
