"""One training at a time in a RUN folder: a lock that the kernel takes back when its process is gone."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_deploy.clips.fence import die_with_parent
from lora_deploy.errors import RunBusyError

logger = logging.getLogger(__name__)

LOCK = ".lock"

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: dict[int, int] = {}
"""Descriptors of the locks of this process, and its id."""


def _part_from_training() -> None:
    # A loader's process is a fork of ours. With the descriptor it would inherit the lock. And it
    # looks for its parent only when it has begun: forked in the moment of a kill it never ends.
    parents = set(_held.values())
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
    for parent in parents:
        die_with_parent(parent)


os.register_at_fork(after_in_child=_part_from_training)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against every other training.

    Processes that are forked meanwhile do not hold it, and end with this one. In the end the lock is taken away, and so is a folder that was made here and stayed empty.

    Raises:
        RunBusyError: Another process, or this one, holds it; nothing was touched.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _acquire(folder)
    _held[descriptor] = os.getpid()
    try:
        yield
    finally:
        if descriptor in _held:  # not in a child that was forked meanwhile
            (folder / LOCK).unlink(missing_ok=True)
            del _held[descriptor]
            os.close(descriptor)
            with suppress(OSError):  # it holds something
                for path in made:
                    path.rmdir()


def _acquire(folder: Path) -> int:
    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed on exec
        except FileNotFoundError:
            continue  # its last holder took the folder away between two lines
        if _lock(descriptor, folder) and _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunBusyError(f"another process is training into {folder}") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            os.close(descriptor)
            raise
        logger.warning(
            "the disk of %s knows no locks; see to it that no second training uses it", folder
        )
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the locked file is still the one at its place: its last holder took it away in the end."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
