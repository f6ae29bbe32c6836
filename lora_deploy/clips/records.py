"""Tables as text: rows of a CSV by its header, objects of JSON Lines, and what the first line says."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_deploy.errors import ManifestRowError

_HEADER_BYTES = 1 << 16


def csv_records(text: str) -> Iterator[tuple[int, Mapping[object, object]]]:
    """The rows of a CSV by its header, each with its line.

    Raises:
        ManifestRowError: A line that is no CSV.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise ManifestRowError(
            f"line {reader.reader.line_num} of the manifest is no CSV: {error}"
        ) from None


def jsonl_records(text: str) -> Iterator[tuple[int, Mapping[object, object]]]:
    """The objects of JSON Lines, each with its line; blank lines are passed over.

    Raises:
        ManifestRowError: A line that is no JSON object.
    """
    # Split at newlines only: JSON may hold other line separators inside of a string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ManifestRowError(
                f"line {line} of the manifest is no JSON object; "
                'one looks like {"path": "a.mp4", "label": "wave"}'
            )
        yield line, record


def seconds_of(value: object) -> float | None:
    """What a table says of a time; None where it says nothing.

    Raises:
        ValueError: It is no number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is no number of seconds")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number of so many digits is no time") from None


def first_line(path: Path) -> str:
    """The beginning of a file, to see what it is; empty where it is no text."""
    try:
        with path.open("rb") as file:
            return file.readline(_HEADER_BYTES).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def header_of(path: Path) -> list[str]:
    """The columns that the first line of a CSV names."""
    try:
        return [name.strip() for name in next(csv.reader([first_line(path)]), [])]
    except csv.Error:
        return []
