"""What happens when a control is used: values in, pieces of the page out. Only errors' words reach a visitor."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lora_deploy.classify.timeline import Timeline, TimelineOptions
from lora_deploy.clips.clip import Stretch
from lora_deploy.demo import views
from lora_deploy.demo.answers import Answer, Studio
from lora_deploy.demo.settings import DemoSettings
from lora_deploy.demo.uploads import Uploads, settle
from lora_deploy.errors import (
    ClipError,
    LinkError,
    LoraDeployError,
    MissingPackageError,
    NoSuchChoiceError,
    TimelineOptionsError,
)
from lora_deploy.links import LinkLimits, fetch
from lora_deploy.progress import Advance, Progress, silent
from lora_deploy.web.watch import RequestWatch, Watch

OUR_FAULT = "Something went wrong here, and it is not your fault; the operator finds it in the log."

NO_ROOM = "There is no room for another video now; please try again in a few minutes."

MODEL_UNUSABLE = "This model can't be asked here; the operator finds the reason in the log."

VISITORS_ERRORS = (
    ClipError,
    LinkError,
    NoSuchChoiceError,
    TimelineOptionsError,
    MissingPackageError,
)
"""Whose words hold nothing of the server; any other error's are for the operator, and name files."""

CHOOSE_FIRST = "Choose a video first: upload one, record one, or paste a link."

MOST_WINDOWS = 240
"""Of one timeline on the page; a visitor waits for it."""

MOST_TIMELINE_SECONDS = 60.0
"""Then it is ended after the window that is being looked at: others wait behind it."""

Keep = Callable[[Path], str]
"""Puts a file where the page may show it, and gives its new path."""


class Problem(Exception):
    """Why there is no answer, in a sentence for the visitor, and whose control caused it."""

    def __init__(self, sentence: str, *, kind: str, of_clip: bool) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.of_clip = of_clip
        """Whether the video is to blame; else the form of the model."""


@dataclass(frozen=True)
class Part:
    """Which part of the video is asked about, as two number fields hold it."""

    start_seconds: float | None
    end_seconds: float | None

    @property
    def stretch(self) -> Stretch | None:
        """None for the whole of it; an end of 0 is the end of the video."""
        if not self.start_seconds and not self.end_seconds:
            return None
        return Stretch(self.start_seconds or 0.0, self.end_seconds or None)


