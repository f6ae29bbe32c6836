"""What the page shows, as HTML: bars, frames, comparisons, timelines. It knows nothing of Gradio.

A ``str`` named or returned as HTML may stand in the page as it is; anything else is text, and is
escaped first. Pictures are inline, so no file is left behind by showing one.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lora_deploy.classify.timeline import Segment, Timeline
from lora_deploy.clips.clip import DecodedClip
from lora_deploy.demo.answers import Answer, Comparison
from lora_deploy.demo.examples import Example
from lora_deploy.proof.markup import shown

FRAME_SIDE = 112
"""Longer side in pixels that a frame is shown at; the model may see larger ones."""

ADAPTER_OFF = "With the adapter off another answer is to be expected: the difference is what the adapter learned."

_QUALITY = 80
_GOLDEN_ANGLE = 137.508
"""Degrees between the hues of neighbouring labels, so that any number of them stays apart."""


def in_one_line(content_html: str | None) -> str | None:
    """The same without line breaks of any kind, which a label may have."""
    return None if content_html is None else " ".join(content_html.splitlines())


def waiting() -> str:
    """Before anything was asked."""
    return '<div class="ld-empty">Choose a video, and the answer appears here.</div>'


def problem(sentence: str) -> str:
    """Why there is no answer, beside the control that caused it."""
    return f'<div class="ld-problem" role=alert>{escape(sentence)}</div>' if sentence else ""


def answer(found: Answer) -> str:
    """The label in large letters, bars of the most probable ones, and how long it took."""
    prediction = found.prediction
    if prediction.is_unknown:
        best, score = prediction.top_k[0]
        head = (
            '<p class="ld-label">Unknown</p>'
            f"<p class=ld-soft>Nothing this model knows is likely enough; the nearest is "
            f"{shown(best)} with {_percent(score)}.</p>"
        )
    else:
        head = (
            f'<p class="ld-label">{shown(prediction.label)}</p>'
            f"<p class=ld-soft>{_percent(prediction.score)} · {escape(found.title)}</p>"
        )
    warning = _note(f"About this file: {prediction.warning}.", "warn") if prediction.warning else ""
    return (
        f'<div class="ld-answer" aria-live=polite>{head}{bars(prediction.top_k)}'
        f"<p class=ld-soft>{escape(_took(found.seconds))}</p>{warning}</div>"
    )


def of_a_part(start_seconds: float | None, end_seconds: float | None) -> str:
    """Which seconds of the video were asked about."""
    end = clock(end_seconds) if end_seconds else "the end"
    return _note(f"Of the video from {clock(start_seconds or 0.0)} to {end}.", "soft")


def bars(top_k: Sequence[tuple[str, float]]) -> str:
    """A bar for each label, its figure beside it."""
    rows = "".join(
        f"<li><span class=ld-name>{shown(label)}</span>"
        f'<span class=ld-bar aria-hidden=true><i style="width:{100 * score:.1f}%"></i></span>'
        f"<b>{_percent(score)}</b></li>"
        for label, score in top_k
    )
    return f'<ol class=ld-bars aria-label="The most probable labels">{rows}</ol>'


def frames(found: Answer) -> str:
    """The exact frames that the model saw, with the time of each in the file."""
    return strip(found.clip.frames, found.times_in_file_seconds)


def strip(pictures: NDArray[np.uint8], times_seconds: Sequence[float]) -> str:
    """Frames [frames, height, width, 3] side by side with their times."""
    figures = "".join(
        f'<figure><img alt="Frame at {clock(time)}" src="{picture_address(picture)}">'
        f"<figcaption>{clock(time)}</figcaption></figure>"
        for picture, time in zip(pictures, times_seconds, strict=True)
    )
    height, width = pictures.shape[1:3]
    return (
        f"<p class=ld-soft>What the model saw: {len(pictures)} frames of {width}×{height} pixels, "
        f"cut from the middle.</p><div class=ld-frames>{figures}</div>"
    )


def examples(clips: Sequence[Example], chooser: str) -> str:
    """Clips to try, each a button with a picture."""
    buttons = "".join(
        f'<button type=button data-choose={index}><img alt="" src="{picture_address(one.picture)}">'
        f"<span>{shown(one.name)}</span></button>"
        for index, one in enumerate(clips)
    )
    return (
        f"<p class=ld-soft id=ld-examples-title>Or try one of these</p>"
        f"<div class=ld-examples data-chooser={chooser} role=group aria-labelledby=ld-examples-title>{buttons}</div>"
    )


def comparison(found: Comparison) -> str:
    """Forms side by side."""
    difference = found.largest_difference
    if difference is None:
        head = "These models know different labels, so only their answers can be compared."
    else:
        who = "All" if found.alike == found.answers else "All with the adapter on"
        same = f"{who} give the same label" if found.same_label else "The labels differ"
        head = f"{same}; probabilities differ by at most {_small(difference)}."
    columns = "".join(
        f"<section class=ld-column><h2>{escape(one.title)}</h2>"
        f'<p class="ld-label">{shown(one.prediction.label)}</p>{bars(one.prediction.top_k)}'
        f"<p class=ld-soft>{escape(_took(one.seconds))}</p></section>"
        for one in found.answers
    )
    style = "good" if difference is not None and found.same_label else "warn"
    off = _note(ADAPTER_OFF, "soft") if any(one.form == "base" for one in found.answers) else ""
    return (
        f'<div class="ld-answer" aria-live=polite>{_note(head, style)}{off}'
        f"<div class=ld-columns>{columns}</div></div>"
    )


def timeline(found: Timeline, chooser: str, title: str) -> str:
    """A strip of labels over time, a legend, and the times below; segments can be chosen by click.

    Args:
        found: What to show.
        chooser: Identifier of the field that is told which one was clicked.
        title: Of the form, for people.
    """
    whole = found.duration_seconds or 1.0
    pieces = "".join(
        f"<button type=button data-choose={index} aria-pressed=false "
        f'style="left:{100 * one.start_seconds / whole:.3f}%;'
        f"width:{100 * (one.end_seconds - one.start_seconds) / whole:.3f}%;"
        f'{_hue(one, found.labels)}" title="{escape(_told(one))}" '
        f'aria-label="{escape(_told(one))}"><span>{shown(one.label)}</span></button>'
        for index, one in enumerate(found.segments)
    )
    rows = "".join(
        f"<li><button type=button data-choose={index} aria-pressed=false>"
        f'<i class=ld-dot style="{_hue(one, found.labels)}" aria-hidden=true></i>'
        f"<span>{clock(one.start_seconds)} – {clock(one.end_seconds)}</span>"
        f"<b>{shown(one.label)}</b><span>{_percent(one.score)}</span></button></li>"
        for index, one in enumerate(found.segments)
    )
    marks = "".join(f"<span>{clock(whole * part / 4)}</span>" for part in range(5))
    warning = _note(f"About this file: {found.warning}.", "warn") if found.warning else ""
    return (
        f'<div class=ld-timeline data-chooser={chooser}><div class=ld-strip role=group aria-label="Labels over time">{pieces}'
        f"</div><div class=ld-axis aria-hidden=true>{marks}</div>"
        f"<ol class=ld-segments>{rows}</ol><p class=ld-soft>{escape(title)}</p>{warning}</div>"
    )


def segment(chosen: Segment, clip: DecodedClip) -> str:
    """What the model saw of a segment's clearest window."""
    times_seconds = [clip.start_seconds + time for time in clip.times_seconds]
    window = f"{clock(chosen.best_start_seconds)} to {clock(chosen.best_end_seconds)}"
    return (
        f"<h2>{shown(chosen.label)}, {clock(chosen.start_seconds)} – {clock(chosen.end_seconds)}"
        f"</h2><p class=ld-soft>Of the pieces that were looked at here, it is most probable from "
        f"{window}.</p>{strip(clip.frames, times_seconds)}"
    )


