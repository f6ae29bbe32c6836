"""Every refusal is one sentence for a visitor: each kind has one, and yt-dlp's words find theirs."""

from typing import get_args

import pytest

from lora_deploy import errors
from lora_deploy.errors import LinkError, LinkErrorKind
from lora_deploy.links.complaints import kind_of_status, kind_of_text
from lora_deploy.links.messages import Refused, printable
from lora_deploy.links.refusals import error_of
from scripts import error_docs

NAMED = [one for one in error_docs.named() if issubclass(one, LinkError)]
BEFORE_ANY_PROCESS = {"malformed", "host"}


def told(
    kind: LinkErrorKind, found_seconds: float | None = None, found_bytes: int | None = None
) -> LinkError:
    refused = Refused(
        kind=kind, found_seconds=found_seconds, found_bytes=found_bytes, log="internal"
    )
    return error_of(
        refused, place="YouTube", max_bytes=200 << 20, max_seconds=600, deadline_seconds=120
    )


def test_every_kind_has_one_error_and_every_error_one_kind() -> None:
    assert sorted(one.kind for one in NAMED) == sorted(get_args(LinkErrorKind))
    assert len({one.kind for one in NAMED}) == len(NAMED)


@pytest.mark.parametrize("kind", sorted(set(get_args(LinkErrorKind)) - BEFORE_ANY_PROCESS))
def test_a_refusal_becomes_the_error_of_its_kind(kind: LinkErrorKind) -> None:
    error = told(kind)
    assert error.kind == kind
    assert error.exit_code == 2


@pytest.mark.parametrize("kind", sorted(set(get_args(LinkErrorKind)) - BEFORE_ANY_PROCESS))
def test_it_is_one_sentence_without_internals(kind: LinkErrorKind) -> None:
    text = str(told(kind, found_seconds=700.0, found_bytes=300 << 20))
    assert text.isprintable()
    assert len(text) < 250
    for word in ("internal", "/", "Error", "Traceback", "ffmpeg", "http"):
        assert word not in text
    assert "yt-dlp" not in text or kind in ("outdated", "no_javascript")


def test_numbers_are_told_as_people_read_them() -> None:
    assert "1:01:40 long, and at most 10:00" in str(told("too_long", found_seconds=3700))
    assert "has 315 MB, and at most 210 MB" in str(told("too_large", found_bytes=300 << 20))
    assert "more than 120 seconds" in str(told("timeout"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Sign in to confirm you’re not a bot. Use --cookies-from-browser", "sign_in"),
        ("Sign in to confirm you're not a bot", "sign_in"),
        ("Please sign in. YouTube is requiring a captcha challenge before playback", "sign_in"),
        ("All player responses are invalid. Your IP is likely being blocked by Youtube", "sign_in"),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", "age"),
        ("This video is age-restricted and only available on YouTube", "age"),
        ("Private video. Sign in if you've been granted access to this video", "private"),
        ("Video unavailable. This video is private", "private"),
        ("Join this channel to get access to members-only content like this video", "members"),
        ("This video is available to this channel's members on level: Gold", "members"),
        ("This video is only available to Music Premium members", "members"),
        ("This video requires payment to watch", "members"),
        ("The uploader has not made this video available in your country", "region"),
        ("Video unavailable. This video contains content from X, who has blocked it in your country on copyright grounds", "region"),
        ("This video is not available from your location due to geo restriction", "region"),
        ("This live event will begin in 36 minutes.", "premiere"),
        ("Premieres in 10 hours", "premiere"),
        ("Premiere will begin shortly", "premiere"),
        ("This content isn't available, try again later. The current session has been rate-limited by YouTube", "busy"),
        ("Video unavailable. This video has been removed by the uploader", "removed"),
        ("Video unavailable. This video is no longer available because the YouTube account associated with this video has been terminated.", "removed"),
        ("This video has been removed for violating YouTube's Terms of Service", "removed"),
        ("This live stream recording is not available.", "removed"),
        ("Incomplete YouTube ID abc. URL looks truncated.", "removed"),
        ("This video is DRM protected", "no_format"),
        ("Requested format is not available. Use --list-formats", "no_format"),
        ("No video formats found!; please report this issue on https://github.com/yt-dlp", "no_format"),
        ("Failed to extract any player response; please report this issue on", "outdated"),
        ("Unable to extract uploader id; please report this issue on", "outdated"),
        ("An extractor error has occurred. (caused by KeyError('x')); please report this issue", "outdated"),
        ("Something else entirely", "outdated"),
    ],
)  # fmt: skip
def test_words_of_yt_dlp_find_their_kind(text: str, kind: str) -> None:
    assert kind_of_text(f"ERROR: [youtube] dQw4w9WgXcQ: {text}") == kind


def test_statuses_find_their_kind() -> None:
    assert [kind_of_status(number) for number in (401, 403, 404, 410, 429, 500, 503)] == [
        "refused", "refused", "not_found", "not_found", "busy", "refused", "refused",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A title", "A title"),
        ("  two\nlines\t ", "two lines"),
        ("\x1b[2J\x07bell", "[2J bell"),
        ("\u202eevil\u2066", "evil"),
        ("\x00\u200b", ""),
        ("日本語 🎬", "日本語 🎬"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_a_title_becomes_one_printable_line(text: str, line: str) -> None:
    assert printable(text) == line


def test_the_errors_of_links_are_beside_their_kin() -> None:
    assert issubclass(errors.SignInAskedError, errors.LinkError)
    assert str(told("sign_in")) == "YouTube asks this server to sign in; please upload the file"
