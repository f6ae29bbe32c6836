"""Manifests of our own, CSV and JSON Lines: a path and a label a row; split, group, start and end if known."""

import json
from collections.abc import Mapping
from pathlib import Path

from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.records import csv_records, first_line, header_of, jsonl_records, seconds_of
from lora_deploy.clips.rows import SPLIT_WORDS, Row, allowed_splits
from lora_deploy.errors import ClipError, ManifestFileError, ManifestRowError


def is_manifest(source: Path) -> bool:
    """Whether a file's first line names ``path`` and ``label``, in CSV or in JSON."""
    if not source.is_file():
        return False
    if source.suffix.lower() == ".csv":
        return {"path", "label"} <= set(header_of(source))
    if source.suffix.lower() != ".jsonl":
        return False
    try:
        record = json.loads(first_line(source))
    except ValueError:
        return False
    return isinstance(record, dict) and {"path", "label"} <= record.keys()


def read_manifest(manifest: Path) -> list[Row]:
    """The rows of a CSV or JSON Lines file, in its order.

    Raises:
        ManifestFileError: It has another ending, or is no text.
        ManifestRowError: A line that can't be understood.
    """
    ending = manifest.suffix.lower()
    if ending not in (".csv", ".jsonl"):
        raise ManifestFileError(
            f"a manifest can't end in {ending or manifest.name!r}; allowed are .csv and .jsonl"
        )
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ManifestFileError(f"the manifest {manifest} can't be read as UTF-8 text") from None
    records = csv_records(text) if ending == ".csv" else jsonl_records(text)
    return [_row_of(record, line, manifest.parent) for line, record in records]


def _row_of(record: Mapping[object, object], line: int, folder: Path) -> Row:
    missing = [column for column in ("path", "label") if column not in record]
    if missing:
        found = ", ".join(str(column) for column in record if column is not None)
        raise ManifestRowError(
            f"the manifest has no {' and no '.join(missing)} in line {line}, only {found}"
        )
    path, label = _text(record, "path", line), _text(record, "label", line)
    for column, value in (("path", path), ("label", label)):
        if not value:
            raise ManifestRowError(f"the {column} in line {line} of the manifest is empty")
    word = _text(record, "split", line)
    if word and word.lower() not in SPLIT_WORDS:
        raise ManifestRowError(
            f"line {line} of the manifest has the split {word!r}; allowed are {allowed_splits()}"
        )
    return Row(
        path=folder / path,
        label=label,
        split=SPLIT_WORDS[word.lower()] if word else None,
        group=_text(record, "group", line) or None,
        stretch=_stretch(record, line),
    )


def _stretch(record: Mapping[object, object], line: int) -> Stretch | None:
    start_seconds, end_seconds = _seconds(record, "start", line), _seconds(record, "end", line)
    if not start_seconds and end_seconds is None:
        return None
    try:
        return Stretch(start_seconds or 0.0, end_seconds)
    except ClipError as error:
        raise ManifestRowError(f"line {line} of the manifest: {error}") from None


def _seconds(record: Mapping[object, object], column: str, line: int) -> float | None:
    value = record.get(column)
    try:
        return seconds_of(value)
    except ValueError:
        raise ManifestRowError(
            f"the {column} in line {line} of the manifest is {value!r}; it must be a number of "
            "seconds"
        ) from None


def _text(record: Mapping[object, object], column: str, line: int) -> str:
    value = record.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ManifestRowError(
            f"the {column} in line {line} of the manifest is {value!r}; it must be a text"
        )
    return str(value).strip()
