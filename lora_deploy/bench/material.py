"""The clips that a model is measured on: drawn ones, or the user's own that can be decoded."""

import logging
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.dataset import find_videos, read_split
from lora_deploy.clips.example import write_example
from lora_deploy.clips.pool import DecodePool
from lora_deploy.errors import ClipError, NoSuchDataError, NothingDecodedError, NoVideosError

logger = logging.getLogger(__name__)

MOST_CLIPS = 32
"""More are thinned out evenly."""


@dataclass(frozen=True)
class Material:
    """What is measured on."""

    clips: tuple[Path, ...]
    source: str


def choose_clips(data: Path | None, scratch: Path, contract: PixelContract) -> Material:
    """Clips that can be decoded.

    Args:
        data: A folder, a manifest or one video; None draws one clip of each example gesture.
        scratch: Where those are written.
        contract: What the model is given.

    Raises:
        DataError: There are none.
    """
    if data is None:
        write_example(scratch, train_clips=0, val_clips=0, test_clips=1)
        return Material(tuple(find_videos(scratch)), "drawn gestures")
    found = _thinned(_named(data))
    readable = []
    with DecodePool(1) as pool:
        for path, clip in pool.in_order([str(path) for path in found], contract):
            if isinstance(clip, ClipError):
                logger.warning("left out: %s: %s", path, clip)
            else:
                readable.append(Path(path))
    if not readable:
        raise NothingDecodedError(f"not one of the {len(found)} clips of {data} can be decoded")
    return Material(tuple(readable), str(data))


def _named(data: Path) -> list[Path]:
    if not data.exists():
        raise NoSuchDataError(f"{data} does not exist")
    if data.is_dir():
        found = find_videos(data)
    elif data.suffix.lower() in (".csv", ".jsonl"):
        found = [clip.path for clip in read_split(data, "all")]
    else:
        found = [data]
    if not found:
        raise NoVideosError(f"{data} holds no videos")
    return [path.absolute() for path in found]


def _thinned(found: list[Path]) -> list[Path]:
    step = max(1.0, len(found) / MOST_CLIPS)
    return [found[int(at * step)] for at in range(min(len(found), MOST_CLIPS))]
