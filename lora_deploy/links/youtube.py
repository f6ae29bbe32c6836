"""One video of YouTube, fetched by yt-dlp under options that leave it nothing else to do.

Runs in a fetching process only: nothing else may import it, and with it yt-dlp.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yt_dlp
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import (
    ContentTooShortError,
    ExtractorError,
    GeoRestrictedError,
    YoutubeDLError,
)

from lora_deploy.errors import LinkErrorKind
from lora_deploy.links import formats
from lora_deploy.links.complaints import kind_of_status, kind_of_text
from lora_deploy.links.messages import Done, Errand, Refusal, printable

DOMAINS = frozenset(
    {
        "youtube.com",
        "youtube-nocookie.com",
        "youtu.be",
        "googlevideo.com",
        "googleapis.com",
        "google.com",
        "ytimg.com",
    }
)
"""Whose names a fetching process looks up; with all below them."""

PORTS = (443,)

_BLOCK_BYTES = 1 << 16
_ANSWER_SECONDS = 15.0
_NAME = "clip"


def fetch_video(errand: Errand, tell: Callable[[float], None]) -> Done:
    """Fetch the video into the current folder, which is the errand's.

    Raises:
        Refusal: With the kind.
    """
    with _Downloader(_options(errand, tell)) as downloader:
        try:
            return _fetch(downloader, errand)
        except YoutubeDLError as error:
            raise _refusal(
                error, downloader, has_javascript=errand.javascript is not None
            ) from None


def _fetch(downloader: "_Downloader", errand: Errand) -> Done:
    """Ask what the video is, see whether it may be fetched, and only then fetch it."""
    found = downloader.extract_info(errand.url, download=False, process=False)
    if found is None:
        raise Refusal("outdated", log="nothing was extracted")
    _look_at(found, errand)
    downloader.process_ie_result(found, download=True)
    path = next(Path().glob(f"{_NAME}.*"), None)
    if path is None:  # yt-dlp stops without an error only for the size that a server announces
        raise Refusal("too_large")
    return Done(name=path.name, title=printable(str(found.get("title") or "")))


def _look_at(found: Mapping[str, Any], errand: Errand) -> None:
    """Refuse what is not one video that is over, of a known and allowed length."""
    if found.get("_type", "video") == "playlist":
        raise Refusal("not_one_video")
    if found.get("_type", "video") != "video":  # a film that costs something names its trailer
        raise Refusal("members")
    status = found.get("live_status")
    if status == "is_upcoming":
        raise Refusal("premiere")
    if status in ("is_live", "post_live") or found.get("is_live"):
        raise Refusal("live")
    seconds = found.get("duration")
    if not isinstance(seconds, (int, float)):
        raise Refusal("too_long")
    if seconds > errand.max_seconds:
        raise Refusal("too_long", found_seconds=float(seconds))
    if errand.start_seconds is not None and errand.start_seconds >= seconds:
        raise Refusal("times", found_seconds=float(seconds))


def _options(errand: Errand, tell: Callable[[float], None]) -> dict[str, Any]:
    def choose(context: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        try:
            yield formats.choose(
                context["formats"], height=errand.height, max_bytes=errand.max_bytes
            )
        except formats.NoneUsable:
            raise Refusal("no_format") from None
        except formats.AllTooLarge:
            raise Refusal("too_large") from None

    def hook(state: Mapping[str, Any]) -> None:
        announced, here = state.get("total_bytes") or 0, state.get("downloaded_bytes") or 0
        if max(announced, here) > errand.max_bytes:
            raise Refusal("too_large", found_bytes=int(announced) or None)
        tell(min(1.0, here / (announced or errand.max_bytes)))

    return {
        # Which site, which video, which format.
        "allowed_extractors": ["^youtube$"],
        "noplaylist": True,
        "format": choose,
        "allow_unplayable_formats": False,
        "extractor_args": {"youtube": {"skip": ["hls", "dash", "translated_subs"]}},
        # How much and how long; the parent process keeps the deadline.
        "max_filesize": errand.max_bytes,
        "progress_hooks": [hook],
        "noresizebuffer": True,  # so that the hook is called after every block
        "buffersize": _BLOCK_BYTES,
        "socket_timeout": _ANSWER_SECONDS,
        "retries": 2,
        "extractor_retries": 1,
        "file_access_retries": 0,
        # Where to: one file with a name of ours, in the current folder.
        "outtmpl": {"default": f"{_NAME}.%(ext)s"},
        "nopart": True,
        "continuedl": False,
        "overwrites": True,
        "updatetime": False,
        "cachedir": False,
        # Nothing of this computer or its user, and no way around the gate.
        "cookiefile": None,
        "cookiesfrombrowser": None,
        "usenetrc": False,
        "netrc_cmd": None,
        "proxy": "",
        "enable_file_urls": False,
        "nocheckcertificate": False,
        "external_downloader": {},
        # No ffmpeg: nothing is merged, mended, cut or converted.
        "postprocessors": [],
        "fixup": "never",
        "ffmpeg_location": None,
        # YouTube's own scripts run in this runtime, from files that are installed.
        "js_runtimes": {"deno": {"path": str(errand.javascript)}} if errand.javascript else {},
        "remote_components": [],
        # Said to nobody.
        "quiet": True,
        "noprogress": True,
        "no_color": True,
        "logger": _Silence(),
    }


class _Silence:
    """Where yt-dlp's words go."""

    def debug(self, message: str) -> None:
        """Said in passing."""

    def info(self, message: str) -> None:
        """Said in passing."""

    def warning(self, message: str) -> None:
        """Of no use where nobody can answer."""

    def error(self, message: str) -> None:
        """It comes as an exception as well."""


