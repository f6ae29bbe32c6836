"""Runs an action in a forked process, and makes the Nth call that changes a folder fail or fatal.

The child puts a seccomp filter on itself that hands such calls to this process before the kernel
obeys them (``SECCOMP_RET_USER_NOTIF``): no debugger, no root, no compiler. Calls on other
folders, and those of other programs that the child starts, go on uncounted. Being killed before
each of them is being killed at any time: in between, nothing in the folder changes. What is
written through a memory map is not seen.
"""

import ctypes
import errno
import fcntl
import gc
import os
import platform
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

Mode = Literal["fail", "kill"]

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column in the table below, and how the kernel names the machine in `struct seccomp_data`."""

_DESCRIPTOR, _PATH, _PATH_AT = "descriptor", "path", "path at"

_CALLS: dict[str, tuple[tuple[int | None, int | None], str, int]] = {
    # What changes the content of a file.
    "write": ((1, 64), _DESCRIPTOR, 0), "pwrite64": ((18, 68), _DESCRIPTOR, 0),
    "writev": ((20, 66), _DESCRIPTOR, 0), "pwritev": ((296, 70), _DESCRIPTOR, 0),
    "pwritev2": ((328, 287), _DESCRIPTOR, 0), "sendfile": ((40, 71), _DESCRIPTOR, 0),
    "copy_file_range": ((326, 285), _DESCRIPTOR, 2), "ftruncate": ((77, 46), _DESCRIPTOR, 0),
    "fallocate": ((285, 47), _DESCRIPTOR, 0), "truncate": ((76, 45), _PATH, 0),
    # What makes it last.
    "fsync": ((74, 82), _DESCRIPTOR, 0), "fdatasync": ((75, 83), _DESCRIPTOR, 0),
    # What changes names. `open` only where it may create or empty a file.
    "open": ((2, None), _PATH, 0), "openat": ((257, 56), _PATH_AT, 0),
    "creat": ((85, None), _PATH, 0),
    "mkdir": ((83, None), _PATH, 0), "mkdirat": ((258, 34), _PATH_AT, 0),
    "rmdir": ((84, None), _PATH, 0), "unlink": ((87, None), _PATH, 0),
    "unlinkat": ((263, 35), _PATH_AT, 0),
    "rename": ((82, None), _PATH, 0), "renameat": ((264, 38), _PATH_AT, 0),
    "renameat2": ((316, 276), _PATH_AT, 0),
    "link": ((86, None), _PATH, 0), "linkat": ((265, 37), _PATH_AT, 0),
    "symlink": ((88, None), _PATH, 1), "symlinkat": ((266, 36), _PATH_AT, 1),
    "chmod": ((90, None), _PATH, 0), "fchmodat": ((268, 53), _PATH_AT, 0),
    "fchmod": ((91, 52), _DESCRIPTOR, 0),
}  # fmt: skip
"""Name: numbers on x86-64 and 64-bit ARM, how the file is named, and by which argument."""

_SECOND_PATH = {
    "rename": (_PATH, 1), "renameat": (_PATH_AT, 2), "renameat2": (_PATH_AT, 2),
    "link": (_PATH, 1), "linkat": (_PATH_AT, 2),
}  # fmt: skip
NEED_ROOM = {
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range",
    "ftruncate", "fallocate", "truncate", "open", "openat", "creat", "mkdir", "mkdirat",
}  # fmt: skip
"""These fail with ENOSPC, the others with EIO."""

_SECCOMP, _MODE_FILTER, _NEW_LISTENER = (317, 277), 1, 1 << 3
_PR_SET_NO_NEW_PRIVS = 38
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # in struct seccomp_data
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_OPEN_FLAGS = {"open": 1, "openat": 2}  # which argument they are
_MAY_CHANGE = os.O_CREAT | os.O_TRUNC

_NOTIFICATION = struct.Struct("<QIIiIQ6Q")  # id, pid, flags, number, architecture, ip, arguments
_ANSWER = struct.Struct("<QqiI")  # id, value, error, flags
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_CONTINUE = 1
_AT_FDCWD = -100
_LONGEST_PATH = 4096

SECONDS_PER_ACTION = 120
"""A child that takes longer is killed, and its attempt has ended as ``hung``."""


class InjectionRefused(Exception):
    """The kernel does not let a process watch another one's calls."""


@dataclass(frozen=True)
class Call:
    """A call that would change the watched folder."""

    name: str
    path: str
    """Relative to the folder; ``.`` is the folder itself."""
    to: str | None = None
    """Where a renaming leads."""


