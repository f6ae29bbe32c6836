"""Traps that tell whether something was touched: files that get opened, a port that gets called."""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_IN_OPEN, _IN_ISDIR = 0x20, 0x40000000


@contextmanager
def opened_files(*folders: Path) -> Iterator[list[str]]:
    """Names of the files in ``folders`` that anything opens meanwhile, as the kernel tells.

    The list is filled when the block ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    for folder in folders:
        assert libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_OPEN) > 0
    names: list[str] = []
    try:
        yield names
    finally:
        with suppress(BlockingIOError):
            while events := os.read(descriptor, 65536):
                while events:
                    _, mask, _, length = struct.unpack_from("iIII", events)
                    if not mask & _IN_ISDIR:
                        names.append(events[16 : 16 + length].rstrip(b"\0").decode())
                    events = events[16 + length :]
        os.close(descriptor)


class Listener:
    """A port of the loopback device that counts who calls."""

    def __init__(self) -> None:
        self._tcp = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._tcp.getsockname()[1]
        self._tcp.setblocking(False)

    def calls(self) -> int:
        """How many have called since the last time; the kernel takes calls whether we look or not."""
        count = 0
        with suppress(BlockingIOError):
            while True:
                self._tcp.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        """Give the port back."""
        self._tcp.close()
