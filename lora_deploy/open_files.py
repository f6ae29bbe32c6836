"""Files that this process may hold open: the limit raised as far as that is allowed, and an error that is its doing."""

import contextlib
import errno
import resource

SPARE = 100
"""For the program itself, its libraries, and what it opens for a moment."""


def allow(files: int) -> int:
    """Raise the limit, as far as this process may, to hold ``files`` open and some others.

    Returns:
        How many of them there is room for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files + SPARE
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
            soft = max(soft, most)
    return files if soft == resource.RLIM_INFINITY else max(0, min(files, soft - SPARE))


def ran_out(error: BaseException | None) -> bool:
    """Whether something failed because no more files may be open, here or on the whole computer.

    Then the file that was to be opened is not to blame.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False
