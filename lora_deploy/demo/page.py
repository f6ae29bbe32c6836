"""The page itself, in Gradio: what stands where, and which answer belongs to which control."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from lora_deploy.classify.timeline import Timeline
from lora_deploy.demo import about, api, look, views
from lora_deploy.demo.answers import Studio
from lora_deploy.demo.components import clip_video, html_place
from lora_deploy.demo.examples import Example
from lora_deploy.demo.handlers import Handlers, Part, Problem
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import settle
from lora_deploy.progress import Advance, Progress
from lora_deploy.web.watch import Watch

TITLE = "What happens in this clip?"

EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
"""Of everything that belongs to the page alone; programs have `api`."""


@dataclass(frozen=True)
class _Clip:
    """The controls that choose a video, and what is wrong with it."""

    video: gr.Video
    start: gr.Number
    end: gr.Number
    fold: gr.Accordion
    """Around those two."""
    problem: gr.Markdown
    changes: list[Any]
    """What ends with another video in place, or with none; what belongs to the old one is gone then."""

    @property
    def part(self) -> list[gr.Number]:
        return [self.start, self.end]


@dataclass(frozen=True)
class _Labelled:
    """A timeline, and what it is of."""

    found: Timeline
    name: str
    video: str | None


def make_page(
    studio: Studio,
    settings: DemoSettings,
    watch: Watch,
    *,
    examples: Callable[[], Sequence[Example]] | None = None,
) -> gr.Blocks:
    """Build the page; nothing is opened yet.

    Args:
        studio: The models that are served.
        settings: What the operator decided.
        watch: Is told of every request.
        examples: Gives clips that a visitor may try; asked when the page is there, as it may take a while.
    """
    settle()
    page = gr.Blocks(title=TITLE, analytics_enabled=False)

    def keep(path: Path) -> str:
        kept = Path(save_file_to_cache(path, page.GRADIO_CACHE))
        kept.touch()  # else it is as old as what it was copied from, and goes as soon
        return str(kept)

    handlers = Handlers(studio, settings, watch, keep)
    with page:
        api.add_endpoints(handlers, clip_video)  # first, so that the names are theirs
        html_place(_head(studio), elem_id="ld-head")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=260):
                clip = _clip_controls(handlers, settings)
                if examples is not None:
                    _example_controls(page, handlers, examples, clip)
            with gr.Column(scale=7, min_width=260), gr.Tabs():
                with gr.Tab("Classify", id="classify"):
                    _classify_tab(handlers, clip)
                with gr.Tab("Compare", id="compare"):
                    _compare_tab(handlers, clip)
                with gr.Tab("Timeline", id="timeline"):
                    _timeline_tab(handlers, clip)
                with gr.Tab("About", id="about") as about_tab:
                    _about_tab(studio, about_tab)
    vars(page).update(theme=look.THEME, head=look.HEAD)
    return page


def _chooser(elem_id: str) -> gr.Textbox:
    """What the script in the page's head writes the index of a chosen button into; nobody sees it."""
    return gr.Textbox(elem_id=elem_id, elem_classes="ld-chooser", container=False, max_length=20)


def _head(studio: Studio) -> str:
    found = studio.choices.about(studio.choices.default.name)
    knows = (
        f"It tells {len(found.labels)} things apart, from {found.contract.frames} frames of a clip."
    )
    badge = "<span class=ld-badge>with a certificate</span>" if found.certificate else ""
    return f"<h1>{TITLE}</h1><p>{knows} {badge}</p>"


def _clip_controls(handlers: Handlers, settings: DemoSettings) -> _Clip:
    video = clip_video(label="Video", elem_id="ld-video")
    problem = html_place("", elem_id="ld-clip-problem")
    with gr.Accordion("Only a part of it", open=False) as fold, gr.Row():
        start = gr.Number(label="From, seconds", value=None, elem_id="ld-start")
        end = gr.Number(label="To, seconds", value=None, elem_id="ld-end")
    clip = _Clip(video, start, end, fold, problem, [])
    changed = gr.on(
        [video.upload, video.clear, video.stop_recording], lambda: [None, None], None, clip.part,
        queue=False, **EVENT,
    )  # fmt: skip
    clip.changes.append(changed)
    if settings.links or settings.link_hosts:
        _link_controls(handlers, settings, clip)
    return clip


