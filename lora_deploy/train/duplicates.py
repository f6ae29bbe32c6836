"""Clips of two splits that show the same: told before a training, and kept in the RUN as a table."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from lora_deploy import atomic
from lora_deploy.artifact import run
from lora_deploy.clips.dataset import ClipDataset
from lora_deploy.clips.duplicates import NearDuplicate, near_duplicates
from lora_deploy.train.frames import FramesOfSplits

logger = logging.getLogger(__name__)

NAMED_IN_WARNING = 5

_COLUMNS = ("first", "first_split", "other", "other_split", "difference", "mirrored")


def tell_duplicates(dataset: ClipDataset, caches: FramesOfSplits) -> list[NearDuplicate]:
    """Find pairs of clips in different splits that show the same, and warn of them."""
    found = near_duplicates(dataset, caches)
    if found:
        more = len(found) - NAMED_IN_WARNING
        logger.warning(
            "%d pairs of clips in different splits show the same, so what is judged may have been "
            "seen in training: %s%s",
            len(found),
            "; ".join(map(str, found[:NAMED_IN_WARNING])),
            f"; and {more} more, all in {run.DUPLICATES}" if more > 0 else "",
        )
    return found


def write_duplicates(folder: Path, found: Sequence[NearDuplicate]) -> None:
    """Write the pairs into a RUN; without any there is no table."""
    if not found:
        (folder / run.DUPLICATES).unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for pair in found:
        writer.writerow(
            [
                *(pair.first, pair.first_split, pair.other, pair.other_split),
                *(f"{pair.difference:.3f}", "yes" if pair.mirrored else "no"),
            ]
        )
    atomic.write_text(folder / run.DUPLICATES, text.getvalue())


def read_duplicates(folder: Path) -> list[dict[str, str]]:
    """The pairs that a RUN tells of, by the names of the table's columns; none without a table."""
    try:
        text = (folder / run.DUPLICATES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.DictReader(io.StringIO(text, newline="")))
