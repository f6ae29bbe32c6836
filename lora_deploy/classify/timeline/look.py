"""A video looked through window by window: who decodes, who answers, and what was lost on the way."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_deploy.classify.stream import NO_ANSWER
from lora_deploy.classify.timeline.segments import Floats, Segment, Window, segments
from lora_deploy.classify.timeline.windows import (
    TimelineOptions,
    check_memory,
    least_stride_seconds,
    step_seconds,
    window_stretches,
)
from lora_deploy.clips.clip import WHOLE_FILE, DecodedClip
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import ClipError
from lora_deploy.progress import Progress, silent
from lora_deploy.runtime.base import Recogniser

_ONE_PICTURE = PixelContract(frames=1, short_side=16, crop_height=16, crop_width=16)
"""The least that tells how long a file is."""


@dataclass(frozen=True)
class Timeline:
    """What happens when in one video. `dataclasses.asdict` makes JSON's types of it."""

    duration_seconds: float
    windows: tuple[Window, ...]
    segments: tuple[Segment, ...]
    """Without gaps from the beginning of the video to its end."""
    warning: str | None
    """What was lost, or looked at less closely than asked."""
    labels: tuple[str, ...]
    stride_seconds: float
    """That was used."""
    model: str
    """Its digest."""


def timeline(
    recogniser: Recogniser,
    path: str | Path,
    *,
    pool: DecodePool | None = None,
    options: TimelineOptions | None = None,
    progress: Progress = silent,
) -> Timeline:
    """Slide a window over a video, and say from when to when what happens.

    Each window gets the answer that `Recogniser.classify` gives of that stretch. Pictures are
    decoded once however many windows show them, a few windows ahead, and let go; so what grows
    with the video is a few numbers a picture and a probability for each window and label. A
    window that can't be decoded, or to which the model has no answer, is left out, and told in the
    warning.

    Raises:
        ClipError: No window has an answer; the error's ``kind`` says why.
        TimelineOptionsError: Too many windows overlap.
    """
    options, pool, path = options or TimelineOptions(), pool or shared(), Path(path)
    check_memory(options, recogniser.contract)
    whole = _whole(pool, path, options)
    step = step_seconds(options, recogniser.contract)
    stride_seconds, stretches = window_stretches(whole.duration_seconds, options, step)
    lost: dict[int, ClipError] = {}
    told: dict[int, str] = {}
    found: list[Window | None] = [None] * len(stretches)
    with progress("windows", len(stretches)) as advance:
        clips = pool.parts(
            path, recogniser.contract, stretches, patience_seconds=options.patience_seconds
        )
        for number, clip, probabilities in _answers(recogniser, clips, lost, advance):
            found[number] = _window(clip, probabilities)
            if clip.warning:
                told[number] = clip.warning
    windows = [window for window in found if window is not None]
    if not windows:
        raise lost[max(lost)]
    warnings = (
        whole.warning,
        _widened(len(stretches), whole.duration_seconds, stride_seconds, options),
        *(told[number] for number in sorted(told)),
        _lost(lost, len(stretches)),
    )
    return Timeline(
        duration_seconds=whole.duration_seconds,
        windows=tuple(windows),
        segments=tuple(segments(windows, recogniser, whole.duration_seconds, options)),
        warning="; ".join(dict.fromkeys(text for text in warnings if text)) or None,
        labels=recogniser.labels,
        stride_seconds=stride_seconds,
        model=recogniser.digest,
    )


def _whole(pool: DecodePool, path: Path, options: TimelineOptions) -> DecodedClip:
    """The least of the whole file, for its length."""
    parts = pool.parts(path, _ONE_PICTURE, [WHOLE_FILE], patience_seconds=options.patience_seconds)
    ((_, whole),) = parts
    if isinstance(whole, ClipError):
        raise whole
    return whole


def _widened(
    windows: int, duration_seconds: float, stride_seconds: float, options: TimelineOptions
) -> str | None:
    if least_stride_seconds(duration_seconds, options) <= options.stride_seconds:
        return None
    return (
        f"the video is long: {windows} windows of {options.window_seconds:g} seconds were looked "
        f"at, one every {stride_seconds:.2f} seconds in place of {options.stride_seconds:g}"
    )


def _lost(lost: Mapping[int, ClipError], windows: int) -> str | None:
    if not lost:
        return None
    return f"{len(lost)} of {windows} windows have no answer: {lost[max(lost)]}"


def _answers(
    recogniser: Recogniser,
    outcomes: Iterable[tuple[int, DecodedClip | ClipError]],
    lost: dict[int, ClipError],
    advance: Callable[[], None],
) -> Iterator[tuple[int, DecodedClip, Floats]]:
    """Each clip and its probabilities [labels], a batch at a time; errors go into ``lost``."""
    held: list[tuple[int, DecodedClip]] = []

    def answered() -> Iterator[tuple[int, DecodedClip, Floats]]:
        if held:
            logits = recogniser.logits(np.stack([clip.frames for _, clip in held]))
            for (number, clip), row in zip(held, logits, strict=True):
                if np.isfinite(row).all():
                    yield number, clip, recogniser.probabilities(row)
                else:
                    lost[number] = ClipError("no_answer", NO_ANSWER)
            held.clear()

    for number, outcome in outcomes:
        if isinstance(outcome, ClipError):
            lost[number] = outcome
        else:
            held.append((number, outcome))
        if len(held) == recogniser.backend.batch_size:
            yield from answered()
        advance()
    yield from answered()


def _window(clip: DecodedClip, probabilities: Floats) -> Window:
    return Window(
        start_seconds=clip.start_seconds,
        end_seconds=clip.start_seconds + clip.duration_seconds,
        probabilities=tuple(probabilities.tolist()),
    )
