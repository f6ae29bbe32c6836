"""What is to be classified: files, and folders as the videos in them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_deploy.clips.clip import Footage
from lora_deploy.clips.dataset import find_videos
from lora_deploy.errors import NoVideosError


@dataclass(frozen=True)
class Item:
    """One clip that a row is to be written of."""

    path: str
    """As it was given: what its row is called."""
    footage: Footage
    """What is decoded."""


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
