"""A timeline as a self-contained page: strips of labels over time, and a table with pictures.

No script, nothing loaded from elsewhere; labels and the name of the video may be a stranger's words.
"""

import base64
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from lora_deploy.classify.timeline.look import Timeline
from lora_deploy.classify.timeline.page_style import STYLE
from lora_deploy.classify.timeline.segments import Segment
from lora_deploy.classify.timeline.windows import TimelineOptions
from lora_deploy.proof import page_style
from lora_deploy.proof.markup import Row, bar, paragraph, section, shown, stacked_table
from lora_deploy.proof.page import POLICY

MOST_STRIPS = 12
"""One below the other; the longer the video, the more seconds are in each."""

_STRIP_SECONDS = (120, 300, 600, 900, 1800, 3600)

_GOLDEN_ANGLE = 137.508
"""Degrees between the hues of neighbouring labels, so that any number of them stays apart."""

_THIN = 0.04
"""Of a strip; what is narrower has no room for a word."""

_SHORT = 0.18
"""Likewise on a phone."""


def timeline_html(
    found: Timeline, name: str, options: TimelineOptions, pictures: Mapping[int, bytes]
) -> str:
    """Render a timeline as one HTML file.

    Args:
        found: What to show.
        name: Of the video, for people.
        options: With which it was looked through.
        pictures: JPEGs by number of the segment; some may be missing.
    """
    warning = paragraph(f"About this video: {found.warning}.", "notice") if found.warning else ""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>Timeline: {escape(name)}</title><link rel=icon href='data:,'>"
        f"<style>{page_style.STYLE}{STYLE}</style><main>{_head(found, name, options)}{warning}"
        f"{_strips(found)}{_table(found, pictures)}</main>"
        "<footer>Made by lora-deploy timeline. Scores are means over the windows of a segment; "
        "the picture is the middle of its clearest window, as the model sees it.</footer></html>\n"
    )


def _head(found: Timeline, name: str, options: TimelineOptions) -> str:
    windows = (
        f"{len(found.windows):,} of {options.window_seconds:g} s, "
        f"one every {found.stride_seconds:.3g} s"
    )
    facts = {
        "Duration": moment(found.duration_seconds),
        "Segments": f"{len(found.segments):,}",
        "Windows": windows,
        "Model": found.model.removeprefix("sha256:")[:12],
    }
    items = "".join(f"<div><dt>{title}<dd>{shown(value)}</div>" for title, value in facts.items())
    return f"<header><h1>{shown(name)}</h1><dl class=facts>{items}</dl></header>"


def _strips(found: Timeline) -> str:
    strip_seconds = _strip_seconds(found.duration_seconds)
    lines = math.ceil(found.duration_seconds / strip_seconds - 1e-9)
    several = lines > 1
    strips = "".join(
        _strip(found, line * strip_seconds, strip_seconds, several) for line in range(lines)
    )
    marks = "" if several else _axis(found.duration_seconds)
    told = f"Each strip is {moment(strip_seconds)} long. " if several else ""
    return section(
        "strip",
        "What happens when",
        f"<ul class=legend>{_legend(found)}</ul>",
        f"<div class={'strips' if several else 'one'}>{strips}</div>{marks}",
        paragraph(f"{told}A click on a colour leads to its line in the table.", "soft"),
    )


def _strip_seconds(duration_seconds: float) -> float:
    """The whole video where it is short, else a round number."""
    if duration_seconds <= _STRIP_SECONDS[0] * 1.5:
        return max(duration_seconds, 1e-3)
    return next(
        (one for one in _STRIP_SECONDS if duration_seconds <= one * MOST_STRIPS), _STRIP_SECONDS[-1]
    )


def _strip(found: Timeline, start: float, length: float, several: bool) -> str:
    end = min(start + length, found.duration_seconds)
    pieces = "".join(
        _piece(number, one, found.labels, max(one.start_seconds, start), min(one.end_seconds, end),
               start, end)
        for number, one in enumerate(found.segments)
        if one.start_seconds < end and one.end_seconds > start
    )  # fmt: skip
    width = 100 * (end - start) / length
    strip = f'<div class=strip style="width:{width:.3f}%">{pieces}</div>'
    return f"<time>{moment(start, tenths=False)}</time>{strip}" if several else strip