@dataclass(frozen=True)
class Attempt:
    """What became of an action."""

    calls: tuple[Call, ...]
    """In their order."""
    fault: Call | None
    """The one that failed or was fatal."""
    ended: Literal["done", "raised", "killed", "hung"]
    error: str
    """Type and text of what was raised; empty otherwise."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def attempt(
    action: Callable[[], object],
    folder: Path,
    *,
    nth: int | None = None,
    mode: Mode = "fail",
) -> Attempt:
    """Run an action in a forked process.

    Args:
        action: Its return value is lost.
        folder: Calls that change it, or what is under it, count.
        nth: Which of them is the fault, from 1; None for none.
        mode: ``fail``: that call is not obeyed and returns ENOSPC or EIO; ``kill``: the process
            is killed before it is obeyed.

    Raises:
        InjectionRefused: The kernel or the machine does not offer it.
    """
    folder = folder.resolve()
    ours, theirs = socket.socketpair()
    with ours, theirs, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that a fork leaves behind
        child = os.fork()
        if child == 0:
            _in_child(action, theirs)
        theirs.close()
        message, descriptors, *_ = socket.recv_fds(ours, 4096, 1)
        if not descriptors:
            os.waitpid(child, 0)
            raise InjectionRefused(message.decode() or "the child ended before it was watched")
        ours.send(b"go")
        [listener] = descriptors
        try:
            calls, hung = _answer(listener, child, folder, nth, mode)
        finally:
            os.close(listener)
            _, status = os.waitpid(child, 0)
        error = ours.recv(65536).decode()
    fault = calls[nth - 1] if nth is not None and nth <= len(calls) else None
    ended: Literal["done", "raised", "killed", "hung"] = "raised" if error else "done"
    if hung or os.WIFSIGNALED(status):
        ended = "hung" if hung else "killed"
    return Attempt(tuple(calls), fault, ended, error)


def _in_child(action: Callable[[], object], parent: socket.socket) -> NoReturn:
    try:
        listener = _install()
    except OSError as error:
        parent.send(f"seccomp with a listener: {error}".encode())
        os._exit(1)
    socket.send_fds(parent, [b"listening"], [listener])
    os.close(listener)
    parent.recv(2)
    gc.freeze()  # what the parent left lying has threads that are not here, and waits for them
    try:
        action()
    except BaseException as error:
        parent.send(f"{type(error).__name__}: {error}".encode()[:60000])
    os._exit(0)


def _install() -> int:
    """Put the filter on this thread; returns the descriptor on which its calls are told."""
    if platform.machine() not in _MACHINES or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"not written for {platform.machine()}")
    code = _program(*_MACHINES[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p).value)
    libc = ctypes.CDLL(None, use_errno=True)
    unused = ctypes.c_ulong(0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused, unused, unused)
    listener = libc.syscall(
        ctypes.c_long(_SECCOMP[_MACHINES[platform.machine()][0]]),
        ctypes.c_uint(_MODE_FILTER),
        ctypes.c_uint(_NEW_LISTENER),
        ctypes.byref(program),
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(listener)


def _program(column: int, architecture: int) -> bytes:
    """Instructions of 8 bytes each: code, steps if true, steps if false, operand."""
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, (numbers, _, _) in _CALLS.items():
        number = numbers[column]
        if number is None:
            continue
        if name in _OPEN_FLAGS:
            lines += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * _OPEN_FLAGS[name]),
                (_ANY_BIT, 0, 1, _MAY_CHANGE),
                (_RETURN, 0, 0, _ASK),
                (_RETURN, 0, 0, _ALLOW),
            ]
        else:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ASK)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in lines)


def _answer(
    listener: int, child: int, folder: Path, nth: int | None, mode: Mode
) -> tuple[list[Call], bool]:
    """Let calls pass until the child ends; returns those that count, and whether it hung."""
    names = {
        numbers[_MACHINES[platform.machine()][0]]: name for name, (numbers, _, _) in _CALLS.items()
    }
    calls: list[Call] = []
    end = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    waiting.register(end, select.POLLIN)
    try:
        while True:
            ready = dict(waiting.poll(SECONDS_PER_ACTION * 1000))
            if not ready:
                os.kill(child, signal.SIGKILL)
                return calls, True
            if ready.get(listener, 0) & select.POLLIN:
                notification = bytearray(_NOTIFICATION.size)
                try:
                    fcntl.ioctl(listener, _RECEIVE, notification)
                except OSError:  # the caller was killed in between
                    continue
                id_, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(notification)
                call = _call(names[number], pid, arguments, folder) if _is(child, pid) else None
                if call is not None:
                    calls.append(call)
                if call is None or len(calls) != nth:
                    _send(listener, id_, 0, _CONTINUE)
                elif mode == "kill":
                    os.kill(child, signal.SIGKILL)
                else:
                    fault = errno.ENOSPC if call.name in NEED_ROOM else errno.EIO
                    _send(listener, id_, -fault, 0)
            elif ready.get(end):
                return calls, False
    finally:
        os.close(end)


def _send(listener: int, id_: int, error: int, flags: int) -> None:
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(id_, 0, error, flags))
    except OSError as gone:
        if gone.errno != errno.ENOENT:
            raise


def _is(child: int, thread: int) -> bool:
    """Whether a thread is one of the child itself, and not of a process that it started."""
    return Path(f"/proc/{child}/task/{thread}").exists()


def _call(name: str, pid: int, arguments: list[int], folder: Path) -> Call | None:
    """The call, where it is about the folder."""
    _, how, place = _CALLS[name]
    path = _path(pid, how, arguments, place)
    to = None
    if name in _SECOND_PATH:
        to = _path(pid, *_SECOND_PATH[name][:1], arguments, _SECOND_PATH[name][1])
    inside = [item is not None and item.is_relative_to(folder) for item in (path, to)]
    if not any(inside) or path is None:
        return None
    if name in ("mkdir", "mkdirat") and path.exists():
        return None  # nothing would change, and whoever asks looks whether it is there
    return Call(name, _relative(path, folder), None if to is None else _relative(to, folder))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _path(pid: int, how: str, arguments: list[int], place: int) -> Path | None:
    """The file that a call names; None where it is none, as a socket."""
    try:
        if how == _DESCRIPTOR:
            return Path(Path(f"/proc/{pid}/fd/{arguments[place]}").readlink())
        start = Path(f"/proc/{pid}/cwd").readlink()
        if how == _PATH_AT:
            descriptor = ctypes.c_int(arguments[place]).value
            if descriptor != _AT_FDCWD:
                start = Path(f"/proc/{pid}/fd/{descriptor}").readlink()
            place += 1
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(arguments[place])
            text = memory.read(_LONGEST_PATH).partition(b"\0")[0]
        return Path(os.path.normpath(start / os.fsdecode(text)))
    except PermissionError as error:  # else the calls would go uncounted, and nothing be proved
        raise InjectionRefused(f"what a call is about can't be read: {error}") from None
    except OSError:
        return None
