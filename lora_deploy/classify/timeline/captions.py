"""Segments as captions that a player shows over the video: SubRip and WebVTT.

What is unknown gets no caption. A label is the words of whoever made the model, so nothing in it may be
taken for a time, a tag or the end of a caption.
"""

from collections.abc import Iterator, Sequence

from lora_deploy.classify.timeline.segments import Segment

_SUBRIP = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "\\": "/"})
"""SubRip knows no escaping: players take ``<b>`` and ``{\\an8}`` for orders, and show ``&lt;`` as it is."""

_WEBVTT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def subrip(segments: Sequence[Segment]) -> str:
    """An ``.srt`` file; numbers, times with a comma."""
    cues = enumerate(_cues(segments), start=1)
    return "".join(
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text.translate(_SUBRIP)}\n\n"
        for number, (start, end, text) in cues
    )


def webvtt(segments: Sequence[Segment]) -> str:
    """A ``.vtt`` file, as the W3C has it."""
    cues = "".join(
        f"\n{_time(start, '.')} --> {_time(end, '.')}\n{text.translate(_WEBVTT)}\n"
        for start, end, text in _cues(segments)
    )
    return f"WEBVTT\n{cues}"


def _cues(segments: Sequence[Segment]) -> Iterator[tuple[int, int, str]]:
    """Begin and end in milliseconds, and one line of text."""
    for segment in segments:
        start, end = round(segment.start_seconds * 1000), round(segment.end_seconds * 1000)
        if not segment.is_unknown and start < end:
            yield start, end, f"{_one_line(segment.label)} ({100 * segment.score:.0f}%)"


def _one_line(label: str) -> str:
    """Without line breaks, and with a mark in place of what can't be printed."""
    signs = (sign if sign.isprintable() else "\ufffd" for sign in " ".join(label.split()))
    return "".join(signs)


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{rest:03d}"
