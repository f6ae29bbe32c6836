"""A filter of system calls for a process that only decodes: what it needs is allowed, all else refused.

Reading from and writing to what is open, memory of its own, time, and its end: no files, no
sockets, no programs, no processes, no signals to others. Written as a small BPF program by ctypes
alone. The table knows x86-64 and 64-bit ARM; elsewhere there is no filter, and `install` says so.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_ALLOWED: dict[str, tuple[int, int | None]] = {
    # What is open already: the socket to the pool, and the file that came over it.
    "read": (0, 63), "pread64": (17, 67), "write": (1, 64), "lseek": (8, 62), "fstat": (5, 80),
    "close": (3, 57), "poll": (7, None), "ppoll": (271, 73), "recvfrom": (45, 207),
    "recvmsg": (47, 212), "sendto": (44, 206), "sendmsg": (46, 211),
    # Memory; `mmap` is looked at more closely below.
    "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    # Its own signals, threads and locks.
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "futex": (202, 98),
    "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getpid": (39, 172), "gettid": (186, 178),
    # Time and chance.
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101), "gettimeofday": (96, 169), "getrandom": (318, 278),
    # The end.
    "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
"""Name to number on x86-64 and on 64-bit ARM; None where the machine has no such call."""

_MMAP, _FSTATAT, _CLONE, _CLONE3, _TGKILL = (9, 222), (262, 79), (56, 220), (435, 435), (234, 131)
_SECCOMP = (317, 277)
_MAP_SHARED, _AT_EMPTY_PATH, _CLONE_THREAD = 0x1, 0x1000, 0x10000

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _FOURTH_ARGUMENT = 0, 4, 16, 40  # in struct seccomp_data
_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM
_IS_MISSING = 0x00050000 | errno.ENOSYS

_PR_SET_NO_NEW_PRIVS, _SET_MODE_FILTER, _ALL_THREADS = 38, 1, 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(*, threads: bool) -> bool:
    """Put the filter on this process, with all threads that it has, for good.

    A refused call fails with EPERM; nothing is killed.

    Args:
        threads: Whether it may start more threads.

    Returns:
        Whether it is in place.
    """
    machine = platform.machine()
    if machine not in _AUDIT_ARCHITECTURE or sys.byteorder != "little":
        return False
    code = _program(machine, os.getpid(), threads=threads)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    libc = ctypes.CDLL(None, use_errno=True)
    unused = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused, unused, unused) != 0:
        return False
    number = ctypes.c_long(_SECCOMP[_column(machine)])
    mode, all_threads = ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_ALL_THREADS)
    return bool(libc.syscall(number, mode, all_threads, ctypes.byref(program)) == 0)


def _column(machine: str) -> int:
    return ("x86_64", "aarch64").index(machine)


def _program(machine: str, own_pid: int, *, threads: bool) -> bytes:
    """Instructions of 8 bytes each: code, steps if true, steps if false, operand."""
    column = _column(machine)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _DENY),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    # The C library falls back to `clone`, whose flags a filter can see.
    lines += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _IS_MISSING)]
    if threads:  # and no process
        lines += _if_any_bit(_CLONE[column], _FIRST_ARGUMENT, _CLONE_THREAD, _ALLOW, _DENY)
    # Memory that outlives the process, or its limit, is none of its own.
    lines += _if_any_bit(_MMAP[column], _FOURTH_ARGUMENT, _MAP_SHARED, _DENY, _ALLOW)
    # How some versions of the C library ask for the size of an open file.
    lines += _if_any_bit(_FSTATAT[column], _FOURTH_ARGUMENT, _AT_EMPTY_PATH, _ALLOW, _DENY)
    lines += [
        # A signal to itself, as abort() sends it.
        (_EQUAL, 0, 3, _TGKILL[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, own_pid),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DENY),
    ]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def _if_any_bit(
    number: int, argument: int, bits: int, then: int, otherwise: int
) -> list[tuple[int, int, int, int]]:
    """What becomes of one call, by the bits of one argument."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, argument),
        (_ANY_BIT, 0, 1, bits),
        (_RETURN, 0, 0, then),
        (_RETURN, 0, 0, otherwise),
    ]
