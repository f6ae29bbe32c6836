"""Sees every connection, look-up and program that this process begins, by Python's own audit events."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = frozenset(
    {
        "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
        "socket.gethostbyname", "socket.gethostbyaddr", "subprocess.Popen", "os.posix_spawn",
        "os.exec", "os.fork", "os.system",
    }
)  # fmt: skip

_seen: list[str] | None = None
_installed = False


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in _EVENTS:
        _seen.append(event)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Yield a list that each such event is added to until the end of the block."""
    global _seen, _installed
    if not _installed:  # a hook can't be taken off again
        sys.addaudithook(_look)
        _installed = True
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None
