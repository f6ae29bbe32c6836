"""What a fetching process may still do: connect to public addresses on the web's ports, start one program.

An audit hook of Python itself, which can't be taken off again. It sees what was *resolved*, at the
moment of connecting, so a name that means something else the second time gains nothing. It guards
against what Python code can be talked into, not against native code.
"""

import os
import resource
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lora_deploy.links.addresses import is_public

PORTS = (80, 443)

ADDRESS = "an address that is not public"
NAME = "a name of another host"

_CLOSED = frozenset(
    {"socket.bind", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "pty.spawn"}
)
_SENDING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})


class Closed(PermissionError):
    """Something that the gate does not let through."""


class Gate:
    """Keeps what was refused, because libraries wrap or swallow the error."""

    def __init__(
        self, *, domains: Collection[str], program: Path | None, ports: Collection[int] = PORTS
    ) -> None:
        """Nothing is closed yet.

        Args:
            domains: Names that may be looked up, with all below them.
            program: The one that may be started.
            ports: For which names may be looked up.
        """
        self.refused: list[str] = []
        self._domains = domains
        self._program = program
        self._ports = ports

    def close(self) -> None:
        """From now on, for good."""
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _SENDING:
            self._look_at_address(arguments[1])
        elif event == "socket.getaddrinfo":
            self._look_at_name(arguments[0], arguments[1])
        elif event == "subprocess.Popen":
            self._look_at_program(arguments[0])
        elif event in _CLOSED:
            self._refuse(event)

    def _look_at_address(self, address: object) -> None:
        # A path instead of a pair is a socket of this computer.
        if not (isinstance(address, tuple) and is_open(str(address[0]), int(address[1]))):
            self._refuse(ADDRESS)

    def _look_at_name(self, name: object, port: object) -> None:
        host = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        if port is not None and port not in self._ports:
            self._refuse(NAME)
        if not any(host == one or host.endswith(f".{one}") for one in self._domains):
            self._refuse(NAME)

    def _look_at_program(self, program: str | bytes | os.PathLike[str]) -> None:
        if self._program is None or os.fsdecode(program) != str(self._program):
            self._refuse("a program")

    def _refuse(self, what: str) -> None:
        self.refused.append(what)
        raise Closed(f"refused: {what}")


def is_open(address: str, port: int) -> bool:
    """Whether the gate lets a connection through."""
    return port in PORTS and is_public(address)


def limit_resources(*, file_bytes: int, processor_seconds: int) -> None:
    """Limits that the kernel keeps: on the size of a file, time on the processor, core dumps."""
    for which, wanted in (
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CPU, processor_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(which)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (most, most))
