"""Groups that a data set's own names tell: kept where a split is drawn, never held against its lists."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from lora_deploy.clips.rows import Row, Split, first_few

logger = logging.getLogger(__name__)


def kept_to_splits(rows: Sequence[Row]) -> list[Row]:
    """Rows whose groups lie in one split each.

    A published split is what others measure on, so it stands, and what it parts is told. The parts
    of a group within one split stay together still where validation clips are drawn from it.
    """
    splits_of: dict[str, set[Split | None]] = defaultdict(set)
    for row in rows:
        if row.group is not None:
            splits_of[row.group].add(row.split)
    parted = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if not parted:
        return list(rows)
    logger.warning(
        "the data's own lists part %d of %d groups, so what is tested may have been seen in "
        "training: %s", len(parted), len(splits_of), first_few(parted),
    )  # fmt: skip
    of_split = set(parted)
    return [
        replace(row, group=f"{row.group} ({row.split})") if row.group in of_split else row
        for row in rows
    ]
