"""``splits.csv``: which clip was in which split, as a manifest that ``--data`` takes."""

import csv
import io

from lora_deploy.clips.clip import WHOLE_FILE
from lora_deploy.clips.dataset import ClipDataset


def splits_csv(dataset: ClipDataset) -> str:
    """All clips, their paths in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split", "group", "start", "end"])
    for clip in dataset.clips:
        stretch = clip.stretch or WHOLE_FILE
        times = [stretch.start_seconds or "", stretch.end_seconds]
        writer.writerow([clip.path.resolve(), clip.label, clip.split, clip.group or "", *times])
    return text.getvalue()
