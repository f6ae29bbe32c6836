"""A small picture of each segment: the middle of its clearest window, as the model sees it."""

from pathlib import Path

from lora_deploy.classify.timeline.look import Timeline
from lora_deploy.classify.timeline.windows import TimelineOptions
from lora_deploy.clips.clip import DecodedClip, Stretch
from lora_deploy.clips.contract import PixelContract
from lora_deploy.clips.pool import DecodePool
from lora_deploy.proof.thumbnails import thumbnail

MOST_PICTURES = 300
"""Of the longest segments: about a megabyte; a page says how many it shows."""


def segment_pictures(
    found: Timeline,
    path: Path,
    contract: PixelContract,
    options: TimelineOptions,
    pool: DecodePool,
) -> dict[int, bytes]:
    """JPEGs by number of the segment; what can't be decoded is left out."""

    def length_seconds(number: int) -> float:
        return found.segments[number].end_seconds - found.segments[number].start_seconds

    longest = sorted(range(len(found.segments)), key=length_seconds, reverse=True)[:MOST_PICTURES]
    numbers = sorted(longest, key=lambda number: found.segments[number].best_start_seconds)
    stretches = [
        Stretch(found.segments[at].best_start_seconds, found.segments[at].best_end_seconds)
        for at in numbers
    ]
    one_frame = contract.model_copy(update={"frames": 1})
    parts = pool.parts(path, one_frame, stretches, patience_seconds=options.patience_seconds)
    return {
        numbers[at]: thumbnail(clip.frames) for at, clip in parts if isinstance(clip, DecodedClip)
    }