class Handlers:
    """One method a control."""

    def __init__(self, studio: Studio, settings: DemoSettings, watch: Watch, keep: Keep) -> None:
        """Take over what all visitors share."""
        self.studio = studio
        self._settings = settings
        self._watch = watch
        self.keep = keep
        self._uploads = Uploads(
            settle(), most_bytes=settings.folder_bytes, keep_seconds=settings.keep_files_seconds
        )
        """The folder as the server sees it, but for what is only arriving there."""
        self._counting = threading.Lock()

    def classify(self, video: str | None, name: str, part: Part) -> tuple[str, str]:
        """The answer, and the frames that were seen, both as HTML.

        Raises:
            Problem: There is none.
        """
        if video is None:
            return views.waiting(), ""
        found = self.ask(video, name, part)
        return views.answer(found), views.frames(found)

    def ask(self, video: str | None, name: str, part: Part, top_k: int = 5) -> Answer:
        """What one form says of a video.

        Raises:
            Problem: There is no answer.
        """
        with self._request("classify") as request:
            return self.studio.classify(
                _chosen(video), name, top_k=top_k, stretch=part.stretch, stage=request.stage
            )

    def compare(self, video: str | None, names: Sequence[str], part: Part) -> tuple[str, str]:
        """The answers side by side, and the frames that were seen, both as HTML.

        Raises:
            Problem: There is none.
        """
        with self._request("compare") as request:
            found = self.studio.compare(
                _chosen(video), self._apart(names), stretch=part.stretch, stage=request.stage
            )
        different = {
            id(one.clip): one for one in found.answers
        }  # as models that see other pixels do
        return views.comparison(found), "".join(views.frames(one) for one in different.values())

    def refusal(self, sentence: str) -> Problem:
        """A request that no form of the page can make, counted as one that was turned away."""
        self._watch.rejected("bad_request")
        return Problem(sentence, kind="bad_request", of_clip=False)

    def _apart(self, names: Sequence[str]) -> list[str]:
        """Each form once, so that the work is bounded by what is served."""
        apart, most = list(dict.fromkeys(names)), len(self.studio.choices.all)
        if len(apart) < 2:
            raise Problem("Tick two forms or more.", kind="too_few_forms", of_clip=False)
        if len(apart) > most:
            raise Problem(f"There are only {most} forms.", kind="too_many_forms", of_clip=False)
        return apart

    def timeline(
        self,
        video: str | None,
        name: str,
        window_seconds: float,
        stride_seconds: float,
        progress: Progress = silent,
    ) -> Timeline:
        """Label the whole video, piece by piece; pieces that overlap are smoothed.

        The page keeps it as long as the visitor stays, so it comes without its windows.

        Raises:
            Problem: It can't be done.
        """
        with self._request("timeline") as request:
            options = TimelineOptions(
                window_seconds=window_seconds,
                stride_seconds=stride_seconds,
                at_most_windows=MOST_WINDOWS,
                smoothing_windows=3 if stride_seconds < window_seconds else 1,
            )
            found = self.studio.timeline(
                _chosen(video),
                name,
                options=options,
                progress=_within(MOST_TIMELINE_SECONDS, progress),
                stage=request.stage,
            )
        return replace(found, windows=())

    def segment_frames(self, video: str | None, name: str, found: Timeline, chosen: int) -> str:
        """The frames of a segment's clearest window as the form saw them, as HTML.

        Raises:
            Problem: The video is gone.
        """
        segment = found.segments[chosen]
        with self._request("segment") as request, request.stage("decode"):
            stretch = Stretch(segment.best_start_seconds, segment.best_end_seconds)
            clip = self.studio.frames_of(_chosen(video), name, stretch)
        return views.segment(segment, clip)

    def fetch(self, link: str, progress: Callable[[float], None]) -> tuple[str, Part]:
        """Fetch a linked video; where the page may show it, and the part that the link names.

        Raises:
            Problem: It can't be fetched.
        """
        limits = LinkLimits(
            hosts=self._settings.link_hosts,
            max_bytes=self._settings.max_upload_bytes,
            max_seconds=self._settings.max_link_seconds,
            youtube=self._settings.links,
        )
        with (
            self._request("link") as request,
            self._room_for(limits.max_bytes),
            TemporaryDirectory() as folder,
        ):
            with request.stage("fetch"):
                fetched = fetch(link, Path(folder), limits=limits, progress=progress)
            shown = self.keep(fetched.path)
        return shown, Part(fetched.start_seconds, fetched.end_seconds)

    @contextmanager
    def _room_for(self, size_bytes: int) -> Iterator[None]:
        """Set room apart for a file of which nobody knows yet how large it is."""
        room = self._uploads.room_for(size_bytes)
        with self._counting:
            is_room = room.__enter__()
        try:
            if not is_room:
                raise Problem(NO_ROOM, kind="no_room", of_clip=True)
            yield
        finally:
            with self._counting:
                room.__exit__(None, None, None)

    @contextmanager
    def _request(self, endpoint: str) -> Iterator[RequestWatch]:
        """Count the request, and turn whatever goes wrong into a `Problem`."""
        try:
            with self._watch.request(endpoint) as request:
                try:
                    yield request
                except Problem as problem:
                    request.failed(problem.kind)
                    raise
        except Problem:
            raise
        except (ClipError, LinkError) as error:
            raise Problem(_sentence(error), kind=error.kind, of_clip=True) from error
        except LoraDeployError as error:
            kind = error.name or type(error).__name__
            if not isinstance(error, VISITORS_ERRORS):
                self._watch.log("model_unusable", endpoint=endpoint, kind=kind, found=error.found)
            raise Problem(_sentence(error), kind=kind, of_clip=False) from error
        except Exception as error:
            self._watch.fault(error, endpoint=endpoint)
            raise Problem(OUR_FAULT, kind="fault", of_clip=False) from error


def _within(seconds: float, progress: Progress) -> Progress:
    """Progress that ends the work where it goes on for longer, from now, than so many seconds."""
    until = time.monotonic() + seconds

    @contextmanager
    def watched(description: str, total: int) -> Iterator[Advance]:
        left = total
        with progress(description, total) as advance:

            def advance_in_time() -> None:
                nonlocal left
                advance()
                left -= 1
                if left and time.monotonic() > until:
                    raise Problem(
                        f"This took longer than {seconds:g} seconds and was ended; look at longer "
                        "pieces, less often, or choose a shorter video.",
                        kind="too_slow",
                        of_clip=False,
                    )

            yield advance_in_time

    return watched


def _chosen(video: str | None) -> Path:
    if video is None:
        raise Problem(CHOOSE_FIRST, kind="no_video_chosen", of_clip=True)
    return Path(video)


def _sentence(error: LoraDeployError) -> str:
    if not isinstance(error, VISITORS_ERRORS):
        return MODEL_UNUSABLE
    # What to do about a link is for the visitor, about a model for whoever runs the page.
    told = str(error) if isinstance(error, LinkError) else error.found
    text = told[:1].upper() + told[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