def _piece(
    number: int, one: Segment, labels: Sequence[str], begins: float, ends: float,
    start: float, end: float,
) -> str:  # fmt: skip
    width = (ends - begins) / (end - start)
    # Isolated as `shown` does it, where no element can stand.
    told = f"\u2068{one.label}\u2069, {_from_to(one)}, {_percent(one.score)}"
    word = shown(one.label) if width > _THIN else ""
    kinds = " ".join(
        kind
        for kind, is_so in (
            ("unknown", one.is_unknown),
            ("thin", not word),
            ("short", width < _SHORT),
        )
        if is_so
    )
    return (
        f'<a href="#s{number}" class="{kinds}" title="{escape(told)}" aria-label="{escape(told)}" '
        f'style="left:{100 * (begins - start) / (end - start):.3f}%;width:{100 * width:.3f}%;'
        f'{_hue(one, labels)}">{word}</a>'
    )


def _axis(duration_seconds: float) -> str:
    marks = "".join(f"<span>{moment(duration_seconds * part / 4)}</span>" for part in range(5))
    return f"<div class=axis aria-hidden=true>{marks}</div>"


def _legend(found: Timeline) -> str:
    """Each label that is found, with its part of the time, the longest first."""
    seconds: dict[tuple[str, bool], float] = defaultdict(float)
    example: dict[tuple[str, bool], Segment] = {}
    for one in found.segments:
        seconds[one.label, one.is_unknown] += one.end_seconds - one.start_seconds
        example.setdefault((one.label, one.is_unknown), one)
    whole = found.duration_seconds or 1.0
    return "".join(
        f"<li>{_dot(example[key], found.labels)}{shown(key[0])} "
        f"<small>{_percent(seconds[key] / whole)}</small>"
        for key in sorted(seconds, key=seconds.__getitem__, reverse=True)
    )


def _table(found: Timeline, pictures: Mapping[int, bytes]) -> str:
    rows = [Row(list(_cells(number, found, pictures))) for number in range(len(found.segments))]
    missing = len(found.segments) - len(pictures)
    told = ""
    if pictures and missing:
        told = paragraph(f"The {len(pictures):,} longest segments have a picture.", "soft")
    return section(
        "segments", "Segments", told, stacked_table(("Start", "End", "Label", "Confidence"), rows)
    )


def _cells(number: int, found: Timeline, pictures: Mapping[int, bytes]) -> Iterator[str]:
    one = found.segments[number]
    picture = "<i></i>" if pictures else ""
    if number in pictures:
        address = "data:image/jpeg;base64," + base64.b64encode(pictures[number]).decode()
        picture = f'<img alt="" src="{address}">'
    start = f"<span><small>Start</small>{moment(one.start_seconds)}</span>"
    yield f"<span class=when id=s{number}>{picture}{start}</span>"
    yield moment(one.end_seconds)
    yield f"{_dot(one, found.labels)}{shown(one.label)}"
    guess = "<small>the best guess</small>" if one.is_unknown else ""
    yield f"{_percent(one.score)}{guess}{bar(one.score)}"


def _dot(one: Segment, labels: Sequence[str]) -> str:
    kind = "dot unknown" if one.is_unknown else "dot"
    return f'<i class="{kind}" style="{_hue(one, labels)}" aria-hidden=true></i>'


def _hue(one: Segment, labels: Sequence[str]) -> str:
    """As CSS."""
    if one.is_unknown:
        return "--hue:0;--much:0"
    return f"--hue:{(40 + labels.index(one.label) * _GOLDEN_ANGLE) % 360:.0f};--much:.13"


def _from_to(one: Segment) -> str:
    return f"{moment(one.start_seconds)} to {moment(one.end_seconds)}"


def _percent(part: float) -> str:
    return f"{100 * part:.1f}%"


def moment(seconds: float, *, tenths: bool = True) -> str:
    """``0:03.2``: minutes, seconds and tenths; hours where there are any."""
    minutes, rest = divmod(round(seconds * 10), 600)
    hours, minutes = divmod(minutes, 60)
    told = f"{rest / 10:04.1f}" if tenths else f"{rest // 10:02d}"
    return f"{hours}:{minutes:02d}:{told}" if hours else f"{minutes}:{told}"
