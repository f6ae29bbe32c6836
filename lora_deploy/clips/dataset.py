"""Which clip has which label and belongs to which split: folders and manifests, no decoding."""

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_deploy.clips.splits import Row, assign_splits
from lora_deploy.clips.splits import Split as Split
from lora_deploy.errors import (
    ClipsMissingError,
    ContradictingRowsError,
    EmptyClassError,
    EmptySplitError,
    FileNameError,
    FolderLayoutError,
    GroupInTwoSplitsError,
    ManifestFileError,
    ManifestRowError,
    NoSuchDataError,
    NoVideosError,
    SettingValueError,
    SplitsNotNamedError,
    TooFewClassesError,
    UntrainedClassError,
)

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = frozenset(
    {
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogg",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    }
)
"""Endings, in lower case, by which a folder is searched for videos."""

SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What a folder or a manifest may call a split."""

_NAMED_IN_ERRORS = 3


@dataclass(frozen=True)
class LabelledClip:
    """One video file of a data set."""

    path: Path
    label: str
    split: Split
    group: str | None
    """Clips of one group (a person, a scene, a recording) are never parted; None: on its own."""


@dataclass(frozen=True)
class ClipDataset:
    """Labelled clips, each in one split."""

    clips: tuple[LabelledClip, ...]
    labels: tuple[str, ...]
    """The labels of all splits, sorted; each has at least one clip to train on."""

    def of(self, split: Split) -> tuple[LabelledClip, ...]:
        """The clips of one split, in the order of the data set."""
        return tuple(clip for clip in self.clips if clip.split == split)


def find_videos(folder: Path) -> list[Path]:
    """All files under ``folder`` with a video ending, sorted; hidden files and folders are skipped."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=_tell_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_ENDINGS
        ]
    return sorted(path for path in found if path.is_file())


def _tell_unreadable(error: OSError) -> None:
    logger.warning("passed over: the folder %s can't be read (%s)", error.filename, error.strerror)


