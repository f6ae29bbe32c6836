"""Lists of clips to classify: CSV, JSON Lines or Parquet, read as they are asked for, never as a whole."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from lora_deploy import regular
from lora_deploy.clips.clip import Stretch
from lora_deploy.clips.records import seconds_of
from lora_deploy.errors import (
    AdapterColumnError,
    ClipError,
    InputListError,
    InputRowError,
)
from lora_deploy.extras import require

LIST_ENDINGS = (".csv", ".jsonl", ".parquet")

_TIMES = ("start", "end")
_OBEYED = ("path", *_TIMES)

_MOST_LINE_CHARACTERS = 1 << 20
_ROWS_AT_ONCE = 8192

Record = Mapping[str, object]


def is_list(name: str) -> bool:
    """Whether a name has the ending of a list; no video has."""
    return Path(name).suffix.lower() in LIST_ENDINGS


def check_list(source: Path) -> bool:
    """Whether a list has a row; what the first look shows to be no list is refused.

    Raises:
        InputListError: It can't be read, or has no column ``path``.
        AdapterColumnError: It has a column ``adapter``.
    """
    return next(_records(source), None) is not None


def has_times(source: Path) -> bool:
    """Whether a list has a column ``start`` or ``end``, be it empty.

    In JSON Lines any line may be the one that has it, so as many are read as it takes.
    """
    if source.suffix.lower() != ".jsonl":
        return any(column in _TIMES for column in _columns(source))
    with _text(source, newline="\n") as file:
        # Most lines need not be understood for this; a \u may write any letter.
        likely = (
            line for line in file if any(f'"{name}"' in line for name in _TIMES) or "\\u" in line
        )
        return any(name in _as_json(line) for line in likely for name in _TIMES)


def clips_of(source: Path) -> Iterator[tuple[str, Stretch | None]]:
    """Path, as the list has it, and part of the file, row by row.

    Raises:
        InputListError: As `check_list`.
        AdapterColumnError: As `check_list`.
        InputRowError: A row that can't be understood, named by its line.
    """
    for where, record in _records(source):
        yield _path(record, where), _stretch(record, where)


def _records(source: Path) -> Iterator[tuple[str, Record]]:
    """Where each row stands, for an error, and what it says."""
    match source.suffix.lower():
        case ".csv":
            return _csv_records(source)
        case ".jsonl":
            return _jsonl_records(source)
        case _:
            return _parquet_records(source)


def _csv_records(source: Path) -> Iterator[tuple[str, Record]]:
    with _text(source, newline="") as file:
        rows = csv.reader(_lines(file), strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            _check_columns(header, source)
            for row in rows:
                if len(row) > len(header):
                    raise InputRowError(
                        f"line {rows.line_num} of {source} has {len(row)} fields, and the first "
                        f"line names {len(header)}; a path with a comma in it needs quotes"
                    )
                if row:
                    yield f"line {rows.line_num} of {source}", dict(zip(header, row, strict=False))
        except csv.Error as error:
            raise InputRowError(f"line {rows.line_num} of {source} is no CSV: {error}") from None


def _jsonl_records(source: Path) -> Iterator[tuple[str, Record]]:
    with _text(source, newline="\n") as file:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            where = f"line {number} of {source}"
            record = _as_json(line)
            if not record:
                raise InputRowError(
                    f'{where} is no JSON object; one looks like {{"path": "a.mp4"}}'
                )
            _check_columns(record, where)
            yield where, record


def _as_json(line: str) -> dict[str, object]:
    """The object of a line; empty where there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _parquet_records(source: Path) -> Iterator[tuple[str, Record]]:
    with _parquet(source) as table:
        _check_columns(table.schema_arrow.names, source)
        columns = [name for name in _OBEYED if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number} of {source}", record


def _columns(source: Path) -> list[str]:
    """What a CSV's first line or a Parquet's schema names."""
    if source.suffix.lower() == ".parquet":
        with _parquet(source) as table:
            return [*table.schema_arrow.names]
    with _text(source, newline="") as file:
        try:
            return [name.strip() for name in next(csv.reader(_lines(file)), [])]
        except csv.Error:
            return []


@contextmanager
def _parquet(source: Path) -> Iterator[Any]:
    require("pyarrow", purpose="to read Parquet")
    import pyarrow
    import pyarrow.parquet

    with _opened(source) as file:
        try:
            yield pyarrow.parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            said = str(error).partition("\n")[0]
            raise InputListError(f"{source} can't be read as Parquet ({said})") from None


@contextmanager
def _text(source: Path, *, newline: str) -> Iterator[io.TextIOWrapper]:
    with _opened(source) as file:
        if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputListError(f"{source} is UTF-16, not UTF-8")
        # A name need not be UTF-8, and a tool that wrote the list may have taken it as it was.
        yield io.TextIOWrapper(
            file, encoding="utf-8-sig", errors="surrogateescape", newline=newline
        )


@contextmanager
def _opened(source: Path) -> Iterator["io.BufferedReader[FileIO]"]:
    try:
        file = io.BufferedReader(regular.opened(source))
    except OSError as error:
        raise InputListError(f"the list {source} can't be read ({error.strerror})") from None
    with file:
        yield file


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    """Its lines; one that never ends fills no memory, and is cut where no row goes on."""
    while line := file.readline(_MOST_LINE_CHARACTERS):
        yield line


def _check_columns(names: Iterable[str], where: object) -> None:
    """Of a list, or of one line of JSON Lines."""
    names = [*names]
    if "adapter" in names:
        raise AdapterColumnError(f"{where} names an adapter, which a list can't choose yet")
    if "path" not in names:
        found = ", ".join(names) or "nothing"
        raise InputListError(f"{where} names no path, only {found[:200]}")


def _path(record: Record, where: str) -> str:
    value = record.get("path")
    if isinstance(value, bytes):
        value = os.fsdecode(value)  # what Parquet can hold of a name that is no UTF-8
    if not isinstance(value, str):
        raise InputRowError(f"{where} has the path {value!r}; it must be a text")
    try:
        is_name = value and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise InputRowError(f"{where} has the path {value!r}, which no file can be called")
    return value


def _stretch(record: Record, where: str) -> Stretch | None:
    start_seconds, end_seconds = (_seconds(record, column, where) for column in _TIMES)
    if start_seconds is None and end_seconds is None:
        return None
    try:
        return Stretch(start_seconds or 0.0, end_seconds)
    except ClipError as error:
        raise InputRowError(f"{where}: {error}") from None


def _seconds(record: Record, column: str, where: str) -> float | None:
    value = record.get(column)
    try:
        return seconds_of(value)
    except ValueError:
        raise InputRowError(
            f"{where} has the {column} {value!r}; it must be a number of seconds"
        ) from None
