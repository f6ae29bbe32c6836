"""The files that a timeline is written to: which there are, where they go, and what is in each."""

import csv
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_deploy import atomic
from lora_deploy.classify.timeline.captions import subrip, webvtt
from lora_deploy.classify.timeline.look import Timeline
from lora_deploy.classify.timeline.page import timeline_html
from lora_deploy.classify.timeline.windows import TimelineOptions
from lora_deploy.errors import TimelinePlaceError

ENDINGS = (".json", ".csv", ".srt", ".vtt", ".html")

NAME = "{}"
"""In the name of an output: the name of the video, without its folder and ending."""

CSV_COLUMNS = ("path", "start_seconds", "end_seconds", "label", "score", "is_unknown")


@dataclass(frozen=True)
class Asked:
    """A video and what was asked of it."""

    path: str
    """As it was given."""
    options: TimelineOptions
    probabilities: bool = False
    """Whether JSON has each window's probabilities."""


def places(videos: Sequence[str], outs: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Which files are written of each video; asked before any work.

    Raises:
        TimelinePlaceError: A format can't be told, a folder is missing, or one file would be
            written twice.
    """
    found = {video: tuple(_place(out, video) for out in outs) for video in videos}
    for out in outs:
        if out.suffix.lower() not in ENDINGS:
            raise TimelinePlaceError(
                f"{out} ends in {out.suffix or 'nothing'!r}; allowed: {', '.join(ENDINGS)}"
            )
    owners: dict[Path, str] = {}
    for video, targets in found.items():
        for target in targets:
            if target in owners:
                raise TimelinePlaceError(
                    f"{target} would be written twice, of {owners[target]} and of {video}"
                )
            owners[target] = video
    for folder in dict.fromkeys(target.parent for target in owners):
        if not folder.is_dir():
            raise TimelinePlaceError(f"the folder {folder} does not exist")
        with tempfile.TemporaryFile(dir=folder):
            pass  # fails now, and not after hours of work, where nothing can be written
    for target in owners:
        if target.is_dir():
            raise TimelinePlaceError(f"{target} is a folder")
    return found


def _place(out: Path, video: str) -> Path:
    return Path(str(out).replace(NAME, Path(video).stem))


def needs_pictures(targets: Sequence[Path]) -> bool:
    """Whether a page is among them."""
    return any(target.suffix.lower() == ".html" for target in targets)


def write(
    found: Timeline, asked: Asked, target: Path, pictures: Mapping[int, bytes] | None = None
) -> None:
    """Write one file, in the format of its ending, whole or not at all.

    Args:
        found: What to write.
        asked: Of which video.
        target: Where to.
        pictures: For a page: JPEGs by number of the segment.
    """
    match target.suffix.lower():
        case ".json":
            text = json.dumps(document(found, asked), ensure_ascii=False, indent=1) + "\n"
        case ".csv":
            text = _csv(found, asked)
        case ".srt":
            text = subrip(found.segments)
        case ".vtt":
            text = webvtt(found.segments)
        case _:
            text = timeline_html(found, Path(asked.path).name, asked.options, pictures or {})
    # A name that is no UTF-8 may be in it.
    content = text.encode("utf-8", "backslashreplace")
    with atomic.replacing(target) as partial:
        partial.write_bytes(content)


def document(found: Timeline, asked: Asked) -> dict[str, Any]:
    """What JSON holds of one video."""
    values: dict[str, Any] = {
        "path": asked.path,
        "duration_seconds": found.duration_seconds,
        "window_seconds": asked.options.window_seconds,
        "stride_seconds": found.stride_seconds,
        "smoothing_windows": asked.options.smoothing_windows,
        "lead": asked.options.lead,
        "segments": [asdict(segment) for segment in found.segments],
        "warning": found.warning,
        "model": found.model,
    }
    if asked.probabilities:
        values["labels"] = list(found.labels)
        values["windows"] = [asdict(window) for window in found.windows]
    return values


def _csv(found: Timeline, asked: Asked) -> str:
    content = io.StringIO(newline="")
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for one in found.segments:
        writer.writerow(
            [asked.path, f"{one.start_seconds:.3f}", f"{one.end_seconds:.3f}", one.label,
             f"{one.score:.6f}", str(one.is_unknown).lower()]
        )  # fmt: skip
    return content.getvalue()
