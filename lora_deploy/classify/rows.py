"""What `classify` says of one clip, and the files that rows are written to, one row at a time."""

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lora_deploy import atomic
from lora_deploy.errors import ClipErrorKind, OutputPlaceError
from lora_deploy.extras import require

ENDINGS = (".jsonl", ".csv", ".parquet")

COLUMNS = (
    "path", "status", "label", "score", "top_k", "duration_seconds", "warning", "error", "model",
)  # fmt: skip

TIMES = ("start", "end")
"""Stand behind ``path`` where the inputs of a run had times."""

ROWS_PER_GROUP = 8192
"""Of a Parquet file: what of it is in memory at once, and always the same, so its bytes are too."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One clip: its answer, or why there is none."""

    path: str
    """As it was given."""
    start: float | None = None
    """Where in the file the clip begins, in seconds, where that was given."""
    end: float | None = None
    status: Literal["ok", "error"]
    label: str | None
    score: float | None
    """Probability of ``label``, 0 to 1."""
    top_k: tuple[tuple[str, float], ...]
    duration_seconds: float | None
    warning: str | None
    error_kind: ClipErrorKind | None
    error: str | None
    model: str
    """Digest of the model that answered."""

    def as_json(self, *, timed: bool = False) -> str:
        """One line of JSON Lines."""
        return json.dumps(self.as_dict(timed=timed), ensure_ascii=False)

    def as_dict(self, *, timed: bool = False) -> dict[str, Any]:
        """The columns in order; ``error`` is an object with ``kind`` and ``message``, or None.

        ``timed`` is whether `TIMES` are among them: a matter of the whole run, not of one row.
        """
        values = asdict(self)
        kind = values.pop("error_kind")
        message = values.pop("error")
        model = values.pop("model")
        if not timed:
            for name in TIMES:
                del values[name]
        values["top_k"] = [[label, score] for label, score in self.top_k]
        values["error"] = {"kind": kind, "message": message} if kind else None
        return {**values, "model": model}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Row":
        """What `as_dict` told, as a row again, equal to the last bit.

        Raises:
            ValueError: It is no row.
        """
        try:
            told = dict(values)
            error = told.pop("error") or {}
            top_k = tuple((label, score) for label, score in told.pop("top_k"))
            return cls(
                **told, top_k=top_k, error_kind=error.get("kind"), error=error.get("message")
            )
        except (TypeError, KeyError, AttributeError) as wrong:
            raise ValueError(f"this is no row: {wrong}") from None


def columns(timed: bool) -> tuple[str, ...]:
    """Of the rows of a run whose inputs had times, or had none."""
    return (COLUMNS[0], *TIMES, *COLUMNS[1:]) if timed else COLUMNS


def printable(path: str) -> str:
    """The path as it was given; bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def check_ending(out: Path) -> None:
    """Refuse an output whose format can't be told from its ending, before any work.

    Raises:
        OutputPlaceError: The ending is none of `ENDINGS`, or its folder is missing.
    """
    if out.suffix.lower() not in ENDINGS:
        raise OutputPlaceError(
            f"{out} ends in {out.suffix or 'nothing'!r}; allowed: {', '.join(ENDINGS)}"
        )
    if out.suffix.lower() == ".parquet":
        require("pyarrow", purpose="to write Parquet")
    if not out.parent.is_dir():
        raise OutputPlaceError(f"the folder {out.parent} does not exist")
    if out.is_dir():
        raise OutputPlaceError(f"{out} is a folder")
    with tempfile.TemporaryFile(dir=out.parent):
        pass  # fails now, and not after hours of work, where nothing can be written


def write_rows(rows: Iterable[Row], out: Path, *, timed: bool = False) -> None:
    """Write rows in the format of the ending; the file appears whole or not at all.

    However many there are, a few are in memory at once.
    """
    check_ending(out)
    with atomic.replacing(out) as partial:
        match out.suffix.lower():
            case ".jsonl":
                with partial.open("w", encoding="utf-8") as file:
                    file.writelines(row.as_json(timed=timed) + "\n" for row in rows)
            case ".csv":
                _write_csv(rows, partial, timed)
            case _:
                _write_parquet(rows, partial, timed)


def _write_csv(rows: Iterable[Row], path: Path, timed: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns(timed), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = row.as_dict(timed=timed)
            for name in ("top_k", "error"):
                values[name] = json.dumps(values[name], ensure_ascii=False) if values[name] else ""
            writer.writerow(values)


def _write_parquet(rows: Iterable[Row], path: Path, timed: bool) -> None:
    import pyarrow
    import pyarrow.parquet

    ranked = pyarrow.struct([("label", pyarrow.string()), ("score", pyarrow.float64())])
    fault = pyarrow.struct([("kind", pyarrow.string()), ("message", pyarrow.string())])
    kinds = {
        "start": pyarrow.float64(),
        "end": pyarrow.float64(),
        "score": pyarrow.float64(),
        "duration_seconds": pyarrow.float64(),
        "top_k": pyarrow.list_(ranked),
        "error": fault,
    }
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns(timed)])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for group in _groups(rows):
            values = [row.as_dict(timed=timed) for row in group]
            for value in values:
                value["top_k"] = [
                    {"label": label, "score": score} for label, score in value["top_k"]
                ]
            writer.write_table(pyarrow.Table.from_pylist(values, schema=schema))


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while group := list(islice(remaining, ROWS_PER_GROUP)):
        yield group
