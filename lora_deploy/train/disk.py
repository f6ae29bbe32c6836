"""Room on the disk: looked at before something large is written, and named when it runs out all the same."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from lora_deploy.errors import DiskFullError

SPARE_BYTES = 16 << 20
"""Left free for logs and for others."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_room(folder: Path, needed_bytes: int) -> None:
    """See beforehand whether something fits.

    Raises:
        DiskFullError: It does not.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise DiskFullError(
            f"{_megabytes(needed_bytes + SPARE_BYTES)} MB are needed, and the disk of {folder} has "
            f"{_megabytes(free_bytes)} MB free"
        )


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn what a full disk makes writers raise into one clear error.

    Raises:
        DiskFullError: A write below ``folder`` met a full disk, a quota or a limit.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(folder, os.strerror(error.errno)) from error
    except (RuntimeError, SafetensorError) as error:
        # torch.save forgets the reason and speaks of its own file format; safetensors writes it out.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code and int(code[1]) in _FULL:
            raise _full(folder, os.strerror(int(code[1]))) from error
        if "inline_container" in str(error):
            raise _full(folder, "a file could not be written to its end") from error
        raise


def _full(folder: Path, reason: str) -> DiskFullError:
    return DiskFullError(f"the disk of {folder} is full ({reason.lower()})")


def _megabytes(count: int) -> int:
    return -(-count // 1_000_000)
