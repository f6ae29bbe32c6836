"""Which of a video's formats is fetched: pictures only, H.264 first, no larger than they need be.

It knows yt-dlp's description of a format, and nothing of the network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_CODECS = (("avc1", "h264"), ("vp9", "vp09", "vp8"), ("av01",))
"""In the order of preference: what every decoder reads at little cost comes first."""

_CONTAINERS = ("mp4", "webm")
_PROTOCOL = "https"
"""One file from one address. Playlists of pieces (m3u8, DASH) would hand the network to others."""


class NoneUsable(Exception):
    """No format is one file of pictures that can be decoded."""


class AllTooLarge(Exception):
    """Every usable format has more bytes than may be fetched."""


def choose(
    formats: Sequence[Mapping[str, Any]], *, height: int, max_bytes: int
) -> Mapping[str, Any]:
    """Choose the format to fetch.

    The best codec that there is, then the smallest picture whose short side has ``height`` pixels
    (or else the largest there is), then one without sound, then the fewest bytes. A format that is
    known to have more than ``max_bytes`` is passed over.

    Raises:
        NoneUsable: None is one plain file with pictures.
        AllTooLarge: All of those are larger than ``max_bytes``.
    """
    usable = [one for one in formats if _is_usable(one)]
    if not usable:
        raise NoneUsable
    fitting = [one for one in usable if (one.get("filesize") or 0) <= max_bytes]
    if not fitting:
        raise AllTooLarge
    return min(fitting, key=lambda one: _rank(one, height))


def short_side(description: Mapping[str, Any]) -> int:
    """Pixels of the shorter side of the picture; 0 where it is not told."""
    sides = [side for name in ("width", "height") if (side := description.get(name))]
    return int(min(sides)) if sides else 0


def _is_usable(description: Mapping[str, Any]) -> bool:
    return (
        description.get("protocol") == _PROTOCOL
        and description.get("ext") in _CONTAINERS
        and not description.get("fragments")
        and not description.get("has_drm")
        and _codec(description) < len(_CODECS)
        and str(description.get("url", "")).startswith("https://")
    )


def _codec(description: Mapping[str, Any]) -> int:
    """Place in the order of preference; ``len(_CODECS)`` for none of these."""
    name = str(description.get("vcodec") or "").lower()
    places = [place for place, names in enumerate(_CODECS) if name.startswith(names)]
    return places[0] if places else len(_CODECS)


def _rank(description: Mapping[str, Any], height: int) -> tuple[float, ...]:
    side = short_side(description)
    too_small = side < height
    has_sound = description.get("acodec") not in (None, "none")
    size = description.get("filesize") or description.get("filesize_approx") or 0
    return (_codec(description), too_small, -side if too_small else side, has_sound, size)
