"""A link fetched in a process of its own, which is killed at the deadline whatever it is doing.

A process and not a thread, because a name server, a handshake or a server that sends a byte now and
then can hold a thread for as long as it likes; because yt-dlp starts a JavaScript runtime, which
has to end with it; and because the environment of a process can be bare: no proxy, which would make
the check of addresses void, no netrc, no settings and no plugins of whoever started the server.
"""

import contextlib
import logging
import os
import secrets
import select
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, ValidationError

from lora_deploy.clips import guard
from lora_deploy.errors import (
    ClipError,
    LinkError,
    LinksUnavailableError,
)
from lora_deploy.extras import is_installed
from lora_deploy.links.link import File, Video
from lora_deploy.links.messages import MOST_LINE_BYTES, Done, Errand, Progress, Refused
from lora_deploy.links.refusals import error_of

logger = logging.getLogger(__name__)

_PACKAGE_ROOT = Path(__file__).parents[2]
_SUFFIXES = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".webm",
        ".mkv",
        ".avi",
        ".gif",
        ".mpg",
        ".mpeg",
        ".ts",
        ".flv",
        ".wmv",
    }
)
_BEAT_SECONDS = 0.5
"""So often at least is the caller told something, and may end the errand by raising."""

_FOR_THE_OPERATOR = ("outdated", "no_javascript", "unavailable")

_MESSAGE: TypeAdapter[Progress | Done | Refused] = TypeAdapter(
    Annotated[Progress | Done | Refused, Field(discriminator="do")]
)


@dataclass(frozen=True)
class Bounds:
    """What an errand must stay within."""

    hosts: Collection[str]
    max_bytes: int
    max_seconds: float
    deadline_seconds: float
    height: int


class _Lost(Exception):
    """The fetching process is gone, or says what can't be."""


class _Late(Exception):
    """The deadline has passed."""


def run(
    target: Video | File,
    folder: Path,
    bounds: Bounds,
    progress: Callable[[float], None] | None,
) -> tuple[Path, str]:
    """Fetch ``target`` into ``folder``.

    Returns:
        The file, under a name of ours, and a title of one printable line.

    Raises:
        LinkError: Nothing is left in ``folder``.
    """
    package = "yt_dlp" if isinstance(target, Video) else "safehttpx"
    if not is_installed(package):
        raise LinksUnavailableError("links can't be fetched, because a package is not installed")
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".link-", dir=folder))
    except OSError as error:
        logger.warning("no folder for a link: %s", error.strerror)
        raise LinksUnavailableError("links can't be fetched on this server now") from None
    try:
        message = _ask(_errand(target, scratch, bounds), bounds.deadline_seconds, progress)
        if isinstance(message, Refused):
            raise _told(message, target, bounds)
        return _take(scratch / message.name, folder, target, bounds), message.title
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _errand(target: Video | File, scratch: Path, bounds: Bounds) -> Errand:
    return Errand(
        kind="video" if isinstance(target, Video) else "file",
        url=target.url,
        hosts=tuple(bounds.hosts),
        start_seconds=target.times.start_seconds,
        max_bytes=bounds.max_bytes,
        max_seconds=bounds.max_seconds,
        height=bounds.height,
        folder=scratch.resolve(),
        javascript=_javascript() if isinstance(target, Video) else None,
        parent_pid=os.getpid(),
    )


def _told(refused: Refused, target: Video | File, bounds: Bounds) -> LinkError:
    if refused.kind in _FOR_THE_OPERATOR:
        logger.warning("links do not work as they should: %s", refused.kind)
    logger.debug("a link was refused (%s): %s", refused.kind, refused.log)
    return error_of(
        refused,
        place="YouTube" if isinstance(target, Video) else target.host,
        max_bytes=bounds.max_bytes,
        max_seconds=bounds.max_seconds,
        deadline_seconds=bounds.deadline_seconds,
    )


def _take(fetched: Path, folder: Path, target: Video | File, bounds: Bounds) -> Path:
    """Move the file to its place, if it is one, no larger than allowed, and may be a video."""
    try:
        if fetched.is_symlink():
            raise ClipError("forbidden", "a link to another file")
        guard.open_clip(fetched).close()
    except ClipError:
        raise _told(Refused(kind="not_video"), target, bounds) from None
    if fetched.stat().st_size > bounds.max_bytes:
        raise _told(Refused(kind="too_large"), target, bounds)
    named = Path(urlsplit(target.url).path if isinstance(target, File) else fetched.name)
    suffix = named.suffix.lower() if named.suffix.lower() in _SUFFIXES else ".mp4"
    return fetched.rename(folder / f"link-{secrets.token_hex(8)}{suffix}")


def _ask(
    errand: Errand, deadline_seconds: float, progress: Callable[[float], None] | None
) -> Done | Refused:
    """Start a fetching process, and return its last word."""
    until = time.monotonic() + deadline_seconds
    try:
        process = _start(errand)
    except OSError as error:
        return Refused(kind="unavailable", log=str(error.strerror))
    try:
        for message in _messages(process, until):
            if not isinstance(message, Progress):
                return message
            if progress is not None:
                progress(message.part)
        return Refused(kind="unavailable", log="the fetching process ended without a word")
    except _Late:
        return Refused(kind="timeout")
    except _Lost as error:
        return Refused(kind="unavailable", log=str(error))
    finally:
        _end(process)


def _start(errand: Errand) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        _child_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=errand.folder,
        env=_environment(errand.folder),
        start_new_session=True,  # so that whatever it starts is killed with it
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(errand.model_dump_json().encode() + b"\n")
    return process


def _child_command() -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "lora_deploy.links.child")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all it started; its number is its own until it is waited for."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _messages(
    process: subprocess.Popen[bytes], until: float
) -> Iterator[Progress | Done | Refused]:
    """What the process says, line by line, until it ends; in silence, how far it was, again.

    Raises:
        _Late: The time is over.
        _Lost: It says what can't be.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    waiting, last = b"", Progress(part=0.0)
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise _Late
        if not poll.poll(min(left, _BEAT_SECONDS) * 1000):
            yield last
            continue
        block = os.read(descriptor, MOST_LINE_BYTES)
        if not block:
            return
        *lines, waiting = (waiting + block).split(b"\n")
        if len(waiting) > MOST_LINE_BYTES:
            raise _Lost("a line without end")
        for line in lines:
            try:
                message = _MESSAGE.validate_json(line)
            except ValidationError:
                raise _Lost("no message") from None
            last = message if isinstance(message, Progress) else last
            yield message


def _javascript() -> Path | None:
    """The runtime that yt-dlp may start: deno, among this environment's scripts or on PATH."""
    path = shutil.which("deno", path=sysconfig.get_path("scripts")) or shutil.which("deno")
    return Path(path).absolute() if path else None


def _environment(scratch: Path) -> dict[str, str]:
    """What a fetching process needs to find this package, and nothing that anyone might have set."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("LD_LIBRARY_PATH", "PYTHONHOME")
    }
    places = []
    if not sys.flags.ignore_environment:  # nor was it obeyed by this process
        named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        places = [place for place in named if os.path.isabs(place)]  # noqa: PTH117 (may be empty)
    if site.ENABLE_USER_SITE:
        places.append(site.getusersitepackages())  # its HOME is another one
    if str(_PACKAGE_ROOT) not in (*site.getsitepackages(), *places):
        places.append(str(_PACKAGE_ROOT))
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(places),
        "PATH": os.devnull,  # no folder, so that nothing is found on it
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "LANG": "C.UTF-8",
        "YTDLP_NO_PLUGINS": "1",
        "DENO_NO_UPDATE_CHECK": "1",
    }
