"""The endpoints for programs: the same answers as JSON. A clip without an answer gets a row that says why."""

import math
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.context import Context

from lora_deploy.classify.timeline import Timeline
from lora_deploy.demo.answers import Answer
from lora_deploy.demo.handlers import Handlers, Part, Problem

Json = dict[str, Any]

ONE_TIMELINE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "timeline"}
"""A long video is labelled beside the rest, one at a time, so that it keeps nobody else waiting."""

LEAST_WINDOW_SECONDS = 0.01
"""Less than a picture lasts in any ordinary video."""


def add_endpoints(handlers: Handlers, clip_video: Callable[[], gr.Video]) -> None:
    """Add ``/classify``, ``/classify_link`` and ``/timeline`` to the page that is being built; nothing of them is seen.

    Args:
        handlers: Of the page.
        clip_video: Makes the component that takes an upload as it is.
    """
    default = handlers.studio.choices.default.name
    with gr.Row(visible=False):
        clip, link = clip_video(), gr.Textbox(max_length=2000)
        form = gr.Textbox(default, max_length=200)
        top_k = gr.Number(5, precision=0)
        start, end = gr.Number(0), gr.Number(0)
        window_seconds, stride_seconds = gr.Number(2.0), gr.Number(2.0)
        for one in (top_k, start, end, window_seconds, stride_seconds):
            vars(one)["preprocess"] = _as_sent
        answer = gr.JSON()
        endpoint = gr.Button()

    checked = _Checked(handlers)

    def classify(
        video: str | None,
        form: str,
        top_k: int,
        start_seconds: float,
        end_seconds: float,
    ) -> Json:
        """Say what happens in a video, or between two times of it (0 is its end), by one form."""

        def ask() -> Json:
            part = Part(
                checked.number_or_none(start_seconds, "start_seconds"),
                checked.number_or_none(end_seconds, "end_seconds"),
            )
            return _as_row(handlers.ask(video, form, part, checked.count(top_k, "top_k")))

        return _row(ask)

    def classify_link(link: str, form: str, top_k: int) -> Json:
        """Fetch a linked video and say what happens in it."""

        def ask() -> Json:
            count = checked.count(top_k, "top_k")
            fetched, part = handlers.fetch(checked.text(link, "link"), lambda _: None)
            return _as_row(handlers.ask(fetched, form, part, count))

        return _row(ask)

    def timeline(
        video: str | None, form: str, window_seconds: float, stride_seconds: float
    ) -> Json:
        """Say what happens when in a long video."""

        def ask() -> Json:
            window = checked.number(window_seconds, "window_seconds")
            if window < LEAST_WINDOW_SECONDS:
                raise handlers.refusal(f"window_seconds is less than {LEAST_WINDOW_SECONDS:g}.")
            stride = checked.number(stride_seconds, "stride_seconds")
            found = handlers.timeline(video, form, window, stride)
            return {"status": "ok", **_timeline_row(found)}

        return _row(ask)

    for ask, inputs in (
        (classify, [clip, form, top_k, start, end]),
        (classify_link, [link, form, top_k]),
        (timeline, [clip, form, window_seconds, stride_seconds]),
    ):
        alone = ONE_TIMELINE if ask is timeline else {}
        endpoint.click(ask, inputs, answer, api_name=ask.__name__, show_progress="hidden", **alone)
    _fill_up(Context.root_block, {"classify", "classify_link", "timeline"})


class _Checked:
    """Values of a request, which may be anything that JSON knows, as what they should be.

    Each raises a `Problem` of the kind ``bad_request`` that names the value.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def number(self, value: object, name: str) -> float:
        found = _finite(value)
        if found is None:
            raise self._handlers.refusal(f"{name} is no number.")
        return found

    def number_or_none(self, value: object, name: str) -> float | None:
        return None if value is None else self.number(value, name)

    def count(self, value: object, name: str) -> int:
        found = self.number(value, name)
        if not found.is_integer():
            raise self._handlers.refusal(f"{name} is no whole number.")
        return int(found)

    def text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise self._handlers.refusal(f"{name} is no text.")
        return value


def _fill_up(page: Any, endpoints: Collection[str]) -> None:
    """What a request leaves out at its end is None to these; Gradio would answer with no reason."""
    check = page.validate_inputs

    def filled(function: Any, values: list[Any]) -> None:
        if function.api_name in endpoints:
            values.extend([None] * (len(function.inputs) - len(values)))
        check(function, values)

    vars(page)["validate_inputs"] = filled


def _as_sent(value: object) -> object:
    """In place of Gradio's own conversion, whose errors say nothing."""
    return value


def _finite(value: object) -> float | None:
    """None for what is no number, as JSON has it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int that no float holds
        return None


def _row(ask: Callable[[], Json]) -> Json:
    try:
        return ask()
    except Problem as found:
        return {"status": "error", "error": {"kind": found.kind, "message": str(found)}}


def _as_row(found: Answer) -> Json:
    prediction = found.prediction
    return {
        "status": "ok",
        "label": prediction.label,
        "is_unknown": prediction.is_unknown,
        "score": prediction.score,
        "top_k": [list(pair) for pair in prediction.top_k],
        "form": found.name,
        "frames_seconds": list(found.times_in_file_seconds),
        "duration_seconds": prediction.duration_seconds,
        "warning": prediction.warning,
        "seconds": dict(found.seconds),
        "model": found.model,
    }


def _timeline_row(found: Timeline) -> Json:
    row = asdict(found)
    del row["windows"]  # the segments say it shorter
    return row