def read_dataset(
    source: Path, *, val_fraction: float, test_fraction: float, seed: int
) -> ClipDataset:
    """Read a labelled data set and give every clip a split.

    Args:
        source: A folder with a folder per class; or one with ``train``, ``val`` and ``test``
            folders, each with a folder per class; or a manifest, ``.csv`` or ``.jsonl``, with
            ``path``, ``label`` and, if wanted, ``split`` and ``group``, where paths are
            absolute or count from the manifest's folder.
        val_fraction: Part of the clips that becomes ``val`` where the source names no split.
            Where all splits are named but ``val``, that part of ``train`` becomes ``val``.
        test_fraction: The same for ``test``, among the clips that have no split, if none is named.
        seed: Decides which clips; the same seed gives the same splits on any machine.

    Raises:
        DataError: The source does not hold labelled clips of at least two classes, or its
            splits share a file or a group; named by what is wrong.
        SettingValueError: The fractions leave nothing to train on.
    """
    _check_fractions(val_fraction, test_fraction)
    rows = _read_rows(source, needs_train=True)
    _check_exist(rows, source)
    _check_groups(rows)
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) < 2:
        raise TooFewClassesError(
            f"{source} holds only one class, {labels[0]}; at least two are needed"
        )
    splits = assign_splits(rows, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    clips = tuple(
        LabelledClip(row.path, row.label, split, row.group)
        for row, split in zip(rows, splits, strict=True)
    )
    trained = {clip.label for clip in clips if clip.split == "train"}
    untrained = [label for label in labels if label not in trained]
    if untrained:
        raise UntrainedClassError(
            f"no train clip shows {_first_few(untrained)}; every class needs at least one in train"
        )
    return ClipDataset(clips=clips, labels=labels)


def read_split(
    source: Path, split: Split | Literal["all"], *, must_exist: bool = True
) -> tuple[LabelledClip, ...]:
    """Read the labelled clips that a model is to be judged on; nothing is drawn at random.

    Args:
        source: As `read_dataset`; one class and no train clips will do.
        split: A split that the source names, or ``all``. Of clips without one, ``test`` is told.
        must_exist: Whether a manifest may name files that are not there.

    Raises:
        DataError: The source holds no labelled clips, or none in that split.
    """
    rows = _read_rows(source, needs_train=False)
    if split != "all" and not any(row.split for row in rows):
        raise SplitsNotNamedError(
            f"{source} names no splits, so clips that the model learned from can't be told from "
            "others"
        )
    clips = tuple(
        LabelledClip(row.path, row.label, row.split or "test", row.group)
        for row in rows
        if split in ("all", row.split)
    )
    if not clips:
        named = ", ".join(sorted({row.split for row in rows if row.split}))
        raise EmptySplitError(f"{source} has no clips in the split {split}; it has: {named}")
    if must_exist:
        _check_exist(clips, source)
    return clips


def _check_exist(clips: Sequence[Row | LabelledClip], source: Path) -> None:
    missing = [str(clip.path) for clip in clips if not clip.path.is_file()]
    if missing:
        raise ClipsMissingError(
            f"{len(missing)} of {len(clips)} files of {source} do not exist: {_first_few(missing)}"
        )


def _read_rows(source: Path, *, needs_train: bool) -> list[Row]:
    if source.is_dir():
        rows = _read_folder(source, needs_train=needs_train)
    elif source.is_file():
        rows = _read_manifest(source)
    else:
        raise NoSuchDataError(f"there is nothing at {source}")
    if not rows:
        raise NoVideosError(f"no videos are in {source}; known endings are {_known_endings()}")
    for row in rows:
        try:
            f"{row.path}{row.label}".encode()
        except UnicodeEncodeError:
            raise FileNameError(f"the name {os.fsencode(row.path)!r} is not UTF-8") from None
    return _without_repeats(rows)


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise SettingValueError(
            f"data.val_fraction {val_fraction} and data.test_fraction {test_fraction} leave nothing "
            "to train on; allowed: each at least 0, and their sum below 1"
        )


# Folders


def _read_folder(source: Path, *, needs_train: bool) -> list[Row]:
    parts = [folder for folder in _visible_folders(source) if find_videos(folder)]
    splits = {folder: SPLIT_WORDS.get(folder.name.lower()) for folder in parts}
    has_splits = any(
        (split == "train" or (split and not needs_train and all(splits.values())))
        and any(find_videos(inner) for inner in _visible_folders(folder))
        for folder, split in splits.items()
    )
    if not has_splits:
        return _read_class_folders(source, None)
    strangers = [folder.name for folder, split in splits.items() if split is None]
    if strangers:
        raise FolderLayoutError(
            f"{source} holds folders of splits beside {_first_few(strangers)}; allowed beside them "
            f"are only {_allowed_splits()}"
        )
    return [row for folder in parts for row in _read_class_folders(folder, splits[folder])]


def _read_class_folders(source: Path, split: Split | None) -> list[Row]:
    loose = [path.name for path in find_videos(source) if path.parent == source]
    if loose:
        raise FolderLayoutError(
            f"{source} holds videos outside of any class folder ({_first_few(loose)})"
        )
    rows = []
    folders = _visible_folders(source)
    for folder in folders:
        rows += [Row(path, folder.name.strip(), split, None) for path in find_videos(folder)]
    empty = sorted({folder.name.strip() for folder in folders} - {row.label for row in rows})
    if rows and empty:
        raise EmptyClassError(
            f"no videos are in the class folder {_first_few(empty)} of {source} "
            f"(known endings are {_known_endings()})"
        )
    return rows


def _visible_folders(source: Path) -> list[Path]:
    return sorted(
        path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


# Manifests


def _read_manifest(manifest: Path) -> list[Row]:
    ending = manifest.suffix.lower()
    if ending not in (".csv", ".jsonl"):
        raise ManifestFileError(
            f"a manifest can't end in {ending or manifest.name!r}; allowed are .csv and .jsonl"
        )
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise ManifestFileError(f"the manifest {manifest} can't be read as UTF-8 text") from None
    records = _csv_records(text) if ending == ".csv" else _jsonl_records(text)
    return [_row_of(record, line, manifest.parent) for line, record in records]


def _csv_records(text: str) -> Iterator[tuple[int, Mapping[object, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            yield reader.line_num, record
    except csv.Error as error:
        raise ManifestRowError(
            f"line {reader.reader.line_num} of the manifest is no CSV: {error}"
        ) from None


def _jsonl_records(text: str) -> Iterator[tuple[int, Mapping[object, object]]]:
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
            f"line {line} of the manifest has the split {word!r}; allowed are {_allowed_splits()}"
        )
    return Row(
        path=folder / path,
        label=label,
        split=SPLIT_WORDS[word.lower()] if word else None,
        group=_text(record, "group", line) or None,
    )


def _text(record: Mapping[object, object], column: str, line: int) -> str:
    value = record.get(column)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ManifestRowError(
            f"the {column} in line {line} of the manifest is {value!r}; it must be a text"
        )
    return str(value).strip()


# Checks across rows


def _without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Each file once, however it is spelled; rows that contradict each other are refused."""
    kept: dict[Path, Row] = {}
    for row in rows:
        first = kept.setdefault(row.path.resolve(), row)
        for what, one, other in (
            ("labels", first.label, row.label),
            ("splits", first.split, row.split),
            ("groups", first.group, row.group),
        ):
            if one != other:
                raise ContradictingRowsError(
                    f"the file {row.path} has two {what}, {one or 'none'} and {other or 'none'}"
                )
    return list(kept.values())


def _check_groups(rows: Iterable[Row]) -> None:
    split_of: dict[str, Split] = {}
    for row in rows:
        if row.group is None or row.split is None:
            continue
        if split_of.setdefault(row.group, row.split) != row.split:
            raise GroupInTwoSplitsError(
                f"the group {row.group} is in both {split_of[row.group]} and {row.split}, so what "
                "is tested was seen in training"
            )


# Wording


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_IN_ERRORS
    return ", ".join(names[:_NAMED_IN_ERRORS]) + (f" and {more} more" if more > 0 else "")


def _allowed_splits() -> str:
    return ", ".join(SPLIT_WORDS)


def _known_endings() -> str:
    return " ".join(sorted(VIDEO_ENDINGS))
