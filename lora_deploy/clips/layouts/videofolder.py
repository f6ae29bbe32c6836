"""Hugging Face's videofolder: a ``metadata.csv`` or ``metadata.jsonl`` of file_name and label in a folder.

https://huggingface.co/docs/datasets/video_dataset. Each folder may have one; what it names counts
from there. A split is named by a column, or by a folder called ``train``, ``validation`` or ``test``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_deploy.clips.folders import visible_folders
from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.places import read_text
from lora_deploy.clips.records import csv_records, header_of, jsonl_records
from lora_deploy.clips.rows import SPLIT_WORDS, Row, Split, allowed_splits
from lora_deploy.errors import AnnotationError

_NAMES = ("metadata.csv", "metadata.jsonl")


def _tables(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.name in _NAMES else []
    folders = (source, *visible_folders(source))
    return [folder / name for folder in folders for name in _NAMES if (folder / name).is_file()]


def _fits(source: Path) -> bool:
    # A name and a column of Hugging Face's own: of JSON Lines the name will do.
    return any(
        table.suffix == ".jsonl" or "file_name" in header_of(table) for table in _tables(source)
    )


def _read(source: Path, asked: Asked) -> list[Row]:
    del asked
    top = source.parent if source.is_file() else source
    return [
        _row(record, f"line {line} of {table}", table.parent, top)
        for table in _tables(source)
        for line, record in _records(table)
    ]


def _records(table: Path) -> Iterator[tuple[int, Mapping[object, object]]]:
    text = read_text(table)
    return csv_records(text) if table.suffix == ".csv" else jsonl_records(text)


def _row(record: Mapping[object, object], where: str, folder: Path, top: Path) -> Row:
    name, label = (_text(record, column) for column in ("file_name", "label"))
    if not name or not label:
        columns = ", ".join(str(column) for column in record if column is not None)
        raise AnnotationError(
            f"{where} lacks a file_name or a label; looked for both, and found the columns {columns}"
        )
    word = _text(record, "split").lower()
    if word and word not in SPLIT_WORDS:
        raise AnnotationError(f"{where} has the split {word!r}; allowed are {allowed_splits()}")
    path = folder / name
    split = SPLIT_WORDS[word] if word else _split_of_folders(path, top)
    return Row(path, label, split, _text(record, "group") or None)


def _split_of_folders(path: Path, top: Path) -> Split | None:
    """By the first folder below the data set's, or by that one's own name."""
    parts = path.relative_to(top).parts[:-1] if path.is_relative_to(top) else ()
    return SPLIT_WORDS.get((parts[0] if parts else top.name).lower())


def _text(record: Mapping[object, object], column: str) -> str:
    value = record.get(column)
    return "" if value is None or isinstance(value, list | dict) else str(value).strip()


VIDEOFOLDER = Layout(
    "videofolder",
    "metadata.csv or metadata.jsonl with the columns file_name and label, in it or in a folder of "
    "it, such as train",
    _fits,
    _read,
)