def _told(segment: Segment) -> str:
    return (
        f"{segment.label}, {clock(segment.start_seconds)} to {clock(segment.end_seconds)}, "
        f"{_percent(segment.score)}"
    )


def _hue(segment: Segment, labels: Sequence[str]) -> str:
    """As CSS; what is unknown is grey."""
    if segment.is_unknown:
        return "--hue:0;--much:0%"
    return f"--hue:{(labels.index(segment.label) * _GOLDEN_ANGLE) % 360:.0f};--much:60%"


def picture_address(picture: NDArray[np.uint8]) -> str:
    """A frame [height, width, 3] as the address of a small picture that is in the address itself."""
    image = Image.fromarray(picture)
    image.thumbnail((FRAME_SIDE, FRAME_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _note(text: str, style: str) -> str:
    return f'<p class="ld-{style}">{escape(text)}</p>'


_STAGES = {"open": "opening the model", "decode": "reading the video", "infer": "the model"}

_NOTHING_SECONDS = 0.001
"""A stage that took less did nothing."""


def _took(seconds: Mapping[str, float]) -> str:
    return " · ".join(
        f"{words} {_duration(seconds[stage])}"
        for stage, words in _STAGES.items()
        if seconds.get(stage, 0.0) >= _NOTHING_SECONDS
    )


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _percent(score: float) -> str:
    return f"{100 * score:.1f}%"


def _small(difference: float) -> str:
    return f"{difference:.1e}" if difference < 0.001 else f"{difference:.3f}"


def clock(seconds: float) -> str:
    """``0:03.2``: minutes, seconds and tenths; hours where there are any."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest / 10:04.1f}"
    return f"{minutes}:{rest / 10:04.1f}"
