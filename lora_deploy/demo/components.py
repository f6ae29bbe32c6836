"""Gradio's video and Markdown, each without something that a stranger's file or label could use.

As classes: Gradio makes a component anew, from its class and what it was made with, for each visitor
whose page it changes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import component_meta
from gradio.data_classes import FileData

from lora_deploy.demo.views import in_one_line


@contextmanager
def _without_stubs() -> Iterator[None]:
    """Gradio writes a stub beside the source of each new component; the source may be installed."""
    writer: Any = component_meta.create_or_modify_pyi
    vars(component_meta)["create_or_modify_pyi"] = lambda *_: None
    try:
        yield
    finally:
        vars(component_meta)["create_or_modify_pyi"] = writer


with _without_stubs():

    class _ClipVideo(gr.Video):
        """A video as it was uploaded: Gradio converts some, by the system's ffmpeg and without a fence."""

        is_template = True  # in the browser it is a video

        def _format_video(self, video: str | Path | None) -> FileData | None:
            return None if video is None else FileData(path=str(video))

    class _Html(gr.Markdown):
        """HTML of our own in one line, which Markdown takes as it is where a block's tag begins it.

        Gradio's component for HTML evaluates templates as code, which this page allows to nothing.
        """

        is_template = True

        def postprocess(self, value: Any) -> str | None:
            """Without line breaks, after which Markdown would take a label's words for its own."""
            return in_one_line(value)


def clip_video(**options: Any) -> gr.Video:
    """Where a video is uploaded or recorded, and shown."""
    return _ClipVideo(
        sources=["upload", "webcam"],
        include_audio=True,  # else ffmpeg takes the sound away
        webcam_options=gr.WebcamOptions(mirror=False),
        **options,
    )


def html_place(content_html: str, elem_id: str) -> gr.Markdown:
    """A place for HTML of our own, which begins with a block's tag."""
    return _Html(content_html, sanitize_html=False, latex_delimiters=[], elem_id=elem_id)
