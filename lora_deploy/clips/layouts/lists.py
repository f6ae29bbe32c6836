"""Lists of a path and a label a line, with a comma or a space between: MMAction2, VideoMAE and many others.

Between the two may stand a number of frames, as in lists of frame folders. Labels are names, or
numbers for which a file beside the list may give names.
"""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_deploy.clips.layouts.layout import Asked, Layout
from lora_deploy.clips.layouts.places import annotations, lines_of, root_of
from lora_deploy.clips.records import header_of
from lora_deploy.clips.rows import SPLIT_WORDS, Row, Split
from lora_deploy.errors import AnnotationError

PLAIN_LISTS = (".txt", ".lst", ".list")
"""Endings of files that can be nothing but lists."""

_ENDINGS = (*PLAIN_LISTS, ".csv")
_CLASS_NAMES = ("label_map*.txt", "labels.txt", "classes.txt", "class_names.txt")

Fields = tuple[str, str]
"""Path and label, as they stand there."""


@dataclass(frozen=True)
class _List:
    """One list, read."""

    path: Path
    split: Split | None
    lines: Sequence[tuple[int, str]]
    """Number and text."""
    fields_of: Callable[[str], Fields | None]
    """How a line is taken apart."""
    root: Path
    """From where its paths count."""
    is_there: bool
    """Whether one of its first clips is."""


def _fits(source: Path) -> bool:
    if source.is_file():
        return _may_be_list(source) and _open(source).is_there
    lists = _lists(source)
    return bool(lists) and all(_open(path).is_there for path in lists)


def _read(source: Path, asked: Asked) -> list[Row]:
    del asked
    lists = [source] if source.is_file() else _lists(source)
    splits = [_split_of(path) for path in lists]
    for split in set(splits):
        named = [path.name for path, one in zip(lists, splits, strict=True) if one == split]
        if len(named) > 1:
            raise AnnotationError(
                f"{source} holds several lists of the split {split}, {' and '.join(named)}; put "
                "those that belong together into a folder of their own"
            )
    return [row for path in lists for row in _rows(_open(path))]


def _may_be_list(path: Path) -> bool:
    """Not a table with a header, for which there are better readers."""
    return path.suffix.lower() in _ENDINGS and "label" not in header_of(path)


def _lists(folder: Path) -> list[Path]:
    """Lists whose names tell a split."""
    found = [
        path for ending in _ENDINGS for path in annotations(folder, f"*{ending}", _may_be_list)
    ]
    return [path for path in found if _split_of(path) is not None]


def _split_of(path: Path) -> Split | None:
    """What a list's name says: train.csv, ucf101_val_split_1_videos.txt, testlist01.txt."""
    words = [word.removesuffix("list") for word in re.split(r"[^a-z]+", path.stem.lower())]
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def _open(path: Path) -> _List:
    """Find out how lines are to be taken apart: so that a file of that name is there."""
    try:
        lines = list(lines_of(path))
    except AnnotationError:
        lines = []
    for fields_of in (_by_comma, _by_space, _by_spaces):
        names = [fields[0] for _, text in lines if (fields := fields_of(text)) is not None]
        root = root_of(path.parent, path, names)
        if any((root / name).exists() for name in names[:20]):
            return _List(path, _split_of(path), lines, fields_of, root, is_there=True)
    usual = _by_comma if lines and _by_comma(lines[0][1]) else _by_space
    return _List(path, _split_of(path), lines, usual, path.parent, is_there=False)


def _by_comma(text: str) -> Fields | None:
    try:
        return _fields([field.strip() for field in next(csv.reader([text]), [])])
    except csv.Error:
        return None


def _by_space(text: str) -> Fields | None:
    """A path may have spaces in it, a label not."""
    return _fields([field.strip() for field in text.rsplit(None, 1)])


def _by_spaces(text: str) -> Fields | None:
    """With a number of frames between path and label."""
    return _fields([field.strip() for field in text.rsplit(None, 2)])


def _fields(fields: Sequence[str]) -> Fields | None:
    if len(fields) not in (2, 3) or (len(fields) == 3 and not fields[1].isdigit()):
        return None
    return (fields[0], fields[-1]) if fields[0] and fields[-1] else None


def _rows(found: _List) -> list[Row]:
    rows = []
    for line, text in found.lines:
        fields = found.fields_of(text)
        if fields is None:
            raise AnnotationError(
                f"line {line} of {found.path} is {text!r}; looked for a path and a label with a "
                "comma or space between them"
            )
        rows.append(Row(found.root / fields[0], fields[1], found.split, None))
    if all(row.label.isdigit() for row in rows):
        names = _class_names(found.path.parent)
        if lacking := sorted({row.label for row in rows} - names.keys()) if names else []:
            raise AnnotationError(
                f"{found.path} has the label {lacking[0]}, for which the list of class names beside "
                "it has no line"
            )
        rows = [replace(row, label=names.get(row.label, row.label)) for row in rows]
    return rows


def _class_names(folder: Path) -> dict[str, str]:
    """Names by number: ``NUMBER NAME`` a line, or a name a line counted from zero; none without such a file.

    UCF101's classInd.txt is none of them: it counts from one, and most lists from zero.
    """
    files = [path for pattern in _CLASS_NAMES for path in sorted(folder.glob(pattern))]
    if not files:
        return {}
    if len(files) > 1:
        raise AnnotationError(
            f"{folder} holds several lists of class names, {' and '.join(path.name for path in files)}"
            "; keep the one that the numbers are of"
        )
    lines = [text for _, text in lines_of(files[0])]
    numbered = [re.match(r"(\d+)[\s,]+(\S.*)$", text) for text in lines]
    if all(numbered):
        return {found[1]: found[2].strip() for found in numbered if found}
    return {str(number): name for number, name in enumerate(lines)}


LISTS = Layout(
    "list",
    "a .txt or .csv file of a path and a label a line with a comma or space between them, whose "
    "first clips are there, or a folder of such files with train, val or test in their names",
    _fits,
    _read,
)
