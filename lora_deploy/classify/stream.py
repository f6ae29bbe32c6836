"""Videos in, rows out, in the order of the inputs; a bad file costs one row and nothing else."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lora_deploy.classify.rows import Row
from lora_deploy.clips.clip import DecodedClip
from lora_deploy.clips.dataset import find_videos
from lora_deploy.clips.pool import DecodePool, shared
from lora_deploy.errors import ClipError, NoVideosError
from lora_deploy.runtime.base import Recogniser


def find_inputs(inputs: Sequence[str | Path]) -> list[str]:
    """Files as they were named, folders as the videos in them, each once.

    Raises:
        NoVideosError: A folder holds no video.
    """
    found: dict[str, None] = {}
    for given in inputs:
        if os.path.isdir(given):  # noqa: PTH112 (never raises, however odd the name)
            videos = find_videos(Path(given))
            if not videos:
                raise NoVideosError(f"{given} holds no file with a video ending")
            found.update(dict.fromkeys(str(path) for path in videos))
        else:
            found[str(given)] = None
    return list(found)


def classify(
    recogniser: Recogniser,
    paths: Iterable[str],
    *,
    top_k: int = 5,
    pool: DecodePool | None = None,
) -> Iterator[Row]:
    """Yield one row a path, in order, as soon as it is known.

    Clips are decoded a few ahead while the model works, by ``pool`` or else by the shared one.
    """
    for path, outcome in (pool or shared()).in_order(paths, recogniser.contract):
        yield _row(recogniser, path, outcome, top_k)


def _row(recogniser: Recogniser, path: str, clip: DecodedClip | ClipError, top_k: int) -> Row:
    told = _printable(path)
    if isinstance(clip, ClipError):
        return Row(
            path=told, status="error", label=None, score=None, top_k=(), duration_seconds=None,
            warning=None, error_kind=clip.kind, error=str(clip), model=recogniser.digest,
        )  # fmt: skip
    prediction = recogniser.predict(
        recogniser.logits(clip.frames[None])[0],
        top_k=top_k,
        duration_seconds=clip.duration_seconds,
        warning=clip.warning,
    )
    return Row(
        path=told,
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


def _printable(path: str) -> str:
    """The path as it was given; bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
