"""Videos in, rows out, in the order of the inputs; a bad file costs one row and nothing else."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lora_deploy.classify.inputs import Item
from lora_deploy.classify.rows import Row, printable
from lora_deploy.clips.clip import DecodedClip, Footage
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import ClipError
from lora_deploy.evaluate.views import ONE_VIEW, Views
from lora_deploy.runtime.base import Recogniser


@dataclass(frozen=True)
class RowOptions:
    """What is said of each clip."""

    top_k: int = 5
    views: Views = ONE_VIEW


def answers(
    recogniser: Recogniser,
    items: Iterable[tuple[int, Item]],
    *,
    options: RowOptions,
    pool: DecodePool | None = None,
    meter: object | None = None,
) -> Iterator[tuple[int, Row]]:
    """Each clip's row with the number that it came with; for now in their order."""
    waiting: list[tuple[int, Item]] = []

    def footage() -> Iterator[Footage]:
        for number, item in items:
            waiting.append((number, item))
            yield item.footage

    for row in classify(recogniser, footage(), top_k=options.top_k, pool=pool):
        number, item = waiting.pop(0)
        yield number, replace(row, path=printable(item.path))


def classify(
    recogniser: Recogniser,
    paths: Iterable[str | Footage],
    *,
    top_k: int = 5,
    pool: DecodePool | None = None,
) -> Iterator[Row]:
    """Yield one row a file, or part of one, in order, as soon as its batch is known.

    Clips are decoded a few ahead while the model works, by ``pool`` or else by the shared one. A
    batch is as large as the recogniser's backend takes; one clip, unless more were asked for.
    """
    held: list[tuple[str, DecodedClip | ClipError]] = []
    for path, outcome in (pool or shared()).in_order(paths, recogniser.contract):
        held.append((path, outcome))
        clips = sum(isinstance(one, DecodedClip) for _, one in held)
        if clips == recogniser.backend.batch_size or not clips:
            yield from _rows(recogniser, held, top_k)
            held.clear()
    yield from _rows(recogniser, held, top_k)


def _rows(
    recogniser: Recogniser, outcomes: Sequence[tuple[str, DecodedClip | ClipError]], top_k: int
) -> Iterator[Row]:
    clips = [one for _, one in outcomes if isinstance(one, DecodedClip)]
    logits = (
        iter(recogniser.logits(np.stack([clip.frames for clip in clips]))) if clips else iter(())
    )
    for path, outcome in outcomes:
        if isinstance(outcome, ClipError):
            yield _error_row(recogniser, path, outcome)
        else:
            yield _row(recogniser, path, outcome, next(logits), top_k)


def _error_row(recogniser: Recogniser, path: str, error: ClipError) -> Row:
    return Row(
        path=printable(path), status="error", label=None, score=None, top_k=(),
        duration_seconds=None, warning=None, error_kind=error.kind, error=str(error),
        model=recogniser.digest,
    )  # fmt: skip


def _row(
    recogniser: Recogniser,
    path: str,
    clip: DecodedClip,
    logits: NDArray[np.float32],
    top_k: int,
) -> Row:
    prediction = recogniser.predict(
        logits, top_k=top_k, duration_seconds=clip.duration_seconds, warning=clip.warning
    )
    return Row(
        path=printable(path),
        status="ok",
        label=prediction.label,
        score=prediction.score,
        top_k=prediction.top_k,
        duration_seconds=clip.duration_seconds,
        warning=clip.warning,
        error_kind=None,
        error=None,
        model=recogniser.digest,
    )
