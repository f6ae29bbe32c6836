"""What `classify` says of one clip, and the files that rows are written to."""

import csv
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lora_deploy import atomic
from lora_deploy.errors import ClipErrorKind, OutputPlaceError
from lora_deploy.extras import require

ENDINGS = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One clip: its answer, or why there is none."""

    path: str
    """As it was given."""
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

    def as_json(self) -> str:
        """One line of JSON Lines."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def as_dict(self) -> dict[str, Any]:
        """The columns in order; ``error`` is an object with ``kind`` and ``message``, or None."""
        values = asdict(self)
        kind = values.pop("error_kind")
        message = values.pop("error")
        model = values.pop("model")
        values["top_k"] = [[label, score] for label, score in self.top_k]
        values["error"] = {"kind": kind, "message": message} if kind else None
        return {**values, "model": model}


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


def write_rows(rows: Sequence[Row], out: Path) -> None:
    """Write rows in the format of the ending; the file appears whole or not at all."""
    check_ending(out)
    with atomic.replacing(out) as partial:
        match out.suffix.lower():
            case ".jsonl":
                partial.write_text("".join(row.as_json() + "\n" for row in rows), encoding="utf-8")
            case ".csv":
                _write_csv(rows, partial)
            case _:
                _write_parquet(rows, partial)


def _write_csv(rows: Iterable[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = row.as_dict()
            for name in ("top_k", "error"):
                values[name] = json.dumps(values[name], ensure_ascii=False) if values[name] else ""
            writer.writerow(values)


def _write_parquet(rows: Iterable[Row], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    ranked = pyarrow.struct([("label", pyarrow.string()), ("score", pyarrow.float64())])
    fault = pyarrow.struct([("kind", pyarrow.string()), ("message", pyarrow.string())])
    schema = pyarrow.schema(
        [
            ("path", pyarrow.string()),
            ("status", pyarrow.string()),
            ("label", pyarrow.string()),
            ("score", pyarrow.float64()),
            ("top_k", pyarrow.list_(ranked)),
            ("duration_seconds", pyarrow.float64()),
            ("warning", pyarrow.string()),
            ("error", fault),
            ("model", pyarrow.string()),
        ]
    )
    values = [row.as_dict() for row in rows]
    for value in values:
        value["top_k"] = [{"label": label, "score": score} for label, score in value["top_k"]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values, schema=schema), path)


COLUMNS = (
    "path", "status", "label", "score", "top_k", "duration_seconds", "warning", "error", "model",
)  # fmt: skip
