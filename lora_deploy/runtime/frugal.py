"""Memory that a runtime frees while it opens a graph goes back to the system at once."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

_WHILE_OPENING_BYTES = 128 << 10
_AFTERWARDS_BYTES = 32 << 20
"""Where glibc ends up by itself; larger pieces are taken from the system one by one."""

_LOCK = threading.Lock()


@contextmanager
def frugal_opening() -> Iterator[None]:
    """Keep glibc from holding on to weights that were read, converted and freed.

    It keeps freed pieces of up to 32 MB for later, between others that are in use. Opening
    VideoMAE-B in ONNX Runtime then peaks at 1.1 GB, with this at 0.5 GB (docs/bench.md).
    Without glibc nothing is changed.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not _LOCK.acquire(blocking=False):
        yield  # another thread is opening something, and sees to it
        return
    try:
        libc.mallopt(_M_MMAP_THRESHOLD, _WHILE_OPENING_BYTES)
        yield
    finally:
        libc.malloc_trim(0)
        libc.mallopt(_M_MMAP_THRESHOLD, _AFTERWARDS_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _AFTERWARDS_BYTES)
        _LOCK.release()
