"""Timelines of several videos, one after the other: a bad one costs a sentence and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_deploy.classify.timeline import written
from lora_deploy.classify.timeline.look import Timeline, timeline
from lora_deploy.classify.timeline.pictures import segment_pictures
from lora_deploy.classify.timeline.windows import TimelineOptions
from lora_deploy.classify.timeline.written import Asked, places
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser

__all__ = ["Looked", "options_for", "places", "timelines"]

PATIENCE_SECONDS = 24 * 60 * 60.0
"""For a damaged video that must be decoded all through before its first window is known; one whose
decoder stands still is cut off at the usual deadline all the same."""


@dataclass(frozen=True)
class Looked:
    """What became of one video."""

    path: str
    """As it was given."""
    document: Mapping[str, Any] | None
    """As JSON has it; None where there is no timeline."""
    sentences: tuple[str, ...]
    """What a person should know: warnings, or why there is none."""


def options_for(
    window_seconds: float, stride_seconds: float | None, smoothing_windows: int, lead: float
) -> TimelineOptions:
    """However long the video is, and every window of it.

    Raises:
        TimelineOptionsError: A value that no window can have.
    """
    return TimelineOptions(
        window_seconds=window_seconds,
        stride_seconds=window_seconds / 2 if stride_seconds is None else stride_seconds,
        at_most_windows=None,
        smoothing_windows=smoothing_windows,
        lead=lead,
        patience_seconds=PATIENCE_SECONDS,
    )


def timelines(
    recogniser: Recogniser,
    targets: Mapping[str, Sequence[Path]],
    options: TimelineOptions,
    *,
    probabilities: bool = False,
    pool: DecodePool,
    progress: Progress = silent,
) -> Iterator[Looked]:
    """Look through each video, and write what is asked of it.

    Args:
        recogniser: Who says what happens.
        targets: Of each video the files to write, as `places` gives them.
        options: How a video is looked through.
        probabilities: Whether JSON has each window's probabilities.
        pool: Who decodes.
        progress: Is told of windows.

    Raises:
        TimelineOptionsError: Too many windows overlap.
        DiskFullError: There is no room for a file.
    """
    for path, files in targets.items():
        try:
            found = timeline(recogniser, path, pool=pool, options=options, progress=progress)
        except ClipError as error:
            yield Looked(path, None, (f"error: {error}",))
            continue
        asked = Asked(path, options, probabilities)
        pictures = None
        if written.needs_pictures(files):
            pictures = segment_pictures(found, Path(path), recogniser.contract, options, pool)
        for file in files:
            written.write(found, asked, file, pictures)
        yield Looked(path, written.document(found, asked), tuple(_sentences(found, options)))


def _sentences(found: Timeline, options: TimelineOptions) -> Iterator[str]:
    if found.warning:
        yield f"warning: {found.warning}"
    if found.stride_seconds != options.stride_seconds:
        yield (
            f"one window every {found.stride_seconds:.6g} seconds in place of "
            f"{options.stride_seconds:g}, so that windows share their pictures"
        )
