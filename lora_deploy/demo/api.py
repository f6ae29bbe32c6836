"""The endpoints for programs: the same answers as JSON. A clip without an answer gets a row that says why."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gradio as gr

from lora_deploy.classify.timeline import Timeline
from lora_deploy.demo.answers import Answer
from lora_deploy.demo.handlers import Handlers, Part, Problem

Json = dict[str, Any]


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
        answer = gr.JSON()
        endpoint = gr.Button()

    def classify(
        video: str | None,
        form: str,
        top_k: int,
        start_seconds: float,
        end_seconds: float,
    ) -> Json:
        """Say what happens in a video, or between two times of it (0 is its end), by one form."""
        return _row(
            lambda: _as_row(handlers.ask(video, form, Part(start_seconds, end_seconds), int(top_k)))
        )

    def classify_link(link: str, form: str, top_k: int) -> Json:
        """Fetch a linked video and say what happens in it."""

        def ask() -> Json:
            fetched, part = handlers.fetch(link, lambda _: None)
            return _as_row(handlers.ask(fetched, form, part, int(top_k)))

        return _row(ask)

    def timeline(
        video: str | None, form: str, window_seconds: float, stride_seconds: float
    ) -> Json:
        """Say what happens when in a long video."""

        def ask() -> Json:
            found = handlers.timeline(video, form, window_seconds, stride_seconds)
            return {"status": "ok", **_timeline_row(found)}

        return _row(ask)

    for ask, inputs in (
        (classify, [clip, form, top_k, start, end]),
        (classify_link, [link, form, top_k]),
        (timeline, [clip, form, window_seconds, stride_seconds]),
    ):
        endpoint.click(ask, inputs, answer, api_name=ask.__name__, show_progress="hidden")


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
