"""The table as text, CSV, Markdown and a page; figures in CSV are plain numbers, their unit in the name."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_deploy import atomic
from lora_deploy.compare import wording
from lora_deploy.compare.page import comparison_html
from lora_deploy.compare.result import BaselineRow, Comparison, FailedRow, MethodRow

Table = list[list[str]]


def keep(found: Comparison, out: Path) -> list[Path]:
    """Write ``comparison`` with the endings json, csv, md and html.

    Returns:
        The files.
    """
    documents = {
        "json": found.model_dump_json(indent=1) + "\n",
        "csv": as_csv(found),
        "md": as_markdown(found),
        "html": comparison_html(found),
    }
    for ending, text in documents.items():
        atomic.write_text(out / f"comparison.{ending}", text)
    return [out / f"comparison.{ending}" for ending in documents]


def as_text(found: Comparison) -> str:
    """For a terminal: what it costs, how often it is right, and what that says."""
    lines = [
        *_aligned([wording.cost_header(found), *map(wording.cost_cells, found.methods)]),
        "",
        *_aligned(
            [
                wording.accuracy_header(found),
                *(wording.accuracy_cells(row, found) for row in wording.rows(found)),
            ]
        ),
        "",
        *wording.verdicts(found),
        *(f"note: {text}" for text in found.notes),
        *(f"failed: {text}" for text in found.failures),
    ]
    return "\n".join(lines)


def _aligned(table: Table) -> Iterator[str]:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join([first, *others]).rstrip()


def as_markdown(found: Comparison) -> str:
    """One table, and under it how it was measured."""
    header = wording.header(found)
    lines = [_markdown_line(header), _markdown_line(["---"] * len(header))]
    lines += [_markdown_line(wording.cells(row, found)) for row in wording.rows(found)]
    told = [*wording.verdicts(found), *found.notes, *found.failures, *wording.circumstances(found)]
    lines += ["", *(f"- {_sentence(text)}" for text in told)]
    return "\n".join(lines) + "\n"


def _markdown_line(line: list[str]) -> str:
    return f"| {' | '.join(_escaped(cell) for cell in line)} |"


def _escaped(text: str) -> str:
    """Names of recipes and sets are anybody's words."""
    text = text.replace("\n", " ")
    return "".join(f"\\{sign}" if sign in "\\|`*_<>[]" else sign for sign in text)


def _sentence(text: str) -> str:
    return f"{_escaped(text)}."


def as_csv(found: Comparison) -> str:
    """A line a method."""
    text = io.StringIO()
    names = list(found.sets)
    lines = [_csv_line(row, names) for row in wording.rows(found)]
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(row: MethodRow | BaselineRow | FailedRow, sets: list[str]) -> dict[str, Any]:
    trained = row if isinstance(row, MethodRow) else None
    line: dict[str, Any] = {
        "method": row.name,
        "learning_rate": wording.rates(trained) if trained else "",
        "trainable_parameters": trained.trainable_parameters if trained else "",
        "total_parameters": trained.total_parameters if trained else "",
        "peak_memory_bytes": trained.peak_memory_bytes if trained else "",
        "memory_of": trained.memory_of if trained else "",
        "checkpoint_bytes": trained.checkpoint_bytes if trained else "",
        "adapter_bytes": trained.adapter_bytes if trained else "",
    }
    for name in ("seconds_per_epoch", "seconds_to_best", "epochs", "epochs_to_best"):
        value = getattr(trained, name) if trained else None
        line[name] = value.mean if value else ""
        line[f"{name}_sd"] = value.spread if value else ""
    accuracies = {} if isinstance(row, FailedRow) else row.accuracy
    for name in sets:
        found = accuracies.get(name)
        line[f"{name}_accuracy"] = found.mean if found else ""
        line[f"{name}_accuracy_sd"] = found.spread if found else ""
        line[f"{name}_low_95"] = found.interval_95[0] if found else ""
        line[f"{name}_high_95"] = found.interval_95[1] if found else ""
        line[f"{name}_clips"] = found.clips if found else ""
    line["trainings"] = trained.trainings if trained else ""
    line["failures"] = "" if isinstance(row, BaselineRow) else "; ".join(row.failures)
    return line
