"""One training at a time in a RUN folder; what is forked meanwhile ends with it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lora_deploy.clips.fence import die_with_parent
from lora_deploy.errors import RunBusyError
from lora_deploy.lock import acquire, release

LOCK = ".lock"

_trainings: dict[int, int] = {}
"""Descriptors of the locks of this process, and its id."""


def _part_from_training() -> None:
    # A loader's process is a fork of ours. It looks for its parent only when it has begun: forked
    # in the moment of a kill it never ends.
    parents = set(_trainings.values())
    _trainings.clear()
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
    busy = RunBusyError(f"another process is training into {folder}")
    descriptor = acquire(folder / LOCK, busy, make_folder=True)
    _trainings[descriptor] = os.getpid()
    try:
        yield
    finally:
        _trainings.pop(descriptor, None)
        if release(folder / LOCK, descriptor):
            with suppress(OSError):  # it holds something
                for path in made:
                    path.rmdir()