def _link_controls(handlers: Handlers, settings: DemoSettings, clip: _Clip) -> None:
    hosts = [*(["YouTube"] if settings.links else []), *settings.link_hosts]
    with gr.Row(equal_height=True):
        link = gr.Textbox(
            label=f"Or a link ({', '.join(hosts)})",
            placeholder="https://youtu.be/…",
            max_lines=1,
            max_length=2000,
            scale=4,
            elem_id="ld-link",
        )
        button = gr.Button("Fetch", scale=1, min_width=90, size="md", elem_id="ld-fetch")
    problem = html_place("", elem_id="ld-link-problem")

    def fetch(text: str, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        try:
            shown, part = handlers.fetch(text, lambda done: progress(done, desc="fetching"))
        except Problem as found:
            return [gr.skip(), gr.skip(), gr.skip(), gr.skip(), views.problem(str(found))]
        fold = gr.Accordion(open=True) if part.stretch else gr.skip()
        return [shown, part.start_seconds, part.end_seconds, fold, ""]

    outputs = [clip.video, *clip.part, clip.fold, problem]
    clip.changes.append(gr.on([button.click, link.submit], fetch, link, outputs, **EVENT))


def _example_controls(
    page: gr.Blocks, handlers: Handlers, examples: Callable[[], Sequence[Example]], clip: _Clip
) -> None:
    strip = html_place(views.examples([], "ld-example"), elem_id="ld-examples")
    chooser = _chooser("ld-example")
    page.load(lambda: views.examples(examples(), "ld-example"), None, strip, queue=False, **EVENT)

    def choose(said: str) -> list[Any]:
        found = examples()
        chosen = _index(said, len(found))
        if chosen is None:
            return [gr.skip(), gr.skip(), gr.skip()]
        return [handlers.keep(found[chosen].path), None, None]

    clip.changes.append(
        chooser.change(choose, chooser, [clip.video, *clip.part], queue=False, **EVENT)
    )


def _classify_tab(handlers: Handlers, clip: _Clip) -> None:
    form = _form_control(handlers.studio, "ld-form")
    problem = html_place("", elem_id="ld-form-problem")
    again = gr.Button("Classify", variant="primary", elem_id="ld-classify")
    answer = html_place(views.waiting(), elem_id="ld-answer")
    frames = html_place("", elem_id="ld-frames")

    def classify(video: str | None, name: str, start: float | None, end: float | None) -> list[Any]:
        def ask() -> list[str]:
            part = Part(start, end)
            found, seen = handlers.classify(video, name, part)
            return [(views.of_a_part(start, end) if video and part.stretch else "") + found, seen]

        return _or_problem(ask, [views.waiting(), ""])

    inputs, outputs = [clip.video, form, *clip.part], [answer, frames, clip.problem, problem]
    for change in clip.changes:
        # Also where the last video is still asked about: else nobody would ask about this one.
        change.then(classify, inputs, outputs, trigger_mode="always_last", **EVENT)
    gr.on(
        [form.change, again.click, clip.start.submit, clip.end.submit],
        classify,
        inputs,
        outputs,
        trigger_mode="always_last",
        **EVENT,
    )


def _compare_tab(handlers: Handlers, clip: _Clip) -> None:
    runnable = [one for one in handlers.studio.choices.all if one.missing is None]
    forms = gr.CheckboxGroup(
        [(one.title, one.name) for one in runnable],
        value=[one.name for one in runnable[:2]],
        label="Forms to compare",
        elem_id="ld-forms",
    )
    problem = html_place("", elem_id="ld-compare-problem")
    button = gr.Button("Compare", variant="primary", elem_id="ld-compare")
    answer = html_place(views.waiting(), elem_id="ld-comparison")
    frames = html_place("", elem_id="ld-compared-frames")

    def compare(
        video: str | None, names: list[str], start: float | None, end: float | None
    ) -> list[Any]:
        return _or_problem(
            lambda: handlers.compare(video, names, Part(start, end)), [views.waiting(), ""]
        )

    button.click(
        compare,
        [clip.video, forms, *clip.part],
        [answer, frames, clip.problem, problem],
        **EVENT,
    )
    _clear_with(clip, [forms.change, *(part.change for part in clip.part)], [answer, frames])


def _timeline_tab(handlers: Handlers, clip: _Clip) -> None:
    form = _form_control(handlers.studio, "ld-timeline-form")
    with gr.Row():
        window = gr.Slider(
            0.5, 20, value=2, step=0.5, label="Look at … seconds", elem_id="ld-window"
        )
        stride = gr.Slider(0.5, 20, value=2, step=0.5, label="Every … seconds", elem_id="ld-stride")
    problem = html_place("", elem_id="ld-timeline-problem")
    button = gr.Button("Label the whole video", variant="primary", elem_id="ld-label-video")
    strip = html_place(views.waiting(), elem_id="ld-timeline")
    frames = html_place("", elem_id="ld-segment")
    chooser = _chooser("ld-chosen-segment")
    kept: gr.State = gr.State(None)

    def label(
        video: str | None,
        name: str,
        window_seconds: float,
        stride_seconds: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        def ask() -> list[Any]:
            found = handlers.timeline(
                video, name, window_seconds, stride_seconds, _shown_by(progress)
            )
            title = handlers.studio.title(name)
            strip = views.timeline(found, "ld-chosen-segment", title)
            return [strip, "", _Labelled(found, name, video)]

        return _or_problem(ask, [views.waiting(), "", None])

    def still(video: str | None, labelled: _Labelled | None) -> list[Any]:
        """Drop what was found of a video that has gone meanwhile."""
        if labelled is None or labelled.video == video:
            return [gr.skip(), gr.skip(), gr.skip()]
        return [views.waiting(), "", None]

    def choose(video: str | None, labelled: _Labelled | None, said: str) -> list[Any]:
        if labelled is None or labelled.video != video:
            return [gr.skip(), gr.skip(), gr.skip()]
        chosen = _index(said, len(labelled.found.segments))
        if chosen is None:
            return [gr.skip(), gr.skip(), gr.skip()]
        return _or_problem(
            lambda: [handlers.segment_frames(video, labelled.name, labelled.found, chosen)], [""]
        )

    button.click(
        label,
        [clip.video, form, window, stride],
        [strip, frames, kept, clip.problem, problem],
        **api.ONE_TIMELINE,
        **EVENT,
    ).then(still, [clip.video, kept], [strip, frames, kept], queue=False, **EVENT)
    chooser.change(choose, [clip.video, kept, chooser], [frames, clip.problem, problem], **EVENT)
    _clear_with(clip, [form.change, window.change, stride.change], [strip, frames], also=[kept])


def _clear_with(
    clip: _Clip, events: Sequence[Any], places: list[Any], also: Sequence[gr.State] = ()
) -> None:
    """Empty an answer and what belongs to it when what it was asked about is no longer chosen."""
    nothing = [views.waiting(), "", *(None for _ in also)]
    gr.on(list(events), lambda: nothing, None, [*places, *also], queue=False, **EVENT)
    for change in clip.changes:
        change.then(lambda: nothing, None, [*places, *also], queue=False, **EVENT)


def _about_tab(studio: Studio, tab: gr.Tab) -> None:
    several = any(": " in one.name for one in studio.choices.all)
    form = _form_control(studio, "ld-about-form") if several else None
    text = html_place("", elem_id="ld-about")
    card = html_place("", elem_id="ld-card")
    default = studio.choices.default.name

    def tell(name: str = default) -> list[str]:
        found = studio.choices.about(name)
        parts = (
            about.model(found),
            about.forms(studio.choices),
            about.certificate(found.certificate),
        )
        return ["".join(parts), about.card(found)]

    tab.select(tell, form, [text, card], queue=False, **EVENT)
    if form is not None:
        form.change(tell, form, [text, card], queue=False, **EVENT)


def _form_control(studio: Studio, elem_id: str) -> gr.Dropdown:
    """Only what runs here; the rest is listed under About, with the reason."""
    return gr.Dropdown(
        [(one.title, one.name) for one in studio.choices.all if one.missing is None],
        value=studio.choices.default.name,
        label="Form of the model",
        filterable=False,
        elem_id=elem_id,
    )


def _or_problem(ask: Callable[[], Sequence[Any]], nothing: Sequence[Any]) -> list[Any]:
    """What is asked for, with two empty places behind it; or ``nothing``, and what is wrong with the
    video in the first of the two, or with the form in the second."""
    try:
        return [*ask(), "", ""]
    except Problem as found:
        sentence = views.problem(str(found))
        return [*nothing, *((sentence, "") if found.of_clip else ("", sentence))]


def _index(said: str, count: int) -> int | None:
    """Which of ``count`` things was chosen; a visitor's browser may say anything."""
    number = said.partition(" ")[0]
    chosen = int(number) if number.isascii() and number.isdigit() else count
    return chosen if chosen < count else None


def _shown_by(progress: gr.Progress) -> Progress:
    """Gradio's bar, as the library tells progress."""

    @contextmanager
    def shown(description: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            progress((done, total), desc=description)

        yield advance

    return shown
