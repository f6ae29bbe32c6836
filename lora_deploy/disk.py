"""Room on a disk: looked at before something large is written, and named when it runs out all the same."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_deploy.errors import DiskFullError, LoraDeployError

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
def failures_named(target: Path) -> Iterator[None]:
    """Turn what writing libraries raise when a disk is full, or fails, into one clear line.

    Where blocks are nested, the outermost target is named: what the user asked for.

    Raises:
        DiskFullError: A write met a full disk, a quota or a limit.
        OSError: A library told of another fault of the disk in words of its own.
    """
    try:
        yield
    except Exception as error:
        number = _errno_of(error)
        if number in _FULL:
            raise DiskFullError(f"the disk is full, and {target} was not written") from error
        if number is not None and not isinstance(error, OSError | LoraDeployError):
            raise OSError(number, os.strerror(number), str(target)) from error
        raise


def _errno_of(error: BaseException | None) -> int | None:
    """The number of the failed system call at the root of an error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])  # how libraries in Rust say it, safetensors among them
        error = error.__cause__ or error.__context__
    return None


def _megabytes(count: int) -> int:
    return -(-count // 1_000_000)


_ON_A_NETWORK = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs",
        "wekafs",
    }
)  # fmt: skip
"""As Linux names file systems; of those in user space every one is taken for one, but for these."""

_LOCAL_IN_USER_SPACE = frozenset({"fuseblk", "fuse.fuse-overlayfs"})


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Name of the file system that a folder lies on, as ``mount`` has it; None where nothing says."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    real = folder.resolve()
    found: tuple[int, str | None] = (-1, None)
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        place = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if real.is_relative_to(place) and len(place.parts) >= found[0]:  # the later one lies above
            found = (len(place.parts), after.split()[0])
    return found[1]


def is_network(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether other computers may see a folder too: no memory can be shared through its files."""
    name = file_system_of(folder, mounts)
    if name is None or name in _LOCAL_IN_USER_SPACE:
        return False
    return name in _ON_A_NETWORK or name.startswith("fuse")
