"""What yt-dlp complains of, as one of our kinds: by the type of the error, then by YouTube's words.

yt-dlp hands on YouTube's own English sentences, so words are all there is to go by. A sentence that
is not known here is told as what it most likely is, and never shown.
"""

import re

from lora_deploy.errors import LinkErrorKind

_WORDS: tuple[tuple[LinkErrorKind, str], ...] = (
    # The first that fits counts, so what is particular stands before what is general.
    ("age", r"confirm your age|age.restricted|inappropriate for some|adults only"),
    ("sign_in", r"not a bot|captcha|ip is likely being blocked|sign in to (?:confirm|continue)"),
    (
        "members",
        r"members.only|members on level|channel's members|join this channel|(?:youtube|music) premium|"
        r"requires? payment|purchase|\brent(?:al)?\b|paid (?:content|video)",
    ),
    ("private", r"private video|\bis private"),
    (
        "region",
        r"(?:your|this) (?:country|region|location)|geo.?restrict|georestrict",
    ),
    ("premiere", r"premieres? (?:in|will)|live event will begin|will begin (?:in|shortly)"),
    ("live", r"live event has not|\bis live\b|live stream is (?:on|offline)"),
    ("busy", r"try again later|rate.limited|too many requests"),
    ("no_format", r"\bdrm\b|requested format|no video formats|only images are available"),
    (
        "removed",
        r"video unavailable|unavailable|not available|isn't available|no longer available|removed|"
        r"terminated|does not exist|taken down|copyright|deleted|incomplete youtube id|truncated",
    ),
    ("sign_in", r"sign in|log ?in|cookies"),
)

_UNEXPECTED = re.compile(r"please report this issue|unable to extract|failed to extract|\bbug\b")


def kind_of_text(text: str) -> LinkErrorKind:
    """What an error of yt-dlp's is, from its words alone; ``outdated`` where they say nothing known."""
    words = text.lower().replace("’", "'")
    unexpected = _UNEXPECTED.search(words)
    for kind, pattern in _WORDS:
        if re.search(pattern, words) and not (unexpected and kind == "removed"):
            return kind
    return "outdated"


def kind_of_status(status: int) -> LinkErrorKind:
    """What an HTTP status that is no success means for a file."""
    if status in (404, 410):
        return "not_found"
    return "busy" if status == 429 else "refused"
