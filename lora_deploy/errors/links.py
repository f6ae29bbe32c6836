"""Links that give no video: sentences for visitors of the web page."""

from typing import ClassVar, Literal

from lora_deploy.errors.root import LoraDeployError

LinkErrorKind = Literal[
    "malformed",
    "host",
    "address",
    "redirect",
    "not_one_video",
    "times",
    "sign_in",
    "private",
    "removed",
    "region",
    "age",
    "live",
    "premiere",
    "members",
    "too_long",
    "too_large",
    "timeout",
    "no_network",
    "no_format",
    "no_javascript",
    "outdated",
    "refused",
    "not_found",
    "busy",
    "not_video",
    "unavailable",
]

_UPLOAD = "please upload the file"


class LinkError(LoraDeployError):
    """A link that gives no video: one sentence that a visitor of the page understands.

    Nothing of the server is in it, nor anything that another server said.
    """

    kind: ClassVar[LinkErrorKind]
    """A word for counting; each named error has its own."""


class LinkFormError(LinkError):
    """The text is no plain web address: another scheme, a port, a user name, odd characters, too long."""

    kind = "malformed"
    remedy = "paste the address of a video as the browser shows it, beginning with https://"


class LinkHostError(LinkError):
    """The link leads to a host from which nothing is fetched here."""

    kind = "host"
    remedy = _UPLOAD


class LinkAddressError(LinkError):
    """The link leads to no public computer: a number, this network, or a name that means one of those."""

    kind = "address"
    remedy = "only public addresses with a name are opened, so " + _UPLOAD


class LinkRedirectError(LinkError):
    """The host sends on to another place, which is not allowed, or sends on without end."""

    kind = "redirect"
    remedy = _UPLOAD


class NotOneVideoError(LinkError):
    """The link leads to a playlist, a channel, a search or another page of YouTube."""

    kind = "not_one_video"
    remedy = "open one video and paste its address"


class LinkTimesError(LinkError):
    """The start or the end that the link names is no time, or not in the video."""

    kind = "times"
    remedy = "write it as in t=90 or t=1m30s, or leave it out"


class SignInAskedError(LinkError):
    """YouTube takes the server for a program and asks it to sign in; servers in data centres see it often."""

    kind = "sign_in"
    remedy = _UPLOAD


class PrivateVideoError(LinkError):
    """The owner of the video shows it to chosen people only."""

    kind = "private"
    remedy = "choose a public video, or upload the file if it is yours"


class VideoGoneError(LinkError):
    """YouTube has no such video, or does not have it any more."""

    kind = "removed"
    remedy = "see whether the link opens in a browser, or choose another video"


class RegionBlockedError(LinkError):
    """YouTube does not show the video in the country where the server is."""

    kind = "region"
    remedy = _UPLOAD


class AgeLimitError(LinkError):
    """YouTube shows the video only to adults who have signed in."""

    kind = "age"
    remedy = _UPLOAD


class LiveVideoError(LinkError):
    """The video is being broadcast, so it has no end yet."""

    kind = "live"
    remedy = "wait until it is over, or choose another video"


class PremiereError(LinkError):
    """The video has been announced and has not begun."""

    kind = "premiere"
    remedy = "come back when it is out, or choose another video"


class MembersOnlyError(LinkError):
    """YouTube shows the video only to people who pay for it or for its channel."""

    kind = "members"
    remedy = "choose a video that everyone may see"


class LinkTooLongError(LinkError):
    """The video lasts longer than is fetched, or its length is not told."""

    kind = "too_long"
    remedy = "cut out the part that matters and upload it"


class LinkTooLargeError(LinkError):
    """The file has more bytes than is fetched."""

    kind = "too_large"
    remedy = "cut out the part that matters and upload it"


class LinkTimeoutError(LinkError):
    """The file was not here within the time that a link is given."""

    kind = "timeout"
    remedy = "try again later, or upload the file"


class NoNetworkError(LinkError):
    """The server can't reach the host: it has no network, or the host does not answer."""

    kind = "no_network"
    remedy = _UPLOAD


class NoUsableFormatError(LinkError):
    """YouTube offers the video in no form that is one plain file with pictures."""

    kind = "no_format"
    remedy = _UPLOAD


class NoJavaScriptError(LinkError):
    """YouTube gives videos only to programs that can run JavaScript, and the server can't."""

    kind = "no_javascript"
    remedy = (
        'please upload the file; who runs the server types `pip install -U "yt-dlp[default,deno]"`'
    )


class DownloaderOutdatedError(LinkError):
    """YouTube has changed, and the installed yt-dlp no longer understands it."""

    kind = "outdated"
    remedy = (
        "please upload the file; who runs the server updates yt-dlp: "
        '`pip install -U "yt-dlp[default,deno]"`'
    )


class LinkRefusedError(LinkError):
    """The host does not give out the file, or is out of order."""

    kind = "refused"
    remedy = _UPLOAD


class LinkNotFoundError(LinkError):
    """The host has nothing at the address."""

    kind = "not_found"
    remedy = "see whether the link opens in a browser"


class TooManyRequestsError(LinkError):
    """The host was asked too often by the server, and wants a pause."""

    kind = "busy"
    remedy = "try again later, or upload the file"


class NotAVideoFileError(LinkError):
    """What lies at the address is no video, but a page, a picture, a playlist or something torn."""

    kind = "not_video"
    remedy = "paste the address of the video file itself, or upload the file"


class LinksUnavailableError(LinkError):
    """Links can't be fetched on this server now: a package is missing, or there is no room."""

    kind = "unavailable"
    remedy = _UPLOAD
