"""What a visitor is told: each kind of refusal as a named error, in one sentence without internals."""

from lora_deploy.errors import (
    AgeLimitError,
    DownloaderOutdatedError,
    LinkAddressError,
    LinkError,
    LinkNotFoundError,
    LinkRedirectError,
    LinkRefusedError,
    LinksUnavailableError,
    LinkTimeoutError,
    LinkTimesError,
    LinkTooLargeError,
    LinkTooLongError,
    LiveVideoError,
    MembersOnlyError,
    NoJavaScriptError,
    NoNetworkError,
    NotAVideoFileError,
    NotOneVideoError,
    NoUsableFormatError,
    PremiereError,
    PrivateVideoError,
    RegionBlockedError,
    SignInAskedError,
    TooManyRequestsError,
    VideoGoneError,
)
from lora_deploy.links.messages import Refused


def error_of(
    refused: Refused, *, place: str, max_bytes: int, max_seconds: float, deadline_seconds: float
) -> LinkError:
    """The named error that a fetching process's refusal becomes.

    Args:
        refused: What it said.
        place: ``YouTube``, or the host of a plain file.
        max_bytes: Of the limits, as the next two.
        max_seconds: That a video may last.
        deadline_seconds: For the whole errand.
    """
    match refused.kind:
        case "too_long":
            return LinkTooLongError(_too_long(refused.found_seconds, max_seconds))
        case "too_large":
            return LinkTooLargeError(_too_large(refused.found_bytes, max_bytes))
        case "timeout":
            return LinkTimeoutError(f"{place} took more than {deadline_seconds:g} seconds")
        case "times":
            length = f"{_clock(refused.found_seconds)} long" if refused.found_seconds else "shorter"
            return LinkTimesError(f"the link begins after the end of the video, which is {length}")
    return _of_host(refused, place) or _of_video(refused)


def _of_host(refused: Refused, place: str) -> LinkError | None:
    """What the network or any host can bring about."""
    match refused.kind:
        case "address":
            return LinkAddressError(f"{place} leads to a computer that is not public")
        case "redirect":
            return LinkRedirectError(f"{place} sends on to a place that is not opened here")
        case "no_network":
            return NoNetworkError(f"{place} can't be reached from this server")
        case "refused":
            return LinkRefusedError(f"{place} does not give the file out")
        case "not_found":
            return LinkNotFoundError(f"{place} has nothing at this address")
        case "busy":
            return TooManyRequestsError(f"{place} says that this server asks too often")
        case "not_video":
            return NotAVideoFileError(f"what {place} sends is no video")
        case "unavailable":
            return LinksUnavailableError("links can't be fetched on this server now")
    return None


def _of_video(refused: Refused) -> LinkError:
    """What YouTube says of a video."""
    match refused.kind:
        case "sign_in":
            return SignInAskedError("YouTube asks this server to sign in")
        case "private":
            return PrivateVideoError("the video is private")
        case "removed":
            return VideoGoneError("YouTube has no such video, or does not show it any more")
        case "region":
            return RegionBlockedError("YouTube does not show this video where the server is")
        case "age":
            return AgeLimitError("YouTube shows this video only to adults who have signed in")
        case "live":
            return LiveVideoError("the video is being broadcast live")
        case "premiere":
            return PremiereError("the video has not begun yet")
        case "members":
            return MembersOnlyError("YouTube shows this video only to people who pay for it")
        case "not_one_video":
            return NotOneVideoError("the link leads to more than one video")
        case "no_format":
            return NoUsableFormatError("YouTube offers this video in no form that can be fetched")
        case "no_javascript":
            return NoJavaScriptError(
                "this server lacks the JavaScript runtime that YouTube asks for"
            )
    return DownloaderOutdatedError("YouTube has changed, and this server can't follow it yet")


def _too_long(found_seconds: float | None, max_seconds: float) -> str:
    allowed = f"at most {_clock(max_seconds)} is fetched"
    if found_seconds is None:
        return f"the video's length is not told, and {allowed}"
    return f"the video is {_clock(found_seconds)} long, and {allowed}"


def _too_large(found_bytes: int | None, max_bytes: int) -> str:
    allowed = f"{_megabytes(max_bytes)}"
    if found_bytes is None:
        return f"the file is larger than the {allowed} that are fetched at most"
    return f"the file has {_megabytes(found_bytes)}, and at most {allowed} are fetched"


def _clock(seconds: float) -> str:
    """As players show it: 1:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 10_000_000 else f"{size / 1e6:,.1f} MB"
