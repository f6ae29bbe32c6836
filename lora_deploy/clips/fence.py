"""The fence around a decoding process: what it takes from itself, for good, before it reads a file.

Four layers, each of which a kernel may lack: namespaces of its own (no network), Landlock (no
files), a filter of system calls (no files, sockets, programs, processes) and limits (memory,
time). Only the standard library is imported, because the first step must come before any
package starts a thread.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.clips import seccomp

_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same on every machine
_LANDLOCK_VERSION = 1  # flag: tell the ABI version
_CAPABILITY_VERSION_3 = 0x20080522
_MOST_OPEN_FILES = 32

_IS_LINUX = platform.system() == "Linux"


@dataclass(frozen=True)
class Fence:
    """Which layers stand."""

    namespaces: bool
    """A user and a network namespace of its own, with nothing in it."""
    landlock_abi: int
    """Version of Landlock that is at work; 0 for none."""
    system_call_filter: bool
    limits: bool
    """On memory, processor time, written bytes and open files."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What the kernel did not grant, in words; empty where every layer stands."""
        lines = []
        if not self.namespaces:
            lines.append("user namespaces (often switched off in containers or by sysctl)")
        if not self.landlock_abi:
            lines.append("Landlock (Linux 5.13 or newer, with it in the list of security modules)")
        if not self.system_call_filter:
            lines.append("a system-call filter (seccomp, on x86-64 or 64-bit ARM)")
        if not self.limits:
            lines.append("limits on memory and time")
        return tuple(lines)

    @property
    def holds(self) -> bool:
        """Whether files, network, processes and memory are each refused by one layer at least.

        The filter refuses the first three by itself; Landlock and namespaces are a second layer.
        """
        return self.system_call_filter and self.limits


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the process that started this one ends, however it ends."""
    if not _IS_LINUX:
        return  # it ends when it finds its socket closed
    _libc().prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent_pid:
        os._exit(1)  # it was gone before the line above


def leave_namespaces() -> bool:
    """Enter a user, network and IPC namespace of its own; to be called before any thread starts.

    Returns:
        Whether it was granted.
    """
    return _IS_LINUX and bool(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0)


def lock_down(
    *, namespaces: bool, memory_bytes: int, processor_seconds: int, threads: bool
) -> Fence:
    """Raise the rest of the fence; to be called when everything is imported and opened.

    Args:
        namespaces: What `leave_namespaces` returned.
        memory_bytes: Address space that may be taken on top of what is held now.
        processor_seconds: Time on the processor until the kernel ends this process.
        threads: Whether more threads may be started.
    """
    limits = _limit(memory_bytes, processor_seconds)
    if not _IS_LINUX:
        return Fence(namespaces=False, landlock_abi=0, system_call_filter=False, limits=limits)
    _drop_capabilities()
    abi = _restrict_files()
    filtered = seccomp.install(threads=threads)  # last: it takes away what the lines above need
    return Fence(
        namespaces=namespaces, landlock_abi=abi, system_call_filter=filtered, limits=limits
    )


def _limit(memory_bytes: int, processor_seconds: int) -> bool:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limits = {
            resource.RLIMIT_AS: pages * resource.getpagesize() + memory_bytes,
            resource.RLIMIT_CPU: processor_seconds,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NOFILE: _MOST_OPEN_FILES,
        }
        for which, wanted in limits.items():
            hard = resource.getrlimit(which)[1]
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(which, (most, most))
    except (OSError, ValueError):
        return False
    return True


def _drop_capabilities() -> None:
    """A new user namespace gives every capability in it: give them back."""
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    _libc().capset(header, bytes(24))


def _restrict_files() -> int:
    """Landlock that allows nothing; returns the version of its ABI, or 0 where it is missing."""
    libc = _libc()
    libc.syscall.restype = ctypes.c_long
    no_pointer, no_flags = ctypes.c_void_p(None), ctypes.c_uint(0)
    abi = int(
        libc.syscall(
            _LANDLOCK_CREATE_RULESET,
            no_pointer,
            ctypes.c_size_t(0),
            ctypes.c_uint(_LANDLOCK_VERSION),
        )
    )
    if abi < 1:
        return 0
    files = (1 << 13) - 1  # execute, read, write, make and remove, of every kind
    files |= sum(1 << bit for bit, since in ((13, 2), (14, 3), (15, 5)) if abi >= since)
    tcp = 0b11 if abi >= 4 else 0  # bind and connect
    outside = 0b11 if abi >= 6 else 0  # abstract sockets and signals
    handled = struct.pack("<QQQ", files, tcp, outside)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, handled, ctypes.c_size_t(size), no_flags)
    if ruleset < 0:
        return 0
    unused = ctypes.c_ulong(0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused, unused, unused)
    restricted = libc.syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), no_flags) == 0
    os.close(ruleset)
    return abi if restricted else 0


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