class _Downloader(yt_dlp.YoutubeDL):  # type: ignore[misc]
    """Keeps what became of each request, which errors of extraction don't tell."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.answered = 0
        self.statuses: list[int] = []
        super().__init__(options)

    def urlopen(self, request: Any) -> Any:
        """As yt-dlp does, with a count."""
        try:
            response = super().urlopen(request)
        except HTTPError as error:
            self.answered += 1
            self.statuses.append(error.status)
            raise
        self.answered += 1
        return response


def _refusal(error: YoutubeDLError, downloader: _Downloader, *, has_javascript: bool) -> Refusal:
    """What an error of yt-dlp's means, with its own words for the operator's log."""
    log = " ".join(str(error).split())
    chain = list(_chain(error))
    for one in chain:
        if isinstance(one, OSError) and one.errno == errno.EFBIG:
            return Refusal("too_large", log=log)
        if isinstance(one, OSError) and one.errno == errno.ENOSPC:
            return Refusal("unavailable", log=log)
    if not any(isinstance(one, ExtractorError) for one in chain):
        return Refusal(_kind_of_download(chain), log=log)
    if any(isinstance(one, GeoRestrictedError) for one in chain):
        return Refusal("region", log=log)
    kind = kind_of_text(log)
    if kind == "outdated" and downloader.answered == 0:
        kind = "no_network"
    elif kind == "outdated" and 429 in downloader.statuses:
        kind = "busy"
    elif kind in ("outdated", "no_format") and not has_javascript:
        kind = "no_javascript"
    return Refusal(kind, log=log)


def _kind_of_download(chain: list[BaseException]) -> LinkErrorKind:
    """The video was found, and its file did not come."""
    for one in chain:
        if isinstance(one, HTTPError):
            return kind_of_status(one.status)
        if isinstance(one, ContentTooShortError):
            return "refused"
    return "no_network" if any(isinstance(one, TransportError) for one in chain) else "refused"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what brought it about, in Python's way and in yt-dlp's."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            within = (getattr(one, "exc_info", None) or (None, None))[1]
            waiting += [within, getattr(one, "cause", None), one.__cause__, one.__context__]
