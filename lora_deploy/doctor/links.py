"""Whether links to YouTube can work: yt-dlp needs a JavaScript runtime, and scripts to run in it."""

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from lora_deploy.doctor.complaint import Complaint
from lora_deploy.doctor.packages import look_up

OLDEST_DENO = Version("2.3")
"""That yt-dlp's scripts are written for."""

OTHERS = ("node", "bun", "qjs")
"""Runtimes that yt-dlp can use, and does not unless it is told to."""

_ASK_SECONDS = 10.0
_REMEDY = 'type: pip install -U "yt-dlp[default,deno]"'


@dataclass(frozen=True)
class _Deno:
    path: str
    version: Version | None
    """None where it does not start."""


def complaints() -> Iterator[Complaint]:
    """Nothing where yt-dlp is not installed."""
    if look_up("yt-dlp") is None:
        return
    deno = _deno()
    if deno is None:
        others = ", ".join(name for name in OTHERS if shutil.which(name))
        instead = (
            f" ({others} is here, and yt-dlp asks only for deno unless told)" if others else ""
        )
        yield Complaint(
            "no-javascript",
            f"yt-dlp finds no JavaScript runtime{instead}: YouTube gives it no videos, or poor ones",
            _REMEDY,
        )
    elif deno.version is None:
        yield Complaint(
            "no-javascript", f"{deno.path} does not start, and yt-dlp needs it", _REMEDY
        )
    elif deno.version < OLDEST_DENO:
        yield Complaint(
            "no-javascript",
            f"deno {deno.version} is too old for yt-dlp, which needs {OLDEST_DENO} or newer",
            _REMEDY,
        )
    elif look_up("yt-dlp-ejs") is None:
        yield Complaint(
            "no-javascript",
            f"deno {deno.version} is here, and yt-dlp-ejs, the scripts that yt-dlp runs in it, is not",
            _REMEDY,
        )


def _deno() -> _Deno | None:
    """Where yt-dlp would find it: among this environment's scripts, then on PATH."""
    path = shutil.which("deno", path=sysconfig.get_path("scripts")) or shutil.which("deno")
    if path is None:
        return None
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_ASK_SECONDS, check=True
        ).stdout
        found = re.match(r"deno (\S+)", said)
        return _Deno(path, Version(found[1]) if found else None)
    except (OSError, ValueError, InvalidVersion, subprocess.SubprocessError):
        return _Deno(path, None)
