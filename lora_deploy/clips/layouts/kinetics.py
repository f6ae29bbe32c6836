"""Kinetics: CSV files of label, youtube_id, time_start, time_end and split; downloads are never complete.

https://github.com/cvdfoundation/kinetics-dataset. A clip lies as ``ID_000010_000020.mp4``, cut, or
as ``ID.mp4``, the whole video, of which the stretch is then taken without cutting it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.layouts.groups import kept_to_splits
from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.places import annotations, read_text, videos_by_stem
from lora_deploy.clips.records import csv_records, header_of
from lora_deploy.clips.rows import SPLIT_WORDS, Row, first_few
from lora_deploy.errors import AnnotationError, ClipError, ClipsMissingError

logger = logging.getLogger(__name__)

_COLUMNS = {"youtube_id", "time_start", "time_end"}
_WORDS = {**SPLIT_WORDS, "validate": SPLIT_WORDS["val"]}


def _tables(source: Path) -> list[Path]:
    return annotations(source, "*.csv", lambda path: set(header_of(path)) >= _COLUMNS)


def _fits(source: Path) -> bool:
    return bool(_tables(source))


def _read(source: Path, asked: Asked) -> list[Row]:
    tables = _tables(source)
    videos = videos_by_stem(source, tables[0])
    rows, missing = [], []
    for table in tables:
        for line, record in csv_records(read_text(table)):
            if not _text(record, "label"):
                continue  # the published lists to test on
            row = _row(record, f"line {line} of {table}", table, videos)
            if row is not None:
                rows.append(row)
            else:
                missing.append(_text(record, "youtube_id"))
    if missing and not rows:
        raise ClipsMissingError(
            f"none of the {len(missing)} clips of {source} is there; looked for "
            f"{missing[0]}_START_END and {missing[0]}, with six digits each and any ending of a video"
        )
    if missing:
        logger.warning(
            "%d of %d clips of %s are not there and are left out: %s",
            len(missing), len(missing) + len(rows), source, first_few(missing),
        )  # fmt: skip
    return kept_to_splits(_trainable(rows) if asked.needs_train else rows)


def _row(
    record: Mapping[object, object], where: str, table: Path, videos: Mapping[str, Path]
) -> Row | None:
    """One clip; None where its video is not there."""
    video_id = _text(record, "youtube_id")
    word = _text(record, "split") or table.stem.rpartition("_")[2]
    if not video_id or (_text(record, "split") and word.lower() not in _WORDS):
        raise AnnotationError(
            f"{where} has the youtube_id {video_id!r} and the split {word!r}; looked for an id, and "
            f"one of {', '.join(_WORDS)}"
        )
    split = _WORDS.get(word.lower())
    try:
        start, end = (float(_text(record, name)) for name in ("time_start", "time_end"))
        stretch = Stretch(start, end)
    except (ValueError, ClipError):
        raise AnnotationError(
            f"{where} has a time that is no number of seconds, or an end before its start"
        ) from None
    label = _text(record, "label")
    cut = videos.get(f"{video_id}_{int(start):06d}_{int(end):06d}")
    if cut is not None:
        return Row(cut, label, split, video_id)
    whole = videos.get(video_id)
    return Row(whole, label, split, video_id, stretch) if whole is not None else None


def _text(record: Mapping[object, object], column: str) -> str:
    return str(record.get(column) or "").strip()


def _trainable(rows: Sequence[Row]) -> list[Row]:
    """Without classes of which the download has clips to judge by and none to train on."""
    if not any(row.split == "train" for row in rows):
        return list(rows)
    trained = {row.label for row in rows if row.split in ("train", None)}
    lost = sorted({row.label for row in rows} - trained)
    if lost:
        logger.warning("left out, as no train clip of it is there: %s", first_few(lost))
    return [row for row in rows if row.label in trained]


KINETICS = Layout(
    "kinetics",
    "CSV files whose first line names label, youtube_id, time_start and time_end, in it or in a "
    "folder of it, such as annotations",
    _fits,
    _read,
)
