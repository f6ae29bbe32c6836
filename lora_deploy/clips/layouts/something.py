"""Something-Something: JSON files of labels, of clips to train on and to validate on; videos by number.

https://www.qualcomm.com/developer/software/something-something-v-2-dataset. A clip's label is its
template without brackets; answers to the test clips are a CSV of their own, where they are there.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.places import annotations, lines_of, read_text, videos_by_stem
from lora_deploy.clips.rows import Row, Split
from lora_deploy.errors import AnnotationError

_LABELS = "*labels.json"
_LISTS: dict[str, Split] = {"*train.json": "train", "*validation.json": "val"}
_ANSWERS = "*test-answers.csv"


def _fits(source: Path) -> bool:
    if source.is_file() and source.suffix.lower() != ".json":
        return False
    folder = source.parent if source.is_file() else source
    return bool(annotations(folder, _LABELS) and any(annotations(folder, one) for one in _LISTS))


def _read(source: Path, asked: Asked) -> list[Row]:
    del asked
    folder = source.parent if source.is_file() else source
    named = annotations(folder, _LABELS)[0]
    labels = set(_json(named, dict))
    videos = videos_by_stem(folder, named)
    rows = []
    for number, label, split, where in _listed(folder):
        if label not in labels:
            raise AnnotationError(f"{where} has the label {label!r}, which {_LABELS} does not name")
        # One that is missing is told like any other file that is.
        rows.append(Row(videos.get(number, folder / f"{number}.webm"), label, split, None))
    return rows


def _listed(folder: Path) -> Iterator[tuple[str, str, Split, str]]:
    """Number, label and split of each clip, and where that stands."""
    for pattern, split in _LISTS.items():
        for path in annotations(folder, pattern):
            for at, entry in enumerate(_json(path, list), start=1):
                where = f"entry {at} of {path}"
                yield *_number_and_label(entry, where), split, where
    for path in annotations(folder, _ANSWERS):
        for line, text in lines_of(path):
            number, _, label = text.partition(";")
            yield number, label, "test", f"line {line} of {path}"


def _number_and_label(entry: Any, where: str) -> tuple[str, str]:
    if isinstance(entry, Mapping) and isinstance(entry.get("template"), str) and "id" in entry:
        return str(entry["id"]), entry["template"].replace("[", "").replace("]", "")
    raise AnnotationError(f"{where} has no id and template")


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(read_text(path))
    except ValueError:
        found = None
    if not isinstance(found, kind):
        raise AnnotationError(f"{path} holds no JSON {'object' if kind is dict else 'list'}")
    return found


SOMETHING = Layout(
    "something-something",
    "files whose names end in labels.json and in train.json or validation.json, in it or in a "
    "folder of it",
    _fits,
    _read,
)
