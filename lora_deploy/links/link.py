"""What a link asks for: one video of YouTube, or one file of a listed host. Text only, no network.

Whatever is not plainly one of the two is refused here, before any name is looked up.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, urlsplit

from lora_deploy.errors import (
    LinkAddressError,
    LinkError,
    LinkFormError,
    LinkHostError,
    LinkTimesError,
    ListedHostError,
    NotOneVideoError,
)

MOST_CHARACTERS = 2048
"""Longer links are no links to a video; YouTube's own have less than 200."""

YOUTUBE_HOSTS = frozenset(
    {
        "youtube.com",
        "www.youtube.com",
        "m.youtube.com",
        "music.youtube.com",
        "youtube-nocookie.com",
        "www.youtube-nocookie.com",
        "youtu.be",
        "www.youtu.be",
    }
)

_PLAIN = re.compile(r"[!-~]+")
_NEVER_IN_A_LINK = re.compile(r"[\\\"'<>^`{|}]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_HOST = re.compile(r"(?=.{4,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
_VIDEO_ID = re.compile(r"[0-9A-Za-z_-]{11}")
_VIDEO_PATH = re.compile(r"/(?:shorts|embed|live|v|e)/([^/]+)/?")
_NO_VIDEO_IDS = frozenset({"videoseries", "live_stream"})
"""Words of eleven letters that stand where an id would, and mean a playlist and a channel."""
_CLOCK = re.compile(r"(?:(\d{1,3})h)?(?:(\d{1,5})m)?(?:(\d{1,6}(?:\.\d{1,3})?)s?)?", re.ASCII)
_COLONS = re.compile(r"(?:(\d{1,3}):)?(\d{1,3}):(\d{2}(?:\.\d{1,3})?)", re.ASCII)
_LISTS = {
    "playlist": "a playlist",
    "results": "a search",
    "channel": "a channel",
    "c": "a channel",
    "user": "a channel",
    "clip": "a clip, whose video is not named in the link",
    "embed": "a playlist or a channel",
}


@dataclass(frozen=True)
class LinkTimes:
    """The part of the video that the link names; None where it says nothing."""

    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class Video:
    """One video of YouTube."""

    video_id: str
    times: LinkTimes

    @property
    def url(self) -> str:
        """The one spelling that is handed on, made from nothing but the id."""
        return f"https://www.youtube.com/watch?v={self.video_id}"


@dataclass(frozen=True)
class File:
    """One file of a host that the operator lists."""

    url: str
    """Without the fragment."""
    host: str
    times: LinkTimes


def read_link(link: str, *, hosts: Collection[str] = (), youtube: bool = True) -> Video | File:
    """Say what a link asks for.

    Args:
        link: As a visitor gave it; ``https://`` may be missing before a host of YouTube.
        hosts: From which plain files may be fetched; compared as a whole, no part or parent of one.
        youtube: Whether links to YouTube are taken.

    Raises:
        LinkError: It is refused; named by the reason.
    """
    parts = _split(_with_scheme(link.strip(" ")))
    host = _host(parts)
    if youtube and host in YOUTUBE_HOSTS:
        return _video(parts, host)
    if host in {one.lower() for one in hosts}:
        url = parts._replace(scheme=parts.scheme.lower(), netloc=host, fragment="").geturl()
        return File(url, host, _times(parts.fragment, ""))
    allowed = [*(["YouTube"] if youtube else []), *hosts]
    raise LinkHostError(
        f"links to {host} are not opened here, only to {', '.join(allowed)}"
        if allowed
        else "links are not opened here"
    )


def check_host(host: str) -> None:
    """See whether a host that an operator lists could be the host of any link.

    Raises:
        ListedHostError: It could not, so listing it would change nothing.
    """
    try:
        name = _host(SplitResult("https", host, "", "", ""))
    except LinkError as error:
        raise ListedHostError(f"{host!r} can't be listed for links: {error.found}") from None
    if name in YOUTUBE_HOSTS:
        raise ListedHostError(f"{host!r} can't be listed for links: its videos are no plain files")


def _with_scheme(link: str) -> str:
    if not _SCHEME.match(link) and link.partition("/")[0].lower() in YOUTUBE_HOSTS:
        return f"https://{link}"
    return link


def _split(link: str) -> SplitResult:
    if not link:
        raise LinkFormError("the link is empty")
    if len(link) > MOST_CHARACTERS:
        raise LinkFormError(
            f"the link has {len(link):,} characters, and at most {MOST_CHARACTERS:,} are read"
        )
    if not _PLAIN.fullmatch(link) or _NEVER_IN_A_LINK.search(link):
        raise LinkFormError("the link holds characters that no address of the web has")
    if not link.lower().startswith(("https://", "http://")):
        raise LinkFormError("the link does not begin with https:// or http://")
    try:
        return urlsplit(link)
    except ValueError:  # as for a bracket that is not closed
        raise LinkFormError("the link is no address of the web") from None


def _host(parts: SplitResult) -> str:
    """The host's name in lower case, if that is all that stands between the slashes."""
    place = parts.netloc.lower()
    if "@" in place:
        raise LinkFormError("the link holds a user name or an @ before the host")
    if place.startswith("[") or _is_a_number(place.partition(":")[0]):
        raise LinkAddressError("the link names a computer by its number")
    if ":" in place:
        raise LinkFormError("the link names a port")
    if place == "localhost" or place.endswith((".localhost", ".local", ".internal")):
        raise LinkAddressError("the link names a computer of this network")
    if not _HOST.fullmatch(place):
        raise LinkFormError("the link names no host of the web")
    return place


def _is_a_number(host: str) -> bool:
    """Whether any program might read ``host`` as an IPv4 address: decimal, octal, hex, shortened.

    As browsers have it: the last part decides, and no top-level domain is a number.
    """
    last = host.rstrip(".").rpartition(".")[2]
    if re.fullmatch(r"\d+|0x[0-9a-f]*", last):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _video(parts: SplitResult, host: str) -> Video:
    video_id = _video_id(parts, host)
    if not _VIDEO_ID.fullmatch(video_id) or video_id in _NO_VIDEO_IDS:
        kind = _LISTS.get(parts.path.split("/")[1] if "/" in parts.path else "", "no video")
        if parts.path.startswith("/@"):
            kind = "a channel"
        raise NotOneVideoError(f"the link leads to {kind} of YouTube")
    return Video(video_id, _times(parts.query, parts.fragment))


def _video_id(parts: SplitResult, host: str) -> str:
    """What stands where this kind of link has the id; '' where it is of no such kind."""
    if host in ("youtu.be", "www.youtu.be"):
        return parts.path.strip("/")
    if parts.path.rstrip("/") == "/watch":
        named = _query(parts.query).get("v", [])
        return named[0] if len(named) == 1 else ""
    found = _VIDEO_PATH.fullmatch(parts.path)
    return found[1] if found else ""


def _times(query: str, fragment: str) -> LinkTimes:
    """The times that ``t=``, ``start=`` and ``end=`` name; ``t=10,20`` is a start and an end."""
    said = {**_query(fragment), **_query(query)}
    start, _, end = _last(said, "t").removeprefix("npt:").partition(",")
    start = start or _last(said, "start") or _last(said, "time_continue")
    end = end or _last(said, "end")
    times = LinkTimes(seconds_of(start) if start else None, seconds_of(end) if end else None)
    if times.end_seconds is not None and times.end_seconds <= (times.start_seconds or 0.0):
        raise LinkTimesError(f"the link ends at {end} and begins at {start or '0'}")
    return times


def seconds_of(text: str) -> float:
    """Seconds that a link's ``90``, ``90s``, ``1m30s``, ``1h2m3s`` or ``1:30`` means.

    Raises:
        LinkTimesError: It is none of these.
    """
    found = _COLONS.fullmatch(text) or _CLOCK.fullmatch(text)
    if not text or found is None:
        raise LinkTimesError(f"the link's time {text[:20]!r} is none")
    hours, minutes, seconds = found.groups()
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + float(seconds or 0)


def _query(text: str) -> dict[str, list[str]]:
    try:
        return parse_qs(text, max_num_fields=50)
    except ValueError:
        raise LinkFormError("the link has too many parts") from None


def _last(said: dict[str, list[str]], name: str) -> str:
    return said.get(name, [""])[-1]
